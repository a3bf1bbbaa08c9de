//! The lower disks themselves, read past the nodes.

use crate::history::{BLOCK_SECTORS, History};
use crate::node::Node;
use serde_json::Value;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Meta-data of a node's disk, which no node may use at the moment.
#[track_caller]
pub fn dump(node: &Node) -> Value {
    let dump = node.offline(&["dump-md", "--json", "--force"]).expect_code(0);
    serde_json::from_str(&dump.out).unwrap()
}

/// Where a part of the meta-data begins and how long it is, in sectors of the lower disk.
pub struct Area {
    pub first_sector: u64,
    pub sectors: u32,
}

/// The superblock.
pub fn superblock(dump: &Value) -> Area {
    Area {
        first_sector: number(dump, "md-offset") / 512,
        sectors: 8,
    }
}

/// The activity log: it lies between the bitmap and the superblock.
pub fn activity_log(dump: &Value) -> Area {
    let first = number(dump, "al-offset");
    Area {
        first_sector: first / 512,
        sectors: u32::try_from((number(dump, "md-offset") - first) / 512).unwrap(),
    }
}

/// The bitmap, all that there is room for: it lies between the data and the activity log.
pub fn bitmap(dump: &Value) -> Area {
    let first = number(dump, "bm-offset");
    let bytes = number(dump, "al-offset") - first;
    Area {
        first_sector: first / 512,
        sectors: u32::try_from(bytes / 512).unwrap(),
    }
}

/// A number of the dump.
#[track_caller]
pub fn number(dump: &Value, key: &str) -> u64 {
    dump[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {dump:#}"))
}

/// A block of a lower disk.
pub fn block(node: &Node, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    let file = File::open(&node.disk).unwrap();
    file.read_exact_at(&mut bytes, number * BLOCK).unwrap();
    bytes
}

/// Overwrites a part of a lower disk.
pub fn poke(node: &Node, bytes: &[u8], at: u64) {
    let file = File::options().write(true).open(&node.disk).unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.sync_all().unwrap();
}

/// Both data areas hold the same bytes. The nodes have to be stopped.
#[track_caller]
pub fn assert_equal(one: &Node, other: &Node) {
    let (dump_one, dump_other) = (dump(one), dump(other));
    let sectors = number(&dump_one, "la-size-sect");
    assert!(sectors > 0, "nothing to compare: {dump_one:#}");
    assert_eq!(sectors, number(&dump_other, "la-size-sect"), "sizes differ");
    let different = differing_blocks(one, other, sectors * 512);
    assert!(
        different.is_empty(),
        "{} blocks differ, the first ones are {:?}",
        different.len(),
        &different[..different.len().min(20)]
    );
}

/// The data area, read past the node, holds what the history allows; blocks that nobody wrote hold zeros.
#[track_caller]
pub fn assert_holds(node: &Node, history: &History) {
    let blocks = number(&dump(node), "la-size-sect") / BLOCK_SECTORS;
    assert_holds_in(node, history, 0..blocks);
}

/// As [`assert_holds`], for a part of the blocks: who else writes has blocks of its own.
#[track_caller]
pub fn assert_holds_in(node: &Node, history: &History, blocks: Range<u64>) {
    let started = history.begin_read();
    let written = history.blocks();
    for block in blocks {
        let bytes = self::block(node, block);
        let name = node.settings.name;
        if written.contains(&block) {
            let holds = history.read(started, block * BLOCK_SECTORS, &bytes);
            holds.unwrap_or_else(|wrong| panic!("on the disk of {name}: {wrong}"));
        } else {
            assert!(
                bytes.iter().all(|&byte| byte == 0),
                "{name}: nobody wrote block {block}"
            );
        }
    }
}

/// Numbers of the blocks that are not the same in the first `bytes`.
pub fn differing_blocks(one: &Node, other: &Node, bytes: u64) -> Vec<u64> {
    let (one, other) = (File::open(&one.disk).unwrap(), File::open(&other.disk).unwrap());
    const PIECE: usize = 1 << 20;
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut different = Vec::new();
    for at in (0..bytes).step_by(PIECE) {
        let length = PIECE.min((bytes - at) as usize);
        one.read_exact_at(&mut left[..length], at).unwrap();
        other.read_exact_at(&mut right[..length], at).unwrap();
        if left[..length] != right[..length] {
            let blocks = left[..length]
                .chunks(BLOCK as usize)
                .zip(right[..length].chunks(BLOCK as usize));
            for (index, (left, right)) in blocks.enumerate() {
                if left != right {
                    different.push(at / BLOCK + index as u64);
                }
            }
        }
    }
    different
}
