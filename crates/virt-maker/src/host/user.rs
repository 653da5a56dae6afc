//! Who runs this process.

/// Whether it is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
