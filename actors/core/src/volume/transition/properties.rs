//! What holds for every state and every wish.

use super::*;
use crate::volume::state::{ConnectionState, DiskState, PauseFlags, Role, SuspendReasons};
use proptest::prelude::*;
use proptest::sample::select;

fn flags() -> impl Strategy<Value = (bool, bool, bool)> {
    prop_oneof![2 => Just((false, false, false)), 1 => any::<(bool, bool, bool)>()]
}

/// Any vector at all, also one that cannot be: what a confused peer might make us wish for.
fn vector() -> impl Strategy<Value = StateVector> {
    let roles = (select(Role::ALL), select(Role::ALL));
    let disks = (select(DiskState::ALL), select(DiskState::ALL));
    (roles, select(ConnectionState::ALL), disks, flags(), flags()).prop_map(
        |((role, peer_role), connection, (disk, peer_disk), suspended, paused)| StateVector {
            role,
            peer_role,
            connection,
            disk,
            peer_disk,
            suspended: SuspendReasons {
                user: suspended.0,
                no_data: suspended.1,
                fencing: suspended.2,
            },
            paused: PauseFlags {
                user: paused.0,
                peer: paused.1,
                dependency: paused.2,
            },
        },
    )
}

/// A state that can be: any vector, corrected as a fact.
fn legal() -> impl Strategy<Value = StateVector> {
    (vector(), any::<bool>()).prop_map(|(wanted, primary)| {
        let role = if primary { Role::Primary } else { Role::Secondary };
        sanitise(
            &StateVector::START,
            &StateVector { role, ..wanted },
            Kind::Hard,
            &Policy::default(),
        )
        .0
    })
}

/// A wish: mostly the state of now with one or two fields changed, as in real life.
fn wish(now: StateVector) -> impl Strategy<Value = StateVector> {
    (vector(), any::<[bool; 7]>(), 0..4u8).prop_map(move |(other, take, mode)| {
        let pick = |index: usize| mode == 0 || take[index] && take[(index + usize::from(mode)) % 7];
        StateVector {
            role: if pick(0) { other.role } else { now.role },
            peer_role: if pick(1) { other.peer_role } else { now.peer_role },
            connection: if pick(2) { other.connection } else { now.connection },
            disk: if pick(3) { other.disk } else { now.disk },
            peer_disk: if pick(4) { other.peer_disk } else { now.peer_disk },
            suspended: if pick(5) { other.suspended } else { now.suspended },
            paused: if pick(6) { other.paused } else { now.paused },
        }
    })
}

fn step() -> impl Strategy<Value = (StateVector, StateVector)> {
    legal().prop_flat_map(|now| wish(now).prop_map(move |wanted| (now, wanted)))
}

fn policies() -> impl Strategy<Value = Policy> {
    let fencing = select(vec![
        Fencing::DontCare,
        Fencing::ResourceOnly,
        Fencing::ResourceAndStonith,
    ]);
    let decided = proptest::option::of((select(DiskState::ALL), select(DiskState::ALL)));
    (fencing, any::<[bool; 4]>(), any::<[bool; 5]>(), decided).prop_map(
        |(fencing, options, facts, decided)| Policy {
            fencing,
            allow_two_primaries: options[0],
            suspend_without_data: options[1],
            verify_algorithm: options[2],
            facts: SideFacts {
                network_configured: facts[0],
                peer_can_verify: options[3],
                other_volume_peer_primary: facts[1],
                device_open: facts[2],
                state_sent: facts[3],
                newer_disk_unattached: facts[4],
                decided: decided.map(|(disk, peer_disk)| Decided { disk, peer_disk }),
                confirmed: Confirmed::Nothing,
            },
        },
    )
}

fn kinds() -> impl Strategy<Value = Kind> {
    select(vec![Kind::Hard, Kind::Soft])
}

fn confirmations() -> impl Strategy<Value = Confirmed> {
    select(vec![
        Confirmed::Nothing,
        Confirmed::ByHandshake,
        Confirmed::ByExposedId,
    ])
}

fn confirming(mut policy: Policy, confirmed: Confirmed) -> Policy {
    policy.facts.confirmed = confirmed;
    policy
}

