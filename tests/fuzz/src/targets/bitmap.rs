//! Pages of the out-of-sync bitmap, from a disk or a peer, against a map of plain bools.
//!
//! An input is the volume's size in sectors (4 bytes, little-endian), then pages: a number (1 byte), what is done with it
//! (1 byte), a length (2 bytes, little-endian) and its bytes.

use crate::mutate;
use crate::target::{Breach, Cap, Probe, Target, ensure, ensure_equal};
use fastrand::Rng;
use mendblock_storage::dirty::{DirtyMap, PAGE_BITS, PAGE_BYTES};
use mendblock_storage::format::bitmap::{
    Runs, clear_surplus, count_set, decode, encode, pages_of, set_extent,
};
use mendblock_storage::units::blocks_of;

/// Volumes here have at most so many sectors: a little more than four pages.
const MOST_SECTORS: u32 = 4 * 8 * 32_768 + 4096;

/// Pages that are taken over or laid over.
pub(super) struct Bitmap;

#[derive(Clone)]
struct Piece {
    page: u8,
    action: u8,
    bytes: Vec<u8>,
}

impl Target for Bitmap {
    fn name(&self) -> &'static str {
        "bitmap"
    }

    fn about(&self) -> &'static str {
        "pages of the bitmap from disk and peer, their runs and surplus bits"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 64 << 10,
            because: "a page has 4096 bytes (FORMAT.md); the volumes here have at most 5 pages",
        }
    }

    fn longest(&self) -> usize {
        24 << 10
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let piece = |page, action, bytes: &[u8]| Piece {
            page,
            action,
            bytes: bytes.to_vec(),
        };
        vec![
            join(8 * 100, &[piece(0, 0, &[0xFF; 13]), piece(0, 1, &[1; 13])]),
            join(
                MOST_SECTORS,
                &[piece(1, 0, &[0x80; PAGE_BYTES]), piece(4, 1, &[0xFF; 65])],
            ),
            join(
                8 * 32_768,
                &[piece(0, 1, &[0xFF; PAGE_BYTES]), piece(0, 2, &[0; 40])],
            ),
            join(4097, &[piece(0, 3, &[0xFF; 65])]),
        ]
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let (sectors, pieces) = take_apart(input);
        let bits = blocks_of(u64::from(sectors));
        let mut map = DirtyMap::new(bits);
        let mut model = vec![false; bits as usize];
        for piece in &pieces {
            let page = u32::from(piece.page);
            let outcome = match piece.action % 4 {
                0 => probe.measured(|| map.load_page(page, &piece.bytes)),
                1 => probe.measured(|| map.merge_page(page, &piece.bytes).map(drop)),
                action => {
                    check_words(piece, u64::from(sectors), action == 3, probe)?;
                    continue;
                }
            };
            probe.outline("outcome", &outcome);
            if outcome.is_ok() {
                lay_over(&mut model, piece);
            }
            let needed = bits
                .saturating_sub(u64::from(page) * PAGE_BITS)
                .min(PAGE_BITS)
                .div_ceil(8);
            let fits = u64::from(page) < pages_of(u64::from(sectors))
                && (needed as usize..=PAGE_BYTES).contains(&piece.bytes.len());
            ensure_equal(
                "exactly whole pages of the volume are taken",
                &fits,
                &outcome.is_ok(),
            )?;
        }
        probe.feature((
            map.count().checked_ilog2(),
            map.changed_count(),
            bits.checked_ilog2(),
        ));
        check_map(&map, &model)
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let (mut sectors, mut pieces) = take_apart(input);
        let (_, others) = take_apart(other);
        let at = random.usize(0..pieces.len().max(1));
        match (random.u8(0..6), pieces.get_mut(at)) {
            (0, _) => sectors = random.u32(0..=MOST_SECTORS),
            (1, _) => sectors = (sectors / 8 * 8).saturating_add(random.u32(0..9)),
            (2, Some(piece)) => piece.page = random.u8(0..6),
            (3, Some(piece)) => piece.action = random.u8(0..4),
            (4, _) if !others.is_empty() => pieces.push(others[random.usize(0..others.len())].clone()),
            (_, Some(piece)) => mutate::bytes(&mut piece.bytes, &[], &[], PAGE_BYTES + 1, random),
            _ => return None,
        }
        Some(join(sectors, &pieces))
    }
}

