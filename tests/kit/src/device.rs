//! A simulated lower disk: what is on its platters, what is only in its cache, and how it fails.

use fastrand::Rng;
use mendblock_core::disk::PortOperation;
use mendblock_storage::buffer::BufferMut;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const PAGE: u64 = 4096;
const SECTOR: u64 = 512;
/// Linux errno EIO.
pub const EIO: i32 = 5;

/// Bytes by 4 KiB page; absent pages are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pages(BTreeMap<u64, Box<[u8]>>);

impl Pages {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        each_page(offset, bytes.len() as u64, |page, within, part| {
            match self.0.get(&page) {
                Some(data) => bytes[part].copy_from_slice(&data[within]),
                None => bytes[part].fill(0),
            }
        });
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        each_page(offset, bytes.len() as u64, |page, within, part| {
            let data = self
                .0
                .entry(page)
                .or_insert_with(|| vec![0; PAGE as usize].into());
            data[within].copy_from_slice(&bytes[part]);
        });
    }
}

fn each_page(offset: u64, length: u64, mut visit: impl FnMut(u64, Range<usize>, Range<usize>)) {
    let mut done = 0;
    while done < length {
        let at = offset + done;
        let within = at % PAGE;
        let count = (PAGE - within).min(length - done);
        visit(
            at / PAGE,
            within as usize..(within + count) as usize,
            done as usize..(done + count) as usize,
        );
        done += count;
    }
}

/// A write that a loss of power may undo.
#[derive(Clone, Debug)]
struct Cached {
    offset: u64,
    bytes: Vec<u8>,
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

/// The disk. It survives every crash of its node.
#[derive(Clone, Debug)]
pub struct Device {
    size: u64,
    durable: Pages,
    current: Pages,
    cache: Vec<Cached>,
    /// What fails.
    pub faults: Faults,
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
        self.current.write(offset, bytes);
        self.store(Cached {
            offset,
            bytes: bytes.to_vec(),
            stable: true,
        });
    }

    fn store(&mut self, cached: Cached) {
        if cached.stable && self.cache.is_empty() {
            self.durable.write(cached.offset, &cached.bytes);
        } else {
            self.cache.push(cached);
        }
    }

    /// Ends an operation: data of a read, or the errno.
    pub fn execute(&mut self, operation: &PortOperation) -> Result<Option<BufferMut>, i32> {
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
            PortOperation::Write { offset, buffer, fua } => self.write(*offset, buffer, *fua).map(|()| None),
            PortOperation::WriteZeroes { offset, length, .. } => {
                let zeroes = vec![0; *length as usize];
                self.write(*offset, &zeroes, false).map(|()| None)
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

    fn write(&mut self, offset: u64, bytes: &[u8], stable: bool) -> Result<(), i32> {
        let range = offset..offset + bytes.len() as u64;
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
        self.current.write(offset, bytes);
        self.store(Cached {
            offset,
            bytes: bytes.to_vec(),
            stable,
        });
        Ok(())
    }

    fn flush(&mut self) {
        for cached in self.cache.drain(..) {
            self.durable.write(cached.offset, &cached.bytes);
        }
    }

    /// Power is lost: of what was not flushed, and of `in_flight`, some is there, some not, some torn at 512 bytes.
    pub fn lose_power(&mut self, in_flight: Vec<PortOperation>, random: &mut Rng) {
        for operation in in_flight {
            if let PortOperation::Write { offset, buffer, .. } = operation {
                self.cache.push(Cached {
                    offset,
                    bytes: buffer.to_vec(),
                    stable: false,
                });
            }
        }
        for cached in std::mem::take(&mut self.cache) {
            match random.u8(0..4) {
                _ if cached.stable => self.durable.write(cached.offset, &cached.bytes),
                0 | 1 => self.durable.write(cached.offset, &cached.bytes),
                2 => {}
                _ => {
                    for (index, sector) in cached.bytes.chunks(SECTOR as usize).enumerate() {
                        if random.bool() {
                            self.durable.write(cached.offset + index as u64 * SECTOR, sector);
                        }
                    }
                }
            }
        }
        self.current = self.durable.clone();
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
            device.lose_power(vec![write(0, 6, false)], &mut Rng::with_seed(seed));
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
}
