//! Faults that are planted in toy decoders: each check must find its own, within a stated number of executions.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use mendblock_fuzz::execute::execute;
use mendblock_fuzz::run::{Limit, Report, Settings, run};
use mendblock_fuzz::target::{Breach, Cap, Finding, Probe, Target, ensure_equal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

type Check = fn(&[u8], &mut Probe) -> Result<(), Breach>;

/// A decoder of one's own for each fault.
struct Toy(Check);

impl Target for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn about(&self) -> &'static str {
        "a planted fault"
    }
    fn cap(&self) -> Cap {
        Cap {
            bytes: 64 << 10,
            because: "the test says so",
        }
    }
    fn longest(&self) -> usize {
        256
    }
    fn seeds(&self) -> Vec<Vec<u8>> {
        vec![b"TOY\0\0\0\0\x04abcd".to_vec()]
    }
    fn words(&self) -> Vec<Vec<u8>> {
        vec![b"TOY".to_vec()]
    }
    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        (self.0)(input, probe)
    }
}

/// A decoder behind a checksum: the last byte is the sum of all others.
struct Sealed;

impl Target for Sealed {
    fn name(&self) -> &'static str {
        "sealed"
    }
    fn about(&self) -> &'static str {
        "a fault behind a checksum"
    }
    fn cap(&self) -> Cap {
        Cap {
            bytes: 64 << 10,
            because: "the test says so",
        }
    }
    fn longest(&self) -> usize {
        64
    }
    fn seeds(&self) -> Vec<Vec<u8>> {
        vec![vec![1, 2, 3, 4, 5, 6, 7, 28]]
    }
    fn seal(&self, input: &mut Vec<u8>) {
        if let Some(last) = input.pop() {
            let sum = input.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            input.push(if input.is_empty() { last } else { sum });
        }
    }
    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let Some((last, rest)) = input.split_last() else {
            return Ok(());
        };
        let sum = rest.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        probe.feature(sum == *last);
        if sum == *last && rest.len() > 4 {
            let steps = rest
                .windows(2)
                .filter(|pair| pair[0] > 200 && pair[1] < 50)
                .count();
            probe.feature(steps);
            assert!(steps < 2, "behind the checksum");
        }
        Ok(())
    }
}

fn fuzz(target: &dyn Target, executions: u64) -> Report {
    let settings = Settings {
        seed: 5,
        limit: Limit::Executions(executions),
        patience: Duration::from_secs(60),
        on_hang: Box::new(|_| ()),
        before: None,
    };
    run(target, Vec::new(), settings)
}

fn length(input: &[u8]) -> Option<usize> {
    let field = input.strip_prefix(b"TOY\0")?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*field) as usize)
}

#[test]
fn a_panic_behind_a_length_is_found_and_made_small() {
    let toy = Toy(|input, probe| {
        let Some(length) = length(input) else {
            return Ok(());
        };
        probe.feature(length.checked_ilog2());
        // The fault: the length is believed.
        let body = &input[8..8 + length];
        probe.feature(body.len());
        Ok(())
    });
    let report = fuzz(&toy, 2000);
    let failure = report.failure.unwrap();
    let Finding::Panic { place, message } = &failure.finding else {
        panic!("{:?}", failure.finding);
    };
    assert!(place.contains("planted.rs"), "{place}");
    assert!(message.contains("out of range"), "{message}");
    assert!(failure.smallest.len() <= 8, "{:?}", failure.smallest);
    let again = execute(&toy, &failure.smallest).finding.unwrap();
    assert!(again.is_like(&failure.finding), "{again}");
}

#[test]
fn memory_for_an_announced_length_is_found() {
    let toy = Toy(|input, probe| {
        if let Some(length) = length(input) {
            // The fault: room is made before the bytes are there.
            let room = probe.measured(|| Vec::<u8>::with_capacity(length.min(1 << 24)).capacity());
            probe.feature(room.checked_ilog2());
        }
        Ok(())
    });
    let failure = fuzz(&toy, 2000).failure.unwrap();
    assert!(
        matches!(failure.finding, Finding::Allocation { peak, cap } if peak > cap),
        "{}",
        failure.finding
    );
}

#[test]
fn a_decoder_that_is_not_canonical_is_found() {
    let toy = Toy(|input, probe| {
        let Some(&first) = input.first() else {
            return Ok(());
        };
        probe.feature(first >> 4);
        // The fault: two bytes mean the same number, and only one of them is written.
        let decoded = if first == 0xE7 { 7 } else { first };
        ensure_equal("encoding gives the input again", &first, &decoded)
    });
    let failure = fuzz(&toy, 20_000).failure.unwrap();
    assert_eq!(failure.smallest, [0xE7]);
    assert!(
        matches!(failure.finding, Finding::Property(Breach { property, .. }) if property == "encoding gives the input again")
    );
}

#[test]
fn a_fault_behind_a_checksum_is_found() {
    let failure = fuzz(&Sealed, 20_000).failure.unwrap();
    assert!(
        matches!(&failure.finding, Finding::Panic { message, .. } if message == "behind the checksum"),
        "{}",
        failure.finding
    );
    assert!(failure.smallest.len() <= 6, "{:?}", failure.smallest);
}

#[test]
fn an_outcome_that_depends_on_more_than_the_input_is_found() {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let toy = Toy(|_, probe| {
        probe.feature(CALLS.fetch_add(1, Ordering::Relaxed));
        Ok(())
    });
    let failure = fuzz(&toy, 10).failure.unwrap();
    let Finding::Property(breach) = failure.finding else {
        panic!("{}", failure.finding);
    };
    assert_eq!(breach.property, "the same input gives the same outcome");
}

#[test]
fn an_endless_loop_is_reported_while_it_runs() {
    static RELEASED: AtomicBool = AtomicBool::new(false);
    // The fault: a count of 0 never reaches the end. (Here it does, once the watchdog has spoken.)
    let toy = Toy(|input, _| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while input.starts_with(b"TOY\0") && length(input) == Some(0) && !RELEASED.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "the watchdog said nothing");
            std::thread::yield_now();
        }
        Ok(())
    });
    let (sender, reported) = mpsc::channel();
    let settings = Settings {
        seed: 5,
        limit: Limit::Executions(20_000),
        patience: Duration::from_secs(1),
        on_hang: Box::new(move |input| {
            sender.send(input.to_vec()).unwrap();
            RELEASED.store(true, Ordering::Relaxed);
        }),
        before: None,
    };
    let report = run(&toy, Vec::new(), settings);
    let input = reported.try_recv().unwrap();
    assert_eq!(length(&input), Some(0));
    let failure = report.failure.unwrap();
    assert!(
        matches!(failure.finding, Finding::Hang { .. }),
        "{}",
        failure.finding
    );
    assert_eq!(failure.input, input);
}

#[test]
fn a_sound_decoder_is_left_in_peace() {
    let toy = Toy(|input, probe| {
        if let Some(length) = length(input) {
            let body = input.get(8..8 + length);
            probe.feature(body.map(<[u8]>::len));
        }
        Ok(())
    });
    let report = fuzz(&toy, 20_000);
    assert!(report.failure.is_none(), "{:?}", report.failure);
    assert_eq!(report.executions, 20_000);
    assert!(report.shapes > 3 && report.corpus > 3, "{report:?}");
}
