# Runs one command of a step. Sourced by the appliance's /bin/sh after a job has set VM_TOKEN, VM_NETWORK, VM_INPUT,
# VM_PORT, VM_TIMEOUT and written the files "command" and, as wanted, "script", "resolv.conf" and "secrets/*" into /run/virt-maker.
#
# Prints `note=SENTENCE` for what the person should know, any number, then `status=N` (as gawk's system() has it: 256 and more are signals), `guest=SENTENCE` where the guest is at fault
# or `error=SENTENCE`, or `timeout=SECONDS` where it was stopped. The output of the command goes to the port, then, when no process of it is left, the token.

here=/run/virt-maker
root=/sysroot
aside=virt-maker-aside
placed=
locked=
growing=
exec 9>&1 <"$VM_INPUT" >"$VM_PORT" 2>&1

# Every program that starts costs 5 to 20 ms under TCG, so this file does with the shell's own means what it can.
finish() {
    # The guest's own files get their names back; what the command did to the stand-ins is not kept, but for a link.
    gone=
    for path in $placed; do
        case $path in */resolv.conf) own_up "$path" ;; esac
        settle "$path"
    done
    rm -rf $gone $here/secrets $here/job $here/command $here/script $here/resolv.conf $here/status $here/error $here/first $here/late $here/words $here/binds 2>/dev/null
    for path in $gone; do
        if [ -e "$path" ] || [ -L "$path" ]; then remove "$path"; fi
    done
    printf '%s' "$VM_TOKEN"
}

# Somebody may have made it immutable.
remove() {
    rm -rf "$1" 2>/dev/null || { chattr -i -a "$1" && rm -rf "$1"; }
}

note() {
    echo "virt-maker: $1"
    echo "note=$1" >&9
}

# Sets $text to what a small file says.
slurp() {
    text=
    while IFS= read -r line || [ -n "$line" ]; do text="$text$line/"; done <"$1"
}

# Copies that the command made of the stand-in for resolv.conf become copies of the guest's own, or go where it has none: they
# tell of the building machine.
own_up() {
    slurp $here/resolv.conf
    ours=$text
    for copy in "${1%/*}"/*resolv* "${1%/*}"/.*resolv* $root/etc/resolvconf/resolv.conf.d/*; do
        case $copy in "$1" | "$1.$aside") continue ;; esac
        [ -f "$copy" ] && [ ! -L "$copy" ] || continue
        slurp "$copy"
        [ "$text" = "$ours" ] || continue
        if [ -f "$1.$aside" ] && [ ! -L "$1.$aside" ]; then cat "$1.$aside" >"$copy"; else rm -f "$copy"; fi
    done
}

# Gives a name back to the guest. A link that the command put in the place of resolv.conf stays.
settle() {
    name=${1##*/}
    case $name in zz-virt-maker.conf) name=dracut.conf ;; esac
    changed=1
    if [ -f "$1" ] && [ ! -L "$1" ]; then
        slurp "$1"
        now=$text
        slurp "$here/$name"
        [ "$now" != "$text" ] || changed=
    fi
    if [ "$name" = resolv.conf ] && [ -L "$1" ]; then
        if [ ! -L "$1.$aside" ] || [ "$(readlink "$1")" != "$(readlink "$1.$aside")" ]; then
            rm -rf "$1.$aside"
            return
        fi
        changed=
    fi
    [ -z "$changed" ] || note "the change that the command made to ${1#$root} is not kept: a temporary file is there while \
commands run; write it with a \`copy\` step instead"
    if [ -e "$1.$aside" ] || [ -L "$1.$aside" ]; then
        remove "$1"
        mv -T "$1.$aside" "$1"
    else
        # With what else is to go, by one program.
        gone="$gone $1"
    fi
    case $locked in *" $1 "*) chattr +i "$1" ;; esac
    case $growing in *" $1 "*) chattr +a "$1" ;; esac
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

# Puts aside what is immutable or may only grow, and remembers it.
unlocked() {
    flags=$(lsattr -d "$1") || return 1
    flags=${flags%% *}
    case $flags in *i*) locked="$locked $1 " ;; esac
    case $flags in *a*) growing="$growing $1 " ;; esac
    chattr -i -a "$1" && mv -T "$1" "$1.$aside"
}

