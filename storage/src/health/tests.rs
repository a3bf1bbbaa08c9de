use super::*;
use crate::units::BlockRange;
use proptest::prelude::*;
use std::collections::BTreeMap;

mod slots;

const NOW: u32 = 1_000;

fn range(first: u64, count: u32) -> BlockRange {
    BlockRange::new(first, count).unwrap()
}

fn finding(whose: Whose, cause: Cause, good_at: GoodAt) -> Finding {
    Finding {
        whose,
        cause,
        good_at,
        generation: 8,
        now: NOW,
    }
}

fn read_error() -> Finding {
    finding(Whose::Own, Cause::Read, GoodAt::Yes)
}

fn states(set: &RecordSet) -> Vec<(u64, u32, BlockState)> {
    let records = set.records().iter();
    records
        .map(|record| (record.range.first(), record.range.count(), record.state))
        .collect()
}

#[test]
fn a_second_failing_read_makes_a_block_bad() {
    let mut set = RecordSet::new();
    set.mark(range(10, 4), read_error()).unwrap();
    set.mark(range(11, 1), finding(Whose::Own, Cause::Scrub, GoodAt::No))
        .unwrap();
    use BlockState::{Bad, Suspect};
    assert_eq!(states(&set), [(10, 1, Suspect), (11, 1, Bad), (12, 2, Suspect)]);
    let bad = set.lookup(Whose::Own, 11).unwrap();
    assert_eq!(
        (bad.good_at, bad.errors, bad.cause),
        (GoodAt::Yes, 2, Cause::Read),
        "judged at the first error"
    );
}

#[test]
fn neighbours_with_equal_knowledge_are_one_record() {
    let mut set = RecordSet::new();
    set.mark(range(10, 2), read_error()).unwrap();
    set.mark(
        range(14, 2),
        Finding {
            now: NOW + 9,
            ..read_error()
        },
    )
    .unwrap();
    set.mark(
        range(12, 2),
        Finding {
            now: NOW - 9,
            ..read_error()
        },
    )
    .unwrap();
    assert_eq!(set.records().len(), 1);
    let record = set.records()[0];
    assert_eq!(record.range, range(10, 6));
    assert_eq!((record.first_seen, record.last_seen), (NOW - 9, NOW + 9));
}

#[test]
fn healed_block_leaves_a_tombstone_until_the_peer_confirms() {
    let mut set = RecordSet::new();
    set.mark(range(10, 3), read_error()).unwrap();
    let outcome = set.remove(range(11, 1), Removal::ReadBack, 8, NOW).unwrap();
    assert_eq!(
        outcome,
        Outcome {
            changed: 1,
            refused: 0
        }
    );
    assert!(!set.is_bad(range(11, 1)) && set.is_bad(range(10, 3)));
    assert_eq!((set.own_blocks(), set.tombstones().count()), (2, 1));
    assert_eq!(
        set.unlisted(range(8, 6)),
        [range(8, 2), range(11, 1), range(13, 1)]
    );
    set.drop_tombstones(range(0, 100)).unwrap();
    assert_eq!((set.own_ranges(), set.tombstones().count()), (2, 0));
}

#[test]
fn a_new_error_ends_the_tombstone() {
    let mut set = RecordSet::new();
    set.mark(range(10, 1), read_error()).unwrap();
    set.remove(range(10, 1), Removal::ReadBack, 8, NOW).unwrap();
    set.mark(range(10, 1), finding(Whose::Own, Cause::Read, GoodAt::No))
        .unwrap();
    let record = set.lookup(Whose::Own, 10).unwrap();
    assert_eq!(
        (record.state, record.good_at, record.errors),
        (BlockState::Suspect, GoodAt::No, 1)
    );
}

