//! What clients wrote and read: every 512-byte sector is a register. A read returns the last write that was answered before
//! it began, or one that was under way since; a write that was never answered (or with an error) may have happened or not.

use mendblock_storage::units::SectorRange;
use std::collections::BTreeMap;

/// A value of a sector: the number of the write that put it there; 0: zeroes.
pub type Value = u64;

#[derive(Clone, Copy, Debug)]
struct Write {
    value: Value,
    began: u64,
    /// Answered (well or not), or its node crashed: it takes effect no later.
    ended: Option<u64>,
    /// Known to have taken effect by then: answered well, or read.
    effective: Option<u64>,
    /// On stable storage of every node: FUA, or flushed since.
    stable: bool,
    /// Answered well.
    answered: bool,
    /// It may vanish, though it was read: nothing was promised of it, and more failed than the promises cover.
    doubtful: bool,
}

/// A read that returned what it must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub sector: u64,
    /// What was read.
    pub value: Value,
    /// What would have been right.
    pub legal: Vec<Value>,
}

/// The history of all sectors.
#[derive(Clone, Debug, Default)]
pub struct History {
    sectors: BTreeMap<u64, Vec<Write>>,
    next: Value,
}

const INITIAL: Write = Write {
    value: 0,
    began: 0,
    ended: Some(0),
    effective: Some(0),
    stable: true,
    answered: true,
    doubtful: false,
};

impl History {
    /// A value that nobody wrote before.
    pub fn fresh(&mut self) -> Value {
        self.next += 1;
        self.next
    }

    /// A write begins.
    pub fn begin(&mut self, range: SectorRange, value: Value, now: u64) {
        for sector in range.first()..range.end() {
            let write = Write {
                value,
                began: now,
                ended: None,
                effective: None,
                stable: false,
                answered: false,
                doubtful: false,
            };
            self.sectors
                .entry(sector)
                .or_insert_with(|| vec![INITIAL])
                .push(write);
        }
    }

    /// It ended: `ok` false: answered with an error, or nobody will ever answer.
    pub fn end(&mut self, range: SectorRange, value: Value, began: u64, ok: bool, now: u64) {
        for sector in range.first()..range.end() {
            let writes = self.sectors.get_mut(&sector).into_iter().flatten();
            for write in writes.filter(|write| write.value == value && write.began == began) {
                write.ended = write.ended.or(Some(now));
                if ok {
                    write.answered = true;
                    // Of one that was under way when the power went, the only copy may have gone with it.
                    if write.doubtful {
                        continue;
                    }
                    write.effective = Some(write.effective.map_or(now, |at| at.min(now)));
                }
            }
        }
    }

    /// Its node crashed before it was answered: it may have happened or not. That a read already saw it promises nothing: it was
    /// on one disk alone.
    pub fn cut_off(&mut self, range: SectorRange, value: Value, began: u64, now: u64) {
        for sector in range.first()..range.end() {
            let writes = self.sectors.get_mut(&sector).into_iter().flatten();
            for write in writes.filter(|write| write.value == value && write.began == began) {
                write.ended = Some(now);
                write.effective = None;
            }
        }
    }

    /// A flush that began then was answered well: what was answered before is stable.
    pub fn flushed(&mut self, began: u64) {
        for write in self.sectors.values_mut().flatten() {
            write.stable |= write.effective.is_some_and(|at| at < began);
        }
    }

    /// A write with FUA was answered well.
    pub fn forced(&mut self, range: SectorRange, value: Value) {
        for sector in range.first()..range.end() {
            let writes = self.sectors.get_mut(&sector).into_iter().flatten();
            writes
                .filter(|write| write.value == value)
                .for_each(|write| write.stable = true);
        }
    }

    /// The Primary lost power and comes back as source: what no flush covered may be gone (from both nodes alike).
    pub fn power_lost(&mut self) {
        for write in self.sectors.values_mut().flatten().filter(|write| !write.stable) {
            write.effective = None;
        }
    }

