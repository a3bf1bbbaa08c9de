//! What clients asked for and were told, and whether what they read can be true.
//!
//! Every sector of 512 bytes is a register. A write has a number of its own, which stands, with the sector's own number,
//! all over its sectors. A write that was acknowledged happened between its request and its answer. One that was never
//! answered may happen later or never; when its node has crashed, it has happened by then or never will. Overlapping
//! writes land in either order.

use crate::disks::BLOCK;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = BLOCK / SECTOR;
/// From so many writes of one sector on, those that no read can see any more are forgotten.
const MANY: usize = 24;

/// Moment in the order of all events; 0 is before everything.
type Moment = u64;

/// Number of a write; 0: the zeros that were there first.
pub type Value = u64;

#[derive(Clone, Copy, Debug)]
struct Write {
    value: Value,
    started: Moment,
    /// From then on it takes no effect any more: acknowledged, or its node is gone.
    over: Option<Moment>,
    /// By then it had taken effect for certain: acknowledged, or a read saw it.
    happened: Option<Moment>,
    /// It was acknowledged, or a crash has settled what an acknowledgement would have.
    is_settled: bool,
}

impl Write {
    fn is_answered(&self) -> bool {
        matches!((self.over, self.happened), (Some(over), Some(happened)) if happened <= over)
    }
}

/// What stood in a sector that nobody has written.
const FIRST: Write = Write {
    value: 0,
    started: 0,
    over: Some(0),
    happened: Some(0),
    is_settled: true,
};

#[derive(Debug, Default)]
struct Register {
    writes: Vec<Write>,
    /// Writes of it that were acknowledged.
    acknowledged: usize,
}

impl Register {
    fn write(&mut self, value: Value) -> Option<&mut Write> {
        self.writes.iter_mut().find(|write| write.value == value)
    }

    /// The write that replaced `write` for certain before `moment`: it began when `write` was over.
    fn successor(&self, write: &Write, moment: Moment) -> Option<&Write> {
        let over = write.over?;
        self.writes
            .iter()
            .find(|other| over < other.started && other.happened.is_some_and(|happened| happened < moment))
    }

    /// Forgets what no read that began at `oldest` or later can see.
    fn forget(&mut self, oldest: Moment) {
        let gone: Vec<Value> = self
            .writes
            .iter()
            .filter(|write| self.successor(write, oldest).is_some())
            .map(|write| write.value)
            .collect();
        self.writes.retain(|write| !gone.contains(&write.value));
    }

    /// A read from `started` to `ended` saw `value`; if it `proves` something, that write cannot unhappen.
    fn saw(&mut self, started: Moment, ended: Moment, value: Value, proves: bool) -> Result<(), String> {
        let first = self.writes.is_empty() && value == 0;
        let Some(write) = self.write(value) else {
            return if first {
                Ok(())
            } else {
                Err(format!(
                    "write {value}, which nobody asked for or newer ones replaced: {self:?}"
                ))
            };
        };
        if proves {
            write.happened = Some(write.happened.map_or(ended, |happened| happened.min(ended)));
        }
        let write = *write;
        match self.successor(&write, started) {
            Some(newer) => Err(format!(
                "{write:?}, but {newer:?} happened after it and before the read at {started}..{ended}"
            )),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
struct Book {
    clock: Moment,
    values: Value,
    sectors: BTreeMap<u64, Register>,
    /// Beginnings of the reads under way.
    reads: BTreeSet<Moment>,
}

impl Book {
    fn now(&mut self) -> Moment {
        self.clock += 1;
        self.clock
    }
}

/// All events of a test. Shared by the threads of a load.
#[derive(Debug, Default)]
pub struct History {
    book: Mutex<Book>,
}

impl History {
    /// A write of sectors is about to be sent: its number.
    pub fn begin_write(&self, sectors: Range<u64>) -> Value {
        let mut book = self.book.lock().unwrap();
        book.values += 1;
        let (value, started) = (book.values, book.now());
        let oldest = book.reads.first().copied().unwrap_or(started);
        for sector in sectors {
            let register = book.sectors.entry(sector).or_default();
            if register.writes.is_empty() {
                register.writes.push(FIRST);
            }
            if register.writes.len() > MANY {
                register.forget(oldest);
            }
            register.writes.push(Write {
                value,
                started,
                over: None,
                happened: None,
                is_settled: false,
            });
        }
        value
    }

    /// The write was acknowledged.
    pub fn acknowledged(&self, sectors: Range<u64>, value: Value) {
        let mut book = self.book.lock().unwrap();
        let now = book.now();
        for sector in sectors {
            let register = book.sectors.get_mut(&sector).unwrap();
            register.acknowledged += 1;
            let write = register.write(value).unwrap();
            write.over = Some(now);
            write.happened = Some(now.min(write.happened.unwrap_or(now)));
            write.is_settled = true;
        }
    }

    /// The Primary's process is gone: what it has not answered has happened by now, or never will. That a read saw it
    /// promises nothing, for it may have been on the disk of that node alone.
    pub fn crashed(&self) {
        let mut book = self.book.lock().unwrap();
        let now = book.now();
        let writes = book
            .sectors
            .values_mut()
            .flat_map(|register| &mut register.writes);
        // Also those that a client has given up already: it may notice the crash first.
        for write in writes.filter(|write| !write.is_settled) {
            write.over = write.over.or(Some(now));
            write.happened = None;
            write.is_settled = true;
        }
        book.reads.clear();
    }

    /// The process to which the write was sent is gone: it has happened by now, or never will.
    pub fn given_up(&self, sectors: Range<u64>, value: Value) {
        let mut book = self.book.lock().unwrap();
        let now = book.now();
        for sector in sectors {
            let write = book
                .sectors
                .get_mut(&sector)
                .and_then(|register| register.write(value));
            if let Some(write) = write {
                write.over = write.over.or(Some(now));
            }
        }
    }

    /// A read is about to be sent.
    pub fn begin_read(&self) -> Moment {
        let mut book = self.book.lock().unwrap();
        let now = book.now();
        book.reads.insert(now);
        now
    }

    /// A read that began at `started` answered with `bytes` for the sectors from `first`.
    ///
    /// # Errors
    /// What it read cannot be true.
    pub fn read(&self, started: Moment, first: u64, bytes: &[u8]) -> Result<(), String> {
        let mut book = self.book.lock().unwrap();
        let ended = book.now();
        // A crash ended those under way. Their answers may still come out of a socket, but what they saw may be gone.
        let proves = book.reads.remove(&started);
        for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR as usize)) {
            let value = decode(sector, bytes)?;
            book.sectors
                .entry(sector)
                .or_default()
                .saw(started, ended, value, proves)
                .map_err(|wrong| format!("sector {sector} holds {wrong}"))?;
        }
        Ok(())
    }

    /// Blocks with a sector that was ever written.
    pub fn blocks(&self) -> BTreeSet<u64> {
        let book = self.book.lock().unwrap();
        book.sectors.keys().map(|sector| sector / BLOCK_SECTORS).collect()
    }

    /// Acknowledged writes, counted by sector, and those without an answer that a read may still see.
    pub fn counts(&self) -> Counts {
        let book = self.book.lock().unwrap();
        let unanswered = book.sectors.values().flat_map(|register| &register.writes);
        Counts {
            acknowledged: book.sectors.values().map(|register| register.acknowledged).sum(),
            unanswered: unanswered.filter(|write| !write.is_answered()).count(),
        }
    }
}

/// Writes, counted by sector.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub acknowledged: usize,
    pub unanswered: usize,
}

