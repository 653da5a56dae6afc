//! A stranger's project: somebody cloned it and runs virt-maker in it, as root. Whatever it tries, a folder of the host that it
//! aims at is never opened, read or written, nothing of the host changes, and nobody is reached over the host's own network.
//!
//! Each member is a way that was open once, or a neighbour of one. `docs/security.md` has the promises.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;
use testkit::{HOST_FILE_WAYS, HostState, Victim, host_file_way, looks_for_an_image};

use crate::Options;
use crate::random::Random;
use crate::world::{Ran, World};

pub fn run(options: &Options, _: &mut Random) -> String {
    let engines: &[&str] = if options.short { &["chroot"] } else { &["chroot", "vm", "libguestfs"] };
    let mut members = 0;
    for engine in engines {
        let _turn = testkit::appliance_lock();
        let before = HostState::capture();
        let project = Project::new(&options.binary, engine);
        members += stores(&project) + inputs(&project) + outputs(&project) + settings(&project) + steps(&project);
        before.assert_nothing_left();
        println!("stranger: done on {engine}");
    }
    format!("{members} ways on {}, and none of them reached the host", engines.join(", "))
}

struct Project<'a> {
    world: World,
    victim: Victim,
    folder: PathBuf,
    engine: &'a str,
}

impl<'a> Project<'a> {
    fn new(binary: &Path, engine: &'a str) -> Project<'a> {
        let mut world = World::new(binary);
        // Elsewhere than the project: the user of this world lets templates write there.
        world.place = world.path("place");
        fs::create_dir(&world.place).expect("the folder is ours");
        let folder = world.path("clone");
        fs::create_dir_all(folder.join("sub")).expect("the folder is ours");
        for name in ["keys", "tree"] {
            fs::write(folder.join(name), "").expect("the folder is ours");
        }
        Project { world, victim: Victim::new(), folder, engine }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("the folder is ours");
    }

    fn victim(&self) -> &str {
        self.victim.path().to_str().expect("a path of ours is text")
    }

    fn secret(&self) -> String {
        format!("{}/secret", self.victim())
    }

    /// Runs the program in the project; with its own store only where `own` says so.
    fn run(&self, arguments: &[&str], own: bool) -> Ran {
        let mut command = self.world.command(arguments);
        command.current_dir(&self.folder);
        if own {
            command.env_remove("VIRT_MAKER_STORE");
        }
        Ran::from(command.output().expect("the program starts"))
    }

    /// The same, which has to end with this code and to say `words`, and touches nothing of the host.
    #[track_caller]
    fn refused(&self, what: &str, arguments: &[&str], own: bool, code: i32, words: &str) {
        let ran = self.run(arguments, own);
        assert_eq!(ran.code, Some(code), "{what}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{what}: no `{words}` in {}", ran.stderr);
        self.untouched(what, &ran);
    }

    #[track_caller]
    fn untouched(&self, what: &str, ran: &Ran) {
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains(Victim::SECRET), "{what}: {said}");
        self.victim.assert_untouched(what);
    }

    fn build(&self) -> [&str; 6] {
        ["build", "t.yml", "--engine", self.engine, "--progress", "plain"]
    }
}

/// A store that came with the project: links in it that lead to somebody's files, and layers that nobody of this host made.
fn stores(project: &Project<'_>) -> usize {
    project.write("virt-maker.toml", "store = 'cache'\n");
    let import = json!({ "download": { "url": project.world.base() } });
    project.write("t.yml", &json!({ "spec": { "import": import, "steps": [{ "run": "true" }] } }).to_string());
    let cache = project.folder.join("cache");
    let parts =
        ["locks", "images", "tmp", "layers", "leases", "tags", "pins", "builds", "exports", "logs", "kept", "cache"];
    let mut members = 0;
    for part in parts {
        for marked in [true, false] {
            let _ = fs::remove_dir_all(&cache);
            fs::create_dir(&cache).expect("the folder is ours");
            for other in parts.iter().filter(|other| **other != part) {
                fs::create_dir(cache.join(other)).expect("the folder is ours");
            }
            symlink(project.victim(), cache.join(part)).expect("the folder is ours");
            if marked {
                fs::write(cache.join("store.json"), "{\"format\": 4}\n").expect("the folder is ours");
            }
            for arguments in [&["tree"][..], &project.build(), &["cache", "gc"], &["cache", "usage"]] {
                let ran = project.run(arguments, true);
                assert_eq!(ran.code, Some(6), "{part} as a link, {arguments:?}: {}", ran.stderr);
                project.untouched(part, &ran);
                members += 1;
            }
        }
    }
    // A whole store, as another user's program made it.
    let _ = fs::remove_dir_all(&cache);
    let made = project
        .world
        .command(&project.build())
        .current_dir(&project.folder)
        .env("XDG_STATE_HOME", project.world.path("other"))
        .env("VIRT_MAKER_STORE", &cache)
        .output();
    assert!(made.expect("the program starts").status.success(), "the other user's build");
    for arguments in [&["tree"][..], &project.build(), &["cache", "gc"]] {
        project.refused("a store of somebody else's", arguments, true, 6, "store");
        members += 1;
    }
    fs::remove_file(project.folder.join("virt-maker.toml")).expect("it is there");
    members
}

