//! The kinds of runners that templates may name: those of this library, and those that a program brings which embeds it.

use crate::export::{self, ExportKind};
use crate::import::{self, ImportKind};
use crate::step::{self, StepKind};

/// The kinds of imports, steps and exports. Those of the library are there from the start.
#[derive(Clone)]
pub struct Registry {
    pub(super) imports: Vec<&'static ImportKind>,
    pub(super) steps: Vec<&'static StepKind>,
    pub(super) exports: Vec<&'static ExportKind>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry { imports: import::KINDS.to_vec(), steps: step::KINDS.to_vec(), exports: export::KINDS.to_vec() }
    }
}

/// One more kind; it takes the place of one with its name.
macro_rules! with {
    ($($method:ident, $field:ident, $kind:ty;)*) => {$(
        /// One kind more. It takes the place of one with its name.
        #[must_use]
        pub fn $method(mut self, kind: &'static $kind) -> Registry {
            self.$field.retain(|known| known.name != kind.name);
            self.$field.push(kind);
            self
        }
    )*};
}

impl Registry {
    with! {
        with_import, imports, ImportKind;
        with_step, steps, StepKind;
        with_export, exports, ExportKind;
    }

    /// Names of its steps, which no template may define anew.
    pub(super) fn step_names(&self) -> Vec<&'static str> {
        self.steps.iter().map(|kind| kind.name).collect()
    }
}
