use super::{Op, apply, op, range, read_error};
use crate::health::*;
use proptest::prelude::*;

fn sample(sequence: u64, ops: &[Op]) -> Health {
    let mut health = Health::new(0x1122_3344_5566_7788, "mirror/0", 0xABCD);
    health.sequence = sequence;
    health.attach_id = 5;
    health.generation = 0x10;
    health.last_detach = Some(LastDetach {
        cause: DetachCause::HealFailed,
        at: 1_700_000_000,
    });
    health.ids = GenerationSlots {
        current: 0x10,
        bitmap: 0x20,
        history: [0x30, 0x40],
    };
    health.outdated_mark = Some(0x50);
    health.source_open_mark = Some(0x11);
    health.loss_mark = Some(LossMark {
        peer_attach_id: 77,
        current: 0x10,
    });
    health.heal = HealCounters {
        total_blocks: 3,
        episodes: 2,
        last_episode: 99,
    };
    health.scrub = ScrubProgress {
        cursor: 12,
        errors: 1,
        last_complete: 88,
    };
    for op in ops {
        apply(&mut health.records, op);
    }
    health
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let mut health = sample(9, &[]);
    health.records.mark(range(0x0102, 3), read_error()).unwrap();
    let bytes = health.encode();
    assert_eq!(bytes.len(), 167_936);
    assert_eq!(&bytes[..12], b"MENDHLTH\0\0\0\x01");
    assert_eq!(
        bytes[16..40],
        *b"\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\xAB\xCD"
    );
    assert_eq!(bytes[88..96], 0x50u64.to_be_bytes());
    assert_eq!(bytes[128..136], *b"\0\0\0\x0F\x08\0\0\0");
    assert_eq!(bytes[164..168], 1u32.to_be_bytes());
    assert_eq!(&bytes[176..186], b"\0\x08mirror/0");
    let record = *b"\0\0\0\0\0\0\x01\x02\0\0\0\x03\xFF\x01\x01\x01\0\x01\0\0\0\0\x03\xE8\0\0\x03\xE8\0\0\0\0\0\0\0\x08\0\0\0\0";
    assert_eq!(bytes[4096..4136], record);
    assert!(
        bytes[472..4096]
            .iter()
            .chain(&bytes[4136..])
            .all(|byte| *byte == 0)
    );
}

#[test]
fn checksums_are_of_the_usual_form() {
    assert_eq!(slot::crc32c(b"123456789"), 0xE306_9283);
}

#[test]
fn marks_count_only_for_their_generation() {
    let mut health = sample(1, &[]);
    assert_eq!(health.outdated_since(), Some(0x50));
    assert!(health.source_open(), "bit 0 is the role");
    assert_eq!(health.loss_answered(), Some(77));
    for known in [0x10, 0x20, 0x30, 0x40] {
        health.outdated_mark = Some(known | 1);
        assert_eq!(health.outdated_since(), None);
    }
    health.ids.current = 0x60;
    assert!(!health.source_open());
    assert_eq!(health.loss_answered(), None);
}

#[test]
fn a_void_mark_does_not_count_again_when_its_generation_leaves_the_history() {
    let ids = |current, bitmap, younger, older| GenerationSlots {
        current,
        bitmap,
        history: [younger, older],
    };
    let mut health = sample(1, &[]);
    health.set_ids(ids(0x60, 0x10, 0x30, 0x40));
    assert_eq!(health.outdated_since(), Some(0x50), "the disk does not have it");
    health.set_ids(ids(0x50, 0, 0x60, 0x10));
    assert_eq!(health.outdated_since(), None, "the disk has it now");
    health.set_ids(ids(0x70, 0, 0x50, 0x60));
    health.set_ids(ids(0x90, 0, 0x80, 0x70));
    assert_eq!(health.outdated_since(), None);
}

#[test]
fn an_unwritten_slot_is_empty_and_a_newer_version_is_named() {
    assert_eq!(Health::parse(&vec![0; SLOT_BYTES]), Err(SlotError::Empty));
    assert_eq!(Health::parse(&[1; 9]), Err(SlotError::Length(9)));
    assert_eq!(Health::parse(&vec![7; SLOT_BYTES]), Err(SlotError::Magic));
    let mut bytes = sample(1, &[]).encode();
    bytes[11] = 2;
    bytes[12..16].fill(0);
    let crc = slot::crc32c(&bytes[..4096]);
    bytes[12..16].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(Health::parse(&bytes), Err(SlotError::Version(2)));
}

#[test]
fn both_slots_damaged_is_an_error_that_says_why() {
    let error = Health::newest(&vec![0; SLOT_BYTES], &vec![7; SLOT_BYTES]).unwrap_err();
    assert_eq!((error.first, error.second), (SlotError::Empty, SlotError::Magic));
}

