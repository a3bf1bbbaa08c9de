//! Fault rules: errors, delays and hangs that the fault layer lays over a volume's lower disk.

use super::reader::Reader;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Operations that a rule hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes; sectors do not matter.
    Flush,
    /// All of them.
    Any,
}

/// How long a rule holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FaultMode {
    /// Until it is removed.
    #[default]
    Always,
    /// For so many operations, at least 1.
    Times(u32),
    /// Each sector until it is written: a disk that remaps a bad sector.
    UntilWritten,
}

/// A mode that is none of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no fault mode (allowed: \"always\", \"times=N\" with N from 1, \"until-written\")")]
pub struct UnknownFaultMode(pub String);

impl FromStr for FaultMode {
    type Err = UnknownFaultMode;

    fn from_str(text: &str) -> Result<Self, UnknownFaultMode> {
        let unknown = || UnknownFaultMode(text.into());
        match text {
            "always" => Ok(Self::Always),
            "until-written" => Ok(Self::UntilWritten),
            _ => match text.strip_prefix("times=").and_then(|count| count.parse().ok()) {
                Some(count) if count > 0 => Ok(Self::Times(count)),
                _ => Err(unknown()),
            },
        }
    }
}

impl fmt::Display for FaultMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Times(count) => write!(f, "times={count}"),
            Self::UntilWritten => f.write_str("until-written"),
        }
    }
}

impl TryFrom<String> for FaultMode {
    type Error = UnknownFaultMode;

    fn try_from(text: String) -> Result<Self, UnknownFaultMode> {
        text.parse()
    }
}

impl From<FaultMode> for String {
    fn from(mode: FaultMode) -> Self {
        mode.to_string()
    }
}

/// The error with which a hit operation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum FaultError {
    /// EIO, a medium error.
    #[default]
    Eio,
    /// No space.
    Enospc,
    /// No such device or address.
    Enxio,
    /// No such device.
    Enodev,
    /// Protection (checksum) error.
    Eilseq,
    /// Time-out of the device.
    Etimedout,
    /// Target error of the device.
    Eremoteio,
}

impl FaultError {
    /// The error with this Linux error number, if it is one that can be injected.
    pub fn of_errno(errno: i32) -> Option<Self> {
        [
            Self::Eio,
            Self::Enospc,
            Self::Enxio,
            Self::Enodev,
            Self::Eilseq,
            Self::Etimedout,
            Self::Eremoteio,
        ]
        .into_iter()
        .find(|error| error.errno() == errno)
    }

    /// The error number by Linux.
    pub fn errno(self) -> i32 {
        match self {
            Self::Eio => 5,
            Self::Enospc => 28,
            Self::Enxio => 6,
            Self::Enodev => 19,
            Self::Eilseq => 84,
            Self::Etimedout => 110,
            Self::Eremoteio => 121,
        }
    }
}

/// What happens to a hit operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEffect {
    /// It fails and changes nothing.
    Error(FaultError),
    /// It reaches the disk so many milliseconds later.
    Delay(u64),
    /// It reaches the disk when the rule is removed.
    Hang,
}

/// Keys of a rule that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct FaultContradiction {
    /// The key to change.
    pub key: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// One rule: `[[volume.faults]]`, and the body of a fault request to the admin API (there with `_` for `-`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Operations that it hits.
    pub kind: FaultKind,
    /// First sector of the lower disk, meta-data included; only together with `sectors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sector: Option<u64>,
    /// Number of sectors, at least 1; `None`: the whole disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<u32>,
    /// The error of a hit operation; `None`: EIO, unless the rule delays or hangs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FaultError>,
    /// How long the rule holds.
    #[serde(default)]
    pub mode: FaultMode,
    /// Milliseconds by which a hit operation is held back; 0 = not.
    #[serde(default)]
    pub delay_ms: u64,
    /// A hit operation does not end before the rule is removed.
    #[serde(default)]
    pub hang: bool,
}

/// Longest delay, milliseconds.
pub(super) const DELAY_MAX: u64 = 600_000;
/// Highest first sector: with any count it ends below 2^64 bytes.
pub(super) const FIRST_SECTOR_MAX: u64 = u64::MAX >> 10;

impl FaultRule {
    /// What happens to a hit operation.
    pub fn effect(&self) -> FaultEffect {
        match (self.hang, self.delay_ms) {
            (true, _) => FaultEffect::Hang,
            (false, 0) => FaultEffect::Error(self.error.unwrap_or_default()),
            (false, delay) => FaultEffect::Delay(delay),
        }
    }

    /// The sectors that it hits, (first, count); `None`: the whole disk.
    pub fn range(&self) -> Option<(u64, u32)> {
        self.sectors
            .map(|sectors| (self.first_sector.unwrap_or(0), sectors))
    }

    /// Checks what the types leave open: for a rule that came as JSON or from the command line.
    ///
    /// # Errors
    /// A number is out of range, or keys do not go together.
    pub fn check(&self) -> Result<(), FaultContradiction> {
        let effects =
            usize::from(self.error.is_some()) + usize::from(self.delay_ms > 0) + usize::from(self.hang);
        let fails = matches!(self.effect(), FaultEffect::Error(_));
        let refuse = |key, reason| Err(FaultContradiction { key, reason });
        if effects > 1 {
            refuse(
                "error",
                "a rule does one thing: give one of error, delay-ms and hang",
            )
        } else if self.delay_ms > DELAY_MAX {
            refuse("delay-ms", "is too large: at most 600000")
        } else if self.first_sector.is_some() && self.sectors.is_none() {
            refuse(
                "first-sector",
                "needs sectors beside it; leave both out for the whole disk",
            )
        } else if self.sectors == Some(0) || self.first_sector.is_some_and(|first| first > FIRST_SECTOR_MAX) {
            refuse(
                "sectors",
                "names no sectors of a disk: at least 1, ending below 2^64 bytes",
            )
        } else if self.kind == FaultKind::Flush && self.sectors.is_some() {
            refuse("sectors", "a flush has no sectors: leave them out")
        } else if self.mode == FaultMode::UntilWritten && !(self.kind == FaultKind::Read && fails) {
            refuse("mode", "until-written goes with kind read and an error only")
        } else if self.mode == FaultMode::Times(0) {
            refuse("mode", "times=N needs an N from 1")
        } else {
            Ok(())
        }
    }

    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        reader.refuse_unknown_keys();
        let mode = reader.text("mode").unwrap_or_default();
        let mode = mode.parse().unwrap_or_else(|_| {
            reader.refuse("mode", "is no fault mode");
            FaultMode::Always
        });
        let rule = Self {
            kind: reader.choice("kind").unwrap_or(FaultKind::Any),
            first_sector: reader.integer("first-sector"),
            sectors: reader.integer("sectors").map(|sectors| sectors as u32),
            error: reader.choice("error"),
            mode,
            delay_ms: reader.integer("delay-ms").unwrap_or(0),
            hang: reader.boolean("hang"),
        };
        if let (Some(_), Err(contradiction)) = (reader.value("kind"), rule.check()) {
            reader.refuse_plainly(contradiction.key, contradiction.reason);
        }
        rule
    }
}

/// A rule that a node has, with the number by which it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultEntry {
    /// Number within the volume.
    pub number: u64,
    /// Operations that it has hit.
    pub hits: u64,
    /// The rule.
    pub rule: FaultRule,
}
