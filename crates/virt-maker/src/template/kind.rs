//! What a kind of runner is: one form for imports, steps and exports.

use super::{Arguments, Need, Parse};

/// A kind of import, step or export, for the tables, the documentation and the loader. `R` is what its arguments make of it,
/// such as `dyn Step`.
pub struct RunnerKind<R: ?Sized> {
    /// Its name in templates.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// The JSON Schema of its arguments, from the type that reads them.
    pub arguments: Arguments,
    /// An example as it stands in a template: a YAML mapping of its name to arguments.
    pub example: &'static str,
    /// Programs that it starts on the host, besides those of engines.
    pub needs: &'static [Need],
    /// Version of its effect; a runner that starts to do something else raises it. It enters keys
    /// ([`crate::key::KeyMaterial::kind_version`]).
    pub version: u32,
    /// Whether it runs the guest's own programs with a network, where a template does not say otherwise. Only steps may.
    pub network: bool,
    /// Reads its arguments. Relative paths are relative to the folder of the file that the node came from.
    pub parse: Parse<R>,
}
