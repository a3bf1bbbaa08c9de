use super::*;
use proptest::prelude::*;

fn plan(set: &mut HotSet, wanted: &[u32]) -> Plan {
    match set.begin(wanted) {
        Begin::Plan(plan) => plan,
        other => panic!("no plan: {other:?}"),
    }
}

fn heat(set: &mut HotSet, wanted: &[u32]) {
    let plan = plan(set, wanted);
    set.commit(plan);
}

fn update(slot: u16, extent: u32) -> SlotUpdate {
    SlotUpdate { slot, extent }
}

#[test]
fn never_used_slots_come_first_then_the_least_recently_used() {
    let mut set = HotSet::new(3);
    heat(&mut set, &[10, 11]);
    set.touch(10);
    let first = plan(&mut set, &[12]);
    assert_eq!(
        (first.updates(), first.evicted()),
        (&[update(2, 12)][..], &[][..])
    );
    set.commit(first);
    let second = plan(&mut set, &[13, 10]);
    assert_eq!(
        (second.updates(), second.evicted()),
        (&[update(1, 13)][..], &[11][..])
    );
    set.commit(second);
    assert_eq!(set.extents().collect::<Vec<_>>(), [10, 12, 13]);
}

#[test]
fn a_hot_extent_that_is_wanted_again_counts_as_used() {
    let mut set = HotSet::new(3);
    heat(&mut set, &[1, 2]);
    heat(&mut set, &[1, 3]);
    assert_eq!(plan(&mut set, &[4]).evicted(), [2]);
}

#[test]
fn nothing_is_hot_before_the_commit_and_the_context_shows_the_old_table() {
    let mut set = HotSet::new(2);
    heat(&mut set, &[1, 2]);
    let plan = plan(&mut set, &[3]);
    assert!(!set.is_hot(3) && !set.is_hot(1) && set.is_hot(2));
    assert_eq!(set.grant(1, 0), Err(GrantError::NotHot(1)));
    assert_eq!(set.begin(&[4]), Begin::Busy);
    assert_eq!(set.context(0).collect::<Vec<_>>(), [Some(1), Some(2)]);
    set.abort(plan);
    assert!(set.is_hot(1) && !set.is_hot(3));
    heat(&mut set, &[3]);
    assert_eq!(set.context(0).collect::<Vec<_>>(), [Some(3), Some(2)]);
    assert_eq!(set.context(1).collect::<Vec<_>>(), [Some(2)]);
}

