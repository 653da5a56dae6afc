//! Named points in the work of the store, at which a test of what may happen between two of its steps lets that happen.

#[cfg(test)]
type Hook = (&'static str, Box<dyn FnOnce()>);

#[cfg(test)]
thread_local! {
    static HOOK: std::cell::RefCell<Option<Hook>> = const { std::cell::RefCell::new(None) };
}

/// This thread has come to a point. Outside of tests that means nothing.
pub(super) fn reached(point: &'static str) {
    #[cfg(test)]
    {
        let hook = HOOK.with_borrow_mut(|hook| hook.take_if(|(wanted, _)| *wanted == point));
        if let Some((_, done)) = hook {
            done();
        }
    }
    #[cfg(not(test))]
    let _ = point;
}

/// Has something done when this thread next comes to a point.
#[cfg(test)]
pub(super) fn at(point: &'static str, done: impl FnOnce() + 'static) {
    HOOK.with_borrow_mut(|hook| *hook = Some((point, Box::new(done))));
}

/// Whether what [`at`] was told was done.
#[cfg(test)]
pub(super) fn was_reached() -> bool {
    HOOK.with_borrow(Option::is_none)
}
