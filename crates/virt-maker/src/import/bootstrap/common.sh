# What the last acts of every bootstrap share: functions on the tree at $root. Everything that comes from a template
# arrives in variables (GUEST_...), never in this text.

# A field of the guest's os-release, which is read and never run.
os_release() {
  if [ ! -f "$root/etc/os-release" ]; then
    echo 'E: the packages brought no /etc/os-release' >&2
    exit 1
  fi
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      "$1"=*) line=${line#*=} ;;
      *) continue ;;
    esac
    case $line in
      \"*\" | \'*\')
        line=${line#?}
        line=${line%?}
        ;;
    esac
    # What could end the text that it becomes a part of.
    printf '%s' "$line" | tr -d "\\000-\\037\\177'\"\\\\"
    return
  done <"$root/etc/os-release"
}

# Names of the machine, and its file system. $name becomes what os-release calls the distribution.
name_guest() {
  PRETTY_NAME=$(os_release PRETTY_NAME)
  name=$(os_release ID | tr -cd 'a-z0-9._-')
  name=${name:-linux}
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
$(menu_terminals)
# Esc within the second shows the menu; to draw it each time takes an emulated machine longer than that.
set timeout_style=hidden
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

# UEFI shows its console on the serial port by itself, and the GRUB that is signed for Secure Boot knows no serial port.
menu_terminals() {
  set -- 'serial --unit=0 --speed=115200' 'terminal_input console serial' 'terminal_output console serial'
  if [ "${GUEST_FIRMWARE:-bios}" = bios ]; then printf '%s\n' "$@"; return; fi
  echo 'if [ "$grub_platform" = pc ]; then'
  printf '%s\n' "$@"
  echo fi
}

# An empty machine-id is filled in at the first start; a clone must not have its own.
forget_identity() {
  : >"$root/etc/machine-id"
  rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
}
