//! What a guest's cloud-init is told at a boot, as its machine gets it.

use std::path::PathBuf;

use crate::disk::media;
use crate::error::Result;
use crate::host::Cancel;
use crate::key::HostInput;
use crate::machine::Seeded;
use crate::step::Seed;
use crate::store::Workspace;

/// A seed that is ready; nothing of it where there is none.
#[derive(Default)]
pub(super) struct Sown {
    /// What the guest is to know of it.
    pub(super) seeded: Option<Seeded>,
    /// The CD with its files.
    pub(super) cd: Option<PathBuf>,
}

/// Reads the files of a seed, of which `inputs` are the digests, and makes the CD.
pub(super) fn sow(seed: Option<&Seed>, inputs: &[HostInput], workspace: &Workspace, cancel: &Cancel) -> Result<Sown> {
    let Some(seed) = seed else { return Ok(Sown::default()) };
    let files = seed.load(inputs)?;
    let folder = workspace.subfolder("seed")?;
    let cd = folder.join("seed.iso");
    media::make_cd(&files, &cd, Seed::LABEL, &folder.join("log.txt"), cancel)?;
    Ok(Sown { seeded: Some(Seeded::of(&files)), cd: Some(cd) })
}
