//! What a run has to say in the end, as text and as JSON.

use crate::fio::Passes;
use crate::leaks::{BOUNDS, Holds, Life};
use crate::meter::{Stall, Summary};
use mendblock_harness::load::{ClientError, Ended};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A client got an error.
    ClientError,
    /// A client, or a look at a disk, found what cannot be true.
    WrongData,
    /// Something that has to happen did not, in its time.
    NotInTime,
    /// A connection broke although the process lived.
    Reconnect,
    /// An actor died, or a process ended, without an order.
    Death,
    /// A process holds more and more.
    Leak,
}

/// Something that must not happen did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// What kind.
    pub class: Class,
    /// What exactly.
    pub text: String,
}

/// Deaths of a kind of actor, by way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ways {
    /// By a panic.
    pub panic: u64,
    /// By being stopped.
    pub stop: u64,
    /// By hanging.
    pub hang: u64,
}

/// All that a run did and found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Draws the troubles.
    pub seed: u64,
    /// How long it took.
    pub minutes: f64,
    /// `on-io-error` of both nodes.
    pub policy: String,
    /// Requests of the checking clients that were answered.
    pub requests: u64,
    /// Sectors whose write was acknowledged, each time.
    pub acknowledged_sectors: usize,
    /// What `fio` did.
    pub fio: Passes,
    /// Rounds, by kind.
    pub rounds: BTreeMap<String, u64>,
    /// Deaths of actors.
    pub actor_deaths: u64,
    /// Deaths by kind.
    pub deaths: BTreeMap<String, Ways>,
    /// Troubles of all other kinds.
    pub troubles: BTreeMap<String, u64>,
    /// Times that the Primary's process was killed.
    pub primary_kills: u64,
    /// Connections that clients made again: each is explained by a kill of the Primary's process.
    pub reconnects: u64,
    /// The longest wait for an answer.
    pub longest_stall: Stall,
    /// From a trouble to the answer of the first answered request that was sent after it.
    pub back_to_service: BTreeMap<String, Summary>,
    /// From the end of a round's troubles until both nodes were in sync.
    pub in_sync: BTreeMap<String, Summary>,
    /// Errors that clients saw.
    pub client_errors: u64,
    /// Answers and blocks that cannot be true.
    pub wrong_data: u64,
    /// Most growth of a process.
    pub leak_bounds: Holds,
    /// What each process held.
    pub lives: Vec<Life>,
    /// What must not happen and did.
    pub violations: Vec<Violation>,
    /// What happened before the first violation.
    pub last_actions: Vec<String>,
    /// Directories that are kept.
    pub kept: Vec<PathBuf>,
}

impl Report {
    /// Writes down a violation.
    pub fn violated(&mut self, class: Class, text: impl Into<String>) {
        match class {
            Class::ClientError => self.client_errors += 1,
            Class::WrongData => self.wrong_data += 1,
            Class::NotInTime | Class::Reconnect | Class::Death | Class::Leak => {}
        }
        self.violations.push(Violation {
            class,
            text: text.into(),
        });
    }

    /// Whether nothing happened that must not.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }

    /// Writes down what clients saw until they ended.
    pub fn clients(&mut self, ended: Ended) {
        self.requests += ended.requests;
        self.reconnects += ended.reconnects;
        for error in ended.errors {
            let class = match &error {
                ClientError::WrongData(_) => Class::WrongData,
                ClientError::NoAnswer => Class::NotInTime,
                ClientError::Broken(_) => Class::Reconnect,
                ClientError::Unreachable(_) | ClientError::Refused(_) | ClientError::Unasked(_) => {
                    Class::ClientError
                }
            };
            self.violated(class, error.to_string());
        }
    }

    /// Connections that broke more often than the Primary's process did.
    pub fn check_reconnects(&mut self, clients: u64) {
        let explained = self.primary_kills * clients;
        if self.reconnects > explained {
            let text = format!(
                "{} connections broke; {} kills of the Primary's process explain {explained}",
                self.reconnects, self.primary_kills
            );
            self.violated(Class::Reconnect, text);
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.what_happened(f)?;
        self.times(f)?;
        self.leaks(f)?;
        for action in &self.last_actions {
            writeln!(f, "  {action}")?;
        }
        for Violation { class, text } in &self.violations {
            writeln!(f, "VIOLATION {class:?}: {text}")?;
        }
        for directory in &self.kept {
            writeln!(f, "kept: {}", directory.display())?;
        }
        let verdict = if self.is_good() { "good" } else { "VIOLATED" };
        write!(f, "seed {}: {verdict}", self.seed)
    }
}

impl Report {
    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, {:.1} minutes, on-io-error {}\n{} requests, {} acknowledged sectors, {} client errors, {} wrong data",
            self.seed,
            self.minutes,
            self.policy,
            self.requests,
            self.acknowledged_sectors,
            self.client_errors,
            self.wrong_data
        )?;
        let Passes {
            is_installed,
            written,
            verified,
            interrupted,
        } = self.fio;
        if is_installed {
            writeln!(
                f,
                "fio: {written} passes written, {verified} verified, {interrupted} interrupted by kills of the Primary's process"
            )
        } else {
            writeln!(f, "fio is not installed: it took no part")
        }
    }

    fn what_happened(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "rounds: {}", counts(&self.rounds))?;
        writeln!(
            f,
            "{} deaths of actors\n  {:14} {:>7} {:>7} {:>7}",
            self.actor_deaths, "actor", "panic", "stop", "hang"
        )?;
        for (actor, Ways { panic, stop, hang }) in &self.deaths {
            writeln!(f, "  {actor:14} {panic:>7} {stop:>7} {hang:>7}")?;
        }
        writeln!(f, "other troubles: {}", counts(&self.troubles))?;
        writeln!(
            f,
            "{} reconnects of clients, explained by {} kills of the Primary's process",
            self.reconnects, self.primary_kills
        )
    }

    fn times(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Stall { seconds, after } = &self.longest_stall;
        writeln!(f, "longest client stall: {seconds:.3} s, after")?;
        for trouble in after {
            writeln!(f, "  {trouble}")?;
        }
        table(f, "back to service, ms", &self.back_to_service)?;
        table(f, "in sync after a round of, ms", &self.in_sync)
    }

    fn leaks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = |holds: Holds| {
            format!(
                "{:>7} KiB {:>4} descriptors {:>3} threads",
                holds.resident_kib, holds.descriptors, holds.threads
            )
        };
        writeln!(f, "processes in quiet moments; most growth: {}", text(BOUNDS))?;
        for life in self.lives.iter().filter(|life| life.moments > 1) {
            writeln!(
                f,
                "  {:6} {:>6.0} s {:>6} deaths: first {}, last {}, growth {}",
                life.node,
                life.seconds,
                life.deaths,
                text(life.first),
                text(life.last),
                text(life.growth)
            )?;
        }
        Ok(())
    }
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let each = counts.iter().map(|(name, count)| format!("{name} {count}"));
    each.collect::<Vec<_>>().join(", ")
}

fn table(f: &mut Formatter<'_>, title: &str, rows: &BTreeMap<String, Summary>) -> fmt::Result {
    writeln!(
        f,
        "{title:40} {:>6} {:>9} {:>9} {:>9}",
        "count", "p50", "p99", "max"
    )?;
    for (name, row) in rows {
        let Summary {
            count,
            p50_ms,
            p99_ms,
            max_ms,
        } = row;
        writeln!(
            f,
            "  {name:38} {count:>6} {p50_ms:>9.1} {p99_ms:>9.1} {max_ms:>9.1}"
        )?;
    }
    Ok(())
}
