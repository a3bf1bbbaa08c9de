//! Data that can be checked without a copy: every word depends on where it stands, so that a block which got to another
//! place, or which is of an older time, is noticed.

/// Bytes of a block, the unit of the dirty map.
pub const BLOCK_BYTES: usize = 4096;

/// A series of data; two series differ in every word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

impl Pattern {
    /// Fills `buffer`, which begins at byte `offset` of the volume (a multiple of 8).
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        for (word, at) in buffer.chunks_mut(8).zip((offset / 8)..) {
            let bytes = self.word(at).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }

    /// `bytes` of the pattern from byte `offset` on.
    pub fn bytes(self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        self.fill(offset, &mut buffer);
        buffer
    }

    /// SplitMix64 of the series and the place.
    fn word(self, at: u64) -> u64 {
        let mut word = (self.0 << 48 ^ at).wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

/// The block that goes bad in the demo: a letter, so that it can be recognised in a dump, and a pattern.
pub fn letter(offset: u64) -> Vec<u8> {
    const TEXT: &[u8] =
        b"Dear reader, this block will go bad on one disk, and you will get it all the same.\n";
    let mut block = Pattern(7).bytes(offset, BLOCK_BYTES);
    block[..TEXT.len()].copy_from_slice(TEXT);
    block
}

/// First byte in which `found` is not what it should be, as a distance from its beginning.
pub fn first_difference(expected: &[u8], found: &[u8]) -> Option<usize> {
    let within = expected.iter().zip(found).position(|(a, b)| a != b);
    within.or_else(|| (expected.len() != found.len()).then(|| expected.len().min(found.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_depends_on_place_and_series_only() {
        let whole = Pattern(1).bytes(0, 16384);
        assert_eq!(Pattern(1).bytes(8192, 4096), whole[8192..12288]);
        assert_ne!(Pattern(2).bytes(0, 16384), whole);
        let mut words: Vec<_> = whole.chunks(8).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 2048, "no word stands twice");
    }

    #[test]
    fn differences_are_found_where_they_are() {
        let data = letter(4096);
        assert!(data.starts_with(b"Dear reader"));
        let mut other = data.clone();
        assert_eq!(first_difference(&data, &other), None);
        other[4000] ^= 1;
        assert_eq!(first_difference(&data, &other), Some(4000));
        assert_eq!(first_difference(&data, &data[..100]), Some(100));
    }
}
