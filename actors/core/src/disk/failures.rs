//! Errors of the lower disk until everybody concerned has taken note of them (R10): done again, the read might succeed, and the
//! bad block would be forgotten.

use super::{DataCompletion, DiskEffect, Token};
use crate::fact::Fact;
use crate::identity::{ErrorNumber, OperationId};
use crate::part::{Outbox, To};
use crate::volume::machine::{ErrorKind, StateIn};
use mendblock_storage::units::SectorRange;
use std::collections::BTreeMap;

/// A failed operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// The data operation; none for meta-data, whose asker needs no acknowledgement.
    data: Option<OperationId>,
    kind: ErrorKind,
    range: Option<SectorRange>,
    errno: i32,
    /// Durably marked, or nothing to mark.
    marked: bool,
    /// The state part has it, or is not concerned.
    taken: bool,
}

impl Failure {
    /// The failure of what this token stands for. `for_state`: the state part has to take it up.
    pub fn of(token: Token, errno: i32, for_state: bool) -> Self {
        let (data, kind, range) = match token {
            Token::Data(id, range, writes) => (Some(id), kind_of(range, writes), range),
            Token::ZeroesBeforeFlush(id, range) => (Some(id), ErrorKind::Write, Some(range)),
            Token::Meta { .. } => (None, ErrorKind::Meta, None),
        };
        Self {
            data,
            kind,
            range,
            errno,
            marked: data.is_none(),
            taken: !for_state,
        }
    }

    fn completion(&self, number: ErrorNumber) -> Option<DataCompletion> {
        let id = self.data.filter(|_| !self.marked)?;
        Some(DataCompletion {
            id,
            result: Err((number, self.errno)),
        })
    }

    fn tell_state(&self, number: ErrorNumber, out: &mut Outbox<DiskEffect>) {
        if !self.taken {
            let Self {
                kind, range, errno, ..
            } = *self;
            out.send(To::State(StateIn::IoError {
                number,
                kind,
                range,
                errno,
            }));
        }
    }
}

/// What a data operation with this range does.
pub(super) fn kind_of(range: Option<SectorRange>, writes: bool) -> ErrorKind {
    match range {
        None => ErrorKind::Flush,
        Some(_) if writes => ErrorKind::Write,
        Some(_) => ErrorKind::Read,
    }
}

/// `read`, `write`, `flush`, `meta`.
pub(super) fn name_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Read => "read",
        ErrorKind::Write => "write",
        ErrorKind::Flush => "flush",
        ErrorKind::Meta => "meta",
    }
}

/// The failures that the port's table keeps.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<ErrorNumber, Failure>);

impl Failures {
    /// A failure came in: told to the state part; the completion for the holder of the data operation is returned.
    pub fn add(
        &mut self,
        number: ErrorNumber,
        failure: Failure,
        out: &mut Outbox<DiskEffect>,
    ) -> Option<DataCompletion> {
        let Failure {
            kind, range, errno, ..
        } = failure;
        out.fact(Fact::IoError {
            number,
            kind: name_of(kind),
            range,
            errno,
        });
        self.adopt(number, failure, out)
    }

    /// As [`Failures::add`], for one that a predecessor has counted already.
    pub fn adopt(
        &mut self,
        number: ErrorNumber,
        failure: Failure,
        out: &mut Outbox<DiskEffect>,
    ) -> Option<DataCompletion> {
        failure.tell_state(number, out);
        self.0.insert(number, failure);
        self.settle(number, out);
        failure.completion(number)
    }

    /// What the table names beside the operations in the kernel: failed ones whose mark was not reported. Whether each writes.
    pub fn named(&self) -> impl Iterator<Item = (OperationId, Option<SectorRange>, bool)> {
        self.0
            .values()
            .filter(|failure| !failure.marked)
            .filter_map(|failure| {
                let writes = matches!(failure.kind, ErrorKind::Write);
                Some((failure.data?, failure.range, writes))
            })
    }

    /// For a new volume part: every completion whose mark it has not reported.
    pub fn for_volume(&self) -> Vec<DataCompletion> {
        self.0
            .iter()
            .filter_map(|(number, failure)| failure.completion(*number))
            .collect()
    }

    /// For a new state part: every error that it has not taken.
    pub fn repeat_to_state(&self, out: &mut Outbox<DiskEffect>) {
        for (number, failure) in &self.0 {
            failure.tell_state(*number, out);
        }
    }

    /// The mark is durable.
    pub fn marked(&mut self, number: ErrorNumber, out: &mut Outbox<DiskEffect>) {
        if let Some(failure) = self.0.get_mut(&number) {
            failure.marked = true;
        }
        self.settle(number, out);
    }

    /// The state part has it.
    pub fn taken(&mut self, number: ErrorNumber, out: &mut Outbox<DiskEffect>) {
        if let Some(failure) = self.0.get_mut(&number) {
            failure.taken = true;
        }
        self.settle(number, out);
    }

    fn settle(&mut self, number: ErrorNumber, out: &mut Outbox<DiskEffect>) {
        if self
            .0
            .get(&number)
            .is_some_and(|failure| failure.marked && failure.taken)
        {
            self.0.remove(&number);
            out.effect(DiskEffect::Forget { number });
        }
    }
}
