//! Changes to an input that know nothing of its format.

use fastrand::Rng;

/// Numbers at which comparisons and sums go wrong.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    31,
    32,
    64,
    127,
    128,
    255,
    256,
    512,
    4096,
    65_535,
    65_536,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    u64::MAX,
];

/// Changes the input once or a few times. `other` is a second input to take parts from, `words` what its format likes.
pub fn bytes(input: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>], longest: usize, random: &mut Rng) {
    for _ in 0..1 << random.u32(0..4) {
        change(input, other, words, random);
    }
    input.truncate(longest);
}

fn change(input: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>], random: &mut Rng) {
    match random.u8(0..14) {
        0 => flip_bit(input, random),
        1 | 2 => set_byte(input, random),
        3 => add_to_byte(input, random),
        4 | 5 => put_number(input, random),
        6 => add_to_number(input, random),
        7 => cut_out(input, random),
        8 => input.truncate(random.usize(0..=input.len())),
        9 => extend(input, random),
        10 => repeat(input, random),
        11 => splice(input, other, random),
        12 => overwrite(input, other, random),
        _ => put_word(input, words, random),
    }
}

fn flip_bit(input: &mut [u8], random: &mut Rng) {
    if let Some(at) = place(input, random) {
        input[at] ^= 1 << random.u8(0..8);
    }
}

fn set_byte(input: &mut [u8], random: &mut Rng) {
    if let Some(at) = place(input, random) {
        input[at] = random.u8(..);
    }
}

fn add_to_byte(input: &mut [u8], random: &mut Rng) {
    if let Some(at) = place(input, random) {
        input[at] = input[at].wrapping_add_signed(random.i8(-16..=16));
    }
}

/// A number of a size that formats use, in either byte order.
pub fn number(random: &mut Rng) -> u64 {
    match random.u8(0..4) {
        0 => random.u64(..) >> random.u32(0..64),
        1 => (1u64 << random.u32(0..64)).wrapping_add_signed(random.i64(-2..=2)),
        _ => NUMBERS[random.usize(0..NUMBERS.len())].wrapping_add_signed(random.i64(-1..=1)),
    }
}

fn put_number(input: &mut [u8], random: &mut Rng) {
    let width = 1 << random.usize(0..4);
    let value = number(random);
    store(input, width, random, |_, _| value);
}

fn add_to_number(input: &mut [u8], random: &mut Rng) {
    let width = 2 << random.usize(0..3);
    let step = random.i64(-64..=64);
    store(input, width, random, |old, _| old.wrapping_add_signed(step));
}

/// Replaces the number of `width` bytes at a random place, in either byte order.
fn store(input: &mut [u8], width: usize, random: &mut Rng, change: impl Fn(u64, usize) -> u64) {
    if input.len() < width {
        return;
    }
    let at = random.usize(0..=input.len() - width);
    let field = &mut input[at..at + width];
    let big = random.bool();
    if big {
        field.reverse();
    }
    let old = field
        .iter()
        .rev()
        .fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    let new = change(old, width).to_le_bytes();
    field.copy_from_slice(&new[..width]);
    if big {
        field.reverse();
    }
}

fn cut_out(input: &mut Vec<u8>, random: &mut Rng) {
    input.drain(piece(input, random));
}

fn extend(input: &mut Vec<u8>, random: &mut Rng) {
    let count = 1 << random.u32(0..9);
    let byte = [0, 0xFF, random.u8(..)][random.usize(0..3)];
    let at = random.usize(0..=input.len());
    let filling = (0..random.usize(1..=count)).map(|_| byte);
    input.splice(at..at, filling);
}

fn repeat(input: &mut Vec<u8>, random: &mut Rng) {
    let copied = input[piece(input, random)].to_vec();
    let at = random.usize(0..=input.len());
    input.splice(at..at, copied);
}

/// The beginning of this input, the end of the other.
fn splice(input: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    input.truncate(random.usize(0..=input.len()));
    input.extend_from_slice(&other[random.usize(0..=other.len())..]);
}

/// A piece of the other input in the middle of this one.
fn overwrite(input: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    let copied = &other[piece(other, random)];
    let at = random.usize(0..=input.len());
    let end = if random.bool() {
        (at + copied.len()).min(input.len())
    } else {
        at
    };
    input.splice(at..end, copied.iter().copied());
}

fn put_word(input: &mut Vec<u8>, words: &[Vec<u8>], random: &mut Rng) {
    if words.is_empty() {
        return set_byte(input, random);
    }
    let word = &words[random.usize(0..words.len())];
    let at = random.usize(0..=input.len());
    let end = if random.bool() {
        (at + word.len()).min(input.len())
    } else {
        at
    };
    input.splice(at..end, word.iter().copied());
}

fn place(input: &[u8], random: &mut Rng) -> Option<usize> {
    (!input.is_empty()).then(|| random.usize(0..input.len()))
}

/// A random piece, more often a short one.
pub fn piece(input: &[u8], random: &mut Rng) -> std::ops::Range<usize> {
    let start = random.usize(0..=input.len());
    let most = (input.len() - start).min(1 << random.u32(0..12));
    start..start + random.usize(0..=most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_follow_from_the_seed_and_keep_the_length() {
        let run = |seed| {
            let mut random = Rng::with_seed(seed);
            let mut input = b"a seed of some length".to_vec();
            for _ in 0..200 {
                bytes(&mut input, b"the other", &[b"word".to_vec()], 300, &mut random);
                assert!(input.len() <= 300);
            }
            input
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn an_empty_input_can_grow() {
        let mut random = Rng::with_seed(3);
        let mut input = Vec::new();
        for _ in 0..100 {
            bytes(&mut input, &[], &[], 64, &mut random);
        }
        assert!(!input.is_empty());
    }
}
