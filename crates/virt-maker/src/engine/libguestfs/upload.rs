//! Files for the appliance itself.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::ffi::CallError;
use super::launch::Appliance;
use crate::error::{Context, ErrorKind, Result};

/// Puts bytes into a file of the appliance that nobody else can read, by way of a file at this path, which must not be there.
pub(super) fn upload(appliance: &mut Appliance, path: &Path, content: &[u8], place: &str) -> Result<()> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content));
    let uploaded = written.context(ErrorKind::Host, || format!("cannot write {}", path.display())).and_then(|()| {
        appliance.handle.debug_upload(&path.to_string_lossy(), place, 0o600).map_err(|error: CallError| {
            appliance.error(ErrorKind::Internal, "cannot upload a file to the appliance", error)
        })
    });
    let _ = std::fs::remove_file(path);
    uploaded
}
