//! Speed of a resync: DRBD's ring of eight marks, one at most every 3 s.

use crate::part::Instant;
use std::collections::VecDeque;

const MARKS: usize = 8;
const MARK_MS: u64 = 3000;

/// The marks: when, and how many bits were left.
#[derive(Clone, Debug, Default)]
pub struct Marks(VecDeque<(Instant, u64)>);

impl Marks {
    /// Forgets all, so that a pause does not count.
    pub fn restart(&mut self) {
        self.0.clear();
    }

    /// Takes up the bits that are left and gives the speed since the oldest mark, KiB/s.
    pub fn note(&mut self, now: Instant, left: u64) -> u64 {
        let due = self
            .0
            .back()
            .is_none_or(|(at, bits)| now.ms_since(*at) >= MARK_MS && *bits != left);
        if due {
            if self.0.len() == MARKS {
                self.0.pop_front();
            }
            self.0.push_back((now, left));
        }
        let Some((at, bits)) = self.0.front() else {
            return 0;
        };
        match now.ms_since(*at) {
            0 => 0,
            elapsed => bits.saturating_sub(left) * 4 * 1000 / elapsed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_over_the_last_marks() {
        let mut marks = Marks::default();
        assert_eq!(marks.note(Instant(0), 10_000), 0);
        assert_eq!(marks.note(Instant(0).after_ms(1000), 9_744), 1024);
        marks.restart();
        assert_eq!(marks.note(Instant(0).after_ms(9000), 9_744), 0);
        for second in 10..100 {
            let now = Instant(0).after_ms(second * 1000);
            let left = if second < 50 {
                9_744
            } else {
                9_744 - (second - 50) * 10
            };
            marks.note(now, left);
        }
        assert_eq!(marks.note(Instant(0).after_ms(100_000), 9_244), 40);
    }
}
