//! Rules of the fault layer: values that come from an administrator, and what they have met so far.

use super::super::{Action, Summary, errno};
use super::ActiveFault;
use crate::units::{SECTOR_BYTES, SectorRange};
use serde::{Deserialize, Serialize};

/// Longest delay in milliseconds.
const MAX_DELAY: u32 = 600_000;

/// A fault. In JSON: `{"id": 1, "kind": "read", "range": {"first": 204800, "count": 8}, "effect": {"error": {"errno": 5}},
/// "mode": "until-written"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Chosen by who adds it; the lowest acts first.
    pub id: u32,
    /// Which operations.
    pub kind: FaultKind,
    /// Which sectors; absent: the whole disk.
    #[serde(default)]
    pub range: Option<SectorRange>,
    /// What happens to them.
    pub effect: Effect,
    /// How long.
    #[serde(default)]
    pub mode: Mode,
}

/// Which operations a rule meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Reads.
    Read,
    /// Writes, write-zeroes and discards.
    Write,
    /// Flushes; they have no range.
    Flush,
    /// All; flushes only where the rule has no range.
    Any,
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Effect {
    /// Fails with this Linux error number (1..=133) and changes nothing.
    Error {
        /// The number.
        errno: i32,
    },
    /// Reaches the disk later.
    Delay {
        /// 1..=600000.
        milliseconds: u32,
    },
    /// Reaches the disk when the rule is removed.
    Hang,
    /// Reads give zeros for the rule's range until it is written: only with kind `read` and mode `until-written`.
    Zeros,
}

/// How long a rule is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Mode {
    /// Until it is removed.
    #[default]
    Always,
    /// For so many operations.
    Times {
        /// At least 1.
        count: u32,
    },
    /// For each sector until it is written with success, as on a drive that re-allocates: only with kind `read` and an
    /// error or zeros.
    UntilWritten,
}

/// Why a rule is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FaultError {
    /// A number outside its limits.
    #[error("fault rule {id}: {what} is outside {limits}")]
    OutOfRange {
        /// The rule.
        id: u32,
        /// Which number.
        what: &'static str,
        /// What is allowed.
        limits: &'static str,
    },
    /// Parts that do not go together.
    #[error("fault rule {id}: {why}")]
    Contradiction {
        /// The rule.
        id: u32,
        /// What to change.
        why: &'static str,
    },
    /// The id is taken.
    #[error("fault rule {id} exists already: remove it first, or choose another id")]
    Duplicate {
        /// The id.
        id: u32,
    },
    /// No such rule.
    #[error("there is no fault rule {id}: list the rules to see their ids")]
    Unknown {
        /// The id.
        id: u32,
    },
    /// No room.
    #[error("there are {limit} fault rules already: remove some first")]
    TooMany {
        /// How many are allowed.
        limit: usize,
    },
}

impl FaultRule {
    /// Checks what the types leave open.
    pub fn validate(&self) -> Result<(), FaultError> {
        let id = self.id;
        let out_of_range = |what, limits| Err(FaultError::OutOfRange { id, what, limits });
        let contradiction = |why| Err(FaultError::Contradiction { id, why });
        if let Some(range) = self.range {
            // A range that was deserialised has not been through its constructor.
            if SectorRange::new(range.first(), range.count()).is_none()
                || range.end() > u64::MAX / SECTOR_BYTES
            {
                return out_of_range("range", "at least one sector, ending below 2^64 bytes");
            }
            if self.kind == FaultKind::Flush {
                return contradiction("a flush has no range: leave the range out");
            }
        }
        match self.effect {
            Effect::Error { errno } if !(1..=errno::HIGHEST).contains(&errno) => {
                return out_of_range("errno", "1..=133");
            }
            Effect::Delay { milliseconds } if !(1..=MAX_DELAY).contains(&milliseconds) => {
                return out_of_range("milliseconds", "1..=600000");
            }
            Effect::Zeros if self.mode != Mode::UntilWritten => {
                return contradiction("zeros last until the sectors are written: give mode until-written");
            }
            _ => {}
        }
        match self.mode {
            Mode::Times { count: 0 } => out_of_range("count", "1..=4294967295"),
            Mode::UntilWritten if self.kind != FaultKind::Read => {
                contradiction("only reads can fail until written: give kind read")
            }
            Mode::UntilWritten if matches!(self.effect, Effect::Delay { .. } | Effect::Hang) => {
                contradiction("mode until-written goes with effect error or zeros")
            }
            _ => Ok(()),
        }
    }
}

/// The sectors of an operation as (first, end).
pub(super) fn sectors(summary: &Summary) -> (u64, u64) {
    let first = summary.offset / SECTOR_BYTES;
    (first, first + summary.length / SECTOR_BYTES)
}

/// A rule at work.
pub(super) struct RuleState {
    rule: FaultRule,
    hits: u64,
    /// Disjoint, in rising order.
    remaining: Vec<(u64, u64)>,
}

impl RuleState {
    pub(super) fn new(rule: FaultRule) -> Self {
        let all = rule
            .range
            .map_or((0, u64::MAX), |range| (range.first(), range.end()));
        Self {
            rule,
            hits: 0,
            remaining: vec![all],
        }
    }

    pub(super) fn active(&self) -> ActiveFault {
        ActiveFault {
            rule: self.rule.clone(),
            hits: self.hits,
            remaining: self.remaining.clone(),
        }
    }

    pub(super) fn remap_to_zeros(&mut self) {
        self.rule.kind = FaultKind::Read;
        self.rule.effect = Effect::Zeros;
        self.rule.mode = Mode::UntilWritten;
    }

