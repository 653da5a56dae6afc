# Makes a bootable guest of RPM packages: runs dnf ("$@") on the new tree $GUEST_TREE.
#
# It runs behind common.sh as root, or as the root of a user namespace, within walls that have mounted what is needed.
set -eu
umask 022
root=$GUEST_TREE
exec 1>&2

# --- What scriptlets of packages expect of a running system, besides what is mounted.
mkdir "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%%:*}" "$root/dev/${number##*:}"; done
# kernel-install(8) does nothing without an id, which nobody keeps, and looks for no boot loader then.
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
mkdir -p "$root/etc/kernel/install.d"
printf '%s\n' '# GRUB starts what /boot/vmlinuz points to.' layout=other >"$root/etc/kernel/install.conf"
printf 'root=UUID=%s ro console=tty0 console=ttyS0,115200\n' "$GUEST_UUID" >"$root/etc/kernel/cmdline"

# What dracut sets by itself in a container: no user namespace may make devices, and devtmpfs brings them.
export DRACUT_NO_MKNOD=1 DRACUT_NO_XATTR=1

"$@" </dev/null

# --- The database of packages, as the guest's own rpm reads it: the host's may have another kind of database than an
# older guest, and another place for it.
count() { wc -l <"$GUEST_SCRATCH/names"; }
rpm --root "$root" --query --all >"$GUEST_SCRATCH/names"
all=$(count)
rpm --root "$root" --query --all \
  --queryformat '[%{FILEUSERNAME}\t%{FILEGROUPNAME}\t%{FILEMODES:octal}\t%{FILENAMES}\n]' >"$GUEST_SCRATCH/files"
if [ -x "$root/usr/bin/rpm" ]; then
  chroot "$root" rpm --query --all >"$GUEST_SCRATCH/names" || :
  if [ "$(count)" != "$all" ]; then
    echo "I: the guest's rpm sees $(count) of $all packages, so its own database is made"
    rpmdb --root "$root" --exportdb >"$GUEST_SCRATCH/headers"
    rm -rf "${root:?}/${GUEST_RPMDB#/}"
    mkdir -p "$root/$GUEST_RPMDB"
    chroot "$root" rpmdb --importdb <"$GUEST_SCRATCH/headers" || :
    chroot "$root" rpm --query --all >"$GUEST_SCRATCH/names" || :
    if [ "$(count)" != "$all" ]; then
      echo "E: the guest's rpm sees $(count) of $all packages in a database that it made itself"
      exit 1
    fi
  fi
fi

# --- Owners. Since 4.19, rpm makes the users of sysusers.d(5) when it installs a package; with an older one on the host
# such a user is not there yet, and its files became root's.
tab=$(printf '\t')
if [ -x "$root/usr/bin/systemd-sysusers" ]; then
  chroot "$root" systemd-sysusers
  grep -v "^root${tab}root$tab" "$GUEST_SCRATCH/files" |
    chroot "$root" sh -c '
    while IFS="$1" read -r user group mode path; do
      if [ ! -e "$path" ] && [ ! -L "$path" ]; then continue; fi
      if [ "$(stat -c %U:%G "$path")" = "$user:$group" ]; then continue; fi
      echo "I: $path belongs to $user:$group"
      chown -h "$user:$group" "$path"
      # A change of owners takes set-id bits away.
      if [ ! -L "$path" ]; then chmod "${mode#"${mode%????}"}" "$path"; fi
    done' sh "$tab"
fi

# --- What the guest needs besides its packages.
name_guest
if [ ! -e "$root/etc/locale.conf" ]; then echo LANG=C.UTF-8 >"$root/etc/locale.conf"; fi
for service in NetworkManager chronyd; do
  if [ -e "$root/usr/lib/systemd/system/$service.service" ]; then chroot "$root" systemctl --quiet enable "$service"; fi
done

