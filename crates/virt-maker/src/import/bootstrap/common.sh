# What the last acts of every bootstrap share: functions on the tree at $root. Everything that comes from a template
# arrives in variables (GUEST_...), never in this text.

# Names of the machine, and its file system. $name becomes what os-release calls the distribution.
name_guest() {
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
}

# write_menu KERNEL INITRD WHY [LINES [WORDS]]: the boot loader's menu, with WHY at its head, LINES before its entries, and
# WORDS at the end of a kernel's command line. The two files are links that somebody keeps up to date, so a new kernel
# needs no new menu.
write_menu() {
  mkdir -p "$root/boot/grub"
  cat >"$root/boot/grub/grub.cfg" <<GRUB
# Made with the image, and by no program again: edit it. It starts the kernel that $1 points to.
$3
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
set default=0
${4:+$4
}menuentry '${PRETTY_NAME:-Linux}' {
	linux $1 root=UUID=$GUEST_UUID ro console=tty0 console=ttyS0,115200${5:+ $5}
	initrd $2
}
if [ -e $1.old ]; then
menuentry '${PRETTY_NAME:-Linux}, the kernel before' {
	linux $1.old root=UUID=$GUEST_UUID ro console=tty0 console=ttyS0,115200${5:+ $5}
	initrd $2.old
}
fi
GRUB
}

# An empty machine-id is filled in at the first start; a clone must not have its own.
forget_identity() {
  : >"$root/etc/machine-id"
  rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
}

# mke2fs would follow what is mounted in the tree, so it gets another view of the tree: in a mount namespace of its own,
# without the mounts, and with folders over those that a running system fills by itself.
make_file_system() {
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
}
