//! The four generation identifiers of a volume, and the operations that change them.
//!
//! | Slot | Meaning |
//! |---|---|
//! | current | name of the data generation that this disk holds |
//! | bitmap | name of the generation that the peer's disk holds, if another: the bitmap lists every block in which this disk may differ from it. 0 = no such base |
//! | history 0, 1 | former values of the bitmap slot, newest first |
//!
//! Bit 0 of `current`: this node is Primary. Bit 0 of the others: it was Primary when that identifier left
//! `current`. Comparisons between nodes ignore it.

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// One generation identifier: 64 bits, random but for the values below and bit 0.
///
/// In readable formats (JSON) a string of 16 hexadecimal digits, since those lose big numbers; else a number.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// In `current`: no valid data. In `bitmap`: no base. In the history: empty place.
    pub const NONE: Self = Self(0);
    /// `current` as create-md writes it: the disk is Inconsistent until a first sync, a forced promotion or a skip.
    pub const JUST_CREATED: Self = Self(4);
    /// What a source adds to its base to name a resync (K).
    pub const SYNC_OFFSET: u64 = 1 << 48;
    const ROLE: u64 = 1;

    /// Equal when bit 0 of both is ignored (`~`).
    pub fn same(self, other: Self) -> bool {
        self.without_role() == other.without_role()
    }

    /// All 64 bits are 0: rules 34 to 37, NEW and START-SOURCE take 1 for a base.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Bit 0: the holder is, or was, Primary.
    pub fn is_primary(self) -> bool {
        self.0 & Self::ROLE != 0
    }

    /// With bit 0 as given.
    #[must_use]
    pub fn with_role(self, primary: bool) -> Self {
        Self(self.without_role().0 | u64::from(primary))
    }

    /// With bit 0 clear.
    #[must_use]
    pub fn without_role(self) -> Self {
        Self(self.0 & !Self::ROLE)
    }

    /// The name of the resync that starts from this base; wraps at 2^64.
    #[must_use]
    pub fn sync_id(self) -> Self {
        Self(self.0.wrapping_add(Self::SYNC_OFFSET))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(value) if digits => Ok(Self(value)),
            _ => Err(D::Error::invalid_value(
                Unexpected::Str(&text),
                &"16 hexadecimal digits",
            )),
        }
    }
}

/// The four slots of one disk. Prints as `current:bitmap:history0:history1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identifiers {
    /// Name of the data generation on this disk.
    pub current: Generation,
    /// Base of the bitmap, [`Generation::NONE`] when there is none.
    pub bitmap: Generation,
    /// Former bases, newest first.
    pub history: [Generation; 2],
}

impl fmt::Display for Identifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}:{}",
            self.current, self.bitmap, self.history[0], self.history[1]
        )
    }
}

/// The operations. Each gives the new slots; the caller makes them durable (superblock and health file, before what
/// is said at each operation) and sets the exposed identifier ([`super::exposed`]) wherever `current` changed.
/// `primary` is always the own role, `random` 64 fresh random bits.
impl Identifiers {
    /// What create-md writes.
    pub const FRESH: Self = Self {
        current: Generation::JUST_CREATED,
        bitmap: Generation::NONE,
        history: [Generation::NONE; 2],
    };

    /// Attach, promotion and demotion: bit 0 of `current` follows the own role.
    #[must_use]
    pub fn with_role(self, primary: bool) -> Self {
        Self {
            current: self.current.with_role(primary),
            ..self
        }
    }

    /// PUSH: `identifier` becomes the newest history, the oldest is forgotten.
    #[must_use]
    pub fn push(self, identifier: Generation) -> Self {
        Self {
            history: [identifier, self.history[0]],
            ..self
        }
    }

    /// NEW: the bitmap counts from the generation so far; a new one begins. A base in use would be overwritten and a
    /// peer at that base then seem unrelated: unless `bitmap` is known to be empty, use [`Self::advance`], or
    /// [`Self::rotate_out`] first as the command `new-current-uuid` does.
    ///
    /// Durable before the identifiers are sent and before a request that waited for it is answered.
    #[must_use]
    pub fn new_generation(self, primary: bool, random: u64) -> Self {
        Self {
            bitmap: self.current,
            current: Generation(random).with_role(primary),
            ..self
        }
    }

