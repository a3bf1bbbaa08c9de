//! The pool: chunks of 1 MiB, each cut into slots of one class, lent to shares.
//!
//! A chunk is free or belongs to one share, and goes back when its last slot does. A share takes a free chunk when it
//! has fewer than its reserve, or when enough others remain for the unused reserves of all other shares. So a share can
//! always come to its reserve, whatever the others hold, and no chunk idles because its share has nothing to do.
#![allow(
    unsafe_code,
    reason = "the book-keeping below is what makes slots of shared pages unique"
)]

use super::slot::{Pages, Slot};
use super::{BufferMut, MAX_BUFFER_BYTES};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const CHUNK_BYTES: usize = MAX_BUFFER_BYTES;
/// Bytes of a slot of each class, rising.
const CLASS_BYTES: [usize; 3] = [4 << 10, 64 << 10, CHUNK_BYTES];
const MAX_SLOTS: usize = CHUNK_BYTES / CLASS_BYTES[0];
const SHARES: usize = Share::ALL.len();

/// Who a buffer is for. An empty share stops its own source and starves no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// Requests of clients.
    Clients,
    /// Writes and reads that come from a peer.
    Peer,
    /// Resync, verify and scrub.
    Resync,
    /// Superblock, activity log and bitmap.
    Metadata,
}

impl Share {
    /// All shares.
    pub const ALL: [Self; 4] = [Self::Clients, Self::Peer, Self::Resync, Self::Metadata];
}

/// How a pool is divided. Everything counts in bytes and is rounded down to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// The whole pool; what is not reserved goes to whoever asks first.
    pub total: usize,
    /// Reserved for [`Share::Clients`].
    pub clients: usize,
    /// Reserved for [`Share::Peer`].
    pub peer: usize,
    /// Reserved for [`Share::Resync`].
    pub resync: usize,
    /// Reserved for [`Share::Metadata`].
    pub metadata: usize,
}

impl PoolSizes {
    /// A quarter each for clients and peer, an eighth for resync, a sixteenth for meta-data, the rest for all.
    pub fn of_total(total: usize) -> Self {
        Self {
            total,
            clients: total / 4,
            peer: total / 4,
            resync: total / 8,
            metadata: total / 16,
        }
    }

    fn reserves(&self) -> [usize; SHARES] {
        [self.clients, self.peer, self.resync, self.metadata].map(|bytes| bytes / CHUNK_BYTES)
    }
}

impl Default for PoolSizes {
    /// 64 MiB.
    fn default() -> Self {
        Self::of_total(64 << 20)
    }
}

/// Why a pool cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PoolError {
    /// A share without at least 1 MiB could come to a halt for ever.
    #[error("the buffer pool reserves less than 1 MiB for {share:?}: reserve at least 1 MiB for each share")]
    ShareTooSmall {
        /// The share.
        share: Share,
    },
    /// The reserves do not fit.
    #[error("the buffer pool has {total} MiB, but {reserved} MiB are reserved: enlarge it or reserve less")]
    ReservesExceedTotal {
        /// The pool's size in MiB.
        total: usize,
        /// The sum of the reserves in MiB.
        reserved: usize,
    },
}

/// What a share has at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareUsage {
    /// Bytes in chunks that the share has, used or not.
    pub held: usize,
    /// Bytes in slots that are in use.
    pub used: usize,
    /// How often [`BufferPool::take`] found the share empty.
    pub refused: u64,
}

/// A fixed amount of memory for payload. Clones are handles of the same pool.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    pages: Arc<Pages>,
    books: Mutex<Books>,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        // The books are changed by code that does not panic between two changes that belong together.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BufferPool {
    /// Allocates the whole pool and touches every page.
    pub fn new(sizes: PoolSizes) -> Result<Self, PoolError> {
        let chunks = sizes.total / CHUNK_BYTES;
        let reserves = sizes.reserves();
        for (share, reserve) in Share::ALL.into_iter().zip(reserves) {
            if reserve == 0 {
                return Err(PoolError::ShareTooSmall { share });
            }
        }
        let reserved = reserves
            .iter()
            .fold(0, |sum: usize, reserve| sum.saturating_add(*reserve));
        if reserved > chunks {
            return Err(PoolError::ReservesExceedTotal {
                total: chunks,
                reserved,
            });
        }
        let pages = Pages::allocate(chunks * CHUNK_BYTES);
        pages.prefault();
        Ok(Self {
            shared: Arc::new(Shared {
                pages,
                books: Mutex::new(Books::new(chunks, reserves)),
            }),
        })
    }

    /// A buffer of exactly `bytes` bytes with *arbitrary old content*.
    ///
    /// `None`: the share is empty at the moment (try again when one of its buffers has come back, oldest request first:
    /// short requests that overtake a long one could keep it waiting), or `bytes` exceeds [`MAX_BUFFER_BYTES`].
    pub fn take(&self, share: Share, bytes: usize) -> Option<BufferMut> {
        let class = CLASS_BYTES.iter().position(|size| bytes <= *size)?;
        let place = self.shared.books().take(share, class)?;
        // SAFETY: `Books` gives a place to nobody else before `Home::give_back`, which only the drop of this buffer
        // calls; a chunk is cut anew only when all its slots are back.
        let slot = unsafe { Slot::part(&self.shared.pages, place.offset(), place.bytes()) };
        let home = Home {
            shared: Arc::clone(&self.shared),
            place,
        };
        Some(BufferMut::pooled(slot, bytes, home))
    }

    /// What a share has at the moment.
    pub fn usage(&self, share: Share) -> ShareUsage {
        self.shared.books().usage[share as usize]
    }

    /// Bytes of the whole pool.
    pub fn total_bytes(&self) -> usize {
        self.shared.books().chunks.len() * CHUNK_BYTES
    }
}

