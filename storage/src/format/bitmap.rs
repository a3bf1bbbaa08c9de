//! The bitmap on disk: one bit per 4 KiB block of data, set = out of sync.
//!
//! Bit n lies in byte n / 8, bit n % 8 (least significant first); seen as 64-bit words: little-endian word n / 64, bit
//! n % 64. Bits behind the end of the volume are written as zero and ignored when read.
use super::META_BLOCK_BYTES;
use crate::units::{BLOCK_BYTES, BlockRange, EXTENT_BLOCKS, blocks_of};
use std::ops::Range;

/// Bits, that is blocks of data, of one 4 KiB page.
pub const PAGE_BITS: u64 = BLOCK_BYTES * 8;
/// 64-bit words of one 4 KiB page.
pub const PAGE_WORDS: usize = META_BLOCK_BYTES / 8;

/// 4 KiB pages that the bitmap of a volume of `sectors` sectors needs.
pub fn pages_of(sectors: u64) -> u64 {
    blocks_of(sectors).div_ceil(PAGE_BITS)
}

/// 64-bit words that hold the bits of a volume of `sectors` sectors.
pub fn words_of(sectors: u64) -> u64 {
    blocks_of(sectors).div_ceil(64)
}

/// Bytes of the whole pages of a volume's bitmap (`bm-bytes` of `drbdmeta`).
pub fn room_of(sectors: u64) -> u64 {
    pages_of(sectors) * BLOCK_BYTES
}

/// The blocks that a page describes; `None` behind the end of the volume.
pub fn blocks_of_page(page: u64, sectors: u64) -> Option<BlockRange> {
    let first = page.checked_mul(PAGE_BITS)?;
    let count = blocks_of(sectors).checked_sub(first)?.min(PAGE_BITS);
    BlockRange::new(first, count as u32)
}

/// The page that describes a block.
pub fn page_of_block(block: u64) -> u64 {
    block / PAGE_BITS
}

/// The bytes of the bitmap that describe an extent of the activity log.
pub fn bytes_of_extent(extent: u32) -> Range<u64> {
    const BYTES: u64 = EXTENT_BLOCKS / 8;
    let first = u64::from(extent) * BYTES;
    first..first + BYTES
}

/// The words of a piece of the bitmap. A last part of less than 8 bytes is filled with zeros.
pub fn decode(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        })
        .collect()
}

/// The bytes of a piece of the bitmap.
pub fn encode(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Clears the surplus bits of a piece of the bitmap that starts with bit `first_bit` (a multiple of 64): those behind
/// the end of a volume of `sectors` sectors. Returns how many were set.
pub fn clear_surplus(words: &mut [u64], first_bit: u64, sectors: u64) -> u64 {
    let mut cleared = 0;
    let left = blocks_of(sectors).saturating_sub(first_bit);
    let whole = usize::try_from(left / 64).unwrap_or(usize::MAX).min(words.len());
    for (at, word) in words.iter_mut().enumerate().skip(whole) {
        // Of the word in which the volume ends only the low bits count; with nothing left over it is wholly surplus.
        let keep = if at == whole { (1 << (left % 64)) - 1 } else { 0 };
        cleared += u64::from((*word & !keep).count_ones());
        *word &= keep;
    }
    cleared
}

/// Number of set bits.
pub fn count_set(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Sets the bits of an extent in a piece of the bitmap that starts at byte `first_byte`; bytes outside the piece are
/// left out. Returns how many bits were clear before.
pub fn set_extent(bytes: &mut [u8], first_byte: u64, extent: u32) -> u64 {
    let wanted = bytes_of_extent(extent);
    let mut newly_set = 0;
    let from = wanted.start.saturating_sub(first_byte).min(bytes.len() as u64) as usize;
    let to = wanted.end.saturating_sub(first_byte).min(bytes.len() as u64) as usize;
    for byte in &mut bytes[from..to] {
        newly_set += u64::from(byte.count_zeros());
        *byte = 0xFF;
    }
    newly_set
}

/// Collects the runs of set bits of pieces that are passed in order.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    open: Option<(u64, u64)>,
    position: u64,
    /// Closed runs: first and last bit.
    runs: Vec<(u64, u64)>,
    limit: usize,
    more: bool,
}

impl Runs {
    /// Keeps the first `limit` runs.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// The next words of the bitmap.
    pub fn push(&mut self, words: &[u64]) {
        for &word in words {
            match (word, self.open) {
                (0, None) | (u64::MAX, Some(_)) => {
                    if let Some((_, last)) = &mut self.open {
                        *last += 64;
                    }
                }
                _ => self.push_bits(word),
            }
            self.position += 64;
        }
    }

    fn push_bits(&mut self, word: u64) {
        for bit in 0..64 {
            let at = self.position + bit;
            if word >> bit & 1 == 0 {
                self.close();
            } else {
                self.open.get_or_insert((at, at)).1 = at;
            }
        }
    }

    fn close(&mut self) {
        if let Some(run) = self.open.take() {
            if self.runs.len() < self.limit {
                self.runs.push(run)
            } else {
                self.more = true
            }
        }
    }

    /// The runs (first and last bit, inclusive), and whether there were more than the limit.
    pub fn finish(mut self) -> (Vec<(u64, u64)>, bool) {
        self.close();
        (self.runs, self.more)
    }
}