    /// RENAME (ours): a new name for this disk's data while the base stays, where DRBD 8.4 keeps the name.
    /// `source_open` is the mark "the peer may hold this `current`, and I did not hear it"; it stands only while it
    /// names `current`, and then the old name is pushed, so that a peer that has it is recognised as older.
    ///
    /// Durable as [`Self::new_generation`].
    #[must_use]
    pub fn rename(self, primary: bool, random: u64, source_open: Option<Generation>) -> Self {
        let stands = source_open.is_some_and(|mark| mark.same(self.current));
        let kept = if stands { self.push(self.current) } else { self };
        Self {
            current: Generation(random).with_role(primary),
            ..kept
        }
    }

    /// This copy goes on without the other one (ours): NEW if there is no base, else RENAME.
    #[must_use]
    pub fn advance(self, primary: bool, random: u64, source_open: Option<Generation>) -> Self {
        if self.bitmap.is_none() {
            self.new_generation(primary, random)
        } else {
            self.rename(primary, random, source_open)
        }
    }

    /// The peer is, or becomes, Primary without a disk and works with this one (ours): "outdated since" needs a name
    /// that differs from that of the peer's own unattached disk, whose `current` is `unattached` if known. `None`:
    /// nothing to change.
    pub fn for_diskless_primary(
        self,
        primary: bool,
        random: u64,
        source_open: Option<Generation>,
        unattached: Option<Generation>,
    ) -> Option<Self> {
        let needed = self.bitmap.is_none() || unattached.is_some_and(|current| current.same(self.current));
        needed.then(|| self.advance(primary, random, source_open))
    }

    /// ROTATE-OUT: the base goes to the history.
    #[must_use]
    pub fn rotate_out(self) -> Self {
        if self.bitmap.is_none() {
            return self;
        }
        Self {
            bitmap: Generation::NONE,
            ..self.push(self.bitmap)
        }
    }

    /// START-SOURCE: the resync gets a name, which becomes the base: if it breaks off, the target's `current` is that
    /// name (rules 50, 70). Returns the slots and the name for the peer.
    ///
    /// Durable, with the mark "source open" (ours), before the name is sent. A correction of rules 34, 71 or 72 goes
    /// to disk in this write, never earlier.
    #[must_use]
    pub fn start_source(self, random: u64) -> (Self, Generation) {
        let no_base = self.bitmap.is_none() || self.bitmap == Generation::JUST_CREATED;
        let sync_id = if no_base {
            Generation(random)
        } else {
            self.bitmap.sync_id()
        };
        (
            Self {
                bitmap: sync_id,
                ..self.rotate_out()
            },
            sync_id,
        )
    }

    /// START-TARGET: while the data is a mixture, it has the name of the resync. Also the peer's half of skipping the
    /// initial sync, with the initiator's `current` as `sync_id`.
    ///
    /// Durable before the first block is rewritten.
    #[must_use]
    pub fn start_target(self, primary: bool, sync_id: Generation) -> Self {
        Self {
            current: sync_id.with_role(primary),
            bitmap: Generation::NONE,
            ..self
        }
    }

    /// FINISH-SOURCE, on the target's message: the name of the resync goes to the history.
    #[must_use]
    pub fn finish_source(self) -> Self {
        self.rotate_out()
    }

    /// FINISH-TARGET: this copy takes over the source's names; `peer` as last received and as corrected by the
    /// comparison ([`super::Verdict::peer_corrected`]). Afterwards both nodes' slots are equal but for bit 0.
    ///
    /// Durable before "Connected, UpToDate" is sent, on which the source finishes.
    #[must_use]
    pub fn finish_target(self, primary: bool, peer: &Self) -> Self {
        peer.rotate_out().push(self.current).with_role(primary)
    }
}