/// Where a buffer goes back to.
pub(super) struct Home {
    shared: Arc<Shared>,
    place: Place,
}

impl Home {
    pub(super) fn give_back(self) {
        self.shared.books().give_back(self.place);
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: usize,
    class: usize,
    slot: usize,
}

impl Place {
    fn bytes(self) -> usize {
        CLASS_BYTES[self.class]
    }

    fn offset(self) -> usize {
        self.chunk * CHUNK_BYTES + self.slot * self.bytes()
    }
}

/// A chunk that a share has.
struct Chunk {
    share: Share,
    class: usize,
    used: usize,
    /// One bit per slot: set when in use.
    taken: [u64; MAX_SLOTS / 64],
}

impl Chunk {
    fn slots(&self) -> usize {
        CHUNK_BYTES / CLASS_BYTES[self.class]
    }

    fn first_free(&self) -> Option<usize> {
        let word = self.taken.iter().position(|word| *word != u64::MAX)?;
        let slot = word * 64 + self.taken[word].trailing_ones() as usize;
        (slot < self.slots()).then_some(slot)
    }
}

/// Which slots are in use.
struct Books {
    chunks: Vec<Option<Chunk>>,
    free: BTreeSet<usize>,
    reserves: [usize; SHARES],
    owned: [usize; SHARES],
    /// Chunks with a free slot, per share and class. The lowest is used first, so that the others drain.
    partial: [[BTreeSet<usize>; CLASS_BYTES.len()]; SHARES],
    usage: [ShareUsage; SHARES],
}

impl Books {
    fn new(chunks: usize, reserves: [usize; SHARES]) -> Self {
        Self {
            chunks: (0..chunks).map(|_| None).collect(),
            free: (0..chunks).collect(),
            reserves,
            owned: [0; SHARES],
            partial: Default::default(),
            usage: [ShareUsage::default(); SHARES],
        }
    }

    fn take(&mut self, share: Share, class: usize) -> Option<Place> {
        let place = self
            .take_partial(share, class)
            .or_else(|| self.take_fresh(share, class))
            .or_else(|| (class + 1..CLASS_BYTES.len()).find_map(|larger| self.take_partial(share, larger)));
        let usage = &mut self.usage[share as usize];
        match place {
            Some(place) => usage.used += place.bytes(),
            None => usage.refused += 1,
        }
        place
    }

    fn take_partial(&mut self, share: Share, class: usize) -> Option<Place> {
        let partial = &mut self.partial[share as usize][class];
        let index = *partial.first()?;
        let chunk = self.chunks[index].as_mut()?;
        let slot = chunk.first_free()?;
        chunk.taken[slot / 64] |= 1 << (slot % 64);
        chunk.used += 1;
        if chunk.used == chunk.slots() {
            partial.remove(&index);
        }
        Some(Place {
            chunk: index,
            class,
            slot,
        })
    }

    fn take_fresh(&mut self, share: Share, class: usize) -> Option<Place> {
        let owed_to_others: usize = (0..SHARES)
            .filter(|other| *other != share as usize)
            .map(|other| self.reserves[other].saturating_sub(self.owned[other]))
            .sum();
        if self.owned[share as usize] >= self.reserves[share as usize] && self.free.len() <= owed_to_others {
            return None;
        }
        let index = self.free.pop_first()?;
        self.chunks[index] = Some(Chunk {
            share,
            class,
            used: 0,
            taken: [0; MAX_SLOTS / 64],
        });
        self.owned[share as usize] += 1;
        self.usage[share as usize].held += CHUNK_BYTES;
        self.partial[share as usize][class].insert(index);
        self.take_partial(share, class)
    }