/// Sectors of a block.
pub fn sectors_of(block: u64) -> Range<u64> {
    block * BLOCK_SECTORS..(block + 1) * BLOCK_SECTORS
}

/// Content of `sectors` after write `value`.
pub fn content(sectors: Range<u64>, value: Value) -> Vec<u8> {
    let words = sectors.flat_map(|sector| (0..SECTOR / 16).flat_map(move |_| [value, sector]));
    words.flat_map(u64::to_le_bytes).collect()
}

/// Which write stands in a sector.
///
/// # Errors
/// None: the sector is torn, or belongs elsewhere.
pub fn decode(sector: u64, bytes: &[u8]) -> Result<Value, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(0);
    }
    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    if bytes == content(sector..sector + 1, value) {
        return Ok(value);
    }
    Err(format!(
        "sector {sector} is torn or not its own: {:02x?}...",
        &bytes[..32]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(history: &History, value: Value) -> Result<(), String> {
        let bytes = if value == 0 {
            vec![0; 512]
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
        assert_eq!(history.counts().acknowledged, 2);
        assert_eq!(history.counts().unanswered, 0);
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
    fn after_a_crash_an_unanswered_write_is_there_or_not_and_stays_so() {
        let history = History::default();
        let first = write(&history);
        let lost = history.begin_write(7..8);
        read(&history, lost).unwrap();
        history.crashed();
        // It was seen on one disk, and that one may be gone.
        read(&history, first).unwrap();
        read(&history, lost).unwrap();
        read(&history, first).unwrap_err();
        // What comes after the crash comes on top.
        let second = write(&history);
        read(&history, second).unwrap();
        read(&history, lost).unwrap_err();
        read(&history, first).unwrap_err();
    }

    #[test]
    fn what_was_seen_before_a_crash_promises_nothing_whoever_notices_the_crash_first() {
        let history = History::default();
        let first = write(&history);
        // The client gives its write up before the crash is told.
        let lost = history.begin_write(7..8);
        read(&history, lost).unwrap();
        history.given_up(7..8, lost);
        history.crashed();
        read(&history, first).unwrap();
        // An answer from before the crash comes out of the socket after it was told.
        let lost = history.begin_write(7..8);
        let started = history.begin_read();
        history.crashed();
        history.read(started, 7, &content(7..8, lost)).unwrap();
        read(&history, first).unwrap();
        // What a read sees afterwards stays, also over the next crash.
        read(&history, lost).unwrap();
        history.crashed();
        read(&history, first).unwrap_err();
    }

    #[test]
    fn an_acknowledged_write_survives_a_crash() {
        let history = History::default();
        let first = write(&history);
        history.crashed();
        read(&history, 0).unwrap_err();
        read(&history, first).unwrap();
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
    fn what_is_forgotten_was_no_longer_to_be_seen() {
        let history = History::default();
        let long_ago = write(&history);
        let open = history.begin_read();
        for _ in 0..4 * MANY {
            write(&history);
        }
        // A read that began before all of them may still see what stood there then.
        history.read(open, 7, &content(7..8, long_ago)).unwrap();
        let newest = (0..4 * MANY).map(|_| write(&history)).last().unwrap();
        read(&history, long_ago).unwrap_err();
        read(&history, newest - 1).unwrap_err();
        read(&history, newest).unwrap();
        let writes = history.book.lock().unwrap().sectors[&7].writes.len();
        assert!(writes <= MANY + 1, "{writes} writes are kept");
    }

    #[test]
    fn a_torn_or_misplaced_sector_is_noticed() {
        let mut torn = content(7..8, 3);
        torn[511] ^= 1;
        decode(7, &torn).unwrap_err();
        decode(8, &content(7..8, 3)).unwrap_err();
        assert_eq!(decode(7, &content(7..8, 3)), Ok(3));
    }
}
