//! The loop: take an input, change it, execute it, keep it if its outcome shows something new.

use crate::execute::{Verdict, execute};
use crate::mutate;
use crate::shrink::shrink;
use crate::target::{Breach, Finding, Style, Target};
use crate::text;
use crate::watchdog::{OnHang, Watchdog};
use fastrand::Rng;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Inputs that are kept in memory at the most; then a new one takes the place of an old one.
const MOST_INPUTS: usize = 8192;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After so many executions.
    Executions(u64),
    /// After so much time.
    Time(Duration),
}

/// Gets an input before it is executed.
pub type Before = Box<dyn FnMut(&[u8])>;

/// How a target is run.
pub struct Settings {
    /// The same seed, sources and corpus give the same inputs in the same order.
    pub seed: u64,
    /// When it ends.
    pub limit: Limit,
    /// Longest time for one input.
    pub patience: Duration,
    /// What is done about an input that takes longer.
    pub on_hang: OnHang,
    /// Gets each input before it is executed: what ends the whole process (a stack overflow) can be found that way.
    pub before: Option<Before>,
}

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Executions, those of the first inputs too.
    pub executions: u64,
    /// Time that they took.
    pub elapsed: Duration,
    /// Features seen.
    pub shapes: usize,
    /// Inputs kept.
    pub corpus: usize,
    /// Inputs that this run found and that showed something new.
    pub discovered: Vec<Vec<u8>>,
    /// Most bytes that one input made the decoder hold.
    pub peak: usize,
    /// Longest time of one input.
    pub slowest: Duration,
    /// The first thing that went wrong, with its input as found and made smaller.
    pub failure: Option<Failure>,
}

/// An input that shows a fault.
#[derive(Debug)]
pub struct Failure {
    /// The fault.
    pub finding: Finding,
    /// The input as it was found.
    pub input: Vec<u8>,
    /// The smallest one found that does the same.
    pub smallest: Vec<u8>,
}

/// Runs a target, beginning with its own seeds and `committed`.
pub fn run(target: &dyn Target, committed: Vec<Vec<u8>>, settings: Settings) -> Report {
    let Settings {
        seed,
        limit,
        patience,
        on_hang,
        before,
    } = settings;
    let mut run = Run {
        target,
        words: target.words(),
        random: Rng::with_seed(seed),
        watchdog: Watchdog::new(patience, on_hang),
        patience,
        before,
        seen: BTreeSet::new(),
        inputs: Vec::new(),
        report: Report {
            executions: 0,
            elapsed: Duration::ZERO,
            shapes: 0,
            corpus: 0,
            discovered: Vec::new(),
            peak: 0,
            slowest: Duration::ZERO,
            failure: None,
        },
    };
    run.go(committed, limit);
    run.report
}

struct Run<'a> {
    target: &'a dyn Target,
    words: Vec<Vec<u8>>,
    random: Rng,
    watchdog: Watchdog,
    patience: Duration,
    before: Option<Before>,
    seen: BTreeSet<u64>,
    inputs: Vec<Vec<u8>>,
    report: Report,
}

impl Run<'_> {
    fn go(&mut self, committed: Vec<Vec<u8>>, limit: Limit) {
        let started = Instant::now();
        for input in self.target.seeds().into_iter().chain(committed) {
            self.try_input(input, false);
        }
        loop {
            self.report.elapsed = started.elapsed();
            let over = match limit {
                Limit::Executions(most) => self.report.executions >= most,
                Limit::Time(time) => self.report.elapsed >= time,
            };
            if over || self.report.failure.is_some() {
                break;
            }
            let input = self.next_input();
            self.try_input(input, true);
        }
        self.report.shapes = self.seen.len();
        self.report.corpus = self.inputs.len();
    }

    /// Executes an input and keeps it if it shows a feature that was not seen before.
    fn try_input(&mut self, input: Vec<u8>, is_new: bool) {
        if self.report.failure.is_some() {
            return;
        }
        let verdict = self.execute(&input);
        self.report.peak = self.report.peak.max(verdict.peak);
        let known = self.seen.len();
        self.seen.extend(&verdict.features);
        if let Some(finding) = verdict.finding {
            return self.fail(input, finding);
        }
        if self.seen.len() == known && is_new {
            return;
        }
        // Once more: an outcome that depends on anything but the input cannot be replayed.
        if self.execute(&input).features != verdict.features {
            let breach = Breach {
                property: "the same input gives the same outcome",
                seen: "two executions differ".into(),
            };
            return self.fail(input, Finding::Property(breach));
        }
        if is_new {
            self.report.discovered.push(input.clone());
        }
        if self.inputs.len() < MOST_INPUTS {
            self.inputs.push(input);
        } else {
            let place = self.random.usize(0..MOST_INPUTS);
            self.inputs[place] = input;
        }
    }

    fn execute(&mut self, input: &[u8]) -> Verdict {
        if let Some(before) = &mut self.before {
            before(input);
        }
        self.report.executions += 1;
        let started = Instant::now();
        let mut verdict = self.watchdog.watch(input, || execute(self.target, input));
        let took = started.elapsed();
        self.report.slowest = self.report.slowest.max(took);
        if took > self.patience && verdict.finding.is_none() {
            verdict.finding = Some(Finding::Hang {
                seconds: self.patience.as_secs_f64(),
            });
        }
        verdict
    }

    fn fail(&mut self, input: Vec<u8>, finding: Finding) {
        let smallest = shrink(self.target, &input, &finding);
        self.report.failure = Some(Failure {
            finding,
            input,
            smallest,
        });
    }

    fn next_input(&mut self) -> Vec<u8> {
        let Self {
            inputs,
            random,
            target,
            words,
            ..
        } = self;
        let empty = Vec::new();
        let pick = |random: &mut Rng| match inputs.len() {
            0 => &empty,
            // The young ones more often: what is new leads on.
            count if random.bool() => &inputs[count - 1 - random.usize(0..count.min(32))],
            count => &inputs[random.usize(0..count)],
        };
        let (chosen, other) = (pick(random), pick(random));
        let mut input = match random.u8(0..8) {
            0..4 => target.restructure(chosen, other, random),
            4..6 if target.style() == Style::Text => Some(text::change(chosen, other, words, random)),
            _ => None,
        }
        .unwrap_or_else(|| {
            let mut input = chosen.clone();
            mutate::bytes(&mut input, other, words, target.longest(), random);
            input
        });
        input.truncate(target.longest());
        // Now and then an input with a wrong checksum, or a wrong length, must be refused too.
        if random.u8(0..4) > 0 {
            target.seal(&mut input);
        }
        input
    }
}
