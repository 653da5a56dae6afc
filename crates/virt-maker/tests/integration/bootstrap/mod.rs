//! Import `bootstrap`: bootable guests of packages.

mod bench;
mod debian;
mod mirrors;
mod rpm;
mod stranger;
