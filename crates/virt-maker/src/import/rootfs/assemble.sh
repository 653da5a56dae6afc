# Makes a file system of a root file system in a tar, with a kernel, a boot menu and an fstab. It runs as root, or as the
# root of a user namespace, where there is nothing but the tree and the two tars. Everything comes in variables (GUEST_...), never in this
# text. The tar was made by virt-maker: no member leads out, goes through a link or is a device.
umask 022
root=$GUEST_TREE
kernel_tree=/scratch/kernel
tar --extract --file "$GUEST_TAR" --directory "$root" --numeric-owner --same-owner --same-permissions \
  --xattrs '--xattrs-include=*'
if [ -n "$GUEST_KERNEL" ]; then
  mkdir "$kernel_tree"
  tar --extract --file "$GUEST_KERNEL" --directory "$kernel_tree" --no-same-owner
fi

# Writes nothing through a link of the tree: a folder or a file of that name that is none is replaced.
folder() {
  if [ -L "$root/$1" ] || { [ -e "$root/$1" ] && [ ! -d "$root/$1" ]; }; then
    echo "/$1 of the root file system is no folder" >&2
    exit 1
  fi
  [ -d "$root/$1" ] || mkdir "$root/$1"
}
put() {
  rm -rf "$root/$1"
  cat >"$root/$1"
}

# A container image has this, so that packages start no service. In a machine they have to.
policy=$root/usr/sbin/policy-rc.d
if [ ! -L "$root/usr" ] && [ ! -L "$root/usr/sbin" ] && [ ! -L "$policy" ] && [ -f "$policy" ] &&
  grep -qx '[[:space:]]*exit 101[[:space:]]*' "$policy"; then
  rm "$policy"
fi

for name in boot boot/grub etc dev proc run sys tmp; do folder $name; done
if [ -n "$GUEST_KERNEL" ]; then
  for file in "$kernel_tree"/boot/*; do
    put "boot/${file##*/}" <"$file"
    case ${file##*/} in
      vmlinuz-*) rm -rf "$root/boot/vmlinuz" && ln -s "${file##*/}" "$root/boot/vmlinuz" ;;
      initrd.img-*) rm -rf "$root/boot/initrd.img" && ln -s "${file##*/}" "$root/boot/initrd.img" ;;
    esac
  done
  if [ -d "$kernel_tree/modules" ]; then
    lib=lib
    if [ -L "$root/lib" ]; then lib=usr/lib && folder usr; fi
    folder $lib
    folder $lib/modules
    for version in "$kernel_tree"/modules/*; do
      rm -rf "$root/$lib/modules/${version##*/}"
      cp -a "$version" "$root/$lib/modules/"
    done
  fi
  kernel=/boot/vmlinuz
else
  kernel=
  for candidate in /vmlinuz /boot/vmlinuz; do
    if [ -L "$root$candidate" ] || [ -e "$root$candidate" ]; then kernel=$candidate; fi
  done
fi
initrd=${kernel%vmlinuz}initrd.img
put etc/fstab <<FSTAB
UUID=$GUEST_UUID / ext4 errors=remount-ro 0 1
FSTAB
if [ "$GUEST_FIRMWARE" != bios ]; then
  folder boot/efi
  loaders=
  if [ -d "$kernel_tree/usr" ]; then loaders=$kernel_tree; fi
  put_loaders "$loaders" "$root" /scratch/esp
fi
rm -rf "$kernel_tree"
put boot/grub/grub.cfg <<GRUB
# Made with the image, and by no program again: edit it.
if [ "\$grub_platform" = pc ]; then
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
fi
# Esc within the second shows the menu; to draw it each time takes an emulated machine longer than that.
set timeout_style=hidden
set timeout=1
set default=0
menuentry Linux {
	linux $kernel root=UUID=$GUEST_UUID rw console=tty0 console=ttyS0,115200
	initrd $initrd
}
GRUB
exec mke2fs -q -F -t ext4 -b 4096 -I 256 -O "$GUEST_FEATURES" -U "$GUEST_UUID" \
  -E "offset=$GUEST_OFFSET,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard" \
  -d "$root" "$GUEST_IMAGE" "${GUEST_KIB}k"
