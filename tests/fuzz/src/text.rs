//! Changes to a text by tokens: words, numbers, strings and signs, as TOML and JSON have them.

use crate::mutate;
use fastrand::Rng;

/// Values that stand where another kind of value was expected.
const VALUES: [&str; 28] = [
    "0",
    "-1",
    "1e999",
    "-0.0",
    "0x7fffffffffffffff",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "-9223372036854775808",
    "4294967296",
    "1.5",
    "nan",
    "inf",
    "true",
    "false",
    "null",
    "\"\"",
    "\"\\u0000\"",
    "\"ä\u{202e}\u{1F600}\"",
    "[]",
    "{}",
    "[[]]",
    "1979-05-27T07:32:00Z",
    "'''\n'''",
    "\"\"\"",
    "[",
    "}",
    "\n",
];

/// The tokens of a text; put together they are the text.
pub fn tokens(text: &[u8]) -> Vec<&[u8]> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (token, behind) = rest.split_at(length_of_first(rest));
        tokens.push(token);
        rest = behind;
    }
    tokens
}

fn length_of_first(text: &[u8]) -> usize {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | 0x80..);
    match text[0] {
        quote @ (b'"' | b'\'') => {
            let end = text[1..].iter().position(|&byte| byte == quote || byte == b'\n');
            end.map_or(text.len(), |end| end + 2)
        }
        b'#' => text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len()),
        b' ' | b'\t' => text
            .iter()
            .position(|byte| !matches!(byte, b' ' | b'\t'))
            .unwrap_or(text.len()),
        byte if is_word(&byte) => text.iter().position(|byte| !is_word(byte)).unwrap_or(text.len()),
        _ => 1,
    }
}

/// Changes a few tokens.
pub fn change(input: &[u8], other: &[u8], words: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let others = tokens(other);
    let mut changed: Vec<Vec<u8>> = tokens(input).into_iter().map(<[u8]>::to_vec).collect();
    for _ in 0..1 << random.u32(0..3) {
        change_one(&mut changed, &others, words, random);
    }
    changed.concat()
}

fn change_one(tokens: &mut Vec<Vec<u8>>, others: &[&[u8]], words: &[Vec<u8>], random: &mut Rng) {
    if tokens.is_empty() {
        tokens.push(b"x".to_vec());
    }
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
        3 => tokens[at] = VALUES[random.usize(0..VALUES.len())].as_bytes().to_vec(),
        4 => tokens[at] = mutate::number(random).to_string().into_bytes(),
        5 if !words.is_empty() => tokens[at] = words[random.usize(0..words.len())].clone(),
        6 if !others.is_empty() => take_from(tokens, at, others, random),
        7 => repeat_lines(tokens, at, random),
        _ => mutate_inside(&mut tokens[at], random),
    }
}

/// A run of the other text's tokens, in place of one token or beside it.
fn take_from(tokens: &mut Vec<Vec<u8>>, at: usize, others: &[&[u8]], random: &mut Rng) {
    let first = random.usize(0..others.len());
    let count = random.usize(1..=(others.len() - first).min(24));
    let taken = others[first..first + count].iter().map(|token| token.to_vec());
    tokens.splice(at..at + usize::from(random.bool()), taken);
}

/// The tokens from `at` on once more, up to many times: nesting and repetition.
fn repeat_lines(tokens: &mut Vec<Vec<u8>>, at: usize, random: &mut Rng) {
    let count = random.usize(1..=(tokens.len() - at).min(12));
    let run = tokens[at..at + count].to_vec();
    let most = 1 << random.u32(0..8);
    for _ in 0..random.usize(1..=most) {
        tokens.splice(at..at, run.iter().cloned());
    }
}

fn mutate_inside(token: &mut Vec<u8>, random: &mut Rng) {
    let longest = token.len() + 64;
    mutate::bytes(token, &[], &[], longest, random);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_whole_text() {
        let text = b"[node] # a\nname = \"x y\"\nbad = \"open\nid=0x1f,{\"a\":[1.5,-2]}\xff\n";
        let found = tokens(text);
        assert_eq!(found.concat(), text);
        assert!(found.contains(&&b"\"x y\""[..]));
        assert!(found.contains(&&b"name"[..]));
        assert!(found.contains(&&b"-2"[..]));
    }
}
