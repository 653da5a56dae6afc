# put_loaders FROM ROOT ESP: shim and GRUB, as Debian and Ubuntu sign them, from the packages in the tree FROM (empty for `/`), to
# the folder ESP, which becomes what the guest ROOT has as /boot/efi, with the few lines by which GRUB finds the menu on the root file system $GUEST_UUID.
#
# EFI/BOOT is where every firmware looks. The other folder is where the distribution's own grub-install puts them, and
# where its GRUB looks for those lines. What shim's fallback would do (make a variable, and restart) is not wanted there.
put_loaders() {
  shim=$1/usr/lib/shim/shimx64.efi.signed
  manager=$1/usr/lib/shim/mmx64.efi.signed
  loader=$1/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed
  for file in "$shim" "$loader"; do
    if [ ! -f "$file" ] || [ -L "$file" ]; then
      echo "E: no package brought ${file#"$1"}, which UEFI with Secure Boot starts from" >&2
      exit 1
    fi
  done
  vendor=debian
  if grep -aq /EFI/ubuntu "$loader"; then vendor=ubuntu; fi
  for folder in boot boot/efi; do
    if [ -L "$2/$folder" ]; then
      echo "E: /$folder is a link" >&2
      exit 1
    fi
  done
  mkdir -p "$2/boot/efi" "$3/EFI/BOOT" "$3/EFI/$vendor"
  cp "$shim" "$3/EFI/BOOT/BOOTX64.EFI"
  cp "$shim" "$3/EFI/$vendor/shimx64.efi"
  for folder in BOOT "$vendor"; do
    cp "$loader" "$3/EFI/$folder/grubx64.efi"
    if [ -f "$manager" ] && [ ! -L "$manager" ]; then cp "$manager" "$3/EFI/$folder/mmx64.efi"; fi
    cat >"$3/EFI/$folder/grub.cfg" <<ESP
search.fs_uuid $GUEST_UUID root
set prefix=(\$root)'/boot/grub'
configfile \$prefix/grub.cfg
ESP
  done
  printf 'UUID=%s /boot/efi vfat umask=0077 0 1\n' "$GUEST_ESP_ID" >>"$2/etc/fstab"
}