fn lay_over(model: &mut [bool], piece: &Piece) {
    let first = usize::from(piece.page) * PAGE_BITS as usize;
    for (number, bit) in model.iter_mut().skip(first).take(PAGE_BITS as usize).enumerate() {
        *bit |= piece
            .bytes
            .get(number / 8)
            .is_some_and(|byte| byte >> (number % 8) & 1 == 1);
    }
}

fn check_map(map: &DirtyMap, model: &[bool]) -> Result<(), Breach> {
    let expected = model.iter().filter(|bit| **bit).count() as u64;
    ensure_equal("the map counts its bits", &expected, &map.count())?;
    let mut at = 0;
    for range in map.runs() {
        let (first, end) = (range.first() as usize, range.end() as usize);
        let good = first >= at
            && model[at..first].iter().all(|bit| !bit)
            && model
                .get(first..end)
                .is_some_and(|bits| bits.iter().all(|bit| *bit));
        ensure(good, "runs are the set bits", || format!("{range:?}"))?;
        at = end;
    }
    ensure(
        model[at..].iter().all(|bit| !bit),
        "runs are the set bits",
        || format!("none behind {at}"),
    )?;
    for page in 0..map.page_count() {
        let bytes = map.page_bytes(page);
        let mut copy = DirtyMap::new(map.bits());
        let newly_set = copy.merge_page(page, &bytes);
        ensure_equal(
            "a page survives its encoding",
            &Ok(u64::from(map.count_of_page(page))),
            &newly_set,
        )?;
    }
    Ok(())
}

/// The off-line tools' view of a piece of the bitmap.
fn check_words(piece: &Piece, sectors: u64, extents: bool, probe: &mut Probe) -> Result<(), Breach> {
    let first_bit = u64::from(piece.page) * 64;
    let mut words = probe.measured(|| decode(&piece.bytes));
    let back = encode(&words);
    let same = back.starts_with(&piece.bytes) && back[piece.bytes.len()..].iter().all(|&byte| byte == 0);
    ensure(same, "words survive their encoding", || {
        format!("{} bytes", piece.bytes.len())
    })?;
    let before = count_set(&words);
    let cleared = clear_surplus(&mut words, first_bit, sectors);
    ensure_equal(
        "surplus bits are counted",
        &before,
        &(count_set(&words) + cleared),
    )?;
    let mut runs = Runs::new(16);
    runs.push(&words);
    let (found, more) = runs.finish();
    let last = found.last().map_or(0, |run| first_bit + run.1);
    ensure(
        found.is_empty() || last < blocks_of(sectors),
        "no bit lies behind the end",
        || format!("{found:?}"),
    )?;
    let covered: u64 = found.iter().map(|(first, last)| last - first + 1).sum();
    ensure(
        more || covered == count_set(&words),
        "runs are the set bits",
        || format!("{found:?}"),
    )?;
    probe.feature((found.len().checked_ilog2(), more, cleared.checked_ilog2()));
    if extents {
        let mut bytes = back;
        let (page, extent) = (u64::from(piece.page) * 100, u32::from(piece.page));
        let set = set_extent(&mut bytes, page, extent);
        let counted = count_set(&decode(&bytes));
        ensure_equal("an extent's bits are counted", &(before + set), &counted)?;
    }
    Ok(())
}

fn take_apart(input: &[u8]) -> (u32, Vec<Piece>) {
    let Some((size, mut rest)) = input.split_first_chunk::<4>() else {
        return (0, Vec::new());
    };
    let mut pieces = Vec::new();
    while let Some((start, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([start[2], start[3]])).min(behind.len());
        pieces.push(Piece {
            page: start[0],
            action: start[1],
            bytes: behind[..length].to_vec(),
        });
        rest = &behind[length..];
    }
    (u32::from_le_bytes(*size) % (MOST_SECTORS + 1), pieces)
}

fn join(sectors: u32, pieces: &[Piece]) -> Vec<u8> {
    let mut input = sectors.to_le_bytes().to_vec();
    for piece in pieces {
        let length = (piece.bytes.len() as u16).to_le_bytes();
        input.extend_from_slice(&[piece.page, piece.action, length[0], length[1]]);
        input.extend_from_slice(&piece.bytes);
    }
    input
}
