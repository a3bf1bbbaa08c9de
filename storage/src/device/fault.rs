//! Faults on demand: a layer over any device that fails, delays or holds operations as rules say.
//!
//! Rules are added and removed through a [`FaultHandle`] while the device works. They are judged when an operation is
//! submitted; a hung operation is judged anew when its rule is gone. What no rule meets passes at once. What waits
//! here becomes due by [`Device::next_wake`]. Time comes from a [`Clock`], so that a simulation can hold it.
//!
//! The layer notes every operation that is in flight: it is meant for tests, rehearsals and simulation.

mod rule;

pub use rule::{Effect, FaultError, FaultKind, FaultRule, Mode};

use super::{Action, Completion, Device, DeviceError, Operation, OperationKind, Summary};
use rule::RuleState;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often hung operations are looked at: whoever removes a rule cannot wake the device's user.
const HUNG_POLL: Duration = Duration::from_millis(20);
const MAX_RULES: usize = 1024;

/// A rule with what happened to it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ActiveFault {
    /// The rule, as it was added or as [`FaultHandle::remap_to_zeros`] left it.
    pub rule: FaultRule,
    /// Operations that it met.
    pub hits: u64,
    /// What is left of its range, as (first, end) in sectors: writes take away from rules that end so. Empty: it is over.
    pub remaining: Vec<(u64, u64)>,
}

/// Switches faults while the device works; clones are handles of the same rules.
#[derive(Clone, Default)]
pub struct FaultHandle {
    rules: Arc<Mutex<BTreeMap<u32, RuleState>>>,
}

impl FaultHandle {
    /// A handle without rules, for [`FaultDevice::new`].
    pub fn new() -> Self {
        Self::default()
    }

    fn rules(&self) -> MutexGuard<'_, BTreeMap<u32, RuleState>> {
        // A rule is changed in one step; nothing panics half-way.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. Where several meet an operation, the one with the lowest id acts.
    pub fn add(&self, rule: FaultRule) -> Result<(), FaultError> {
        rule.validate()?;
        let mut rules = self.rules();
        if rules.len() >= MAX_RULES {
            return Err(FaultError::TooMany { limit: MAX_RULES });
        }
        if rules.contains_key(&rule.id) {
            return Err(FaultError::Duplicate { id: rule.id });
        }
        rules.insert(rule.id, RuleState::new(rule));
        Ok(())
    }