    /// The effect on an operation that comes in; `None`: the rule does not meet it. Zeros act later, on the content.
    pub(super) fn meet(&mut self, summary: &Summary) -> Option<Effect> {
        let met = match (self.rule.kind, summary.action) {
            (FaultKind::Flush, Action::Flush) => true,
            (FaultKind::Any, Action::Flush) => self.rule.range.is_none(),
            (FaultKind::Flush, _) | (_, Action::Flush) => false,
            (FaultKind::Read, action) => action == Action::Read && self.overlaps(summary),
            (FaultKind::Write, action) => action != Action::Read && self.overlaps(summary),
            (FaultKind::Any, _) => self.overlaps(summary),
        };
        let spent = matches!(self.rule.mode, Mode::Times { count } if self.hits >= u64::from(count));
        if !met || spent || self.rule.effect == Effect::Zeros {
            return None;
        }
        self.hits += 1;
        Some(self.rule.effect)
    }

    fn overlaps(&self, summary: &Summary) -> bool {
        let (first, end) = sectors(summary);
        self.remaining.iter().any(|part| part.0 < end && first < part.1)
    }

    /// Whether operations that it met still hang.
    pub(super) fn holds(&self) -> bool {
        self.rule.effect == Effect::Hang
    }

    /// Puts zeros into what was read from `range`.
    pub(super) fn show_zeros(&mut self, range: (u64, u64), buffer: &mut [u8]) {
        if self.rule.effect != Effect::Zeros {
            return;
        }
        let mut hit = false;
        for part in &self.remaining {
            let (first, end) = (part.0.max(range.0), part.1.min(range.1));
            if first < end {
                let byte = |sector: u64| ((sector - range.0) * SECTOR_BYTES) as usize;
                buffer[byte(first)..byte(end)].fill(0);
                hit = true;
            }
        }
        self.hits += u64::from(hit);
    }

    /// Takes a successful write into account.
    pub(super) fn written(&mut self, range: (u64, u64)) {
        if self.rule.mode != Mode::UntilWritten {
            return;
        }
        self.remaining = self
            .remaining
            .iter()
            .flat_map(|&(first, end)| [(first, end.min(range.0)), (first.max(range.1), end)])
            .filter(|(first, end)| first < end)
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(json: &str) -> Result<FaultRule, String> {
        let rule: FaultRule = serde_json::from_str(json).map_err(|error| error.to_string())?;
        rule.validate().map_err(|error| error.to_string())?;
        Ok(rule)
    }

    #[test]
    fn rules_come_from_json() {
        let rule = parse(
            r#"{"id": 1, "kind": "read", "range": {"first": 204800, "count": 8},
                "effect": {"error": {"errno": 5}}, "mode": "until-written"}"#,
        )
        .unwrap();
        assert_eq!(rule.range, SectorRange::new(204_800, 8));
        assert_eq!(
            (rule.effect, rule.mode),
            (Effect::Error { errno: 5 }, Mode::UntilWritten)
        );
        let back = serde_json::to_string(&rule).unwrap();
        assert_eq!(parse(&back), Ok(rule));
        let short = parse(r#"{"id": 2, "kind": "any", "effect": "hang"}"#).unwrap();
        assert_eq!((short.range, short.mode), (None, Mode::Always));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let cases = [
            (
                r#""kind": "read", "effect": {"error": {"errno": 0}}"#,
                "errno is outside 1..=133",
            ),
            (
                r#""kind": "read", "effect": {"delay": {"milliseconds": 600001}}"#,
                "milliseconds",
            ),
            (
                r#""kind": "read", "effect": "hang", "mode": {"times": {"count": 0}}"#,
                "count",
            ),
            (
                r#""kind": "read", "effect": "hang", "mode": "until-written""#,
                "error or zeros",
            ),
            (
                r#""kind": "write", "effect": {"error": {"errno": 5}}, "mode": "until-written""#,
                "kind read",
            ),
            (r#""kind": "read", "effect": "zeros""#, "until-written"),
            (
                r#""kind": "flush", "range": {"first": 0, "count": 1}, "effect": "hang""#,
                "no range",
            ),
            (
                r#""kind": "read", "range": {"first": 0, "count": 0}, "effect": "hang""#,
                "range",
            ),
            (
                r#""kind": "read", "range": {"first": 18446744073709551615, "count": 1}, "effect": "hang""#,
                "range",
            ),
            (
                r#""kind": "read", "effect": "hang", "colour": 1"#,
                "unknown field",
            ),
        ];
        for (body, reason) in cases {
            let error = parse(&format!("{{\"id\": 3, {body}}}")).err();
            assert!(
                error.as_ref().is_some_and(|error| error.contains(reason)),
                "{body}: {error:?}"
            );
        }
    }

    proptest! {
        /// What remains is the range without what was written, sector by sector.
        #[test]
        fn remaining_is_exact(writes in proptest::collection::vec((0..64u64, 1..16u64), 0..12)) {
            let rule = FaultRule {
                id: 1,
                kind: FaultKind::Read,
                range: SectorRange::new(8, 40),
                effect: Effect::Error { errno: 5 },
                mode: Mode::UntilWritten,
            };
            let mut state = RuleState::new(rule);
            let mut model: Vec<bool> = (0..96).map(|sector| (8..48).contains(&sector)).collect();
            for (first, count) in writes {
                state.written((first, first + count));
                model[first as usize..(first + count) as usize].fill(false);
            }
            for (sector, bad) in (0..).zip(model) {
                let read = Summary { action: Action::Read, offset: sector * 512, length: 512 };
                prop_assert_eq!(state.meet(&read).is_some(), bad);
            }
        }
    }
}
