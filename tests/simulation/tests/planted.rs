//! The machine itself is tested: storms find faults that are planted. Each fault has the seed from which they start here, mostly a
//! little before the first storm that finds it, so that these tests stay short; how many storms it takes from seed 1 on
//! is in `docs/reliability.md`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::planted::Fault;
use mendblock_simulation::storm::planted::find;

/// Each fault with the first storm and the number of storms within which it must show.
const SHOWS: [(Fault, u64, u64); 15] = [
    (Fault::AnswerBeforePeer, 1, 10),
    (Fault::ForgetSecondBadBlock, 235, 10),
    (Fault::ClearOnArrival, 1, 10),
    (Fault::KeepGenerationOnLoss, 1, 10),
    (Fault::ReadBadBlock, 47, 10),
    (Fault::ReadInconsistent, 1, 10),
    (Fault::ForgetUnretired, 101, 10),
    (Fault::ForgetMissedWrite, 138, 10),
    (Fault::KeepOldMap, 102, 10),
    (Fault::TrustUncompared, 127, 10),
    (Fault::NoOutdatedNote, 119, 10),
    (Fault::ForgetSpoiledResync, 485, 10),
    (Fault::AnswerBeforeGeneration, 11, 10),
    (Fault::GrantBeforeDurable, 9, 10),
    (Fault::ReplayInWrongOrder, 4, 10),
];

/// Storms do not find it in a thousand: the peer's records and bits bring back what the skipped pages forget.
const MISSED: [Fault; 1] = [Fault::SkipBitmapOnDetach];

fn shows(faults: &[(Fault, u64, u64)]) {
    for &(fault, first, storms) in faults {
        let found = find(fault, first, storms);
        let found = found.unwrap_or_else(|| panic!("{fault:?} does not show in storms {first}+{storms}"));
        println!("{fault:?}: storm {}, the {}. one", found.seed, found.storms);
    }
}

// In two halves, for two processors.

#[test]
fn planted_faults_are_found() {
    shows(&SHOWS[..SHOWS.len() / 2]);
}

#[test]
fn more_planted_faults_are_found() {
    shows(&SHOWS[SHOWS.len() / 2..]);
}

#[test]
fn no_fault_is_left_out() {
    let known = |fault: &Fault| MISSED.contains(fault) || SHOWS.iter().any(|(shown, ..)| shown == fault);
    assert_eq!(
        Fault::ALL
            .iter()
            .filter(|fault| !known(fault))
            .collect::<Vec<_>>(),
        [] as [&Fault; 0]
    );
}
