//! One test for each rule, named by it.

mod consequences;
mod corrections;

use super::*;
use crate::volume::state::{ConnectionState as C, DiskState as D, PauseFlags, Role};

fn policy() -> Policy {
    Policy {
        verify_algorithm: true,
        ..Policy::default()
    }
}

fn with_facts(facts: SideFacts) -> Policy {
    Policy { facts, ..policy() }
}

/// A Secondary; a paused resync is paused by the operator.
fn state(connection: C, disk: D, peer_disk: D) -> StateVector {
    let peer_role = if connection.is_connected_or_better() {
        Role::Secondary
    } else {
        Role::Unknown
    };
    let user = matches!(connection, C::PausedSyncS | C::PausedSyncT);
    let paused = PauseFlags {
        user,
        ..PauseFlags::NONE
    };
    StateVector {
        connection,
        disk,
        peer_disk,
        peer_role,
        paused,
        ..StateVector::START
    }
}

fn primary(connection: C, disk: D, peer_disk: D) -> StateVector {
    StateVector {
        role: Role::Primary,
        ..state(connection, disk, peer_disk)
    }
}

fn soft(old: StateVector, wanted: StateVector) -> Result<StateVector, Refusal> {
    change(&old, &wanted, Kind::Soft, &policy()).map(|change| change.new)
}

fn hard(old: StateVector, wanted: StateVector) -> Result<StateVector, Refusal> {
    change(&old, &wanted, Kind::Hard, &policy()).map(|change| change.new)
}

fn go(old: StateVector, connection: C) -> StateVector {
    StateVector { connection, ..old }
}

fn disk(old: StateVector, disk: D) -> StateVector {
    StateVector { disk, ..old }
}

fn peer_disk(old: StateVector, peer_disk: D) -> StateVector {
    StateVector { peer_disk, ..old }
}

fn promoted(old: StateVector) -> StateVector {
    StateVector {
        role: Role::Primary,
        ..old
    }
}

fn demoted(old: StateVector) -> StateVector {
    StateVector {
        role: Role::Secondary,
        ..old
    }
}

fn in_sync() -> StateVector {
    state(C::Connected, D::UpToDate, D::UpToDate)
}

#[test]
fn s1_two_primaries() {
    let old = StateVector {
        peer_role: Role::Primary,
        ..in_sync()
    };
    assert_eq!(soft(old, promoted(old)), Err(Refusal::TwoPrimaries));
    let allowed = Policy {
        allow_two_primaries: true,
        ..policy()
    };
    assert!(change(&old, &promoted(old), Kind::Soft, &allowed).is_ok());
}

#[test]
fn s2_peer_primary_on_another_volume() {
    let other = with_facts(SideFacts {
        other_volume_peer_primary: true,
        ..SideFacts::default()
    });
    let result = change(&in_sync(), &promoted(in_sync()), Kind::Soft, &other);
    assert_eq!(result, Err(Refusal::OVolPeerPri));
}

#[test]
fn s3_demotion_of_an_open_device() {
    let open = with_facts(SideFacts {
        device_open: true,
        ..SideFacts::default()
    });
    let old = promoted(in_sync());
    assert_eq!(
        change(&old, &demoted(old), Kind::Soft, &open),
        Err(Refusal::DeviceInUse)
    );
    assert_eq!(soft(old, demoted(old)), Ok(in_sync()));
}

#[test]
fn s4_promotion_alone_needs_up_to_date() {
    for own in [D::Diskless, D::Inconsistent, D::Outdated, D::Consistent] {
        let old = state(C::WFConnection, own, D::DUnknown);
        assert_eq!(soft(old, promoted(old)), Err(Refusal::NoUpToDateDisk), "{own}");
    }
    let old = state(C::WFConnection, D::Outdated, D::DUnknown);
    let forced = disk(promoted(old), D::UpToDate);
    assert_eq!(soft(old, forced), Ok(forced));
}

#[test]
fn s5_fencing_wants_the_peer_outdated() {
    let fencing = Policy {
        fencing: Fencing::ResourceOnly,
        ..policy()
    };
    let old = state(C::WFConnection, D::UpToDate, D::DUnknown);
    let result = change(&old, &promoted(old), Kind::Soft, &fencing);
    assert_eq!(result, Err(Refusal::PrimaryNop));
    let fenced = peer_disk(old, D::Outdated);
    assert!(change(&fenced, &promoted(fenced), Kind::Soft, &fencing).is_ok());
    assert_eq!(
        effective_fencing(&disk(old, D::Diskless), &fencing),
        Fencing::DontCare
    );
}

