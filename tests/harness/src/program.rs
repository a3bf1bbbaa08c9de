//! The binary under test, and where lower disks may lie.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where the binary is, unless it lies beside the running program.
static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// From now on this binary is used.
///
/// # Errors
/// Another one was chosen or used before.
pub fn choose(program: PathBuf) -> Result<(), PathBuf> {
    CHOSEN.set(program)
}

/// The binary: the chosen one; or the one of which cargo tells its integration tests; or the one that was built beside the
/// running program.
#[track_caller]
pub fn path() -> &'static Path {
    CHOSEN.get_or_init(|| {
        let told = env::var_os("CARGO_BIN_EXE_mendblock").map(PathBuf::from);
        told.unwrap_or_else(|| built().join("mendblock"))
    })
}

/// Where cargo puts binaries of the profile with which the running program was built.
fn built() -> PathBuf {
    let own = env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    // Tests lie one level deeper.
    let is_test = folder.ends_with("deps");
    let folder = if is_test { folder.parent().unwrap() } else { folder };
    folder.to_path_buf()
}

/// A folder for lower disks: below the target directory, since not every temporary file system can do direct I/O.
#[track_caller]
pub fn disks() -> PathBuf {
    let folder = built().parent().unwrap().join("tmp");
    fs::create_dir_all(&folder).unwrap();
    folder
}
