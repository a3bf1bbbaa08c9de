//! The fuzzer's command line.

use clap::Parser;
use mendblock_fuzz::corpus;
use mendblock_fuzz::execute::execute;
use mendblock_fuzz::run::{Before, Failure, Limit, Report, Settings, run};
use mendblock_fuzz::target::{Finding, Target};
use mendblock_fuzz::targets;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Attacks everything that reads bytes from outside.
#[derive(Parser)]
#[command(name = "mendblock-fuzz")]
struct Arguments {
    /// A target, `all`, `replay` (FILES are inputs in a folder that is named after their target), or `choose` (with
    /// --target: keeps the --keep inputs of its corpus that show the most, and removes the others).
    #[arg(default_value = "all")]
    what: String,
    /// Inputs for `replay`.
    files: Vec<PathBuf>,
    /// Shows the targets with their limits.
    #[arg(long)]
    list: bool,
    /// How long; `all` divides it among the targets.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Ends after so many executions of each target, whatever time they take.
    #[arg(long)]
    executions: Option<u64>,
    /// The run's seed; else one from the clock, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes inputs that showed something new to the corpus.
    #[arg(long)]
    save: bool,
    /// Target of the inputs of `replay`, where their folder does not say it.
    #[arg(long)]
    target: Option<String>,
    /// How many inputs `choose` keeps.
    #[arg(long, default_value_t = 40)]
    keep: usize,
    /// Writes each input to this file before it is executed: the last one is what ended the process.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Seconds after which an input counts as endless.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Where inputs that show a fault are written.
    #[arg(long, default_value = "fuzz-findings")]
    findings: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // As much stack as an actor's thread has: what overflows there must overflow here.
    let thread = std::thread::Builder::new()
        .name("fuzz".into())
        .stack_size(2 << 20)
        .spawn(move || act(&arguments).map_err(|error| error.to_string()));
    let outcome = thread
        .map_err(|error| error.to_string())
        .and_then(|thread| thread.join().map_err(|_| "the fuzzer itself panicked".into()))
        .flatten();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mendblock-fuzz: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether no fault was found.
fn act(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    if arguments.list {
        list();
        return Ok(true);
    }
    match arguments.what.as_str() {
        "replay" => replay(arguments),
        "choose" => choose(arguments),
        "all" => fuzz(&targets::all(), arguments),
        name => fuzz(&[find(name)?], arguments),
    }
}

fn find(name: &str) -> Result<&'static dyn Target, String> {
    targets::find(name).ok_or_else(|| {
        let known: Vec<_> = targets::all().iter().map(|target| target.name()).collect();
        format!(
            "there is no target {name:?}; there are: all, {}",
            known.join(", ")
        )
    })
}

fn list() {
    for target in targets::all() {
        let cap = target.cap();
        println!("{:<14} {}", target.name(), target.about());
        println!("{:<14} holds at most {} bytes: {}", "", cap.bytes, cap.because);
    }
}

fn fuzz(targets: &[&'static dyn Target], arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|now| now.as_nanos() as u64)
    };
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => clock()? % 1_000_000_000,
    };
    println!("seed {seed}");
    println!(
        "{:<14} {:>12} {:>10} {:>8} {:>8} {:>10} {:>9}",
        "target", "executions", "per second", "shapes", "corpus", "peak bytes", "slowest"
    );
    let share = Duration::from_secs(arguments.seconds) / targets.len() as u32;
    let limit = arguments.executions.map_or(Limit::Time(share), Limit::Executions);
    let mut good = true;
    for &target in targets {
        let committed = corpus::load(&corpus::folder(target.name()))?;
        let committed = committed.into_iter().map(|(_, input)| input).collect();
        let report = run(target, committed, settings(target, seed, limit, arguments)?);
        print_line(target, &report);
        if arguments.save {
            for input in &report.discovered {
                corpus::save(&corpus::folder(target.name()), "found-", input)?;
            }
        }
        if let Some(failure) = &report.failure {
            good = false;
            report_failure(target, failure, seed, &arguments.findings)?;
        }
    }
    Ok(good)
}

