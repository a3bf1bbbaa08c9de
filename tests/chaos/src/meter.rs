//! How long clients wait, and after what: every answer is heard, every trouble is a question when service is back.

use mendblock_harness::load::Observer;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Troubles that may have caused a stall: those of the last moments before its request was sent count too.
const MEMORY: Duration = Duration::from_secs(1);
/// Most troubles that are remembered.
const REMEMBERED: usize = 64;

/// Times of one kind, microseconds.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<u32>);

/// Times of one kind, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Half of them took less, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took less.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Times {
    /// One more.
    pub fn push(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Summed up.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let index = (share * sorted.len() as f64).ceil() as usize;
            let time = sorted.get(index.max(1) - 1).copied().unwrap_or_default();
            f64::from(time) / 1e3
        };
        Summary {
            count: sorted.len(),
            p50_ms: at(0.50),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

/// The longest time between a request and its answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stall {
    /// How long.
    pub seconds: f64,
    /// Troubles shortly before it was sent, or while it waited.
    pub after: Vec<String>,
}

#[derive(Default)]
struct Book {
    /// Troubles after which no request was sent and answered yet.
    open: Vec<(Instant, String)>,
    recent: VecDeque<(Instant, String)>,
    back: BTreeMap<String, Times>,
    longest: Stall,
}

/// Hears of answers and troubles.
#[derive(Default)]
pub struct Meter {
    book: Mutex<Book>,
    /// Whether there are open troubles: answers come by the thousand.
    is_open: AtomicBool,
    longest_micros: AtomicU64,
}

impl Meter {
    /// A trouble of this kind happens now.
    pub fn trouble(&self, name: &str) {
        let now = Instant::now();
        let mut book = self.book.lock().unwrap();
        book.open.push((now, name.to_owned()));
        book.recent.push_back((now, name.to_owned()));
        if book.recent.len() > REMEMBERED {
            book.recent.pop_front();
        }
        self.is_open.store(true, Ordering::SeqCst);
    }

    /// Times from a trouble to the answer of the first answered request that was sent after it.
    pub fn back_to_service(&self) -> BTreeMap<String, Summary> {
        let book = self.book.lock().unwrap();
        let summed_up = |(name, times): (&String, &Times)| (name.clone(), times.summary());
        book.back.iter().map(summed_up).collect()
    }

    /// The longest stall.
    pub fn longest(&self) -> Stall {
        self.book.lock().unwrap().longest.clone()
    }

    fn is_longest(&self, sent: Instant, answered: Instant) {
        let took = answered.duration_since(sent);
        let micros = took.as_micros() as u64;
        if self.longest_micros.fetch_max(micros, Ordering::Relaxed) >= micros {
            return;
        }
        let mut book = self.book.lock().unwrap();
        // Another client's longer one may have been written down meanwhile.
        if book.longest.seconds >= took.as_secs_f64() {
            return;
        }
        let is_cause = |at: Instant| at <= answered && at + MEMORY >= sent;
        let after = book
            .recent
            .iter()
            .filter(|(at, _)| is_cause(*at))
            .map(|(at, name)| {
                let (sign, distance) = match at.checked_duration_since(sent) {
                    Some(later) => ('+', later),
                    None => ('-', sent.duration_since(*at)),
                };
                format!("{sign}{:.3} s {name}", distance.as_secs_f64())
            })
            .collect();
        book.longest = Stall {
            seconds: took.as_secs_f64(),
            after,
        };
    }
}

impl Observer for Meter {
    fn answered(&self, sent: Instant, answered: Instant) {
        self.is_longest(sent, answered);
        if !self.is_open.load(Ordering::SeqCst) {
            return;
        }
        let mut book = self.book.lock().unwrap();
        let open = std::mem::take(&mut book.open);
        for (at, name) in open {
            if at <= sent {
                let took = answered.duration_since(at);
                book.back.entry(name).or_default().push(took);
            } else {
                book.open.push((at, name));
            }
        }
        self.is_open.store(!book.open.is_empty(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn service_is_back_with_an_answer_to_a_request_that_was_sent_after_the_trouble() {
        let meter = Meter::default();
        let before = Instant::now();
        meter.trouble("flood");
        // Sent before: whoever answered it, it says nothing about the time after.
        meter.answered(before - MS, Instant::now());
        assert!(meter.back_to_service().is_empty());
        let sent = Instant::now();
        meter.answered(sent, sent + 30 * MS);
        meter.answered(sent, sent + 90 * MS);
        let back = meter.back_to_service()["flood"];
        assert_eq!(back.count, 1);
        assert!((30.0..60.0).contains(&back.max_ms), "{back:?}");
    }

    #[test]
    fn the_longest_stall_names_what_came_before_it() {
        let meter = Meter::default();
        let sent = Instant::now();
        meter.answered(sent, sent + 5 * MS);
        meter.trouble("flood");
        let sent = Instant::now();
        meter.answered(sent, sent + 400 * MS);
        meter.answered(sent, sent + 20 * MS);
        let longest = meter.longest();
        assert!((0.39..0.41).contains(&longest.seconds), "{longest:?}");
        assert_eq!(longest.after.len(), 1, "{longest:?}");
        assert!(longest.after[0].contains("flood"));
    }

    #[test]
    fn summaries_are_exact() {
        let mut times = Times::default();
        assert_eq!(times.summary().count, 0);
        for ms in 1..=200 {
            times.push(ms * MS);
        }
        let Summary {
            count,
            p50_ms,
            p99_ms,
            max_ms,
        } = times.summary();
        assert_eq!((count, p50_ms, p99_ms, max_ms), (200, 100.0, 198.0, 200.0));
    }
}
