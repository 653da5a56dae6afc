//! Templates: YAML text with the position of every node, parameters and expressions.

mod node;

pub use node::{Kind, Node, SourceFile};
