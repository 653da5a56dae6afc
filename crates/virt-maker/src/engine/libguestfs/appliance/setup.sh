# Makes ready once what every command needs. The files run.sh, step.sh and network.sh are written before this runs.
set -e
for tool in unshare setpriv chroot env gawk ip sleep cp mv mount fsfreeze nsenter blkid findmnt losetup mknod tar; do
    command -v $tool >/dev/null || { echo "the appliance lacks $tool" >&2; exit 1; }
done
[ -e /dev/virtio-ports/org.virt-maker.output ] || { echo 'the appliance lacks its output port' >&2; exit 1; }
cd /run/virt-maker
printf '#!/bin/sh\nexit 101\n' >policy-rc.d
chmod 755 policy-rc.d
# At a name that does not depend on a PATH.
ln -s "$(command -v chroot)" chroot
# The interface goes where only commands with the network see it.
for path in /sys/class/net/*; do
    [ "${path##*/}" = lo ] || interface=${path##*/}
done
[ -n "$interface" ] || { echo 'the appliance has no network interface' >&2; exit 1; }
ip netns add net
printf '%s\n' "link set $interface netns net" 'link set lo up' | ip -batch -
printf '%s\n' 'link set lo up' "link set $interface up" "address add 169.254.2.15/24 dev $interface" \
    'route add default via 169.254.2.2' >network.batch

# The kernel was started for the guest's own root, as far as commands know.
device=$(findmnt -n -o SOURCE --nofsroot /sysroot)
# It was mounted by the name that commands see.
called=/run/virt-maker-names/${device##*/}
[ ! -e "$called" ] || device=$called
uuid=$(blkid -o value -s UUID "$device" || :)
case $uuid in
    '' | *[!A-Za-z0-9-]*) echo ro ;;
    *) echo "root=UUID=$uuid ro" ;;
esac >machine/proc/cmdline

# What is copied over the temporary /dev and /run of each command.
mkdir -p skeleton/dev skeleton/run/lock
chmod 1777 skeleton/run/lock
cd skeleton/dev
mknod -m 666 null c 1 3
mknod -m 666 zero c 1 5
mknod -m 666 full c 1 7
mknod -m 666 random c 1 8
mknod -m 666 urandom c 1 9
mknod -m 666 tty c 5 0
ln -s /proc/self/fd fd
ln -s fd/0 stdin
ln -s fd/1 stdout
ln -s fd/2 stderr
ln -s pts/ptmx ptmx
