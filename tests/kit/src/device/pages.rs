//! Bytes of a simulated disk. Copies share their pages until one of them writes: a test may keep many states of one disk.

use super::SECTOR;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

/// What a write puts on a disk, cut into pages. Whole pages are shared by all who take them over: a simulated disk spends most of
/// its time here.
#[derive(Clone, Debug)]
pub struct Written(Vec<(u64, Content)>);

#[derive(Clone, Debug)]
enum Content {
    /// A whole page of zeroes.
    Zeroes,
    /// A whole page.
    Whole(Arc<[u8; PAGE as usize]>),
    /// Some bytes of a page, from this one on.
    Part(usize, Box<[u8]>),
}

impl Written {
    /// These bytes, from a byte on.
    pub fn bytes(offset: u64, bytes: &[u8]) -> Self {
        let mut pages = Vec::new();
        each_page(offset, bytes.len() as u64, |page, within, part| {
            let bytes = &bytes[part];
            let content = match <&[u8; PAGE as usize]>::try_from(bytes) {
                Ok(whole) if *whole == ZEROES => Content::Zeroes,
                Ok(whole) => Content::Whole(Arc::new(*whole)),
                Err(_) => Content::Part(within.start, bytes.into()),
            };
            pages.push((page, content));
        });
        Self(pages)
    }

    /// Zeroes, from a byte on.
    pub fn zeroes(offset: u64, length: u64) -> Self {
        let mut pages = Vec::new();
        each_page(offset, length, |page, within, _| {
            let content = match within.len() {
                whole if whole as u64 == PAGE => Content::Zeroes,
                part => Content::Part(within.start, vec![0; part].into()),
            };
            pages.push((page, content));
        });
        Self(pages)
    }

    /// Its sectors, one by one.
    pub fn sectors(&self) -> impl Iterator<Item = Self> {
        self.0.iter().flat_map(|(page, content)| {
            let (start, bytes): (usize, &[u8]) = match content {
                Content::Zeroes => (0, &ZEROES),
                Content::Whole(bytes) => (0, &bytes[..]),
                Content::Part(start, bytes) => (*start, bytes),
            };
            let sectors = bytes.chunks(SECTOR as usize).enumerate();
            sectors.map(move |(index, sector)| {
                let at = start + index * SECTOR as usize;
                Self(vec![(*page, Content::Part(at, sector.into()))])
            })
        })
    }
}

/// Bytes by 4 KiB page; absent pages are zero.
#[derive(Clone, Debug, Default)]
pub struct Pages(BTreeMap<u64, Arc<[u8; PAGE as usize]>>);

impl Pages {
    /// Reads from a byte on. `bytes` are zeroes: what is not here leaves them alone.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        each_page(offset, bytes.len() as u64, |page, within, part| {
            if let Some(data) = self.0.get(&page) {
                bytes[part].copy_from_slice(&data[within]);
            }
        });
    }

    /// Takes over what was written.
    pub fn write(&mut self, written: &Written) {
        for (page, content) in &written.0 {
            match content {
                Content::Zeroes => {
                    self.0.remove(page);
                }
                Content::Whole(bytes) => {
                    self.0.insert(*page, Arc::clone(bytes));
                }
                Content::Part(_, bytes)
                    if !self.0.contains_key(page) && bytes.iter().all(|&byte| byte == 0) => {}
                Content::Part(start, bytes) => {
                    let data = self.0.entry(*page).or_insert_with(|| Arc::new(ZEROES));
                    Arc::make_mut(data)[*start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }

    /// Pages below `end` in which they differ.
    pub fn differing(&self, other: &Self, end: u64) -> Vec<u64> {
        let both: BTreeSet<u64> = self.0.keys().chain(other.0.keys()).copied().collect();
        let differs = |page: &u64| self.differs(other, *page);
        both.range(..end).copied().filter(differs).collect()
    }

    /// Whether they differ in this page.
    pub fn differs(&self, other: &Self, page: u64) -> bool {
        match (self.0.get(&page), other.0.get(&page)) {
            (Some(one), Some(other)) => !Arc::ptr_eq(one, other) && one != other,
            (Some(one), None) | (None, Some(one)) => **one != ZEROES,
            (None, None) => false,
        }
    }

    /// The pages that there are.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.iter().map(|(&page, bytes)| (page, &bytes[..]))
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