#[test]
fn a_failed_write_is_dismissed_by_a_good_read_only_before_anything_else() {
    let failed = finding(Whose::Own, Cause::FailedWrite, GoodAt::Yes);
    let dismiss = |set: &mut RecordSet| {
        set.remove(range(5, 1), Removal::FailedWriteReadable, 8, NOW)
            .unwrap()
    };
    let mut set = RecordSet::new();
    set.mark(range(5, 1), failed).unwrap();
    assert_eq!(dismiss(&mut set).changed, 1);

    let mut set = RecordSet::new();
    set.mark(range(5, 1), failed).unwrap();
    set.mark(range(5, 1), read_error()).unwrap();
    assert_eq!(dismiss(&mut set).refused, 1, "it read as an error since");

    let mut set = RecordSet::new();
    set.mark(range(5, 1), read_error()).unwrap();
    set.mark(range(5, 1), failed).unwrap();
    assert_eq!(dismiss(&mut set).refused, 1, "it had a record before");

    let mut set = RecordSet::new();
    set.mark(range(5, 1), failed).unwrap();
    set.mark(range(5, 1), failed).unwrap();
    assert_eq!(
        dismiss(&mut set).refused,
        1,
        "it had a record of an earlier failed write"
    );

    let mut set = RecordSet::new();
    set.mark(range(5, 1), finding(Whose::Own, Cause::MissedWrite, GoodAt::Yes))
        .unwrap();
    assert_eq!(dismiss(&mut set).refused, 1, "the client was told ok");
    set.update(Whose::Own, range(5, 1), Change::AnsweredWithError)
        .unwrap();
    assert_eq!(dismiss(&mut set).changed, 1);
}

#[test]
fn a_missed_write_is_never_undone_by_reading() {
    let mut set = RecordSet::new();
    set.mark(
        range(5, 1),
        finding(Whose::Own, Cause::MissedWrite, GoodAt::Unknown),
    )
    .unwrap();
    assert_eq!(
        set.remove(range(5, 1), Removal::ReadTwice, 8, NOW)
            .unwrap()
            .refused,
        1
    );
    set.mark(range(6, 1), read_error()).unwrap();
    set.mark(range(6, 1), finding(Whose::Own, Cause::MissedWrite, GoodAt::No))
        .unwrap();
    let record = set.lookup(Whose::Own, 6).unwrap();
    assert_eq!((record.cause, record.good_at), (Cause::MissedWrite, GoodAt::No));
    assert_eq!(
        set.remove(range(6, 1), Removal::ReadTwice, 8, NOW)
            .unwrap()
            .refused,
        1
    );
}

#[test]
fn lost_blocks_come_back_only_when_a_good_copy_is_found_or_written() {
    let mut set = RecordSet::new();
    set.mark(range(5, 2), read_error()).unwrap();
    set.update(Whose::Own, range(5, 2), Change::Lost).unwrap();
    assert_eq!(set.lost_blocks(), 2);
    assert_eq!(
        set.update(Whose::Own, range(5, 2), Change::Bad).unwrap().refused,
        2
    );
    assert_eq!(
        set.remove(range(5, 2), Removal::EqualCopies, 8, NOW)
            .unwrap()
            .refused,
        2
    );
    set.update(Whose::Own, range(5, 1), Change::Found).unwrap();
    assert_eq!(set.lookup(Whose::Own, 5).unwrap().good_at, GoodAt::Yes);
    assert_eq!(
        set.remove(range(6, 1), Removal::AcceptLost, 8, NOW)
            .unwrap()
            .changed,
        1
    );
    assert_eq!(set.lost_blocks(), 0);
}

#[test]
fn the_list_refuses_what_it_cannot_hold_and_stays_as_it_was() {
    let mut set = RecordSet::new();
    for index in 0..MAX_OWN_RANGES as u64 {
        set.mark(range(index * 2, 1), read_error()).unwrap();
        set.mark(
            range(index * 2, 1),
            finding(Whose::Peer(1), Cause::Read, GoodAt::Yes),
        )
        .unwrap();
    }
    let full = set.clone();
    assert_eq!(set.mark(range(9_999, 1), read_error()), Err(ListFull::Own));
    let suspect = finding(Whose::Peer(2), Cause::Read, GoodAt::Yes);
    assert_eq!(set.mark(range(9_999, 1), suspect), Err(ListFull::Suspects));
    assert_eq!(set, full);
    set.mark(range(0, 1), read_error()).unwrap();

    let mut set = RecordSet::new();
    assert_eq!(
        set.mark(range(0, MAX_OWN_BLOCKS as u32 + 1), read_error()),
        Err(ListFull::Own)
    );
    set.set_own_limits(2, 16);
    set.mark(range(0, 16), read_error()).unwrap();
    assert_eq!(set.mark(range(20, 1), read_error()), Err(ListFull::Own));
    set.set_own_limits(1, 4);
    set.remove(range(15, 1), Removal::ReadBack, 8, NOW).unwrap();
    assert_eq!(set.own_blocks(), 15, "a lowered limit does not forbid to shrink");
}

