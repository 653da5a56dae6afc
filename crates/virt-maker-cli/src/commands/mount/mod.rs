//! `virt-maker mount`: the files of a layer as a folder, which can only be read.
//!
//! This process serves the folder through FUSE until it is unmounted or interrupted; what is read comes through the
//! session of an engine, as for `cat`, so it works for every guest and without root.
//!
//! A mount does not end with its process. So a second process, which does nothing else, waits for the end of this one
//! and then unmounts: after SIGKILL no mount is left either.

mod view;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fuser::{Config, MountOption, SessionACL};
use virt_maker::error::{Context, Error, ErrorKind};

use super::looking;
use crate::arguments::layers::{Mount, Unmount};
use crate::error::Failure;
use crate::text::harmless;

/// How often it is looked whether somebody unmounted.
const PAUSE: Duration = Duration::from_millis(100);

pub fn run(arguments: &Mount) -> Result<(), Failure> {
    let dir = std::fs::canonicalize(&arguments.dir)
        .context(ErrorKind::Host, || format!("cannot use {}", arguments.dir.display()))?;
    if !dir.is_dir() {
        return Err(Failure::Usage(format!("{} is not a folder", dir.display())));
    }
    let (store, opener) = looking::prepare(&arguments.opening)?;
    let scratch = store.workspace()?;
    let (inside, kept) = looking::inside(&store, &arguments.layer, &opener)?;
    let what = match kept {
        true => "the guest as the failed step left it".to_owned(),
        false => format!("layer {}", inside.layer().record.key.short()),
    };
    let view = view::View::new(inside, scratch)?;

    let mut guard = Guard::start(&dir)?;
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::RO, MountOption::NoDev, MountOption::NoSuid, MountOption::FSName("virt-maker".into())];
    config.acl = SessionACL::Owner;
    let session = fuser::spawn_mount(view, &dir, &config)
        .context(ErrorKind::Host, || format!("cannot mount at {}", dir.display()))
        .map_err(|error| error.with_hint("it needs FUSE: /dev/fuse, and `fusermount3` of the package `fuse3`"))?;
    println!("{what} is at {}; Ctrl-C, or `umount`, ends it", harmless(&dir.display().to_string()));
    while !session.guard.is_finished() && !opener.cancel().is_cancelled() {
        std::thread::sleep(PAUSE);
    }
    let ended = session.umount_and_join();
    guard.end();
    // Somebody else's `umount` is as good as ours.
    match ended {
        Err(error) if opener.cancel().is_cancelled() => {
            Err(Error::new(ErrorKind::Host, format!("cannot unmount {}", dir.display())).with_source(error).into())
        }
        _ => Ok(()),
    }
}

/// The process that unmounts if this one does not.
struct Guard(Child);

impl Guard {
    fn start(dir: &Path) -> Result<Guard, Failure> {
        let program = std::env::current_exe().context(ErrorKind::Host, || "cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("unmount-after").arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A signal to the group of the terminal is not for it.
        let child = command.process_group(0).spawn().context(ErrorKind::Host, || "cannot start this program again")?;
        Ok(Guard(child))
    }

    /// Nothing is mounted any more. The guard finds that and goes.
    fn end(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Waits until standard input ends, which is when the process that serves a mount is gone, and unmounts.
pub fn unmount_after(arguments: &Unmount) -> Result<(), Failure> {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    // A guard whose process ended well finds nothing of ours there.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let place = arguments.dir.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    let ours = |line: &str| line.split(' ').take(2).eq(["virt-maker", &*place]);
    if mounts.lines().any(ours) {
        let status =
            Command::new("fusermount3").arg("-uzq").arg("--").arg(&arguments.dir).stdin(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg("--").arg(&arguments.dir).stdin(Stdio::null()).status();
        }
    }
    Ok(())
}
