//! The golden vectors, read and written by the pure formats.
use crate::golden::{Snapshot, all, snapshot};
use mendblock_storage::format::activity_log::{
    self, FREE_EXTENT, LogBlock, SlotUpdate, TransactionSequence, initialized_block,
};
use mendblock_storage::format::bitmap;
use mendblock_storage::format::dump::{Dump, bitmap_text};
use mendblock_storage::format::layout::{LogGeometry, MetadataLayout, superblock_byte};
use mendblock_storage::format::old_log;
use mendblock_storage::format::replay::{Completeness, ReplayError, replay};
use mendblock_storage::format::superblock::{
    Flags, LogState, Superblock, SuperblockError, UnverifiedSuperblock, Verified,
};
use serde_json::{Value, json};

fn verified(snapshot: &Snapshot) -> Verified {
    UnverifiedSuperblock::parse(snapshot.superblock())
        .and_then(|block| block.verify(snapshot.index(), snapshot.sizes()))
        .unwrap_or_else(|error| panic!("{}: {error}", snapshot.title()))
}

fn described_log(snapshot: &Snapshot) -> LogGeometry {
    let of = |key: &str| snapshot.expect["superblock"][key].as_u64().unwrap() as u32;
    LogGeometry::new(of("al_stripes"), of("al_stripe_size_4k")).unwrap()
}

#[test]
fn layouts() {
    for snapshot in all() {
        let title = snapshot.title();
        let layout =
            MetadataLayout::compute(snapshot.index(), snapshot.sizes(), described_log(snapshot)).unwrap();
        let superblock = &snapshot.expect["superblock"];
        assert_eq!(
            layout.superblock_byte(),
            snapshot.number("super_block_byte"),
            "{title}"
        );
        assert_eq!(
            superblock_byte(snapshot.index(), snapshot.sizes().meta_bytes),
            Ok(layout.superblock_byte())
        );
        assert_eq!(layout.log_byte(), snapshot.number("al_byte"), "{title}");
        assert_eq!(layout.bitmap_byte(), snapshot.number("bitmap_byte"), "{title}");
        assert_eq!(
            layout.bitmap_bytes(),
            snapshot.number("bitmap_sectors") * 512,
            "{title}"
        );
        assert_eq!(
            layout.first_meta_byte(),
            snapshot.number("region_start_byte"),
            "{title}"
        );
        assert_eq!(
            layout.meta_bytes(),
            superblock["md_size_sect"].as_u64().unwrap() * 512,
            "{title}"
        );
        let stored = layout.stored();
        assert_eq!(json!(stored.al_offset), superblock["al_offset"], "{title}");
        assert_eq!(json!(stored.bm_offset), superblock["bm_offset"], "{title}");
        match snapshot.expect.get("usable_sectors") {
            Some(sectors) => assert_eq!(json!(layout.usable_sectors()), *sectors, "{title}"),
            None => {
                let sizes = mendblock_storage::format::layout::DeviceSizes {
                    data_bytes: u64::MAX,
                    ..snapshot.sizes()
                };
                let layout =
                    MetadataLayout::compute(snapshot.index(), sizes, described_log(snapshot)).unwrap();
                assert_eq!(
                    layout.usable_sectors(),
                    snapshot.number("usable_sectors_by_bitmap_room"),
                    "{title}"
                );
            }
        }
    }
}

#[test]
fn superblocks_both_ways() {
    for snapshot in all().iter().filter(|snapshot| snapshot.area.is_some()) {
        let title = snapshot.title();
        let Verified { superblock, layout } = verified(snapshot);
        assert_eq!(superblock.encode(), snapshot.superblock(), "{title}");
        assert_eq!(
            layout.superblock_byte(),
            snapshot.number("super_block_byte"),
            "{title}"
        );
        let hex = |value: u64| json!(format!("0x{value:016X}"));
        let names: Vec<&str> = superblock.flags.names().collect();
        let [current, bitmap, history1, history2] = superblock.generations.slots().map(hex);
        let fields = json!({
            "la_size_sect": superblock.effective_sectors,
            "uuid_current": current, "uuid_bitmap": bitmap, "uuid_history1": history1, "uuid_history2": history2,
            "device_uuid": hex(superblock.device_id), "reserved_u64": hex(0),
            "flags": format!("0x{:08X}", superblock.flags.bits()), "flag_names": names,
            "magic": if superblock.log_state == LogState::Clean { "0x8374026B" } else { "0x8374026C" },
            "md_size_sect": superblock.layout.meta_sectors, "al_offset": superblock.layout.al_offset,
            "bm_offset": superblock.layout.bm_offset, "al_nr_extents": superblock.log_slots,
            "bm_bytes_per_bit": 4096, "la_peer_max_bio_size": superblock.peer_max_bio_bytes,
            "al_stripes": superblock.layout.log.stripes(),
            "al_stripe_size_4k": superblock.layout.log.stripe_blocks(), "padding_all_zero": true,
        });
        assert_eq!(fields, snapshot.expect["superblock"], "{title}");
    }
}

