//! What holds for all values, and for all bytes.
use mendblock_storage::format::activity_log::{
    self, FREE_EXTENT, LogBlock, SlotUpdate, Transaction, TransactionSequence, initialized_block,
};
use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
use mendblock_storage::format::bitmap;
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::old_log;
use mendblock_storage::format::replay::{Completeness, replay};
use mendblock_storage::format::superblock::{
    Flags, GenerationIds, LogState, Superblock, UnverifiedSuperblock, Verified,
};
use mendblock_storage::format::{META_BLOCK_BYTES, MetaBlock};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn logs() -> impl Strategy<Value = LogGeometry> {
    (1..6_u32, 1..40_u32).prop_filter_map("a log has 8 blocks", |(stripes, size)| {
        LogGeometry::new(stripes, size).ok()
    })
}

fn places() -> impl Strategy<Value = (MetaIndex, DeviceSizes, LogGeometry)> {
    let sizes = || (20..41_u32, any::<u64>()).prop_map(|(bits, low)| (1_u64 << bits) + low % (1 << bits));
    (0..3_u8, 0..4_u8, sizes(), sizes(), logs()).prop_map(|(kind, slot, data_bytes, meta_bytes, log)| {
        match kind {
            0 => (MetaIndex::Internal, DeviceSizes::internal(data_bytes), log),
            1 => (
                MetaIndex::FlexExternal,
                DeviceSizes {
                    data_bytes,
                    meta_bytes,
                },
                log,
            ),
            _ => (
                MetaIndex::Indexed(slot),
                DeviceSizes {
                    data_bytes,
                    meta_bytes,
                },
                LogGeometry::default(),
            ),
        }
    })
}

fn anchors() -> impl Strategy<Value = StoredAnchor> {
    let anchor =
        (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(health_id, sequence, record_count)| {
            StoredAnchor::Present(Anchor {
                health_id,
                sequence,
                record_count,
            })
        });
    prop_oneof![Just(StoredAnchor::Absent), anchor]
}

prop_compose! {
    fn superblocks(layout: MetadataLayout)(
        effective_sectors in 0..=layout.usable_sectors(), slots: [u64; 4], device_id: u64, flags: u32, unclean: bool,
        log_slots: u32, peer_max_bio_bytes: u32, anchor in anchors(),
    ) -> Superblock {
        Superblock {
            effective_sectors, generations: GenerationIds::from_slots(slots), device_id, flags: Flags::from_bits(flags),
            log_state: if unclean { LogState::Unclean } else { LogState::Clean }, layout: layout.stored(), log_slots,
            peer_max_bio_bytes, anchor,
        }
    }
}

/// A node's log: a table of slots and the writes that named them.
fn histories() -> impl Strategy<Value = (LogGeometry, u16, u32, Vec<Vec<SlotUpdate>>)> {
    (
        logs(),
        prop_oneof![7..300_u16, 900..3000_u16],
        prop_oneof![Just(0_u32), any::<u32>()],
    )
        .prop_flat_map(|(log, slots, first)| {
            let slots = slots.min(log.max_slots());
            // The jump of the position at the wrap of the number is a case of its own.
            let first = if log.blocks().is_power_of_two() {
                first
            } else {
                first / 2
            };
            let update = (0..slots, 0..1000_u32).prop_map(|(slot, extent)| SlotUpdate { slot, extent });
            let updates = prop::collection::vec(update, 0..5);
            (
                Just(log),
                Just(slots),
                Just(first),
                prop::collection::vec(updates, 1..60),
            )
        })
}

type Ring = Vec<Option<MetaBlock>>;

