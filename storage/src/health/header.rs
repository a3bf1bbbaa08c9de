//! What a health file says besides its records.

use super::set::RecordSet;
use serde::{Deserialize, Serialize};

/// Longest name of a volume in a health file, in bytes.
pub const VOLUME_NAME_MAX: usize = 128;

/// The content of a health file: everything about one volume on one lower disk that must outlive this disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Health {
    /// Random identifier of this file, which the anchor in the superblock names.
    pub health_id: u64,
    /// Number of this content; the newest valid slot has the highest.
    pub sequence: u64,
    /// Name of the volume, at most [`VOLUME_NAME_MAX`] bytes.
    pub volume: String,
    /// `device_uuid` of the lower disk.
    pub device_id: u64,
    /// Random number that names the present (or last) attach of the disk; 0 = never attached.
    pub attach_id: u64,
    /// The generation that this node works with; goes on where the peer's does while the disk is detached.
    pub generation: u64,
    /// Why and when the disk was last given up.
    pub last_detach: Option<LastDetach>,
    /// The generation identifiers of the own disk.
    pub ids: GenerationSlots,
    /// Raw value of "outdated since"; ask [`Self::outdated_since`] whether it counts.
    pub outdated_mark: Option<u64>,
    /// Raw value of "source open"; ask [`Self::source_open`] whether it counts.
    pub source_open_mark: Option<u64>,
    /// Raw value of the loss for which the generation was made; ask [`Self::loss_answered`] whether it counts.
    pub loss_mark: Option<LossMark>,
    /// Counters of repaired blocks; zero while nothing heals.
    pub heal: HealCounters,
    /// How far the scrubber came; zero while nothing scrubs.
    pub scrub: ScrubProgress,
    /// Bad-block list, suspect records, tombstones.
    pub records: RecordSet,
}

/// The four generation identifiers of a disk (DRBD's current, bitmap and history UUIDs).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct GenerationSlots {
    /// Generation of the data.
    pub current: u64,
    /// Generation of the peer's data from which the bitmap counts; 0 = none.
    pub bitmap: u64,
    /// Former values of `bitmap`, newest first.
    pub history: [u64; 2],
}

/// When and why the disk was given up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LastDetach {
    /// Why.
    pub cause: DetachCause,
    /// Unix seconds.
    pub at: u64,
}

/// Why a disk was given up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum DetachCause {
    /// By command.
    Admin,
    /// A read error.
    Read,
    /// A write error.
    Write,
    /// A failed flush.
    Flush,
    /// A meta-data error.
    Meta,
    /// An operation older than `disk-timeout`.
    Timeout,
    /// The device disappeared.
    DeviceGone,
    /// A bad block could not be rewritten or read back.
    HealFailed,
    /// `heal-per-hour` is spent.
    HealBudgetHour,
    /// `heal-total` is spent.
    HealBudgetTotal,
    /// The same block failed again after it was repaired.
    HealDoesNotHold,
    /// More bad blocks than the list holds.
    TooManyBad,
    /// No space on a thin disk or sparse file.
    NoSpace,
    /// The device is write-protected.
    ReadOnly,
    /// The device became smaller.
    Shrunk,
    /// The device refuses well-formed requests.
    Alignment,
    /// The last step of an attach failed.
    Attach,
    /// Too many buffers are held by operations that do not return.
    Quarantine,
}

/// A generation made because the peer lost its disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LossMark {
    /// The attach id that the peer's lost disk had.
    pub peer_attach_id: u64,
    /// The current generation made for it.
    pub current: u64,
}

/// Counters of repaired blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct HealCounters {
    /// Blocks repaired in the life of this disk.
    pub total_blocks: u32,
    /// Episodes counted towards the budget of an hour, at `last_episode`.
    pub episodes: u32,
    /// Time of the last episode, Unix seconds; 0 = none.
    pub last_episode: u64,
}

/// How far the scrubber came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ScrubProgress {
    /// Next block to read.
    pub cursor: u64,
    /// Errors found in this run.
    pub errors: u32,
    /// End of the last complete run, Unix seconds; 0 = none.
    pub last_complete: u64,
}

/// Whether two identifiers name the same generation: bit 0 is the role, not the name.
fn same_generation(a: u64, b: u64) -> bool {
    a | 1 == b | 1
}

impl Health {
    /// A new file's content for a disk, without any mark or record.
    pub fn new(health_id: u64, volume: &str, device_id: u64) -> Self {
        Self {
            health_id,
            sequence: 0,
            volume: volume.to_owned(),
            device_id,
            attach_id: 0,
            generation: 0,
            last_detach: None,
            ids: GenerationSlots::default(),
            outdated_mark: None,
            source_open_mark: None,
            loss_mark: None,
            heal: HealCounters::default(),
            scrub: ScrubProgress::default(),
            records: RecordSet::new(),
        }
    }

    /// The peer's generation since which the own disk is outdated. A mark that names a generation which the disk has
    /// or had (current, bitmap, history) is void.
    pub fn outdated_since(&self) -> Option<u64> {
        let ids = &self.ids;
        let known = [ids.current, ids.bitmap, ids.history[0], ids.history[1]];
        self.outdated_mark
            .filter(|mark| !known.iter().any(|id| same_generation(*id, *mark)))
    }

    /// Takes up new identifiers of the own disk. A mark "outdated since" that is void by the old ones goes for good: it would
    /// count again once its generation has left the history.
    pub fn set_ids(&mut self, ids: GenerationSlots) {
        self.outdated_mark = self.outdated_since();
        self.ids = ids;
    }

    /// Whether the peer may hold the current generation without this node having heard so: the mark "source open",
    /// which stands only for the generation for which it was made.
    pub fn source_open(&self) -> bool {
        self.source_open_mark
            .is_some_and(|mark| same_generation(mark, self.ids.current))
    }

    /// The attach id of the peer's disk for whose loss the current generation was made; void when it is another now.
    pub fn loss_answered(&self) -> Option<u64> {
        self.loss_mark
            .filter(|mark| same_generation(mark.current, self.ids.current))
            .map(|mark| mark.peer_attach_id)
    }
}
