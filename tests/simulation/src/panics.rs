//! Panics of a run as values, without their noise on standard error.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Of the last quiet panic.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}
static HOOK: Once = Once::new();

/// A panic of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// File, line and column.
    pub place: String,
    /// What it said.
    pub text: String,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked at {}:\n{}", self.place, self.text)
    }
}

/// Runs; a panic is the error.
///
/// # Errors
/// The panic.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Panic> {
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |information| {
            if QUIET.get() {
                PLACE.set(
                    information
                        .location()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                );
            } else {
                usual(information);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result.map_err(|panic| {
        let text = match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic
                .downcast_ref::<&str>()
                .map_or_else(|| "a panic without a text".to_owned(), |text| (*text).to_owned()),
        };
        Panic {
            place: PLACE.take(),
            text,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_and_the_place_of_a_panic_are_kept() {
        let number = 7;
        let text = |result: Result<(), Panic>| result.map_err(|panic| panic.text);
        assert_eq!(caught(|| number), Ok(7));
        assert_eq!(
            text(caught(|| panic!("no {number}"))),
            Err::<(), _>("no 7".to_owned())
        );
        assert_eq!(text(caught(|| panic!("plain"))), Err::<(), _>("plain".to_owned()));
        let nothing: Result<(), Panic> = caught(|| panic!("plain"));
        let shown = nothing.unwrap_err().to_string();
        assert!(shown.starts_with("panicked at "), "{shown}");
        assert!(
            shown.contains("panics.rs:") && shown.ends_with(":\nplain"),
            "{shown}"
        );
    }
}