/// Writes the history and calls `seen` after each transaction with the ring, the block that was written and the hot
/// extents before and after.
fn run(
    (log, slots, first, history): &(LogGeometry, u16, u32, Vec<Vec<SlotUpdate>>),
    mut seen: impl FnMut(&Ring, usize, &BTreeSet<u32>, &BTreeSet<u32>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut ring: Ring = vec![Some(initialized_block()); log.blocks() as usize];
    let mut table = vec![FREE_EXTENT; usize::from(*slots)];
    let mut sequence = TransactionSequence::starting_at(*first);
    let hot = |table: &[u32]| {
        table
            .iter()
            .copied()
            .filter(|&extent| extent != FREE_EXTENT)
            .collect::<BTreeSet<_>>()
    };
    for updates in history {
        let before = hot(&table);
        let transaction = sequence.compose(&table, updates.clone()).unwrap();
        let block = log.block_of_transaction(transaction.number()) as usize;
        ring[block] = Some(transaction.encode());
        sequence.written();
        updates
            .iter()
            .for_each(|update| table[usize::from(update.slot)] = update.extent);
        seen(&ring, block, &before, &hot(&table))?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn layouts_do_not_overlap((index, sizes, log) in places()) {
        let Ok(layout) = MetadataLayout::compute(index, sizes, log) else { return Ok(()) };
        let mut parts = [
            (layout.superblock_byte(), 4096),
            (layout.log_byte(), u64::from(log.blocks()) * 4096),
            (layout.bitmap_byte(), layout.bitmap_bytes()),
        ];
        parts.sort_unstable();
        prop_assert!(parts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        prop_assert!(parts.iter().all(|(byte, length)| byte % 4096 == 0 && byte + length <= sizes.meta_bytes));
        prop_assert_eq!(layout.first_meta_byte(), parts[0].0);
        prop_assert!(bitmap::room_of(layout.usable_sectors()) <= layout.bitmap_bytes());
        if index == MetaIndex::Internal {
            prop_assert!(layout.usable_sectors() * 512 <= layout.first_meta_byte());
        }
        prop_assert_eq!(MetadataLayout::verify(index, sizes, layout.stored()), Ok(layout));
    }

    #[test]
    fn every_transaction_has_its_own_block(log in logs(), first: u32) {
        let first = first / 2;
        let blocks: BTreeSet<u32> = (0..log.blocks()).map(|at| log.block_of_transaction(first + at)).collect();
        prop_assert_eq!(blocks.len(), log.blocks() as usize);
        prop_assert!(blocks.iter().all(|&block| block < log.blocks()));
    }

    #[test]
    fn superblocks_survive_the_disk(
        (index, sizes, superblock) in places()
            .prop_filter_map("fits", |(index, sizes, log)| Some((index, sizes, MetadataLayout::compute(index, sizes, log).ok()?)))
            .prop_flat_map(|(index, sizes, layout)| (Just(index), Just(sizes), superblocks(layout)))
    ) {
        let block = superblock.encode();
        let Verified { superblock: read, .. } = UnverifiedSuperblock::parse(&block).unwrap().verify(index, sizes).unwrap();
        prop_assert_eq!(read, superblock);
        prop_assert_eq!(read.encode(), block);
    }

    #[test]
    fn no_superblock_panics(changes in prop::collection::vec((0..128_usize, any::<u8>()), 1..6), kind in 0..3_u8) {
        let sizes = DeviceSizes { data_bytes: 64 << 20, meta_bytes: 256 << 20 };
        let index = [MetaIndex::Internal, MetaIndex::FlexExternal, MetaIndex::Indexed(1)][usize::from(kind)];
        let sizes = if kind == 0 { DeviceSizes::internal(64 << 20) } else { sizes };
        let layout = MetadataLayout::compute(index, sizes, LogGeometry::default()).unwrap();
        let mut block = Superblock::create(&layout).encode();
        changes.iter().for_each(|&(at, value)| block[at] = value);
        let unverified = UnverifiedSuperblock::parse(&block).unwrap();
        if let Ok(Verified { superblock, layout }) = unverified.verify(index, sizes) {
            prop_assert!(superblock.effective_sectors <= layout.usable_sectors() || !superblock.flags.contains(Flags::CONSISTENT));
            prop_assert!(layout.first_meta_byte() + layout.meta_bytes() <= sizes.meta_bytes);
        }
    }

    #[test]
    fn transactions_survive_the_disk(number: u32, start in 0..2000_u16, context in prop::collection::vec(any::<u32>(), 0..=919),
        slots in prop::collection::vec((0..2000_u16, any::<u32>()), 0..=64)) {
        let updates = slots.into_iter().map(|(slot, extent)| SlotUpdate { slot, extent }).collect();
        let Ok(transaction) = Transaction::new(number, 2000, start, context, updates) else { return Ok(()) };
        let block = transaction.encode();
        match activity_log::parse(&block).unwrap() {
            LogBlock::Transaction(read) => prop_assert_eq!(read.encode(), block),
            LogBlock::Initialized => prop_assert!(false),
        }
    }

    #[test]
    fn every_damaged_log_block_is_seen(number: u32, at in 0..META_BLOCK_BYTES, with in 1..=255_u8) {
        let mut block = Transaction::new(number, 67, 0, vec![1, 2, 3], vec![SlotUpdate { slot: 9, extent: 4 }]).unwrap().encode();
        block[at] ^= with;
        prop_assert!(activity_log::parse(&block).is_err());
    }

    #[test]
    fn no_ring_panics(blocks in prop::collection::vec(prop_oneof![
        Just(None), Just(Some(initialized_block())),
        (any::<u32>(), any::<u16>(), any::<[u8; 32]>()).prop_map(|(number, start, noise)| {
            // A valid checksum over nonsense.
            let mut block = initialized_block();
            block[4..8].copy_from_slice(&number.to_be_bytes());
            block[12..14].copy_from_slice(&[0, 0]);
            block[18..20].copy_from_slice(&start.to_be_bytes());
            block[30..62].copy_from_slice(&noise);
            block[8..12].copy_from_slice(&[0; 4]);
            if let Err(activity_log::BlockDefect::Checksum { computed, .. }) = activity_log::parse(&block) {
                block[8..12].copy_from_slice(&computed.to_be_bytes());
            }
            Some(block)
        }),
    ], 8)) {
        if let Ok(replay) = replay(LogGeometry::default(), &blocks) {
            prop_assert!(replay.slots.keys().all(|&slot| slot < activity_log::SLOT_LIMIT));
            prop_assert!(replay.slots.values().all(|&extent| extent != FREE_EXTENT));
        }
        old_log::hot_extents(&blocks, 257);
    }

    #[test]
    fn bitmaps_survive_the_disk(words in prop::collection::vec(any::<u64>(), 0..70), sectors in 0..40_000_u64) {
        let bytes = bitmap::encode(&words);
        prop_assert_eq!(bitmap::decode(&bytes), words.clone());
        let mut kept = words.clone();
        let cleared = bitmap::clear_surplus(&mut kept, 0, sectors);
        prop_assert_eq!(cleared, bitmap::count_set(&words) - bitmap::count_set(&kept));
        for (bit, word) in (0..words.len() as u64 * 64).map(|bit| (bit, (bit / 64) as usize)) {
            let (was, is) = (words[word] >> (bit % 64) & 1, kept[word] >> (bit % 64) & 1);
            prop_assert_eq!(is, if bit < sectors.div_ceil(8) { was } else { 0 });
        }
    }

    #[test]
    fn runs_are_the_set_bits(words in prop::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..20)) {
        let mut runs = bitmap::Runs::new(usize::MAX);
        words.chunks(3).for_each(|piece| runs.push(piece));
        let (runs, more) = runs.finish();
        prop_assert!(!more && runs.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        let mut rebuilt = vec![0_u64; words.len()];
        runs.iter().flat_map(|&(first, last)| first..=last).for_each(|bit| rebuilt[(bit / 64) as usize] |= 1 << (bit % 64));
        prop_assert_eq!(rebuilt, words);
    }
}

proptest! {
    // Each case replays a ring after every transaction of a history.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// At any point of a node's life the ring gives at least the hot extents. (More: slots whose extent changed in a
    /// block that has left the ring are known from contexts only.)
    #[test]
    fn every_prefix_of_a_history_gives_the_hot_set(history in histories()) {
        run(&history, |ring, _, _, after| {
            let replay = replay(history.0, ring).unwrap();
            prop_assert_eq!(&replay.extents(), after);
            prop_assert_eq!(replay.completeness, Completeness::Whole);
            Ok(())
        })?;
    }

    /// A crash while a block is written: what was hot before is found, and the torn block changes nothing.
    #[test]
    fn a_torn_newest_block_is_harmless(history in histories(), cut in 0..4096_usize) {
        let mut older: Option<Ring> = None;
        let mut transactions = 0;
        run(&history, |ring, block, before, after| {
            let mut torn = ring.clone();
            let (Some(new), Some(old)) = (&mut torn[block], older.as_ref().and_then(|ring| ring[block].as_ref())) else {
                older = Some(ring.clone());
                return Ok(());
            };
            transactions += 1;
            new[cut..].copy_from_slice(&old[cut..]);
            let landed = ring[block] == torn[block];
            let replay = replay(history.0, &torn).unwrap();
            let expected = if landed { after } else { before };
            prop_assert_eq!(&replay.extents(), expected);
            prop_assert_ne!(replay.completeness, Completeness::ExtentMayBeMissing);
            older = Some(ring.clone());
            Ok(())
        })?;
    }

    /// Whatever single block is lost: either the hot set is whole, or the answer says that it may not be.
    #[test]
    fn a_lost_block_never_hides_an_extent(history in histories(), lost: prop::sample::Index, unreadable: bool) {
        run(&history, |ring, newest, _, after| {
            let mut damaged = ring.clone();
            let block = lost.index(ring.len());
            damaged[block] = (!unreadable).then_some([0; META_BLOCK_BYTES]);
            if let Ok(replay) = replay(history.0, &damaged)
                && block != newest
                && replay.completeness != Completeness::ExtentMayBeMissing
            {
                prop_assert!(replay.extents().is_superset(after), "{replay:?} lacks some of {after:?}");
            }
            Ok(())
        })?;
    }
}
