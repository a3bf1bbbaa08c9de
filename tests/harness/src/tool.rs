//! Programs of others: NBD clients and file systems.

use std::process::{Command, Output};

/// Longest run of a tool, seconds.
const LIMIT: &str = "120";

/// Whether `program` is here; says so if it is not.
pub fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Runs a program that must succeed; what it says. `None`: it is not installed.
#[track_caller]
pub fn succeeds(program: &str, arguments: &[&str]) -> Option<String> {
    if !is_installed(program) {
        return None;
    }
    let output = limited(program, arguments).output().unwrap();
    let text = text(&output);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}",
        output.status
    );
    Some(text)
}

/// A program that is ended when it takes too long.
pub fn limited(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(program).args(arguments);
    command
}

pub fn text(output: &Output) -> String {
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{errors}")
}
