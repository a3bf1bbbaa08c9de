//! The superblock on devices of any size, its layout and its anchor.
//!
//! An input is the layout (1 byte), the sizes of the data and of the meta-data device (8 bytes each, little-endian), and
//! the block, of which zeros at the end are left out.

use crate::mutate;
use crate::target::{Breach, Cap, Probe, Target, ensure, ensure_equal};
use fastrand::Rng;
use mendblock_storage::format::META_BLOCK_BYTES;
use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
use mendblock_storage::format::bitmap::room_of;
use mendblock_storage::format::dump::Dump;
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::{
    Flags, GenerationIds, LogState, Superblock, UnverifiedSuperblock, Verified,
};

/// Bytes in front of the block.
const DEVICES_BYTES: usize = 17;
/// Where the block's layout fields are, from its begin: whole size, log, bitmap; stripes, blocks of a stripe.
const LAYOUT_FIELDS: [usize; 5] = [64, 68, 76, 88, 92];
/// Where the anchor is.
const ANCHOR: usize = 480;

/// A superblock with the devices that it lies on.
pub(super) struct SuperblockTarget;

impl Target for SuperblockTarget {
    fn name(&self) -> &'static str {
        "superblock"
    }

    fn about(&self) -> &'static str {
        "superblock, layout and anchor on devices of any size"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 8 << 10,
            because: "a superblock has 4096 bytes (FORMAT.md), and nothing in it says how much else to read",
        }
    }

    fn longest(&self) -> usize {
        DEVICES_BYTES + META_BLOCK_BYTES
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let devices = [
            (0, 64 << 20, 64 << 20),
            (0, 1 << 40, 1 << 40),
            (0, 100_000_000, 100_000_000),
            (0, 1 << 50, 1 << 50),
            (1, 10 << 30, 1 << 20),
            (1, 1 << 50, 40 << 30),
            (2, 1 << 30, 128 << 20),
            (3, 1 << 30, 300 << 20),
        ];
        let logs = [(1, 8), (2, 16), (3, 5), (1, 8192)];
        let mut seeds = Vec::new();
        for (kind, data, meta) in devices {
            for (stripes, blocks) in logs {
                seeds.extend(
                    LogGeometry::new(stripes, blocks)
                        .ok()
                        .and_then(|log| seed(kind, data, meta, log)),
                );
            }
        }
        seeds
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let magics = [0x8374_026Au32, 0x8374_026B, 0x8374_026C, 0x8374_026D];
        let mut words: Vec<Vec<u8>> = magics.iter().map(|magic| magic.to_be_bytes().to_vec()).collect();
        words.push(b"MENDBLK1".to_vec());
        words
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let Some((index, sizes, block)) = take_apart(input) else {
            let parsed = UnverifiedSuperblock::parse(input);
            return ensure(parsed.is_err(), "only a whole block is a superblock", || {
                format!("{} bytes", input.len())
            });
        };
        let parsed = probe.measured(|| UnverifiedSuperblock::parse(&block));
        let unverified = parsed.map_err(|error| Breach {
            property: "a whole block can be looked at",
            seen: error.to_string(),
        })?;
        probe.feature(unverified.claims_to_be_metadata());
        let strict = probe.measured(|| unverified.clone().verify(index, sizes));
        let lenient = probe.measured(|| unverified.verify_structure(index, sizes));
        if let Err(error) = &strict {
            probe.outline("refusal", error);
            ensure(!error.to_string().is_empty(), "a refusal has a text", String::new)?;
        }
        let Ok(verified) = lenient else {
            return ensure(strict.is_err(), "an attach is not laxer than a tool", || {
                format!("{strict:?}")
            });
        };
        probe.outline("superblock", &verified.superblock);
        probe.feature((
            strict.is_ok(),
            sizes.meta_bytes.checked_ilog2(),
            std::mem::discriminant(&index),
        ));
        check_verified(&verified, index, sizes, strict.is_ok(), probe)
    }

    /// Makes the layout what these devices need, and the anchor's checksum right.
    fn seal(&self, input: &mut Vec<u8>) {
        let Some((index, sizes, mut block)) = take_apart(input) else {
            return;
        };
        let field = |at: usize| u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let log = LogGeometry::new(field(LAYOUT_FIELDS[3]), field(LAYOUT_FIELDS[4])).unwrap_or_default();
        if let Ok(layout) = MetadataLayout::compute(index, sizes, log) {
            let stored = layout.stored();
            let fields = [
                stored.meta_sectors,
                stored.al_offset.cast_unsigned(),
                stored.bm_offset.cast_unsigned(),
                log.stripes(),
                log.stripe_blocks(),
            ];
            for (at, value) in LAYOUT_FIELDS.into_iter().zip(fields) {
                block[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
        }
        let crc = crc_fast::crc32_iscsi(&block[ANCHOR..ANCHOR + 28]);
        if block[ANCHOR..].starts_with(b"MENDBLK1") {
            block[ANCHOR + 28..ANCHOR + 32].copy_from_slice(&crc.to_be_bytes());
        }
        put_together(input, &block);
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let mut changed = input.to_vec();
        match random.u8(0..4) {
            0 => *changed.first_mut()? = random.u8(0..5),
            1 => {
                let bytes = mutate::number(random) & ((1 << 52) - 1);
                let (data, meta) = (changed.get(1..9)?.to_vec(), bytes.to_le_bytes());
                changed.get_mut(9..17)?.copy_from_slice(&meta);
                if random.bool() {
                    changed[1..9].copy_from_slice(&meta);
                } else {
                    changed[1..9].copy_from_slice(&data);
                }
            }
            // The first bytes of a block, where all fields are.
            _ => {
                let end = changed.len().min(DEVICES_BYTES + 96);
                let mut fields = changed.get(DEVICES_BYTES..end)?.to_vec();
                let theirs = other.get(DEVICES_BYTES..).unwrap_or_default();
                mutate::bytes(&mut fields, theirs, &self.words(), end - DEVICES_BYTES, random);
                fields.resize(end - DEVICES_BYTES, 0);
                changed[DEVICES_BYTES..end].copy_from_slice(&fields);
            }
        }
        Some(changed)
    }
}

fn check_verified(
    verified: &Verified,
    index: MetaIndex,
    sizes: DeviceSizes,
    may_attach: bool,
    probe: &mut Probe,
) -> Result<(), Breach> {
    let Verified { superblock, layout } = verified;
    let again = UnverifiedSuperblock::parse(&superblock.encode())
        .and_then(|block| block.verify_structure(index, sizes));
    ensure_equal("a superblock survives its encoding", &Ok(*verified), &again)?;
    check_layout(layout, sizes)?;
    if may_attach {
        let fits = superblock
            .check_size(layout)
            .is_ok_and(|size| size <= layout.usable_sectors());
        ensure(fits, "an attached volume fits its disk", || {
            format!("{verified:?}")
        })?;
    }
    let dump = Dump::new(verified);
    let text = dump.head() + &dump.tail();
    ensure(!text.is_empty(), "a superblock can be shown", String::new)?;
    let json = serde_json::to_string(&dump);
    probe.feature(json.is_ok());
    ensure(json.is_ok(), "a superblock can be shown as JSON", || {
        format!("{json:?}")
    })
}

/// Superblock, log and bitmap lie on their device and share no byte, with each other or with data.
fn check_layout(layout: &MetadataLayout, sizes: DeviceSizes) -> Result<(), Breach> {
    let block = META_BLOCK_BYTES as u64;
    let mut areas = [
        (layout.superblock_byte(), block),
        (layout.log_byte(), u64::from(layout.log().blocks()) * block),
        (layout.bitmap_byte(), layout.bitmap_bytes()),
    ];
    areas.sort_unstable();
    let mut free_from = 0;
    for (first, bytes) in areas {
        let end = first.checked_add(bytes);
        let good = first >= free_from && end.is_some_and(|end| end <= sizes.meta_bytes);
        ensure(good, "areas lie apart on the device", || {
            format!("{layout:?} with {areas:?} on {sizes:?}")
        })?;
        free_from = first + bytes;
    }
    let data_end = match layout.index() {
        MetaIndex::Internal => layout.first_meta_byte(),
        _ => sizes.data_bytes,
    };
    ensure(
        layout.usable_sectors() * 512 <= data_end,
        "data end before the meta-data",
        || format!("{layout:?} on {sizes:?}"),
    )?;
    ensure(
        room_of(layout.usable_sectors()) <= layout.bitmap_bytes(),
        "every block of data has a bit",
        || format!("{layout:?} on {sizes:?}"),
    )
}

fn take_apart(input: &[u8]) -> Option<(MetaIndex, DeviceSizes, Vec<u8>)> {
    let (devices, rest) = input.split_first_chunk::<DEVICES_BYTES>()?;
    let number = |at: usize| {
        devices[at..at + 8]
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    };
    let (data_bytes, meta_bytes) = (number(1), number(9));
    let (index, sizes) = match devices[0] {
        0 => (MetaIndex::Internal, DeviceSizes::internal(meta_bytes)),
        1 => (
            MetaIndex::FlexExternal,
            DeviceSizes {
                data_bytes,
                meta_bytes,
            },
        ),
        slot => (
            MetaIndex::Indexed(slot - 2),
            DeviceSizes {
                data_bytes,
                meta_bytes,
            },
        ),
    };
    let mut block = rest.to_vec();
    block.resize(META_BLOCK_BYTES, 0);
    Some((index, sizes, block))
}

/// Replaces the block of the input.
fn put_together(input: &mut Vec<u8>, block: &[u8]) {
    let end = block
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    input.truncate(DEVICES_BYTES);
    input.extend_from_slice(&block[..end]);
}

fn seed(kind: u8, data: u64, meta: u64, log: LogGeometry) -> Option<Vec<u8>> {
    let mut input = [&[kind][..], &data.to_le_bytes(), &meta.to_le_bytes()].concat();
    let (index, sizes, _) = take_apart(&input)?;
    let layout = MetadataLayout::compute(index, sizes, log).ok()?;
    let superblock = Superblock {
        effective_sectors: layout.usable_sectors() / 8 * 8,
        generations: GenerationIds::from_slots([0x1234_5678_9ABC_DEF1, 2, 3, 4]),
        device_id: 77,
        flags: Flags::CONSISTENT
            .with(Flags::WAS_UP_TO_DATE)
            .with(Flags::PRIMARY_IND),
        log_state: LogState::Unclean,
        anchor: StoredAnchor::Present(Anchor {
            health_id: 5,
            sequence: 6,
            record_count: 7,
        }),
        ..Superblock::create(&layout)
    };
    put_together(&mut input, &superblock.encode());
    Some(input)
}
