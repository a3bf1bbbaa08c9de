//! Round trips, damaged bytes, and limits of the frame codec.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod wire_samples;

use mendblock_net::wire::frame::{DecodeError, EncodeError, Head, encode};
use mendblock_net::wire::kind::Kind;
use mendblock_net::wire::message::*;
use mendblock_net::wire::prelude::*;
use mendblock_storage::units::{BlockRange, SectorRange};
use proptest::prelude::*;
use wire_samples::samples;

fn any_blocks() -> impl Strategy<Value = BlockRange> {
    (0u64..1 << 50, 1u32..).prop_map(|(first, count)| BlockRange::new(first, count).unwrap())
}

fn any_sectors(most: u32) -> impl Strategy<Value = SectorRange> {
    (0u64..1 << 60, 1..=most).prop_map(|(first, count)| SectorRange::new(first, count).unwrap())
}

fn any_record() -> impl Strategy<Value = WireRecord> {
    (any_blocks(), 0u8..4, any::<u8>(), 0u8..3, any::<u64>()).prop_map(
        |(range, state, cause, good_at, generation)| WireRecord {
            range,
            state,
            cause,
            good_at,
            generation,
        },
    )
}

fn records(most: usize) -> impl Strategy<Value = Vec<WireRecord>> {
    prop::collection::vec(any_record(), 0..most)
}

fn with_data(length: usize) -> impl Strategy<Value = Vec<u8>> {
    any::<u8>().prop_map(move |seed| (0..length).map(|index| seed.wrapping_add(index as u8)).collect())
}

fn any_write() -> impl Strategy<Value = (Message, Vec<u8>)> {
    let message = (
        any::<u64>(),
        any::<u64>(),
        any_sectors(64),
        any::<bool>(),
        any::<bool>(),
    );
    message.prop_flat_map(|(request, epoch, range, fua, may_set_in_sync)| {
        let message = Message::Write {
            request,
            epoch,
            range,
            fua,
            may_set_in_sync,
        };
        (Just(message), with_data(range.byte_length() as usize))
    })
}

fn any_frame() -> impl Strategy<Value = (Message, Vec<u8>)> {
    let plain = prop_oneof![
        (".{0,300}", any::<bool>()).prop_map(|(reason, for_good)| Message::Refused { reason, for_good }),
        (
            records(40),
            records(40),
            prop::collection::vec(any_blocks(), 0..40),
            any::<bool>()
        )
            .prop_map(|(own, suspect, tombstones, last)| Message::BadBlocks {
                own,
                suspect,
                tombstones,
                last
            }),
        (any::<u64>(), any::<u64>(), any::<bool>(), records(200)).prop_map(
            |(number, attach_id, failed, records)| Message::Tell {
                number,
                attach_id,
                failed,
                records
            }
        ),
        prop::collection::vec(any::<u64>(), 0..MAX_ACKS).prop_map(|requests| Message::WriteAcks { requests }),
        prop::collection::vec(any_blocks(), 0..300).prop_map(|ranges| Message::OutOfSync { ranges }),
        (any::<u64>(), any_sectors(2048)).prop_map(|(request, range)| Message::ResyncRead { request, range }),
        (any::<u64>(), any::<i32>(), ".{0,99}").prop_map(|(request, code, cause)| Message::ChangeAnswer {
            request,
            code,
            cause
        }),
        (any::<u8>(), ".{0,99}").prop_map(|(reason, text)| Message::Parting { reason, text }),
        (any::<u64>(), any::<i32>()).prop_map(|(request, errno)| Message::WriteNack { request, errno }),
    ];
    prop_oneof![
        2 => plain.prop_map(|message| (message, Vec::new())),
        1 => any_write(),
        1 => prop::sample::select(samples()),
    ]
}

fn encoded(message: &Message, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, payload, &mut bytes).unwrap();
    bytes
}

