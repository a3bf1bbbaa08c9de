//! Epochs of mirrored writes, on the sending side: a barrier closes one, its acknowledgement says that everything in it and
//! before it is stable at the peer.

use crate::part::Instant;

/// An epoch is closed at the latest so long after its first write, ms.
const CLOSE_AFTER: u64 = 1000;

/// The present epoch and what is stable.
pub(super) struct Epochs {
    current: u64,
    writes: u32,
    first_at: Option<Instant>,
    acknowledged: u64,
}

impl Epochs {
    /// Numbers of one generation of the volume part, above those of its predecessors.
    pub fn new(generation: u64) -> Self {
        let base = generation << 40;
        Self {
            current: base + 1,
            writes: 0,
            first_at: None,
            acknowledged: base,
        }
    }

    /// A write joins the present epoch; its number.
    pub fn join(&mut self, now: Instant) -> u64 {
        self.writes += 1;
        self.first_at = self.first_at.or(Some(now));
        self.current
    }

    /// Ends the present epoch, if there is something in it: number and count of its writes.
    pub fn close(&mut self) -> Option<(u64, u32)> {
        (self.writes > 0).then(|| self.close_always())
    }

    /// Ends the present epoch, also an empty one (to settle).
    pub fn close_always(&mut self) -> (u64, u32) {
        let closed = (self.current, self.writes);
        self.current += 1;
        self.writes = 0;
        self.first_at = None;
        closed
    }

    /// Everything up to this epoch is stable at the peer.
    pub fn acknowledge(&mut self, epoch: u64) {
        self.acknowledged = self.acknowledged.max(epoch);
    }

    /// Whether that epoch is.
    pub fn is_stable(&self, epoch: u64) -> bool {
        epoch <= self.acknowledged
    }

    /// The last epoch that was closed: what a flush must wait for.
    pub fn last_closed(&self) -> u64 {
        self.current - 1
    }

    /// Writes in the present epoch.
    pub fn writes(&self) -> u32 {
        self.writes
    }

    /// When the present epoch must be closed.
    pub fn close_at(&self) -> Option<Instant> {
        self.first_at.map(|first| first.after_ms(CLOSE_AFTER))
    }

    /// Mirroring stopped or the connection is another: what was not acknowledged never will be.
    pub fn reset(&mut self) {
        if self.writes > 0 {
            self.current += 1;
        }
        self.acknowledged = self.current - 1;
        self.writes = 0;
        self.first_at = None;
    }
}
