# The first process of a command's namespaces: mounts what the guest is to see, then runs the command in its root.
exec 2>&1
here=/run/virt-maker
. $here/places
umask 022
# Its number outside of its own namespace, which is what this /proc still shows.
read -r first _ </proc/self/stat
echo "$first" >$here/first

fail() {
    echo "$1" >$here/error
    exit 1
}

mount -a -T $here/fstab || fail 'cannot mount the temporary file systems of a command'
if [ "$dev $run" = '/sysroot/dev /sysroot/run' ]; then
    cp -a $here/skeleton/dev $here/skeleton/run /sysroot
else
    cp -a $here/skeleton/dev/. "$dev" && cp -a $here/skeleton/run/. "$run"
fi || fail 'cannot make the device nodes of a command'
if [ -e $here/script ]; then
    mkdir "$run/virt-maker" && cp $here/script "$run/virt-maker/script" && chmod 700 "$run/virt-maker/script" ||
        fail 'cannot show the script'
fi
if [ -e $here/secrets ]; then
    cp -r $here/secrets "$run/secrets" && chmod 700 "$run/secrets" && chmod 400 "$run"/secrets/* ||
        fail 'cannot show the secrets'
fi
echo "$hostname" >/proc/sys/kernel/hostname

# gawk tells an exit status from a signal, which a shell does not. Under `exec` its child becomes the command itself.
gawk 'BEGIN { print system("exec /bin/sh /run/virt-maker/command") >"/run/virt-maker/status" }'
