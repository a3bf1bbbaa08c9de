//! An activity-log part with the ring on its disk; what it sends waits until the test lets it happen.

use crate::world::{Driven, configuration, layout, snapshot};
use mendblock_core::activity::{ActivityEffect, ActivityIn, ActivityPart};
use mendblock_core::bitmap::BitmapIn;
use mendblock_core::disk::{DiskIn, MetaCompletion, MetaKind, MetaOperation, TableAnswer};
use mendblock_core::engine::VolumeIn;
use mendblock_core::fact::Fact;
use mendblock_core::identity::{PartGeneration, Query};
use mendblock_core::part::{Outbox, PartName, To};
use mendblock_core::volume::machine::StateIn;
use mendblock_core::volume::state::DiskState;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::layout::MetaIndex;
use mendblock_storage::format::replay::replay;
use mendblock_storage::format::{META_BLOCK_BYTES, MetaBlock};
use mendblock_storage::hot::Grant;
use std::collections::BTreeSet;

pub struct Node {
    pub part: Driven<ActivityPart>,
    slots: u32,
    /// What is on the disk; none: unreadable.
    pub ring: Vec<Option<MetaBlock>>,
    /// Operations that the disk part has and has not completed.
    pub meta: Vec<MetaOperation>,
    pub write_outs: Vec<(Query, Vec<u32>)>,
    pub queries: Vec<(PartGeneration, Query)>,
    /// What the volume part holds.
    pub grants: Vec<Grant>,
    pub revokes: Vec<(u64, Vec<u32>)>,
    pub state: Vec<StateIn>,
    pub transactions: Vec<(u32, u32)>,
}

impl Node {
    /// With a ring of zeroes, which is no log.
    pub fn new(slots: u32) -> Self {
        let part = ActivityPart::new(configuration(MetaIndex::Internal, slots), PartGeneration(1));
        Self {
            part: Driven::new(part),
            slots,
            ring: vec![Some([0; META_BLOCK_BYTES]); layout().log().blocks() as usize],
            meta: Vec::new(),
            write_outs: Vec::new(),
            queries: Vec::new(),
            grants: Vec::new(),
            revokes: Vec::new(),
            state: Vec::new(),
            transactions: Vec::new(),
        }
    }

    /// With an attached disk and an empty log.
    pub fn attached(slots: u32) -> Self {
        let mut node = Self::new(slots);
        node.on(ActivityIn::Snapshot(snapshot(2, DiskState::Attaching)));
        node.on(ActivityIn::Reset {
            query: Query(1),
            layout: Box::new(layout()),
        });
        node.complete_all();
        assert!(matches!(
            node.state.pop(),
            Some(StateIn::LogReset {
                query: Query(1),
                result: Ok(())
            })
        ));
        node.on(ActivityIn::Snapshot(snapshot(3, DiskState::UpToDate)));
        node
    }

    pub fn on(&mut self, message: ActivityIn) {
        let out = self.part.on(message);
        self.absorb(out);
    }

    /// The part dies; its successor starts and hears the snapshot.
    pub fn restart(&mut self, generation: u64) {
        self.restart_under(generation, DiskState::UpToDate);
    }

    pub fn restart_under(&mut self, generation: u64, state: DiskState) {
        let configuration = configuration(MetaIndex::Internal, self.slots);
        self.part = Driven::new(ActivityPart::new(configuration, PartGeneration(generation)));
        let out = self.part.start();
        self.absorb(out);
        self.on(ActivityIn::Snapshot(snapshot(3, state)));
    }

    fn absorb(&mut self, out: Outbox<ActivityEffect>) {
        for message in out.messages {
            match message {
                To::Disk(DiskIn::Meta(operations)) => self.meta.extend(operations),
                To::Disk(DiskIn::QueryTable {
                    asker: PartName::ActivityLog,
                    generation,
                    query,
                }) => {
                    self.queries.push((generation, query));
                }
                To::Bitmap(BitmapIn::WriteOut {
                    requester: PartName::ActivityLog,
                    query,
                    extents,
                    ..
                }) => {
                    self.write_outs.push((query, extents.unwrap()));
                }
                To::Volume(VolumeIn::Granted { grants }) => self.grants.extend(grants),
                To::Volume(VolumeIn::Revoke { number, extents }) => self.revokes.push((number, extents)),
                To::State(message) => self.state.push(message),
                other => panic!("{other:?}"),
            }
        }
        for fact in out.facts {
            if let Fact::ActivityTransaction { activated, evicted } = fact {
                self.transactions.push((activated, evicted));
            }
        }
    }

