//! Templates: YAML text with the position of every node, parameters and expressions.
//!
//! ```text
//! text -- parse --> Node -- render (parameters, expressions) --> Node -- arguments --> a runner's own type
//! ```
//! Every node keeps its place through all of it, so that each message can say file, line and column. Expressions are
//! rendered exactly once: what they yield is data and is never rendered again.

mod arguments;
mod node;
mod parse;
mod render;
mod schema;
mod suggest;

pub use arguments::{Spanned, from_node};
pub use node::{Kind, Node, SourceFile};
pub use parse::parse;
pub use render::render;
pub use schema::{Arguments, Need, OneOrMany, arguments};
pub use suggest::closest;

/// What reads a runner's arguments from a template.
pub type Parse<Runner> = fn(&Node) -> Result<Box<Runner>, Vec<crate::diagnostic::Diagnostic>>;
