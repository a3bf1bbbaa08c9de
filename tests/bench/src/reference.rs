//! `qemu-nbd` on one raw file, with direct I/O as the nodes have it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for its socket.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running `qemu-nbd`.
pub struct Reference {
    child: Child,
    socket: PathBuf,
}

impl Reference {
    /// Serves a new file of `size` bytes.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(file: &Path, size: u64) -> Self {
        File::create(file).unwrap().set_len(size).unwrap();
        let socket = std::env::temp_dir().join(format!("mendblock-bench-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let child = Command::new("qemu-nbd")
            .args(["--format=raw", "--cache=none", "--aio=native", "--discard=unmap"])
            .args(["--persistent", "--shared=0", "--export-name=r0"])
            .arg(format!("--socket={}", socket.display()))
            .arg(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut reference = Self { child, socket };
        let deadline = Instant::now() + START_LIMIT;
        while !reference.socket.exists() {
            let ended = reference.child.try_wait().unwrap();
            assert!(ended.is_none(), "qemu-nbd ended at its start: {ended:?}");
            assert!(Instant::now() < deadline, "qemu-nbd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        reference
    }

    /// URI for NBD tools.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///r0?socket={}", self.socket.display())
    }

    /// Number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // What does not run any more is gone as wished.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
