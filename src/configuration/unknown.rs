//! What is said about a key that its section does not have: the key that was meant, or the section where it belongs.

use super::keys::{self, Section};

/// Reason and allowed values for a key that the section does not have.
pub(super) fn refusal(section: Section, name: &str) -> (String, String) {
    let known = || {
        keys::KEYS
            .iter()
            .filter(move |key| key.section == section)
            .map(|key| key.name)
    };
    let elsewhere = keys::KEYS.iter().find(|key| key.name == name);
    // A short word is similar to many: at most half of it may differ.
    let limit = 2.min(name.len() / 2);
    let similar = known()
        .map(|key| (distance(key, name), key))
        .min()
        .filter(|(distance, _)| *distance <= limit);
    let reason = match (similar, elsewhere) {
        (Some((_, key)), _) => format!("unknown key; did you mean \"{key}\"?"),
        (None, Some(key)) => format!(
            "unknown key in {}; it belongs to {}",
            section.header(),
            key.section.header()
        ),
        (None, None) => format!("unknown key in {}", section.header()),
    };
    let names: Vec<&str> = known().chain(section.subtables().iter().copied()).collect();
    (reason, names.join(", "))
}

/// Edits (insert, remove, replace a character) between two words, `_` and `-` being the same.
fn distance(a: &str, b: &str) -> usize {
    let same = |a: u8, b: u8| a == b || (matches!(a, b'-' | b'_') && matches!(b, b'-' | b'_'));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(!same(x, y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