#[test]
fn anchor_and_file_are_judged_together() {
    use AnchorEvidence::{Absent, Damaged, Present};
    use AnchorVerdict::{ForeignWriter, Fresh, ListLost, Normal, OtherDisk};
    let health = sample(9, &[]);
    let anchor = |sequence, records| Present {
        health_id: health.health_id,
        sequence,
        records,
    };
    let foreign = |records| Present {
        health_id: 1,
        sequence: 9,
        records,
    };
    let lost = |records| ListLost { records };
    let ours = [
        (anchor(9, 1), Normal, "they agree"),
        (anchor(8, 1), Normal, "the anchor is lazy"),
        (anchor(10, 1), lost(Some(1)), "the file is older"),
        (anchor(10, 0), Normal, "older, but nothing was listed"),
        (foreign(2), lost(Some(2)), "another file was lost"),
        (foreign(0), Normal, "another file without records"),
        (Absent, ForeignWriter, "DRBD was here"),
        (Damaged, ForeignWriter, "age not known"),
    ];
    for (anchor, verdict, why) in ours {
        assert_eq!(judge_anchor(0xABCD, anchor, Some(&health)), verdict, "{why}");
    }
    let missing = [
        (Absent, Fresh),
        (anchor(9, 0), Fresh),
        (anchor(9, 1), lost(Some(1))),
        (Damaged, lost(None)),
    ];
    for (anchor, verdict) in missing {
        assert_eq!(judge_anchor(0xABCD, anchor, None), verdict);
        let with_other_file = judge_anchor(1, anchor, Some(&health));
        assert_eq!(
            with_other_file,
            if verdict == Fresh { OtherDisk } else { verdict }
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn encode_and_parse(ops in prop::collection::vec(op(), 0..30), sequence in any::<u64>()) {
        let health = sample(sequence, &ops);
        prop_assert_eq!(Health::parse(&health.encode()), Ok(health));
    }

    /// I24: whatever prefix of a write reached the file, the slot written before it is read.
    #[test]
    fn a_torn_write_leaves_the_older_slot(
        ops in prop::collection::vec(op(), 1..20),
        writes in 1u64..6,
        torn in prop_oneof![0..SLOT_BYTES, 0..4096usize],
        by_sector in any::<bool>(),
    ) {
        let mut slots = [vec![0; SLOT_BYTES], vec![0; SLOT_BYTES]];
        let mut newest = Slot::Second;
        for sequence in 1..=writes {
            newest = newest.other();
            slots[newest as usize] = sample(sequence, &ops[..ops.len() / 2]).encode();
        }
        let target = &mut slots[newest.other() as usize];
        let next = sample(writes + 1, &ops);
        let cut = if by_sector { torn / 512 * 512 } else { torn };
        target[..cut].copy_from_slice(&next.encode()[..cut]);
        let landed = *target == next.encode();
        let loaded = Health::newest(&slots[0], &slots[1]).unwrap();
        prop_assert_eq!(loaded.health.sequence, if landed { writes + 1 } else { writes });
        prop_assert_eq!(loaded.slot, if landed { newest.other() } else { newest });
    }

    #[test]
    fn damaged_bytes_never_panic_nor_pass(at in 0..SLOT_BYTES, flip in 1u8.., reseal in any::<bool>()) {
        let mut bytes = sample(3, &[]).encode();
        bytes[at] ^= flip;
        if reseal && at < 4096 && !(12..16).contains(&at) {
            bytes[12..16].fill(0);
            let crc = slot::crc32c(&bytes[..4096]);
            bytes[12..16].copy_from_slice(&crc.to_be_bytes());
            let _ = Health::parse(&bytes);
        } else {
            prop_assert!(Health::parse(&bytes).is_err());
        }
    }

    #[test]
    fn damaged_records_never_panic(entries in prop::collection::vec(any::<[u8; RECORD_BYTES]>(), 0..4), count in any::<u32>()) {
        let mut bytes = sample(3, &[]).encode();
        for (index, entry) in entries.iter().enumerate() {
            bytes[4096 + index * RECORD_BYTES..][..RECORD_BYTES].copy_from_slice(entry);
        }
        bytes[164..168].copy_from_slice(&(count % 5000).to_be_bytes());
        let crc = slot::crc32c(&bytes[4096..8192]);
        bytes[312..316].copy_from_slice(&crc.to_be_bytes());
        bytes[12..16].fill(0);
        let crc = slot::crc32c(&bytes[..4096]);
        bytes[12..16].copy_from_slice(&crc.to_be_bytes());
        let parsed = Health::parse(&bytes);
        prop_assert!(!matches!(parsed, Err(SlotError::Checksum(_))), "the checksums hold");
        prop_assert_eq!(parsed.is_ok(), count % 5000 == 0);
    }
}
