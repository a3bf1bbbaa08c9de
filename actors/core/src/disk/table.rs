//! What is in the kernel, as far as this generation of the disk part knows: what it submitted itself, and what it adopted.

use super::failures::{kind_of, name_of};
use super::meta::Step;
use super::{TableAnswer, Token};
use crate::identity::{OperationId, PartGeneration, Query};
use crate::part::{Instant, PartName};
use mendblock_storage::units::SectorRange;
use std::collections::{BTreeMap, VecDeque};

/// A data operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataRun {
    pub range: Option<SectorRange>,
    pub writes: bool,
    pub since: Instant,
    /// Nobody waits for it any more.
    pub abandoned: bool,
}

/// Names a meta-data operation.
pub(super) type MetaKey = (PartName, PartGeneration, u64);

/// A meta-data operation.
#[derive(Clone, Debug)]
pub(super) struct MetaRun {
    /// It is known to be a read.
    pub reads: bool,
    pub since: Instant,
    /// The step in the kernel.
    pub step: u8,
    /// The steps after it.
    pub rest: VecDeque<Step>,
}

/// See above.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub data: BTreeMap<OperationId, DataRun>,
    pub meta: BTreeMap<MetaKey, MetaRun>,
}

impl Table {
    /// Takes over what a predecessor submitted. A meta-data operation between its steps is not: nobody knows the steps after
    /// it, so that its asker must repeat it.
    pub fn adopt(&mut self, token: Token, since: Instant) {
        match token {
            Token::Data(id, range, writes) => {
                self.data.insert(
                    id,
                    DataRun {
                        range,
                        writes,
                        since,
                        abandoned: false,
                    },
                );
            }
            Token::ZeroesBeforeFlush(id, range) => {
                let run = DataRun {
                    range: Some(range),
                    writes: true,
                    since,
                    abandoned: false,
                };
                self.data.insert(id, run);
            }
            Token::Meta {
                holder,
                generation,
                number,
                step: Token::LAST_STEP,
            } => {
                let run = MetaRun {
                    reads: false,
                    since,
                    step: Token::LAST_STEP,
                    rest: VecDeque::new(),
                };
                self.meta.insert((holder, generation, number), run);
            }
            Token::Meta { .. } => {}
        }
    }

    /// The answer to a query, from the table alone.
    pub fn answer(&self, asker: PartName, generation: PartGeneration, query: Query) -> TableAnswer {
        let meta = self.meta.keys().filter(|(holder, ..)| *holder == asker);
        TableAnswer {
            query,
            asker: generation,
            data: self
                .data
                .iter()
                .map(|(id, run)| (*id, run.range, run.writes))
                .collect(),
            meta: meta
                .map(|(_, generation, number)| (*generation, *number))
                .collect(),
        }
    }

    /// The oldest operation that somebody waits for: since when, and what it is.
    pub fn oldest(&self) -> Option<(Instant, &'static str)> {
        let data = self.data.values().filter(|run| !run.abandoned);
        let data = data.map(|run| (run.since, name_of(kind_of(run.range, run.writes))));
        let meta = self.meta.values().map(|run| (run.since, "meta"));
        data.chain(meta).min()
    }
}
