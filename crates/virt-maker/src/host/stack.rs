//! A stack that suffices for whatever nests in a template.
//!
//! The language of expressions bounds what nests in brackets, but neither chains of operators (`1+1+1`, `- - - 1`) nor values
//! that a loop puts into each other, and goes down a level of the stack for each. The first are bounded by the length of a
//! text's expressions, the second by the instructions that one may take; this much is enough for both.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

use crate::error::{Context, ErrorKind, Result};

/// Only what is used of it takes memory, in bytes.
const STACK: usize = 512 << 20;

/// Does some work on such a stack. An error of its own is that the host has no room for another thread.
pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    scope(|scope| {
        let thread = Builder::new().name("templates".into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.context(ErrorKind::Host, || "cannot start a thread")?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
