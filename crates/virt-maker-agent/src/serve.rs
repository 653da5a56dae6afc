//! The conversation: takes requests one by one and has them done.
//!
//! A request that cannot be done is answered by a failure, and the conversation goes on; only a broken stream or a
//! host that breaks the protocol ends it.

use std::os::fd::OwnedFd;

use rustix::mount::MountFlags;
use virt_maker_agent::label::Labelled;
use virt_maker_agent::protocol::{FailureKind, Frame, Reply, Request, Sandbox, VERSION};
use virt_maker_agent::walk::Entry;

use crate::archive;
use crate::caches::Cache;
use crate::command;
use crate::failure::{Result, failure, system};
use crate::files::{self, NewFile};
use crate::folders::Folders;
use crate::init;
use crate::labels::{self, Labeller};
use crate::link::{Broken, Link};
use crate::marks;
use crate::mounts::Guest;
use crate::sandbox::{self, Plan};
use crate::walker::{self, Enters};

/// Bytes in a data frame of a transfer.
const CHUNK: usize = 256 * 1024;

/// Said once where a container may not make device nodes.
const SHARED_NODES: &str =
    "no device node can be made here, so commands see the host's /dev/null and the like, read-only";

/// Serves until the host goes. What is mounted then is let go of.
pub fn serve(link: &mut Link, folders: &Folders) -> std::result::Result<(), Broken> {
    let mut program = None;
    let mut guest = None;
    let mut caches = Vec::new();
    loop {
        let request = match link.receive()? {
            None => return Ok(()),
            // Typed into a terminal whose program has just ended.
            Some(Frame::Data(_)) => continue,
            Some(Frame::Message(request)) => request,
        };
        if let Request::Hello { version, sandbox } = request {
            let Sandbox::Bubblewrap { program: path } = sandbox else {
                return Err(Broken::Protocol("this agent is in no machine that has booted"));
            };
            if let Err(problem) = sandbox::protect(&path) {
                link.reply(&Reply::Failed(problem))?;
                continue;
            }
            link.reply(&Reply::Welcome { version: VERSION })?;
            if version != VERSION {
                return Err(Broken::Protocol("it speaks another version"));
            }
            program = Some(path);
            continue;
        }
        let Some(program) = &program else {
            return Err(Broken::Protocol("the first request is not `hello`"));
        };
        let plan = Plan { program, folders };
        let reply = match answer(link, folders, &plan, &mut guest, &mut caches, request)? {
            Ok(reply) => reply,
            Err(problem) => Reply::Failed(problem),
        };
        link.reply(&reply)?;
    }
}

fn answer(
    link: &mut Link,
    folders: &Folders,
    plan: &Plan<'_>,
    guest: &mut Option<Guest>,
    caches: &mut Vec<Cache>,
    request: Request,
) -> std::result::Result<Result<Reply>, Broken> {
    let done = |result: Result<()>| Ok(result.map(|()| Reply::Done));
    match request {
        Request::Mount { disk, to_mend, root } => {
            if guest.is_some() {
                return Ok(Err(out_of_turn("a guest is mounted already")));
            }
            // The host's storage daemon may have joined the namespace that the agent began with, to put the disk there.
            // The guest is mounted in another one: were it the daemon's own, a daemon that is killed would unmount the
            // guest on its way out, and wait for ever for itself to take the last writes.
            // SAFETY: the agent has one thread, so nothing else can rely on the namespace that is left here.
            let apart = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
            if let Err(error) = apart {
                return Ok(Err(system("make a mount namespace for the guest", error)));
            }
            // Sandboxes look themselves up by their numbers, which are those of the agent's process namespace.
            let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
            if let Err(error) = rustix::mount::mount("proc", "/proc", "proc", flags, None) {
                return Ok(Err(system("mount /proc of the agent's processes", error)));
            }
            return Ok(Guest::mount(&disk, &folders.root, folders.appliance, to_mend, root.as_ref()).and_then(
                |(mounted, mut reply)| {
                    folders.facade.speak_of(mounted.root_uuid())?;
                    let devices = folders.fresh_devices()?;
                    if !devices.own {
                        reply.warnings.push(SHARED_NODES.to_string());
                    }
                    folders.devices.replace(Some(devices));
                    *guest = Some(mounted);
                    Ok(Reply::Mounted(reply))
                },
            ));
        }
        Request::Wake(_) | Request::FindDisk { .. } if !folders.appliance => {
            return Ok(Err(out_of_turn("this is no appliance")));
        }
        Request::Wake(wake) => return done(init::wake(&wake)),
        Request::FindDisk { serial } => return Ok(init::find_disk(&serial).map(|path| Reply::Disk { path })),
        Request::Unmount => {
            return match guest.take() {
                Some(guest) => {
                    // Both are tried: what a cache has to say does not keep a guest open.
                    let cached = caches.drain(..).map(Cache::unmount).fold(Ok(()), Result::and);
                    done(guest.unmount().and(cached))
                }
                None => Ok(Err(out_of_turn("no guest is mounted"))),
            };
        }
        Request::Running | Request::Talk { .. } => {
            return Ok(Err(out_of_turn("this agent is in no machine that has booted")));
        }
        Request::Hello { .. } => return Err(Broken::Protocol("a second `hello`")),
        Request::Cancel => return Ok(Err(out_of_turn("nothing is being written"))),
        _ => {}
    }
    if let Request::FstabNews = request {
        return Ok(writable(guest).and_then(Guest::fstab_news).map(|names| Reply::Names { names }));
    }
    match request {
        Request::Freeze | Request::Thaw => {
            let Some(guest) = guest else { return Ok(Err(out_of_turn("no guest is mounted"))) };
            done(if matches!(request, Request::Freeze) { guest.freeze() } else { guest.thaw() })
        }
        Request::Trim => done(writable(guest).and_then(|guest| guest.trim())),
        Request::Erase => Ok(writable(guest).and_then(Guest::erase).map(|names| Reply::Names { names })),
        Request::MountCache { name, disk } => done(writable(guest).and_then(|_| {
            caches.push(Cache::mount(&name, &disk, &folders.root)?);
            Ok(())
        })),
        Request::Run(run) => match writable(guest) {
            Ok(guest) => Ok(command::run(link, guest, caches, plan, &run)?.map(Reply::Exited)),
            Err(problem) => Ok(Err(problem)),
        },
        about_files => files_of(link, writable(guest).map(|guest| guest.root()), about_files, |_| true),
    }
}