#[test]
fn s6_detach_of_the_last_good_disk() {
    for other in [D::Diskless, D::Inconsistent] {
        let old = primary(C::Connected, D::UpToDate, other);
        assert_eq!(
            soft(old, disk(old, D::Failed)),
            Err(Refusal::NoUpToDateDisk),
            "{other}"
        );
    }
    let old = promoted(in_sync());
    assert_eq!(soft(old, disk(old, D::Failed)), Ok(disk(old, D::Failed)));
}

#[test]
fn s7_v4_resync_without_local_disk() {
    let old = state(C::Connected, D::Diskless, D::UpToDate);
    for to in [C::StartingSyncT, C::StartingSyncS, C::VerifyS] {
        assert_eq!(soft(old, go(old, to)), Err(Refusal::NoLocalDisk), "{to}");
    }
}

#[test]
fn s8_v4_resync_without_remote_disk() {
    let old = state(C::Connected, D::UpToDate, D::Diskless);
    for to in [C::StartingSyncT, C::StartingSyncS, C::VerifyS] {
        assert_eq!(soft(old, go(old, to)), Err(Refusal::NoRemoteDisk), "{to}");
    }
}

#[test]
fn s9_v2_no_disk_is_raised_for_a_resync_or_verify() {
    let refused = Err(Refusal::NoUpToDateDisk);
    let peer_bad = state(C::Connected, D::UpToDate, D::Inconsistent);
    let own_bad = state(C::Connected, D::Inconsistent, D::UpToDate);
    assert_eq!(
        soft(peer_bad, go(peer_bad, C::StartingSyncT)),
        refused,
        "invalidate: the peer's is no source"
    );
    assert_eq!(
        soft(own_bad, go(own_bad, C::StartingSyncS)),
        refused,
        "invalidate-remote: nor is the own"
    );
    for old in [
        peer_bad,
        own_bad,
        state(C::Connected, D::Inconsistent, D::Inconsistent),
    ] {
        assert_eq!(soft(old, go(old, C::VerifyS)), refused, "verify {old}");
    }
    assert!(soft(own_bad, go(own_bad, C::StartingSyncT)).is_ok());
    assert!(soft(peer_bad, go(peer_bad, C::StartingSyncS)).is_ok());
}

#[test]
fn s10_v3_outdate_while_connected() {
    let outdate = |own| {
        let old = state(C::Connected, own, D::UpToDate);
        soft(old, disk(old, D::Outdated))
    };
    assert_eq!(outdate(D::UpToDate), Err(Refusal::ConnectedOutdates));
    assert_eq!(outdate(D::Consistent), Err(Refusal::ConnectedOutdates));
    assert_eq!(outdate(D::Inconsistent), Err(Refusal::LowerThanOutdated));
    assert_eq!(outdate(D::Negotiating), Err(Refusal::LowerThanOutdated));
    assert_eq!(outdate(D::Diskless), Err(Refusal::IsDiskless));
    assert_eq!(
        outdate(D::Outdated),
        Ok(state(C::Connected, D::Outdated, D::UpToDate)),
        "it is so already"
    );
    for (from, own) in [(C::SyncTarget, D::Inconsistent), (C::Behind, D::Inconsistent)] {
        let old = state(from, own, D::UpToDate);
        assert_eq!(
            soft(old, disk(old, D::Outdated)),
            Err(Refusal::LowerThanOutdated),
            "{from}"
        );
    }
    let establishing = state(C::WFReportParams, D::Outdated, D::DUnknown);
    let met = peer_disk(go(establishing, C::Connected), D::UpToDate);
    assert_eq!(
        soft(establishing, met),
        Err(Refusal::ConnectedOutdates),
        "two disks met without a handshake"
    );
}

#[test]
fn s10_v3_a_newer_disk_is_attached_at_the_peer() {
    let old = state(C::Connected, D::UpToDate, D::Negotiating);
    let target = |old| disk(peer_disk(go(old, C::WFBitMapT), D::UpToDate), D::Outdated);
    assert_eq!(soft(old, target(old)), Ok(target(old)));
    let peers = StateVector {
        peer_role: Role::Primary,
        ..old
    };
    assert_eq!(
        soft(peers, target(peers)),
        Err(Refusal::ConnectedOutdates),
        "the peer's application works with this disk"
    );
    let own = promoted(old);
    assert_eq!(soft(own, target(own)), Err(Refusal::ConnectedOutdates));
}

