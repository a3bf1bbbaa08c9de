//! Notices an execution that does not end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is done about an input that does not come back; called once for each.
pub type OnHang = Box<dyn FnMut(&[u8]) + Send>;

#[derive(Default)]
struct State {
    running: Option<Instant>,
    reported: bool,
    input: Vec<u8>,
    over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The holder only copies: a poisoned lock has a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that looks at the clock while another one executes inputs.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Calls `on_hang` with the input that has run for longer than `limit`.
    pub fn new(limit: Duration, mut on_hang: OnHang) -> Self {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut state = watched.lock();
            while !state.over {
                let late = state.running.is_some_and(|since| since.elapsed() > limit);
                if late && !state.reported {
                    state.reported = true;
                    on_hang(&state.input);
                }
                state = watched
                    .changed
                    .wait_timeout(state, limit / 8)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Runs `work`, which handles `input`, under the clock.
    pub fn watch<T>(&self, input: &[u8], work: impl FnOnce() -> T) -> T {
        {
            let mut state = self.shared.lock();
            state.input.clear();
            state.input.extend_from_slice(input);
            state.running = Some(Instant::now());
            state.reported = false;
        }
        let result = work();
        self.shared.lock().running = None;
        result
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends within a moment; a panic of its own was printed.
            let _ = thread.join();
        }
    }
}
