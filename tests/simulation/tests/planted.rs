//! The machine itself is tested: storms find faults that are planted. Each has a storm that was made short for it
//! (`simulate --planted 1000 --keep`), and must show in it within a few seeds, which only decide delays, requests and what a
//! crash leaves. How many storms it takes to find it from nothing is in `docs/reliability.md`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::planted::Fault;
use mendblock_simulation::storm::planted::shows;
use std::fs;
use std::path::Path;

/// Runs of one plan within which its fault must show.
const RUNS: u64 = 40;

fn all_show(faults: &[Fault]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("planted");
    for &fault in faults {
        let path = directory.join(format!("{fault:?}.json"));
        let plan = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let run = shows(fault, &plan, RUNS);
        let run = run.unwrap_or_else(|| panic!("{fault:?} does not show in {RUNS} runs of its plan"));
        println!("{fault:?}: in the {run}. run");
    }
}

// In two halves, for two processors.

#[test]
fn planted_faults_are_found() {
    all_show(&Fault::ALL[..Fault::ALL.len() / 2]);
}

#[test]
fn more_planted_faults_are_found() {
    all_show(&Fault::ALL[Fault::ALL.len() / 2..]);
}
