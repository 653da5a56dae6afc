//! Engine `vm`: what is its own. Its part of the main job is in the tests that all engines share.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::user::{WITHOUT_RIGHTS, as_user, give, home};
use crate::common::{Bench, Ran, run};
use testkit::{
    Fs, HostState, TinyOptions, appliance_lock, files_of_clean_lvm, fsck_clean, lvm_guest, read_file_from_image,
    tiny_guest,
};

/// A program of the host with its libraries, to be put into a guest at the same places.
fn with_libraries(program: &str) -> Vec<(String, Vec<u8>, u32)> {
    let ldd = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(ldd.stdout).unwrap();
    let paths = text.lines().filter_map(|line| line.rsplit("=>").next()?.split_whitespace().next());
    let files = paths.filter(|path| path.starts_with('/')).map(str::to_owned).chain([program.to_owned()]);
    files.map(|path| (path.clone(), fs::read(&path).unwrap(), 0o755)).collect()
}

/// Two machines restored from one state are not one machine: what has to be random or of its own, is.
#[test]
fn clones_of_the_appliance_share_no_secret_and_know_the_time() {
    let _lock = appliance_lock();
    let programs = ["/usr/bin/ssh-keygen", "/usr/bin/uuidgen"];
    let files = programs.iter().flat_map(|program| with_libraries(program)).collect();
    let options = TinyOptions { files, ..TinyOptions::default() };
    let bench = Bench::new(tiny_guest(&options));
    let script = "set -e; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; uuidgen; mktemp -u; mktemp -u; \
        od -An -tx1 -N16 /dev/urandom; ssh-keygen -q -t ed25519 -N '' -C '' -f /key; cat /key.pub; date +%s";
    let before = now();
    let lines: Vec<Vec<String>> = (0..2)
        .map(|number| {
            let template = bench.template(&format!("{number}.yml"), &[run(&format!("{script} # {number}"))], "");
            let ran = bench.build("vm", &template, &[]).exits(0);
            ran.said().lines().map(str::to_owned).collect()
        })
        .collect();
    let after = now();
    assert_eq!((lines[0].len(), lines[1].len()), (8, 8), "{lines:?}");
    for (one, other) in lines[0].iter().zip(&lines[1]).take(7) {
        assert!(one.len() > 5 && one != other, "{one} and {other}");
    }
    for line in [&lines[0][7], &lines[1][7]] {
        let time: u64 = line.parse().unwrap();
        assert!((before..=after).contains(&time), "{before} {time} {after}");
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A guest may do to itself what it likes: each is a clear error in time, and the host is as it was.
#[test]
fn a_hostile_guest_ends_its_appliance_and_nothing_else() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let fails = |step: &str, words: &str| {
        let ran = bench.build("vm", &bench.template("t.yml", &[step.to_owned()], ""), &[]).exits(4);
        assert!(ran.stderr.contains(words), "no `{words}` in:\n{}", ran.stderr);
        before.assert_nothing_left();
        assert_eq!(bench.left_in_store(), Vec::<String>::new());
        ran
    };
    // More processes than the machine can run; none minds a signal.
    let bomb = "trap '' TERM INT HUP; b() { b | b & }; b; while :; do sleep 1; done";
    fails(&format!("{{run: {}, timeout: 5}}", serde_json::json!(bomb)), "after 5 s");
    // All memory, in a file and in a program.
    let ran =
        fails(&run("dd if=/dev/zero of=/run/x bs=1M & dd if=/dev/zero of=/dev/shm/x bs=1M & wait; tail /dev/zero"), "");
    assert!(ran.said().contains("memory ran out") || ran.said().contains("No space left"), "{}", ran.said());
    // The kernel of the machine is out of reach of a step, and so are its disks, clock, modules and devices.
    let reach = "for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /sys/power/state; do \
        { echo c > $f; } 2>/dev/null && echo reached $f; done; \
        mknod /disk b 8 0 && { head -c 1 /disk; } >/dev/null 2>&1 && echo reached the disk; \
        date -s 2001-01-01 >/dev/null 2>&1; [ $(date +%Y) != 2001 ] || echo reached the clock; \
        mount -t tmpfs none /mnt 2>/dev/null && echo reached mount; ls -d /modules /init 2>/dev/null; \
        rm -f /disk; echo done";
    let ran = bench.build("vm", &bench.template("t.yml", &[run(reach)], ""), &[]).exits(0);
    assert_eq!(ran.said(), "done\n");
    before.assert_nothing_left();
}

/// A file system that is damaged: an error that says where, in time. The base is only read.
#[test]
fn a_damaged_file_system_is_an_error_of_the_appliance() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    // Block groups that lead nowhere, then inodes that do; then the same in a file system that asks the kernel to panic.
    for (name, at, length, words) in [
        ("groups.img", 1 << 11, 1 << 10, ""),
        ("inodes.img", 200 << 10, 1 << 20, ""),
        ("panic.img", 200 << 10, 1 << 20, "Kernel panic"),
    ] {
        let damaged = bench.path(name);
        fs::write(&damaged, fs::read(&bench.base).unwrap()).unwrap();
        if !words.is_empty() {
            let tuned = Command::new("tune2fs").args(["-e", "panic"]).arg(&damaged).output().unwrap();
            assert!(tuned.status.success(), "{}", String::from_utf8_lossy(&tuned.stderr));
        }
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[at..at + length].fill(0xa5);
        fs::write(&damaged, &bytes).unwrap();
        let text = format!(
            "spec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    - run: 'ls -lR / > /dev/null && echo 1 > /new'\n",
            damaged.display()
        );
        let template = bench.path("t.yml");
        fs::write(&template, text).unwrap();
        let ran = bench.build("vm", &template, &[]);
        assert!(matches!(ran.status, Some(1 | 4 | 5)), "{:?}\n{}", ran.status, ran.stderr);
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(words), "{}", ran.stderr);
        assert!(fs::read(&damaged).unwrap() == bytes, "the base was written to");
        before.assert_nothing_left();
    }
}