#[test]
fn s10_target_may_end_its_resync_outdated() {
    let old = state(C::StartingSyncT, D::Outdated, D::UpToDate);
    assert_eq!(soft(old, go(old, C::Connected)), Ok(go(old, C::Connected)));
}

#[test]
fn s11_verify_needs_an_algorithm() {
    let result = change(
        &in_sync(),
        &go(in_sync(), C::VerifyS),
        Kind::Soft,
        &Policy::default(),
    );
    assert_eq!(result, Err(Refusal::NoVerifyAlg));
    assert_eq!(
        soft(in_sync(), go(in_sync(), C::VerifyS)),
        Ok(go(in_sync(), C::VerifyS))
    );
}

#[test]
fn s12_verify_needs_a_peer_that_knows_it() {
    let old_peer = with_facts(SideFacts {
        peer_can_verify: false,
        ..SideFacts::default()
    });
    let result = change(&in_sync(), &go(in_sync(), C::VerifyS), Kind::Soft, &old_peer);
    assert_eq!(result, Err(Refusal::NotSupported));
}

#[test]
fn s13_promotion_needs_data_somewhere() {
    for (own, other) in [(D::Outdated, D::Diskless), (D::Diskless, D::Consistent)] {
        let old = state(C::Connected, own, other);
        assert_eq!(
            soft(old, promoted(old)),
            Err(Refusal::NoUpToDateDisk),
            "{own} {other}"
        );
    }
    let through_peer = state(C::Connected, D::Diskless, D::UpToDate);
    assert_eq!(
        soft(through_peer, promoted(through_peer)),
        Ok(promoted(through_peer))
    );
}

#[test]
fn s14_full_sync_needs_a_known_peer() {
    let unknown = state(C::StartingSyncS, D::UpToDate, D::DUnknown);
    assert_eq!(
        check_state(&unknown, Fencing::DontCare, &policy()),
        Err(Refusal::NeedConnection)
    );
}

#[test]
fn s15_connected_needs_a_known_peer_disk() {
    let old = state(C::WFReportParams, D::UpToDate, D::DUnknown);
    assert_eq!(soft(old, go(old, C::Connected)), Err(Refusal::ConnectedOutdates));
}

#[test]
fn s16_what_is_illegal_already_may_change_in_other_respects() {
    let degraded = primary(C::WFConnection, D::Inconsistent, D::DUnknown);
    assert_eq!(
        soft(degraded, go(degraded, C::WFReportParams)),
        Ok(go(degraded, C::WFReportParams))
    );
    // but it does not get into a verify by that
    let old = primary(C::Connected, D::Inconsistent, D::Inconsistent);
    assert_eq!(soft(old, go(old, C::VerifyS)), Err(Refusal::NoUpToDateDisk));
}

#[test]
fn s17_unchanged_connection_stands_against_nothing() {
    let old = state(C::Timeout, D::UpToDate, D::DUnknown);
    assert_eq!(hard(old, disk(old, D::Failed)), Ok(disk(old, D::Failed)));
    let same = change(&old, &old, Kind::Soft, &policy()).unwrap();
    assert_eq!(
        same,
        Change {
            new: old,
            warning: None
        }
    );
}

#[test]
fn s18_standalone_cannot_disconnect() {
    let old = StateVector::START;
    assert_eq!(
        hard(old, go(old, C::Disconnecting)),
        Err(Refusal::AlreadyStandalone)
    );
}

#[test]
fn s19_standalone_only_to_unconnected() {
    let old = StateVector::START;
    for to in C::ALL.iter().filter(|to| **to > C::Unconnected) {
        assert_eq!(hard(old, go(old, *to)), Err(Refusal::NeedConnection), "{to}");
    }
    assert_eq!(hard(old, go(old, C::Unconnected)), Ok(go(old, C::Unconnected)));
}

#[test]
fn s20_connected_only_through_report_params() {
    let old = state(C::WFConnection, D::UpToDate, D::DUnknown);
    assert_eq!(hard(old, go(old, C::Connected)), Err(Refusal::NeedConnection));
}

