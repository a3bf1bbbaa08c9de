//! The meta-data of a crashed disk under the off-line tools: our own, and `drbdmeta` where it is installed.

use mendblock_kit::device::Device;
use mendblock_kit::format;
use mendblock_storage::format::anchor::StoredAnchor;
use mendblock_storage::format::superblock::Superblock;
use mendblock_storage::offline::{Location, MetaPlacement, Severity, apply_al, check_md};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory for images.
pub struct Tools {
    directory: tempfile::TempDir,
    drbdmeta: bool,
}

impl Tools {
    /// Makes the directory, looks for `drbdmeta`.
    ///
    /// # Errors
    /// When there is no place for temporary files.
    pub fn find() -> io::Result<Self> {
        Ok(Self {
            directory: tempfile::tempdir()?,
            drbdmeta: Command::new("drbdmeta").arg("--version").output().is_ok(),
        })
    }

    /// `drbdmeta` is installed.
    pub fn has_drbdmeta(&self) -> bool {
        self.drbdmeta
    }

    /// Checks a disk, applies its log with our command and with `drbdmeta`, and compares.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn check(&self, device: &Device) {
        let ours = self.image(device, "ours");
        let location = Location {
            data: ours.clone(),
            meta: MetaPlacement::Internal,
        };
        let report = check_md(&location).expect("the image can be read");
        assert!(
            report.worst() < Some(Severity::Error),
            "check-md finds {:?}",
            report.findings
        );
        let applied = apply_al(&location);
        let applied = applied.unwrap_or_else(|error| panic!("apply-al: {error}"));
        if self.drbdmeta {
            let theirs = self.image(device, "theirs");
            drbdmeta(&theirs, "apply-al");
            drbdmeta(&theirs, "dump-md");
            if !applied.full_sync_set {
                let read = |path: &Path| applied_meta_data(device, path).expect("the image can be read");
                assert!(
                    read(&ours) == read(&theirs),
                    "drbdmeta applies the log in another way"
                );
            }
        }
    }

    /// A sparse file with the disk's bytes.
    fn image(&self, device: &Device, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let write = || -> io::Result<()> {
            let file = File::create(&path)?;
            file.set_len(device.size())?;
            for (block, bytes) in device.blocks() {
                file.write_all_at(bytes, block * 4096)?;
            }
            Ok(())
        };
        write().expect("the image can be written");
        path
    }
}

/// The meta-data in an image, without our anchor, which `drbdmeta` erases.
fn applied_meta_data(device: &Device, path: &Path) -> io::Result<Vec<u8>> {
    let layout = format::layout(device);
    let mut bytes = vec![0; device.size() as usize];
    File::open(path)?.read_exact_at(&mut bytes, 0)?;
    let mut copy = Device::new(device.size());
    copy.poke(0, &bytes);
    let superblock = Superblock {
        anchor: StoredAnchor::Absent,
        ..format::superblock(&copy)
    };
    copy.poke(layout.superblock_byte(), &superblock.encode());
    let first = layout.first_meta_byte();
    Ok(copy.peek(first, (device.size() - first) as usize))
}

fn drbdmeta(image: &Path, command: &str) {
    let output = Command::new("drbdmeta")
        .args(["--force", "-", "v08"])
        .arg(image)
        .args(["internal", command])
        .stdin(Stdio::null())
        .output()
        .expect("drbdmeta runs");
    assert!(output.status.success(), "drbdmeta {command}: {output:?}");
}
