//! A simulated lower disk: what is on its platters, what is only in its cache, and how it fails.

mod pages;

use fastrand::Rng;
use mendblock_core::disk::PortOperation;
use mendblock_storage::buffer::BufferMut;
use pages::{PAGE, Pages, Written};
use std::collections::BTreeSet;
use std::ops::Range;

const SECTOR: u64 = 512;
/// Linux errno EIO.
pub const EIO: i32 = 5;

/// A write that a loss of power may undo.
#[derive(Clone, Debug)]
struct Cached {
    written: Written,
    /// Written with FUA: survives.
    stable: bool,
}

/// What fails. Blocks are 4 KiB, counted from the start of the device.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Reads of these blocks fail, until they are written.
    pub unreadable: BTreeSet<u64>,
    /// Writes of these blocks fail.
    pub unwritable: BTreeSet<u64>,
    /// Writes that touch these bytes fail (meta-data).
    pub unwritable_bytes: Vec<Range<u64>>,
    /// So many flushes fail.
    pub failing_flushes: u32,
    /// Everything fails.
    pub dead: bool,
    /// Nothing completes.
    pub hangs: bool,
}

/// What a loss of power does to writes that are not stable: those in the drive's cache, and those that the kernel has under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of them are there.
    Nothing,
    /// None of them is there.
    All,
    /// Each is torn: some of its 512-byte sectors are there.
    Torn,
    /// Some are there whole, the others not at all, whatever their order was.
    Some,
    /// For each of them one of the above.
    Mixed,
}

/// A drive that lies. No promise holds on it: it is there to show that the checks notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A flush is answered well and makes nothing stable.
    IgnoresFlushes,
    /// FUA is taken for an ordinary write.
    IgnoresFua,
    /// Writes that touch these bytes are answered well and not made.
    DropsWrites(Range<u64>),
}

/// The disk. It survives every crash of its node.
#[derive(Clone, Debug)]
pub struct Device {
    size: u64,
    durable: Pages,
    current: Pages,
    cache: Vec<Cached>,
    /// What fails.
    pub faults: Faults,
    /// How it lies.
    pub defect: Option<Defect>,
    /// Writes and flushes that failed since the disk was attached.
    pub failed_writes: u64,
}

impl Device {
    /// A disk of zeroes.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            durable: Pages::default(),
            current: Pages::default(),
            cache: Vec::new(),
            faults: Faults::default(),
            defect: None,
            failed_writes: 0,
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads what a working disk would return, past all faults.
    pub fn peek(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.current.read(offset, &mut bytes);
        bytes
    }

    /// Writes past all faults, stable at once.
    pub fn poke(&mut self, offset: u64, bytes: &[u8]) {
        let written = Written::bytes(offset, bytes);
        self.current.write(&written);
        self.store(Cached {
            written,
            stable: true,
        });
    }

    fn store(&mut self, cached: Cached) {
        if cached.stable && self.cache.is_empty() {
            self.durable.write(&cached.written);
        } else {
            self.cache.push(cached);
        }
    }

    /// Ends an operation: data of a read, or the errno.
    pub fn execute(&mut self, operation: &PortOperation) -> Result<Option<BufferMut>, i32> {
        let result = self.carry_out(operation);
        let reads = matches!(operation, PortOperation::Read { .. });
        self.failed_writes += u64::from(result.is_err() && !reads);
        result
    }

    fn carry_out(&mut self, operation: &PortOperation) -> Result<Option<BufferMut>, i32> {
        if self.faults.dead {
            return Err(EIO);
        }
        match operation {
            PortOperation::Read { offset, length } => {
                let range = *offset..offset + u64::from(*length);
                if touched(&range).any(|block| self.faults.unreadable.contains(&block)) {
                    return Err(EIO);
                }
                let mut buffer = BufferMut::zeroed(*length as usize);
                self.current.read(*offset, &mut buffer);
                Ok(Some(buffer))
            }
            PortOperation::Write { offset, buffer, fua } => {
                let range = *offset..offset + buffer.len() as u64;
                self.write(range, || Written::bytes(*offset, buffer), *fua)?;
                Ok(None)
            }
            PortOperation::WriteZeroes { offset, length, .. } => {
                let range = *offset..offset + length;
                self.write(range, || Written::zeroes(*offset, *length), false)?;
                Ok(None)
            }
            PortOperation::Flush => {
                if self.faults.failing_flushes > 0 {
                    self.faults.failing_flushes -= 1;
                    return Err(EIO);
                }
                self.flush();
                Ok(None)
            }
        }
    }