    pub fn activate(&mut self, extents: &[u32]) {
        self.on(ActivityIn::Activate {
            extents: extents.to_vec(),
            holder: PartGeneration(1),
        });
    }

    fn block_of(offset: u64) -> usize {
        usize::try_from((offset - layout().log_byte()) / META_BLOCK_BYTES as u64).unwrap()
    }

    /// What the operation does to the ring, and its answer.
    fn execute(&mut self, kind: &MetaKind) -> Result<Option<Buffer>, i32> {
        match kind {
            MetaKind::Read { offset, length } => {
                assert_eq!(*length as usize, META_BLOCK_BYTES);
                let block = self.ring[Self::block_of(*offset)].ok_or(5)?;
                Ok(Some(Buffer::from_vec(block.to_vec())))
            }
            MetaKind::Write { offset, buffer, .. } => {
                for (at, piece) in buffer.chunks(META_BLOCK_BYTES).enumerate() {
                    self.ring[Self::block_of(*offset) + at] = Some(piece.try_into().unwrap());
                }
                Ok(None)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Completes the oldest meta-data operation.
    pub fn complete(&mut self) {
        let operation = self.meta.remove(0);
        let result = self.execute(&operation.kind);
        self.answer_meta(&operation, result);
    }

    pub fn answer_meta(&mut self, operation: &MetaOperation, result: Result<Option<Buffer>, i32>) {
        let MetaOperation {
            holder,
            generation,
            number,
            ..
        } = *operation;
        self.on(ActivityIn::Meta(vec![MetaCompletion {
            holder,
            generation,
            number,
            result,
        }]));
    }

    pub fn complete_all(&mut self) {
        while !self.meta.is_empty() {
            self.complete();
        }
    }

    /// Answers the last question for the table with what is in the kernel.
    pub fn answer_table(&mut self) {
        let (asker, query) = self.queries.pop().expect("a question");
        let meta = self
            .meta
            .iter()
            .map(|operation| (operation.generation, operation.number))
            .collect();
        self.on(ActivityIn::Table(TableAnswer {
            query,
            asker,
            data: Vec::new(),
            meta,
        }));
    }

    pub fn written_out(&mut self, result: Result<(), i32>) -> Vec<u32> {
        let (query, extents) = self.write_outs.remove(0);
        self.on(ActivityIn::WrittenOut { query, result });
        extents
    }

    /// The volume part answers the oldest revoke.
    pub fn release(&mut self) -> u32 {
        let (number, extents) = self.revokes.remove(0);
        let (back, kept) = std::mem::take(&mut self.grants)
            .into_iter()
            .partition(|grant| extents.contains(&grant.extent()));
        self.grants = kept;
        let grants: Vec<Grant> = back;
        let held: Vec<u32> = grants.iter().map(Grant::extent).collect();
        let not_held = extents
            .iter()
            .copied()
            .filter(|extent| !held.contains(extent))
            .collect();
        self.on(ActivityIn::Released {
            number,
            grants,
            not_held,
        });
        extents[0]
    }

    /// The volume part gives an extent back of itself.
    pub fn give_back(&mut self, extent: u32) {
        let at = self
            .grants
            .iter()
            .position(|grant| grant.extent() == extent)
            .expect("it is held");
        let grants = vec![self.grants.remove(at)];
        self.on(ActivityIn::Released {
            number: 0,
            grants,
            not_held: Vec::new(),
        });
    }

    /// Makes extents hot, with nothing in the way.
    pub fn make_hot(&mut self, extents: &[u32]) {
        self.activate(extents);
        self.complete_all();
        assert!(extents.iter().all(|extent| self.granted().contains(extent)));
    }

    pub fn granted(&self) -> Vec<u32> {
        self.grants.iter().map(Grant::extent).collect()
    }

    /// The hot extents that a crash now would leave.
    pub fn on_disk(&self) -> BTreeSet<u32> {
        extents_of(&self.ring)
    }
}

/// What a ring says.
pub fn extents_of(ring: &[Option<MetaBlock>]) -> BTreeSet<u32> {
    replay(layout().log(), ring).unwrap().extents()
}
