//! The demo on the real program: two processes, real files, real sockets.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Processes that have the demo's directory in their command line.
fn processes_of(directory: &Path) -> Vec<String> {
    let wanted = directory.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&wanted))
        .collect()
}

#[test]
fn the_whole_story_is_verified() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("demo");
    let output = Command::new(env!("CARGO_BIN_EXE_mendblock"))
        .args(["demo", "--exit", "--dir"])
        .arg(&directory)
        .output()
        .unwrap();
    let (told, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let logs: Vec<String> = ["alice.log", "bob.log"]
        .iter()
        .map(|log| fs::read_to_string(directory.join(log)).unwrap_or_default())
        .collect();
    assert!(
        output.status.success(),
        "{told}\n{errors}\nalice:\n{}\nbob:\n{}",
        logs[0],
        logs[1]
    );
    assert!(told.contains("lost: nothing; client errors: 0 of "), "{told}");
    assert!(told.contains("Failed -> Diskless"), "{told}");
    assert!(!told.contains('\x1b'), "no colours in a pipe");
    assert_eq!(processes_of(&directory), Vec::<String>::new());
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("alice.img"), "mine").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mendblock"))
        .args(["demo", "--exit", "--dir"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(20));
    assert_eq!(fs::read(directory.path().join("alice.img")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
