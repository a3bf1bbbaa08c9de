//! `mendblock-chaos`: see the package's README.

use clap::Parser;
use mendblock_chaos::program::{Profile, build};
use mendblock_chaos::run::{Orders, fresh_seed, run};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Two real nodes under load, and everything that may happen to them, at random.
#[derive(Debug, Parser)]
struct Arguments {
    /// Minutes for which troubles are made; fractions are fine
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    budget: f64,
    /// Seed of a run that is to be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// File for the report as JSON
    #[arg(long)]
    report: Option<PathBuf>,
    /// The binary to try; built in release if it is not given
    #[arg(long)]
    mendblock: Option<PathBuf>,
    /// Leave fio out
    #[arg(long)]
    without_fio: bool,
    /// Tell each trouble
    #[arg(long, short)]
    verbose: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is no number of minutes"))?;
    if (0.01..=100_000.0).contains(&minutes) {
        Ok(minutes)
    } else {
        Err("give 0.01 to 100000 minutes".into())
    }
}

fn main() -> ExitCode {
    match chaos(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mendblock-chaos: {error}");
            ExitCode::from(2)
        }
    }
}

fn chaos(arguments: &Arguments) -> io::Result<ExitCode> {
    let binary = match &arguments.mendblock {
        Some(path) => path.canonicalize()?,
        None => build(Profile::Release)?,
    };
    println!("{}", binary.display());
    mendblock_harness::program::choose(binary)
        .map_err(|path| io::Error::other(format!("{} cannot be chosen any more", path.display())))?;
    let interrupted = Arc::<AtomicBool>::default();
    listen(Arc::clone(&interrupted))?;
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}, {} minutes", arguments.budget);
    let report = run(&Orders {
        budget: Duration::from_secs_f64(arguments.budget * 60.0),
        seed,
        with_fio: !arguments.without_fio,
        tells: arguments.verbose,
        shows_progress: true,
        interrupted,
    });
    println!("{report}");
    if let Some(file) = &arguments.report {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Ctrl-C ends the run in order.
fn listen(interrupted: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        // If no signal can be waited for, Ctrl-C ends the process at once, as ever.
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            interrupted.store(true, Ordering::SeqCst);
        }
    });
    Ok(())
}
