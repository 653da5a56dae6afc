//! Exports: how an artifact is made from a sealed layer, one file per kind. Adding one works as for steps.

mod arguments;
mod beside;
mod compress;
mod convert;
mod folder;
mod identity;
mod pieces;
mod place;
mod publish;
mod record;
mod shrink;
mod unfinished;

use std::path::{Path, PathBuf};

pub use arguments::{Common, Compressed, Every, OneFile, WholeDisk};
pub use compress::Compress;
pub use place::{Look, ready};
pub use publish::publish;
pub use record::{ExportRecord, From, Published, list};

use crate::disk::Image;
use crate::error::Result;
use crate::event::Events;
use crate::host::Cancel;
use crate::key::LayerKey;
use crate::store::Workspace;
use crate::template::RunnerKind;

/// The table: declares the module of each kind and lists what it is.
macro_rules! exports {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*
        /// Every kind of export.
        pub static KINDS: &[&ExportKind] = &[$(&$name::KIND),*];
    };
}

exports! {
    dir,
    ova,
    qcow2,
    raw,
    tar,
    vdi,
    vhd,
    vhdx,
    vmdk,
}

/// A kind of export.
pub type ExportKind = RunnerKind<dyn Export>;

/// What an export reads and may use.
#[derive(Clone, Copy)]
pub struct ExportContext<'a> {
    /// The image of the sealed layer; its chain is looked at when somebody asks.
    pub layer: &'a dyn Fn() -> Result<Image>,
    /// The layer's key.
    pub key: LayerKey,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// A qcow2 overlay of the layer, where the export is to have what [`Common`] asks for.
    pub overlay: Option<&'a Path>,
    /// The guest's tree as a tar, for an export that asked for it ([`Common::tree`]).
    pub tree: Option<&'a Path>,
    /// The guest is opened in any case, to be looked into.
    pub look: bool,
    /// The guest is opened in any case, to get its SELinux labels: the version of how ([`crate::guest::selinux::VERSION`]), or 0.
    pub labels: u32,
    /// The disk boots under UEFI and under no BIOS, for exports that say what the machine is like.
    pub uefi: bool,
    /// A private folder on the host.
    pub scratch: &'a Path,
    /// What is known of the layers, for manifests.
    pub layers: &'a serde_json::Value,
    /// Progress and warnings.
    pub events: &'a Events,
    /// Asked regularly.
    pub cancel: &'a Cancel,
}

/// A guest that was opened for an export, and is closed again.
pub struct Finished {
    /// The overlay with what was changed; lives as long as this.
    pub overlay: PathBuf,
    /// Packages of the guest, for the manifest: `[{"name": ..., "version": ...}]`, or null where they are not known.
    pub packages: serde_json::Value,
    /// What was found in the guest that a person should know.
    pub found: Vec<String>,
    /// What was found and may not be in the artifact: it is not made.
    pub refused: Option<crate::error::Error>,
    /// Keeps the overlay's folder.
    pub workspace: Workspace,
}

/// Opens the guest for an export and does what its [`Common`] arguments say; with [`Common::tree`], the tree is written to the path
/// as a tar.
pub type Finish<'a> = dyn FnMut(&Common, &Path) -> Result<Finished> + 'a;

/// One export of a spec.
pub trait Export: Send + Sync {
    /// What it has in common with every other kind.
    fn common(&self) -> &Common;

    /// Arguments that shape the bytes of the artifact (so not its path).
    fn arguments(&self) -> serde_json::Value {
        self.common().key()
    }

    /// Whether it runs programs that the template names on the host, which needs the user's permission.
    fn runs_on_host(&self) -> bool {
        self.common().scripts.iter().any(Option::is_some)
    }

    /// Whether the artifact is a folder, and not a file.
    fn is_folder(&self) -> bool {
        false
    }

    /// Writes the artifact to `temporary`, a path beside the target that does not exist yet.
    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()>;
}