#[test]
fn created_superblocks() {
    for case in [
        "01-fresh-internal-64m",
        "02-flex-external-1m",
        "08-al-stripes-2x64k",
        "09-indexed-slot1",
    ] {
        let snapshot = snapshot(case, "fresh");
        let layout =
            MetadataLayout::compute(snapshot.index(), snapshot.sizes(), described_log(&snapshot)).unwrap();
        assert_eq!(
            Superblock::create(&layout).encode(),
            snapshot.superblock(),
            "{case}"
        );
    }
}

#[test]
fn log_blocks() {
    for snapshot in all().iter().filter(|snapshot| snapshot.area.is_some()) {
        let found: Vec<Value> = snapshot
            .ring(described_log(snapshot).blocks())
            .iter()
            .map(|block| block.as_ref().unwrap())
            .map(|block| match activity_log::parse(block) {
                Err(_) => json!("invalid"),
                Ok(LogBlock::Initialized) => {
                    assert_eq!(initialized_block(), *block);
                    json!("initialized")
                }
                Ok(LogBlock::Transaction(transaction)) => {
                    assert_eq!(transaction.encode(), *block, "{}", snapshot.title());
                    json!({
                        "tr_number": transaction.number(), "n_updates": transaction.updates().len(),
                        "crc32c": format!("0x{:02X}{:02X}{:02X}{:02X}", block[8], block[9], block[10], block[11]),
                        "context_size": transaction.slots(), "context_start": transaction.context_slots().start,
                    })
                }
            })
            .collect();
        assert_eq!(
            json!(found),
            snapshot.expect["al"]["blocks"],
            "{}",
            snapshot.title()
        );
    }
}

#[test]
fn replays() {
    for snapshot in all().iter().filter(|snapshot| snapshot.area.is_some()) {
        let title = snapshot.title();
        let geometry = described_log(snapshot);
        let (kind, extents) = match replay(geometry, &snapshot.ring(geometry.blocks())) {
            Err(ReplayError::NoUsableBlock { .. }) => ("nodata", Vec::new()),
            Err(ReplayError::OnlyInitialized { .. }) => ("invalid", Vec::new()),
            Ok(replay) if replay.transactions == 0 => ("nothing", Vec::new()),
            Ok(replay) => ("ok", replay.extents().into_iter().collect()),
            Err(error) => panic!("{title}: {error}"),
        };
        assert_eq!(json!(kind), snapshot.expect["al"]["replay"], "{title}");
        assert_eq!(json!(extents), snapshot.expect["al"]["hot_extents"], "{title}");
    }
}

#[test]
fn completeness_of_damaged_rings() {
    let of = |case| {
        let snapshot = snapshot(case, "before");
        let geometry = described_log(&snapshot);
        replay(geometry, &snapshot.ring(geometry.blocks())).unwrap()
    };
    assert_eq!(of("06a-al-apply").completeness, Completeness::Whole);
    assert_eq!(of("06a-al-apply").next_number, 20);
    assert_eq!(of("06b-al-torn-newest").completeness, Completeness::NewestTorn);
    assert_eq!(of("06d-al-number-wrap").next_number, 3);
    // The lost transaction's slots stand in the contexts of the later ones.
    let damaged = of("06e-al-damaged-middle");
    assert_eq!(
        (damaged.completeness, damaged.unusable.len()),
        (Completeness::Whole, 1)
    );
}

/// Writes the rings that `ring.json` describes with our own writer.
#[test]
fn rings_written() {
    for snapshot in all() {
        if snapshot.name != "before" || !crate::golden::folder(&snapshot.case).join("ring.json").exists() {
            continue;
        }
        let description = snapshot.ring_description();
        let geometry = described_log(snapshot);
        let mut ring = vec![initialized_block(); geometry.blocks() as usize];
        let mut slots = vec![FREE_EXTENT; description["context_size"].as_u64().unwrap() as usize];
        let mut sequence =
            TransactionSequence::starting_at(description["first_tr"].as_u64().unwrap_or(0) as u32);
        for updates in description["updates"].as_array().unwrap() {
            let updates: Vec<SlotUpdate> = updates
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| SlotUpdate {
                    slot: pair[0].as_u64().unwrap() as u16,
                    extent: pair[1].as_u64().unwrap() as u32,
                })
                .collect();
            let transaction = sequence.compose(&slots, updates.clone()).unwrap();
            ring[geometry.block_of_transaction(transaction.number()) as usize] = transaction.encode();
            sequence.written();
            for update in updates {
                slots[usize::from(update.slot)] = update.extent;
            }
        }
        for damage in description["damage"].as_array().into_iter().flatten() {
            let at = damage[1].as_u64().unwrap() as usize;
            let hex = damage[2].as_str().unwrap();
            for (place, byte) in (at..).zip(hex.as_bytes().chunks(2)) {
                let byte = u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 16).unwrap();
                ring[damage[0].as_u64().unwrap() as usize][place] = byte;
            }
        }
        let ring: Vec<_> = ring.into_iter().map(Some).collect();
        assert!(ring == snapshot.ring(geometry.blocks()), "{}", snapshot.title());
    }
}

