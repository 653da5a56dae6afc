# Makes ready once what every command needs. What needs no program but `tar` is in place before this runs (`job.rs`).
set -e
for tool in unshare setpriv chroot env gawk ip sleep cp mv mount fsfreeze nsenter blkid losetup tar; do
    command -v $tool >/dev/null || { echo "the appliance lacks $tool" >&2; exit 1; }
done
[ -e /dev/virtio-ports/org.virt-maker.output ] || { echo 'the appliance lacks its output port' >&2; exit 1; }
cd /run/virt-maker
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
