//! Import `bootstrap`: bootable guests of packages.

mod bench;
mod debian;
mod rpm;
mod stranger;
