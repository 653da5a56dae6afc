//! Bad input, each with one clear error, the documented exit code, and nothing left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Bench, Ran, run};
use testkit::{HostState, Roots, TinyOptions, Victim, hostile_images, tiny_guest};

on_chroot_and_vm!(guests, steps);

/// A build that must fail with this exit code and these words, and leave nothing.
#[track_caller]
fn refused(bench: &Bench, template: &str, code: i32, words: &[&str]) {
    refused_by("chroot", bench, template, code, words);
}

#[track_caller]
fn refused_by(engine: &str, bench: &Bench, template: &str, code: i32, words: &[&str]) {
    let path = bench.path("bad.yml");
    fs::write(&path, template).unwrap();
    let ran = bench.run(&["build", path.to_str().unwrap(), "--progress", "plain", "--engine", engine]).exits(code);
    for word in words {
        assert!(ran.stderr.contains(word), "no `{word}` in:\n{}", ran.stderr);
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

fn base(path: &std::path::Path) -> String {
    format!("spec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    - run: 'true'\n", path.display())
}

#[test]
fn templates() {
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    bench.run(&["build", "missing.yml"]).exits(1);
    bench.run(&["build"]).exits(2);
    bench.run(&["build", "--engine", "warp", "x.yml"]).exits(2);
    refused(&bench, "", 1, &["bad.yml"]);
    refused(&bench, "spec: [", 1, &["bad.yml:2:1", "not YAML"]);
    refused(&bench, "spec:\n  steps: []\n", 1, &["bad.yml:", "import"]);
    refused(&bench, "spec:\n  import:\n    downlod: {url: x}\n", 1, &["bad.yml:3:5", "downlod", "download"]);
    refused(&bench, "spec:\n  import:\n    download: {url: [x]}\n", 1, &["bad.yml:3:21", "string"]);
    refused(&bench, "spec:\n  import:\n    download: {url: x}\n  steps:\n    - rum: ls\n", 1, &["bad.yml:5:7", "run"]);
}

#[test]
fn bases() {
    let before = HostState::capture();
    let guest = tiny_guest(&TinyOptions::default());
    let bench = Bench::new(guest.clone());
    refused(&bench, &base(&bench.path("missing.img")), 1, &["missing.img"]);

    let page = bench.path("page.img");
    fs::write(&page, "<html>not found</html>".repeat(100)).unwrap();
    refused(&bench, &base(&page), 1, &["page.img"]);

    let other = bench.path("other.vmdk");
    let mut create = std::process::Command::new("qemu-img");
    create.args(["create", "-q", "-f", "vmdk"]).arg(&other).arg("1M");
    assert!(create.status().unwrap().success());
    refused(&bench, &base(&other), 1, &["other.vmdk", "VMDK", "qemu-img convert"]);

    let mut wrong = base(&guest);
    wrong = wrong.replace("'}", &format!("', checksum: 'sha256:{}'}}", "0".repeat(64)));
    refused(&bench, &wrong, 1, &["checksum", &"0".repeat(64)]);

    // Images that mean harm, or more than we know.
    let victim = Victim::new();
    for image in hostile_images(&guest, bench.folder.path(), &victim.secret()) {
        refused(&bench, &base(&image.path), 1, image.words);
        victim.assert_untouched(image.name);
    }
    assert!(bench.layers().is_empty());
    before.assert_nothing_left();
}

fn guests(engine: &str) {
    let before = HostState::capture();
    let fstab = |line: &str| TinyOptions { fstab_extra: vec![line.into()], ..TinyOptions::default() };
    let warned =
        |ran: &Ran, text: &str| ran.of("warning").iter().any(|event| event["message"].as_str().unwrap().contains(text));
    let bench = Bench::new(tiny_guest(&fstab("LABEL=absent /data ext4 defaults,nofail 0 2")));
    let template = bench.template("t.yml", &[run("true")], "");
    assert!(warned(&bench.build(engine, &template, &[]).exits(0), "/data"));
    // A disk that a step names, and that is not there: it is said, and the guest goes on to be opened.
    let one =
        run("set -e; mkdir /data; for i in UUID=00000000-1111-2222-3333-444444444444 /dev/sdb1 /dev/disk/by-id/x; do \
                   echo $i /data ext4 defaults 0 2 >> /etc/fstab; done");
    let wrote = bench.build(engine, &bench.template("t.yml", std::slice::from_ref(&one), ""), &[]).exits(0);
    let ran = bench.build(engine, &bench.template("t.yml", &[one.clone(), run("true")], ""), &[]).exits(0);
    for name in ["UUID=00000000-1111-2222-3333-444444444444", "/dev/sdb1", "/dev/disk/by-id/x"] {
        assert!(warned(&ran, &format!("{name} on /data")), "{name} {:?}", ran.of("warning"));
        // By the step that wrote it, with its place. What the guest had before is not said again.
        let said = |event: &&&serde_json::Value| {
            let message = event["message"].as_str().unwrap();
            message.contains("t.yml:5:")
                && message.contains(&format!("{name} on /data"))
                && message.contains("`nofail`")
        };
        assert_eq!(wrote.of("warning").iter().filter(said).count(), 1, "{name} {:?}", wrote.of("warning"));
    }
    let placed = |ran: &Ran| {
        ran.of("warning").iter().filter(|event| event["message"].as_str().unwrap().contains(".yml:")).count()
    };
    assert_eq!((placed(&wrote), placed(&ran)), (3, 0), "{:?}", ran.of("warning"));
    // Without this one the tree would not be the guest's own. It can be looked at, and mended.
    let two = run("echo LABEL=gone /var ext4 defaults 0 2 >> /etc/fstab");
    let broken = bench.build(engine, &bench.template("t.yml", &[one.clone(), two.clone()], ""), &[]).exits(0);
    assert!(warned(&broken, "LABEL=gone on /var") && warned(&broken, "no other build can open this guest"));
    assert!(warned(&broken, "t.yml:6:") && !warned(&broken, "t.yml:5:"), "{:?}", broken.of("warning"));
    let ran = bench.build(engine, &bench.template("t.yml", &[one, two, run("true")], ""), &[]).exits(1);
    assert!(ran.stderr.contains("LABEL=gone on /var") || ran.stderr.contains("LABEL=gone at /var"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--keep-as"), "{}", ran.stderr);
    let key = broken.sealed().pop().unwrap();
    let ran = bench.run(&["cat", "--engine", engine, &key, "/etc/fstab"]).exits(0);
    assert!(ran.stdout.contains("LABEL=gone /var"), "{}", ran.stdout);

    // A disk without any Linux on it.
    let empty = bench.path("empty.img");
    fs::File::create(&empty).unwrap().set_len(16 << 20).unwrap();
    let made = std::process::Command::new("mkfs.ext4").arg("-q").arg(&empty).status().unwrap();
    assert!(made.success());
    refused_by(engine, &bench, &base(&empty), 1, &["root"]);

    let two = TinyOptions { partitioned: true, roots: Roots::Two, ..TinyOptions::default() };
    let two = tiny_guest(&two);
    refused_by(engine, &bench, &base(&two), 1, &["root", "partition", "`root: {device: LABEL=..., subvolume: ...}`"]);
    // The template says which one it is, for whatever opens the guest.
    let spec = |root: &str| {
        let path = bench.path("root.yml");
        let import = format!("{{disk: {{path: '{}'{root}}}}}", two.display());
        fs::write(&path, format!("format: 2\nspec:\n  import: {import}\n  steps: [run: 'echo x > /which']\n")).unwrap();
        path
    };
    let ran = bench.build(engine, &spec(", root: {device: /dev/sda2}"), &[]).exits(0);
    let ran = (bench.image(&ran.sealed()[1]), bench.run(&["cat", "--engine", engine, "root.yml", "/which"]).exits(0));
    assert_eq!(ran.1.stdout, "x\n", "{}", ran.0.display());
    let check = |more: &[&str]| bench.run(&[&["check", two.to_str().unwrap(), "--engine", engine], more].concat());
    let ran = check(&[]).exits(1);
    assert!(ran.stderr.contains("`--root` of `check`"), "{}", ran.stderr);
    let ran = check(&["--root", "/dev/sda2"]);
    assert!(matches!(ran.status, Some(0 | 10 | 11)), "{}", ran.stderr);
    let ran = check(&["--root", "sda2"]).exits(1);
    assert!(ran.stderr.contains("a device as an fstab names it"), "{}", ran.stderr);
    // The same of subvolumes, where the fstab names neither.
    let pool = two_subvolumes(&bench);
    let spec = |subvolume: &str| {
        let path = bench.path(&format!("{subvolume}.yml"));
        let root = format!("root: {{device: LABEL=pool, subvolume: {subvolume}}}");
        let import = format!("{{disk: {{path: '{}', {root}}}}}", pool.display());
        fs::write(&path, format!("format: 2\nspec:\n  import: {import}\n  steps: [run: cat /which]\n")).unwrap();
        path
    };
    let ran = bench.build(engine, &spec("three"), &[]).exits(1);
    assert!(ran.stderr.contains("subvolume three") && ran.stderr.contains("three.yml:3:"), "{}", ran.stderr);
    for subvolume in ["one", "two"] {
        let ran = bench.build(engine, &spec(subvolume), &[]).exits(0);
        assert_eq!(ran.of("output")[0]["text"], format!("{subvolume}\n"));
    }
    before.assert_nothing_left();
}

/// A btrfs with the trees of two guests, each in a subvolume and with its name in `/which`.
fn two_subvolumes(bench: &Bench) -> PathBuf {
    const MAKE: &str = "set -e; truncate -s 256M pool.img; mkfs.btrfs -q -L pool pool.img; mkdir pool tree
        mount -o loop pool.img pool; mount -o loop,ro \"$0\" tree
        for name in one two; do
            btrfs -q subvolume create pool/$name; cp -a tree/. pool/$name; echo $name > pool/$name/which
            echo 'LABEL=pool / btrfs subvol=none 0 0' > pool/$name/etc/fstab
        done; umount pool tree; rmdir pool tree";
    let mut make = Command::new("unshare");
    make.args(["--mount", "sh", "-c", MAKE]).arg(tiny_guest(&TinyOptions::default()));
    testkit::run(make.current_dir(bench.folder.path()));
    bench.path("pool.img")
}

/// A host with nothing but this program on it: what was asked for is named with its package, and so is what each
/// engine lacks.
#[test]
fn hosts() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[run("true")], "");
    let bare = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command.env("PATH", bench.path("nothing")).env("VIRT_MAKER_AGENT", bench.path("no-agent"));
        crate::common::Ran::from(command.output().unwrap()).exits(5)
    };
    let build = |engine| bare(&["build", template.to_str().unwrap(), "--engine", engine, "--progress", "plain"]);
    let ran = build("chroot");
    assert!(ran.stderr.contains("qemu-storage-daemon") && ran.stderr.contains("package"), "{}", ran.stderr);
    let ran = build("vm");
    assert!(ran.stderr.contains("qemu-system-x86") && ran.stderr.contains("package"), "{}", ran.stderr);
    let ran = build("libguestfs");
    assert!(ran.stderr.contains("qemu-system-x86"), "{}", ran.stderr);
    let ran = build("auto");
    assert!(ran.stderr.contains("chroot: ") && ran.stderr.contains("doctor"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    let ran = bare(&["doctor", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&found["version"], &found["auto"]), (&1.into(), &serde_json::Value::Null), "{found:#}");
    let checks = found["checks"].as_array().unwrap();
    let bwrap = checks.iter().find(|check| check["name"] == "bwrap").unwrap();
    assert_eq!((&bwrap["state"], &bwrap["package"]), (&"missing".into(), &"bubblewrap".into()));
    let engine = &found["engines"][0];
    assert_eq!((&engine["name"], &engine["works"]), (&"chroot".into(), &false.into()));
}

/// File systems on which locks fail, or do nothing: so it looks to the program under a tracer that answers for the kernel.
#[test]
fn a_store_without_working_locks_is_refused() {
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    bench.run(&["tree"]).exits(0);
    for (answer, words) in [("error=ENOLCK", "No locks available"), ("retval=0", "a second lock was given")] {
        let program = bench.command(&["tree"]);
        let mut traced = std::process::Command::new("strace");
        traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", &format!("inject=flock:{answer}")]);
        traced.arg(program.get_program()).args(program.get_args()).current_dir(bench.folder.path());
        traced.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = crate::common::Ran::from(traced.output().unwrap()).exits(6);
        for words in ["has no working locks", words, "--store"] {
            assert!(ran.stderr.contains(words), "{}", ran.stderr);
        }
    }
    bench.run(&["tree"]).exits(0);
}

fn steps(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let failing = |script: &str, words: &str| {
        let template = bench.template("t.yml", &[run(script)], "");
        let ran = bench.build(engine, &template, &[]).exits(4);
        let failure = &ran.of("step_failed")[0]["failure"];
        let all = format!("{} {}", failure["exit"], failure["last_lines"]);
        assert!(all.contains(words), "no `{words}` in {all}");
    };
    failing("exit 7", "exit status 7");
    failing("kill -9 $$", "signal 9");
    failing("/no/such/program", "127");
    failing("dd if=/dev/zero of=/big bs=1M count=100000", "No space left");
    failing("#!/no/such/interpreter\nx", "");
    // A number that another user has; and, on each engine, a program that looks for the guest's services.
    let template = bench.template("t.yml", &["user: {name: new, uid: 1000}".to_owned()], "");
    let ran = bench.build(engine, &template, &[]).exits(4);
    assert!(ran.stderr.contains("the number 1000 is taken: `tiny` of the guest has it"), "{}", ran.stderr);
    // It is said in the words of the real ones: the tiny guest has none of them.
    for (script, words) in [
        (
            "hostnamectl() { echo 'System has not been booted with systemd as init system' >&2; exit 1; }; hostnamectl x",
            "use the step `hostname`",
        ),
        (
            "get() { echo \"E: Unable to locate package $1\"; exit 100; }; get linux-headers-$(uname -r)",
            "`linux-headers-$GUEST_KERNEL`",
        ),
        (
            "dnf() { echo \"No match for argument: $1\" >&2; exit 1; }; dnf kernel-devel-$(uname -r)",
            "`linux-headers-$GUEST_KERNEL`",
        ),
        (
            "[ -d /lib/modules/$(uname -r) ] || { echo \"mkinitramfs: missing /lib/modules/$(uname -r)\"; exit 1; }",
            "$GUEST_KERNEL",
        ),
    ] {
        let ran = bench.build(engine, &bench.template("t.yml", &[run(script)], ""), &[]).exits(4);
        assert!(ran.stderr.contains(words), "{script}: {}", ran.stderr);
    }

    // A file that is locked, and programs of another processor: the guest's own words name neither.
    let own = fs::read(&bench.base).unwrap();
    let image = bench.path("locked.raw");
    fs::write(&image, &own).unwrap();
    testkit::run(Command::new("debugfs").args(["-w", "-R", "set_inode_field /etc/hosts flags 0x80010"]).arg(&image));
    for step in [
        "edit: {path: /etc/hosts, match: tiny, replace: x}",
        "file: {path: /etc/hosts, content: x}",
        "delete: /etc/hosts",
    ] {
        refused_by(engine, &bench, &base(&image).replace("run: 'true'", step), 4, &["it is immutable", "chattr -i"]);
    }
    let busybox = "/bin/busybox";
    let mut program = fs::read(busybox).unwrap();
    program[18] = if program[18] == 62 { 183 } else { 62 };
    let files = vec![(busybox.to_owned(), program, 0o755)];
    let foreign = tiny_guest(&TinyOptions { files, ..TinyOptions::default() });
    let words = ["the guest's programs are for ", "and this machine is ", std::env::consts::ARCH];
    refused_by(engine, &bench, &base(&foreign), 4, &words);

    // Daemons that a step leaves behind are gone before its layer is sealed, and do not hold the build up.
    let daemon = run("(setsid sleep 1000 </dev/null >/dev/null 2>&1 &); sleep 1000 & echo left");
    let template = bench.template("t.yml", &[daemon, run("ps | grep -c '[s]leep 1000' || true")], "");
    let ran = bench.build(engine, &template, &[]).exits(0);
    let texts = ran.said();
    assert_eq!(texts, "left\n0\n");
    before.assert_nothing_left();
}

/// What doctor says of this host, on which the tests of all engines run.
#[test]
fn doctor_agrees_with_the_engines() {
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    let home = tempfile::tempdir().unwrap();
    let mut doctor = bench.command(&["doctor", "--json"]);
    doctor.env("HOME", home.path()).env("XDG_CACHE_HOME", home.path().join("cache"));
    let ran = crate::common::Ran::from(doctor.output().unwrap()).exits(0);
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.collect::<Vec<_>>()
    };
    assert_eq!(names(home.path()), ["cache"], "programs that are asked for their versions leave nothing");
    let own = names(&home.path().join("cache/virt-maker"));
    assert!(!own.iter().any(|name| name.starts_with("doctor")), "{own:?}");
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    for engine in found["engines"].as_array().unwrap() {
        assert_eq!(engine["works"], true, "{engine}");
    }
    let needed =
        ["qemu-img", "qemu-storage-daemon", "bwrap", "FUSE export", "/dev/fuse", "/dev/loop-control", "libguestfs"];
    for name in needed {
        let check = found["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
        assert_eq!(check.unwrap_or_else(|| panic!("no check of {name}"))["state"], "works", "{name}");
    }
    assert!(found["auto"]["engine"].is_string());
}

/// What a guest says is data: no escape sequence of its reaches the terminal.
#[test]
fn terminal_escapes_are_shown_not_obeyed() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[run("printf '\\033]0;owned\\007\\033[2J'; exit 1")], "");
    let ran = bench.run(&["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "plain", "-v"]);
    let ran = ran.exits(4);
    assert!(!ran.stderr.contains('\x1b') && !ran.stdout.contains('\x1b'), "{:?}", ran.stderr);
    assert!(ran.stderr.contains("owned"));
}
