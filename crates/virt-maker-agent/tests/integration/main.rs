//! The agent as a process, spoken to over its protocol. One binary, so that it is linked once.

mod files;
mod freeze;
mod mount;
mod own_disk;
mod run;
mod support;