/// Whether the own disk was raised by one of the two named rules.
fn raised_by_name(old: &StateVector, wanted: &StateVector, new: &StateVector) -> bool {
    let target = new.connection == ConnectionState::WFBitMapT
        && (wanted.disk, new.disk) == (DiskState::Negotiating, DiskState::Inconsistent);
    let source = old.connection.is_source()
        && new.connection.is_source()
        && (old.disk, wanted.disk, new.disk)
            == (DiskState::UpToDate, DiskState::Inconsistent, DiskState::UpToDate);
    target || source
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sanitise_is_idempotent((old, wanted) in step(), kind in kinds(), policy in policies(), by in confirmations()) {
        let (once, _) = sanitise(&old, &wanted, kind, &confirming(policy, by));
        // A proof counts once, for the change that it came with.
        prop_assert_eq!(sanitise(&old, &once, kind, &policy).0, once);
    }

    #[test]
    fn no_disk_is_raised_but_by_name((old, wanted) in step(), kind in kinds(), policy in policies()) {
        let (new, _) = sanitise(&old, &wanted, kind, &policy);
        let adopted = wanted.disk == DiskState::Negotiating && !new.connection.is_connected_or_better();
        prop_assert!(new.disk <= wanted.disk || adopted || raised_by_name(&old, &wanted, &new), "{wanted} {new}");
        let forgotten = new.peer_disk == DiskState::DUnknown;
        prop_assert!(new.peer_disk <= wanted.peer_disk || adopted || forgotten, "{wanted} {new}");
    }

    #[test]
    fn a_proof_raises_only_what_is_consistent((old, wanted) in step(), kind in kinds(), by in confirmations()) {
        let (without, _) = sanitise(&old, &wanted, kind, &Policy::default());
        let (with, _) = sanitise(&old, &wanted, kind, &confirming(Policy::default(), by));
        // A proven source also lets a Negotiating disk become its target.
        if with.disk > without.disk
            && with.connection == without.connection
            && !raised_by_name(&old, &wanted, &with)
        {
            prop_assert!(matches!(wanted.disk, DiskState::Outdated | DiskState::Consistent | DiskState::DUnknown));
            prop_assert_eq!(with.disk, DiskState::UpToDate);
        }
        if wanted.disk == DiskState::Outdated && with.connection.is_source() {
            prop_assert!(with.disk < DiskState::UpToDate, "an Outdated disk is no source");
        }
    }

    #[test]
    fn a_change_makes_no_illegal_state(
        (old, wanted) in step(), kind in kinds(), policy in policies(), by in confirmations(),
    ) {
        prop_assert!(is_legal(&old), "{old}");
        if let Ok(change) = change(&old, &wanted, kind, &confirming(policy, by)) {
            prop_assert!(is_legal(&change.new), "{old} {wanted} {}", change.new);
        }
    }

    #[test]
    fn facts_are_refused_only_where_the_order_of_states_forbids(
        (old, wanted) in step(), policy in policies(), by in confirmations(),
    ) {
        let policy = confirming(policy, by);
        let (new, _) = sanitise(&old, &wanted, Kind::Hard, &policy);
        prop_assert!(is_legal(&new), "{new}");
        let expected = if new == old { Ok(()) } else { check_transition(&old, &new) };
        prop_assert_eq!(change(&old, &wanted, Kind::Hard, &policy).map(|_| ()), expected);
    }

    #[test]
    fn an_accepted_request_is_accepted_as_a_fact_too((old, wanted) in step(), policy in policies()) {
        if change(&old, &wanted, Kind::Soft, &policy).is_ok() {
            prop_assert!(change(&old, &wanted, Kind::Hard, &policy).is_ok());
        }
    }

    #[test]
    fn no_request_makes_a_primary_without_data((old, wanted) in step(), policy in policies()) {
        if let Ok(change) = change(&old, &wanted, Kind::Soft, &policy)
            && old.role != Role::Primary && change.new.role == Role::Primary
        {
            prop_assert!(change.new.has_up_to_date_data(), "{old} {}", change.new);
        }
    }

    #[test]
    fn losing_the_link_keeps_a_usable_disk(old in legal(), policy in policies()) {
        let wanted = StateVector { connection: ConnectionState::NetworkFailure, ..old };
        if let Ok(change) = change(&old, &wanted, Kind::Hard, &policy) && old.disk.is_usable() {
            prop_assert_eq!(change.new.disk, old.disk);
        }
    }
}
