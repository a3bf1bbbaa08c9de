//! The silent corrections, by their step, and what the loss of a connection leaves (S58).

use super::*;

#[test]
fn s58_loss_of_connection_keeps_the_own_disk() {
    for (other, left) in [
        (D::UpToDate, D::DUnknown),
        (D::Inconsistent, D::Inconsistent),
        (D::Outdated, D::Outdated),
        (D::Consistent, D::DUnknown),
        (D::Diskless, D::DUnknown),
    ] {
        let mut old = primary(C::Connected, D::UpToDate, other);
        old.paused.peer = true;
        let lost = hard(old, go(old, C::NetworkFailure)).unwrap();
        assert_eq!(lost, primary(C::NetworkFailure, D::UpToDate, left), "{other}");
    }
}

#[test]
fn sanitise_2_dependency_ends_with_the_configuration() {
    let mut old = state(C::StandAlone, D::Failed, D::DUnknown);
    old.paused.dependency = true;
    assert!(!hard(old, disk(old, D::Diskless)).unwrap().paused.dependency);
}

#[test]
fn sanitise_3_detach_by_request_ends_the_resync() {
    let old = state(C::SyncTarget, D::Inconsistent, D::UpToDate);
    let change = change(&old, &disk(old, D::Failed), Kind::Soft, &policy()).unwrap();
    assert_eq!(change.new, state(C::Connected, D::Failed, D::UpToDate));
    assert_eq!(change.warning, Some(Warning::ResyncAborted));
}

#[test]
fn sanitise_4_connection_lost_while_negotiating() {
    let old = state(C::Connected, D::Negotiating, D::UpToDate);
    let lost = change(&old, &go(old, C::BrokenPipe), Kind::Hard, &policy()).unwrap();
    assert_eq!(lost.new, state(C::BrokenPipe, D::Diskless, D::DUnknown));
    assert_eq!(lost.warning, Some(Warning::ConnectionLostWhileNegotiating));
    let decided = Some(Decided {
        disk: D::UpToDate,
        peer_disk: D::Outdated,
    });
    let known = with_facts(SideFacts {
        decided,
        ..SideFacts::default()
    });
    let adopted = change(&old, &go(old, C::BrokenPipe), Kind::Hard, &known).unwrap();
    assert_eq!(
        adopted,
        Change {
            new: state(C::BrokenPipe, D::UpToDate, D::Outdated),
            warning: None
        }
    );
}

#[test]
fn sanitise_6_entering_a_phase_lowers_the_disk_that_is_rewritten() {
    let target = soft(in_sync(), go(in_sync(), C::StartingSyncT)).unwrap();
    assert_eq!(target, state(C::StartingSyncT, D::Outdated, D::UpToDate));
    let source = soft(in_sync(), go(in_sync(), C::StartingSyncS)).unwrap();
    assert_eq!(source, state(C::StartingSyncS, D::UpToDate, D::Consistent));
    assert_eq!(
        soft(source, go(source, C::SyncSource)).unwrap().peer_disk,
        D::Inconsistent
    );
}

#[test]
fn sanitise_7_stonith_suspends_until_the_peer_is_fenced() {
    let fencing = Policy {
        fencing: Fencing::ResourceAndStonith,
        ..policy()
    };
    let old = promoted(in_sync());
    let lost = change(&old, &go(old, C::BrokenPipe), Kind::Hard, &fencing)
        .unwrap()
        .new;
    assert!(lost.suspended.fencing);
    let syncing = primary(C::SyncSource, D::UpToDate, D::Inconsistent);
    let lost = change(&syncing, &go(syncing, C::BrokenPipe), Kind::Hard, &fencing)
        .unwrap()
        .new;
    assert!(!lost.suspended.fencing, "an Inconsistent peer needs no fencing");
    let diskless = primary(C::Connected, D::Diskless, D::UpToDate);
    let lost = change(&diskless, &go(diskless, C::BrokenPipe), Kind::Hard, &fencing)
        .unwrap()
        .new;
    assert!(!lost.suspended.fencing, "not enforced without a disk");
}

#[test]
fn sanitise_8_no_data_suspends_if_configured() {
    let suspending = Policy {
        suspend_without_data: true,
        ..policy()
    };
    let old = primary(C::Connected, D::Diskless, D::UpToDate);
    let lost = change(&old, &go(old, C::BrokenPipe), Kind::Hard, &suspending)
        .unwrap()
        .new;
    assert!(lost.suspended.no_data);
    assert!(!hard(old, go(old, C::BrokenPipe)).unwrap().suspended.any());
    let resumed = StateVector {
        suspended: Default::default(),
        ..lost
    };
    let again = change(&lost, &resumed, Kind::Hard, &suspending).unwrap().new;
    assert!(!again.suspended.any(), "only the way into the state suspends");
}
