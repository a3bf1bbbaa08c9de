//! Reading the bitmap at an attach (A10, A11), and again by a new generation of this part.

use super::pages::Whole;
use super::part::{BitmapPart, Loaded};
use super::{BitmapEffect, LoadPlan};
use crate::disk::{MetaCompletion, MetaKind};
use crate::fact::Fact;
use crate::identity::Query;
use crate::part::{Outbox, To};
use crate::volume::machine::StateIn;
use mendblock_storage::dirty::DirtyMap;
use mendblock_storage::format::META_BLOCK_BYTES;
use mendblock_storage::units::{BLOCK_SECTORS, BlockRange, EXTENT_BLOCKS, blocks_of};

/// Pages read at once.
const PAGES_AT_ONCE: u32 = 64;

/// A load that runs.
pub(super) struct Loading {
    /// None: a new generation reads the bitmap again.
    query: Option<Query>,
    plan: LoadPlan,
    map: DirtyMap,
    /// Next page to read.
    next: u32,
    /// The read that is awaited: number, first page, pages.
    reading: Option<(u64, u32, u32)>,
    /// Pages are read one by one up to this one, after a larger read failed.
    singly_to: u32,
    unreadable: u32,
}

impl BitmapPart {
    pub(super) fn begin_load(&mut self, query: Query, plan: LoadPlan, out: &mut Outbox<BitmapEffect>) {
        self.loaded = None;
        self.start_reading(Some(query), plan, out);
    }

    /// Reads the bitmap again (R4, R6: the hot extents are not laid over it; the volume part replays what is owed).
    pub(super) fn reload(&mut self, out: &mut Outbox<BitmapEffect>) {
        let disk = self.snapshot.as_ref().and_then(|snapshot| {
            snapshot
                .disk
                .as_ref()
                .map(|disk| (disk.layout, snapshot.volume_sectors))
        });
        let Some((layout, volume_sectors)) = disk else {
            return self.recovered(out);
        };
        let plan = LoadPlan {
            layout,
            volume_sectors,
            agreed_sectors: volume_sectors,
            set_all: false,
            extents: Vec::new(),
            list_lost: false,
        };
        self.start_reading(None, plan, out);
    }

    fn start_reading(&mut self, query: Option<Query>, plan: LoadPlan, out: &mut Outbox<BitmapEffect>) {
        let map = DirtyMap::new(blocks_of(plan.volume_sectors));
        let next = if plan.set_all { map.page_count() } else { 0 };
        self.loading = Some(Loading {
            query,
            plan,
            map,
            next,
            reading: None,
            singly_to: 0,
            unreadable: 0,
        });
        self.read_on(out);
    }

    fn read_on(&mut self, out: &mut Outbox<BitmapEffect>) {
        let Some(loading) = self.loading.as_ref() else {
            return;
        };
        let pages = loading.map.page_count();
        if loading.next >= pages {
            return self.all_read(out);
        }
        let count = if loading.next < loading.singly_to {
            1
        } else {
            PAGES_AT_ONCE.min(pages - loading.next)
        };
        let first = loading.next;
        let kind = MetaKind::Read {
            offset: loading.plan.layout.bitmap_page_byte(u64::from(first)),
            length: count * META_BLOCK_BYTES as u32,
        };
        let number = self.submit(kind, out);
        if let Some(loading) = self.loading.as_mut() {
            loading.reading = Some((number, first, count));
        }
    }

