//! A real `drbdmeta` and we read, check and apply each other's meta-data. Skipped where it is not installed.
use crate::golden::snapshot;
use crate::offline::Bench;
use mendblock_storage::format::activity_log::{FREE_EXTENT, SlotUpdate, TransactionSequence};
use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::{
    Flags, GenerationIds, LogState, Superblock, UnverifiedSuperblock, Verified,
};
use mendblock_storage::offline::{CreateOptions, apply_al, check_md, create_md, dump_md};
use proptest::prelude::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn drbdmeta_is_missing() -> bool {
    let missing = Command::new("drbdmeta").arg("--version").output().is_err();
    if missing {
        println!("skipped: drbdmeta (drbd-utils) is not installed");
    }
    missing
}

fn drbdmeta(device: &Path, index: MetaIndex, arguments: &[&str]) -> Output {
    let index = match index {
        MetaIndex::Internal => "internal".to_owned(),
        MetaIndex::FlexExternal => "flex-external".to_owned(),
        MetaIndex::Indexed(slot) => slot.to_string(),
    };
    let mut command = Command::new("drbdmeta");
    command
        .args(["--force", "-", "v08"])
        .arg(device)
        .arg(index)
        .args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

fn must(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// From the version line on, with the flags as versions before 9.23 print them.
fn comparable(text: &str, flags: Flags) -> String {
    let text = &text[text.find("version \"v08\"").unwrap()..];
    text.replace(&format!("flags 0x{:08X};", flags.bits()), "flags 0x00000000;")
}

fn our_dump(bench: &Bench) -> (String, Flags) {
    let mut text = Vec::new();
    let dump = dump_md(&bench.location, true, &mut text).unwrap();
    (String::from_utf8(text).unwrap(), dump.flags)
}

fn read_superblock(bench: &Bench) -> Verified {
    let index = bench.location.index();
    let meta_bytes = bench.meta.metadata().unwrap().len();
    let data_bytes = bench.location.data.metadata().unwrap().len();
    let byte = mendblock_storage::format::layout::superblock_byte(index, meta_bytes).unwrap();
    let mut block = [0; 4096];
    File::open(&bench.meta)
        .unwrap()
        .read_exact_at(&mut block, byte)
        .unwrap();
    let sizes = DeviceSizes {
        data_bytes,
        meta_bytes,
    };
    UnverifiedSuperblock::parse(&block)
        .unwrap()
        .verify(index, sizes)
        .unwrap()
}

/// Where internal meta-data of a small device lie.
fn last_mebibyte(device: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let file = File::open(device).unwrap();
    file.read_exact_at(&mut bytes, file.metadata().unwrap().len() - (1 << 20))
        .unwrap();
    bytes
}

const PLACES: [(MetaIndex, u64, (u32, u32)); 7] = [
    (MetaIndex::Internal, 64 << 20, (1, 8)),
    (MetaIndex::Internal, (300 << 20) + 5 * 512, (1, 8)),
    (MetaIndex::Internal, 1 << 20, (1, 8)),
    (MetaIndex::Internal, 64 << 20, (3, 5)),
    (MetaIndex::FlexExternal, 1 << 20, (1, 8)),
    (MetaIndex::FlexExternal, (2 << 20) + 3 * 512, (2, 16)),
    (MetaIndex::Indexed(1), 256 << 20, (1, 8)),
];

#[test]
fn it_reads_what_we_create() {
    if drbdmeta_is_missing() {
        return;
    }
    for (index, bytes, (stripes, stripe_blocks)) in PLACES {
        let bench = Bench::empty(index, bytes);
        let log = LogGeometry::new(stripes, stripe_blocks).unwrap();
        create_md(
            &bench.location,
            CreateOptions {
                log,
                ..CreateOptions::default()
            },
        )
        .unwrap();
        let theirs = must(drbdmeta(&bench.meta, index, &["dump-md"]));
        let (ours, flags) = our_dump(&bench);
        assert_eq!(
            comparable(&ours, flags),
            comparable(&theirs, flags),
            "{index} {bytes}"
        );
        let before = fs::read(&bench.meta).unwrap();
        must(drbdmeta(&bench.meta, index, &["apply-al"]));
        assert!(
            fs::read(&bench.meta).unwrap() == before,
            "apply-al changed fresh meta-data"
        );
    }
}

#[test]
fn we_read_what_it_creates() {
    if drbdmeta_is_missing() {
        return;
    }
    for (index, bytes, (stripes, stripe_blocks)) in PLACES {
        let (theirs, ours) = (Bench::empty(index, bytes), Bench::empty(index, bytes));
        let (stripes_text, size_text) = (stripes.to_string(), (stripe_blocks * 4).to_string());
        let mut arguments = vec!["create-md"];
        if index == MetaIndex::Internal || index == MetaIndex::FlexExternal {
            arguments.extend(["--al-stripes", &stripes_text, "--al-stripe-size-kB", &size_text]);
        }
        must(drbdmeta(&theirs.meta, index, &arguments));
        assert_eq!(
            check_md(&theirs.location).unwrap().findings,
            [],
            "{index} {bytes}"
        );
        let log = LogGeometry::new(stripes, stripe_blocks).unwrap();
        create_md(
            &ours.location,
            CreateOptions {
                log,
                ..CreateOptions::default()
            },
        )
        .unwrap();
        assert!(
            fs::read(&theirs.meta).unwrap() == fs::read(&ours.meta).unwrap(),
            "{index} {bytes}"
        );
    }
}

#[test]
fn it_restores_our_dumps() {
    if drbdmeta_is_missing() {
        return;
    }
    for (case, name) in [
        ("04-bitmap-pattern", "pattern"),
        ("03-uuids-flags", "set-gi"),
        ("06a-al-apply", "after"),
    ] {
        let original = snapshot(case, name);
        let bench = Bench::of(&original);
        let dump = bench.meta.with_extension("txt");
        dump_md(&bench.location, false, &mut File::create(&dump).unwrap()).unwrap();
        let copy = Bench::empty(original.index(), original.number("device_bytes"));
        must(drbdmeta(&copy.meta, original.index(), &["create-md"]));
        must(drbdmeta(
            &copy.meta,
            original.index(),
            &["restore-md", dump.to_str().unwrap()],
        ));
        assert!(
            original.read_area(&copy.meta) == *original.area.as_ref().unwrap(),
            "{case}"
        );
    }
}

#[test]
fn it_erases_only_the_anchor() {
    if drbdmeta_is_missing() {
        return;
    }
    let bench = Bench::of(&snapshot("03-uuids-flags", "set-gi"));
    let Verified { superblock, layout } = read_superblock(&bench);
    let anchor = Anchor {
        health_id: 77,
        sequence: 3,
        record_count: 1,
    };
    let anchored = Superblock {
        anchor: StoredAnchor::Present(anchor),
        ..superblock
    };
    let file = File::options().write(true).open(&bench.meta).unwrap();
    file.write_all_at(&anchored.encode(), layout.superblock_byte())
        .unwrap();
    assert_eq!(read_superblock(&bench).superblock, anchored);
    must(drbdmeta(&bench.meta, MetaIndex::Internal, &["outdate"]));
    let outdated = Superblock {
        flags: superblock.flags.without(Flags::WAS_UP_TO_DATE),
        ..superblock
    };
    assert_eq!(read_superblock(&bench).superblock, outdated);
}

const CRASHED_BYTES: u64 = 64 << 20;

/// A crashed node with a random log.
#[derive(Clone, Debug)]
struct Crash {
    stripes: (u32, u32),
    slots: u16,
    first_number: u32,
    transactions: Vec<Vec<(u16, u32)>>,
    damage: Vec<(u32, u16)>,
    was_primary: bool,
}

fn crashes() -> impl Strategy<Value = Crash> {
    let updates = prop::collection::vec((0..1200_u16, prop_oneof![0..=16_u32, Just(FREE_EXTENT)]), 0..6);
    (
        prop_oneof![Just((1, 8)), Just((2, 4)), Just((1, 16))],
        prop_oneof![Just(67_u16), Just(1200)],
        prop_oneof![Just(0_u32), Just(u32::MAX - 6), any::<u32>()],
        prop::collection::vec(updates, 0..40),
        prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec((0..8_u32, 0..4096_u16), 1..9)],
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(stripes, slots, first_number, transactions, damage, was_primary)| Crash {
                stripes,
                slots,
                first_number,
                transactions,
                damage,
                was_primary,
            },
        )
}

fn write_crash(crash: &Crash, device: &Path) {
    let log = LogGeometry::new(crash.stripes.0, crash.stripes.1).unwrap();
    let sizes = DeviceSizes::internal(CRASHED_BYTES);
    let layout = MetadataLayout::compute(MetaIndex::Internal, sizes, log).unwrap();
    let file = File::options().write(true).open(device).unwrap();
    let mut slots = vec![FREE_EXTENT; usize::from(crash.slots)];
    let mut sequence = TransactionSequence::starting_at(crash.first_number);
    for updates in &crash.transactions {
        let updates: Vec<_> = updates
            .iter()
            .map(|&(slot, extent)| SlotUpdate {
                slot: slot % crash.slots,
                extent,
            })
            .collect();
        let transaction = sequence.compose(&slots, updates.clone()).unwrap();
        file.write_all_at(
            &transaction.encode(),
            layout.transaction_byte(transaction.number()),
        )
        .unwrap();
        sequence.written();
        updates
            .iter()
            .for_each(|update| slots[usize::from(update.slot)] = update.extent);
    }
    for &(block, at) in &crash.damage {
        let byte = layout.log_byte() + u64::from(block) * 4096 + u64::from(at);
        file.write_all_at(&[0x5A], byte).unwrap();
    }
    let mut flags = Flags::CONSISTENT.with(Flags::WAS_UP_TO_DATE);
    flags.set(Flags::PRIMARY_IND, crash.was_primary);
    let superblock = Superblock {
        effective_sectors: layout.usable_sectors(),
        generations: GenerationIds {
            current: 0x1234_5679,
            ..GenerationIds::default()
        },
        flags,
        log_state: LogState::Unclean,
        log_slots: crash.slots.into(),
        ..Superblock::create(&layout)
    };
    file.write_all_at(&superblock.encode(), layout.superblock_byte())
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Both tools do the same to the same crashed disk, but that we ask for a full sync where an extent may be missing.
    #[test]
    fn both_apply_the_same_log_alike(crash in crashes()) {
        if drbdmeta_is_missing() {
            return Ok(());
        }
        let bench = Bench::empty(MetaIndex::Internal, CRASHED_BYTES);
        let log = LogGeometry::new(crash.stripes.0, crash.stripes.1).unwrap();
        create_md(&bench.location, CreateOptions { log, ..CreateOptions::default() }).unwrap();
        write_crash(&crash, &bench.meta);
        let copy = Bench::empty(MetaIndex::Internal, CRASHED_BYTES);
        let file = File::options().write(true).open(&copy.meta).unwrap();
        file.write_all_at(&last_mebibyte(&bench.meta), CRASHED_BYTES - (1 << 20)).unwrap();
        let theirs = drbdmeta(&copy.meta, MetaIndex::Internal, &["apply-al"]);
        let ours = apply_al(&bench.location);
        prop_assert_eq!(theirs.status.success(), ours.is_ok(), "{:?} {:?}", theirs, ours);
        if ours.is_ok_and(|report| report.full_sync_set) {
            let Verified { mut superblock, layout } = read_superblock(&bench);
            superblock.flags.set(Flags::FULL_SYNC, false);
            let file = File::options().write(true).open(&bench.meta).unwrap();
            file.write_all_at(&superblock.encode(), layout.superblock_byte()).unwrap();
        }
        prop_assert!(last_mebibyte(&bench.meta) == last_mebibyte(&copy.meta));
    }
}
