//! Ctrl-C: the first asks for a clean stop, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use virt_maker::host::Cancel;

/// The exit code after an interruption: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Connects the signals that ask a program to end with `cancel`.
pub fn listen(cancel: &Cancel) -> std::io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the second signal finds the flag that the first one set.
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, asked.clone())?;
        signal_hook::flag::register(signal, asked.clone())?;
        let cancel = cancel.clone();
        // SAFETY: `Cancel::cancel` only stores to an atomic, which is safe in a signal handler.
        unsafe { signal_hook::low_level::register(signal, move || cancel.cancel()) }?;
    }
    Ok(())
}