# Mirrors of the template take the place of the distribution's, here as well.
if [ -n "$GUEST_REPOSITORIES" ]; then
  mkdir -p "$root/etc/yum.repos.d"
  for file in "$root"/etc/yum.repos.d/*.repo; do
    case ${file##*/} in
      fedora* | [Rr]ocky* | almalinux* | [Cc]ent[Oo][Ss]*) sed -i 's/^enabled *=.*/enabled=0/' "$file" ;;
    esac
  done
  printf '%s' "$GUEST_REPOSITORIES" >"$root/etc/yum.repos.d/mirror.repo"
  if [ -n "$GUEST_KEYS" ]; then
    mkdir -p "$root/etc/pki/rpm-gpg"
    cat "$GUEST_KEYS" >"$root/etc/pki/rpm-gpg/RPM-GPG-KEY-mirror"
  fi
fi

# No label can be set here. An export sets all of them; what is started as it is now sets them itself, once, and is not
# hindered by its policy until then.
relabel=
if grep -qE '^SELINUX=(enforcing|permissive)' "$root/etc/selinux/config" 2>/dev/null; then
  : >"$root/.autorelabel"
  relabel='set relabel=
if [ -e /.autorelabel ]; then set relabel="enforcing=0"; fi'
fi

# --- The boot loader's menu, and who keeps its links.
cat >"$root/etc/kernel/install.d/95-boot-links.install" <<'PLUGIN'
#!/bin/sh
# Called by kernel-install(8) when a kernel comes or goes: /boot/vmlinuz and /boot/initramfs.img, which GRUB's menu
# starts, point to the newest that came, and those with .old to the one before. GRUB as it is here knows no entries of
# the Boot Loader Specification.
set -eu
command=$1 version=$2 image=${4:-}

point() {
  ln -sfn "vmlinuz-$2" "/boot/vmlinuz$1"
  ln -sfn "initramfs-$2.img" "/boot/initramfs.img$1"
}
current() {
  target=$(readlink "/boot/vmlinuz$1") || return 0
  if [ -e "/boot/$target" ]; then echo "${target#vmlinuz-}"; fi
}

case $command in
  add)
    cp "$image" "/boot/.vmlinuz-$version"
    mv "/boot/.vmlinuz-$version" "/boot/vmlinuz-$version"
    if [ ! -s "/boot/initramfs-$version.img" ]; then
      dracut --force --no-hostonly "/boot/initramfs-$version.img" "$version"
    fi
    before=$(current '')
    if [ "$before" = "$version" ]; then exit 0; fi
    if [ -n "$before" ]; then point .old "$before"; fi
    point '' "$version"
    ;;
  remove)
    rm -f "/boot/vmlinuz-$version" "/boot/initramfs-$version.img"
    if [ -z "$(current '')" ]; then
      newest=$(for kernel in /boot/vmlinuz-[0-9]*; do echo "${kernel#/boot/vmlinuz-}"; done |
        grep -v -e '^0-rescue' -e '\*$' | sort -V | tail -n 1)
      if [ -n "$newest" ]; then point '' "$newest"; else rm -f /boot/vmlinuz /boot/initramfs.img; fi
    fi
    if [ -z "$(current .old)" ] || [ "$(current .old)" = "$(current '')" ]; then
      rm -f /boot/vmlinuz.old /boot/initramfs.img.old
    fi
    ;;
esac
PLUGIN
chmod 755 "$root/etc/kernel/install.d/95-boot-links.install"
# Kernels came before the plugin did.
versions=$(for image in "$root"/lib/modules/*/vmlinuz; do
  if [ -e "$image" ]; then basename "$(dirname "$image")"; fi
done | sort -V)
if [ -z "$versions" ]; then
  echo 'E: no package installed a kernel'
  exit 1
fi
for version in $versions; do
  chroot "$root" /etc/kernel/install.d/95-boot-links.install add "$version" '' "/lib/modules/$version/vmlinuz"
done
write_menu /boot/vmlinuz /boot/initramfs.img \
  '# (A plugin of kernel-install, 95-boot-links.install, keeps that link on the newest kernel.)' \
  "$relabel" "${relabel:+\$relabel}"

# --- What making it left behind.
rm -rf "$root"/var/cache/dnf "$root"/var/cache/libdnf5 "$root"/var/cache/ldconfig/aux-cache
rm -f "$root"/var/log/dnf*.log* "$root"/var/log/hawkey.log*
forget_identity