fn inputs(project: &Project<'_>) -> usize {
    symlink(project.victim(), project.folder.join("link")).expect("the folder is ours");
    let ways = [project.secret(), format!("{}/link/secret", project.folder.display())];
    let mut members = 0;
    for (what, text) in HOST_FILE_WAYS {
        for path in &ways {
            project.write("t.yml", &host_file_way(text, project.world.base(), path));
            let ran = project.run(&[&project.build()[..], &["--allow", "host-exec"]].concat(), false).exits(1);
            if looks_for_an_image(text) {
                project.victim.forget();
            }
            project.untouched(what, &ran);
            members += 1;
        }
    }
    members
}

fn outputs(project: &Project<'_>) -> usize {
    let paths = [
        format!("{}/out", project.victim()),
        project.secret(),
        "link/out".into(),
        "../out".into(),
        ".git/hooks/post-checkout".into(),
        ".bashrc".into(),
    ];
    let mut members = 0;
    for path in &paths {
        for kind in ["raw", "qcow2", "tar", "dir", "ova"] {
            let spec = json!({ "import": { "download": { "url": project.world.base() } }, "export": { kind: { "path": path, "create_dir": true } } });
            project.write("t.yml", &json!({ "spec": spec }).to_string());
            let arguments = [&project.build()[..], &["--force-export"]].concat();
            project.refused(&format!("{kind} to {path}"), &arguments, false, 1, "may not write");
            members += 1;
        }
    }
    assert!(!project.world.path("out").exists());
    members
}

/// What a project's own file says for itself.
fn settings(project: &Project<'_>) -> usize {
    let text = format!(
        "allow = ['read={0}', 'write={0}', 'env=HOME', 'host-exec', 'net', 'host-network', 'unverified']\nengine = 'chroot'\n\
         store = '{0}'\nkernel = '{0}/secret'\n",
        project.victim()
    );
    project.write("virt-maker.toml", &text);
    let spec = json!({ "import": { "download": { "url": project.world.base() } }, "steps": [{ "local_run": format!("cat {}", project.secret()) }] });
    project.write("t.yml", &json!({ "spec": spec }).to_string());
    project.refused("settings", &project.build(), false, 1, "a project cannot decide this by itself");
    fs::remove_file(project.folder.join("virt-maker.toml")).expect("it is there");
    1
}

/// What a step tries from within the guest.
fn steps(project: &Project<'_>) -> usize {
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    let loopback = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    for listener in [&everywhere, &loopback] {
        listener.set_nonblocking(true).expect("a socket of ours");
    }
    let ports = [&everywhere, &loopback].map(|listener| listener.local_addr().expect("a socket of ours").port());
    let null = fs::metadata("/dev/null").expect("the host has it");
    let command_line = fs::read_to_string("/proc/cmdline").expect("the host has it");
    let mark = command_line.split_whitespace().max_by_key(|word| word.len()).unwrap_or("no such word").to_owned();
    let script = format!(
        "for fd in /proc/self/fd/*; do touch $fd/reached 2>/dev/null && echo REACHED $fd; done
for path in {victim} /proc/1/root{victim} /proc/self/root/../..{victim}; do cat $path/secret 2>/dev/null && echo REACHED $path; touch $path/x 2>/dev/null && echo REACHED $path; done
chmod 600 /dev/null; chown 7 /dev/null; chmod 666 /dev/null
mknod /tmp/disk b 8 0; dd if=/tmp/disk of=/dev/null bs=512 count=1 2>/dev/null && echo REACHED a disk; rm -f /tmp/disk
mount -t tmpfs none /mnt 2>/dev/null && echo REACHED mount
echo b > /proc/sysrq-trigger 2>/dev/null && echo REACHED sysrq; echo x > /proc/sys/kernel/hostname 2>/dev/null && echo REACHED sysctl
cat /proc/cmdline
for address in 127.0.0.1:{0} 127.0.0.1:{1} 169.254.2.2:{0} 169.254.2.2:{1} 169.254.169.254:80; do
  nc -w 2 ${{address%:*}} ${{address#*:}} </dev/null >/dev/null 2>&1 && echo REACHED $address; done
true",
        ports[0],
        ports[1],
        victim = project.victim(),
    );
    let spec = json!({ "import": { "download": { "url": project.world.base() } }, "steps": [{ "run": script, "network": "on" }] });
    project.write("t.yml", &json!({ "spec": spec }).to_string());
    let arguments = [&project.build()[..], &["-v"]].concat();
    let ran = project.run(&arguments, false).exits(0);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!said.contains("REACHED"), "{said}");
    assert!(!said.contains(&mark), "the host's command line is in the guest: {said}");
    project.untouched("a step", &ran);
    for listener in [&everywhere, &loopback] {
        assert_eq!(listener.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
    }
    let after = fs::metadata("/dev/null").expect("the host has it");
    assert_eq!(
        (null.mode(), null.uid(), null.ctime()),
        (after.mode(), after.uid(), after.ctime()),
        "/dev/null of the host"
    );
    assert_eq!(after.permissions().mode() & 0o777, 0o666);
    1
}
