//! Fault rules: between the words of the configuration and the API and those of the fault layer.

use crate::configuration::{FaultEffect, FaultEntry, FaultKind, FaultMode, FaultRule};
use mendblock_storage::device::fault::{Effect, FaultHandle, FaultKind as Kind, FaultRule as Rule, Mode};
use mendblock_storage::units::SectorRange;

/// Adds a rule under the next free number.
pub fn add(faults: &FaultHandle, rule: &FaultRule) -> Option<FaultEntry> {
    let number = faults
        .list()
        .iter()
        .map(|active| active.rule.id)
        .max()
        .map_or(1, |highest| highest.saturating_add(1));
    faults.add(of(number, rule)).ok()?;
    Some(FaultEntry {
        number: u64::from(number),
        hits: 0,
        rule: rule.clone(),
    })
}

/// All rules in force.
pub fn list(faults: &FaultHandle) -> Vec<FaultEntry> {
    faults
        .list()
        .into_iter()
        .map(|active| FaultEntry {
            number: u64::from(active.rule.id),
            hits: active.hits,
            rule: entry(&active.rule),
        })
        .collect()
}

fn of(id: u32, rule: &FaultRule) -> Rule {
    Rule {
        id,
        kind: match rule.kind {
            FaultKind::Read => Kind::Read,
            FaultKind::Write => Kind::Write,
            FaultKind::Flush => Kind::Flush,
            FaultKind::Any => Kind::Any,
        },
        range: rule
            .range()
            .and_then(|(first, count)| SectorRange::new(first, count)),
        effect: match rule.effect() {
            FaultEffect::Error(error) => Effect::Error { errno: error.errno() },
            FaultEffect::Delay(milliseconds) => Effect::Delay {
                milliseconds: u32::try_from(milliseconds).unwrap_or(u32::MAX),
            },
            FaultEffect::Hang => Effect::Hang,
        },
        mode: match rule.mode {
            FaultMode::Always => Mode::Always,
            FaultMode::Times(count) => Mode::Times { count },
            FaultMode::UntilWritten => Mode::UntilWritten,
        },
    }
}

fn entry(rule: &Rule) -> FaultRule {
    let (error, delay_ms, hang) = match rule.effect {
        Effect::Error { errno } => (crate::configuration::FaultError::of_errno(errno), 0, false),
        Effect::Delay { milliseconds } => (None, u64::from(milliseconds), false),
        Effect::Hang => (None, 0, true),
        Effect::Zeros => (None, 0, false),
    };
    FaultRule {
        kind: match rule.kind {
            Kind::Read => FaultKind::Read,
            Kind::Write => FaultKind::Write,
            Kind::Flush => FaultKind::Flush,
            Kind::Any => FaultKind::Any,
        },
        first_sector: rule.range.map(SectorRange::first),
        sectors: rule.range.map(SectorRange::count),
        error,
        mode: match rule.mode {
            Mode::Always => FaultMode::Always,
            Mode::Times { count } => FaultMode::Times(count),
            Mode::UntilWritten => FaultMode::UntilWritten,
        },
        delay_ms,
        hang,
    }
}
