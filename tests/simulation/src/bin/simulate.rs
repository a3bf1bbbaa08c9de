//! Storms for as long as you like:
//!
//! ```text
//! cargo run --release -p mendblock-simulation --bin simulate -- --minutes 30
//! cargo run --release -p mendblock-simulation --bin simulate -- --seed 42           # one storm again
//! cargo run --release -p mendblock-simulation --bin simulate -- --replay plan.json
//! ```
//!
//! A storm that fails is shortened and written to a file. Exit code 1 if any failed.

use clap::Parser;
use mendblock_core::planted::Fault;
use mendblock_kit::coverage::Coverage;
use mendblock_simulation::storm::plan::{Mode, Plan};
use mendblock_simulation::storm::planted::{find, shorten};
use mendblock_simulation::storm::run::run;
use mendblock_simulation::storm::shrink::shrink;
use mendblock_simulation::storm::table::table;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A third of the time went into fresh pages of the system for buffers that live for moments.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Storms on two simulated nodes.
#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The storm of this seed alone (with TRACE=1: every message).
    #[arg(long)]
    seed: Option<u64>,
    /// A plan from a file alone.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// The first seed; without it, a fresh one is drawn and printed.
    #[arg(long)]
    first: Option<u64>,
    /// Only storms beyond what the promises cover, or only inside; without it, every fourth goes beyond.
    #[arg(long, value_parser = ["inside", "beyond"])]
    mode: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Runs to shorten a storm that fails.
    #[arg(long, default_value_t = 400)]
    tries: usize,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 5)]
    failures: u64,
    /// Plant each known fault, and say in which storm (of so many, from `--first` or 1 on) it was found.
    #[arg(long)]
    planted: Option<u64>,
    /// Of the known faults this one alone.
    #[arg(long, requires = "planted")]
    fault: Option<String>,
    /// Write the shortened storms that found them into this directory.
    #[arg(long, requires = "planted")]
    keep: Option<PathBuf>,
    /// Show the table of what was reached.
    #[arg(long)]
    table: bool,
}

#[derive(Default)]
struct Sums {
    coverage: Coverage,
    storms: u64,
    beyond: u64,
    events: u64,
    requests: u64,
    failures: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.replay {
        return replay(path);
    }
    if let Some(seed) = arguments.seed {
        return one(&Plan::of_seed(seed, mode_of(&arguments, seed)));
    }
    if let Some(most) = arguments.planted {
        return plant(&arguments, most);
    }
    let first = arguments.first.unwrap_or_else(|| fastrand::u64(1 << 32..1 << 48));
    println!("first seed {first}");
    let (next, sums, begun) = (AtomicU64::new(first), Mutex::new(Sums::default()), Instant::now());
    let budget = Duration::from_secs_f64(arguments.minutes * 60.0);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| work(&arguments, &next, &sums, begun, budget));
        }
        progress(&arguments, &sums, begun, budget);
    });
    let sums = sums.into_inner().unwrap_or_default();
    say(&sums, begun);
    if arguments.table {
        print!("{}", table(&sums.coverage));
    }
    ExitCode::from(u8::from(sums.failures > 0))
}

fn plant(arguments: &Arguments, most: u64) -> ExitCode {
    let mut missed = 0;
    let is_meant = |fault: &Fault| {
        let name = arguments.fault.as_deref();
        name.is_none_or(|name| name.eq_ignore_ascii_case(&format!("{fault:?}")))
    };
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(is_meant).collect();
    if faults.is_empty() {
        eprintln!("there is no such fault; there are {:?}", Fault::ALL);
        return ExitCode::from(2);
    }
    for fault in faults {
        match find(fault, arguments.first.unwrap_or(1), most) {
            Some(found) => {
                println!(
                    "{fault:?}: storm {} of {most}: {}",
                    found.plan.seed,
                    first_lines(&found.failure, 2)
                );
                if let Some(directory) = &arguments.keep {
                    let plan = shorten(fault, &found, arguments.tries);
                    keep(&directory.join(format!("{fault:?}.json")), &plan);
                }
            }
            None => {
                missed += 1;
                println!("{fault:?}: NOT FOUND in {most} storms");
            }
        }
    }
    ExitCode::from(u8::from(missed > 0))
}

