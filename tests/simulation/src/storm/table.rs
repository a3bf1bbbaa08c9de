//! The table of what was reached, and what never was.

use mendblock_core::volume::state::{ConnectionState, DiskState};
use mendblock_kit::coverage::Coverage;
use mendblock_net::wire::kind::Kind;
use std::collections::BTreeMap;
use std::fmt::{Debug, Write};

/// As text; a line for each table, with its counts, and a line for what was never reached.
#[must_use]
pub fn table(coverage: &Coverage) -> String {
    let mut text = String::new();
    let missing = |text: &mut String, what: &str, names: Vec<String>| {
        let _ = writeln!(
            text,
            "  never: {}",
            if names.is_empty() {
                what.to_owned()
            } else {
                names.join(" ")
            }
        );
    };
    pairs(&mut text, "connection states", &coverage.connection);
    missing(
        &mut text,
        "-",
        unreached(ConnectionState::ALL, &coverage.connection),
    );
    pairs(&mut text, "disk states", &coverage.disk);
    missing(&mut text, "-", unreached(DiskState::ALL, &coverage.disk));
    pairs(&mut text, "peer's disk states", &coverage.peer_disk);
    missing(&mut text, "-", unreached(DiskState::ALL, &coverage.peer_disk));
    counts(&mut text, "steps of attach and detach", &coverage.steps);
    counts(
        &mut text,
        "rules of the comparison of generations",
        &coverage.rules,
    );
    counts(&mut text, "operations on generations", &coverage.generations);
    counts(&mut text, "kinds of frames", &coverage.kinds);
    let kinds = Kind::ALL.iter().filter(|kind| !coverage.kinds.contains_key(kind));
    missing(&mut text, "-", kinds.map(|kind| format!("{kind:?}")).collect());
    text
}

/// States that nobody entered.
fn unreached<S: Debug + Copy + Ord>(all: &[S], reached: &BTreeMap<(S, S), u64>) -> Vec<String> {
    all.iter()
        .filter(|state| !reached.keys().any(|(_, to)| to == *state))
        .map(|state| format!("{state:?}"))
        .collect()
}

fn pairs<S: Debug>(text: &mut String, what: &str, reached: &BTreeMap<(S, S), u64>) {
    let _ = writeln!(text, "{what}: {} transitions", reached.len());
    for ((from, to), times) in reached {
        let _ = writeln!(text, "  {times:>10} {from:?} -> {to:?}");
    }
}

fn counts<K: Debug>(text: &mut String, what: &str, reached: &BTreeMap<K, u64>) {
    let _ = writeln!(text, "{what}: {}", reached.len());
    for (key, times) in reached {
        let _ = writeln!(text, "  {times:>10} {key:?}");
    }
}
