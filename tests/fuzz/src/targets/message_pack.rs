//! Changes to MessagePack as such: numbers become other numbers, lists grow, values change places.

use crate::mutate;
use fastrand::Rng;

/// The tokens of a value: numbers and texts whole, of lists and maps only the head.
pub(super) fn tokens(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut tokens = Vec::new();
    while !bytes.is_empty() {
        let (token, rest) = bytes.split_at(length_of_first(bytes).min(bytes.len()));
        tokens.push(token);
        bytes = rest;
    }
    tokens
}

fn length_of_first(bytes: &[u8]) -> usize {
    let number = |from: usize, width: usize| {
        bytes.get(from..from + width).map_or(0, |digits| {
            digits
                .iter()
                .fold(0usize, |value, &byte| value << 8 | usize::from(byte))
        })
    };
    match bytes[0] {
        first @ 0xa0..=0xbf => 1 + usize::from(first & 0x1f),
        0xc4 | 0xd9 => 2 + number(1, 1),
        0xc5 | 0xda => 3 + number(1, 2),
        0xc6 | 0xdb => 5 + number(1, 4),
        0xcc | 0xd0 => 2,
        0xcd | 0xd1 | 0xdc | 0xde => 3,
        0xca | 0xce | 0xd2 | 0xdd | 0xdf => 5,
        0xcb | 0xcf | 0xd3 => 9,
        first @ 0xd4..=0xd8 => 2 + (1 << (first - 0xd4)),
        _ => 1,
    }
}

/// Changes a value once or a few times.
pub(super) fn change(value: &[u8], other: &[u8], random: &mut Rng) -> Vec<u8> {
    let others = tokens(other);
    let mut changed: Vec<Vec<u8>> = tokens(value).into_iter().map(<[u8]>::to_vec).collect();
    for _ in 0..1 << random.u32(0..3) {
        if changed.is_empty() {
            break;
        }
        change_one(&mut changed, &others, random);
        changed.retain(|token| !token.is_empty());
    }
    changed.concat()
}

fn change_one(tokens: &mut Vec<Vec<u8>>, others: &[&[u8]], random: &mut Rng) {
    let at = random.usize(0..tokens.len());
    match random.u8(0..9) {
        0 => {
            tokens.remove(at);
        }
        1 => {
            let token = tokens[at].clone();
            tokens.insert(at, token);
        }
        2 => {
            let with = random.usize(0..tokens.len());
            tokens.swap(at, with);
        }
        3 if !others.is_empty() => tokens[at] = others[random.usize(0..others.len())].to_vec(),
        4 => grow_list(tokens, random),
        5 => tokens[at] = list_head(mutate::number(random) as u32, random),
        6 => {
            let longest = tokens[at].len() + 8;
            mutate::bytes(&mut tokens[at], &[], &[], longest, random);
        }
        _ => change_number(tokens, random),
    }
}

fn change_number(tokens: &mut [Vec<u8>], random: &mut Rng) {
    let numbers: Vec<usize> = (0..tokens.len())
        .filter(|&at| matches!(tokens[at][0], 0..=0x7f | 0xcc..=0xd3 | 0xc2 | 0xc3))
        .collect();
    if let Some(&at) = numbers.get(random.usize(0..numbers.len().max(1))) {
        tokens[at] = match random.u8(0..6) {
            0 => vec![0xc2 + random.u8(0..2)],
            1 => vec![random.u8(0..64)],
            _ => number(mutate::number(random), random),
        };
    }
}

/// A number in any encoding that holds it, not only the shortest.
fn number(value: u64, random: &mut Rng) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    match random.u8(0..6) {
        0 => [&[0xcc], &bytes[7..]].concat(),
        1 => [&[0xcd], &bytes[6..]].concat(),
        2 => [&[0xce], &bytes[4..]].concat(),
        3 => [&[0xd3], &bytes[..]].concat(),
        _ => [&[0xcf], &bytes[..]].concat(),
    }
}

fn list_head(count: u32, random: &mut Rng) -> Vec<u8> {
    match (count, random.bool()) {
        (0..16, true) => vec![0x90 | count as u8],
        (0..65_536, true) => [&[0xdc], &(count as u16).to_be_bytes()[..]].concat(),
        _ => [&[0xdd], &count.to_be_bytes()[..]].concat(),
    }
}

/// Takes the tokens behind the head of a list as one element, and makes the list as long as they then are.
fn grow_list(tokens: &mut Vec<Vec<u8>>, random: &mut Rng) {
    let heads: Vec<usize> = (0..tokens.len())
        .filter(|&at| matches!(tokens[at][0], 0x90..=0x9f | 0xdc | 0xdd))
        .collect();
    let Some(&at) = heads.get(random.usize(0..heads.len().max(1))) else {
        return;
    };
    let behind = tokens.len() - at - 1;
    if behind == 0 {
        return;
    }
    let width = random.usize(1..=behind.min(10));
    let element: Vec<Vec<u8>> = tokens[at + 1..=at + width].to_vec();
    let most = 1 << random.u32(0..13);
    let count = random.usize(0..=most);
    let elements = std::iter::repeat_n(element, count).flatten();
    tokens.splice(at + 1..=at + width, elements);
    tokens[at] = list_head(count as u32, random);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_whole_value() {
        let value = b"\x81\xa4Ping\x91\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xdd\0\0\0\x02\x05\xda\0\x02ab\xcc";
        let found = tokens(value);
        assert_eq!(found.concat(), value);
        assert_eq!(found[1], b"\xa4Ping");
        assert_eq!(found[4], b"\xdd\0\0\0\x02");
        assert_eq!(found[6], b"\xda\0\x02ab");
        assert_eq!(found[7], b"\xcc", "cut off");
    }
}