/// A saved machine that is damaged is made again, with a warning.
#[test]
fn a_damaged_saved_appliance_is_made_again() {
    let _lock = appliance_lock();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    // A copy of the shared one, for this test to damage.
    let own = bench.path("xdg-cache/virt-maker/vm");
    let template = bench.template("t.yml", &[run("echo 1 > /one")], "");
    bench.build("vm", &template, &[]).exits(0);
    let shared = fs::canonicalize(&own).unwrap();
    fs::remove_file(&own).unwrap();
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).arg(&shared).arg(&own).status().unwrap();
    assert!(copied.success());
    let info = bench.run(&["appliance", "info", "--json"]).exits(0);
    let info: serde_json::Value = serde_json::from_str(&info.stdout).unwrap();
    let current = info["states"].as_array().unwrap().iter().find(|state| state["current"] == true).unwrap();
    let folder = own.join(Path::new(current["folder"].as_str().unwrap()).file_name().unwrap());
    let mut devices = fs::read(folder.join("devices")).unwrap();
    let length = devices.len();
    devices.truncate(length / 2);
    fs::write(folder.join("devices"), devices).unwrap();
    let ran = bench.build("vm", &template, &["--force"]).exits(0);
    let warnings = ran.of("warning");
    assert!(warnings.iter().any(|event| event["message"].as_str().unwrap().contains("made again")), "{warnings:?}");
    assert!(fs::metadata(folder.join("devices")).unwrap().len() > length as u64 / 2);

    let cleaned = bench.run(&["appliance", "clean"]).exits(0);
    assert!(cleaned.stdout.starts_with("removed "), "{}", cleaned.stdout);
    assert!(bench.run(&["appliance", "info"]).exits(0).stdout.contains("nothing is saved"));
}

/// One guest with four file systems, mounted after its fstab.
#[test]
fn ext4_xfs_btrfs_and_vfat_of_one_guest_in_the_appliance() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let extra = [
        "LABEL=xfsdata /srv xfs defaults 0 2",
        "LABEL=btrfsdata /mnt btrfs defaults 0 2",
        "LABEL=VFATDATA /boot vfat umask=0077 0 1",
    ];
    let options = TinyOptions {
        partitioned: true,
        fstab_extra: extra.map(str::to_owned).into(),
        files: vec![("/srv/.keep".into(), Vec::new(), 0o644)],
        ..TinyOptions::default()
    };
    let bench = Bench::new(tiny_guest(&options));
    let disk = bench.path("disk.img");
    add_partitions(&bench, &disk);
    let text = format!(
        "spec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    - run: 'set -e; for d in / /srv /mnt /boot; do echo $d > $d/mark; done; df -T | sort > /seen; cat /seen'\n    \
         - run: 'cat /srv/mark /mnt/mark /boot/mark > /all; grep -w overlay /proc/filesystems'\n  export:\n    raw: {{path: out.img}}\n",
        disk.display()
    );
    let template = bench.path("t.yml");
    fs::write(&template, text).unwrap();
    let ran = bench.build("vm", &template, &[]).exits(0);
    let seen = ran.said();
    // The last for containers.
    for kind in ["ext4", "xfs", "btrfs", "vfat", "overlay"] {
        assert!(seen.contains(kind), "{seen}");
    }
    assert_eq!(read_file_from_image(&bench.path("out.img"), "/all"), b"/srv\n/mnt\n/boot\n");
    fsck_clean(&bench.path("out.img"), "raw");
    before.assert_nothing_left();
}

