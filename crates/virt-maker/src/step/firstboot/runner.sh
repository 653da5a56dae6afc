#!/bin/sh
# Runs each script of firstboot.d once, in the order of their names. Made by virt-maker.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
export PATH HOME
here=/usr/lib/virt-maker
log=/var/log/virt-maker-firstboot.log
umask 077
# The network is there, or it had its time. Nothing is ordered after this service but the end of the boot, so it may wait here,
# with a bound of its own: what waits for the network within systemd may wait for minutes, or for ever.
if [ -d /run/systemd/system ]; then
    left=90
    until systemctl --quiet is-active network-online.target; do
        left=$((left - 1))
        [ $left -gt 0 ] || break
        sleep 1
    done
    [ $left -gt 0 ] || echo "virt-maker: the network was not there within 90 s; first-boot scripts go on" >>"$log"
fi
mkdir -p "$here/firstboot.done"
for script in "$here"/firstboot.d/[0-9]*; do
    [ -f "$script" ] || continue
    name=${script##*/}
    # Moved before it runs: neither a failure nor a restart that it causes has it run again.
    mv "$script" "$here/firstboot.done/$name" || exit 1
    sync
    echo "virt-maker: first-boot script $name begins: $(date)" >>"$log"
    (umask 022; cd / && exec "$here/firstboot.done/$name") </dev/null >>"$log" 2>&1
    echo "virt-maker: first-boot script $name ended with exit status $?" >>"$log"
done
exit 0
