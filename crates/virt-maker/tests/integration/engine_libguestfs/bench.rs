//! A store with a base of its own, sessions on it, and looks at what they leave.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virt_maker::disk::ImageFormat;
use virt_maker::engine::libguestfs::{LibguestfsEngine, LibguestfsOptions};
use virt_maker::engine::{CacheDisk, Engine, Image, OpenRequest, Session};
use virt_maker::error::{Error, Result};
use virt_maker::event::Events;
use virt_maker::guest::{Exit, Run};
use virt_maker::host::Cancel;

const SIZE_MIB: u64 = 64;
pub const PLAIN_FSTAB: &str = "/dev/sda1 / ext4 defaults 0 1\nLABEL=data /data ext4 defaults 0 2\n";

/// A store of one base and its overlays, and what a session needs.
pub struct Bench {
    pub top: tempfile::TempDir,
    pub log: Arc<Mutex<Vec<u8>>>,
    pub events: Arc<Mutex<Vec<String>>>,
    pub cancel: Cancel,
    _lock: testkit::ApplianceLock,
}

pub fn tool(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

impl Bench {
    /// With a base whose second file system is labelled `data`; `second_root` makes that look like a system, too.
    pub fn new(fstab: &str, second_root: bool) -> Bench {
        let lock = testkit::appliance_lock();
        let top = tempfile::tempdir().unwrap();
        for name in ["store", "work", "root", "second"] {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        let bench = Bench { top, log: Arc::default(), events: Arc::default(), cancel: Cancel::default(), _lock: lock };
        bench.make_base(fstab, second_root);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn make_base(&self, fstab: &str, second_root: bool) {
        let root = self.path("root");
        for folder in ["bin", "etc", "proc", "sys", "dev", "run", "tmp", "usr/sbin", "root", "data"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in tool("/bin/busybox", &["--list"]).lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let release = "ID=tiny\nVERSION_ID=\"7\"\nPRETTY_NAME=\"Tiny 7\"\n";
        fs::write(root.join("etc/os-release"), release).unwrap();
        fs::write(root.join("etc/fstab"), fstab).unwrap();
        fs::write(root.join("etc/hostname"), "tiny-host\n").unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.99\n").unwrap();
        std::os::unix::fs::symlink("/", root.join("root/out")).unwrap();
        if second_root {
            fs::create_dir_all(self.path("second/etc")).unwrap();
            fs::create_dir_all(self.path("second/usr")).unwrap();
            fs::write(self.path("second/etc/os-release"), release).unwrap();
        }
        let (disk, layout) = (self.text("disk.raw"), self.text("layout"));
        File::create(&disk).unwrap().set_len(SIZE_MIB << 20).unwrap();
        fs::write(&layout, "label: dos\nstart=2048,size=81920,type=83\nstart=83968,size=16384,type=83\n").unwrap();
        tool("sh", &["-c", "sfdisk -q --no-reread --no-tell-kernel \"$0\" <\"$1\"", &disk, &layout]);
        for (folder, label, size, at) in [("root", "top", "40M", 1), ("second", "data", "8M", 41)] {
            let image = self.text("fs.img");
            let folder = self.text(folder);
            tool("mke2fs", &["-q", "-F", "-t", "ext4", "-L", label, "-d", &folder, &image, size]);
            let seek = format!("seek={at}");
            tool("dd", &[&format!("if={image}"), &format!("of={disk}"), "bs=1M", &seek, "conv=notrunc"]);
            fs::remove_file(image).unwrap();
        }
        tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &disk, &self.text("store/base.qcow2")]);
        fs::remove_file(disk).unwrap();
    }

    /// An empty overlay as the store makes it: in a temporary folder, with a header that names its backing file as
    /// it will lie in the end.
    pub fn overlay(&self, name: &str, backing: &str) -> PathBuf {
        fs::create_dir_all(self.path("store/temporary")).unwrap();
        let path = self.path(&format!("store/temporary/{name}.qcow2"));
        let (backing, size) = (format!("{backing}.qcow2"), format!("{SIZE_MIB}M"));
        let file = path.to_str().unwrap();
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-u", "-b", &backing, "-F", "qcow2", file, &size]);
        path
    }

    /// Moves overlays to their place.
    pub fn seal(&self, names: &[&str]) {
        for name in names {
            let file = format!("{name}.qcow2");
            fs::rename(self.path("store/temporary").join(&file), self.path("store").join(&file)).unwrap();
        }
    }

    pub fn open_with(&self, parent: &str, overlay: &str, options: LibguestfsOptions) -> Result<Box<dyn Session>> {
        self.open_beside(&[], parent, overlay, options)
    }

    pub fn open_beside(
        &self,
        caches: &[CacheDisk],
        parent: &str,
        overlay: &str,
        options: LibguestfsOptions,
    ) -> Result<Box<dyn Session>> {
        let (log, events) = (Arc::clone(&self.log), Arc::clone(&self.events));
        let parent_path = self.path(&format!("store/{parent}.qcow2"));
        LibguestfsEngine::new(options).open(OpenRequest {
            parent: &Image::chained(&parent_path, ImageFormat::Qcow2, |_, _| Ok(())).unwrap(),
            overlay: &self.overlay(overlay, parent),
            overlays: 1,
            work_dir: &self.path("work"),
            output: Arc::new(move |bytes| log.lock().unwrap().extend_from_slice(bytes)),
            events: Events::new(move |event| events.lock().unwrap().push(format!("{event:?}"))),
            cancel: self.cancel.clone(),
            caches,
            to_mend: false,
            network_env: &BTreeMap::from([("http_proxy".to_owned(), "http://localhost:9/".to_owned())]),
            // Its network is tried with a server on the host's loopback.
            network: true,
            host_network: true,
        })
    }

    pub fn open(&self, parent: &str, overlay: &str) -> Result<Box<dyn Session>> {
        self.open_with(parent, overlay, options())
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.log.lock().unwrap())).into_owned()
    }

    pub fn run(&self, session: &mut dyn Session, run: &Run) -> (Exit, String) {
        let exit = session.guest().run(run).unwrap();
        (exit, self.log())
    }

    pub fn sh(&self, session: &mut dyn Session, script: &str) -> (Exit, String) {
        self.run(session, &shell(script))
    }

    /// What an independent reader finds in a layer: `e2fsck -fn` on both file systems. Returns the first's raw image.
    pub fn check_clean(&self, layer: &str) -> PathBuf {
        let raw = self.text(&format!("{layer}.raw"));
        let from = self.text(&format!("store/{layer}.qcow2"));
        tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &from, &raw]);
        for (name, skip, count) in [("data", 41, 8), ("root", 1, 40)] {
            let part = self.text(&format!("{layer}-{name}.img"));
            let (skip, count) = (format!("skip={skip}"), format!("count={count}"));
            tool("dd", &[&format!("if={raw}"), &format!("of={part}"), "bs=1M", &skip, &count]);
            let said = tool("e2fsck", &["-f", "-n", &part]);
            assert!(!said.contains("recover"), "{layer}: {said}");
            let head = tool("dumpe2fs", &["-h", &part]);
            assert!(!head.contains("needs_recovery"), "{layer}: {head}");
        }
        fs::remove_file(raw).unwrap();
        self.path(&format!("{layer}-root.img"))
    }
}

