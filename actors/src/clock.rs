//! Where time and randomness come from: the only places of this package that ask the operating system for them.

use mendblock_core::part::Instant;
use std::time::{SystemTime, UNIX_EPOCH};

/// Monotonic time since the process started using it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        // A part takes 0 for "never", so time begins after it.
        Self {
            start: std::time::Instant::now(),
        }
    }

    /// Now, as parts know it.
    pub fn now(self) -> Instant {
        Instant(1_000_000_000 + u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX / 2))
    }

    /// How long until that moment; zero if it has passed.
    pub fn until(self, at: Instant) -> std::time::Duration {
        std::time::Duration::from_nanos(at.0.saturating_sub(self.now().0))
    }
}

/// Wall clock in seconds since 1970.
pub fn wall() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// 64 random bits of the operating system.
pub fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // Identifiers must be unique, not secret: should the system refuse, the clock's nanoseconds stand in.
    if getrandom::fill(&mut bytes).is_err() {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        return (nanos as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    u64::from_le_bytes(bytes)
}