    /// More failed than the promises cover: a write that was not answered well may vanish though it was read, and with
    /// `power` also what no flush covers.
    pub fn doubt(&mut self, power: bool) {
        for write in self.sectors.values_mut().flatten() {
            if !write.answered || (power && !write.stable) {
                (write.effective, write.doubtful) = (None, true);
            }
        }
    }

    /// A read between `began` and `now` returned `value`.
    pub fn read(&mut self, sector: u64, value: Value, began: u64, now: u64) -> Result<(), Violation> {
        let writes = self.sectors.entry(sector).or_insert_with(|| vec![INITIAL]);
        // The youngest write that was surely done before the read began: what ended before it is gone.
        let horizon = writes
            .iter()
            .filter(|write| write.effective.is_some_and(|at| at < began))
            .map(|write| write.began)
            .max()
            .unwrap_or(0);
        let legal = |write: &Write| {
            let latest = write.effective.or(write.ended).unwrap_or(u64::MAX);
            write.began <= now && latest >= horizon
        };
        let legal_values: Vec<Value> = writes
            .iter()
            .filter(|write| legal(write))
            .map(|write| write.value)
            .collect();
        let mut found: Vec<&mut Write> = writes
            .iter_mut()
            .filter(|write| legal(write) && write.value == value)
            .collect();
        match &mut found[..] {
            [] => Err(Violation {
                sector,
                value,
                legal: legal_values,
            }),
            [write] if write.doubtful => Ok(()),
            [write] => {
                write.effective = Some(write.effective.map_or(now, |at| at.min(now)));
                Ok(())
            }
            // Which of several writes of the same value it was is not known.
            _ => Ok(()),
        }
    }

    /// Sectors that were ever written.
    pub fn written(&self) -> Vec<u64> {
        self.sectors.keys().copied().collect()
    }
}

/// The bytes of a value.
pub fn sector_of(value: Value) -> Vec<u8> {
    value.to_le_bytes().repeat(64)
}

/// The value in a sector's bytes; none: torn or foreign.
pub fn value_of(sector: &[u8]) -> Option<Value> {
    let first: [u8; 8] = sector.get(..8)?.try_into().ok()?;
    sector
        .chunks(8)
        .all(|word| word == first)
        .then(|| u64::from_le_bytes(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> SectorRange {
        SectorRange::new(0, 1).unwrap()
    }

    #[test]
    fn an_answered_write_must_be_read_and_an_open_one_may() {
        let mut history = History::default();
        history.begin(range(), 1, 10);
        assert!(history.clone().read(0, 0, 11, 12).is_ok());
        assert!(history.clone().read(0, 1, 11, 12).is_ok());
        history.end(range(), 1, 10, true, 20);
        assert!(
            history.clone().read(0, 0, 15, 25).is_ok(),
            "the read began before the answer"
        );
        assert!(history.clone().read(0, 0, 21, 25).is_err());
        assert!(history.read(0, 2, 21, 25).is_err());
    }

    #[test]
    fn what_was_read_once_stays_and_what_failed_may_be_there_or_not() {
        let mut history = History::default();
        history.begin(range(), 1, 10);
        history.end(range(), 1, 10, false, 20);
        assert!(history.clone().read(0, 0, 30, 31).is_ok());
        assert!(history.read(0, 1, 30, 31).is_ok());
        assert!(history.read(0, 0, 40, 41).is_err());
        history.begin(range(), 2, 50);
        history.end(range(), 2, 50, true, 60);
        assert!(history.read(0, 1, 70, 71).is_err());
    }

    #[test]
    fn values_are_told_from_torn_sectors() {
        assert_eq!(value_of(&sector_of(77)), Some(77));
        let mut torn = sector_of(77);
        torn[100] = 1;
        assert_eq!(value_of(&torn), None);
    }
}
