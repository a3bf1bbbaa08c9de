//! What goes beyond DRBD 8.4, and what the vectors leave out: renaming, refusals, promotion, the exposed identifier.

use super::rules::{side, slots};
use mendblock_core::volume::generations::exposed::*;
use mendblock_core::volume::generations::handshake::*;
use mendblock_core::volume::generations::promotion::{KnownDisk, Owner, PromotionRefused, may_promote};
use mendblock_core::volume::generations::*;

const G1: u64 = 0x1A1A_1A1A_1A1A_1A10;
const G2: u64 = 0x2B2B_2B2B_2B2B_2B20;
const G3: u64 = 0x3C3C_3C3C_3C3C_3C30;
const S: u64 = 0x5E5E_5E5E_5E5E_5E50;

#[test]
fn generations_are_digits_in_readable_formats_only() {
    let identifiers = slots(G1 + 1, 0, [S, 4]);
    let json = serde_json::to_string(&identifiers).unwrap();
    assert!(
        json.starts_with(r#"{"current":"1A1A1A1A1A1A1A11","bitmap":"0000000000000000""#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<Identifiers>(&json).unwrap(), identifiers);
    for bad in [r#""1A1A""#, r#""+A1A1A1A1A1A1A11""#, r#""1A1A1A1A1A1A1A1G""#, "7"] {
        assert!(serde_json::from_str::<Generation>(bad).is_err(), "{bad}");
    }
    assert_eq!(
        identifiers.to_string(),
        "1A1A1A1A1A1A1A11:0000000000000000:5E5E5E5E5E5E5E50:0000000000000004"
    );
}

#[test]
fn rename_keeps_the_base_and_pushes_only_a_name_that_the_peer_may_hold() {
    let open = slots(G2, G1, [S, 4]);
    assert_eq!(open.rename(true, G3, None), slots(G3 + 1, G1, [S, 4]));
    assert_eq!(
        open.rename(true, G3, Some(Generation(G2 + 1))),
        slots(G3 + 1, G1, [G2, S])
    );
    assert_eq!(
        open.rename(false, G3 + 1, Some(Generation(G1))),
        slots(G3, G1, [S, 4]),
        "a void mark"
    );
}

#[test]
fn advance_never_loses_a_base() {
    assert_eq!(
        slots(G1, 0, [S, 4]).advance(true, G2, None),
        slots(G2 + 1, G1, [S, 4])
    );
    assert_eq!(
        slots(G2, G1, [S, 4]).advance(true, G3, None),
        slots(G3 + 1, G1, [S, 4])
    );
}

#[test]
fn a_diskless_primary_gets_a_name_that_differs_from_its_own_disks() {
    let (clean, open) = (slots(G1, 0, [S, 4]), slots(G2, G1, [S, 4]));
    let name = |slots: Identifiers, unattached| slots.for_diskless_primary(false, G3, None, unattached);
    assert_eq!(name(clean, None), Some(slots(G3, G1, [S, 4])));
    assert_eq!(name(open, Some(Generation(G2 + 1))), Some(slots(G3, G1, [S, 4])));
    assert_eq!(name(open, Some(Generation(G1))), None);
    assert_eq!(name(open, None), None);
}

fn handshake(own: Identifiers, peer: Identifiers) -> Handshake {
    let participant = Participant {
        disk: NegotiatedDisk::UpToDate,
        discard_my_data: false,
        bits: 0,
    };
    Handshake {
        comparison: Comparison {
            own: side(own),
            peer: side(peer),
            resolver: false,
            agreed: Agreed::OURS,
        },
        own: participant,
        peer: participant,
        own_disk_in_use: true,
        policies: Policies::default(),
        tentative: false,
        peer_dry_run: false,
        demotion_possible: false,
        peer_answer: None,
    }
}

#[test]
fn nodes_whose_answers_do_not_fit_are_not_brought_together() {
    let mut meeting = handshake(slots(G2, G1, [S, 4]), slots(G1, 0, [S, 4]));
    meeting.peer_answer = Some(Answer {
        rule: Rule::PeerWentOn,
        outcome: Outcome::TargetWithBitmap,
    });
    let decision = decide(&meeting);
    assert_eq!(
        (&decision.next, decision.decided_by),
        (&Next::WFBitMapS, Step::Result)
    );

    let wrong = Answer {
        rule: Rule::OwnWentOn,
        outcome: Outcome::SourceWithBitmap,
    };
    meeting.peer_answer = Some(wrong);
    let decision = decide(&meeting);
    assert_eq!(decision.decided_by, Step::AnswersFit);
    assert_eq!(
        decision.next,
        Next::Refuse(Refusal::AnswersDiffer {
            own: decision.verdict.answer,
            peer: wrong
        })
    );
}

#[test]
fn a_split_brain_names_both_generations_and_the_base() {
    let decision = decide(&handshake(slots(G2, G1, [S, 4]), slots(G3, G1, [S, 4])));
    assert_eq!(decision.decided_by, Step::Unresolved);
    let Next::Refuse(refusal) = decision.next else {
        panic!("{decision:?}")
    };
    let text = refusal.to_string();
    for part in [
        "2B2B2B2B2B2B2B20",
        "3C3C3C3C3C3C3C30",
        "base 1A1A1A1A1A1A1A10",
        "discard-my-data",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_deciding_step_is_kept() {
    let mut meeting = handshake(slots(G2, 0, [S, 4]), slots(G2, 0, [S, 4]));
    meeting.peer.disk = NegotiatedDisk::Inconsistent;
    let decision = decide(&meeting);
    assert_eq!(
        (decision.decided_by, decision.outcome),
        (Step::OneInconsistent, Outcome::SourceWithBitmap)
    );
    assert_eq!(decision.verdict.answer.outcome, Outcome::NoResync);

    let mut split = handshake(slots(G2, G1, [S, 4]), slots(G3, G1, [S, 4]));
    split.own.discard_my_data = true;
    assert_eq!(decide(&split).decided_by, Step::DiscardMyData);
    split.tentative = true;
    let decision = decide(&split);
    let would = Outcome::TargetWithBitmap;
    assert_eq!(
        (decision.decided_by, decision.next),
        (Step::DryRun, Next::Refuse(Refusal::DryRun { would }))
    );
}

#[test]
fn a_violent_change_under_a_primary_is_reported() {
    let mut meeting = handshake(slots(G1, 0, [S, 4]), slots(G2, G1, [S, 4]));
    meeting.comparison.own.primary = true;
    assert_eq!(decide(&meeting).next, Next::Refuse(Refusal::TargetIsPrimary));
    meeting.policies.rr_conflict = RrConflict::Violently;
    let decision = decide(&meeting);
    assert_eq!((decision.next, decision.violent), (Next::WFBitMapT, true));
}

#[test]
fn no_promotion_while_a_newer_disk_is_not_attached() {
    let (older, newer) = (slots(G1, 0, [S, 4]), slots(G2 + 1, G1, [S, 4]));
    let refused = may_promote(KnownDisk::Attached(older), KnownDisk::NotAttached(newer)).unwrap_err();
    assert!(
        matches!(
            refused,
            PromotionRefused::NewerDiskNotAttached {
                owner: Owner::Peer,
                ..
            }
        ),
        "{refused}"
    );
    let refused = may_promote(KnownDisk::NotAttached(newer), KnownDisk::Attached(older)).unwrap_err();
    assert!(
        refused.to_string().starts_with("this node has a newer disk"),
        "{refused}"
    );
    // Older, equal, attached or unknown: nothing in the way.
    assert_eq!(
        may_promote(KnownDisk::Attached(newer), KnownDisk::NotAttached(older)),
        Ok(())
    );
    assert_eq!(
        may_promote(KnownDisk::NotAttached(older), KnownDisk::Attached(newer)),
        Ok(())
    );
    assert_eq!(
        may_promote(
            KnownDisk::Attached(older),
            KnownDisk::NotAttached(older.with_role(true))
        ),
        Ok(())
    );
    assert_eq!(
        may_promote(KnownDisk::Attached(older), KnownDisk::Attached(newer)),
        Ok(())
    );
    assert_eq!(
        may_promote(KnownDisk::Unknown, KnownDisk::Attached(older)),
        Ok(())
    );
}

#[test]
fn no_promotion_beside_a_disk_that_would_be_a_split_brain() {
    let (left, right) = (slots(G2, G1, [S, 4]), slots(G3, G1, [S, 4]));
    let refused = may_promote(KnownDisk::Attached(left), KnownDisk::NotAttached(right)).unwrap_err();
    assert!(
        matches!(
            refused,
            PromotionRefused::SplitDiskNotAttached {
                owner: Owner::Peer,
                ..
            }
        ),
        "{refused}"
    );
    let unrelated = slots(G3, 0, [6, 8]);
    assert!(may_promote(KnownDisk::NotAttached(unrelated), KnownDisk::Attached(left)).is_err());
}

/// A Primary without a disk; its application has seen G1.
const DISKLESS: Arrival = Arrival {
    exposed: Generation(G1 + 1),
    own: None,
    own_attach: 7,
    primary: true,
    connected: false,
    peer_attaches: false,
    named_before: None,
    protocol: 101,
    peer: Identifiers::FRESH,
    skip_initial_sync: false,
    made_for_you: None,
};

fn exposed(arrival: Arrival) -> Option<u64> {
    receive(&arrival).ok().map(|received| received.exposed.0)
}

#[test]
fn a_generation_on_a_connection_in_use_counts_if_it_comes_from_the_exposed_one() {
    let names = |peer| {
        exposed(Arrival {
            peer,
            connected: true,
            ..DISKLESS
        })
    };
    assert_eq!(names(slots(G2, G1, [S, 4])), Some(G2), "made for this node");
    assert_eq!(names(slots(G3, G2, [G1, 4])), Some(G3), "and one after it");
    // A disk that was behind when the own one failed names its generation again: the application has seen more.
    assert_eq!(names(slots(G2, S, [4, 0])), Some(G1 + 1));
}

#[test]
fn a_diskless_primary_connects_to_its_generation_only() {
    let same = slots(G1, 0, [S, 4]);
    assert_eq!(
        exposed(Arrival {
            peer: same,
            ..DISKLESS
        }),
        Some(G1)
    );
    let other = slots(G2, G1, [S, 4]);
    let refused = receive(&Arrival {
        peer: other,
        ..DISKLESS
    })
    .unwrap_err();
    assert_eq!(
        refused,
        DataNotCurrent::Peer {
            exposed: Generation(G1 + 1),
            found: Generation(G2)
        }
    );
    // Ours: nor may a peer that had no disk bring up another generation.
    let brings_up = Arrival {
        peer: other,
        connected: true,
        peer_attaches: true,
        ..DISKLESS
    };
    assert_eq!(exposed(brings_up), None);
    assert_eq!(
        exposed(Arrival {
            primary: false,
            ..brings_up
        }),
        Some(G2)
    );
}

/// The peer was to become a target of this node's disk, and that failed: what the application has seen is nowhere else.
#[test]
fn a_connected_primary_without_a_disk_does_not_go_back_to_an_older_generation() {
    let older = Arrival {
        exposed: Generation(G2 + 1),
        peer: slots(G1, 0, [S, 4]),
        connected: true,
        ..DISKLESS
    };
    assert_eq!(exposed(older), Some(G2 + 1));
    let seen_nothing = Arrival {
        exposed: Generation::NONE,
        ..older
    };
    assert_eq!(exposed(seen_nothing), Some(G1));
}

#[test]
fn a_connected_diskless_node_follows_the_peers_generation() {
    let peer = slots(G2, G1, [S, 4]);
    assert_eq!(
        exposed(Arrival {
            peer,
            connected: true,
            ..DISKLESS
        }),
        Some(G2)
    );
    assert_eq!(
        exposed(Arrival {
            peer,
            connected: true,
            primary: false,
            ..DISKLESS
        }),
        Some(G2)
    );
    assert_eq!(
        exposed(Arrival {
            peer,
            primary: false,
            ..DISKLESS
        }),
        Some(G1 + 1),
        "not before Connected"
    );
    let own = Some(slots(G1, 0, [S, 4]));
    assert_eq!(
        exposed(Arrival {
            own,
            peer,
            connected: true,
            ..DISKLESS
        }),
        Some(G1 + 1),
        "with a disk: its own"
    );
}

#[test]
fn a_lost_word_of_a_generation_made_for_me_is_believed() {
    let made = |attach, primary_since| {
        Some(MadeForYou {
            attach,
            primary_since,
        })
    };
    let peer = slots(G2, G1, [S, 4]);
    let arrival = Arrival {
        peer,
        made_for_you: made(7, false),
        ..DISKLESS
    };
    assert_eq!(exposed(arrival), Some(G2));
    assert_eq!(
        exposed(Arrival {
            made_for_you: made(6, false),
            ..arrival
        }),
        None,
        "for an earlier loss"
    );
    assert_eq!(
        exposed(Arrival {
            made_for_you: made(7, true),
            ..arrival
        }),
        None,
        "somebody wrote there"
    );
    assert_eq!(
        exposed(Arrival {
            peer: slots(G2, G3, [S, 4]),
            ..arrival
        }),
        None,
        "from another base"
    );
    let nothing_seen = Arrival {
        exposed: Generation::NONE,
        peer: slots(G2, 0, [S, 4]),
        ..arrival
    };
    assert_eq!(exposed(nothing_seen), None);
}

#[test]
fn a_generation_made_while_this_node_still_establishes_the_connection_is_believed() {
    let arrival = Arrival {
        peer: slots(G2, G1, [S, 4]),
        named_before: Some(Generation(G1)),
        ..DISKLESS
    };
    assert_eq!(exposed(arrival), Some(G2));
    let refused = [
        Arrival {
            named_before: Some(Generation(G3)),
            ..arrival
        },
        Arrival {
            peer: slots(G2, G3, [S, 4]),
            ..arrival
        },
        Arrival {
            exposed: Generation::NONE,
            ..arrival
        },
    ];
    for arrival in refused {
        assert_eq!(exposed(arrival), None, "{arrival:?}");
    }
}

#[test]
fn the_initial_sync_is_skipped_only_on_a_fresh_disk() {
    let arrival = Arrival {
        own: Some(Identifiers::FRESH),
        primary: false,
        connected: true,
        peer: slots(G1, 4, [0, 0]),
        skip_initial_sync: true,
        ..DISKLESS
    };
    let skips = |arrival: Arrival| receive(&arrival).unwrap().skip_initial_sync;
    assert!(skips(arrival));
    assert!(!skips(Arrival {
        connected: false,
        ..arrival
    }));
    assert!(!skips(Arrival {
        protocol: 89,
        ..arrival
    }));
    assert!(!skips(Arrival {
        skip_initial_sync: false,
        ..arrival
    }));
    assert!(!skips(Arrival { own: None, ..arrival }));
    assert!(
        !skips(Arrival {
            own: Some(Identifiers::FRESH.with_role(true)),
            ..arrival
        }),
        "all 64 bits count"
    );
}

#[test]
fn a_disk_behind_what_the_application_has_seen_is_not_attached() {
    let attach = Attach {
        exposed: Generation(G2),
        current: Generation(G1),
        in_use: true,
        peer_up_to_date: false,
    };
    let refused = may_attach(&attach).unwrap_err();
    assert_eq!(
        refused,
        DataNotCurrent::Own {
            exposed: Generation(G2),
            found: Generation(G1)
        }
    );
    assert!(
        may_attach(&Attach {
            peer_up_to_date: true,
            ..attach
        })
        .is_ok(),
        "a resync follows"
    );
    assert!(
        may_attach(&Attach {
            in_use: false,
            ..attach
        })
        .is_ok()
    );
    assert!(
        may_attach(&Attach {
            exposed: Generation::NONE,
            ..attach
        })
        .is_ok()
    );
    assert!(
        may_attach(&Attach {
            current: Generation(G2 + 1),
            ..attach
        })
        .is_ok()
    );
}

#[test]
fn a_primary_target_shows_the_sources_generation() {
    assert_eq!(
        at_start_target(true, Generation(S), Generation(G2)),
        Generation(G2)
    );
    assert_eq!(
        at_start_target(false, Generation(S + 1), Generation(G2)),
        Generation(S)
    );
    assert!(negotiating_disk_stays(Generation(G1 + 1), Generation(G1)));
    assert!(!negotiating_disk_stays(Generation(G2), Generation(G1)));
}

fn verdict(own: Identifiers, peer: Identifiers) -> Verdict {
    compare(&Comparison {
        own: side(own),
        peer: side(peer),
        resolver: false,
        agreed: Agreed::OURS,
    })
}

/// Equal but for bit 0.
fn same_names(one: Identifiers, other: Identifiers) -> bool {
    one.current.same(other.current)
        && one.bitmap.same(other.bitmap)
        && one
            .history
            .iter()
            .zip(other.history)
            .all(|(one, other)| one.same(other))
}

/// The target finished, the Primary did not hear it and wrote on; then the link is lost again and again, before the target has
/// stored a sync id: it stays known, and each verdict has its mirror.
#[test]
fn a_target_that_never_starts_stays_known_however_often_the_link_is_lost() {
    let target = slots(G2, 0, [G1, 4]);
    let mut source = slots(G2 + 1, G1, [S, 4]).rename(true, G3, Some(Generation(G2)));
    let mut rules = Vec::new();
    for round in 1..6 {
        let found = verdict(source, target);
        let mirrored = verdict(target, source);
        assert_eq!(mirrored.answer.rule, found.answer.rule.mirrored(), "{found}");
        assert_eq!(mirrored.peer_corrected(), found.own_corrected(), "{found}");
        rules.push(found.answer.rule);
        let (started, sync_id) = found.own_corrected().start_source(S);

        // Had it started and finished, both would hold the same names.
        let unfinished = target.start_target(false, sync_id);
        let finished = unfinished.finish_target(true, &mirrored.peer_corrected());
        assert!(same_names(finished, started.finish_source()), "{found}");
        // What it may hold when the link is lost: its old name, the sync id, or the source's name.
        let current = Some(started.current);
        let renamed = started.rename(true, G3 + 0x100 * round, current);
        for held in [target, unfinished, finished.with_role(false)] {
            let next = verdict(renamed, held);
            let is_source = matches!(
                next.answer.outcome,
                Outcome::SourceWithBitmap | Outcome::SourceFull
            );
            assert!(is_source, "after {found}: {next}");
        }
        source = renamed;
    }
    assert_eq!(rules[0], Rule::PeerOlder);
    assert!(
        rules[1..]
            .iter()
            .all(|rule| *rule == Rule::SyncIdLostByPeerThenRenamed),
        "{rules:?}"
    );
}
