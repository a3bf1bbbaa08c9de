//! The off-line commands on devices made from the golden vectors.
use crate::golden::{Snapshot, all, snapshot};
use mendblock_storage::format::layout::{LogGeometry, MetaIndex};
use mendblock_storage::format::replay::Completeness;
use mendblock_storage::format::superblock::{Flags, UnverifiedSuperblock};
use mendblock_storage::offline::{
    CreateOptions, Finding, Location, LogForm, MetaPlacement, OfflineError, Severity, apply_al, check_md,
    create_md, dump_md,
};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

/// The devices of a snapshot in a folder, with or without its meta-data.
pub struct Bench {
    _folder: TempDir,
    pub location: Location,
    pub meta: PathBuf,
}

impl Bench {
    pub fn empty(index: MetaIndex, meta_bytes: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let meta = folder.path().join("meta");
        sparse(&meta, meta_bytes);
        let (data, placement) = match index {
            MetaIndex::Internal => (meta.clone(), MetaPlacement::Internal),
            MetaIndex::FlexExternal => (
                folder.path().join("data"),
                MetaPlacement::FlexExternal(meta.clone()),
            ),
            MetaIndex::Indexed(slot) => (
                folder.path().join("data"),
                MetaPlacement::Indexed(meta.clone(), slot),
            ),
        };
        if index != MetaIndex::Internal {
            sparse(&data, 64 << 20);
        }
        Self {
            _folder: folder,
            location: Location {
                data,
                meta: placement,
            },
            meta,
        }
    }

    pub fn of(snapshot: &Snapshot) -> Self {
        let bench = Self::empty(snapshot.index(), snapshot.number("device_bytes"));
        snapshot.write_device(&bench.meta);
        bench
    }