#[test]
fn without_room_for_a_tombstone_the_record_stays() {
    let mut set = RecordSet::new();
    for index in 0..MAX_TOMBSTONES as u64 {
        set.mark(range(index * 2, 1), read_error()).unwrap();
        set.remove(range(index * 2, 1), Removal::ReadBack, 8, NOW)
            .unwrap();
    }
    set.mark(range(9_999, 1), read_error()).unwrap();
    assert_eq!(
        set.remove(range(9_999, 1), Removal::ReadBack, 8, NOW),
        Err(ListFull::Tombstones)
    );
    assert!(set.is_bad(range(9_999, 1)));
}

#[test]
fn the_peers_list_becomes_suspect_records_and_its_suspicions_ours() {
    let mut theirs = RecordSet::new();
    theirs.mark(range(1, 2), read_error()).unwrap();
    theirs
        .mark(range(20, 1), finding(Whose::Peer(7), Cause::Read, GoodAt::Yes))
        .unwrap();
    theirs
        .mark(
            range(30, 1),
            finding(Whose::Peer(7), Cause::MissedWrite, GoodAt::Yes),
        )
        .unwrap();
    theirs
        .mark(range(40, 1), finding(Whose::Peer(3), Cause::Read, GoodAt::Yes))
        .unwrap();
    let mut ours = RecordSet::new();
    assert_eq!(
        ours.union(9, 7, theirs.records(), NOW),
        Union {
            changed: 4,
            full: None
        }
    );
    assert_eq!(
        ours.suspects(9).map(|record| record.range).collect::<Vec<_>>(),
        [range(1, 2)]
    );
    let own: Vec<_> = ours
        .own()
        .map(|record| (record.range.first(), record.cause))
        .collect();
    assert_eq!(own, [(20, Cause::PeerSaid), (30, Cause::MissedWrite)]);
    assert_eq!(
        ours.union(9, 7, theirs.records(), NOW).changed,
        0,
        "told twice is told once"
    );
}

#[test]
fn tombstones_go_before_suspicions() {
    let mut ours = RecordSet::new();
    ours.mark(range(5, 1), read_error()).unwrap();
    ours.remove(range(5, 1), Removal::ReadBack, 8, NOW).unwrap();
    let mut theirs = RecordSet::new();
    theirs
        .mark(range(5, 1), finding(Whose::Peer(0), Cause::Read, GoodAt::Yes))
        .unwrap();
    assert_eq!(ours.union(1, 0, theirs.records(), NOW).changed, 0);
    assert!(
        !ours.is_bad(range(5, 1)),
        "an old suspicion does not come back over a healed block"
    );
    assert_eq!(theirs.union(0, 1, ours.records(), NOW).changed, 1);
    assert_eq!(theirs.records(), []);
}

#[test]
fn of_two_words_about_the_good_copy_the_careful_one_counts() {
    let mut theirs = RecordSet::new();
    theirs.mark(range(5, 1), read_error()).unwrap();
    let mut ours = RecordSet::new();
    ours.mark(range(5, 1), finding(Whose::Peer(1), Cause::Read, GoodAt::No))
        .unwrap();
    ours.union(1, 0, theirs.records(), NOW);
    assert_eq!(ours.lookup(Whose::Peer(1), 5).unwrap().good_at, GoodAt::No);
}

#[test]
fn a_list_out_of_order_is_refused() {
    let mut set = RecordSet::new();
    set.mark(range(5, 2), read_error()).unwrap();
    let record = set.records()[0];
    let overlapping = Record {
        range: range(6, 1),
        ..record
    };
    assert_eq!(
        RecordSet::from_records(vec![record, overlapping]),
        Err(SetError::Order { index: 1 })
    );
    let stone = Record {
        whose: Whose::Peer(1),
        state: BlockState::Tombstone,
        ..record
    };
    assert_eq!(
        RecordSet::from_records(vec![stone]),
        Err(SetError::PeerTombstone { index: 0 })
    );
}

#[derive(Clone, Debug)]
enum Op {
    Mark(bool, u64, u32, Cause),
    Update(u64, u32, Change),
    Remove(u64, u32, Removal),
    DropSuspects(u64, u32),
    DropTombstones(u64, u32),
}

