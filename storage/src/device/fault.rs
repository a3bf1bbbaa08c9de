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
mod tests;