    /// Removes a rule; what hung by it goes on, or meets the next rule.
    pub fn remove(&self, id: u32) -> Result<(), FaultError> {
        self.rules()
            .remove(&id)
            .map(drop)
            .ok_or(FaultError::Unknown { id })
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// The rules in order of their ids.
    pub fn list(&self) -> Vec<ActiveFault> {
        self.rules().values().map(RuleState::active).collect()
    }

    /// Turns a rule into what drives were seen to do when they re-allocate a sector by themselves: what is left of its
    /// range reads as zeros from now on, without an error, until it is written.
    pub fn remap_to_zeros(&self, id: u32) -> Result<(), FaultError> {
        let mut rules = self.rules();
        let rule = rules.get_mut(&id).ok_or(FaultError::Unknown { id })?;
        rule.remap_to_zeros();
        Ok(())
    }
}

/// Where the layer takes its time from.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// A device with faults.
pub struct FaultDevice<D> {
    inner: D,
    handle: FaultHandle,
    clock: Clock,
    /// By due time, and then in order of submission.
    delayed: BTreeMap<(Instant, u64), Operation>,
    /// With the rule that holds them.
    hung: Vec<(u32, Operation)>,
    completed: Vec<Completion>,
    /// What the submitter called the operations in flight, by the number that they carry inside, and since when.
    submitted: BTreeMap<u64, (u64, Instant)>,
    next_number: u64,
}

impl<D: Device> FaultDevice<D> {
    /// Puts the rules of `handle` over a device.
    pub fn new(inner: D, handle: FaultHandle, clock: Clock) -> Self {
        Self {
            inner,
            handle,
            clock,
            delayed: BTreeMap::new(),
            hung: Vec::new(),
            completed: Vec::new(),
            submitted: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// Judges an operation that comes in, or that is released from a hang.
    fn judge(&mut self, operation: Operation) {
        let summary = operation.kind.summary();
        let verdict = self
            .handle
            .rules()
            .iter_mut()
            .find_map(|(id, rule)| Some((*id, rule.meet(&summary)?)));
        match verdict {
            None | Some((_, Effect::Zeros)) => self.inner.submit(operation),
            Some((_, Effect::Error { errno })) => self.completed.push(failed(operation, errno)),
            Some((_, Effect::Delay { milliseconds })) => {
                let due = (self.clock)() + Duration::from_millis(u64::from(milliseconds));
                self.delayed.insert((due, operation.token), operation);
            }
            Some((id, Effect::Hang)) => self.hung.push((id, operation)),
        }
    }

    /// Hands on what has become due.
    fn release(&mut self) {
        if !self.delayed.is_empty() {
            let later = self.delayed.split_off(&((self.clock)(), u64::MAX));
            for operation in std::mem::replace(&mut self.delayed, later).into_values() {
                self.inner.submit(operation);
            }
        }
        for (id, operation) in std::mem::take(&mut self.hung) {
            let holds = self.handle.rules().get(&id).is_some_and(RuleState::holds);
            if holds {
                self.hung.push((id, operation));
            } else {
                self.judge(operation);
            }
        }
    }

    /// Applies what rules say about the content, and tells them about writes.
    fn settle(&self, completion: &mut Completion) {
        if completion.result.is_err() {
            return;
        }
        let range = rule::sectors(&completion.summary);
        let mut rules = self.handle.rules();
        match (completion.summary.action, &mut completion.buffer) {
            (Action::Read, Some(buffer)) => {
                rules.values_mut().for_each(|rule| rule.show_zeros(range, buffer));
            }
            (Action::Write | Action::WriteZeroes | Action::Discard, _) => {
                rules.values_mut().for_each(|rule| rule.written(range));
            }
            _ => {}
        }
    }
}

fn failed(operation: Operation, errno: i32) -> Completion {
    let summary: Summary = operation.kind.summary();
    Completion {
        token: operation.token,
        result: Err(DeviceError::new(errno)),
        buffer: match operation.kind {
            OperationKind::Read { buffer, .. } => Some(buffer),
            _ => None,
        },
        summary,
        transferred: 0,
        latency: Duration::ZERO,
    }
}

impl<D: Device> Device for FaultDevice<D> {
    fn submit(&mut self, operation: Operation) {
        let number = self.next_number;
        self.next_number += 1;
        self.submitted.insert(number, (operation.token, (self.clock)()));
        self.judge(Operation {
            token: number,
            kind: operation.kind,
        });
    }

    fn kick(&mut self) {
        self.release();
        self.inner.kick();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        self.kick();
        let mut completions = Vec::new();
        self.inner.reap(&mut completions);
        for completion in &mut completions {
            self.settle(completion);
        }
        completions.append(&mut self.completed);
        let now = (self.clock)();
        for completion in &mut completions {
            let (token, since) = self
                .submitted
                .remove(&completion.token)
                .expect("a device completes each operation once");
            completion.token = token;
            completion.latency = now.saturating_duration_since(since);
        }
        out.append(&mut completions);
    }

    fn in_flight(&self) -> usize {
        self.submitted.len()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn logical_block(&self) -> u32 {
        self.inner.logical_block()
    }

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.ready_fd()
    }

    fn next_wake(&self) -> Option<Instant> {
        let delayed = self.delayed.first_key_value().map(|((due, _), _)| *due);
        let hung = (!self.hung.is_empty()).then(|| (self.clock)() + HUNG_POLL);
        [self.inner.next_wake(), delayed, hung]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
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
}