fn settings(
    target: &'static dyn Target,
    seed: u64,
    limit: Limit,
    arguments: &Arguments,
) -> Result<Settings, Box<dyn Error>> {
    let patience = Duration::from_secs(arguments.patience);
    let findings = arguments.findings.clone();
    let mut record = arguments.record.as_ref().map(File::create).transpose()?;
    Ok(Settings {
        seed,
        limit,
        patience,
        on_hang: Box::new(move |input| {
            let finding = Finding::Hang {
                seconds: patience.as_secs_f64(),
            };
            let failure = Failure {
                finding,
                input: input.to_vec(),
                smallest: input.to_vec(),
            };
            if let Err(error) = report_failure(target, &failure, seed, &findings) {
                eprintln!("mendblock-fuzz: the input cannot be written: {error}");
            }
            // The thread that runs the input cannot be stopped, only the process.
            std::process::exit(1);
        }),
        before: record.take().map(|mut file| -> Before {
            Box::new(move |input| {
                let written = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(input));
                if let Err(error) = written {
                    eprintln!("mendblock-fuzz: the input cannot be recorded: {error}");
                }
            })
        }),
    })
}

fn print_line(target: &dyn Target, report: &Report) {
    let seconds = report.elapsed.as_secs_f64().max(1e-9);
    println!(
        "{:<14} {:>12} {:>10.0} {:>8} {:>8} {:>10} {:>6.1} ms",
        target.name(),
        report.executions,
        report.executions as f64 / seconds,
        report.shapes,
        report.corpus,
        report.peak,
        report.slowest.as_secs_f64() * 1e3,
    );
}

fn report_failure(target: &dyn Target, failure: &Failure, seed: u64, findings: &Path) -> std::io::Result<()> {
    let folder = findings.join(target.name());
    let found = corpus::save(&folder, "as-found-", &failure.input)?;
    let path = corpus::save(&folder, "", &failure.smallest)?;
    println!("FOUND in {}: {}", target.name(), failure.finding);
    println!(
        "  seed {seed}, {} bytes: {}",
        failure.input.len(),
        found.display()
    );
    println!(
        "  made smaller, {} bytes: {}",
        failure.smallest.len(),
        path.display()
    );
    println!(
        "  again: cargo run --release -p mendblock-fuzz -- replay {}",
        path.display()
    );
    Ok(())
}

fn replay(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let mut good = true;
    for path in &arguments.files {
        let folder = path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        let name = arguments.target.as_deref().or(folder);
        let target = find(name.ok_or("name the target with --target")?)?;
        let verdict = execute(target, &fs::read(path)?);
        let outcome = match &verdict.finding {
            None => "nothing found".into(),
            Some(finding) => format!("FOUND: {finding}"),
        };
        good &= verdict.finding.is_none();
        println!(
            "{}: {outcome} ({}, {} shapes, peak {} bytes)",
            path.display(),
            target.name(),
            verdict.features.len(),
            verdict.peak
        );
    }
    Ok(good)
}

fn choose(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let name = arguments
        .target
        .as_deref()
        .ok_or("name the target with --target")?;
    let target = find(name)?;
    let folder = corpus::folder(name);
    let found = corpus::load(&folder)?;
    let inputs = found.iter().map(|(_, input)| input.clone()).collect();
    let best = corpus::best(target, inputs, arguments.keep);
    for (path, input) in &found {
        let is_by_hand = path
            .file_name()
            .is_some_and(|name| !name.to_string_lossy().starts_with("found-"));
        if !is_by_hand && !best.contains(input) {
            fs::remove_file(path)?;
        }
    }
    println!("{name}: {} of {} inputs kept", best.len(), found.len());
    Ok(true)
}