    /// True if the completion was for the load.
    pub(super) fn load_completed(
        &mut self,
        completion: &MetaCompletion,
        out: &mut Outbox<BitmapEffect>,
    ) -> bool {
        let Some(loading) = self.loading.as_mut() else {
            return false;
        };
        let Some((_, first, count)) = loading
            .reading
            .filter(|(number, _, _)| *number == completion.number)
        else {
            return false;
        };
        loading.reading = None;
        match &completion.result {
            Ok(bytes) => {
                let bytes = bytes.as_deref().unwrap_or_default();
                for (index, page) in bytes.chunks_exact(META_BLOCK_BYTES).enumerate() {
                    // The page lies in the map and has the length of one: it can be loaded.
                    let _ = loading.map.load_page(first + index as u32, page);
                }
                loading.next = first + count;
            }
            // A batch with an unreadable page is read page by page.
            Err(_) if count > 1 => loading.singly_to = first + count,
            Err(errno) => {
                // An unreadable page counts as all set, and is written anew: a superset is safe.
                loading.unreadable += 1;
                loading.next = first + 1;
                if let Some(range) = page_blocks(first, loading.map.bits()) {
                    loading.map.set(range);
                }
                out.fact(Fact::Alert {
                    what: format!(
                        "bitmap page {first} cannot be read (errno {errno}): its blocks count as out of sync"
                    ),
                });
            }
        }
        self.read_on(out);
        true
    }

    fn all_read(&mut self, out: &mut Outbox<BitmapEffect>) {
        let Some(loading) = self.loading.as_mut() else {
            return;
        };
        if loading.plan.set_all {
            loading.map.set_all();
            loading.map.mark_all_changed();
        }
        let bits = loading.map.bits();
        // With the block in which the old size ended: a part of it is new.
        let trusted = bits.min(loading.plan.agreed_sectors / BLOCK_SECTORS);
        if loading.plan.agreed_sectors < loading.plan.volume_sectors {
            loading.map.resize(trusted);
            loading.map.resize(bits);
        }
        // Of an error that was listed the bit is on the disk; extents that were hot say nothing of errors.
        let lost_list: Option<Vec<BlockRange>> = loading.plan.list_lost.then(|| loading.map.runs().collect());
        for &extent in &loading.plan.extents {
            let first = u64::from(extent) * EXTENT_BLOCKS;
            let end = (first + EXTENT_BLOCKS).min(bits);
            if let Some(range) = end
                .checked_sub(first)
                .and_then(|count| BlockRange::new(first, count as u32))
            {
                loading.map.set(range);
            }
        }
        let (layout, query) = (loading.plan.layout, loading.query);
        let map = loading.map.clone();
        self.loaded = Some(Loaded { map, layout });
        self.pages.unflushed = true;
        // The bits that were cleared before came back from the disk: none is owed to it.
        self.pages.cleared = false;
        self.bits_of_lists();
        if query.is_some() {
            self.health.lost_list = lost_list;
        }
        self.lost_list_is_suspect(out);
        match query {
            Some(query) => self.pages.want_whole(Whole::Load(query)),
            None => {
                self.loading = None;
                self.recovered(out);
            }
        }
        self.lists_changed();
    }

    /// A11 ended.
    pub(super) fn load_written(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        self.loading = None;
        let bits = self.loaded.as_ref().map_or(0, |loaded| loaded.map.count());
        if result.is_err() {
            self.loaded = None;
        }
        out.send(To::State(StateIn::BitmapLoaded {
            query,
            result: result.map(|()| bits),
        }));
    }
}

impl BitmapPart {
    /// The volume has another size than when the bitmap was loaded: the nodes agreed on that of the smaller disk.
    pub(super) fn follow_size(&mut self) {
        let size = self
            .snapshot
            .as_ref()
            .filter(|snapshot| snapshot.disk.is_some() && snapshot.volume_sectors > 0)
            .map(|snapshot| blocks_of(snapshot.volume_sectors));
        let Some((loaded, bits)) = self.loaded.as_mut().zip(size) else {
            return;
        };
        let old = loaded.map.bits();
        if self.loading.is_some() || bits == old {
            return;
        }
        loaded.map.resize(bits);
        if let Some(last) = old.checked_sub(1).filter(|_| bits > old) {
            // It may have been cut by the old end.
            loaded.map.set(BlockRange::single(last));
        }
        self.pages.lazily = true;
        self.lists_changed();
    }
}

/// The blocks of a page, cut at the end of the map.
pub(super) fn page_blocks(page: u32, bits: u64) -> Option<BlockRange> {
    let per_page = META_BLOCK_BYTES as u64 * 8;
    let first = u64::from(page) * per_page;
    let end = (first + per_page).min(bits);
    BlockRange::new(first, u32::try_from(end.checked_sub(first)?).ok()?)
}
