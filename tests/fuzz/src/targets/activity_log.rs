//! The activity log: single transactions, a whole ring and its recovery, the log of DRBD 8.3.
//!
//! An input says how the ring is striped (2 bytes), how many slots the old form had (4 bytes, little-endian), and what its
//! blocks hold: entries of place (1 byte), kind (1 byte), length (2 bytes, little-endian) and content. Blocks that no
//! entry names are initialized ones.

use crate::mutate;
use crate::target::{Breach, Cap, Probe, Target, ensure, ensure_equal};
use fastrand::Rng;
use mendblock_storage::format::activity_log::{
    FREE_EXTENT, LogBlock, SLOT_LIMIT, SlotUpdate, TransactionSequence, initialized_block, parse,
};
use mendblock_storage::format::layout::LogGeometry;
use mendblock_storage::format::replay::{Completeness, Replay, replay};
use mendblock_storage::format::{META_BLOCK_BYTES, MetaBlock, old_log};
use mendblock_storage::hot::HotSet;
use std::collections::BTreeMap;
use std::sync::LazyLock;

const HEAD_BYTES: usize = 6;
const ENTRY_BYTES: usize = 4;
/// Most blocks of a ring here.
const MOST_BLOCKS: u32 = 32;

/// What an entry makes of its block.
const UNREADABLE: u8 = 0;
const SEALED: u8 = 1;
const AS_IT_IS: u8 = 2;
const OLD_SECTORS: u8 = 3;
const KINDS: u8 = 4;

/// The log's checksum has another start and end than the usual one: for one length they differ by this.
static CRC_OF_ZEROS: LazyLock<u32> = LazyLock::new(|| crc_fast::crc32_iscsi(&[0; META_BLOCK_BYTES]));

/// A ring of blocks.
pub(super) struct ActivityLog;

#[derive(Clone)]
struct Entry {
    place: u8,
    kind: u8,
    content: Vec<u8>,
}

impl Target for ActivityLog {
    fn name(&self) -> &'static str {
        "activity-log"
    }

    fn about(&self) -> &'static str {
        "transactions of the activity log, recovery of a ring, the log of DRBD 8.3"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 4 << 20,
            because: "a transaction names at most 983 slots (FORMAT.md): 8 KiB in memory, and a slot table with at most \
                      65534 entries of 32 bytes",
        }
    }

    fn longest(&self) -> usize {
        40 << 10
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for (first, transactions, slots) in [(0, 1, 67), (0, 5, 1200), (7, 20, 1200), (u32::MAX - 3, 9, 67)] {
            seeds.push(join(
                &[1, 8, 60, 0, 0, 0],
                &written_log(first, transactions, slots),
            ));
            seeds.push(join(
                &[2, 5, 60, 0, 0, 0],
                &written_log(first, transactions, slots),
            ));
        }
        let mut damaged = written_log(0, 8, 67);
        damaged[2].kind = UNREADABLE;
        damaged[4].content[9] ^= 1;
        damaged[4].kind = AS_IT_IS;
        seeds.push(join(&[1, 8, 60, 0, 0, 0], &damaged));
        let old = [0x83, 0x74, 0x02, 0x67, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 9];
        let entry = |place| Entry {
            place,
            kind: OLD_SECTORS,
            content: old.to_vec(),
        };
        seeds.push(join(
            &[1, 8, 200, 0, 0, 0],
            &(0..8).map(entry).collect::<Vec<_>>(),
        ));
        seeds
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let numbers = [0x69CB_65A2u32, 0x8374_0267, FREE_EXTENT, 0xFFFF_FFFE];
        let mut words: Vec<Vec<u8>> = numbers.iter().map(|word| word.to_be_bytes().to_vec()).collect();
        words.extend([vec![0xFF, 0xFD], vec![0xFF, 0xFE], vec![0, 64], vec![3, 0x97]]);
        words
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let (head, entries) = take_apart(input);
        let geometry = geometry(&head);
        let ring = ring(geometry, &entries);
        for block in ring.iter().flatten() {
            check_block(block, probe)?;
        }
        let slots = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let old = probe.measured(|| old_log::hot_extents(&ring, slots));
        probe.feature(("old", old.as_ref().map(|extents| extents.len().checked_ilog2())));
        let free = old.is_some_and(|extents| extents.contains(&FREE_EXTENT));
        ensure(!free, "no free slot counts as hot", || "in the old form".into())?;
        let replayed = probe.measured(|| replay(geometry, &ring));
        match replayed {
            Err(error) => {
                probe.outline("refusal", &error);
                Ok(())
            }
            Ok(replayed) => {
                probe.feature((replayed.completeness as u8, replayed.slots.len().checked_ilog2()));
                probe.feature(("skipped", replayed.skipped_entries.checked_ilog2()));
                probe.feature(("used", replayed.transactions, replayed.unusable.len()));
                check_replay(&replayed, geometry)?;
                check_going_on(&replayed, geometry, ring)
            }
        }
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let (mut head, mut entries) = take_apart(input);
        let (_, others) = take_apart(other);
        if entries.is_empty() {
            return None;
        }
        let at = random.usize(0..entries.len());
        let theirs = others.get(random.usize(0..others.len().max(1)));
        match (random.u8(0..9), theirs) {
            (0, _) => entries[at].place = random.u8(0..16),
            (1, _) => entries[at].kind = random.u8(0..KINDS),
            (2, _) => drop(entries.remove(at)),
            (3, Some(theirs)) => entries.push(theirs.clone()),
            (4, _) => head[random.usize(0..HEAD_BYTES)] = random.u8(0..20),
            (5, _) => renumber(&mut entries[at], random),
            _ => {
                let theirs = theirs.map_or(&[][..], |entry| &entry.content);
                let content = &mut entries[at].content;
                mutate::bytes(content, theirs, &self.words(), META_BLOCK_BYTES, random);
            }
        }
        Some(join(&head, &entries))
    }
}

