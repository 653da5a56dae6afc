//! A breakdown of qemu itself.
//!
//! qemu 10.0 that emulates several CPUs ends on an assertion of its own now and then while a guest's firmware and kernel
//! set up their memory (`iotlb_to_section`), the more so on a busy host. Nothing of a guest was written by then, so whoever
//! starts one may try again.

/// Whether qemu ended on an assertion, by its words.
pub(super) fn broke_down(said: &str) -> bool {
    said.lines().any(|line| line.contains("qemu") && line.contains("Assertion `") && line.contains("failed"))
}

#[cfg(test)]
mod tests {
    use super::broke_down;

    #[test]
    fn an_assertion_of_qemu_is_told_from_other_words() {
        assert!(broke_down(
            "x\nqemu-system-x86_64: system/physmem.c:2678: iotlb_to_section: Assertion `i < n' failed.\n"
        ));
        assert!(!broke_down("qemu-system-x86_64: Could not open 'x': No such file or directory"));
        assert!(!broke_down("guest: Assertion `x' failed."));
    }
}