fn op() -> impl Strategy<Value = Op> {
    let cause = prop::sample::select(vec![
        Cause::Read,
        Cause::Scrub,
        Cause::MissedWrite,
        Cause::FailedWrite,
    ]);
    let change = prop::sample::select(vec![
        Change::Bad,
        Change::Lost,
        Change::Found,
        Change::GoodAt(GoodAt::Unknown),
        Change::AnsweredWithError,
    ]);
    let removal = prop::sample::select(vec![Removal::ReadBack, Removal::EqualCopies, Removal::ReadTwice]);
    let (first, count) = (0u64..60, 1u32..12);
    prop_oneof![
        4 => (any::<bool>(), first.clone(), count.clone(), cause).prop_map(|(own, a, n, c)| Op::Mark(own, a, n, c)),
        2 => (first.clone(), count.clone(), change).prop_map(|(a, n, c)| Op::Update(a, n, c)),
        2 => (first.clone(), count.clone(), removal).prop_map(|(a, n, r)| Op::Remove(a, n, r)),
        1 => (first.clone(), count.clone()).prop_map(|(a, n)| Op::DropSuspects(a, n)),
        1 => (first, count).prop_map(|(a, n)| Op::DropTombstones(a, n)),
    ]
}

fn apply(set: &mut RecordSet, op: &Op) {
    let whose = |own: bool| if own { Whose::Own } else { Whose::Peer(1) };
    let result = match op {
        Op::Mark(own, a, n, cause) => set.mark(range(*a, *n), finding(whose(*own), *cause, GoodAt::Yes)),
        Op::Update(a, n, change) => set.update(Whose::Own, range(*a, *n), *change),
        Op::Remove(a, n, reason) => set.remove(range(*a, *n), *reason, 8, NOW),
        Op::DropSuspects(a, n) => set.drop_suspects(1, range(*a, *n)),
        Op::DropTombstones(a, n) => set.drop_tombstones(range(*a, *n)),
    };
    result.unwrap();
}

/// The list block by block, as the rules for single records say it.
fn apply_to_model(model: &mut BTreeMap<(Whose, u64), Record>, op: &Op) {
    let (first, count) = match op {
        Op::Mark(_, a, n, _) | Op::Update(a, n, _) | Op::Remove(a, n, _) => (*a, *n),
        Op::DropSuspects(a, n) | Op::DropTombstones(a, n) => (*a, *n),
    };
    for block in range(first, count).iter() {
        let part = BlockRange::single(block);
        let own = (Whose::Own, block);
        match op {
            Op::Mark(is_own, _, _, cause) => {
                let whose = if *is_own { Whose::Own } else { Whose::Peer(1) };
                let finding = finding(whose, *cause, GoodAt::Yes);
                let record = rules::marked(part, model.get(&(whose, block)), &finding);
                model.insert((whose, block), record);
            }
            Op::Update(_, _, change) => {
                if let Some(record) = model.get(&own).and_then(|old| rules::updated(old, *change)) {
                    model.insert(own, record);
                }
            }
            Op::Remove(_, _, reason) => {
                let old = model.get(&own).filter(|old| old.is_listed());
                if old.is_some_and(|old| rules::may_remove(old, *reason)) {
                    model.insert(own, rules::tombstone(part, 8, NOW));
                }
            }
            Op::DropSuspects(..) => drop(model.remove(&(Whose::Peer(1), block))),
            Op::DropTombstones(..) => {
                if model.get(&own).is_some_and(|old| !old.is_listed()) {
                    model.remove(&own);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn equals_a_list_of_single_blocks(ops in prop::collection::vec(op(), 1..40)) {
        let mut set = RecordSet::new();
        let mut model = BTreeMap::new();
        for op in &ops {
            apply(&mut set, op);
            apply_to_model(&mut model, op);
        }
        let blocks = set.records().iter().flat_map(|record| {
            record.range.iter().map(|block| ((record.whose, block), Record { range: BlockRange::single(block), ..*record }))
        });
        prop_assert_eq!(blocks.collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
        for pair in set.records().windows(2) {
            let behind = (pair[0].whose, pair[0].range.end()) <= (pair[1].whose, pair[1].range.first());
            prop_assert!(behind && !(pair[0].joins(&pair[1]) && pair[0].whose == pair[1].whose), "sorted, disjoint, merged");
        }
        let listed = model.values().filter(|record| record.is_listed() && record.whose == Whose::Own);
        prop_assert_eq!(set.own_blocks(), listed.count() as u64);
        prop_assert_eq!(RecordSet::from_records(set.records().to_vec()), Ok(set));
    }
}