/// A copy of the bench's guest with three partitions more.
fn add_partitions(bench: &Bench, disk: &Path) {
    fs::copy(&bench.base, disk).unwrap();
    fs::set_permissions(disk, fs::Permissions::from_mode(0o644)).unwrap();
    let mib = 1_u64 << 20;
    let start = fs::metadata(disk).unwrap().len();
    let parts = [("xfs", 320), ("btrfs", 160), ("vfat", 40)];
    let end = start + parts.iter().map(|(_, size)| size * mib).sum::<u64>() + mib;
    let mut file = fs::File::options().write(true).open(disk).unwrap();
    file.set_len(end).unwrap();
    let tool = |program: &str, arguments: &[&str], on: &Path| {
        let done = Command::new(program).args(arguments).arg(on).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    // The backup of the table goes to the new end of the disk.
    tool("sfdisk", &["--quiet", "--no-reread", "--no-tell-kernel", "--relocate", "gpt-bak-std"], disk);
    let mut script = String::new();
    let mut at = start;
    for (kind, size) in parts {
        script.push_str(&format!("start={}, size={}, name={kind}\n", at / 512, size * mib / 512));
        let image = bench.path(&format!("{kind}.part"));
        fs::File::create(&image).unwrap().set_len(size * mib).unwrap();
        match kind {
            "xfs" => tool("mkfs.xfs", &["-q", "-L", "xfsdata"], &image),
            "btrfs" => tool("mkfs.btrfs", &["-q", "-L", "btrfsdata"], &image),
            _ => tool("mkfs.vfat", &["-n", "VFATDATA"], &image),
        }
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).unwrap();
        file.write_all(&fs::read(&image).unwrap()).unwrap();
        fs::remove_file(&image).unwrap();
        at += size * mib;
    }
    let mut sfdisk = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel", "--append"])
        .arg(disk)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
}

/// All of it as an ordinary user: no capability, no set-id helper, a store and a saved machine in the home folder.
#[test]
fn an_ordinary_user_builds_with_an_appliance_of_its_own() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::with_fs(Fs::Xfs)));
    let home = home(&bench);
    let steps: String = (1..=3).map(|number| format!("    - run: 'echo {number} >> /steps; id -u'\n")).collect();
    let text = format!(
        "spec:\n  import:\n    download: {{url: base.img}}\n  steps:\n{steps}  export:\n    raw: {{path: out.img}}\n"
    );
    fs::write(home.join("t.yml"), text).unwrap();
    give(&home);
    let as_user = |arguments: &[&str]| {
        let mut command = as_user(&WITHOUT_RIGHTS);
        command
            .arg(home.join("virt-maker"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &home)
            .current_dir(&home);
        Ran::from(command.output().unwrap())
    };
    let ran = as_user(&["build", "t.yml", "--progress", "json"]).exits(0);
    assert_eq!(ran.of("session_started")[0]["engine"], "vm", "what `auto` takes for who is not root");
    assert_eq!(ran.said(), "0\n0\n0\n");
    assert_eq!(read_file_from_image(&home.join("out.img"), "/steps"), b"1\n2\n3\n");
    fsck_clean(&home.join("out.img"), "raw");
    before.assert_nothing_left();

    // What a kernel that only root may read means is said, with what to do.
    let kernel: PathBuf = home.join("vmlinuz-secret");
    fs::write(&kernel, "").unwrap();
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).unwrap();
    let ran = as_user(&["doctor", "--kernel", kernel.to_str().unwrap()]);
    assert!(ran.stdout.contains("vmlinuz-secret") && ran.stdout.contains("chmod"), "{}", ran.stdout);
}

