//! Looking into an image from anywhere: what it carries that an image for many machines should not.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Settings;
use crate::disk::inspect::inspect;
use crate::disk::overlay::{self, Backing};
use crate::disk::{ImageFormat, Root, told_within_bounds};
use crate::engine::{Image, Opener, Place, Wanted};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Events, Meter};
use crate::host::decompress::Compression;
use crate::host::digest::write_sparse;
use crate::hygiene::{self, Finding};
use crate::import::wrong_root;
use crate::store::Store;

/// Inspects the guest on the disk `image`, which is only read; one that is compressed is unpacked into the store for as long
/// as it is looked at. `format` is what its user says that it is, `root` which of its
/// file systems is the guest's root.
pub fn check_image(
    image: &Path,
    format: Option<ImageFormat>,
    root: Option<Root>,
    settings: &Settings,
    events: &Events,
) -> Result<Vec<Finding>> {
    let wrong = root.as_ref().map(|root| wrong_root(&root.device, root.subvolume.as_deref()));
    if let Some((field, problem)) = wrong.unwrap_or_default().first() {
        return Err(Error::new(ErrorKind::Template, format!("the {field} of the root: {problem}")));
    }
    let name = image.display().to_string();
    let path = std::fs::canonicalize(image).context(ErrorKind::Base, || format!("cannot read {name}"))?;
    if !path.is_file() {
        return Err(Error::new(ErrorKind::Base, format!("{name} is not a regular file")));
    }
    let store = Store::open(&settings.store, &settings.owner)?.waiting(events.waits(&settings.cancel));
    let workspace = store.workspace()?;
    let path = unpacked(&path, &name, workspace.path(), settings, events)?.unwrap_or(path);
    let inspected = inspect(&path, format, &name)?;
    let Some(backing) = path.to_str() else {
        return Err(Error::new(ErrorKind::Base, format!("{name}: qemu cannot open a name that is not UTF-8")));
    };
    let parent = Image::alone(&path, inspected.format)?.with_root(root);
    let mut count = 0;
    let opened =
        Opener::new(settings.engines(), events, &settings.cancel).open(&Wanted::to_look(&parent, events), |_| {
            count += 1;
            let work_dir = workspace.subfolder(&format!("check-{count}"))?;
            // What mounting changes (a journal, times) goes into an overlay that is thrown away.
            let overlay = work_dir.join("overlay.qcow2");
            overlay::create(&overlay, inspected.virtual_size, Backing { name: backing, format: inspected.format })?;
            Ok(Place { overlay, work_dir, caches: Vec::new(), with: () })
        });
    let mut session = opened?.session;
    let findings = hygiene::inspect(session.guest());
    session.finish()?;
    findings
}

/// The content of a compressed file, as a file in `folder`; `None` where it is not compressed.
pub(super) fn unpacked(
    path: &Path,
    name: &str,
    folder: &Path,
    settings: &Settings,
    events: &Events,
) -> Result<Option<PathBuf>> {
    let failed = || format!("cannot unpack {name}");
    let file = File::open(path).context(ErrorKind::Base, || format!("cannot read {name}"))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let head = file.fill_buf().context(ErrorKind::Base, || format!("cannot read {name}"))?;
    let compression = Compression::of(head);
    if compression == Compression::None {
        return Ok(None);
    }
    let target = folder.join("unpacked");
    let out = File::options().read(true).write(true).create_new(true).open(&target);
    let out = out.context(ErrorKind::Store, || format!("cannot write {}", target.display()))?;
    let mut progress = told_within_bounds(Meter::bytes(events, "unpack", None), &settings.cancel);
    let written = compression.reader(file).and_then(|mut reader| write_sparse(&mut reader, &out, &mut progress));
    settings.cancel.check()?;
    written.context(ErrorKind::Base, failed)?;
    Ok(Some(target))
}
