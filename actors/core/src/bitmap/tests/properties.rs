//! Properties: the exchange gives the union, and the part against a model.

use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_exchange_gives_both_the_union(
        ours in prop::collection::vec((0..SECTORS / 8, 1u32..40_000), 0..6),
        theirs in prop::collection::vec((0..SECTORS / 8, 1u32..40_000), 0..6),
        source_first in any::<bool>(),
    ) {
        let (mut a, mut b) = (Node::attached(0), Node::attached(1));
        let mut union = DirtyMap::new(SECTORS / 8);
        for (node, ranges) in [(&mut a, &ours), (&mut b, &theirs)] {
            for (first, count) in ranges {
                union.set(range(*first, *count));
                node.last_mark += 1;
                let number = MarkNumber(node.last_mark);
                let ranges = vec![range(*first, *count)];
                node.send(BitmapIn::Mark(vec![Mark { number, ranges, reason: MarkReason::PeerLacks }]));
            }
        }
        if source_first {
            a.send(BitmapIn::Exchange { connection: LINK, source: true, after: MarkNumber(0) });
            for frame in std::mem::take(&mut a.frames) {
                b.peer(frame);
            }
            b.send(BitmapIn::Exchange { connection: LINK, source: false, after: MarkNumber(0) });
        } else {
            b.send(BitmapIn::Exchange { connection: LINK, source: false, after: MarkNumber(0) });
            a.send(BitmapIn::Exchange { connection: LINK, source: true, after: MarkNumber(0) });
        }
        talk(&mut a, &mut b);
        for node in [&a, &b] {
            prop_assert_eq!(node.drops, 0);
            prop_assert_eq!(node.durable().differing_pages(&union).count(), 0);
            let count = union.count();
            let told = |state: &StateIn| matches!(state, StateIn::BitmapExchanged { set_bits, .. } if *set_bits == count);
            prop_assert!(node.state.iter().any(told), "both report the union");
        }
    }

    #[test]
    fn acknowledged_marks_survive_a_power_loss_and_bits_go_only_by_clear(
        steps in prop::collection::vec((0u8..6, 0u64..60), 1..80),
    ) {
        let mut node = Node::attached(0);
        let mut marks: Vec<(u64, u64)> = Vec::new();
        let mut set = std::collections::BTreeSet::new();
        for (step, value) in steps {
            let block = value * 1500;
            match step {
                0 | 1 => {
                    node.mark(block, MarkReason::PeerLacks);
                    marks.push((node.last_mark, block));
                    set.insert(block);
                }
                2 => {
                    node.clear(block, ClearReason::WrittenOnBoth);
                    set.remove(&block);
                    marks.retain(|(_, marked)| *marked != block);
                }
                3 => node.write_out(0),
                4 => node.failing = (value % 4 == 0).then_some(5),
                _ => {
                    node.complete();
                }
            }
            let memory: Vec<u64> = node.map().unwrap().runs().flat_map(BlockRange::iter).collect();
            prop_assert!(memory.iter().eq(set.iter()));
            let durable = node.durable();
            for (number, outcome) in &node.marked {
                let block = marks.iter().find(|(mark, _)| mark == number).map(|(_, block)| *block);
                prop_assert!(*outcome != MarkOutcome::Durable || block.is_none_or(|block| durable.is_set(block)));
            }
        }
        node.failing = None;
        node.run();
        prop_assert_eq!(node.marked.len() as u64, node.last_mark, "every mark is answered");
    }

    #[test]
    fn acknowledged_marks_survive_deaths_and_power_losses(
        steps in prop::collection::vec((0u8..16, 0u64..60), 1..150),
    ) {
        let mut run = Run::new();
        for (step, value) in steps {
            run.step(step, value);
            prop_assert_eq!(run.broken(), None);
        }
        run.rest();
        prop_assert_eq!(run.broken(), None);
        prop_assert_eq!(run.unanswered(), Vec::<u64>::new(), "every mark is answered");
    }
}

/// The part among neighbours that die, and what it owes.
struct Run {
    node: Node,
    generation: u64,
    disk_generation: u64,
    /// Number, block and reason of the marks of this life of the volume part, as long as their bits must stay.
    marks: Vec<(u64, u64, MarkReason)>,
    /// All marks of this life of the volume part: the unanswered ones are replayed, cleared since or not.
    sent: Vec<(u64, u64, MarkReason)>,
    /// What was acknowledged before a power loss: block, and whether it has a record.
    promised: Vec<(u64, Option<bool>)>,
}

impl Run {
    fn new() -> Self {
        Self {
            node: Node::attached(0),
            generation: 1,
            disk_generation: 1,
            marks: Vec::new(),
            sent: Vec::new(),
            promised: Vec::new(),
        }
    }

