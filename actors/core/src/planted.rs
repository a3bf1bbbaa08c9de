//! Faults that can be planted to see whether the tests find them. They exist only with the feature `planted`, which the
//! simulation turns on for itself; without it every question here is a constant `false`. Not for use in a node.

/// A promise that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// P3: a detach says that the changed bitmap pages are written, and does not write them.
    SkipBitmapOnDetach,
    /// P1: a write is answered before the peer has it.
    AnswerBeforePeer,
    /// P3: of several failed reads only the first is recorded.
    ForgetSecondBadBlock,
    /// P6: a block counts as in sync when its data has arrived, before it is written.
    ClearOnArrival,
    /// P1: a Primary that loses its peer goes on under the old generation.
    KeepGenerationOnLoss,
    /// P2: blocks of the bad-block list are read from the own disk.
    ReadBadBlock,
    /// P2: a disk that is only the target of a resync is read.
    ReadInconsistent,
    /// P1: writes that the peer acknowledged and had not yet flushed are not marked when it is lost.
    ForgetUnretired,
    /// P2: a write that the failed disk did not take is not marked.
    ForgetMissedWrite,
    /// P6: a map of an exchange that was given up is laid over the next one.
    KeepOldMap,
    /// P1: a Primary whose disk fails in the handshake takes the peer's old disk for current.
    TrustUncompared,
    /// P1: writes that only the peer has are answered before this node has noted that its own disk is outdated.
    NoOutdatedNote,
    /// P6: a request that fails while a resync ends does not lead to another one.
    ForgetSpoiledResync,
    /// P1: a write that only this disk has is answered before the generation that names it is durable.
    AnswerBeforeGeneration,
    /// P1: an extent may be written to before the log that names it is durable.
    GrantBeforeDurable,
    /// P1: after a crash the transactions of the log are applied newest first.
    ReplayInWrongOrder,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::SkipBitmapOnDetach,
        Self::AnswerBeforePeer,
        Self::ForgetSecondBadBlock,
        Self::ClearOnArrival,
        Self::KeepGenerationOnLoss,
        Self::ReadBadBlock,
        Self::ReadInconsistent,
        Self::ForgetUnretired,
        Self::ForgetMissedWrite,
        Self::KeepOldMap,
        Self::TrustUncompared,
        Self::NoOutdatedNote,
        Self::ForgetSpoiledResync,
        Self::AnswerBeforeGeneration,
        Self::GrantBeforeDurable,
        Self::ReplayInWrongOrder,
    ];
}

#[cfg(feature = "planted")]
mod switch {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Whether this fault is planted in what runs on this thread.
    pub fn is_planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// Runs something on this thread without the fault that is planted.
    pub fn without_planted<R>(run: impl FnOnce() -> R) -> R {
        let planted = PLANTED.take();
        let result = run();
        PLANTED.set(planted);
        result
    }

    /// Runs something on this thread with a fault planted.
    pub fn with_planted<R>(fault: Fault, run: impl FnOnce() -> R) -> R {
        struct Healthy;
        impl Drop for Healthy {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        PLANTED.set(Some(fault));
        let _healthy = Healthy;
        run()
    }
}

#[cfg(feature = "planted")]
pub use switch::{is_planted, with_planted, without_planted};

/// Never, in a build for use.
#[cfg(not(feature = "planted"))]
#[inline]
pub const fn is_planted(_: Fault) -> bool {
    false
}
