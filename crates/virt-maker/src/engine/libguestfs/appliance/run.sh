# Runs one command of a step. Sourced by the appliance's /bin/sh after a job has set VM_TOKEN, VM_NETWORK, VM_INPUT,
# VM_PORT and written the files "command" and, as wanted, "script" and "resolv.conf" into /run/virt-maker.
#
# Prints `status=N` (as gawk's system() has it: 256 and more are signals), `guest=SENTENCE` where the guest is at fault
# or `error=SENTENCE`. The output of the command goes to the port, then, when no process of it is left, the token.

here=/run/virt-maker
root=/sysroot
made=
exec 9>&1 <"$VM_INPUT" >"$VM_PORT" 2>&1

finish() {
    # Mount points that were missing in the guest go again; the mounts over them are gone with their namespace.
    for file in $made; do
        if [ -f "$file" ] && [ ! -L "$file" ] && [ ! -s "$file" ]; then rm -f "$file"; fi
    done
    rm -f $here/job $here/command $here/script $here/resolv.conf $here/fstab $here/places $here/status $here/error
    printf '%s' "$VM_TOKEN"
}

fail() {
    finish
    echo "$1" >&9
    exit 0
}

# Sets $found to what a path of the guest means inside the guest's root, whatever symbolic links are on the way. No
# process of the guest runs while this does.
resolve() {
    rest=${1#/}
    found=$root
    hops=0
    while [ -n "$rest" ]; do
        part=${rest%%/*}
        case $rest in
            */*) rest=${rest#*/} ;;
            *) rest= ;;
        esac
        case $part in
            '' | .) continue ;;
            ..)
                [ "$found" = "$root" ] || found=${found%/*}
                continue
                ;;
        esac
        if [ -L "$found/$part" ]; then
            hops=$((hops + 1))
            [ $hops -le 40 ] || return 1
            target=$(readlink "$found/$part") || return 1
            case $target in /*) found=$root ;; esac
            rest=$target/$rest
        else
            found=$found/$part
        fi
    done
    case $found in
        *[[:space:]\\\'\"\$\`*?]*) return 1 ;;
    esac
}

entry() {
    echo "$1 $2 $3 $4 0 0" >>$here/fstab
}

# Shows a file of ours at a place of the guest. Where nothing is, an empty file is made for as long as it takes.
show() {
    if [ ! -e "$2" ]; then
        : >"$2" || fail "guest=cannot make ${2#$root}: is the guest's disk full?"
        made="$made $2"
    fi
    entry "$1" "$2" none bind,ro
}

: >$here/fstab
for name in proc sys dev run; do
    resolve /$name && [ -d "$found" ] || fail "guest=the guest has no folder /$name"
    echo "$name=$found" >>$here/places
    case $name in
        proc) entry proc "$found" proc nosuid,nodev,noexec ;;
        sys) entry sysfs "$found" sysfs ro,nosuid,nodev,noexec ;;
        dev)
            entry tmpfs "$found" tmpfs nosuid,mode=755
            entry devpts "$found/pts" devpts X-mount.mkdir,nosuid,noexec,newinstance,ptmxmode=0666,mode=620,gid=5
            entry tmpfs "$found/shm" tmpfs X-mount.mkdir,nosuid,nodev,mode=1777
            ;;
        run)
            entry tmpfs "$found" tmpfs nosuid,nodev,mode=755
            run=$found
            ;;
    esac
done

# Services must not start: dpkg's maintainer scripts ask this program.
if resolve /usr/sbin && [ -d "$found" ] && resolve /usr/sbin/policy-rc.d; then
    show $here/policy-rc.d "$found"
fi

apart=--net
if [ "$VM_NETWORK" = 1 ]; then
    apart=
    . $here/network.sh
    if resolve /etc/resolv.conf; then
        case $found in
            "$run"/*) echo "resolv=$found" >>$here/places ;;
            *) if [ -d "${found%/*}" ]; then show $here/resolv.conf "$found"; fi ;;
        esac
    fi
fi

# --kill-child and the pid namespace: when its first process ends, the kernel kills all others and waits for them.
unshare --fork --kill-child --pid --mount --ipc --uts $apart /bin/sh $here/step.sh
[ -s $here/error ] && fail "error=$(cat $here/error)"
[ -s $here/status ] || fail "error=the command's first process was killed"
status=$(cat $here/status)
finish
echo "status=$status" >&9
