//! Ctrl-C: the first asks for a clean stop, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use virt_maker::host::Cancel;

/// The exit code after an interruption: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;
/// Signals that come closer to each other than this are one: timeout(1) sends one to its child and one to the child's process group, and
/// a terminal that closes adds another.
const ONE: Duration = Duration::from_millis(300);

/// Connects the signals that ask a program to end with `cancel`.
pub fn listen(cancel: &Cancel) -> std::io::Result<()> {
    let begin = Instant::now();
    // When the first one came, in milliseconds since `begin`, and one more; 0 before that.
    let first = Arc::new(AtomicU64::new(0));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let (first, cancel) = (first.clone(), cancel.clone());
        let asked = move || {
            let now = begin.elapsed().as_millis() as u64 + 1;
            match first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => cancel.cancel(),
                Err(first) if u128::from(now.saturating_sub(first)) < ONE.as_millis() => {}
                Err(_) => signal_hook::low_level::exit(INTERRUPTED),
            }
        };
        // SAFETY: all of it may be done in a signal handler: it stores to atomics, asks the clock (clock_gettime), or ends the process
        // (_exit); see signal-safety(7).
        unsafe { signal_hook::low_level::register(signal, asked) }?;
    }
    Ok(())
}
