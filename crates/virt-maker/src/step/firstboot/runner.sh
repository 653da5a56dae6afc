#!/bin/sh
# Runs each script of firstboot.d once, in the order of their names. Made by virt-maker.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
export PATH HOME
here=/usr/lib/virt-maker
log=/var/log/virt-maker-firstboot.log
umask 077
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