#[test]
fn granted_extents_are_not_evicted_until_they_came_back() {
    let mut set = HotSet::new(2);
    heat(&mut set, &[1, 2]);
    let one = set.grant(1, 7).unwrap();
    let two = set.grant(2, 7).unwrap();
    assert_eq!(set.grant(1, 7), Err(GrantError::Granted { extent: 1, holder: 7 }));
    assert_eq!(set.begin(&[1, 3]), Begin::Full { missing: 1 });
    let revokes = set.revoke(1, &[1, 3]);
    assert_eq!(
        revokes.iter().map(|revoke| revoke.extent).collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(set.revoke(1, &[1, 3]), [], "one is enough");
    assert!(set.release(two));
    assert_eq!(set.open_revokes().count(), 0);
    assert_eq!(plan(&mut set, &[1, 3]).evicted(), [2]);
    assert!(set.release(one));
}

#[test]
fn one_call_never_asks_for_more_than_a_transaction_holds() {
    let mut set = HotSet::new(100);
    let many: Vec<u32> = (0..65).collect();
    assert_eq!(set.begin(&many), Begin::TooMany { limit: 64 });
    heat(&mut set, &many[..64]);
    heat(&mut set, &many);
    let mut small = HotSet::new(2);
    assert_eq!(small.begin(&[1, 2, 3]), Begin::TooMany { limit: 2 });
    heat(&mut small, &[1, 1, 2]);
    assert_eq!(small.begin(&[2, 1]), Begin::Hot);
}

#[test]
fn an_answer_to_a_given_up_revoke_does_not_end_a_later_grant() {
    let mut set = HotSet::from_replay(2, [(0, 5)]).unwrap();
    let old = set.revoke(1, &[])[0];
    let grant = set.grant(5, 3).unwrap();
    assert!(!set.not_held(old));
    let new = set.revoke(1, &[])[0];
    assert_ne!(old.number, new.number);
    assert!(!set.not_held(old));
    assert!(set.release(grant));
    assert!(!set.not_held(new));
}

#[test]
fn grants_of_a_dead_holder_are_presumed_until_its_successor_answers() {
    let mut set = HotSet::new(2);
    heat(&mut set, &[1, 2]);
    let orphan = set.grant(1, 1).unwrap();
    let _ = set.grant(2, 1).unwrap();
    let revoke = set.revoke(1, &[2])[0];
    set.holder_restarted(2);
    assert_eq!(set.held_count(), 2);
    assert_eq!(set.open_revokes().collect::<Vec<_>>(), [revoke]);
    assert!(!set.release(orphan), "the predecessor's word no longer counts");
    let own = set.grant(2, 2).unwrap();
    assert!(set.not_held(revoke));
    assert!(set.release(own));
    assert_eq!(set.held_count(), 0);
    assert!(set.grant(2, 2).is_ok());
    assert_eq!(set.grant(2, 1), Err(GrantError::Granted { extent: 2, holder: 2 }));
}

#[test]
fn replay_keeps_slot_numbers_and_presumes_grants() {
    let mut set = HotSet::from_replay(4, [(2, 20), (0, 10), (3, 20)]).unwrap();
    let table: Vec<_> = set.context(0).collect();
    assert_eq!(
        table,
        [Some(10), None, Some(20), None],
        "the second slot of an extent is free"
    );
    assert_eq!((set.is_hot(10), set.held_count()), (true, 2));
    let revokes = set.revoke(2, &[]);
    assert_eq!(
        revokes.iter().map(|revoke| revoke.extent).collect::<Vec<_>>(),
        [20, 10]
    );
    assert_eq!(plan(&mut set, &[30]).updates(), [update(1, 30)]);
    assert_eq!(
        HotSet::from_replay(4, [(4, 1)]),
        Err(ReplayError { slot: 4, slots: 4 })
    );
}

#[derive(Clone, Debug)]
enum Op {
    Want(Vec<u32>, bool),
    Grant(u32),
    Release(usize),
    Revoke(usize),
    Restart,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    let extent = 0u32..24;
    prop_oneof![
        4 => (prop::collection::vec(extent.clone(), 1..5), prop::bool::weighted(0.8)).prop_map(|(w, c)| Op::Want(w, c)),
        4 => extent.prop_map(Op::Grant),
        3 => (0usize..8).prop_map(Op::Release),
        1 => (0usize..4).prop_map(Op::Revoke),
        1 => Just(Op::Restart),
        1 => Just(Op::Settle),
    ]
}

/// The log on disk and the holder, as simple as they can be.
#[derive(Default)]
struct World {
    disk: BTreeMap<u16, u32>,
    grants: Vec<Grant>,
    holder: u64,
    /// Extents of a dead holder whose writes may still be owed.
    orphans: BTreeSet<u32>,
}

impl World {
    fn hold(&self, extent: u32) -> bool {
        self.orphans.contains(&extent) || self.grants.iter().any(|grant| grant.extent() == extent)
    }

    fn step(&mut self, set: &mut HotSet, op: Op) {
        match op {
            Op::Want(wanted, commit) => self.want(set, &wanted, commit),
            Op::Grant(extent) => {
                let may = set.is_hot(extent) && !self.grants.iter().any(|grant| grant.extent() == extent);
                let grant = set.grant(extent, self.holder);
                assert_eq!(grant.is_ok(), may);
                self.grants.extend(grant);
            }
            Op::Release(index) if index < self.grants.len() => {
                let grant = self.grants.swap_remove(index);
                // A holder that is not settled keeps what may still be owed.
                if self.orphans.contains(&grant.extent()) {
                    self.grants.push(grant);
                } else {
                    assert!(set.release(grant));
                }
            }
            Op::Release(_) => {}
            Op::Revoke(count) => drop(set.revoke(count, &[])),
            Op::Restart => {
                self.orphans
                    .extend(self.grants.drain(..).map(|grant| grant.extent()));
                self.holder += 1;
                set.holder_restarted(self.holder);
            }
            Op::Settle => {
                self.orphans.clear();
                for revoke in set.open_revokes().collect::<Vec<_>>() {
                    match self
                        .grants
                        .iter()
                        .position(|grant| grant.extent() == revoke.extent)
                    {
                        Some(index) => assert!(set.release(self.grants.swap_remove(index))),
                        None => assert!(set.not_held(revoke)),
                    }
                }
            }
        }
    }

    fn want(&mut self, set: &mut HotSet, wanted: &[u32], commit: bool) {
        let before = set.clone();
        match set.begin(wanted) {
            Begin::Plan(plan) => {
                for evicted in plan.evicted() {
                    assert!(!self.hold(*evicted) && !wanted.contains(evicted));
                }
                let free = before.slots() as usize - before.index.len();
                assert_eq!(plan.evicted().len(), plan.updates().len().saturating_sub(free));
                if !commit {
                    set.abort(plan);
                    assert_eq!(set.index, before.index);
                    return;
                }
                self.disk
                    .extend(plan.updates().iter().map(|update| (update.slot, update.extent)));
                set.commit(plan);
                assert!(wanted.iter().all(|extent| set.is_hot(*extent)));
            }
            Begin::Hot => assert!(wanted.iter().all(|extent| before.is_hot(*extent))),
            Begin::Full { missing } => {
                assert_eq!(*set, before);
                assert!(missing <= before.held_count());
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn what_is_held_is_in_the_log_on_disk(ops in prop::collection::vec(op(), 1..120), slots in 6u16..12) {
        let mut set = HotSet::new(slots);
        let mut world = World::default();
        for op in ops {
            world.step(&mut set, op);
            let on_disk: BTreeSet<u32> = world.disk.values().copied().collect();
            prop_assert_eq!(on_disk.len(), world.disk.len(), "no extent in two slots");
            prop_assert!(set.extents().eq(on_disk.iter().copied()));
            prop_assert!(world.grants.iter().all(|grant| on_disk.contains(&grant.extent())));
            prop_assert!(world.orphans.is_subset(&on_disk));
            let table = (0u16..).zip(set.context(0)).filter_map(|(slot, extent)| Some((slot, extent?)));
            prop_assert_eq!(table.collect::<BTreeMap<_, _>>(), world.disk.clone());
            prop_assert_eq!(set.empty.len() + set.idle.len() + set.held.len(), usize::from(slots));
        }
        let again = HotSet::from_replay(slots, world.disk.clone()).unwrap();
        prop_assert!(again.context(0).eq(set.context(0)));
        prop_assert_eq!(again.held_count(), world.disk.len());
    }
}
