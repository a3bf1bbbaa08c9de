//! One test for each rule of the comparison: both nodes' views of one situation.

use mendblock_core::volume::generations::compare::Correction;
use mendblock_core::volume::generations::*;

const K: u64 = Generation::SYNC_OFFSET;
const G1: u64 = 0x1A1A_1A1A_1A1A_1A10;
const G2: u64 = 0x2B2B_2B2B_2B2B_2B20;
const G3: u64 = 0x3C3C_3C3C_3C3C_3C30;
const S: u64 = 0x5E5E_5E5E_5E5E_5E50;

pub fn slots(current: u64, bitmap: u64, history: [u64; 2]) -> Identifiers {
    Identifiers {
        current: Generation(current),
        bitmap: Generation(bitmap),
        history: history.map(Generation),
    }
}

pub fn side(identifiers: Identifiers) -> Side {
    Side {
        identifiers,
        crashed_primary: false,
        primary: false,
    }
}

fn primary(side: Side) -> Side {
    Side {
        primary: true,
        ..side
    }
}

fn crashed(side: Side) -> Side {
    Side {
        crashed_primary: true,
        ..side
    }
}

fn views(own: Side, peer: Side, agreed: Agreed) -> (Verdict, Verdict) {
    (
        compare(&Comparison {
            own,
            peer,
            resolver: false,
            agreed,
        }),
        compare(&Comparison {
            own: peer,
            peer: own,
            resolver: true,
            agreed,
        }),
    )
}

/// Compares from both sides; expects number and result on the first and the mirror on the second, which is returned
/// with the first one's.
#[track_caller]
fn expect(
    own: Side,
    peer: Side,
    agreed: Agreed,
    rule: u8,
    result: i32,
    mirrored_rule: u8,
) -> (Verdict, Verdict) {
    let (here, there) = views(own, peer, agreed);
    assert_eq!(
        (here.answer.rule.number(), here.answer.outcome.value()),
        (rule, result),
        "{here}"
    );
    assert_eq!(there.answer.rule.number(), mirrored_rule, "{there}");
    assert_eq!(there.answer.outcome, here.answer.outcome.mirrored(), "{there}");
    assert!(here.answer.fits(there.answer) && there.answer.fits(here.answer));
    (here, there)
}

/// With the corrections that the two sides make: each repairs the slots of the same node, the one which was source.
#[track_caller]
fn expect_repaired(own: Side, peer: Side, agreed: Agreed, rules: (u8, u8), repaired: Identifiers) {
    let (here, there) = expect(own, peer, agreed, rules.0, 1, rules.1);
    assert_eq!(here.correction, Some(Correction::Own(repaired)));
    assert_eq!(there.correction, Some(Correction::Peer(repaired)));
    assert_eq!(
        (here.own_corrected(), here.peer_corrected()),
        (repaired, peer.identifiers)
    );
    assert_eq!(
        (there.own_corrected(), there.peer_corrected()),
        (peer.identifiers, repaired)
    );
}

fn old(protocol: u16) -> Agreed {
    Agreed {
        protocol,
        ..Agreed::OURS
    }
}

#[test]
fn rule_10_both_fresh() {
    let promoted_bit = Identifiers::FRESH.with_role(true);
    expect(
        side(Identifiers::FRESH),
        side(promoted_bit),
        Agreed::OURS,
        10,
        0,
        10,
    );
}

#[test]
fn rules_20_and_30_one_is_fresh() {
    let data = side(slots(G1, 4, [0, 0]));
    expect(side(Identifiers::FRESH), data, Agreed::OURS, 20, -2, 30);
    expect(side(slots(1, 0, [0, 0])), data, Agreed::OURS, 20, -2, 30);
    expect(
        side(Identifiers::default()),
        side(Identifiers::FRESH),
        Agreed::OURS,
        30,
        2,
        20,
    );
}

#[test]
fn rules_34_and_35_end_of_resync_not_heard() {
    let source = slots(G2, G1 + K, [G1, S]);
    let target = slots(G2, 0, [G1 + K, G1]);
    expect_repaired(
        side(source),
        side(target),
        Agreed::OURS,
        (34, 35),
        slots(G2, 0, [G1 + K, G1]),
    );
}

#[test]
fn rules_34_and_35_a_target_that_crashed_as_primary_has_the_last_writes() {
    let source = side(slots(G2, G1 + K, [G1, S]));
    let target = side(slots(G2, 0, [G1 + K, G1]));
    let (here, there) = expect(source, crashed(target), Agreed::OURS, 34, -1, 35);
    assert_eq!((here.correction, there.correction), (None, None));
    // The source was Primary too, or is: it has its own last writes.
    expect(crashed(source), crashed(target), Agreed::OURS, 34, 1, 35);
    expect(primary(source), crashed(target), Agreed::OURS, 34, 1, 35);
    expect(crashed(source), target, Agreed::OURS, 34, 1, 35);
    let kernel = Agreed {
        renames: false,
        ..Agreed::OURS
    };
    expect(source, crashed(target), kernel, 34, 1, 35);
}

#[test]
fn rules_36_and_37_sync_id_never_stored() {
    let (source, target) = (slots(G2, S, [G1, 4]), slots(G2, 0, [G1, 4]));
    let (here, there) = expect(side(source), side(target), Agreed::OURS, 36, 1, 37);
    assert_eq!((here.correction, there.correction), (None, None));
    // A base of 1 counts: all 64 bits are looked at.
    expect(side(slots(G2, 1, [G1, 4])), side(target), Agreed::OURS, 36, 1, 37);
}