#[test]
fn s21_the_first_network_error_wins() {
    for from in C::ALL.iter().filter(|from| from.is_down()) {
        let old = state(*from, D::UpToDate, D::DUnknown);
        for to in C::ALL.iter().filter(|to| *to != from) {
            let allowed = matches!(to, C::Unconnected | C::Disconnecting);
            assert_eq!(hard(old, go(old, *to)).is_ok(), allowed, "{from} {to}");
        }
        assert_eq!(
            hard(old, go(old, C::WFConnection)),
            Err(Refusal::InTransientState),
            "{from}"
        );
    }
}

#[test]
fn s22_an_error_cannot_undo_disconnecting() {
    let old = state(C::Disconnecting, D::UpToDate, D::DUnknown);
    assert_eq!(hard(old, go(old, C::BrokenPipe)), Err(Refusal::InTransientState));
    assert_eq!(hard(old, go(old, C::StandAlone)), Ok(go(old, C::StandAlone)));
}

#[test]
fn s23_no_disk_cannot_fail() {
    let old = state(C::Connected, D::Diskless, D::UpToDate);
    assert_eq!(hard(old, disk(old, D::Failed)), Err(Refusal::IsDiskless));
    let lost = disk(go(old, C::BrokenPipe), D::Failed);
    assert_eq!(
        hard(old, lost),
        Err(Refusal::IsDiskless),
        "whatever the connection does"
    );
}

#[test]
fn s24_one_resync_at_a_time() {
    let old = state(C::SyncSource, D::UpToDate, D::Inconsistent);
    assert_eq!(soft(old, go(old, C::StartingSyncT)), Err(Refusal::ResyncRunning));
    let request = check_request(&old, &go(old, C::StartingSyncS), &policy());
    assert_eq!(request, Err(Refusal::ResyncRunning));
    let starting = state(C::StartingSyncS, D::UpToDate, D::Consistent);
    assert_eq!(
        soft(starting, promoted(starting)),
        Ok(promoted(starting)),
        "this starts none"
    );
}

#[test]
fn s25_disconnect_of_a_standalone() {
    let old = StateVector::START;
    assert_eq!(
        soft(old, go(old, C::Disconnecting)),
        Err(Refusal::AlreadyStandalone)
    );
}

#[test]
fn s26_a_disk_comes_only_by_attach() {
    let old = state(C::Connected, D::Diskless, D::UpToDate);
    assert_eq!(soft(old, disk(old, D::UpToDate)), Err(Refusal::IsDiskless));
    assert_eq!(soft(old, disk(old, D::Attaching)), Ok(disk(old, D::Attaching)));
}

#[test]
fn s27_wfconnection_needs_a_network_configuration() {
    let old = state(C::Disconnecting, D::UpToDate, D::DUnknown);
    let request = check_request(&old, &go(old, C::WFConnection), &policy());
    assert_eq!(request, Err(Refusal::NoNetConfig));
}

#[test]
fn s28_outdate_of_a_worse_disk() {
    for own in [D::Diskless, D::Failed, D::Inconsistent] {
        let old = state(C::WFConnection, own, D::DUnknown);
        assert_eq!(
            soft(old, disk(old, D::Outdated)),
            Err(Refusal::LowerThanOutdated),
            "{own}"
        );
    }
    for own in [D::Attaching, D::Outdated, D::Consistent, D::UpToDate] {
        let old = state(C::WFConnection, own, D::DUnknown);
        assert_eq!(
            soft(old, disk(old, D::Outdated)),
            Ok(disk(old, D::Outdated)),
            "{own}"
        );
    }
    let old = primary(C::WFConnection, D::UpToDate, D::DUnknown);
    assert_eq!(
        soft(old, disk(old, D::Outdated)),
        Err(Refusal::NoUpToDateDisk),
        "a Primary keeps its data"
    );
}

#[test]
fn s29_disconnect_waits_for_the_receiver() {
    let old = state(C::Unconnected, D::UpToDate, D::DUnknown);
    assert_eq!(
        soft(old, go(old, C::Disconnecting)),
        Err(Refusal::InTransientState)
    );
    assert!(
        hard(old, go(old, C::Disconnecting)).is_ok(),
        "by force it does not"
    );
}