/// Gives a transaction another number, near to others.
fn renumber(entry: &mut Entry, random: &mut Rng) {
    if let Some(number) = entry.content.get_mut(4..8) {
        let old = u32::from_be_bytes([number[0], number[1], number[2], number[3]]);
        let new = match random.u8(0..3) {
            0 => old.wrapping_add_signed(random.i32(-9..=9)),
            1 => old ^ 1 << 31,
            _ => random.u32(0..16),
        };
        number.copy_from_slice(&new.to_be_bytes());
    }
}

fn check_block(block: &MetaBlock, probe: &mut Probe) -> Result<(), Breach> {
    match probe.measured(|| parse(block)) {
        Err(defect) => probe.outline("defect", &std::mem::discriminant(&defect)),
        Ok(LogBlock::Initialized) => probe.feature("initialized"),
        Ok(LogBlock::Transaction(transaction)) => {
            probe.feature((
                "transaction",
                transaction.updates().len().checked_ilog2(),
                transaction.context_slots().len().checked_ilog2(),
                transaction.slots().checked_ilog2(),
            ));
            let again = parse(&transaction.encode());
            let expected = Ok(LogBlock::Transaction(transaction));
            ensure_equal("a transaction survives its encoding", &expected, &again)?;
        }
    }
    Ok(())
}

fn check_replay(replayed: &Replay, geometry: LogGeometry) -> Result<(), Breach> {
    let seen = || format!("{replayed:?}");
    let good_slots = replayed
        .slots
        .iter()
        .all(|(&slot, &extent)| slot < SLOT_LIMIT && extent != FREE_EXTENT);
    ensure(good_slots, "every slot of a recovered log can exist", seen)?;
    let good_next = replayed.next_block < geometry.blocks()
        && replayed.next_block == geometry.block_of_transaction(replayed.next_number);
    ensure(good_next, "the next transaction has a block of the ring", seen)?;
    let good_count = replayed.transactions <= geometry.blocks()
        && replayed
            .unusable
            .windows(2)
            .all(|pair| pair[0].block < pair[1].block);
    ensure(good_count, "blocks are counted once", seen)?;
    // What goes on with a ring takes over its slots.
    let slots = replayed.slots.keys().max().map_or(1, |most| most + 1);
    let set = HotSet::from_replay(slots, replayed.slots.clone());
    ensure(set.is_ok(), "a recovered log can be taken over", || {
        format!("{set:?}")
    })
}

/// A ring that is whole stays so when the log goes on, and the new extent is in it.
fn check_going_on(
    replayed: &Replay,
    geometry: LogGeometry,
    mut ring: Vec<Option<MetaBlock>>,
) -> Result<(), Breach> {
    // Numbers that are half of all numbers apart have no order, and no node writes them into one ring.
    let is_far = |block: &MetaBlock| {
        let number = match parse(block) {
            Ok(LogBlock::Transaction(transaction)) => transaction.number(),
            _ => replayed.next_number,
        };
        replayed.next_number.wrapping_sub(number) > 1 << 30
    };
    let is_whole = replayed.completeness != Completeness::ExtentMayBeMissing && replayed.transactions > 0;
    if !is_whole || ring.iter().flatten().any(is_far) {
        return Ok(());
    }
    let most = replayed.slots.keys().max().map_or(0, |most| usize::from(*most));
    let mut slots = vec![FREE_EXTENT; most + 1];
    for (&slot, &extent) in &replayed.slots {
        slots[usize::from(slot)] = extent;
    }
    let update = SlotUpdate {
        slot: most as u16,
        extent: 123_456,
    };
    let composed = TransactionSequence::starting_at(replayed.next_number).compose(&slots, vec![update]);
    let transaction = composed.map_err(|error| Breach {
        property: "a recovered log can go on",
        seen: error.to_string(),
    })?;
    ring[replayed.next_block as usize] = Some(transaction.encode());
    let again = replay(geometry, &ring);
    let has_both = again
        .as_ref()
        .is_ok_and(|again| again.extents().contains(&update.extent));
    ensure(has_both, "a log that goes on names the new extent", || {
        format!("before {replayed:?}, then {again:?}")
    })
}