/// What is asked about files of the guest with this root, or the reason why there is none. `enters` says which folders a listing goes
/// into.
pub fn files_of(
    link: &mut Link,
    root: Result<&OwnedFd>,
    request: Request,
    enters: Enters,
) -> std::result::Result<Result<Reply>, Broken> {
    // A write is followed by data in any case, so it has to be taken even if there is nowhere to put it.
    if let Request::Write { path, attributes, in_place } = request {
        let begun = root.and_then(|root| NewFile::begin(root, &path, attributes, in_place));
        return receive_file(link, begun);
    }
    if let Request::SetLabels = request {
        return labels::receive(link, root.and_then(Labeller::new));
    }
    let root = match root {
        Ok(root) => root,
        Err(problem) => return Ok(Err(problem)),
    };
    let done = |result: Result<()>| Ok(result.map(|()| Reply::Done));
    match request {
        Request::Read { path, limit } => send_file(link, files::open(root, &path, limit), &path),
        Request::Mkdir { path, attributes, parents } => done(files::mkdir(root, &path, attributes, parents)),
        Request::Symlink { target, path } => done(files::symlink(root, &target, &path)),
        Request::SetAttributes { path, attributes } => done(files::set_attributes(root, &path, attributes)),
        Request::HardLink { target, path } => done(marks::hard_link(root, &target, &path)),
        Request::SetMarks { marks } => done(marks.iter().try_for_each(|marks| marks::set(root, marks))),
        Request::Stat { path } => Ok(files::stat(root, &path).map(|stat| Reply::Stat { stat })),
        Request::Space { path } => Ok(files::space(root, &path).map(Reply::Space)),
        Request::ReadDir { path } => Ok(files::read_dir(root, &path).map(|names| Reply::Names { names })),
        Request::Walk { path, depth } => walker::walk::<Entry>(link, root, &path, depth, enters),
        Request::Labels => walker::walk::<Labelled>(link, root, "/", None, enters),
        Request::Remove { path } => done(files::remove(root, &path)),
        Request::Rename { from, to } => done(files::rename(root, &from, &to)),
        Request::Archive => match archive::send(link, root)? {
            Ok(()) => {
                link.send_data(&[])?;
                Ok(Ok(Reply::Done))
            }
            Err(problem) => Ok(Err(problem)),
        },
        _ => Ok(Err(out_of_turn("this agent cannot do that"))),
    }
}

/// A request that cannot be done by this agent, or not now.
pub fn out_of_turn(what: &str) -> virt_maker_agent::protocol::Failure {
    failure(FailureKind::Protocol, what)
}

/// The guest, if it is mounted and not frozen.
fn writable(guest: &mut Option<Guest>) -> Result<&mut Guest> {
    match guest {
        None => Err(out_of_turn("no guest is mounted")),
        Some(guest) if guest.is_frozen() => Err(out_of_turn("the guest is frozen; thaw it first")),
        Some(guest) => Ok(guest),
    }
}

/// Takes the data of a write to its end, also after a failure, so that both ends agree on where they are.
fn receive_file(link: &mut Link, mut file: Result<NewFile>) -> std::result::Result<Result<Reply>, Broken> {
    loop {
        match link.receive()? {
            Some(Frame::Data(bytes)) if bytes.is_empty() => {
                return Ok(file.and_then(NewFile::finish).map(|()| Reply::Done));
            }
            Some(Frame::Data(bytes)) => {
                if let Ok(open) = &mut file
                    && let Err(problem) = open.append(&bytes)
                {
                    // Dropping what was written frees a full file system at once.
                    file = Err(problem);
                }
            }
            Some(Frame::Message(Request::Cancel)) => return Ok(Err(out_of_turn("the host cancelled the write"))),
            Some(Frame::Message(_)) => return Err(Broken::Protocol("a request within a write")),
            None => return Err(Broken::Closed),
        }
    }
}

fn send_file(link: &mut Link, file: Result<std::fs::File>, path: &str) -> std::result::Result<Result<Reply>, Broken> {
    let mut file = match file {
        Ok(file) => file,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        match files::next(&mut file, path, &mut buffer) {
            Ok(0) => {
                link.send_data(&[])?;
                return Ok(Ok(Reply::Done));
            }
            Ok(count) => link.send_data(&buffer[..count])?,
            Err(problem) => return Ok(Err(problem)),
        }
    }
}
