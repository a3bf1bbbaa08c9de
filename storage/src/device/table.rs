//! The in-flight table of a device: what outlives the actor that uses it.
//!
//! A [`DeviceTable`] owns a device and notes what is in flight under which token, so that a successor can ask which
//! operations the kernel still has, instead of repeating them blindly. It numbers every failed completion when it is
//! reaped, and keeps it until it is acknowledged: done again, the read might succeed, and a bad block would be forgotten.
//! An operation can be abandoned: its submitter no longer waits, its buffer stays with the kernel (quarantine), and its
//! late completion is marked as such.

use super::{Completion, Device, DeviceError, Operation, Summary};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// An operation that has not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Its token.
    pub token: u64,
    /// What it is.
    pub summary: Summary,
    /// When it was submitted.
    pub since: Instant,
    /// Its submitter has given it up.
    pub abandoned: bool,
}

/// A failed operation that somebody still has to take note of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Rises with each failure of this table, from 1.
    pub number: u64,
    /// The operation's token.
    pub token: u64,
    /// What it was.
    pub summary: Summary,
    /// Bytes from the start of the range that came through.
    pub transferred: u64,
    /// Why.
    pub error: DeviceError,
    /// It was abandoned before it failed.
    pub late: bool,
}

/// A completion with what the table knows about it.
#[derive(Debug)]
pub struct Reaped {
    /// As the device gave it.
    pub completion: Completion,
    /// Number of the [`Failure`] that stays in the table until it is acknowledged.
    pub failure: Option<u64>,
    /// It was abandoned: nobody waits for it, only its buffer matters.
    pub late: bool,
}

/// Why an operation was not taken.
#[derive(Debug, thiserror::Error)]
#[error("token {token} is in flight already: a token names one operation until it has completed")]
pub struct TokenInUse {
    /// The token.
    pub token: u64,
    /// The operation, handed back.
    pub operation: Operation,
}

/// A device, what is in flight on it, and its failures until they are acknowledged.
pub struct DeviceTable<D> {
    device: D,
    in_flight: BTreeMap<u64, InFlight>,
    failures: BTreeMap<u64, Failure>,
    last_failure: u64,
    quarantined_bytes: u64,
    completions: Vec<Completion>,
}

impl<D: Device> DeviceTable<D> {
    /// Takes a device on which nothing is in flight.
    pub fn new(device: D) -> Self {
        Self {
            device,
            in_flight: BTreeMap::new(),
            failures: BTreeMap::new(),
            last_failure: 0,
            quarantined_bytes: 0,
            completions: Vec::new(),
        }
    }

    /// Takes an operation and notes it. Tokens are unique among what is in flight.
    pub fn submit(&mut self, operation: Operation, now: Instant) -> Result<(), TokenInUse> {
        let token = operation.token;
        if self.in_flight.contains_key(&token) {
            return Err(TokenInUse { token, operation });
        }
        let entry = InFlight {
            token,
            summary: operation.kind.summary(),
            since: now,
            abandoned: false,
        };
        self.in_flight.insert(token, entry);
        self.device.submit(operation);
        Ok(())
    }

    /// As [`Device::kick`].
    pub fn kick(&mut self) {
        self.device.kick();
    }

    /// As [`Device::reap`]; failures are numbered in the order in which they are appended.
    pub fn reap(&mut self, out: &mut Vec<Reaped>) {
        self.device.reap(&mut self.completions);
        for completion in self.completions.drain(..) {
            let entry = self
                .in_flight
                .remove(&completion.token)
                .expect("a device completes each operation once");
            if entry.abandoned {
                self.quarantined_bytes -= entry.summary.length;
            }
            let failure = completion.result.err().map(|error| {
                self.last_failure += 1;
                let failure = Failure {
                    number: self.last_failure,
                    token: completion.token,
                    summary: completion.summary,
                    transferred: completion.transferred,
                    error,
                    late: entry.abandoned,
                };
                self.failures.insert(failure.number, failure);
                failure.number
            });
            out.push(Reaped {
                completion,
                failure,
                late: entry.abandoned,
            });
        }
    }

