//! Hosts that lack things: KVM that does not work, no `/dev/kvm` at all, no `lvm`, no root.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use testkit::{HostState, TinyOptions, appliance_lock, fsck_clean, lvm_guest, read_file_from_image, tiny_guest};

use crate::common::user::{WITHOUT_RIGHTS, as_user, give, home, put_base};
use crate::common::{Bench, Ran, run};

/// A container as people run builds in: no root, no capability, no `/dev/kvm`, no network of the host's, a kernel package
/// in it, and here no `lvm`. A build makes its appliance and runs; a guest on LVM is told what is missing.
#[test]
fn a_container_without_kvm_and_lvm_builds_with_an_appliance() {
    let guest_on_lvm = lvm_guest(false);
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let home = home(&bench);
    let text = "spec:\n  import:\n    download: {url: base.img}\n  steps:\n    - run: 'id -u > /one; echo said'\n  \
                export:\n    raw: {path: out.img}\n";
    fs::write(home.join("t.yml"), text).unwrap();
    give(&home);
    let in_container = |arguments: &[&str]| {
        let mut command = as_user(&WITHOUT_RIGHTS);
        command.args(["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]);
        for folder in ["/usr", "/etc", "/boot"] {
            command.args(["--ro-bind", folder, folder]);
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            command.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
        }
        // A file that is none takes the place of the program.
        command.args([
            "--ro-bind",
            "/dev/null",
            "/usr/sbin/lvm",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--tmpfs",
            "/tmp",
        ]);
        command.arg("--bind").arg(&home).arg("/home/user").args(["--chdir", "/home/user"]);
        command.args(["--setenv", "HOME", "/home/user", "--setenv", "PATH", "/usr/bin:/bin"]);
        Ran::from(command.arg("/home/user/virt-maker").args(arguments).output().unwrap())
    };
    let doctor = in_container(&["doctor"]).exits(0);
    assert!(doctor.stdout.contains("missing  KVM: /dev/kvm cannot be opened"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("missing  lvm: ") && doctor.stdout.contains("`lvm2`"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("`auto` takes vm"), "{}", doctor.stdout);

    let ran = in_container(&["build", "t.yml", "--progress", "json"]).exits(0);
    assert_eq!(ran.of("session_started")[0]["engine"], "vm");
    assert_eq!(read_file_from_image(&home.join("out.img"), "/one"), b"0\n");
    fsck_clean(&home.join("out.img"), "raw");
    before.assert_nothing_left();

    put_base(&home, &guest_on_lvm);
    give(&home);
    let ran = in_container(&["build", "t.yml", "--engine", "vm", "--progress", "json"]);
    assert!(ran.stderr.contains("the host lacks it (package lvm2)"), "{}", ran.stderr);
    assert!(!matches!(ran.status, Some(0 | 101)), "{:?}", ran.status);
    before.assert_nothing_left();
}

/// An ordinary user with a guest that `vm` cannot open as a whole: `auto` goes on with libguestfs, and says so.
#[test]
fn auto_goes_on_from_an_appliance_to_libguestfs_for_an_ordinary_user() {
    let base = lvm_guest(true);
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(base);
    let home = home(&bench);
    let text = format!(
        "spec:\n  import:\n    download: {{url: base.img}}\n  steps:\n    - {}\n  export:\n    raw: {{path: out.img}}\n",
        run("echo 1 > /srv/one")
    );
    fs::write(home.join("t.yml"), text).unwrap();
    give(&home);
    let build = |engine: &str| {
        let mut command = as_user(&WITHOUT_RIGHTS);
        command.arg(home.join("virt-maker")).args(["build", "t.yml", "--progress", "json", "--engine", engine]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &home).current_dir(&home);
        Ran::from(command.output().unwrap())
    };
    let ran = build("vm");
    assert!(ran.status != Some(0) && ran.stderr.contains("libguestfs"), "{:?} {}", ran.status, ran.stderr);
    let ran = build("auto").exits(0);
    let engines: Vec<&Value> = ran.of("session_started").iter().map(|event| &event["engine"]).collect();
    assert_eq!(engines, ["vm", "libguestfs"]);
    let warnings: Vec<String> = ran.of("warning").iter().map(|event| event["message"].to_string()).collect();
    assert!(warnings.iter().any(|text| text.contains("lvm vgchange") && text.contains("libguestfs")), "{warnings:?}");
    assert_eq!(testkit::files_of_clean_lvm(&home.join("out.img"), &["/srv/one"]), ["1"]);
    before.assert_nothing_left();
}

/// A `/dev/kvm` that opens says little: a virtual CPU is tried, once per boot of the host and per qemu. Where the trial
/// fails, whatever way, the CPU is emulated, and `doctor` says why.
#[test]
fn kvm_is_tried_once_per_boot() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let (tools, log) = (bench.path("tools"), bench.path("calls"));
    fs::create_dir(&tools).unwrap();
    let qemu = tools.join("qemu-system-x86_64");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n  *accel=kvm*) echo trial >> {}; echo 'kvm_arch_put_registers: Assertion failed' >&2; exit 134;;\nesac\nexec /usr/bin/qemu-system-x86_64 \"$@\"\n",
        log.display()
    );
    fs::write(&qemu, script).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let doctor = || {
        let mut command = bench.command(&["doctor", "--json"]);
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display()));
        let ran = Ran::from(command.output().unwrap()).exits(0);
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        let checks = document["checks"].as_array().unwrap();
        let kvm = checks.iter().find(|check| check["name"] == "KVM").unwrap().clone();
        (kvm["state"].as_str().unwrap().to_owned(), kvm["detail"].as_str().unwrap().to_owned(), document)
    };
    let trials = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    let opens = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let (state, detail, document) = doctor();
    assert_eq!(state, "missing");
    assert!(detail.contains(if opens { "Assertion failed" } else { "cannot be opened" }), "{detail}");
    assert!(detail.contains("emulated"), "{detail}");
    // Root has an engine that needs no virtual machine.
    assert_eq!(document["auto"]["engine"], "chroot");
    assert_eq!(trials(), usize::from(opens));
    assert_eq!(doctor().1, detail);
    assert_eq!(trials(), usize::from(opens), "the answer is kept");

    // What was true at another boot is not looked at.
    let kept = bench.path("xdg-cache/virt-maker/kvm.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = fs::read_to_string(&kept).unwrap();
    assert!(text.contains(boot.trim()), "{text}");
    fs::write(&kept, text.replace(boot.trim(), "another").replace("false", "true")).unwrap();
    assert_eq!(doctor().0, "missing");
    assert_eq!(trials(), 2 * usize::from(opens));
}

/// `doctor --measure` starts the machine and says how long each part took.
#[test]
fn doctor_measures_the_appliance() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let ran = bench.run(&["doctor", "--measure", "--json"]).exits(0);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    for name in ["boot", "made", "restore", "disk", "memory"] {
        assert!(document["measured"][name].as_f64().unwrap() > 0.0, "{name}: {}", document["measured"]);
    }
    let text = bench.run(&["doctor", "--measure"]).exits(0).stdout;
    assert!(text.contains("engine vm: booted in ") && text.contains("restored and answering in "), "{text}");
    let left: Vec<_> = fs::read_dir(bench.path("xdg-cache/virt-maker"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("measure-"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    before.assert_nothing_left();
}
