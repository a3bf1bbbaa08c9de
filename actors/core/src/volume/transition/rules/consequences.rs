//! What follows from a state or a step: S42, S49, S51, mirroring.

use super::*;

#[test]
fn s42_what_the_peer_is_asked_about() {
    let old = in_sync();
    for new in [
        promoted(old),
        go(old, C::StartingSyncT),
        go(old, C::StartingSyncS),
        disk(old, D::Failed),
    ] {
        assert!(is_cluster_wide(&old, &new), "{new}");
    }
    for to in [C::Disconnecting, C::VerifyS, C::WFReportParams] {
        assert!(is_cluster_wide(&old, &go(old, to)), "{to}");
    }
    assert!(!is_cluster_wide(&promoted(old), &old), "demotion");
    assert!(!is_cluster_wide(&old, &disk(old, D::Outdated)));
    let alone = state(C::WFConnection, D::UpToDate, D::DUnknown);
    assert!(!is_cluster_wide(&alone, &promoted(alone)));
}

#[test]
fn s49_superblock_flags() {
    let flags = superblock_flags(&primary(C::SyncSource, D::UpToDate, D::Inconsistent)).unwrap();
    assert!(flags.consistent && flags.was_up_to_date && flags.peer_outdated);
    assert!(flags.primary_indicator && flags.connected_indicator);
    let flags = superblock_flags(&state(C::WFReportParams, D::Outdated, D::DUnknown)).unwrap();
    assert!(flags.consistent && !flags.was_up_to_date && !flags.peer_outdated);
    assert!(!flags.primary_indicator && !flags.connected_indicator);
    let inconsistent = superblock_flags(&state(C::SyncTarget, D::Inconsistent, D::UpToDate)).unwrap();
    assert!(!inconsistent.consistent && !inconsistent.was_up_to_date);
    assert_eq!(
        superblock_flags(&state(C::Connected, D::Failed, D::UpToDate)),
        None
    );
}

#[test]
fn s49_v17_indicator_of_the_only_disk_of_a_primary() {
    let old = StateVector {
        peer_role: Role::Primary,
        ..state(C::Connected, D::UpToDate, D::Diskless)
    };
    assert!(superblock_flags(&old).unwrap().primary_indicator);
    let lost = hard(old, go(old, C::BrokenPipe)).unwrap();
    assert!(clears_primary_indicator(&old, &lost), "the peer's link is lost");
    assert!(
        clears_primary_indicator(&promoted(in_sync()), &in_sync()),
        "own demotion"
    );
    assert!(!clears_primary_indicator(&in_sync(), &promoted(in_sync())));
    assert!(
        !clears_primary_indicator(&old, &disk(old, D::Failed)),
        "a disk that goes keeps its flags"
    );
}

#[test]
fn s51_contact_lost() {
    let lost = |from, to| lost_contact(&peer_disk(in_sync(), from), &peer_disk(in_sync(), to));
    for from in [D::Inconsistent, D::Consistent, D::UpToDate] {
        for to in [
            D::Diskless,
            D::Attaching,
            D::Failed,
            D::Negotiating,
            D::DUnknown,
            D::Outdated,
        ] {
            assert!(lost(from, to), "{from} {to}");
        }
        assert!(!lost(from, D::Inconsistent) && !lost(from, D::UpToDate));
    }
    for to in D::ALL {
        assert_eq!(
            lost(D::DUnknown, *to),
            matches!(to, D::Diskless | D::Failed | D::Outdated),
            "{to}"
        );
        assert!(!lost(D::Outdated, *to) && !lost(D::Diskless, *to), "{to}");
    }
}

#[test]
fn mirroring_by_state() {
    let mirrored = |connection, other| mirrors_writes(&state(connection, D::UpToDate, other));
    assert!(mirrored(C::Connected, D::UpToDate) && mirrored(C::SyncSource, D::Inconsistent));
    assert!(mirrored(C::PausedSyncS, D::Consistent) && mirrored(C::SyncTarget, D::UpToDate));
    assert!(!mirrored(C::WFBitMapS, D::Inconsistent) && !mirrored(C::Ahead, D::Inconsistent));
    assert!(!mirrored(C::Connected, D::Diskless) && !mirrored(C::WFConnection, D::DUnknown));
    assert!(notes_out_of_sync(&state(C::Ahead, D::UpToDate, D::Inconsistent)));
    assert!(notes_out_of_sync(&state(
        C::WFBitMapS,
        D::UpToDate,
        D::Inconsistent
    )));
}
