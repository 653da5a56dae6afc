//! A breakdown of qemu itself.
//!
//! qemu 10.0 that emulates several CPUs ends on an assertion of its own now and then while a guest's firmware and kernel
//! set up their memory (`iotlb_to_section`), the more so on a busy host; and sometimes, much less often, all its CPUs wait
//! for ever while the kernel boots. Nothing of a guest was written by then, so whoever starts one may try again.

use std::time::Duration;

/// How long a machine may take to start. It takes seconds under TCG on a slow host; one that hangs never does.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// What is said of one that was not up in time.
const LATE: &str = "did not come up within";

/// Says of a machine that it was not up in time.
pub(super) fn late(machine: &str, patience: Duration) -> String {
    format!("{machine} {LATE} {} s", patience.as_secs())
}

/// Whether qemu ended on an assertion or hung, by what is said of it.
pub(super) fn broke_down(said: &str) -> bool {
    let asserted = |line: &str| line.contains("qemu") && line.contains("Assertion `") && line.contains("failed");
    said.contains(LATE) || said.lines().any(asserted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_of_qemu_is_told_from_other_words() {
        assert!(broke_down(
            "x\nqemu-system-x86_64: system/physmem.c:2678: iotlb_to_section: Assertion `i < n' failed.\n"
        ));
        assert!(!broke_down("qemu-system-x86_64: Could not open 'x': No such file or directory"));
        assert!(!broke_down("guest: Assertion `x' failed."));
        assert!(broke_down(&late("it", PATIENCE)));
    }
}
