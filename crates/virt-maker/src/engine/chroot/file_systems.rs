//! Checking the file systems in an image without mounting them: the image is seen through FUSE in a private mount
//! namespace, each partition as a file of its own, and the checkers of the file systems read those.
//!
//! The namespace is that of an agent which mounts nothing. All ends with it, also by SIGKILL.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::json;
use virt_maker_agent::client::Client;
use virt_maker_agent::partition;
use virt_maker_agent::probe::{Content, probe};
use virt_maker_agent::protocol::Sandbox;

use super::session::{path_text, start_agent, start_daemon};
use super::{ChrootEngine, check};
use crate::engine::Image;
use crate::engine::qmp::Qmp;
use crate::error::{Context, Error, ErrorKind, Result, chain};
use crate::host::waiting::Waits;
use crate::host::walls::Walls;
use crate::host::{Cancel, Guard, Helper};

/// What was found in one image.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FileSystems {
    /// How many were checked.
    pub checked: usize,
    /// What is wrong.
    pub problems: Vec<String>,
    /// What was not checked, and why.
    pub unchecked: Vec<String>,
}

/// Checks one image after another.
pub struct FileSystemChecker {
    agent: Helper,
    // The agent ends with its conversation.
    _client: Client,
    work_dir: PathBuf,
    count: u32,
    cancel: Cancel,
}

impl FileSystemChecker {
    /// A checker with a private folder. The error says what this host lacks for it.
    pub fn start(agent: &Path, work_dir: &Path, cancel: &Cancel) -> Result<FileSystemChecker> {
        check(agent)?;
        let root = work_dir.join("root");
        fs::create_dir(&root).context(ErrorKind::Store, || format!("cannot make {}", root.display()))?;
        let engine = ChrootEngine { agent: agent.to_owned() };
        let (channel, agent) = start_agent(&engine, work_dir, &root)?;
        let _guard = Guard::kill_on_cancel(agent.pid(), cancel)?;
        let mut client = Client::new(channel);
        // After its answer it has a namespace of its own.
        client
            .hello(Sandbox::Bubblewrap { program: "bwrap".into() })
            .map_err(|error| Error::new(ErrorKind::Internal, "the agent does not answer").with_source(error))
            .map_err(|error| cancel.check().err().unwrap_or(error))?;
        let (work_dir, cancel) = (work_dir.to_owned(), cancel.clone());
        Ok(FileSystemChecker { agent, _client: client, work_dir, count: 0, cancel })
    }

    /// Checks every file system of a kind that has a checker. The image is only read.
    pub fn check(&mut self, image: &Image) -> Result<FileSystems> {
        self.cancel.check()?;
        // What reads a disk whose daemon was ended has an error, and that is not the reason.
        self.checked(image).map_err(|error| self.cancel.check().err().unwrap_or(error))
    }

    fn checked(&mut self, image: &Image) -> Result<FileSystems> {
        self.count += 1;
        let work_dir = self.work_dir.join(self.count.to_string());
        fs::create_dir(&work_dir).context(ErrorKind::Store, || format!("cannot make {}", work_dir.display()))?;
        let directory = image.path().parent().unwrap_or(&work_dir);
        let name = image.path().file_name().map(Path::new).unwrap_or(image.path());
        let layer = json!({
            "driver": image.format().name(), "node-name": "layer", "read-only": true,
            "file": {"driver": "file", "filename": path_text(name)?, "read-only": true},
        });
        let options = ["--blockdev".into(), layer.to_string()];
        let waits = Waits::new(&self.cancel, |_| {});
        let (mut qmp, daemon) = start_daemon(&work_dir, directory, &options, self.agent.pid(), waits)?;
        // Also for our own reading of what it shows: a read waits in the kernel as long as the daemon is there.
        let guard = Guard::kill_on_cancel(daemon.pid(), &self.cancel)?;
        let whole = self.export(&mut qmp, &work_dir, "layer")?;
        let places = places(&whole)?;
        let mut found = FileSystems::default();
        for (number, start, length) in places {
            let what = if number == 0 { "the disk".to_owned() } else { format!("partition {number}") };
            let mut disk = File::open(&whole).context(ErrorKind::Store, || "cannot read the image")?;
            let kind = match probe(&mut disk, start, length) {
                Ok(Some(known)) if matches!(known.content, Content::FileSystem { .. }) => known.kind,
                Ok(Some(known)) if matches!(known.content, Content::Container) => {
                    found.unchecked.push(format!("{what}: {}", known.kind));
                    continue;
                }
                Ok(_) => continue,
                Err(error) => {
                    found.problems.push(format!("{what} cannot be read: {error}"));
                    continue;
                }
            };
            let (program, package, option) = match kind {
                "ext2" | "ext3" | "ext4" => ("e2fsck", "e2fsprogs", "-fn"),
                "xfs" => ("xfs_repair", "xfsprogs", "-nf"),
                other => {
                    found.unchecked.push(format!("{what}: {other}"));
                    continue;
                }
            };
            if crate::host::find_program(program).is_none() {
                found.unchecked.push(format!("{what}: {kind}, for `{program}` (package `{package}`) is missing"));
                continue;
            }
            let node = format!("part-{number}");
            let arguments = json!({
                "driver": "raw", "node-name": node, "read-only": true, "offset": start, "size": length, "file": "layer",
            });
            qmp.execute("blockdev-add", arguments)?;
            self.export(&mut qmp, &work_dir, &node)?;
            // By its path where it is mounted.
            let file = work_dir.join(&node);
            let walls = Walls::for_data().read(&file)?.mounts_of(self.agent.pid());
            let checked = walls.tool(program, package).arg(option).arg(&file).run(&self.cancel);
            self.cancel.check()?;
            found.checked += 1;
            match checked {
                // A journal that wants replay is said and is no error to e2fsck with -n.
                Ok(said) if String::from_utf8_lossy(&said).contains("skipping journal recovery") => {
                    found.problems.push(format!("{what}: the journal of {kind} wants replay"));
                }
                Ok(_) => {}
                Err(error) => found.problems.push(format!("{what}: {kind} is damaged: {}", chain(&error))),
            }
        }
        drop(guard);
        drop(daemon);
        self.cancel.check()?;
        Ok(found)
    }

    /// Shows a node of the daemon as a file; returns its path as this process reaches it.
    fn export(&self, qmp: &mut Qmp, work_dir: &Path, node: &str) -> Result<PathBuf> {
        let path = work_dir.join(node);
        File::create_new(&path).context(ErrorKind::Store, || format!("cannot make {}", path.display()))?;
        let arguments = json!({
            "type": "fuse", "id": node, "node-name": node, "mountpoint": path_text(&path)?, "writable": false,
        });
        qmp.execute("block-export-add", arguments)?;
        // It is mounted in the agent's namespace alone.
        let below = path.strip_prefix("/").unwrap_or(&path);
        Ok(Path::new(&format!("/proc/{}/root", self.agent.pid())).join(below))
    }
}

/// Number, start and length of each partition; the whole disk as number 0 where there is no table.
fn places(disk: &Path) -> Result<Vec<(u32, u64, u64)>> {
    let failed = || "cannot read the image";
    let mut file = File::open(disk).context(ErrorKind::Store, failed)?;
    let size = file.metadata().context(ErrorKind::Store, failed)?.len();
    match partition::read(&mut file, size) {
        Ok(Some(table)) => Ok(table.partitions.iter().map(|part| (part.index, part.start, part.length)).collect()),
        Ok(None) => Ok(vec![(0, 0, size)]),
        Err(error) => Err(Error::new(ErrorKind::Store, "the partition table is damaged").with_source(error)),
    }
}
