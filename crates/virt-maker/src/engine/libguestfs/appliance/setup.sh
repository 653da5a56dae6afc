# Makes ready once what every command needs. The files run.sh, step.sh and network.sh are written before this runs.
set -e
for tool in unshare setpriv chroot env gawk ip cp mv mount fsfreeze; do
    command -v $tool >/dev/null || { echo "the appliance lacks $tool" >&2; exit 1; }
done
[ -e /dev/virtio-ports/org.virt-maker.output ] || { echo 'the appliance lacks its output port' >&2; exit 1; }
cd /run/virt-maker
printf '#!/bin/sh\nexit 101\n' >policy-rc.d
chmod 755 policy-rc.d
# At a name that does not depend on a PATH.
ln -s "$(command -v chroot)" chroot
mkdir dev
cd dev
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