fn geometry(head: &[u8; HEAD_BYTES]) -> LogGeometry {
    let (stripes, blocks) = (u32::from(head[0]), u32::from(head[1]));
    match LogGeometry::new(stripes, blocks) {
        Ok(geometry) if geometry.blocks() <= MOST_BLOCKS => geometry,
        _ => LogGeometry::default(),
    }
}

fn ring(geometry: LogGeometry, entries: &[Entry]) -> Vec<Option<MetaBlock>> {
    let mut ring = vec![Some(initialized_block()); geometry.blocks() as usize];
    for entry in entries {
        let place = usize::from(entry.place) % ring.len();
        ring[place] = block(entry);
    }
    ring
}

fn block(entry: &Entry) -> Option<MetaBlock> {
    let content = &entry.content[..entry.content.len().min(META_BLOCK_BYTES)];
    let mut block = [0; META_BLOCK_BYTES];
    match entry.kind % KINDS {
        UNREADABLE => return None,
        SEALED => {
            // What is not given is unused: slots, extents, context.
            block[36..].fill(0xFF);
            block[..content.len()].copy_from_slice(content);
            seal(&mut block);
        }
        OLD_SECTORS => {
            for (number, sector) in block.chunks_exact_mut(512).enumerate() {
                let content = &content[..content.len().min(504)];
                sector[..content.len()].copy_from_slice(content);
                sector[7] = sector[7].wrapping_add(number as u8 + entry.place.wrapping_mul(8));
                let xor = sector[8..504].chunks_exact(8).fold([0; 4], |xor, pair| {
                    std::array::from_fn(|at| xor[at] ^ pair[4 + at])
                });
                sector[504..508].copy_from_slice(&xor);
            }
        }
        _ => block[..content.len()].copy_from_slice(content),
    }
    Some(block)
}

/// Makes the checksum of a block right.
pub(super) fn seal(block: &mut [u8]) {
    block[8..12].fill(0);
    let crc = crc_fast::crc32_iscsi(block) ^ *CRC_OF_ZEROS;
    block[8..12].copy_from_slice(&crc.to_be_bytes());
}

/// The blocks of the ring of 8 that a node has written after so many transactions.
pub(super) fn written_blocks(transactions: u16) -> BTreeMap<u32, MetaBlock> {
    let entries = written_log(0, transactions, 67);
    let blocks = entries
        .iter()
        .filter_map(|entry| Some((u32::from(entry.place), block(entry)?)));
    blocks.collect()
}

fn take_apart(input: &[u8]) -> ([u8; HEAD_BYTES], Vec<Entry>) {
    let Some((head, mut rest)) = input.split_first_chunk::<HEAD_BYTES>() else {
        return ([0; HEAD_BYTES], Vec::new());
    };
    let mut entries = Vec::new();
    while let Some((start, behind)) = rest.split_first_chunk::<ENTRY_BYTES>() {
        let length = usize::from(u16::from_le_bytes([start[2], start[3]])).min(behind.len());
        entries.push(Entry {
            place: start[0],
            kind: start[1],
            content: behind[..length].to_vec(),
        });
        rest = &behind[length..];
    }
    (*head, entries)
}

fn join(head: &[u8; HEAD_BYTES], entries: &[Entry]) -> Vec<u8> {
    let mut input = head.to_vec();
    for entry in entries {
        let length = (entry.content.len() as u16).to_le_bytes();
        input.extend_from_slice(&[entry.place, entry.kind, length[0], length[1]]);
        input.extend_from_slice(&entry.content);
    }
    input
}

/// The entries of a log that a node wrote: each transaction puts an extent into a slot.
fn written_log(first: u32, transactions: u16, slots: usize) -> Vec<Entry> {
    let mut sequence = TransactionSequence::starting_at(first);
    let mut table = vec![FREE_EXTENT; slots];
    let mut entries = Vec::new();
    for slot in 0..transactions {
        let update = SlotUpdate {
            slot,
            extent: 10 + u32::from(slot),
        };
        let Ok(transaction) = sequence.compose(&table, vec![update]) else {
            break;
        };
        table[usize::from(slot)] = update.extent;
        let block = transaction.encode();
        // Unused entries at the end are put back when the block is made.
        let end = block
            .iter()
            .rposition(|&byte| byte != 0xFF)
            .map_or(0, |last| last + 1);
        entries.push(Entry {
            place: (transaction.number() % 8) as u8,
            kind: SEALED,
            content: block[..end].to_vec(),
        });
        sequence.written();
    }
    entries
}