    fn write(
        &mut self,
        range: Range<u64>,
        written: impl FnOnce() -> Written,
        stable: bool,
    ) -> Result<(), i32> {
        assert!(
            range.end <= self.size,
            "a write beyond the end of the disk: {range:?}"
        );
        let refused = |refused: &Range<u64>| refused.start < range.end && range.start < refused.end;
        if touched(&range).any(|block| self.faults.unwritable.contains(&block))
            || self.faults.unwritable_bytes.iter().any(refused)
        {
            return Err(EIO);
        }
        for block in touched(&range) {
            // A drive remaps a bad sector when it is written whole.
            if block * PAGE >= range.start && (block + 1) * PAGE <= range.end {
                self.faults.unreadable.remove(&block);
            }
        }
        if matches!(&self.defect, Some(Defect::DropsWrites(dropped)) if refused(dropped)) {
            return Ok(());
        }
        let written = written();
        self.current.write(&written);
        self.store(Cached {
            written,
            stable: stable && self.defect != Some(Defect::IgnoresFua),
        });
        Ok(())
    }

    fn flush(&mut self) {
        if self.defect == Some(Defect::IgnoresFlushes) {
            return;
        }
        for cached in self.cache.drain(..) {
            self.durable.write(&cached.written);
        }
    }

    /// Power is lost: what was not flushed, and what is under way, meets its `loss`.
    pub fn lose_power(&mut self, in_flight: Vec<PortOperation>, loss: Loss, random: &mut Rng) {
        for operation in in_flight {
            let written = match operation {
                PortOperation::Write { offset, buffer, .. } => Written::bytes(offset, &buffer),
                PortOperation::WriteZeroes { offset, length, .. } => Written::zeroes(offset, length),
                PortOperation::Read { .. } | PortOperation::Flush => continue,
            };
            self.cache.push(Cached {
                written,
                stable: false,
            });
        }
        for cached in std::mem::take(&mut self.cache) {
            let loss = if cached.stable { Loss::Nothing } else { loss };
            self.keep(&cached, loss, random);
        }
        self.current = self.durable.clone();
    }

    fn keep(&mut self, cached: &Cached, loss: Loss, random: &mut Rng) {
        match loss {
            Loss::Nothing => self.durable.write(&cached.written),
            Loss::All => {}
            Loss::Torn => {
                for sector in cached.written.sectors() {
                    if random.bool() {
                        self.durable.write(&sector);
                    }
                }
            }
            Loss::Some if random.bool() => self.durable.write(&cached.written),
            Loss::Some => {}
            Loss::Mixed => {
                let one = [Loss::Nothing, Loss::Nothing, Loss::All, Loss::Torn];
                self.keep(cached, one[random.usize(0..one.len())], random);
            }
        }
    }

    /// Blocks in which it differs from another one below `end` bytes, past all faults.
    pub fn differing(&self, other: &Self, end: u64) -> Vec<u64> {
        self.current.differing(&other.current, end / PAGE)
    }

    /// Whether it differs from another one in this block, past all faults.
    pub fn differs(&self, other: &Self, block: u64) -> bool {
        self.current.differs(&other.current, block)
    }

    /// What is on it, by block; what is missing is zero.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.current.iter()
    }

    /// The drive gives a bad block up: it reads as zeroes. A good one stays what it is.
    pub fn remap(&mut self, block: u64) {
        if self.faults.unreadable.remove(&block) {
            self.poke(block * PAGE, &[0; PAGE as usize]);
        }
    }

    /// Of these bytes, the blocks that cannot be read.
    pub fn unreadable(&self, range: &Range<u64>) -> Vec<u64> {
        touched(range)
            .filter(|block| self.faults.unreadable.contains(block))
            .collect()
    }

    /// The drive has mended itself: its bad blocks read as zeroes (remapped), nothing else fails.
    pub fn repair(&mut self) {
        let bad = std::mem::take(&mut self.faults).unreadable;
        for block in bad {
            self.poke(block * PAGE, &[0; PAGE as usize]);
        }
    }
}