#[test]
fn rule_30_one_base_below_protocol_91() {
    let (source, target) = (side(slots(G2, S, [G1, 4])), side(slots(G2, 0, [G1, 4])));
    expect(source, target, old(90), 30, -1091, 30);
    expect(source, target, old(91), 36, 1, 37);
}

#[test]
fn rule_40_same_generation() {
    let same = side(slots(G1, 0, [S, 4]));
    expect(same, same, Agreed::OURS, 40, 0, 40);
    expect(primary(same), same, Agreed::OURS, 40, 0, 40);
    expect(crashed(same), same, Agreed::OURS, 40, 1, 40);
    // Both crashed: the second of the two views is the resolver, which becomes target.
    expect(crashed(same), crashed(same), Agreed::OURS, 40, 1, 40);
}

#[test]
fn rule_41_same_generation_in_use() {
    let same = side(slots(G1, 0, [S, 4]));
    expect(crashed(primary(same)), same, Agreed::OURS, 41, 1, 41);
    expect(crashed(same), primary(same), Agreed::OURS, 41, -1, 41);
    expect(crashed(primary(same)), primary(same), Agreed::OURS, 41, -100, 41);
    let without = Agreed {
        rule_41: false,
        ..Agreed::OURS
    };
    expect(crashed(primary(same)), same, without, 41, -66661, 41);
}

#[test]
fn rules_50_and_70_one_went_on() {
    expect(
        side(slots(G1, 0, [S, 4])),
        side(slots(G2 + 1, G1 + 1, [S, 4])),
        Agreed::OURS,
        50,
        -1,
        70,
    );
}

#[test]
fn rules_71_and_51_sync_id_lost() {
    let source = side(slots(G2, G1 + 1 + K, [G1 + 1, S]));
    let target = side(slots(G1, 0, [S, 4]));
    expect_repaired(source, target, Agreed::OURS, (71, 51), slots(G2, G1 + 1, [S, S]));
    expect(source, target, old(90), 71, -1091, 51);
    expect_repaired(source, target, old(95), (71, 51), slots(G2, G1 + 1, [S, S]));
    // Below 96 the histories count, from 96 on the sync id.
    let random_id = side(slots(G2, G3, [G1, S]));
    expect_repaired(random_id, target, old(95), (71, 51), slots(G2, G1, [S, S]));
    expect(random_id, target, old(96), 80, 2, 60);
}

#[test]
fn rules_72_and_52_sync_id_lost_then_renamed() {
    let started = slots(G2 + 1, G1, [S, 4]).start_source(0).0;
    let renamed = started.rename(true, G3, Some(started.current));
    assert_eq!(renamed, slots(G3 + 1, G1 + K, [G2 + 1, G1]));
    let target = side(slots(G1, 0, [S, 4]));
    expect_repaired(
        side(renamed),
        target,
        Agreed::OURS,
        (72, 52),
        slots(G3 + 1, G1, [G2 + 1, G2 + 1]),
    );
    // A kernel node does not know the rule: full sync.
    let kernel = Agreed {
        renames: false,
        ..Agreed::OURS
    };
    expect(side(renamed), target, kernel, 80, 2, 60);
}

#[test]
fn rules_60_and_80_one_is_an_old_copy() {
    for history in [[G1, S], [S, G1]] {
        expect(
            side(slots(G1, 0, [G3, 4])),
            side(slots(G2, 0, history)),
            Agreed::OURS,
            60,
            -2,
            80,
        );
    }
}

#[test]
fn rule_90_both_went_on_from_a_known_base() {
    expect(
        side(slots(G2, G1 + 1, [S, 4])),
        side(slots(G3, G1, [S, 4])),
        Agreed::OURS,
        90,
        100,
        90,
    );
}

#[test]
fn rule_100_no_common_base() {
    let (left, right) = (slots(G2, 0, [G1, 4]), slots(G3, 0, [S, G1]));
    expect(side(left), side(right), Agreed::OURS, 100, -100, 100);
    expect(
        side(left),
        side(slots(G3, 0, [S, 6])),
        Agreed::OURS,
        100,
        -1000,
        100,
    );
    // Two empty places count as an ancestor.
    expect(
        side(slots(G2, 0, [G1, 0])),
        side(slots(G3, 0, [S, 0])),
        Agreed::OURS,
        100,
        -100,
        100,
    );
}

#[test]
fn damaged_slots_give_answers_that_do_not_fit() {
    let blank = side(Identifiers::default());
    let (here, there) = views(blank, blank, Agreed::OURS);
    assert!(
        !here.answer.fits(there.answer),
        "both would be target of all blocks"
    );
    let crossed = (side(slots(G1, G2, [S, 4])), side(slots(G2, G1, [S, 4])));
    let (here, there) = views(crossed.0, crossed.1, Agreed::OURS);
    assert!(
        !here.answer.fits(there.answer),
        "each one's generation is the other's base"
    );
}

#[test]
fn a_rule_fits_only_its_mirror() {
    let answer = |rule, outcome| Answer { rule, outcome };
    let own = answer(Rule::PeerWentOn, Outcome::TargetWithBitmap);
    assert!(own.fits(answer(Rule::OwnWentOn, Outcome::SourceWithBitmap)));
    assert!(!own.fits(answer(Rule::SyncIdLostByPeer, Outcome::SourceWithBitmap)));
    assert!(!own.fits(answer(Rule::OwnWentOn, Outcome::SourceFull)));
}
