//! What rules do to operations.

use super::super::conformance::{conforms, content, read, run, write};
use super::super::errno::{EIO, ENOSPC};
use super::super::memory::MemoryDevice;
use super::*;
use crate::units::SectorRange;

const SIZE: u64 = 4 << 20;

/// A device over a clock that the test moves.
struct Bench {
    device: FaultDevice<MemoryDevice>,
    faults: FaultHandle,
    time: Arc<Mutex<Instant>>,
}

impl Bench {
    fn new(rules: &[FaultRule]) -> Self {
        let faults = FaultHandle::new();
        for rule in rules {
            faults.add(rule.clone()).unwrap();
        }
        let time = Arc::new(Mutex::new(Instant::now()));
        let clock = Arc::clone(&time);
        let clock: Clock = Arc::new(move || *clock.lock().unwrap());
        let device = FaultDevice::new(MemoryDevice::new(SIZE), faults.clone(), clock);
        Self { device, faults, time }
    }

    fn pass(&self, milliseconds: u64) {
        *self.time.lock().unwrap() += Duration::from_millis(milliseconds);
    }

    fn reap(&mut self) -> Vec<Completion> {
        let mut out = Vec::new();
        self.device.kick();
        self.device.reap(&mut out);
        out
    }

    fn errno(&mut self, operation: Operation) -> i32 {
        run(&mut self.device, operation)
            .result
            .map_or_else(|error| error.errno, |()| 0)
    }
}

fn rule(kind: FaultKind, range: Option<(u64, u32)>, effect: Effect, mode: Mode) -> FaultRule {
    FaultRule {
        id: 1,
        kind,
        range: range.map(|(first, count)| SectorRange::new(first, count).unwrap()),
        effect,
        mode,
    }
}

const ERROR: Effect = Effect::Error { errno: EIO };
const FLUSH: Operation = Operation {
    token: 5,
    kind: OperationKind::Flush,
};

#[test]
fn without_rules_it_conforms() {
    conforms(&mut Bench::new(&[]).device);
}

#[test]
fn an_error_meets_its_kind_and_range_only() {
    let mut bench = Bench::new(&[rule(FaultKind::Read, Some((8, 8)), ERROR, Mode::Always)]);
    assert_eq!(bench.errno(write(1, 0, 7, 16384)), 0);
    assert_eq!(bench.errno(read(1, 0, 4096)), 0);
    assert_eq!(bench.errno(read(1, 0, 4096 + 512)), EIO);
    assert_eq!(bench.errno(read(1, 7680, 512)), EIO);
    assert_eq!(bench.errno(read(1, 8192, 512)), 0);
    assert_eq!(bench.errno(FLUSH), 0);
    let failed = run(&mut bench.device, read(9, 4096, 512));
    assert_eq!(
        (failed.token, failed.transferred, failed.buffer.is_some()),
        (9, 0, true)
    );
    assert_eq!(bench.faults.list()[0].hits, 3);
    bench.faults.remove(1).unwrap();
    assert_eq!(content(&mut bench.device, 4096, 512), vec![7; 512]);
}

#[test]
fn failed_writes_change_nothing_and_flushes_have_no_range() {
    let whole = rule(
        FaultKind::Any,
        None,
        Effect::Error { errno: ENOSPC },
        Mode::Always,
    );
    let mut bench = Bench::new(&[]);
    assert_eq!(bench.errno(write(1, 0, 7, 512)), 0);
    bench.faults.add(whole).unwrap();
    assert_eq!(bench.errno(write(1, 0, 8, 512)), ENOSPC);
    let discard = OperationKind::Discard {
        offset: 0,
        length: 512,
    };
    assert_eq!(
        bench.errno(Operation {
            token: 2,
            kind: discard
        }),
        ENOSPC
    );
    assert_eq!(bench.errno(FLUSH), ENOSPC);
    bench.faults.clear();
    assert_eq!(content(&mut bench.device, 0, 512), vec![7; 512]);
    bench
        .faults
        .add(rule(FaultKind::Any, Some((0, 8)), ERROR, Mode::Always))
        .unwrap();
    assert_eq!(bench.errno(FLUSH), 0);
    bench.faults.clear();
    bench
        .faults
        .add(rule(FaultKind::Flush, None, ERROR, Mode::Always))
        .unwrap();
    assert_eq!(bench.errno(FLUSH), EIO);
}

#[test]
fn times_are_counted() {
    let mut bench = Bench::new(&[rule(FaultKind::Write, None, ERROR, Mode::Times { count: 2 })]);
    let results: Vec<_> = (0..3).map(|_| bench.errno(write(1, 0, 1, 512))).collect();
    assert_eq!(results, [EIO, EIO, 0]);
}

