//! A run from its seed to its report.

use crate::fio::Failure;
use crate::report::{Class, Report};
use crate::stage::Stage;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two quiet moments.
const QUIET_EVERY: Duration = Duration::from_secs(20);

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Orders {
    /// How long new troubles are made.
    pub budget: Duration,
    /// Where all chance comes from; processes and the kernel keep their own time.
    pub seed: u64,
    /// Whether `fio` takes part.
    pub with_fio: bool,
    /// Whether each trouble is told on standard error.
    pub tells: bool,
    /// Whether it goes on with a line every 10 s.
    pub shows_progress: bool,
    /// Set by somebody else: it comes to its end now.
    pub interrupted: Arc<AtomicBool>,
}

impl Orders {
    /// A run that nobody watches.
    pub fn new(seed: u64, budget: Duration) -> Self {
        Self {
            budget,
            seed,
            with_fio: true,
            tells: false,
            shows_progress: false,
            interrupted: Arc::default(),
        }
    }
}

/// The whole run. Whatever happens, it ends with a report.
pub fn run(orders: &Orders) -> Report {
    let mut stage = match catch_unwind(|| Stage::new(orders)) {
        Ok(stage) => stage,
        Err(panic) => {
            let mut report = Report {
                seed: orders.seed,
                ..Report::default()
            };
            report.violated(
                Class::NotInTime,
                format!("the nodes do not start: {}", text(&*panic)),
            );
            return report;
        }
    };
    let ended = catch_unwind(AssertUnwindSafe(|| go_through(&mut stage, orders)));
    if let Err(panic) = ended {
        fail(&mut stage, text(&*panic));
    } else if !stage.report.is_good() {
        stage.give_up();
    }
    stage.sum_up();
    stage.report.clone()
}

fn go_through(stage: &mut Stage, orders: &Orders) {
    let begun = Instant::now();
    let mut are_well = true;
    let mut quiet = begun;
    while !stage.is_over() && stage.report.is_good() {
        // Every other quarter no process is killed: what leaks shows in a process that lives long.
        let quarter = (4.0 * begun.elapsed().as_secs_f64() / orders.budget.as_secs_f64()) as u64;
        are_well = stage.round(are_well, quarter % 2 == 1);
        if quiet == begun || quiet.elapsed() >= QUIET_EVERY {
            stage.quiet_moment();
            are_well = true;
            quiet = Instant::now();
        }
    }
    if orders.interrupted.load(Ordering::SeqCst) {
        eprintln!("interrupted: the last checks");
    }
    if stage.report.is_good() {
        stage.check();
    }
}

/// A condition did not hold. What clients saw says more than the wait that noticed it.
fn fail(stage: &mut Stage, text: String) {
    let is_checking = stage.is_checking;
    let failure = stage.fio.failure();
    stage.give_up();
    let class = match failure {
        Some(Failure::WrongData(_)) => Class::WrongData,
        Some(Failure::Error(_)) => Class::ClientError,
        None if is_checking => Class::WrongData,
        None if !stage.report.is_good() => return,
        None => Class::NotInTime,
    };
    stage.report.violated(class, text);
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic without a text".into())
}

/// A seed that nobody has used before.
pub fn fresh_seed() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    clock.map_or(1, |since| u64::from(since.subsec_nanos()))
}
