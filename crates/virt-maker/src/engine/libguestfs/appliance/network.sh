# Sets up the interface behind qemu's user network, once. Commands without the network have a namespace of their own.
if [ ! -e $here/network ]; then
    for path in /sys/class/net/*; do
        name=${path##*/}
        if [ "$name" != lo ]; then interface=$name; fi
    done
    [ -n "$interface" ] || fail 'error=the appliance has no network interface'
    ip link set "$interface" up && ip address add 169.254.2.15/24 dev "$interface" &&
        ip route add default via 169.254.2.2 || fail 'error=cannot set up the network of the appliance'
    : >$here/network
fi
