//! Slots of the health file: header, checksums, bad-block list.
//!
//! An input is a slot of which zeros at the end are left out; one shorter than 64 bytes is taken as it is.

use crate::mutate;
use crate::target::{Breach, Cap, Probe, Target, ensure, ensure_equal};
use fastrand::Rng;
use mendblock_storage::health::{
    AnchorEvidence, BlockState, Cause, Change, DetachCause, Finding, GenerationSlots, GoodAt, Health,
    LastDetach, LossMark, MAX_OWN_BLOCKS, MAX_OWN_RANGES, RECORD_BYTES, Record, RecordSet, Removal,
    SLOT_BYTES, Slot, SlotError, Whose, judge_anchor,
};
use mendblock_storage::units::BlockRange;

/// Inputs below this are not filled up: a slot of a wrong length.
const AS_IT_IS: usize = 64;
const HEADER_BYTES: usize = 4096;
const CRC: usize = 12;
const RECORD_CRCS: usize = 312;
const RECORD_COUNT: usize = 164;

/// One slot.
pub(super) struct HealthSlot;

impl Target for HealthSlot {
    fn name(&self) -> &'static str {
        "health"
    }

    fn about(&self) -> &'static str {
        "slots of the health file, the bad-block list, what may be done with it"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 1 << 20,
            because: "a slot has 4096 records (HEALTH.md), 64 bytes each in memory, twice while they are merged",
        }
    }

    fn longest(&self) -> usize {
        HEADER_BYTES + 1200 * RECORD_BYTES
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let empty = Health::new(1, "r0", 2);
        let mut full = Health::new(0x0102, "mirror/0", 0xABCD);
        full.sequence = 9;
        full.last_detach = Some(LastDetach {
            cause: DetachCause::Quarantine,
            at: 1_700_000_000,
        });
        full.ids = GenerationSlots {
            current: 4,
            bitmap: 5,
            history: [6, 7],
        };
        full.outdated_mark = Some(8);
        full.source_open_mark = Some(4);
        full.loss_mark = Some(LossMark {
            peer_attach_id: 3,
            current: 4,
        });
        for record in records() {
            let finding = Finding {
                whose: record.0,
                cause: record.1,
                good_at: GoodAt::Yes,
                generation: 4,
                now: 100,
            };
            // A list that is full takes no more: the seed is what fits.
            let _ = full.records.mark(record.2, finding);
        }
        let _ = full
            .records
            .remove(BlockRange::single(9), Removal::ReadBack, 4, 200);
        vec![
            trimmed(empty.encode()),
            trimmed(full.encode()),
            vec![0; 64],
            b"MENDHLTH".to_vec(),
        ]
    }

    fn words(&self) -> Vec<Vec<u8>> {
        vec![
            b"MENDHLTH".to_vec(),
            vec![0, 0, 0, 1],
            vec![255, 1, 1, 1],
            vec![1, 4, 9, 3],
        ]
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let slot = whole(input);
        let parsed = probe.measured(|| Health::parse(&slot));
        check_choice(&slot, &parsed)?;
        match parsed {
            Err(error) => {
                probe.outline("refusal", &error);
                ensure(!error.to_string().is_empty(), "a refusal has a text", String::new)
            }
            Ok(health) => {
                probe.outline(
                    "records",
                    &health.records.records().iter().take(64).collect::<Vec<_>>(),
                );
                probe.feature((
                    health.outdated_since().is_some(),
                    health.source_open(),
                    health.loss_answered().is_some(),
                    health.last_detach.map(|detach| detach.cause as u8),
                ));
                check_health(&health, probe)
            }
        }
    }

    /// Makes the checksums right.
    fn seal(&self, input: &mut Vec<u8>) {
        if input.len() < AS_IT_IS {
            return;
        }
        let mut slot = whole(input);
        input.resize(input.len().max(RECORD_CRCS + 160), 0);
        for (number, block) in slot[HEADER_BYTES..].chunks_exact(4096).enumerate() {
            let crc = crc_fast::crc32_iscsi(block).to_be_bytes();
            input[RECORD_CRCS + 4 * number..][..4].copy_from_slice(&crc);
        }
        slot[RECORD_CRCS..RECORD_CRCS + 160].copy_from_slice(&input[RECORD_CRCS..RECORD_CRCS + 160]);
        slot[CRC..CRC + 4].fill(0);
        let crc = crc_fast::crc32_iscsi(&slot[..HEADER_BYTES]).to_be_bytes();
        input[CRC..CRC + 4].copy_from_slice(&crc);
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let (header, body) = input.split_at_checked(HEADER_BYTES)?;
        let mut records: Vec<Vec<u8>> = body.chunks(RECORD_BYTES).map(<[u8]>::to_vec).collect();
        let others = other.get(HEADER_BYTES..).unwrap_or_default();
        let others: Vec<&[u8]> = others.chunks(RECORD_BYTES).collect();
        let mut header = header.to_vec();
        match (random.u8(0..8), records.len()) {
            (0, count) if count > 1 => drop(records.remove(random.usize(0..count))),
            (1, count) if count > 0 => repeat_record(&mut records, random.usize(0..count), random),
            (2, _) if !others.is_empty() => records.push(others[random.usize(0..others.len())].to_vec()),
            (3, count) if count > 1 => records.swap(random.usize(0..count), random.usize(0..count)),
            (4, _) => {
                let mut fields = header[..RECORD_CRCS].to_vec();
                mutate::bytes(&mut fields, other, &self.words(), RECORD_CRCS, random);
                fields.resize(RECORD_CRCS, 0);
                header[..RECORD_CRCS].copy_from_slice(&fields);
            }
            (_, count) if count > 0 => {
                let record = &mut records[random.usize(0..count)];
                mutate::bytes(record, &[], &self.words(), RECORD_BYTES, random);
                record.resize(RECORD_BYTES, 0);
            }
            _ => return None,
        }
        if random.u8(0..4) > 0 {
            let count = (records.len() as u32).to_be_bytes();
            header[RECORD_COUNT..RECORD_COUNT + 4].copy_from_slice(&count);
        }
        Some([header, records.concat()].concat())
    }
}

