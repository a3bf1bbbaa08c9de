//! What clients asked for and were told, and whether what they read can be true.
//!
//! Every block of 4 KiB is a register. A write has a number of its own, which stands all over its blocks. A write that
//! was acknowledged happened between its request and its answer. One that failed, or was never answered, may happen
//! later or never. Overlapping writes land in either order.

use super::disks::BLOCK;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Moment in the order of all events; 0 is before everything.
type Moment = u64;

/// Number of a write; 0: the zeros that were there first.
pub type Value = u64;

#[derive(Clone, Copy, Debug)]
struct Write {
    value: Value,
    started: Moment,
    /// When it was acknowledged.
    ended: Option<Moment>,
    /// First end of a read that saw it: from then on it has happened.
    seen: Option<Moment>,
}

impl Write {
    /// The latest moment at which it had happened for certain.
    fn happened(&self) -> Option<Moment> {
        [self.ended, self.seen].into_iter().flatten().min()
    }
}

/// All events of a test. Shared by the threads of a load.
#[derive(Debug, Default)]
pub struct History {
    clock: AtomicU64,
    values: AtomicU64,
    blocks: Mutex<BTreeMap<u64, Vec<Write>>>,
}

impl History {
    fn now(&self) -> Moment {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A write of blocks is about to be sent: its number.
    pub fn begin_write(&self, blocks: std::ops::Range<u64>) -> Value {
        let value = self.values.fetch_add(1, Ordering::SeqCst) + 1;
        let mut all = self.blocks.lock().unwrap();
        let started = self.now();
        for block in blocks {
            all.entry(block).or_default().push(Write {
                value,
                started,
                ended: None,
                seen: None,
            });
        }
        value
    }

    /// The write was acknowledged.
    pub fn acknowledged(&self, blocks: std::ops::Range<u64>, value: Value) {
        let mut all = self.blocks.lock().unwrap();
        let ended = self.now();
        for block in blocks {
            let writes = all.get_mut(&block).unwrap();
            writes
                .iter_mut()
                .find(|write| write.value == value)
                .unwrap()
                .ended = Some(ended);
        }
    }

    /// A read is about to be sent.
    pub fn begin_read(&self) -> Moment {
        self.now()
    }

    /// A read that began at `started` answered with `bytes` for the blocks from `first`.
    ///
    /// # Errors
    /// What it read cannot be true.
    pub fn read(&self, started: Moment, first: u64, bytes: &[u8]) -> Result<(), String> {
        let mut all = self.blocks.lock().unwrap();
        let ended = self.now();
        for (index, bytes) in bytes.chunks(BLOCK as usize).enumerate() {
            let block = first + index as u64;
            let value = decode(block, bytes)?;
            check(
                all.entry(block).or_default(),
                started,
                ended,
                value,
                &format!("block {block}"),
            )?;
        }
        Ok(())
    }

    /// Blocks that were ever written.
    pub fn blocks(&self) -> Vec<u64> {
        self.blocks.lock().unwrap().keys().copied().collect()
    }

    /// Acknowledged writes, counted by block.
    pub fn acknowledged_blocks(&self) -> usize {
        let all = self.blocks.lock().unwrap();
        all.values()
            .flatten()
            .filter(|write| write.ended.is_some())
            .count()
    }
}

/// Whether a read from `started` to `ended` may have seen `value`.
fn check(
    writes: &mut [Write],
    started: Moment,
    ended: Moment,
    value: Value,
    place: &str,
) -> Result<(), String> {
    let (begun, over) = if value == 0 {
        (0, Some(0))
    } else {
        let write = writes.iter_mut().find(|write| write.value == value);
        let Some(write) = write else {
            return Err(format!("{place} holds write {value}, which was never asked for"));
        };
        let seen = write.seen.get_or_insert(ended);
        *seen = (*seen).min(ended);
        (write.started, write.ended)
    };
    // Overwritten for certain: by a write that began after this one was over and had happened before the read.
    let successor = writes.iter().find(|other| {
        over.is_some_and(|over| over < other.started)
            && other.happened().is_some_and(|happened| happened < started)
            && other.value != value
    });
    match successor {
        Some(newer) => Err(format!(
            "{place} holds write {value} (begun at {begun}, over at {over:?}), but {newer:?} happened after it and before the read at {started}..{ended}"
        )),
        None => Ok(()),
    }
}

/// Content of `blocks` after write `value`.
pub fn content(blocks: std::ops::Range<u64>, value: Value) -> Vec<u8> {
    let words = blocks.flat_map(|block| (0..BLOCK / 16).flat_map(move |_| [value, block]));
    words.flat_map(u64::to_le_bytes).collect()
}

/// Which write stands in a block.
///
/// # Errors
/// None: the block is torn, or belongs elsewhere.
pub fn decode(block: u64, bytes: &[u8]) -> Result<Value, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    if bytes == content(block..block + 1, value) {
        return Ok(value);
    }
    Err(format!(
        "block {block} is torn or not its own: {:02x?}...",
        &bytes[..32]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(history: &History, value: Value) -> Result<(), String> {
        let bytes = if value == 0 {
            vec![0; 4096]
        } else {
            content(7..8, value)
        };
        history.read(history.begin_read(), 7, &bytes)
    }

    fn write(history: &History) -> Value {
        let value = history.begin_write(7..8);
        history.acknowledged(7..8, value);
        value
    }

    #[test]
    fn an_acknowledged_write_has_to_be_seen() {
        let history = History::default();
        read(&history, 0).unwrap();
        let first = write(&history);
        read(&history, first).unwrap();
        read(&history, 0).unwrap_err();
        let second = write(&history);
        read(&history, first).unwrap_err();
        read(&history, second).unwrap();
    }

    #[test]
    fn an_unanswered_write_may_land_until_it_was_seen() {
        let history = History::default();
        let first = write(&history);
        let lost = history.begin_write(7..8);
        read(&history, first).unwrap();
        read(&history, lost).unwrap();
        // Seen: it cannot unhappen.
        read(&history, first).unwrap_err();
        // A lost write may land late, on top of a newer one.
        let second = write(&history);
        read(&history, second).unwrap();
        read(&history, lost).unwrap();
    }

    #[test]
    fn concurrent_writes_land_in_either_order() {
        let history = History::default();
        let one = history.begin_write(7..8);
        let two = history.begin_write(7..8);
        history.acknowledged(7..8, one);
        history.acknowledged(7..8, two);
        read(&history, one).unwrap();
        read(&history, two).unwrap();
        read(&history, 99).unwrap_err();
    }

    #[test]
    fn a_torn_or_misplaced_block_is_noticed() {
        let mut torn = content(7..8, 3);
        torn[4095] ^= 1;
        decode(7, &torn).unwrap_err();
        decode(8, &content(7..8, 3)).unwrap_err();
        assert_eq!(decode(7, &content(7..8, 3)), Ok(3));
    }
}
