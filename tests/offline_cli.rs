//! The off-line commands as a user runs them: the real binary on files.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const DISK_BYTES: u64 = 64 << 20;

struct Disk {
    folder: TempDir,
    path: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("disk");
        File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
        Self { folder, path }
    }

    fn with_metadata() -> Self {
        let disk = Self::new();
        disk.run(&["create-md"]).expect_code(0);
        disk
    }

    fn poke(&self, bytes: &[u8], at: u64) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// `arguments` with this disk.
    fn run(&self, arguments: &[&str]) -> Answer {
        let path = self.path.to_str().unwrap();
        mendblock(&[arguments, &["--disk", path]].concat())
    }
}

#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    out: String,
    errors: String,
}

impl Answer {
    fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn mendblock(arguments: &[&str]) -> Answer {
    let output = Command::new(env!("CARGO_BIN_EXE_mendblock"))
        .args(arguments)
        .env_remove("MENDBLOCK_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Answer::from(output)
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            errors: text(&output.stderr),
        }
    }
}

#[test]
fn fresh_metadata_are_made_checked_and_dumped() {
    let disk = Disk::new();
    let made = disk.run(&["create-md"]).expect_code(0);
    assert!(made.out.contains("meta-data created"), "{made:?}");
    assert!(made.out.contains("mendblock primary VOLUME --force"), "{made:?}");
    let checked = disk.run(&["check-md"]).expect_code(0);
    assert!(checked.out.contains("are in order"), "{checked:?}");
    let dump = disk.run(&["dump-md"]).expect_code(0);
    assert!(dump.out.starts_with("version \"v08\";\n"), "{dump:?}");
    let applied = disk.run(&["apply-al"]).expect_code(0);
    assert!(applied.out.contains("nothing to apply"), "{applied:?}");
}

#[test]
fn every_answer_parses_as_json() {
    let disk = Disk::new();
    let made = disk.run(&["create-md", "--json"]).expect_code(0).json();
    assert!(made["usable_sectors"].as_u64().unwrap() > 130_000, "{made}");
    let checked = disk.run(&["check-md", "--json"]).expect_code(0).json();
    assert_eq!(
        (&checked["worst"], &checked["metadata"]["clean"]),
        (&Value::Null, &Value::Bool(true))
    );
    let dump = disk.run(&["dump-md", "--json"]).expect_code(0).json();
    assert_eq!(
        (&dump["version"], dump["bits-set"].as_u64()),
        (&Value::from("v08"), Some(0))
    );
    let applied = disk.run(&["apply-al", "--json"]).expect_code(0).json();
    assert_eq!(applied["was_clean"], true);
    let refused = disk.run(&["create-md", "--json"]).expect_code(10);
    assert_eq!(
        refused.json()["found"][0]["what"],
        "DRBD meta-data",
        "{refused:?}"
    );
}

#[test]
fn what_is_there_is_named_and_only_overwritten_by_force() {
    let disk = Disk::with_metadata();
    disk.poke(b"XFSB", 0);
    let before = disk.bytes();
    let refused = disk.run(&["create-md"]).expect_code(10);
    for word in ["an XFS file system", "DRBD meta-data", "--force"] {
        assert!(refused.errors.contains(word), "{word}: {refused:?}");
    }
    assert!(disk.bytes() == before, "refused, but wrote");
    let forced = disk.run(&["create-md", "--force"]).expect_code(0);
    assert!(
        forced.out.contains("overruled by --force: an XFS file system"),
        "{forced:?}"
    );
    assert_eq!(&disk.bytes()[..4], b"XFSB", "the data area is left as it is");
}

#[test]
fn a_real_file_system_is_recognised() {
    let disk = Disk::new();
    let mkfs = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&disk.path)
        .status();
    if !mkfs.is_ok_and(|status| status.success()) {
        println!("skipped: mkfs.ext4 (e2fsprogs) is not installed");
        return;
    }
    let refused = disk.run(&["create-md"]).expect_code(10);
    assert!(refused.errors.contains("ext4 file system"), "{refused:?}");
}

#[test]
fn a_disk_without_metadata_is_no_crash() {
    let disk = Disk::new();
    disk.poke(&[0xA5; 1 << 20], DISK_BYTES - (1 << 20));
    for command in ["dump-md", "apply-al"] {
        let before = disk.bytes();
        let refused = disk.run(&[command]).expect_code(10);
        assert!(refused.errors.contains("no valid meta-data found"), "{refused:?}");
        assert!(refused.errors.contains("create-md"), "{refused:?}");
        assert!(disk.bytes() == before, "{command} refused, but wrote");
    }
    let checked = disk.run(&["check-md"]).expect_code(10);
    assert!(checked.out.contains("NOT usable"), "{checked:?}");
    let checked = disk.run(&["check-md", "--json"]).expect_code(10).json();
    assert_eq!(
        (&checked["worst"], &checked["findings"][0]["finding"]),
        (&Value::from("error"), &Value::from("superblock"))
    );
}

