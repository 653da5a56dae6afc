//! Machines whose CPU is emulated: which one that is, and what programs of the host that start an appliance of libguestfs are told of KVM.
//!
//! libguestfs takes KVM where the device opens, and waits for minutes where a kernel then hangs. Whoever found out that KVM
//! does not work here says so once, for all of this process: it is a property of the host.

use std::sync::atomic::{AtomicBool, Ordering};

/// The emulated CPU, as qemu's `-cpu` has it. It does not say that it is fast at copying single bytes, as it copies them one by one; so
/// the kernel and the C library copy words.
pub(crate) const CPU: &str = "max,erms=off,fsrm=off";

static EMULATE: AtomicBool = AtomicBool::new(false);

/// KVM does not work on this host.
pub fn no_kvm() {
    EMULATE.store(true, Ordering::Relaxed);
}

/// Values of `LIBGUESTFS_BACKEND_SETTINGS` to try one after another: libguestfs's own choice, and emulation.
pub(crate) fn guestfs_settings() -> &'static [&'static str] {
    if EMULATE.load(Ordering::Relaxed) { &["force_tcg"] } else { &["", "force_tcg"] }
}
