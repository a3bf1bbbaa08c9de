//! The bytes of every message kind, committed: an encoding that changes breaks running pairs of nodes.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod wire_samples;

use mendblock_net::wire::frame::{Head, encode};
use mendblock_net::wire::kind::Kind;
use wire_samples::samples;

const GOLDEN: &str = include_str!("wire_golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |index: usize| u8::from_str_radix(&text[index..index + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Kind and bytes of prelude and header, per line.
fn golden() -> Vec<(String, Vec<u8>)> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (kind, bytes) = line.split_once(' ').unwrap();
            (kind.to_owned(), unhex(bytes))
        })
        .collect()
}

#[test]
fn encodings_are_as_committed() {
    let mut text = String::from(
        "# kind, prelude and header of the samples in wire_samples/mod.rs; payloads are not shown\n",
    );
    for (message, payload) in samples() {
        let mut bytes = Vec::new();
        encode(&message, &payload, &mut bytes).unwrap();
        text.push_str(&format!("{:?} {}\n", message.kind(), hex(&bytes)));
    }
    if text != GOLDEN {
        let actual = concat!(env!("CARGO_TARGET_TMPDIR"), "/wire_golden.txt");
        std::fs::write(actual, text).unwrap();
        panic!("encodings differ from tests/wire_golden.txt; what they are now stands in {actual}");
    }
}

#[test]
fn committed_bytes_decode_to_the_samples() {
    let golden = golden();
    assert_eq!(golden.len(), samples().len());
    for ((kind, bytes), (message, payload)) in golden.into_iter().zip(samples()) {
        let head = Head::parse(&bytes).unwrap().unwrap();
        assert_eq!(
            (head.length(), head.payload_length()),
            (bytes.len(), payload.len()),
            "{kind}"
        );
        assert_eq!(head.finish(&payload).unwrap(), message);
    }
}

#[test]
fn every_kind_has_golden_bytes() {
    let golden = golden();
    for kind in Kind::ALL {
        let name = format!("{kind:?}");
        let found = golden.iter().find(|(golden_kind, _)| *golden_kind == name);
        let (_, bytes) = found.unwrap_or_else(|| panic!("no golden bytes of {name}"));
        assert_eq!(bytes[6..8], kind.number().to_le_bytes(), "{name}");
    }
}