# Puts a file of ours where the guest has one or none, for as long as the command runs. The guest's own is renamed: a
# mount over it would make programs fail that replace it by a rename.
stand_in() {
    resolve "${2%/*}" && [ -d "$found" ] || return 0
    path=$found/${2##*/}
    if [ -e "$path" ] || [ -L "$path" ]; then
        mv -T "$path" "$path.$aside" 2>/dev/null || unlocked "$path" || fail "guest=cannot put $2 aside"
    fi
    placed="$placed $path"
    cp $here/$1 "$path" || fail "guest=cannot put a temporary $2 in place: is the guest's disk full?"
}

: >$here/fstab
: >$here/places
for name in proc sys dev run; do
    resolve /$name && [ -d "$found" ] || fail "guest=the guest has no folder /$name"
    echo "$name=$found" >>$here/places
    case $name in
        proc)
            entry proc "$found" proc nosuid,nodev,noexec
            # What tells of the appliance, and what root changes it by.
            for path in $here/machine/proc/*; do entry "$path" "$found/${path##*/}" none bind,ro; done
            for file in sys sysrq-trigger; do
                [ ! -e /proc/$file ] || entry "$found/$file" "$found/$file" none bind,ro
            done
            ;;
        sys) entry $here/machine/sys "$found" none rbind,ro ;;
        dev)
            entry tmpfs "$found" tmpfs nosuid,mode=755
            entry devpts "$found/pts" devpts X-mount.mkdir,nosuid,noexec,newinstance,ptmxmode=0666,mode=620,gid=5
            entry tmpfs "$found/shm" tmpfs X-mount.mkdir,nosuid,nodev,mode=1777
            ;;
        run) entry tmpfs "$found" tmpfs nosuid,nodev,mode=755 ;;
    esac
done

# Folders of caches stand in for folders of the guest. Each path is made as far as it is missing, one part at a time, so
# that no link on the way leads out.
if [ -e $here/binds ]; then
    while read -r source place; do
        path=
        left=${place#/}/
        while [ -n "$left" ]; do
            path=$path/${left%%/*}
            left=${left#*/}
            resolve "$path" || fail "guest=$place is no place for a cache"
            [ -d "$found" ] || mkdir "$found" || fail "guest=$place is no place for a cache"
        done
        mkdir -p "$here/caches/$source"
        entry "$here/caches/$source" "$found" none bind
    done <$here/binds
fi

# Services must not start: dpkg's maintainer scripts ask this program.
stand_in policy-rc.d /usr/sbin/policy-rc.d
# An initial RAM disk is for any machine, and the options of the mount that a command sees are no business of it.
stand_in dracut.conf /etc/dracut.conf.d/zz-virt-maker.conf

# The appliance's own network has a loopback device and nothing else; the interface is in a namespace called `net`.
within=
if [ "$VM_NETWORK" = 1 ]; then
    . $here/network.sh
    within='nsenter --net=/run/netns/net'
    stand_in resolv.conf /etc/resolv.conf
fi

# The guest's own name for itself: the appliance's must not get into what package scripts write.
hostname=
if resolve /etc/hostname && [ -f "$found" ]; then read -r hostname <"$found"; fi
case $hostname in
    '' | -* | *[!A-Za-z0-9._-]*) hostname=localhost ;;
esac
echo "hostname=$hostname" >>$here/places

# Kills the first process of the command's namespaces when time is up, and so all of them. It runs outside of them, so that
# the command cannot stop it, and holds nothing open that the caller waits for.
timer() {
    exec 9>&- </dev/null >/dev/null 2>&1
    sleep "$VM_TIMEOUT" &
    sleeper=$!
    trap 'kill $sleeper; exit' TERM
    wait $sleeper && : >$here/late && read -r first <$here/first && kill -KILL "$first"
}

timer=
if [ -n "$VM_TIMEOUT" ]; then
    timer &
    timer=$!
fi

# --kill-child and the pid namespace: when its first process ends, the kernel kills all others and waits for them.
$within unshare --fork --kill-child --pid --mount --ipc --uts /bin/sh $here/step.sh 2>$here/words
[ -z "$timer" ] || kill $timer 2>/dev/null
if [ -s $here/error ]; then
    read -r sentence <$here/error
    fail "error=$sentence"
fi
if [ ! -s $here/status ] && [ -e $here/late ]; then fail "timeout=$VM_TIMEOUT"; fi
# What unshare itself has to say counts only where it did not work: it also complains when its child is killed.
[ -s $here/status ] || cat $here/words
[ -s $here/status ] || fail "error=the command's first process was killed"
read -r status <$here/status
finish
echo "status=$status" >&9
