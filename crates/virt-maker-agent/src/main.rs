//! The agent; see the library for what it is.

fn main() {}
