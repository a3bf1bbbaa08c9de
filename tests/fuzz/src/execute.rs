//! One execution: panics are caught, memory is compared with the cap.

use crate::target::{Finding, Probe, Target};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// What one execution showed.
#[derive(Debug)]
pub struct Verdict {
    /// Features of the outcome, sorted.
    pub features: Vec<u64>,
    /// Most bytes held while decoding.
    pub peak: usize,
    /// What went wrong.
    pub finding: Option<Finding>,
}

/// Runs the target on the input.
pub fn execute(target: &dyn Target, input: &[u8]) -> Verdict {
    remember_panics();
    let mut probe = Probe::new(input);
    CATCHING.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| target.check(input, &mut probe)));
    CATCHING.set(false);
    let cap = target.cap().bytes;
    let finding = match outcome {
        Err(_) => {
            let (place, message) = LAST_PANIC.take().unwrap_or_default();
            Some(Finding::Panic { place, message })
        }
        Ok(_) if probe.peak > cap => Some(Finding::Allocation {
            peak: probe.peak,
            cap,
        }),
        Ok(outcome) => outcome.err().map(Finding::Property),
    };
    Verdict {
        peak: probe.peak,
        features: probe.into_features(),
        finding,
    }
}

/// Runs a part of a target's check; what panicked, as place and message, for a target that tells panics apart.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, (String, String)> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| LAST_PANIC.take().unwrap_or_default())
}

/// Keeps a panic's place and message instead of printing them, on threads that execute a target.
fn remember_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let former = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CATCHING.get() {
                return former(info);
            }
            let place = info.location().map_or(String::new(), ToString::to_string);
            let message = info.payload_as_str().unwrap_or("(no text)").to_owned();
            LAST_PANIC.set(Some((place, message)));
        }));
    });
}