#[test]
fn damaged_and_truncated_metadata_are_no_crash() {
    for length in [
        0,
        1,
        511,
        4095,
        4096,
        8192,
        40_960,
        DISK_BYTES / 2,
        DISK_BYTES - 1,
    ] {
        let disk = Disk::with_metadata();
        File::options()
            .write(true)
            .open(&disk.path)
            .unwrap()
            .set_len(length)
            .unwrap();
        for command in ["dump-md", "check-md", "apply-al"] {
            disk.run(&[command]).expect_code(10);
        }
    }
    // Each field of the superblock in turn becomes nonsense: the commands answer, whatever it is.
    for field in (0..128).step_by(4) {
        let disk = Disk::with_metadata();
        disk.poke(&[0xFF; 4], DISK_BYTES - 4096 + field);
        for command in [&["dump-md", "--force"][..], &["check-md"], &["apply-al"]] {
            let answer = disk.run(command);
            assert!(matches!(answer.code, Some(0 | 10)), "field {field}: {answer:?}");
        }
    }
}

#[test]
fn wrong_paths_and_usage_have_their_codes() {
    let disk = Disk::new();
    let missing = mendblock(&["check-md", "--disk", "/nonexistent/disk"]).expect_code(10);
    assert!(missing.errors.contains("/nonexistent/disk"), "{missing:?}");
    let folder = disk.folder.path().to_str().unwrap();
    let not_a_disk = mendblock(&["create-md", "--disk", folder]).expect_code(10);
    assert!(
        not_a_disk.errors.contains("neither a regular file"),
        "{not_a_disk:?}"
    );
    let same = disk.path.to_str().unwrap();
    disk.run(&["create-md", "--meta-disk", same]).expect_code(10);
    mendblock(&["create-md"]).expect_code(20);
    mendblock(&["check-md", "r0", "--config", "/nonexistent/node.toml"]).expect_code(20);
}

#[test]
fn a_disk_that_may_not_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if rootless_command().is_none() {
        println!("skipped: needs root and setpriv (util-linux) to become somebody who may not write");
        return;
    }
    let disk = Disk::new();
    fs::set_permissions(disk.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&disk.path, fs::Permissions::from_mode(0o444)).unwrap();
    // Copied, because the folders above the built program need not be open to everybody.
    let program = disk.folder.path().join("mendblock");
    fs::copy(env!("CARGO_BIN_EXE_mendblock"), &program).unwrap();
    let mut command = rootless_command().unwrap();
    command
        .arg(&program)
        .args(["create-md", "--disk"])
        .arg(&disk.path);
    let refused = Answer::from(command.output().unwrap()).expect_code(10);
    assert!(refused.errors.contains("Permission denied"), "{refused:?}");
    assert!(refused.errors.contains("as root"), "{refused:?}");
}

/// Runs what follows as nobody.
fn rootless_command() -> Option<Command> {
    let command = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
    };
    let works = command()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success());
    works.then(command)
}

#[test]
fn a_volume_of_the_configuration_with_metadata_elsewhere() {
    let disk = Disk::new();
    let meta = disk.folder.path().join("meta");
    File::create(&meta).unwrap().set_len(1 << 20).unwrap();
    let file = disk.folder.path().join("node.toml");
    let text = format!(
        "[node]\nname = \"a\"\nid = 0\n[[volume]]\nname = \"r0\"\ndisk = {:?}\nmeta-disk = {:?}\n",
        disk.path, meta
    );
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let made = mendblock(&["create-md", "r0", "--config", file]).expect_code(0);
    assert!(made.out.contains("on a disk of their own"), "{made:?}");
    assert!(
        disk.bytes().iter().all(|&byte| byte == 0),
        "the data disk is not touched"
    );
    mendblock(&["check-md", "r0", "--config", file]).expect_code(0);
    let unknown = mendblock(&["check-md", "r9", "--config", file]).expect_code(20);
    assert!(unknown.errors.contains("there are: r0"), "{unknown:?}");
}

fn drbdmeta(disk: &Path, arguments: &[&str]) -> Option<Output> {
    let output = Command::new("drbdmeta")
        .args(["--force", "-", "v08"])
        .arg(disk)
        .arg("internal")
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.ok()
}

/// From the version line on (above it, `drbdmeta` says when and where the dump was made), without the flags, which
/// versions before 9.23 always print as 0.
fn body(dump: &str) -> Vec<&str> {
    let body = &dump[dump.find("version \"v08\"").unwrap()..];
    body.lines()
        .filter(|line| !line.trim_start().starts_with("flags "))
        .collect()
}

#[test]
fn drbdmeta_and_we_read_each_other() {
    let disk = Disk::with_metadata();
    let Some(theirs) = drbdmeta(&disk.path, &["dump-md"]) else {
        println!("skipped: drbdmeta (drbd-utils) is not installed");
        return;
    };
    assert!(theirs.status.success(), "{theirs:?}");
    let ours = disk.run(&["dump-md"]).expect_code(0);
    let theirs = String::from_utf8(theirs.stdout).unwrap();
    assert_eq!(body(&ours.out), body(&theirs));

    let disk = Disk::new();
    let created = drbdmeta(&disk.path, &["create-md"]).unwrap();
    assert!(created.status.success(), "{created:?}");
    let checked = disk.run(&["check-md"]).expect_code(0);
    assert!(checked.out.contains("are in order"), "{checked:?}");
}