#[test]
fn s30_nothing_changes_while_the_own_state_is_under_way() {
    let sent = with_facts(SideFacts {
        state_sent: true,
        ..SideFacts::default()
    });
    let old = state(C::WFReportParams, D::UpToDate, D::DUnknown);
    let result = change(&old, &promoted(old), Kind::Soft, &sent);
    assert_eq!(result, Err(Refusal::InTransientState));
    let connected = StateVector {
        peer_role: Role::Secondary,
        ..peer_disk(go(old, C::Connected), D::UpToDate)
    };
    assert!(change(&old, &connected, Kind::Soft, &sent).is_ok());
    let dialling = go(old, C::WFConnection);
    assert!(change(&dialling, &old, Kind::Soft, &sent).is_ok());
}

#[test]
fn s31_v7_promotion_waits_only_while_a_resync_is_set_up() {
    for to in C::ALL.iter().filter(|to| to.is_connected_or_better()) {
        let old = state(*to, D::Inconsistent, D::UpToDate);
        if is_legal(&old) {
            let expected = if to.is_resync_setup() {
                Err(Refusal::InTransientState)
            } else {
                Ok(promoted(old))
            };
            assert_eq!(soft(old, promoted(old)), expected, "{to}");
        }
    }
}

#[test]
fn s32_verify_needs_connected() {
    let alone = state(C::WFConnection, D::UpToDate, D::Outdated);
    assert_eq!(soft(alone, go(alone, C::VerifyS)), Err(Refusal::NeedConnection));
    let syncing = state(C::SyncSource, D::UpToDate, D::Inconsistent);
    assert_eq!(
        soft(syncing, go(syncing, C::VerifyS)),
        Err(Refusal::ResyncRunning)
    );
}

#[test]
fn s33_resync_needs_a_connection() {
    for other in [D::DUnknown, D::Inconsistent, D::Outdated] {
        let old = state(C::WFReportParams, D::UpToDate, other);
        assert_eq!(
            soft(old, go(old, C::StartingSyncT)),
            Err(Refusal::NeedConnection),
            "{other}"
        );
        assert_eq!(
            soft(old, go(old, C::StartingSyncS)),
            Err(Refusal::NeedConnection),
            "{other}"
        );
    }
    let old = state(C::Timeout, D::UpToDate, D::Inconsistent);
    let request = check_request(&old, &go(old, C::SyncSource), &policy());
    assert_eq!(request, Err(Refusal::NeedConnection));
}

#[test]
fn s34_the_peer_is_outdated_only_while_it_listens() {
    let old = primary(C::WFConnection, D::UpToDate, D::DUnknown);
    let wanted = peer_disk(go(old, C::Disconnecting), D::Outdated);
    assert_eq!(soft(old, wanted), Err(Refusal::OutdateWoConn));
    let connected = promoted(in_sync());
    assert!(soft(connected, peer_disk(go(connected, C::Disconnecting), D::Outdated)).is_ok());
}

#[test]
fn s35_pause_flags_pause_and_continue() {
    let running = state(C::SyncTarget, D::Inconsistent, D::UpToDate);
    let pause = PauseFlags {
        user: true,
        ..PauseFlags::NONE
    };
    let paused = soft(
        running,
        StateVector {
            paused: pause,
            ..running
        },
    )
    .unwrap();
    assert_eq!(paused.connection, C::PausedSyncT);
    let outdated = disk(paused, D::Outdated);
    let continued = soft(
        outdated,
        StateVector {
            paused: PauseFlags::NONE,
            ..outdated
        },
    )
    .unwrap();
    assert_eq!(
        continued, running,
        "the disk of a running target is Inconsistent at once"
    );
}

#[test]
fn s36_a_source_with_bad_blocks_stays_up_to_date() {
    for from in C::ALL.iter().filter(|from| from.is_source()) {
        let old = state(*from, D::UpToDate, D::Inconsistent);
        let change = change(&old, &disk(old, D::Inconsistent), Kind::Hard, &policy()).unwrap();
        assert_eq!(change.new, old, "{from}");
    }
}

#[test]
fn s36_a_negotiating_disk_that_becomes_target_is_inconsistent() {
    let old = state(C::Connected, D::Negotiating, D::UpToDate);
    let change = change(&old, &go(old, C::WFBitMapT), Kind::Hard, &policy()).unwrap();
    assert_eq!(change.new, state(C::WFBitMapT, D::Inconsistent, D::UpToDate));
    assert_eq!(change.warning, Some(Warning::NegotiatingBecameTarget));
}