#[test]
fn until_written_ends_sector_by_sector() {
    let mut bench = Bench::new(&[rule(FaultKind::Read, Some((8, 8)), ERROR, Mode::UntilWritten)]);
    assert_eq!(bench.errno(write(1, 10 * 512, 1, 1024)), 0);
    assert_eq!(bench.faults.list()[0].remaining, [(8, 10), (12, 16)]);
    assert_eq!(bench.errno(read(1, 10 * 512, 1024)), 0);
    assert_eq!(bench.errno(read(1, 9 * 512, 512)), EIO);
    let kind = OperationKind::WriteZeroes {
        offset: 4096,
        length: 4096,
        may_unmap: false,
    };
    assert_eq!(bench.errno(Operation { token: 1, kind }), 0);
    assert_eq!(bench.errno(read(1, 0, 16384)), 0);
    assert_eq!(bench.faults.list()[0].remaining, []);
}

#[test]
fn a_failed_write_repairs_nothing() {
    let bad_read = rule(FaultKind::Read, Some((8, 8)), ERROR, Mode::UntilWritten);
    let bad_write = FaultRule {
        id: 2,
        ..rule(FaultKind::Write, None, ERROR, Mode::Always)
    };
    let mut bench = Bench::new(&[bad_read, bad_write]);
    assert_eq!(bench.errno(write(1, 4096, 1, 4096)), EIO);
    bench.faults.remove(2).unwrap();
    assert_eq!(bench.errno(read(1, 4096, 4096)), EIO);
}

#[test]
fn a_delay_holds_one_operation_and_no_other() {
    let slow = Effect::Delay { milliseconds: 100 };
    let mut bench = Bench::new(&[rule(FaultKind::Write, Some((0, 8)), slow, Mode::Always)]);
    bench.device.submit(write(1, 0, 1, 4096));
    bench.device.submit(write(2, 4096, 1, 4096));
    let done = bench.reap();
    assert_eq!(done.iter().map(|c| c.token).collect::<Vec<_>>(), [2]);
    assert_eq!(bench.device.in_flight(), 1);
    assert_eq!(
        bench.device.next_wake(),
        Some(*bench.time.lock().unwrap() + Duration::from_millis(100))
    );
    bench.pass(99);
    assert!(bench.reap().is_empty());
    bench.pass(1);
    let done = bench.reap();
    assert_eq!((done[0].token, done[0].result), (1, Ok(())));
    assert_eq!(done[0].latency, Duration::from_millis(100));
    assert_eq!(bench.device.next_wake(), None);
}

#[test]
fn a_hang_ends_with_its_rule_and_is_judged_anew() {
    let mut bench = Bench::new(&[rule(FaultKind::Any, None, Effect::Hang, Mode::Always)]);
    bench.device.submit(read(1, 0, 512));
    bench.device.submit(FLUSH);
    bench.pass(3_600_000);
    assert!(bench.reap().is_empty());
    assert!(bench.device.next_wake().is_some());
    let error = rule(FaultKind::Read, None, ERROR, Mode::Always);
    bench.faults.add(FaultRule { id: 2, ..error }).unwrap();
    bench.faults.remove(1).unwrap();
    let mut done = bench.reap();
    done.sort_by_key(|completion| completion.token);
    assert_eq!(done[0].result, Err(DeviceError::new(EIO)));
    assert_eq!((done[1].token, done[1].result), (5, Ok(())));
    assert_eq!(bench.device.in_flight(), 0);
}

#[test]
fn a_remapped_range_reads_as_zeros_until_written() {
    let mut bench = Bench::new(&[]);
    assert_eq!(bench.errno(write(1, 0, 7, 16384)), 0);
    bench
        .faults
        .add(rule(FaultKind::Read, Some((8, 8)), ERROR, Mode::UntilWritten))
        .unwrap();
    assert_eq!(bench.errno(read(1, 0, 16384)), EIO);
    bench.faults.remap_to_zeros(1).unwrap();
    let mut expected = vec![7; 16384];
    expected[4096..8192].fill(0);
    assert_eq!(content(&mut bench.device, 0, 16384), expected);
    assert_eq!(content(&mut bench.device, 5120, 512), vec![0; 512]);
    assert_eq!(bench.errno(write(1, 4096, 8, 512)), 0);
    expected[4096..4608].fill(8);
    assert_eq!(content(&mut bench.device, 0, 16384), expected);
}

#[test]
fn handles_refuse_what_makes_no_sense() {
    let faults = FaultHandle::new();
    let good = rule(FaultKind::Read, None, ERROR, Mode::Always);
    faults.add(good.clone()).unwrap();
    assert_eq!(faults.add(good.clone()), Err(FaultError::Duplicate { id: 1 }));
    assert_eq!(faults.remove(2), Err(FaultError::Unknown { id: 2 }));
    assert_eq!(faults.remap_to_zeros(2), Err(FaultError::Unknown { id: 2 }));
    for id in 2..=MAX_RULES as u32 {
        faults.add(FaultRule { id, ..good.clone() }).unwrap();
    }
    let one_more = FaultRule { id: 5000, ..good };
    assert_eq!(
        faults.add(one_more),
        Err(FaultError::TooMany { limit: MAX_RULES })
    );
}
