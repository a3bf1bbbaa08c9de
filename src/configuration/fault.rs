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
    /// The operation succeeds: for a rule that only delays.
    #[serde(rename = "none")]
    None,
}

impl FaultError {
    /// The errno by Linux' numbers; `None` where the operation succeeds.
    pub fn errno(self) -> Option<i32> {
        Some(match self {
            Self::Eio => 5,
            Self::Enospc => 28,
            Self::Enxio => 6,
            Self::Enodev => 19,
            Self::Eilseq => 84,
            Self::Etimedout => 110,
            Self::Eremoteio => 121,
            Self::None => return None,
        })
    }
}

/// One rule: `[[volume.faults]]`, and the body of a fault request to the admin API (there with `_` for `-`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Operations that it hits.
    pub kind: FaultKind,
    /// First sector of the lower disk, meta-data included.
    #[serde(default)]
    pub first_sector: u64,
    /// Number of sectors, at least 1; `None`: to the end of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sectors: Option<u64>,
    /// How a hit operation ends.
    #[serde(default)]
    pub error: FaultError,
    /// How long the rule holds.
    #[serde(default)]
    pub mode: FaultMode,
    /// Milliseconds by which a hit operation is held back.
    #[serde(default)]
    pub delay_ms: u64,
    /// A hit operation never ends.
    #[serde(default)]
    pub hang: bool,
}

impl FaultRule {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        reader.refuse_unknown_keys();
        let mode = reader.text("mode").unwrap_or_default();
        let mode = mode.parse().unwrap_or_else(|_| {
            reader.refuse("mode", "is no fault mode");
            FaultMode::Always
        });
        let rule = Self {
            kind: reader.choice("kind").unwrap_or(FaultKind::Any),
            first_sector: reader.integer("first-sector").unwrap_or(0),
            sectors: reader.integer("sectors"),
            error: reader.choice("error").unwrap_or_default(),
            mode,
            delay_ms: reader.integer("delay-ms").unwrap_or(0),
            hang: reader.boolean("hang"),
        };
        rule.check(reader);
        rule
    }

    fn check(&self, reader: &mut Reader<'_, '_>) {
        if self.error == FaultError::None && self.delay_ms == 0 && !self.hang {
            reader.refuse(
                "error",
                "this rule would do nothing: it needs an error, a delay-ms or hang",
            );
        }
        if self
            .sectors
            .is_some_and(|sectors| self.first_sector.checked_add(sectors).is_none())
        {
            reader.refuse("sectors", "first-sector + sectors is beyond any disk");
        }
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