    fn give_back(&mut self, place: Place) {
        let chunk = self.chunks[place.chunk]
            .as_mut()
            .expect("a chunk with a slot in use belongs to a share");
        let share = chunk.share as usize;
        chunk.taken[place.slot / 64] &= !(1 << (place.slot % 64));
        chunk.used -= 1;
        self.usage[share].used -= place.bytes();
        if chunk.used > 0 {
            self.partial[share][place.class].insert(place.chunk);
            return;
        }
        self.partial[share][place.class].remove(&place.chunk);
        self.chunks[place.chunk] = None;
        self.free.insert(place.chunk);
        self.owned[share] -= 1;
        self.usage[share].held -= CHUNK_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    fn small() -> BufferPool {
        BufferPool::new(PoolSizes {
            total: 6 * MIB,
            clients: MIB,
            peer: 2 * MIB,
            resync: MIB,
            metadata: MIB,
        })
        .unwrap()
    }

    fn exhaust(pool: &BufferPool, share: Share, bytes: usize) -> Vec<BufferMut> {
        std::iter::from_fn(|| pool.take(share, bytes)).collect()
    }

    #[test]
    fn an_empty_share_starves_no_other() {
        let pool = small();
        let clients = exhaust(&pool, Share::Clients, 4096);
        assert_eq!(clients.len(), 512, "its reserve and what nobody has reserved");
        assert_eq!(pool.usage(Share::Clients).refused, 1);
        assert_eq!(exhaust(&pool, Share::Peer, MIB).len(), 2);
        assert_eq!(exhaust(&pool, Share::Resync, 65536).len(), 16);
        assert!(pool.take(Share::Metadata, 4096).is_some());
        drop(clients);
        assert_eq!(pool.usage(Share::Clients).used, 0);
        assert_eq!(pool.usage(Share::Clients).held, 0);
        assert_eq!(exhaust(&pool, Share::Clients, MIB).len(), 2);
    }

    #[test]
    fn lengths_are_as_asked_and_too_long_is_refused() {
        let pool = small();
        for bytes in [0, 1, 512, 4096, 4097, 65536, 65537, MIB] {
            let buffer = pool.take(Share::Peer, bytes).unwrap();
            assert_eq!(buffer.len(), bytes);
            assert_eq!(buffer.as_ptr() as usize % 4096, 0);
        }
        assert_eq!(pool.take(Share::Peer, MIB + 1), None);
    }

    #[test]
    fn a_short_request_may_use_a_longer_slot() {
        let pool = small();
        let mut held = exhaust(&pool, Share::Metadata, 65536);
        assert_eq!(held.len(), 32);
        held.pop();
        assert!(pool.take(Share::Metadata, 512).is_some());
    }

    #[test]
    fn comes_back_with_the_last_handle_from_any_thread() {
        let pool = small();
        let held: Vec<_> = exhaust(&pool, Share::Resync, MIB)
            .into_iter()
            .map(BufferMut::freeze)
            .collect();
        let part = held[0].slice(0..4096);
        std::thread::spawn(move || drop(held)).join().unwrap();
        assert_eq!(exhaust(&pool, Share::Resync, MIB).len(), 1, "the slice keeps one");
        drop(part);
        assert_eq!(exhaust(&pool, Share::Resync, MIB).len(), 2);
    }

    #[test]
    fn sizes_are_checked() {
        let sizes = PoolSizes::of_total(8 * MIB);
        assert_eq!(
            BufferPool::new(sizes).err(),
            Some(PoolError::ShareTooSmall {
                share: Share::Metadata
            })
        );
        let greedy = PoolSizes {
            clients: usize::MAX,
            ..PoolSizes::default()
        };
        assert!(matches!(
            BufferPool::new(greedy).err(),
            Some(PoolError::ReservesExceedTotal { .. })
        ));
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, usize, usize, usize)>> {
        proptest::collection::vec(
            (
                proptest::bool::weighted(0.65),
                0..4usize,
                prop_oneof![1..=4096usize, 4097..=65536usize, 65537..=MIB],
                any::<usize>(),
            ),
            1..400,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn buffers_never_overlap_and_reserves_hold(steps in steps()) {
            let pool = small();
            let mut held: Vec<(BufferMut, u8, usize)> = Vec::new();
            for (number, (take, share, bytes, pick)) in steps.into_iter().enumerate() {
                if take {
                    if let Some(mut buffer) = pool.take(Share::ALL[share], bytes) {
                        let mark = number as u8;
                        buffer[0] = mark;
                        *buffer.last_mut().unwrap() = mark;
                        held.push((buffer, mark, share));
                    }
                } else if !held.is_empty() {
                    let (buffer, mark, _) = held.swap_remove(pick % held.len());
                    prop_assert_eq!(buffer[0], mark);
                    prop_assert_eq!(*buffer.last().unwrap(), mark);
                }
            }
            let mut ranges: Vec<_> = held.iter().map(|(b, ..)| (b.as_ptr() as usize, b.len())).collect();
            ranges.sort_unstable();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            for (index, share) in Share::ALL.into_iter().enumerate() {
                if held.iter().all(|(_, _, owner)| *owner != index) {
                    let reserve = pool.shared.books().reserves[index];
                    prop_assert!(exhaust(&pool, share, MIB).len() >= reserve);
                }
            }
            drop(held);
            prop_assert_eq!(pool.shared.books().free.len(), 6);
        }
    }
}
