//! Exports: how an artifact is made from a sealed layer, one file per kind. Adding one works as for steps.

mod compress;
mod convert;
mod publish;

use std::path::{Path, PathBuf};

pub use publish::{ExportRecord, Published, list, publish};

use crate::disk::ImageFormat;
use crate::error::Result;
use crate::event::Events;
use crate::host::Cancel;
use crate::template::{Need, Parse};

/// The table: declares the module of each kind and lists what it is.
macro_rules! exports {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*
        /// Every kind of export.
        pub static KINDS: &[&ExportKind] = &[$(&$name::KIND),*];
    };
}

exports! {
    qcow2,
    raw,
}

/// What a kind of export is.
pub struct ExportKind {
    /// Its name in templates.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// The JSON Schema of its arguments, from the type that reads them.
    pub arguments: crate::template::Arguments,
    /// An example as it stands in a template: a YAML mapping of its name to arguments.
    pub example: &'static str,
    /// Programs that it starts on the host, besides those of engines.
    pub needs: &'static [Need],
    /// Version of what it writes.
    pub version: u32,
    /// Reads its arguments.
    pub parse: Parse<dyn Export>,
}

/// What an export reads and may use.
pub struct ExportContext<'a> {
    /// The sealed layer.
    pub layer: &'a Path,
    /// Its format.
    pub format: ImageFormat,
    /// Progress and warnings.
    pub events: &'a Events,
    /// Asked regularly.
    pub cancel: &'a Cancel,
}

/// One export of a spec.
pub trait Export: Send + Sync {
    /// The artifact's path, absolute.
    fn target(&self) -> PathBuf;

    /// Whether a missing folder of the target is made.
    fn create_dir(&self) -> bool;

    /// Arguments that shape the bytes of the artifact (so not its path).
    fn arguments(&self) -> serde_json::Value;

    /// Whether it runs programs that the template names on the host, which needs the user's permission.
    fn runs_on_host(&self) -> bool {
        false
    }

    /// Writes the artifact to `temporary`, a path beside the target that does not exist yet.
    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()>;
}