    fn step(&mut self, step: u8, value: u64) {
        let block = value * 1500;
        match step {
            0 => self.mark(block, MarkReason::PeerLacks),
            1 => self.mark(block, MarkReason::MissedWrite),
            2 => self.mark(block, MarkReason::PeerFailed),
            3 | 4 => self.clear(block),
            5 => self.node.write_out(0),
            6 => self.death(),
            7 => self.disk_death(value as usize % 3),
            8 => self.power_loss(),
            9 | 10 => {
                self.node.write_health();
            }
            11 => self.wake(),
            _ => {
                self.node.complete();
            }
        }
    }

    fn mark(&mut self, block: u64, reason: MarkReason) {
        self.node.mark(block, reason);
        self.marks.push((self.node.last_mark, block, reason));
        self.sent.push((self.node.last_mark, block, reason));
        // Set again: what was cleared is owed no flush.
        self.node.unflushed.remove(&block);
    }

    /// A listed block keeps its bit.
    fn clear(&mut self, block: u64) {
        self.node.clear(block, ClearReason::WrittenOnBoth);
        if self.node.map().is_none_or(|map| !map.is_set(block)) {
            self.marks
                .retain(|(_, marked, reason)| *marked != block || recorded(*reason).is_some());
            self.promised
                .retain(|(marked, record)| *marked != block || record.is_some());
        }
    }

    fn unanswered(&self) -> Vec<u64> {
        let answered = |number: &u64| self.node.marked.iter().any(|(marked, _)| marked == number);
        (1..=self.node.last_mark)
            .filter(|number| !answered(number))
            .collect()
    }

    /// The part dies; the volume part replays what was not answered (R5).
    fn death(&mut self) {
        self.generation += 1;
        self.node.reborn(self.generation);
        let open = self.unanswered();
        for (number, block, reason) in self.sent.iter().filter(|(number, ..)| open.contains(number)) {
            self.node.send(BitmapIn::Mark(vec![Mark {
                number: MarkNumber(*number),
                ranges: vec![BlockRange::single(*block)],
                reason: *reason,
            }]));
        }
        let last = self.node.last_mark;
        self.node.replayed(last, self.generation);
    }

    /// The disk part dies with the last operations in its mailbox.
    fn disk_death(&mut self, lost: usize) {
        self.disk_generation += 1;
        let kept = self.node.table.len().saturating_sub(lost);
        self.node.table.truncate(kept);
        self.node.send(BitmapIn::Restarted {
            part: PartName::Disk,
            generation: PartGeneration(self.disk_generation),
        });
    }

    fn power_loss(&mut self) {
        self.promised.extend(self.acknowledged());
        self.marks.clear();
        self.sent.clear();
        self.generation = 1;
        self.node.last_mark = 0;
        self.node.marked.clear();
        self.node.restart();
        self.node.attach();
    }

    /// Blocks of marks that were answered as durable, and whose bit was not cleared since.
    fn acknowledged(&self) -> Vec<(u64, Option<bool>)> {
        let durable = |number: u64| self.node.marked.contains(&(number, MarkOutcome::Durable));
        let marks = self.marks.iter().filter(|(number, ..)| durable(*number));
        marks
            .map(|(_, block, reason)| (*block, recorded(*reason)))
            .collect()
    }

    fn wake(&mut self) {
        if let Some(at) = self.node.part.wake_at() {
            self.node.step(None, at.0);
        }
    }

    fn rest(&mut self) {
        self.node.run();
        while self.node.part.wake_at().is_some() {
            self.wake();
            self.node.run();
        }
    }

    /// A promise that is broken now.
    fn broken(&self) -> Option<String> {
        if self.node.too_early {
            return Some("a cleared bit is on disk before its data".to_owned());
        }
        let bits = self.node.durable();
        let file = Health::newest(&self.node.health[0], &self.node.health[1]);
        for (block, record) in self.promised.iter().copied().chain(self.acknowledged()) {
            if !bits.is_set(block) {
                return Some(format!("the bit of block {block} is not durable"));
            }
            let one = range(block, 1);
            let listed = file.as_ref().is_ok_and(|file| match record {
                None => true,
                Some(true) => file.health.records.is_bad(one),
                Some(false) => file
                    .health
                    .records
                    .suspects(1)
                    .any(|record| record.range.overlaps(one)),
            });
            if !listed {
                return Some(format!("the record of block {block} is not durable"));
            }
            let lost = |map: &DirtyMap| !map.is_set(block);
            if self.node.map().is_some_and(lost) {
                return Some(format!("the bit of block {block} went without a clear"));
            }
        }
        None
    }
}

/// Whether a mark for this reason has a record, and about the own copy.
fn recorded(reason: MarkReason) -> Option<bool> {
    match reason {
        MarkReason::MissedWrite => Some(true),
        MarkReason::PeerFailed => Some(false),
        _ => None,
    }
}
