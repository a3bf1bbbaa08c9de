//! Rules for the sources that the compiler does not keep.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a source file.
const MOST_LINES: usize = 800;
/// Where everything that is not a value comes in as a message.
const PURE: [&str; 3] = ["actors/core/src/", "storage/src/format/", "net/src/wire/"];
/// Clocks, random numbers and containers without order.
const IMPURE: [&str; 7] = [
    "Instant::now",
    "SystemTime",
    "HashMap",
    "HashSet",
    "RandomState",
    "getrandom",
    "rand::",
];
// Cut in two, so that this file does not break its own rules.
const UNFINISHED: [&str; 5] = [
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("db", "g!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
];
const NAMELESS: [&str; 4] = ["utils", "common", "misc", "helpers"];
/// Places of a developer's machine that nobody else has.
const MACHINE: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("../sha", "red"),
    concat!("/ro", "ot/"),
];

/// Every breach of a rule by the file at `path` (from the root of the repository).
fn breaches(path: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut breach = |line: usize, what: String| breaches.push(format!("{path}:{line}: {what}"));
    let is_source = path.ends_with(".rs");
    let is_pure = is_source && PURE.iter().any(|folder| path.starts_with(folder));
    for (index, line) in text.lines().enumerate() {
        let is_comment = line.trim_start().starts_with("//");
        for word in IMPURE {
            if is_pure && !is_comment && line.contains(word) {
                breach(
                    index + 1,
                    format!("{word} in a pure package: let it come in from outside"),
                );
            }
        }
        for word in UNFINISHED {
            if is_source && line.contains(word) {
                breach(index + 1, format!("{word}: finish it, or leave it out"));
            }
        }
        for place in MACHINE {
            if line.contains(place) {
                breach(index + 1, format!("{place} is a path of somebody's machine"));
            }
        }
    }
    let lines = text.lines().count();
    if is_source && lines > MOST_LINES {
        breach(
            lines,
            format!("more than {MOST_LINES} lines: split it by subject"),
        );
    }
    let name = Path::new(path).file_stem().and_then(|stem| stem.to_str());
    let folder = Path::new(path)
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    if is_source
        && [name, folder]
            .into_iter()
            .flatten()
            .any(|name| NAMELESS.contains(&name))
    {
        breach(1, "name the file or folder after its subject".into());
    }
    breaches
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        if kind.is_dir()
            && !["target", ".git", "mendblock-demo"]
                .iter()
                .any(|skipped| name == *skipped)
        {
            files(&entry.path(), found);
        } else if kind.is_file() && name != ".git" {
            found.push(entry.path());
        }
    }
}

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    files(root, &mut found);
    let mut all = Vec::new();
    let mut sources = 0;
    for file in &found {
        // What is not text (vectors) has no rules.
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        let path = file.strip_prefix(root).unwrap().to_str().unwrap();
        sources += usize::from(path.ends_with(".rs"));
        all.extend(breaches(path, &text));
    }
    assert!(
        sources > 100,
        "only {sources} sources found: the search is broken"
    );
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn each_rule_is_noticed_when_it_is_broken() {
    let pure = "actors/core/src/disk.rs";
    for word in IMPURE {
        assert_eq!(breaches(pure, &format!("let x = {word};\n")).len(), 1, "{word}");
        assert_eq!(
            breaches("src/main.rs", &format!("let x = {word};\n")).len(),
            0,
            "{word}"
        );
        assert_eq!(breaches(pure, &format!("/// No {word}.\n")).len(), 0, "{word}");
    }
    for word in UNFINISHED {
        assert_eq!(breaches("src/main.rs", word).len(), 1, "{word}");
    }
    for place in MACHINE {
        assert_eq!(breaches("docs/README.md", place).len(), 1, "{place}");
    }
    for name in NAMELESS {
        assert_eq!(breaches(&format!("src/{name}.rs"), "").len(), 1, "{name}");
        assert_eq!(breaches(&format!("src/{name}/mod.rs"), "").len(), 1, "{name}");
    }
    assert_eq!(breaches("src/main.rs", &"\n".repeat(MOST_LINES)).len(), 0);
    assert_eq!(breaches("src/main.rs", &"\n".repeat(MOST_LINES + 1)).len(), 1);
}
