//! Meta-data operations of the activity log, kept until they complete: the disk part may die with them in its mailbox (R9).

use super::ActivityEffect;
use crate::disk::{DiskIn, MetaKind, MetaOperation, TableAnswer};
use crate::identity::{PartGeneration, Query};
use crate::part::{Outbox, PartName, To};
use std::collections::{BTreeMap, BTreeSet};

/// Own operations, and those that predecessors left in the kernel.
#[derive(Debug)]
pub(super) struct Operations {
    generation: PartGeneration,
    last_number: u64,
    running: BTreeMap<u64, MetaKind>,
    /// The table was asked for; nothing is submitted before its answer.
    asked: Option<Query>,
    last_query: u64,
    /// Of predecessors, in the kernel (R7).
    inherited: BTreeSet<(PartGeneration, u64)>,
}

impl Operations {
    pub fn new(generation: PartGeneration) -> Self {
        Self {
            generation,
            last_number: 0,
            running: BTreeMap::new(),
            asked: None,
            last_query: 0,
            inherited: BTreeSet::new(),
        }
    }

    /// Asks what is in the kernel: first of all in a new generation, and when the disk part is a new one.
    pub fn ask(&mut self, out: &mut Outbox<ActivityEffect>) {
        self.last_query += 1;
        let query = Query(self.last_query);
        self.asked = Some(query);
        let generation = self.generation;
        out.send(To::Disk(DiskIn::QueryTable {
            asker: PartName::ActivityLog,
            generation,
            query,
        }));
    }

    /// Nothing of a predecessor can land on the disk any more.
    pub fn is_alone(&self) -> bool {
        self.asked.is_none() && self.inherited.is_empty()
    }

    /// The answer: repeats exactly what it does not name. One to another question, or to a predecessor, is dropped (R2).
    pub fn answered(&mut self, answer: &TableAnswer, out: &mut Outbox<ActivityEffect>) {
        if answer.asker != self.generation || self.asked != Some(answer.query) {
            return;
        }
        self.asked = None;
        let older = answer
            .meta
            .iter()
            .filter(|(generation, _)| *generation < self.generation);
        self.inherited = older.copied().collect();
        let lost = self
            .running
            .iter()
            .filter(|(number, _)| !answer.meta.contains(&(self.generation, **number)));
        let lost: Vec<MetaOperation> = lost
            .map(|(number, kind)| self.operation(*number, kind.clone()))
            .collect();
        send(lost, out);
    }

    /// Starts operations; returns the number of the first, the others follow.
    pub fn submit(&mut self, kinds: Vec<MetaKind>, out: &mut Outbox<ActivityEffect>) -> u64 {
        let first = self.last_number + 1;
        let mut operations = Vec::new();
        for kind in kinds {
            self.last_number += 1;
            operations.push(self.operation(self.last_number, kind.clone()));
            self.running.insert(self.last_number, kind);
        }
        if self.asked.is_none() {
            send(operations, out);
        }
        first
    }

    /// An operation completed. True if it is one that is waited for.
    pub fn completed(&mut self, generation: PartGeneration, number: u64) -> bool {
        if generation != self.generation {
            self.inherited.remove(&(generation, number));
            return false;
        }
        self.running.remove(&number).is_some()
    }

    /// Nobody waits for what runs any more.
    pub fn forget_all(&mut self) {
        self.running.clear();
    }

    fn operation(&self, number: u64, kind: MetaKind) -> MetaOperation {
        MetaOperation {
            holder: PartName::ActivityLog,
            generation: self.generation,
            number,
            kind,
        }
    }
}

fn send(operations: Vec<MetaOperation>, out: &mut Outbox<ActivityEffect>) {
    if !operations.is_empty() {
        out.send(To::Disk(DiskIn::Meta(operations)));
    }
}