/// Makes the checksum of a changed head good again.
fn reseal(head: &mut [u8]) {
    let covered = [&head[..20], &head[24..]].concat();
    head[20..24].copy_from_slice(&payload_crc(&covered).to_le_bytes());
}

/// A frame of the kind with that MessagePack header.
fn raw_head(kind: Kind, header: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(&Message::Ping { number: 0 }, &[]);
    bytes.truncate(PRELUDE_BYTES);
    bytes[6..8].copy_from_slice(&kind.number().to_le_bytes());
    bytes[8..12].copy_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(header);
    reseal(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn round_trip_and_no_early_head((message, payload) in any_frame(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&message, &payload);
        let length = bytes.len();
        prop_assert_eq!(Head::parse(&bytes[..cut.index(length)]), Ok(None));
        bytes.extend_from_slice(&payload);
        let head = Head::parse(&bytes).unwrap().unwrap();
        prop_assert_eq!(head.length(), length);
        prop_assert_eq!(head.payload_length(), payload.len());
        prop_assert_eq!(head.message(), &message);
        prop_assert_eq!(head.finish(&bytes[length..]).unwrap(), message);
    }

    #[test]
    fn a_flipped_bit_is_found((message, payload) in any_frame(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encoded(&message, &payload);
        let length = bytes.len();
        bytes.extend_from_slice(&payload);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A longer header length asks for more bytes; they never make the checksum good.
        bytes.resize(MAX_FRAME_BYTES, 0);
        match Head::parse(&bytes) {
            Ok(Some(head)) => {
                prop_assert!(at >= length, "damaged head accepted");
                let is_crc_error = matches!(head.finish(&bytes[length..length + payload.len()]),
                    Err(DecodeError::PayloadCrc { .. }));
                prop_assert!(is_crc_error);
            }
            Ok(None) => prop_assert!(false, "a whole frame of the longest size asks for more"),
            Err(_) => prop_assert!(at < length),
        }
    }

    #[test]
    fn changed_heads_with_good_checksums_keep_the_rules(
        (message, payload) in any_frame(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encoded(&message, &payload);
        for (at, value) in changes {
            let at = PRELUDE_BYTES + at.index(bytes.len() - PRELUDE_BYTES);
            bytes[at] = value;
        }
        reseal(&mut bytes);
        if let Ok(Some(head)) = Head::parse(&bytes) {
            // What is accepted is a message that this node could have sent itself.
            let mut again = Vec::new();
            prop_assert!(encode(head.message(), &payload, &mut again).is_ok());
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 24..300)) {
        prop_assume!(!bytes.starts_with(&MAGIC));
        let refused = matches!(Head::parse(&bytes), Err(DecodeError::Magic { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn any_header_gives_an_answer(
        header in prop::collection::vec(any::<u8>(), 1..200),
        kind in prop::sample::select(Kind::ALL.to_vec()),
    ) {
        let answered = !matches!(Head::parse(&raw_head(kind, &header)), Ok(None));
        prop_assert!(answered);
    }
}

fn with_name(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0x81, 0xa0 | name.len() as u8];
    header.extend_from_slice(name.as_bytes());
    header.extend_from_slice(content);
    header
}

#[test]
fn headers_of_other_shapes_are_refused() {
    let ping = encoded(&Message::Ping { number: 1 }, &[])[PRELUDE_BYTES..].to_vec();
    let mut trailing = ping.clone();
    trailing.push(0);
    assert!(matches!(Head::parse(&raw_head(Kind::Ping, &trailing)),
        Err(DecodeError::Header { reason, .. }) if reason == "1 bytes too many"));
    assert_eq!(
        Head::parse(&raw_head(Kind::Pong, &ping)),
        Err(DecodeError::KindMismatch {
            prelude: Kind::Pong,
            header: Kind::Ping
        })
    );
    let mut unknown = raw_head(Kind::Ping, &ping);
    unknown[6..8].copy_from_slice(&999u16.to_le_bytes());
    reseal(&mut unknown);
    assert_eq!(Head::parse(&unknown), Err(DecodeError::Kind { found: 999 }));

    // A list that claims 2^32 - 1 elements, and one nested deeper than any message.
    let bomb = with_name("WriteAcks", &[0x91, 0xdd, 0xff, 0xff, 0xff, 0xff, 1]);
    assert!(matches!(
        Head::parse(&raw_head(Kind::WriteAcks, &bomb)),
        Err(DecodeError::Header { .. })
    ));
    let deep = with_name("WriteAcks", &[0x91; 60_000]);
    assert!(matches!(
        Head::parse(&raw_head(Kind::WriteAcks, &deep)),
        Err(DecodeError::Header { .. })
    ));
}

#[test]
fn ranges_whose_end_overflows_are_refused() {
    let last = [0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    for range in [[&[0x92][..], &last, &[8]].concat(), vec![0x92, 5, 0]] {
        let sectors = with_name("Read", &[&[0x92, 1][..], &range].concat());
        assert!(matches!(
            Head::parse(&raw_head(Kind::Read, &sectors)),
            Err(DecodeError::Rule { .. })
        ));
        let blocks = with_name("Cleared", &[&[0x91, 0x91][..], &range].concat());
        assert!(matches!(
            Head::parse(&raw_head(Kind::Cleared, &blocks)),
            Err(DecodeError::Rule { .. })
        ));
    }
}

#[test]
fn payloads_must_fit_their_message() {
    for (message, payload) in samples() {
        let mut longer = payload.clone();
        longer.push(0);
        let refused = encode(&message, &longer, &mut Vec::new());
        assert!(matches!(refused, Err(EncodeError::Rule { .. })), "{message:?}");
        let mut bytes = encoded(&message, &payload);
        bytes[12..16].copy_from_slice(&(longer.len() as u32).to_le_bytes());
        reseal(&mut bytes);
        assert!(
            matches!(Head::parse(&bytes), Err(DecodeError::Rule { .. })),
            "{message:?}"
        );
    }
}

#[test]
fn the_longest_lists_fit_the_header() {
    let range = BlockRange::new((1 << 60) - 1, 1 << 31).unwrap();
    let record = WireRecord {
        range,
        state: 3,
        cause: u8::MAX,
        good_at: 2,
        generation: u64::MAX,
    };
    let longest = |extra: usize| {
        [
            Message::Tell {
                number: u64::MAX,
                attach_id: u64::MAX,
                failed: true,
                records: vec![record; MAX_RECORDS + extra],
            },
            Message::OutOfSync {
                ranges: vec![range; MAX_RANGES + extra],
            },
            Message::WriteAcks {
                requests: vec![u64::MAX; MAX_ACKS + extra],
            },
        ]
    };
    for message in longest(0) {
        encoded(&message, &[]);
    }
    for message in longest(1) {
        let mut out = vec![1, 2, 3];
        assert!(matches!(
            encode(&message, &[], &mut out),
            Err(EncodeError::Rule { .. })
        ));
        assert_eq!(out, [1, 2, 3]);
    }
}

#[test]
fn a_text_that_is_too_long_leaves_no_bytes_unless_it_is_cut() {
    let refused = |reason: &str| Message::Refused {
        reason: reason.into(),
        for_good: false,
    };
    // The limit is in the middle of a character.
    let long = "x".to_owned() + &"ä".repeat(MAX_TEXT_BYTES / 2);
    let mut out = vec![7];
    assert!(matches!(
        encode(&refused(&long), &[], &mut out),
        Err(EncodeError::Rule { .. })
    ));
    assert_eq!(out, [7]);
    encode(&refused(cut_text(&long)), &[], &mut out).unwrap();
    assert_eq!(cut_text(&long).len(), MAX_TEXT_BYTES - 1);
}
