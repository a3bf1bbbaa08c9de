//! The machine itself is tested: storms find faults that are planted. Each fault has the seed from which they start here, mostly a
//! little before the first storm that finds it, so that these tests stay short; how many storms it takes from seed 1 on
//! is in `docs/reliability.md`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::planted::Fault;
use mendblock_simulation::storm::planted::find;

/// Each fault with the first storm and the number of storms within which it must show.
const SHOWS: [(Fault, u64, u64); 15] = [
    (Fault::AnswerBeforePeer, 1, 20),
];

/// Storms do not find it in a thousand: the peer's records and bits bring back what the skipped pages forget. The model's and the
/// state part's tests look after it.
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
        Fault::ALL.iter().filter(|fault| !known(fault)).collect::<Vec<_>>(),
        [] as [&Fault; 0]
    );
}
