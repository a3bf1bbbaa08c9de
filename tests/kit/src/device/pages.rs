//! Bytes of a simulated disk. Copies share their pages until one of them writes: a test may keep many states of one disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

/// Bytes by 4 KiB page; absent pages are zero.
#[derive(Clone, Debug, Default)]
pub struct Pages(BTreeMap<u64, Arc<[u8; PAGE as usize]>>);

impl Pages {
    /// Reads from a byte on.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        each_page(offset, bytes.len() as u64, |page, within, part| {
            match self.0.get(&page) {
                Some(data) => bytes[part].copy_from_slice(&data[within]),
                None => bytes[part].fill(0),
            }
        });
    }

    /// Writes from a byte on.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        each_page(offset, bytes.len() as u64, |page, within, part| {
            let bytes = &bytes[part];
            let is_zero = bytes == &ZEROES[..bytes.len()];
            if bytes.len() as u64 == PAGE && is_zero {
                self.0.remove(&page);
            } else if !is_zero || self.0.contains_key(&page) {
                let data = self.0.entry(page).or_insert_with(|| Arc::new(ZEROES));
                Arc::make_mut(data)[within].copy_from_slice(bytes);
            }
        });
    }

    /// Pages below `end` in which they differ.
    pub fn differing(&self, other: &Self, end: u64) -> Vec<u64> {
        let both: BTreeSet<u64> = self.0.keys().chain(other.0.keys()).copied().collect();
        let differs = |page: &u64| match (self.0.get(page), other.0.get(page)) {
            (Some(one), Some(other)) => !Arc::ptr_eq(one, other) && one != other,
            (Some(one), None) | (None, Some(one)) => **one != ZEROES,
            (None, None) => false,
        };
        both.range(..end).copied().filter(differs).collect()
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