/// The record once more, or many times, each behind the one before.
fn repeat_record(records: &mut Vec<Vec<u8>>, at: usize, random: &mut Rng) {
    let Some(record) = records[at].first_chunk::<12>() else {
        return;
    };
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0u64, |value, &byte| value << 8 | u64::from(byte))
    };
    let (first, count) = (word(&record[..8]), word(&record[8..12]));
    let gap = random.u64(0..3);
    let most = 1 << random.u32(0..11);
    let copies = random.u64(1..=most);
    let template = records[at].clone();
    let more = (1..=copies).map(|number| {
        let mut record = template.clone();
        let first = first.wrapping_add(number.wrapping_mul(count + gap));
        record[..8].copy_from_slice(&first.to_be_bytes());
        record
    });
    records.splice(at + 1..at + 1, more);
}

/// The valid slot counts, of two valid ones the newer, wherever they lie.
fn check_choice(slot: &[u8], parsed: &Result<Health, SlotError>) -> Result<(), Breach> {
    let mut good = Health::new(77, "other", 78);
    good.sequence = 5;
    let other = good.encode();
    let slot_is_newer = parsed
        .as_ref()
        .is_ok_and(|health| health.sequence > good.sequence);
    let slot_is_older = parsed
        .as_ref()
        .is_ok_and(|health| health.sequence < good.sequence);
    for (first, second, place_of_good) in [(slot, &other[..], Slot::Second), (&other[..], slot, Slot::First)]
    {
        let loaded = Health::newest(first, second).map_err(|error| Breach {
            property: "a good slot is found",
            seen: error.to_string(),
        })?;
        let chose_good = loaded.slot == place_of_good;
        let right = if slot_is_newer {
            !chose_good
        } else {
            // Of two equal numbers either may be taken.
            chose_good || !slot_is_older && parsed.is_ok()
        };
        ensure(right, "the newest valid slot counts", || {
            format!("{:?} of sequence {}", loaded.slot, loaded.health.sequence)
        })?;
    }
    Ok(())
}

