# The last hook of mmdebstrap: makes a bootable guest of the tree at $1 and a file system of the tree.
#
# It runs where the tree has its owners: as root, or as the root of a user namespace. Everything that comes from a
# template arrives in variables (GUEST_...), never in this text. mmdebstrap's own clean-up would come after this, too
# late, so it is switched off and done here.
set -eu
umask 022
root=$1

# --- What the guest needs besides its packages.
. "$root/etc/os-release"
name=${ID:-linux}
printf '%s\n' "$name" >"$root/etc/hostname"
cat >"$root/etc/hosts" <<HOSTS
127.0.0.1 localhost
127.0.1.1 $name

::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
HOSTS
printf 'UUID=%s / ext4 errors=remount-ro 0 1\n' "$GUEST_UUID" >"$root/etc/fstab"

mkdir -p "$root/etc/systemd/network"
cat >"$root/etc/systemd/network/80-dhcp.network" <<NETWORK
# Every network card by DHCP, whatever it is called; not bridges and the like, which have a kind.
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
NETWORK
chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-resolved.service
# mmdebstrap put the host's file here.
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Packages may have come from the host's mirror, which is nobody else's business. Addresses with what `sed` could take
# for more than text were not used.
if [ -n "$GUEST_MIRROR_USED" ]; then
  echo "I: packages came from the host's mirror, $GUEST_MIRROR_USED" >&2
  for list in "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*; do
    if [ -e "$list" ]; then sed -i "s| $GUEST_MIRROR_USED | $GUEST_MIRROR |" "$list"; fi
  done
fi

# --- The boot loader's menu. Kernel packages keep the two links up to date, so a new kernel needs no new menu.
kernel=
for candidate in /vmlinuz /boot/vmlinuz; do
  if [ -L "$root$candidate" ] || [ -e "$root$candidate" ]; then kernel=$candidate; fi
done
if [ -z "$kernel" ]; then
  echo 'E: no package installed a kernel' >&2
  exit 1
fi
initrd=${kernel%vmlinuz}initrd.img
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<GRUB
# Made with the image, and by no program again: edit it. It starts the kernel that $kernel points to.
# (Installing grub-pc in the guest puts that package in charge of this file and of the boot loader.)
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
set default=0
menuentry '${PRETTY_NAME:-Linux}' {
	linux $kernel root=UUID=$GUEST_UUID ro console=tty0 console=ttyS0,115200
	initrd $initrd
}
if [ -e $kernel.old ]; then
menuentry '${PRETTY_NAME:-Linux}, the kernel before' {
	linux $kernel.old root=UUID=$GUEST_UUID ro console=tty0 console=ttyS0,115200
	initrd $initrd.old
}
fi
GRUB

# For GRUB's own packages, should they ever be installed: the menu they make keeps the serial console.
mkdir -p "$root/etc/default/grub.d"
cat >"$root/etc/default/grub.d/50-serial.cfg" <<'DEFAULTS'
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
DEFAULTS

# --- What making it left behind. The two programs that kept services from starting are mmdebstrap's.
rm -f "$root/usr/sbin/policy-rc.d"
if [ -e "$root/sbin/start-stop-daemon.REAL" ]; then
  mv "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"
fi
rm -f "$root/etc/apt/apt.conf.d/00mmdebstrap"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin
rm -f "$root"/var/log/*.log "$root"/var/log/apt/* "$root/var/cache/ldconfig/aux-cache"
rm -f "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
# An empty machine-id is filled in at the first start; a clone must not have its own.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"

# --- The file system. mke2fs would follow what is mounted in the tree, so it gets another view of the tree: in a mount
# namespace of its own, without the mounts, and with folders over those that a running system fills by itself.
export GUEST_TREE="$root"
exec unshare --mount --propagation private sh -eu -c '
  mount --bind "$GUEST_TREE" "$GUEST_VIEW"
  for folder in dev run tmp; do
    mode=755
    if [ $folder = tmp ]; then mode=1777; fi
    mount -t tmpfs -o "mode=$mode" tmpfs "$GUEST_VIEW/$folder"
  done
  exec mke2fs -q -F -t ext4 -b 4096 -I 256 -O "$GUEST_FEATURES" -U "$GUEST_UUID" \
    -E "offset=$GUEST_OFFSET,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard" \
    -d "$GUEST_VIEW" "$GUEST_IMAGE" "${GUEST_KIB}k"
'