pub fn options() -> LibguestfsOptions {
    LibguestfsOptions { force_tcg: true, ..LibguestfsOptions::default() }
}

pub fn shell(script: &str) -> Run {
    Run { argv: vec!["/bin/sh".into(), "-c".into(), script.into()], ..Run::default() }
}

/// A file in a raw ext4 image, as debugfs reads it.
pub fn cat(image: &Path, path: &str) -> String {
    let out = Command::new("debugfs").args(["-R", &format!("cat {path}")]).arg(image).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub fn names(image: &Path, path: &str) -> String {
    tool("debugfs", &["-R", &format!("ls -l {path}"), image.to_str().unwrap()])
}

/// Other processes whose command line holds a text.
pub fn processes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) && entry.file_name() != *std::process::id().to_string() {
            found.push(line);
        }
    }
    found
}

/// Folders that libguestfs made for its sockets, which it does under a fixed folder for all processes of a user.
pub struct SocketFolders {
    user: u32,
    before: BTreeSet<OsString>,
}

impl SocketFolders {
    /// Those that are there now.
    pub fn of(user: u32) -> Self {
        Self { user, before: Self::found(user) }
    }

    /// Waits until those that are new are gone. A folder of another test goes as soon as its appliance has answered; one that was
    /// left behind never does.
    #[track_caller]
    pub fn are_gone(&self) {
        let begin = Instant::now();
        let mut new: BTreeSet<_> = Self::found(self.user).difference(&self.before).cloned().collect();
        while !new.is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(300), "libguestfs left {new:?}");
            std::thread::sleep(Duration::from_millis(50));
            let now = Self::found(self.user);
            new.retain(|name| now.contains(name));
        }
    }

    fn found(user: u32) -> BTreeSet<OsString> {
        use std::os::unix::fs::MetadataExt;
        let all = fs::read_dir("/tmp").unwrap().flatten();
        let of_libguestfs = all.filter(|entry| {
            entry.file_name().to_string_lossy().starts_with("libguestfs")
                && entry.metadata().is_ok_and(|found| found.uid() == user)
        });
        of_libguestfs.map(|entry| entry.file_name()).collect()
    }
}

pub fn failure<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("this should have failed"),
        Err(error) => error,
    }
}