#[test]
fn log_of_8_3() {
    let snapshot = snapshot("06i-al-old-8.3", "old");
    let ring = snapshot.ring(8);
    let superblock = verified(&snapshot).superblock;
    assert!(old_log::is_old(&superblock, &ring));
    let extents = old_log::hot_extents(&ring, superblock.log_slots).unwrap();
    assert_eq!(extents.into_iter().collect::<Vec<_>>(), [2, 3, 4, 9, 11]);
    let new = crate::golden::snapshot("06a-al-apply", "before");
    assert!(!old_log::is_old(&verified(&new).superblock, &new.ring(8)));
}

#[test]
fn bitmaps() {
    for snapshot in all().iter().filter(|snapshot| snapshot.area.is_some()) {
        let title = snapshot.title();
        let Verified { superblock, layout } = verified(snapshot);
        let bytes = snapshot.bytes(layout.bitmap_byte(), layout.bitmap_bytes() as usize);
        // The room of an indexed slot is large, and empty behind the first part.
        let (bytes, rest) = bytes.split_at(bytes.len().min(1 << 20));
        assert!(rest.iter().all(|&byte| byte == 0), "{title}");
        let mut words = bitmap::decode(bytes);
        assert!(bitmap::encode(&words) == bytes, "{title}");
        let expect = &snapshot.expect["bitmap"];
        assert_eq!(
            json!(bitmap::count_set(&words)),
            expect["set_bits_on_disk"],
            "{title}"
        );
        let mut runs = bitmap::Runs::new(usize::MAX);
        words.chunks(7).for_each(|piece| runs.push(piece));
        assert_eq!(json!(runs.finish().0), expect["ranges_on_disk"], "{title}");
        bitmap::clear_surplus(&mut words, 0, superblock.effective_sectors);
        assert_eq!(
            json!(bitmap::count_set(&words)),
            expect["set_bits_of_device"],
            "{title}"
        );
    }
}

/// Vector 10: one damaged field each.
#[test]
fn refusals() {
    let snapshot = snapshot("10-refused", "intact");
    let refused = |at: usize, value: u32| {
        let mut block = snapshot.superblock().to_vec();
        block[at..at + 4].copy_from_slice(&value.to_be_bytes());
        UnverifiedSuperblock::parse(&block)
            .unwrap()
            .verify(snapshot.index(), snapshot.sizes())
            .unwrap_err()
    };
    assert_eq!(refused(60, 0x8374_026A), SuperblockError::OtherVersion("0.7"));
    assert_eq!(
        refused(60, 0x8374_026D),
        SuperblockError::OtherVersion("v09 (DRBD 9)")
    );
    assert!(matches!(
        refused(60, 0),
        SuperblockError::NotFound {
            byte: 67_104_768,
            found: 0,
            ..
        }
    ));
    for (at, value) in [
        (64, 0x51),
        (68, 0xFFFF_FFBF),
        (76, 0xFFFF_FFB7),
        (88, 2),
        (92, 9),
        (88, 0),
    ] {
        assert!(
            matches!(refused(at, value), SuperblockError::Layout(_)),
            "byte {at}"
        );
    }
    assert_eq!(refused(80, 8192), SuperblockError::BytesPerBit(8192));
}

#[test]
fn truncation_is_refused_only_for_consistent_data() {
    let snapshot = snapshot("05-full-sync", "before");
    let Verified {
        mut superblock,
        layout,
    } = verified(&snapshot);
    superblock.effective_sectors = layout.usable_sectors() + 1;
    assert!(matches!(
        superblock.check_size(&layout),
        Err(SuperblockError::Truncated { .. })
    ));
    superblock.flags.set(Flags::CONSISTENT, false);
    assert_eq!(superblock.check_size(&layout), Ok(layout.usable_sectors()));
}

#[test]
fn dumps() {
    for snapshot in all().iter().filter(|snapshot| snapshot.area.is_some()) {
        let verified = verified(snapshot);
        let mut dump = Dump::new(&verified);
        let bytes = snapshot.bytes(verified.layout.bitmap_byte(), dump.bm_bytes as usize);
        dump.bits_set = bitmap::count_set(&bitmap::decode(bytes));
        let text = dump.head() + &bitmap_text(bytes, 0) + &dump.tail();
        assert_eq!(text, snapshot.true_dump(), "{}", snapshot.title());
    }
}
