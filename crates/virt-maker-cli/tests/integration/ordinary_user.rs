//! Whoever is not root: engine `libguestfs`, a store in the home folder, and no right that others lack.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::common::user::{self, USER, WITHOUT_RIGHTS, give, home};
use crate::common::{Bench, Ran, image_of, run};
use testkit::{Fs, HostState, TinyOptions, appliance_lock, fsck_clean, read_file_from_image, tiny_guest};

/// Runs the program as an ordinary user whose home is in this bench's folder, and who can gain no right by any program.
fn as_user(bench: &Bench, arguments: &[&str]) -> Ran {
    Ran::from(user(bench, &WITHOUT_RIGHTS, arguments).output().unwrap())
}

fn user(bench: &Bench, rights: &[&str], arguments: &[&str]) -> Command {
    let home = bench.path("home");
    let mut command = user::as_user(rights);
    command
        .arg(home.join("virt-maker"))
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", &home)
        .current_dir(&home);
    command
}

/// Ten steps; what the seventh writes can be changed.
fn template(bench: &Bench, seventh: &str) {
    let mut text = "spec:\n  import:\n    download: {url: base.img}\n  steps:\n".to_owned();
    for number in 1..=10 {
        let word = if number == 7 { seventh.to_owned() } else { number.to_string() };
        let script = format!(
            "set -e; echo {word} >> /steps; dd if=/dev/urandom of=/data bs=4k count=100 2>/dev/null; md5sum /data"
        );
        text.push_str(&format!("    - {}\n", run(&script)));
    }
    text.push_str("  export:\n    raw: {path: out.img}\n");
    fs::write(bench.path("home/t.yml"), text).unwrap();
    give(&bench.path("home"));
}

#[test]
fn ten_steps_with_libguestfs_take_one_session_and_an_edit_runs_only_what_follows() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::with_fs(Fs::Xfs)));
    home(&bench);
    template(&bench, "7");
    let first = as_user(&bench, &["build", "t.yml", "--progress", "json", "--engine", "libguestfs"]).exits(0);
    let sessions = first.of("session_started");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0]["engine"], "libguestfs");
    assert_eq!(first.steps("layer_started"), (0..=10).collect::<Vec<_>>());

    // Every layer is clean, and holds what its step said that it wrote, as another program reads it.
    let store = bench.path("home/.cache/virt-maker/store");
    let sealed = first.sealed();
    assert_eq!(sealed.len(), 11);
    for (depth, key) in sealed.iter().enumerate().skip(1) {
        let layer = store.join("layers").join(key);
        assert_eq!(fs::metadata(&layer).unwrap().uid(), USER);
        let image = image_of(&store, key);
        fsck_clean(&image, "qcow2");
        if depth % 3 == 1 {
            let log = fs::read_to_string(layer.join("log.txt")).unwrap();
            let (sum, path) = log.trim_end().split_once("  ").unwrap();
            assert_eq!(testkit::md5(&read_file_from_image(&image, path)), sum, "at depth {depth}");
        }
    }

    template(&bench, "seven");
    let edited = as_user(&bench, &["build", "t.yml", "--progress", "json", "--engine", "libguestfs"]).exits(0);
    assert_eq!(edited.of("session_started").len(), 1);
    assert_eq!(edited.steps("layer_started"), [7, 8, 9, 10]);
    let text = read_file_from_image(&bench.path("home/out.img"), "/steps");
    assert_eq!(String::from_utf8(text).unwrap(), "1\n2\n3\n4\n5\n6\nseven\n8\n9\n10\n");
    before.assert_nothing_left();
}

/// `mount` works through the set-uid `fusermount3`, for the user alone; where that may not gain rights there is one error.
#[test]
fn a_layer_of_an_appliance_is_mounted_by_its_user() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    home(&bench);
    // The saved machine of the tests is root's, so the user has one of their own.
    fs::write(
        bench.path("home/t.yml"),
        "spec:\n  import:\n    download: {url: base.img}\n  steps:\n    - run: mkdir /d; echo one > /d/one; chmod 600 /d/one\n",
    )
    .unwrap();
    let at = bench.path("home/at");
    fs::create_dir(&at).unwrap();
    give(&bench.path("home"));
    as_user(&bench, &["build", "t.yml", "--engine", "vm"]).exits(0);
    let denied = as_user(&bench, &["mount", "t.yml", "at", "--engine", "vm"]).exits(5);
    assert!(
        denied.stderr.contains("fusermount3") && denied.stderr.matches("error: ").count() == 1,
        "{}",
        denied.stderr
    );

    let mut command = user(&bench, &[], &["mount", "t.yml", "at", "--engine", "vm"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let line =
        BufReader::new(child.stdout.take().unwrap()).lines().next().expect("it says where the layer is").unwrap();
    assert!(line.contains("Ctrl-C"), "{line}");
    let cat = |user: u32| {
        let rights = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()];
        Command::new("setpriv").args(rights).arg("cat").arg(at.join("d/one")).output().unwrap()
    };
    assert_eq!(String::from_utf8_lossy(&cat(USER).stdout), "one\n");
    assert!(!cat(USER - 1).status.success(), "it is nobody else's");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    before.assert_nothing_left();
}

#[test]
fn engine_chroot_says_that_it_needs_root() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    home(&bench);
    template(&bench, "7");
    let ran = as_user(&bench, &["build", "t.yml", "--engine", "chroot", "--progress", "plain"]).exits(5);
    assert!(ran.stderr.contains("needs root") && ran.stderr.contains("hint: "), "{}", ran.stderr);
}