    /// What has not completed, in order of the tokens.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = &InFlight> {
        self.in_flight.values()
    }

    /// When the oldest operation that was not abandoned came in, for deadlines.
    pub fn oldest(&self) -> Option<&InFlight> {
        self.in_flight
            .values()
            .filter(|entry| !entry.abandoned)
            .min_by_key(|entry| entry.since)
    }

    /// Failures not yet acknowledged, in order of their numbers.
    pub fn failures(&self) -> impl ExactSizeIterator<Item = &Failure> {
        self.failures.values()
    }

    /// Forgets a failure: it is recorded durably, and the state knows it. False: there is none with this number (any more).
    pub fn acknowledge(&mut self, number: u64) -> bool {
        self.failures.remove(&number).is_some()
    }

    /// Nobody waits for this operation any more. False: it is not in flight, its completion has been reaped already.
    pub fn abandon(&mut self, token: u64) -> bool {
        let Some(entry) = self.in_flight.get_mut(&token) else {
            return false;
        };
        if !entry.abandoned {
            entry.abandoned = true;
            self.quarantined_bytes += entry.summary.length;
        }
        true
    }

    /// Bytes of the ranges of abandoned operations that the kernel has not given back.
    pub fn quarantined_bytes(&self) -> u64 {
        self.quarantined_bytes
    }

    /// The device, for its properties.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// As [`Device::ready_fd`].
    pub fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.ready_fd()
    }

    /// As [`Device::next_wake`].
    pub fn next_wake(&self) -> Option<Instant> {
        self.device.next_wake()
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{read, write};
    use super::super::errno::EIO;
    use super::super::fault::{Effect, FaultDevice, FaultHandle, FaultKind, FaultRule, Mode};
    use super::super::memory::MemoryDevice;
    use super::*;
    use std::sync::Arc;

    fn table(effect: Effect) -> (DeviceTable<FaultDevice<MemoryDevice>>, FaultHandle) {
        let faults = FaultHandle::new();
        let rule = FaultRule {
            id: 1,
            kind: FaultKind::Read,
            range: None,
            effect,
            mode: Mode::Always,
        };
        faults.add(rule).unwrap();
        let clock = Arc::new(Instant::now);
        let device = FaultDevice::new(MemoryDevice::new(1 << 20), faults.clone(), clock);
        (DeviceTable::new(device), faults)
    }

    fn reap<D: Device>(table: &mut DeviceTable<D>) -> Vec<Reaped> {
        let mut out = Vec::new();
        table.kick();
        table.reap(&mut out);
        out
    }

    #[test]
    fn failures_are_numbered_and_kept_until_acknowledged() {
        let (mut table, _) = table(Effect::Error { errno: EIO });
        let now = Instant::now();
        table.submit(read(10, 0, 512), now).unwrap();
        table.submit(write(11, 0, 1, 512), now).unwrap();
        table.submit(read(12, 512, 512), now).unwrap();
        let reaped = reap(&mut table);
        let good: Vec<_> = reaped
            .iter()
            .filter(|r| r.failure.is_none())
            .map(|r| r.completion.token)
            .collect();
        assert_eq!(good, [11]);
        let failures: Vec<_> = table
            .failures()
            .map(|f| (f.number, f.token, f.error.errno))
            .collect();
        assert_eq!(failures, [(1, 10, EIO), (2, 12, EIO)]);
        assert!(table.acknowledge(1));
        assert!(!table.acknowledge(1));
        table.submit(read(10, 0, 512), now).unwrap();
        assert_eq!(reap(&mut table)[0].failure, Some(3));
        assert_eq!(table.failures().map(|f| f.number).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn what_the_kernel_has_is_named_and_not_taken_twice() {
        let (mut table, faults) = table(Effect::Hang);
        let early = Instant::now();
        let later = early + std::time::Duration::from_secs(1);
        table.submit(read(2, 0, 512), later).unwrap();
        table.submit(read(1, 512, 1024), early).unwrap();
        assert!(reap(&mut table).is_empty());
        assert_eq!(
            table.in_flight().map(|entry| entry.token).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(table.oldest().map(|entry| entry.token), Some(1));
        let refused = table.submit(read(1, 4096, 512), later).unwrap_err();
        assert_eq!(
            (refused.token, refused.operation.kind.summary().offset),
            (1, 4096)
        );

        assert!(table.abandon(1) && table.abandon(1));
        assert!(!table.abandon(3));
        assert_eq!(table.quarantined_bytes(), 1024);
        assert_eq!(table.oldest().map(|entry| entry.token), Some(2));
        faults.clear();
        let mut reaped = reap(&mut table);
        reaped.sort_by_key(|reaped| reaped.completion.token);
        assert_eq!(
            reaped.iter().map(|reaped| reaped.late).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(
            reaped[0].completion.buffer.as_ref().map(|buffer| buffer.len()),
            Some(1024)
        );
        assert_eq!((table.quarantined_bytes(), table.in_flight().len()), (0, 0));
        assert!(!table.abandon(1));
    }
}