fn touched(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE..range.end.div_ceil(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mendblock_storage::buffer::Buffer;

    fn write(offset: u64, byte: u8, fua: bool) -> PortOperation {
        PortOperation::Write {
            offset,
            buffer: Buffer::from_vec(vec![byte; 4096]),
            fua,
        }
    }

    #[test]
    fn a_flush_and_fua_survive_a_loss_of_power_and_the_rest_may_be_torn() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..64 {
            let mut device = Device::new(1 << 20);
            device.execute(&write(0, 1, false)).unwrap();
            device.execute(&PortOperation::Flush).unwrap();
            device.execute(&write(4096, 2, true)).unwrap();
            device.execute(&write(8192, 3, false)).unwrap();
            device.execute(&write(4096, 4, false)).unwrap();
            device.execute(&write(4096, 5, true)).unwrap();
            device.lose_power(vec![write(0, 6, false)], Loss::Mixed, &mut Rng::with_seed(seed));
            assert_eq!(device.peek(4096, 4096), vec![5; 4096], "FUA is the last word");
            let first = device.peek(0, 4096);
            assert!(
                first
                    .chunks(512)
                    .all(|sector| sector == [1; 512] || sector == [6; 512])
            );
            let third = device.peek(8192, 4096);
            outcomes.insert(third.iter().filter(|&&byte| byte == 3).count() / 512);
        }
        assert!(
            outcomes.contains(&0) && outcomes.contains(&8) && outcomes.len() > 2,
            "{outcomes:?}"
        );
    }

    #[test]
    fn a_bad_block_is_readable_after_it_was_written_whole() {
        let mut device = Device::new(1 << 20);
        device.faults.unreadable.insert(1);
        let read = PortOperation::Read {
            offset: 4096,
            length: 4096,
        };
        assert_eq!(device.execute(&read).unwrap_err(), EIO);
        let half = PortOperation::Write {
            offset: 4096,
            buffer: Buffer::from_vec(vec![7; 512]),
            fua: false,
        };
        device.execute(&half).unwrap();
        assert_eq!(device.execute(&read).unwrap_err(), EIO);
        device.execute(&write(4096, 7, false)).unwrap();
        assert_eq!(device.execute(&read).unwrap().unwrap()[0], 7);
    }

    #[test]
    fn each_kind_of_loss_does_what_it_says() {
        let after = |loss, seed| {
            let mut device = Device::new(1 << 20);
            device.execute(&write(0, 1, false)).unwrap();
            let zeroes = PortOperation::WriteZeroes {
                offset: 0,
                length: 512,
                may_unmap: false,
            };
            device.lose_power(
                vec![write(4096, 2, true), zeroes],
                loss,
                &mut Rng::with_seed(seed),
            );
            [
                device.peek(0, 512)[0],
                device.peek(512, 1)[0],
                device.peek(4096, 4096)[0],
            ]
        };
        assert_eq!(after(Loss::Nothing, 1), [0, 1, 2]);
        assert_eq!(after(Loss::All, 1), [0, 0, 0]);
        let torn: BTreeSet<_> = (0..32)
            .map(|seed| after(Loss::Torn, seed)[1..].to_vec())
            .collect();
        assert_eq!(torn.len(), 4);
        let some: BTreeSet<_> = (0..32).map(|seed| after(Loss::Some, seed)).collect();
        assert!(some.contains(&[1, 1, 0]) && some.contains(&[0, 0, 2]), "{some:?}");
    }

    #[test]
    fn a_drive_that_lies_loses_what_it_promised() {
        let kept = |defect| {
            let mut device = Device::new(1 << 20);
            device.defect = Some(defect);
            device.execute(&write(0, 1, false)).unwrap();
            device.execute(&PortOperation::Flush).unwrap();
            device.execute(&write(4096, 2, true)).unwrap();
            device.lose_power(vec![], Loss::All, &mut Rng::with_seed(1));
            [device.peek(0, 1)[0], device.peek(4096, 1)[0]]
        };
        assert_eq!(kept(Defect::IgnoresFlushes), [0, 2]);
        assert_eq!(kept(Defect::IgnoresFua), [1, 0]);
        assert_eq!(kept(Defect::DropsWrites(4096..4097)), [1, 0]);
    }

    #[test]
    fn devices_differ_where_their_bytes_do() {
        let mut first = Device::new(1 << 20);
        first.poke(8192, &[0; 512]);
        let mut second = first.clone();
        assert!(first.differing(&second, 1 << 20).is_empty());
        second.poke(12288, &[1; 4096]);
        first.poke(4096, &[1; 1]);
        assert_eq!(first.differing(&second, 1 << 20), [1, 3]);
        assert_eq!(second.differing(&first, 12288), [1]);
    }
}