fn mode_of(arguments: &Arguments, seed: u64) -> Mode {
    match arguments.mode.as_deref() {
        Some("inside") => Mode::Inside,
        Some(_) => Mode::Beyond,
        None if seed % 4 == 3 => Mode::Beyond,
        None => Mode::Inside,
    }
}

fn work(arguments: &Arguments, next: &AtomicU64, sums: &Mutex<Sums>, begun: Instant, budget: Duration) {
    while begun.elapsed() < budget {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let plan = Plan::of_seed(seed, mode_of(arguments, seed));
        let result = run(&plan);
        let failed = {
            let Ok(mut sums) = sums.lock() else { return };
            sums.storms += 1;
            sums.beyond += u64::from(plan.mode == Mode::Beyond);
            match result {
                Ok(outcome) => {
                    sums.coverage.add(&outcome.coverage);
                    sums.events += outcome.events;
                    sums.requests += outcome.requests;
                    None
                }
                Err(failure) => {
                    sums.failures += 1;
                    Some((failure, sums.failures >= arguments.failures))
                }
            }
        };
        if let Some((failure, last)) = failed {
            println!(
                "seed {seed} ({:?}) failed: {}",
                plan.mode,
                first_lines(&failure, 3)
            );
            let (plan, failure) = shrink(&plan, failure, arguments.tries);
            report(&plan, &failure);
            if last {
                return;
            }
        }
    }
}

fn progress(arguments: &Arguments, sums: &Mutex<Sums>, begun: Instant, budget: Duration) {
    let mut said = Instant::now();
    while begun.elapsed() < budget {
        std::thread::sleep(Duration::from_millis(200));
        let Ok(sums) = sums.lock() else { return };
        if sums.failures >= arguments.failures {
            return;
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            say(&sums, begun);
        }
    }
}

fn say(sums: &Sums, begun: Instant) {
    let hours = begun.elapsed().as_secs_f64() / 3600.0;
    println!(
        "{:.0} s: {} storms ({} beyond), {:.0} an hour, {} events, {} requests, {} failures",
        hours * 3600.0,
        sums.storms,
        sums.beyond,
        sums.storms as f64 / hours,
        sums.events,
        sums.requests,
        sums.failures
    );
}

fn first_lines(text: &str, count: usize) -> String {
    text.lines().take(count).collect::<Vec<_>>().join(" | ")
}

/// A failing plan, as short as it got.
fn report(plan: &Plan, failure: &str) {
    let path = PathBuf::from(format!("storm-{}.json", plan.seed));
    println!("shortened to {:?}\n{failure}", plan.actions);
    if keep(&path, plan) {
        let path = path.display();
        println!("again: cargo run --release -p mendblock-simulation --bin simulate -- --replay {path}");
    }
}

/// Whether it could be written.
fn keep(path: &std::path::Path, plan: &Plan) -> bool {
    let json = serde_json::to_string_pretty(plan).unwrap_or_default();
    let written = std::fs::write(path, json + "\n");
    if let Err(error) = &written {
        println!("{} cannot be written: {error}", path.display());
    }
    written.is_ok()
}

fn replay(path: &std::path::Path) -> ExitCode {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{} cannot be read: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    match serde_json::from_str(&text) {
        Ok(plan) => one(&plan),
        Err(error) => {
            eprintln!("{} is no plan: {error}", path.display());
            ExitCode::from(2)
        }
    }
}

fn one(plan: &Plan) -> ExitCode {
    println!("{plan:?}");
    match run(plan) {
        Ok(outcome) => {
            println!("well: {} events, digest {:016x}", outcome.events, outcome.digest);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}