    fn poke(&self, bytes: &[u8], at: u64) {
        let file = File::options().write(true).open(&self.meta).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    /// Runs something that must refuse, and makes sure that it changed no byte.
    fn refuses<T: std::fmt::Debug>(
        &self,
        work: impl FnOnce(&Location) -> Result<T, OfflineError>,
    ) -> OfflineError {
        let before = fs::read(&self.meta).unwrap();
        let error = work(&self.location).unwrap_err();
        assert!(
            fs::read(&self.meta).unwrap() == before,
            "refused, but wrote: {error}"
        );
        error
    }
}

#[test]
fn create_makes_the_golden_areas() {
    for (case, log) in [
        ("01-fresh-internal-64m", LogGeometry::default()),
        ("02-flex-external-1m", LogGeometry::default()),
        ("07b-geometry-1g", LogGeometry::default()),
        ("07c-geometry-odd", LogGeometry::default()),
        ("08-al-stripes-2x64k", LogGeometry::new(2, 16).unwrap()),
        ("09-indexed-slot1", LogGeometry::default()),
    ] {
        let snapshot = snapshot(case, "fresh");
        let bench = Bench::empty(snapshot.index(), snapshot.number("device_bytes"));
        let options = CreateOptions {
            log,
            ..CreateOptions::default()
        };
        create_md(&bench.location, options).unwrap();
        assert!(
            snapshot.read_area(&bench.meta) == *snapshot.area.as_ref().unwrap(),
            "{case}"
        );
        assert_eq!(check_md(&bench.location).unwrap().findings, [], "{case}");
    }
}

#[test]
fn dump_makes_the_golden_texts() {
    for snapshot in all().iter().filter(|snapshot| snapshot.area.is_some()) {
        let bench = Bench::of(snapshot);
        let mut text = Vec::new();
        let dump = dump_md(&bench.location, true, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            snapshot.true_dump(),
            "{}",
            snapshot.title()
        );
        assert_eq!(
            dump.bits_set,
            snapshot.expect["bitmap"]["set_bits_on_disk"].as_u64().unwrap()
        );
        assert!(
            serde_json::to_string(&dump)
                .unwrap()
                .contains("\"bits-set-runs\"")
        );
    }
}

#[test]
fn dump_refuses_unclean_metadata_before_it_writes() {
    let bench = Bench::of(&snapshot("06a-al-apply", "before"));
    let mut text = Vec::new();
    assert!(matches!(
        dump_md(&bench.location, false, &mut text),
        Err(OfflineError::Unclean(_))
    ));
    assert!(text.is_empty());
}

/// Every pair of snapshots around an `apply-al`.
#[test]
fn apply_makes_the_golden_areas() {
    for (case, before, after) in [
        ("06a-al-apply", "before", "after"),
        ("06b-al-torn-newest", "before", "after"),
        ("06c-al-secondary", "before", "after"),
        ("06d-al-number-wrap", "before", "after"),
        ("06e-al-damaged-middle", "before", "after"),
        ("06g-al-mixed-no-update", "first-torn", "first-torn-after"),
        ("06i-al-old-8.3", "old", "converted"),
        ("08-al-stripes-2x64k", "before", "after"),
    ] {
        let (before, after) = (snapshot(case, before), snapshot(case, after));
        let bench = Bench::of(&before);
        let report = apply_al(&bench.location).unwrap();
        assert!(
            after.read_area(&bench.meta) == *after.area.as_ref().unwrap(),
            "{case}: {report:?}"
        );
        assert!(
            report.superblock_written && !report.was_clean && !report.full_sync_set,
            "{case}"
        );
        let again = apply_al(&bench.location).unwrap();
        assert!(
            again.was_clean && !again.superblock_written && !again.log_rewritten,
            "{case}"
        );
        assert!(
            after.read_area(&bench.meta) == *after.area.as_ref().unwrap(),
            "{case}: applied twice"
        );
    }
}

/// `drbdmeta` forgets an extent that the bitmap has no room for; we ask for a full resync.
#[test]
fn extent_beyond_the_bitmap_asks_for_a_full_sync() {
    let after = snapshot("06h-al-last-extent", "after");
    let bench = Bench::of(&snapshot("06h-al-last-extent", "before"));
    let report = apply_al(&bench.location).unwrap();
    assert_eq!(
        report.extents_beyond_bitmap.iter().copied().collect::<Vec<_>>(),
        [32]
    );
    assert!(report.full_sync_set);
    let mut expected = after.area.clone().unwrap();
    let at = (after.number("super_block_byte") - after.number("region_start_byte")) as usize;
    let block = UnverifiedSuperblock::parse(&expected[at..at + 4096]).unwrap();
    let mut superblock = block.verify(after.index(), after.sizes()).unwrap().superblock;
    superblock.flags.set(Flags::FULL_SYNC, true);
    expected[at..at + 4096].copy_from_slice(&superblock.encode());
    assert!(after.read_area(&bench.meta) == expected);
}

#[test]
fn apply_without_a_usable_log() {
    let crashed = Bench::of(&snapshot("06f-al-unreadable", "before"));
    assert!(matches!(
        crashed.refuses(apply_al),
        OfflineError::NoUsableLog { .. }
    ));
    assert_eq!(
        check_md(&crashed.location).unwrap().worst(),
        Some(Severity::Error)
    );

    let after = snapshot("06f-al-unreadable", "after-secondary");
    crashed.poke(&0x11_u32.to_be_bytes(), after.number("super_block_byte") + 56);
    let report = apply_al(&crashed.location).unwrap();
    assert!(report.ignored_error.is_some() && report.log_rewritten);
    assert!(after.read_area(&crashed.meta) == *after.area.as_ref().unwrap());

    let mixed = Bench::of(&snapshot("06g-al-mixed-no-update", "refused"));
    assert!(matches!(
        mixed.refuses(apply_al),
        OfflineError::NoUsableLog { .. }
    ));
}

#[test]
fn apply_knows_the_log_of_8_3() {
    let snapshot = snapshot("06i-al-old-8.3", "old");
    let bench = Bench::of(&snapshot);
    assert!(
        check_md(&bench.location)
            .unwrap()
            .findings
            .contains(&Finding::OldLog)
    );
    bench.poke(&[0; 32768], snapshot.number("al_byte"));
    assert!(matches!(bench.refuses(apply_al), OfflineError::NoUsableOldLog(_)));
    let intact = Bench::of(&snapshot);
    assert_eq!(apply_al(&intact.location).unwrap().log_form, LogForm::Old);
}

/// Two context windows, and the block that named slots 919.. is lost for good: nothing may be forgotten silently.
#[test]
fn apply_asks_for_a_full_sync_when_an_extent_may_be_missing() {
    let before = snapshot("06a-al-apply", "before");
    let bench = Bench::of(&before);
    let log = before.number("al_byte");
    bench.poke(&[0; 100], log + 4096 * (18 % 8));
    let report = apply_al(&bench.location).unwrap();
    assert_eq!(report.completeness, Completeness::ExtentMayBeMissing);
    assert!(report.full_sync_set);
    assert!(
        check_md(&bench.location)
            .unwrap()
            .findings
            .contains(&Finding::FullSync)
    );
}

#[test]
fn damaged_superblocks_are_refused() {
    let snapshot = snapshot("10-refused", "intact");
    for (at, value) in [
        (60, 0x8374_026A_u32),
        (60, 0x8374_026D),
        (60, 0),
        (64, 0x51),
        (68, 0xFFFF_FFBF),
        (76, 0xFFFF_FFB7),
        (80, 8192),
        (88, 2),
        (92, 9),
        (88, 0),
    ] {
        let bench = Bench::of(&snapshot);
        bench.poke(&value.to_be_bytes(), snapshot.number("super_block_byte") + at);
        assert!(
            matches!(bench.refuses(apply_al), OfflineError::Superblock { .. }),
            "byte {at}"
        );
        let dump = bench.refuses(|location| dump_md(location, true, &mut std::io::sink()));
        assert!(matches!(dump, OfflineError::Superblock { .. }), "byte {at}");
        let report = check_md(&bench.location).unwrap();
        assert_eq!(
            (report.worst(), report.metadata),
            (Some(Severity::Error), None),
            "byte {at}"
        );
    }
}

#[test]
fn create_refuses_what_is_there() {
    for (signature, at) in [
        (&b"XFSB"[..], 0),
        (b"\x53\xEF", 1080),
        (b"LABELONE", 512),
        (b"\x55\xAA", 510),
        (b"SWAPSPACE2", 4086),
    ] {
        let bench = Bench::empty(MetaIndex::Internal, 8 << 20);
        bench.poke(signature, at);
        let error = bench.refuses(|location| create_md(location, CreateOptions::default()));
        assert!(
            matches!(&error, OfflineError::WouldOverwrite(found) if found.len() == 1 && found[0].byte == at),
            "{error}"
        );
        let options = CreateOptions {
            force: true,
            ..CreateOptions::default()
        };
        assert_eq!(create_md(&bench.location, options).unwrap().overwritten.len(), 1);
        let again = bench.refuses(|location| create_md(location, CreateOptions::default()));
        assert!(again.to_string().contains("DRBD meta-data"), "{again}");
    }
}

#[test]
fn create_refuses_impossible_devices() {
    let small = Bench::empty(MetaIndex::Internal, 512 << 10);
    assert!(matches!(
        small.refuses(|location| create_md(location, CreateOptions::default())),
        OfflineError::Layout { .. }
    ));
    let slot = Bench::empty(MetaIndex::Indexed(1), 200 << 20);
    assert!(matches!(
        slot.refuses(|location| create_md(location, CreateOptions::default())),
        OfflineError::Layout { .. }
    ));
    let same = Bench::empty(MetaIndex::Internal, 8 << 20);
    let location = Location {
        data: same.meta.clone(),
        meta: MetaPlacement::FlexExternal(same.meta.clone()),
    };
    assert!(matches!(
        create_md(&location, CreateOptions::default()),
        Err(OfflineError::SameDevice(_))
    ));
}

/// Locks of this kind are seen by other processes only, so the refusal happens in a child.
#[test]
fn a_locked_file_is_in_use() {
    let bench = Bench::of(&snapshot("06a-al-apply", "before"));
    let holder = File::options().read(true).write(true).open(&bench.meta).unwrap();
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(&holder, lock).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "offline::the_child_is_refused"])
        .env("LOCKED_FILE", &bench.meta)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by a_locked_file_is_in_use"]
fn the_child_is_refused() {
    let path = PathBuf::from(std::env::var_os("LOCKED_FILE").unwrap());
    let location = Location {
        data: path,
        meta: MetaPlacement::Internal,
    };
    assert!(matches!(apply_al(&location), Err(OfflineError::InUse(_))));
    assert!(check_md(&location).unwrap().metadata.is_some());
}

#[test]
fn surplus_bits_are_a_note() {
    let bench = Bench::of(&snapshot("04-bitmap-pattern", "surplus"));
    let report = check_md(&bench.location).unwrap();
    assert!(
        matches!(report.findings[..], [Finding::SurplusBits { count: 10 }]),
        "{report:?}"
    );
}
