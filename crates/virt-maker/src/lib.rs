//! virt-maker builds virtual machine images from short templates, one layer per step, and does no step twice.
//!
//! The way data flows, the words and the rooms are described in `docs/architecture.md`. This library touches no
//! terminal, no home folder and no environment variable: all that comes from its caller.

pub mod build;
pub mod diagnostic;
pub mod disk;
pub mod engine;
pub mod error;
pub mod event;
pub mod export;
pub mod guest;
pub mod host;
pub mod hygiene;
pub mod import;
pub mod inspect;
pub mod key;
pub mod machine;
pub mod plan;
pub mod spec;
pub mod step;
pub mod store;
pub mod template;