#[test]
fn s36_nothing_is_raised_when_the_resync_ends_all_the_same() {
    let old = state(C::SyncSource, D::UpToDate, D::Inconsistent);
    let both = hard(old, peer_disk(disk(old, D::Inconsistent), D::Failed)).unwrap();
    assert_eq!(both, state(C::Connected, D::Inconsistent, D::Failed));
    let old = state(C::Connected, D::Negotiating, D::Inconsistent);
    assert_eq!(hard(old, go(old, C::WFBitMapT)).unwrap(), old);
    let old = state(C::Connected, D::Negotiating, D::UpToDate);
    assert_eq!(
        soft(old, go(old, C::StartingSyncT)),
        Err(Refusal::NoLocalDisk),
        "invalidate"
    );
}

#[test]
fn v2_a_fact_wins_over_the_verify() {
    let old = state(C::VerifyS, D::UpToDate, D::UpToDate);
    for (wanted, own, other) in [
        (disk(old, D::Inconsistent), D::Inconsistent, D::UpToDate),
        (peer_disk(old, D::Inconsistent), D::UpToDate, D::Inconsistent),
        (disk(old, D::Failed), D::Failed, D::UpToDate),
    ] {
        let change = change(&old, &wanted, Kind::Hard, &policy()).unwrap();
        assert_eq!(change.new, state(C::Connected, own, other));
        assert_eq!(change.warning, Some(Warning::VerifyAborted));
    }
}

#[test]
fn v2_an_outdated_disk_is_no_source_whatever_the_handshake_says() {
    let confirmed = SideFacts {
        confirmed: Confirmed::ByHandshake,
        ..SideFacts::default()
    };
    let old = state(C::WFReportParams, D::Outdated, D::DUnknown);
    let source = peer_disk(go(old, C::WFBitMapS), D::Inconsistent);
    let refused = judge_handshake(&old, &source, &with_facts(confirmed));
    assert_eq!(refused, Err(Refusal::NoUpToDateDisk));
    let consistent = disk(source, D::Consistent);
    assert_eq!(judge_handshake(&old, &consistent, &with_facts(confirmed)), Ok(()));
}

#[test]
fn v15_a_connection_proves_nothing_by_itself() {
    let old = state(C::WFReportParams, D::Outdated, D::DUnknown);
    let met = peer_disk(go(old, C::Connected), D::Diskless);
    let stays = soft(old, met).unwrap();
    assert_eq!((stays.connection, stays.disk), (C::Connected, D::Outdated));
    assert_eq!(soft(stays, promoted(stays)), Err(Refusal::NoUpToDateDisk));
    let forced = disk(promoted(stays), D::UpToDate);
    assert_eq!(soft(stays, forced), Ok(forced));
}

#[test]
fn v15_a_handshake_or_the_exposed_id_proves_it() {
    let by = |confirmed| {
        with_facts(SideFacts {
            confirmed,
            ..SideFacts::default()
        })
    };
    let old = state(C::WFReportParams, D::Consistent, D::DUnknown);
    let same = StateVector {
        peer_role: Role::Secondary,
        ..peer_disk(go(old, C::Connected), D::Outdated)
    };
    let change = |wanted: StateVector, confirmed| {
        super::change(&old, &wanted, Kind::Soft, &by(confirmed)).map(|change| change.new)
    };
    assert_eq!(change(same, Confirmed::ByHandshake), Ok(in_sync()));
    let diskless_primary = StateVector {
        peer_role: Role::Primary,
        ..peer_disk(same, D::Diskless)
    };
    let confirmed = change(diskless_primary, Confirmed::ByExposedId).unwrap();
    assert_eq!(confirmed.disk, D::UpToDate);
    let diskless_secondary = demoted(peer_disk(same, D::Diskless));
    assert_eq!(
        change(diskless_secondary, Confirmed::ByExposedId).unwrap().disk,
        D::Consistent
    );
    assert_eq!(
        change(diskless_primary, Confirmed::ByHandshake).unwrap().disk,
        D::Consistent
    );
}

#[test]
fn v18_a_newer_disk_that_is_not_attached_forbids_promotion() {
    let newer = with_facts(SideFacts {
        newer_disk_unattached: true,
        ..SideFacts::default()
    });
    let result = change(&in_sync(), &promoted(in_sync()), Kind::Soft, &newer);
    assert_eq!(result, Err(Refusal::NoUpToDateDisk));
}
