//! Pages that come from, or go to, a disk or a peer.

use super::DirtyMap;
use super::page::{self, PAGE_BITS, PAGE_BYTES, Page};
use std::sync::Arc;

/// A bitmap page that cannot be taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageError {
    /// The page number is behind the end of the volume.
    #[error(
        "bitmap page {page} is behind the end of the volume, which has {pages} pages; check the volume's size"
    )]
    OutOfRange {
        /// Number of the refused page.
        page: u32,
        /// Number of pages of the volume.
        pages: u32,
    },
    /// The bytes do not hold all bits of the page, or are more than one page.
    #[error(
        "bitmap page {page} came with {have} bytes, it needs {need} to {PAGE_BYTES}; read the whole page again"
    )]
    Length {
        /// Number of the refused page.
        page: u32,
        /// Bytes given.
        have: usize,
        /// Bytes that hold the page's bits.
        need: usize,
    },
}

impl DirtyMap {
    /// The page as it stands on disk; bits behind the end of the volume (and pages behind it) are zero.
    pub fn page_bytes(&self, page: u32) -> [u8; PAGE_BYTES] {
        match self.pages.get(page as usize) {
            Some(Some(words)) => page::to_bytes(words),
            _ => [0; PAGE_BYTES],
        }
    }

    /// Takes over a page read from disk. Bits that memory has beyond it are kept and make the page changed; bits behind
    /// the end of the volume are not interpreted.
    ///
    /// `bytes` may end early (a bitmap area need not end on a page) when they hold all bits of the page.
    pub fn load_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), PageError> {
        let loaded = self.checked_page(page, bytes)?;
        let on_disk = page::count(&loaded, 0..PAGE_BITS as u32);
        self.merge_words(page, &loaded);
        if self.count_of_page(page) > on_disk {
            self.touch(page);
        } else {
            self.changed.remove(&page);
        }
        Ok(())
    }

    /// ORs a page (the peer's bits) into the map; returns how many bits are newly set.
    pub fn merge_page(&mut self, page: u32, bytes: &[u8]) -> Result<u64, PageError> {
        let theirs = self.checked_page(page, bytes)?;
        Ok(self.merge_words(page, &theirs))
    }

    /// ORs another map of the same volume into this one; returns how many bits are newly set.
    pub fn merge(&mut self, other: &Self) -> u64 {
        let mut newly_set = 0;
        for page in 0..self.page_count().min(other.page_count()) {
            if let Some(theirs) = &other.pages[page as usize] {
                let theirs = page::cut(theirs, self.bits_of_page(page));
                newly_set += self.merge_words(page, &theirs);
            }
        }
        newly_set
    }

    /// Numbers of the pages whose bits differ between the two maps, in order.
    pub fn differing_pages<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        (0..self.page_count().max(other.page_count())).filter(move |page| {
            let index = *page as usize;
            self.count_of_page(*page) != other.count_of_page(*page)
                || match (self.pages.get(index), other.pages.get(index)) {
                    (Some(Some(ours)), Some(Some(theirs))) => !Arc::ptr_eq(ours, theirs) && ours != theirs,
                    _ => false,
                }
        })
    }

    /// ORs words (no bit behind the end of the volume) into a page; returns how many bits are newly set.
    fn merge_words(&mut self, page: u32, theirs: &Page) -> u64 {
        let slot = &mut self.pages[page as usize];
        let before = self.counts[page as usize];
        let after = match slot {
            None => page::count(theirs, 0..PAGE_BITS as u32),
            Some(ours) => page::count_union(ours, theirs),
        };
        let added = after - u32::from(before);
        if added == 0 {
            return 0;
        }
        if let Some(ours) = slot {
            page::merge(Arc::make_mut(ours), theirs);
        } else {
            *slot = Some(Arc::new(*theirs));
        }
        self.recount(page, i64::from(added));
        u64::from(added)
    }

    fn checked_page(&self, page: u32, bytes: &[u8]) -> Result<Page, PageError> {
        let pages = self.page_count();
        if page >= pages {
            return Err(PageError::OutOfRange { page, pages });
        }
        let bits = self.bits_of_page(page);
        let need = bits.div_ceil(8) as usize;
        if bytes.len() < need || bytes.len() > PAGE_BYTES {
            let have = bytes.len();
            return Err(PageError::Length { page, have, need });
        }
        Ok(page::cut(&page::from_bytes(bytes), bits))
    }
}
