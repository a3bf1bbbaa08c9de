//! What makes two states the same: a hash in which numbers that only have to be unique are renamed in the order in which
//! they appear, and moments count from now.

use mendblock_core::volume::generations::identifiers::Generation;
use std::hash::Hasher;

/// Generations, attach ids: drawn from here, `1 << 4` apart; bit 0 is the role in a generation and keeps its value.
pub const RANDOM: u64 = 1 << 61;
/// The clock starts here.
pub const CLOCK: u64 = 1 << 62;
/// Connections are numbered from here.
pub const CONNECTIONS: u64 = 1 << 41;
/// A part numbers its questions from its generation times this.
const QUERIES: std::ops::Range<u64> = 1 << 32..1 << 40;
const SPAN: u64 = 1 << 54;
/// The name of a resync is its base plus a multiple of this: both get one name.
const SYNC_OFFSET: u64 = Generation::SYNC_OFFSET;
const MULTIPLIER: u64 = 0xA076_1D64_78BD_642F;

/// See above. Two states with the same value are taken for one: with 64 bits and 10^7 states a wrong match has a chance of
/// some 10^-6.
pub struct Fingerprint {
    value: u64,
    now: u64,
    connection: u64,
    asker: usize,
    queries: [Vec<u64>; 2],
    random: Vec<u64>,
}

impl Fingerprint {
    /// `now`: the clock; `connection`: the newest one.
    pub fn new(now: u64, connection: u64) -> Self {
        Self {
            value: 0x9E37_79B9_7F4A_7C15,
            now,
            connection,
            asker: 0,
            queries: [Vec::new(), Vec::new()],
            random: Vec::new(),
        }
    }

    /// Numbers of questions that follow are those of this asker.
    pub fn asker(&mut self, node: usize) {
        self.asker = node;
    }

    fn mix(&mut self, word: u64) {
        let product = u128::from(self.value ^ word) * u128::from(MULTIPLIER);
        self.value = (product as u64) ^ ((product >> 64) as u64) ^ word.rotate_left(31);
    }

    fn word(&mut self, word: u64) {
        if QUERIES.contains(&word) {
            let name = name(&mut self.queries[self.asker], word);
            self.mix(0x51 << 56 | name);
        } else if (CONNECTIONS..CONNECTIONS + SPAN).contains(&word) && word < RANDOM {
            self.mix(0x52 << 56 | self.connection.wrapping_sub(word));
        } else if (RANDOM..RANDOM + SPAN).contains(&word) {
            let (base, resyncs) = (word % SYNC_OFFSET, (word - RANDOM) / SYNC_OFFSET);
            let name = name(&mut self.random, base & !1);
            self.mix(0x53 << 56 | resyncs << 32 | name << 1 | word & 1);
        } else if (CLOCK..CLOCK + SPAN).contains(&word) {
            // All that is over is over alike.
            self.mix(0x54 << 56 | word.saturating_sub(self.now));
        } else {
            self.mix(word);
        }
    }
}

fn name(names: &mut Vec<u64>, word: u64) -> u64 {
    let known = names.iter().position(|name| *name == word);
    known.unwrap_or_else(|| {
        names.push(word);
        names.len() - 1
    }) as u64
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.value
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(u64::from_ne_bytes(word));
        }
        for byte in chunks.remainder() {
            self.mix(0x100 | u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.word(word);
    }
}