fn check_health(health: &Health, probe: &mut Probe) -> Result<(), Breach> {
    let again = Health::parse(&health.encode());
    ensure_equal("a slot survives its encoding", &Ok(health), &again.as_ref())?;
    check_set(&health.records)?;
    let anchors = [
        AnchorEvidence::Absent,
        AnchorEvidence::Damaged,
        AnchorEvidence::Present {
            health_id: health.health_id,
            sequence: health.sequence,
            records: health.records.own_ranges() as u32,
        },
    ];
    for anchor in anchors {
        probe.feature(format!(
            "{:?}",
            judge_anchor(health.device_id, anchor, Some(health))
        ));
    }
    let mut set = health.records.clone();
    for _ in 0..4 {
        work_on(&mut set, &mut probe.random);
        check_set(&set)?;
    }
    let theirs = health.records.records();
    let mut united = RecordSet::new();
    united.union(1, 0, theirs, 7);
    check_set(&united)
}

/// One operation that a node would do with the list, on a range near one of its records.
fn work_on(set: &mut RecordSet, random: &mut Rng) {
    let records = set.records();
    let near = records
        .get(random.usize(0..records.len().max(1)))
        .map_or(0, |record| record.range.first());
    let first = near.saturating_add_signed(random.i64(-4..8));
    let count = 1 + (mutate::number(random) as u32) % 20_000;
    let Some(range) = BlockRange::new(first, count) else {
        return;
    };
    let finding = Finding {
        whose: [Whose::Own, Whose::Peer(1)][random.usize(0..2)],
        cause: [Cause::Read, Cause::MissedWrite, Cause::FailedWrite][random.usize(0..3)],
        good_at: GoodAt::Unknown,
        generation: 4,
        now: 9,
    };
    // A list that is full says so and stays as it was: the set is checked either way.
    match random.u8(0..5) {
        0 => drop(set.mark(range, finding)),
        1 => drop(set.remove(range, Removal::ReadBack, 4, 9)),
        2 => drop(set.update(finding.whose, range, Change::Found)),
        3 => drop(set.drop_tombstones(range)),
        _ => drop(set.drop_suspects(1, range)),
    }
}

/// The list is in order, within its limits, and could be read back from a file.
fn check_set(set: &RecordSet) -> Result<(), Breach> {
    let records: Vec<Record> = set.records().to_vec();
    let again = RecordSet::from_records(records);
    ensure_equal("a list can be read back", &Ok(set), &again.as_ref())?;
    let listed = |record: &&Record| record.whose == Whose::Own && record.state != BlockState::Tombstone;
    let own: Vec<&Record> = set.records().iter().filter(listed).collect();
    let blocks: u64 = own.iter().map(|record| u64::from(record.range.count())).sum();
    let right = own.len() == set.own_ranges() && blocks == set.own_blocks();
    ensure(right, "the list counts what it holds", || {
        format!("{} ranges, {} blocks", set.own_ranges(), set.own_blocks())
    })?;
    let within = own.len() <= MAX_OWN_RANGES && blocks <= MAX_OWN_BLOCKS;
    ensure(within, "the list is within its limits", || {
        format!("{} ranges, {blocks} blocks", own.len())
    })
}

fn whole(input: &[u8]) -> Vec<u8> {
    let mut slot = input.to_vec();
    if slot.len() >= AS_IT_IS {
        slot.resize(SLOT_BYTES, 0);
    }
    slot
}

fn trimmed(mut slot: Vec<u8>) -> Vec<u8> {
    let end = slot
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    slot.truncate(end);
    slot
}

fn records() -> Vec<(Whose, Cause, BlockRange)> {
    let range = |first, count| BlockRange::new(first, count).unwrap_or_else(|| BlockRange::single(0));
    vec![
        (Whose::Own, Cause::Read, range(9, 1)),
        (Whose::Own, Cause::Read, range(100, 8)),
        (Whose::Own, Cause::MissedWrite, range(108, 1)),
        (Whose::Own, Cause::Scrub, range(1 << 40, 300)),
        (Whose::Peer(1), Cause::PeerSaid, range(100, 4)),
        (Whose::Peer(31), Cause::FailedWrite, range(7, 70_000)),
    ]
}
