//! The release binary that the run is about.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How the binary is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quickly.
    Dev,
    /// As it is shipped.
    Release,
}

/// Builds the binary `mendblock`, and says where it is.
///
/// # Errors
/// cargo cannot be run, or the build fails.
pub fn build(profile: Profile) -> io::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = Command::new(cargo)
        .current_dir(root)
        .args([
            "build",
            "--profile",
            if profile == Profile::Release {
                "release"
            } else {
                "dev"
            },
            "--locked",
            "--package",
            "mendblock",
            "--bin",
            "mendblock",
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !built.status.success() {
        let text = format!(
            "cargo build ended with {}: build it and give --mendblock PATH",
            built.status
        );
        return Err(io::Error::other(text));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "mendblock" && message["target"]["kind"][0] == "bin";
        let path = message["executable"].as_str().filter(|_| is_it)?;
        Some(PathBuf::from(path))
    });
    executable
        .ok_or_else(|| io::Error::other("cargo does not say where the binary is: give --mendblock PATH"))
}