/// A guest on LVM: `lvm` of the host opens it within the appliance. What it cannot open: `appliance/hosts.rs`.
#[test]
fn a_guest_on_lvm_in_the_appliance() {
    let base = lvm_guest(false);
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(base);
    let steps = [
        run("set -e; echo root > /one; echo data > /srv/one; echo more > /srv/more/one; df; df | grep -c /dev/mapper/"),
        run(
            "set -e; cat /one /srv/one /srv/more/one > /srv/all; dd if=/dev/zero of=/srv/more/big bs=1M count=4; sync; rm /srv/more/big",
        ),
    ];
    let template = bench.template("t.yml", &steps, "raw: {path: out.img}");
    let ran = bench.build("vm", &template, &[]).exits(0);
    assert_eq!(ran.of("session_started")[0]["engine"], "vm");
    assert_eq!(ran.of("warning").len(), 0, "{:?}", ran.of("warning"));
    before.assert_nothing_left();
    let sealed = ran.sealed();
    let first = bench.image(&sealed[sealed.len() - 2]);
    assert_eq!(files_of_clean_lvm(&first, &["/one", "/srv/one", "/srv/more/one"]), ["root", "data", "more"]);
    let out = bench.path("out.img");
    assert_eq!(files_of_clean_lvm(&out, &["/srv/all"]), ["root\ndata\nmore"]);
    // The next session begins with the sealed layer, and `auto` finds the engine that opens it.
    let more = [&steps[..], &[run("cat /srv/all")]].concat();
    let ran = bench.build("auto", &bench.template("u.yml", &more, ""), &[]).exits(0);
    assert_eq!(ran.of("session_started").last().unwrap()["engine"], "vm");
    assert_eq!((ran.steps("layer_started"), ran.said()), (vec![3], "root\ndata\nmore\n".to_owned()));
    before.assert_nothing_left();
}

/// Where `auto` begins with a virtual machine, what is in a guest does not bring it to the host's kernel. The machine of this
/// test is emulated, whatever it is told, and libguestfs is none.
#[test]
fn auto_does_not_go_from_an_appliance_to_chroot() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let mut bench = Bench::new(tiny_guest(&TinyOptions {
        partitioned: true,
        separate_home: true,
        fstab_extra: vec!["/dev/mapper/secret /srv ext4 defaults 0 2".to_owned()],
        ..TinyOptions::default()
    }));
    // What is in the first partition is closed, so what fstab names may be in there.
    let closed = bench.path("closed.raw");
    fs::copy(&bench.base, &closed).unwrap();
    let disk = fs::File::options().write(true).open(&closed).unwrap();
    disk.write_all_at(&[0; 8192], 1 << 20).unwrap();
    disk.write_all_at(b"LUKS\xba\xbe\0\x02", 1 << 20).unwrap();
    bench.base = closed;
    let programs = bench.path("programs");
    fs::create_dir(&programs).unwrap();
    let qemu = programs.join("qemu-system-x86_64");
    let script = "#!/bin/sh\nfor word; do\n  shift\n  case $word in kvm) word=tcg ;; host,migratable=on) word=max ;; esac\n  \
                  set -- \"$@\" \"$word\"\ndone\nexec /usr/bin/qemu-system-x86_64 \"$@\"\n";
    fs::write(&qemu, script).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(programs.join("libguestfs.so.0"), "").unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    let command = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command.env("PATH", &path).env("LD_LIBRARY_PATH", &programs);
        Ran::from(command.output().unwrap())
    };
    // What was found out about this host, with another answer.
    command(&["doctor"]);
    let known = bench.path("xdg-cache/virt-maker/kvm.json");
    let text = fs::read_to_string(&known).unwrap().replace("\"works\":false", "\"works\":true");
    fs::write(&known, text).unwrap();
    let template = bench.template("t.yml", &[run("true")], "");
    let ran = command(&["build", template.to_str().unwrap(), "--engine", "auto", "--progress", "json"]).exits(5);
    let engines: Vec<_> = ran.of("session_started").iter().map(|event| event["engine"].clone()).collect();
    assert_eq!(engines, ["vm"], "{}", ran.stderr);
    assert!(ran.stderr.contains("--engine chroot"), "{}", ran.stderr);
    before.assert_nothing_left();
}
