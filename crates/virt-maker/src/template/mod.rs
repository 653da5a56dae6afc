//! Templates: YAML text with the position of every node, parameters and expressions.
//!
//! ```text
//! text -- parse --> Node -- render (parameters, expressions) --> Node -- arguments --> a runner's own type
//! ```
//! Every node keeps its place through all of it, so that each message can say file, line and column. Expressions are
//! rendered exactly once: what they yield is data and is never rendered again.

mod arguments;
mod braces;
mod calls;
mod define;
mod document;
mod expand;
mod expression;
mod files;
mod functions;
mod host;
mod inherit;
mod kind;
mod library;
mod literal;
mod matrix;
mod migrate;
mod mistakes;
mod mounts;
mod node;
mod option_forms;
mod options;
mod parameters;
mod parse;
mod plain;
mod problems;
mod schema;
mod scope;
mod shell;
mod suggest;
mod tests;
mod truth;
mod value;

pub use arguments::{Parts, Spanned, from_node};
pub use calls::Call;
pub use define::{Definition, Definitions, Parameter};
pub(crate) use document::resolve_all;
pub use document::{Instead, KEYS, LoadOptions, Loaded, ResolvedSpec, SPEC_KEYS, definitions, resolve};
pub use expand::{Exec, ResolvedStep};
pub(crate) use expand::{IMPORTS_WITH_STEPS, STEPS_WITHIN};
pub use functions::Fetch;
pub use kind::RunnerKind;
pub use library::{library_step, library_steps};
pub use migrate::{Migrated, migrate};
pub(crate) use mistakes::{LIST, as_in, is_less_than_an_example, named_in, package_instead, several_in_one};
pub use mounts::CacheMount;
pub use node::{Kind, Node, SourceFile};
pub use option_forms::{KeyContext, Validity};
pub use options::{Caching, DEFAULTS, OPTIONS, Running, Shaping, StepOptions};
pub use parse::{parse, parse_allowing, parse_as, read_text};
pub(crate) use problems::{Problems, in_order};
pub use schema::{Arguments, Need, OneOrMany, arguments};
pub use shell::Script;
pub use suggest::closest;
pub use tests::ResolvedTest;

/// What reads a runner's arguments from a template.
pub type Parse<Runner> = fn(&Node) -> Result<Box<Runner>, Vec<crate::diagnostic::Diagnostic>>;
