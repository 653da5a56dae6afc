# The last hook of mmdebstrap: makes a bootable guest of the tree at $1.
#
# It runs behind common.sh, as root or as the root of a user namespace, within the same walls as mmdebstrap. mmdebstrap's own
# clean-up would come after this, too late, so it is switched off and done here.
set -eu
umask 022
root=$1

# --- What the guest needs besides its packages.
name_guest

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
why='# (Installing grub-pc in the guest puts that package in charge of this file and of the boot loader.)'
if [ "$GUEST_FIRMWARE" != bios ]; then
  why='# (At the next kernel, and whenever it is run, update-grub puts another one in its place.)'
fi
write_menu "$kernel" "${kernel%vmlinuz}initrd.img" "$why"
if [ "$GUEST_FIRMWARE" != bios ]; then
  put_loaders "$root" "$root" "$root/boot/efi"
  # What GRUB's packages have to know when a new version of them comes: nothing finds the loader but its path.
  printf '%s\n' 'grub-efi-amd64 grub2/force_efi_extra_removable boolean true' \
    'grub-efi-amd64 grub2/update_nvram boolean false' | chroot "$root" debconf-set-selections
  # Where this leads to something, grub-cloud-amd64 puts new versions in their places: in a system that runs. What works in one that
  # stands still may not write to all of the disk, and an upgrade would fail.
  if [ -d "$root/etc/grub.d" ]; then ln -s /run/systemd/system "$root/etc/grub.d/enable_cloud"; fi
fi

# For GRUB's own packages, should they ever be installed: the menu they make keeps the serial console.
mkdir -p "$root/etc/default/grub.d"
cat >"$root/etc/default/grub.d/50-serial.cfg" <<'DEFAULTS'
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
DEFAULTS
if [ "$GUEST_FIRMWARE" != bios ]; then
  # Those would be said to the GRUB of UEFI as well.
  sed -i -e '/^GRUB_SERIAL/d' -e 's/^GRUB_TERMINAL=.*/GRUB_TERMINAL=console/' "$root/etc/default/grub.d/50-serial.cfg"
  mkdir -p "$root/etc/grub.d"
  { printf '%s\n' '#!/bin/sh' "cat <<'MENU'"; menu_terminals; echo MENU; } >"$root/etc/grub.d/06_serial"
  chmod 755 "$root/etc/grub.d/06_serial"
fi

# --- What making it left behind. The two programs that kept services from starting are mmdebstrap's.
rm -f "$root/usr/sbin/policy-rc.d"
if [ -e "$root/sbin/start-stop-daemon.REAL" ]; then
  mv "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"
fi
rm -f "$root/etc/apt/apt.conf.d/00mmdebstrap"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin
rm -f "$root"/var/log/*.log "$root"/var/log/apt/* "$root/var/cache/ldconfig/aux-cache"
rm -f "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
forget_identity
