//! Enumerates crash points within a budget, or replays one of them.

use fastrand::Rng;
use mendblock_kit::device::Loss;
use mendblock_simulation::crash_points::campaign::{Campaign, Depth};
use mendblock_simulation::crash_points::metadata_tools::Tools;
use mendblock_simulation::crash_points::run::{Bench, Finding};
use mendblock_simulation::crash_points::state::{CrashState, MODES, THENS, Then, VICTIMS, Victim, named};
use mendblock_simulation::crash_points::workload::Workload;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
crash-points: cuts short workloads off at every operation that stores something, and checks what comes of it

  --length N       workloads of N operations (default 1)
  --minutes N      stop after N minutes (default: at the end)
  --seed N         decides all times and orders (default: drawn and printed)
  --part I/N       of the workloads every N-th, from the I-th on (1 to N)
  --others N       of the moments of the peer, and of both nodes at once, one in N (default 4)
  --tools N        off-line tools look at one state in N (default 100; 0: none)
  --only WORKLOAD  this one, for example write-hot,flush (one after the other), write-hot+flush (overlapped),
                   pass-on:read-bad,write-hot (with on-io-error pass_on)
  --crash-at K     with --only: this moment alone; further:
    --victim node|peer|both  --mode nothing-lost|all-lost|torn|reordered  --then together|alone|takeover

TRACE=1 shows every step on standard error. Exit code 1: something was found, 2: wrong arguments.";

/// What is asked for.
struct Arguments {
    length: usize,
    minutes: Option<u64>,
    seed: u64,
    part: (usize, usize),
    depth: Depth,
    only: Option<Workload>,
    crash_at: Option<usize>,
    victim: Victim,
    mode: Loss,
    then: Then,
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let (first, of) = text.split_once('/').ok_or(format!("{text:?} is not like 1/2"))?;
    let (first, of) = (number(first)?, number(of)?);
    match (1..=of).contains(&first) {
        true => Ok((first, of)),
        false => Err(format!("there is no part {text}")),
    }
}

fn arguments() -> Result<Arguments, String> {
    let mut given = Arguments {
        length: 1,
        minutes: None,
        seed: fastrand::u64(1..1 << 32),
        part: (1, 1),
        depth: Depth {
            others_one_in: 4,
            tools_one_in: 100,
        },
        only: None,
        crash_at: None,
        victim: Victim::Node,
        mode: Loss::Nothing,
        then: Then::Together,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        match word.as_str() {
            "--length" => given.length = number(&value)?,
            "--minutes" => given.minutes = Some(number(&value)?),
            "--seed" => given.seed = number(&value)?,
            "--part" => given.part = part(&value)?,
            "--others" => given.depth.others_one_in = number::<usize>(&value)?.max(1),
            "--tools" => given.depth.tools_one_in = number(&value)?,
            "--only" => given.only = Some(value.parse()?),
            "--crash-at" => given.crash_at = Some(number(&value)?),
            "--victim" => given.victim = named(&VICTIMS, &value)?,
            "--mode" => given.mode = named(&MODES, &value)?,
            "--then" => given.then = named(&THENS, &value)?,
            _ => return Err(format!("{word} is not known")),
        }
    }
    match given.crash_at.is_some() && given.only.is_none() {
        true => Err("--crash-at needs --only".to_owned()),
        false => Ok(given),
    }
}

fn report(finding: &Finding) {
    println!("\nFOUND {}\n  replay: {}", finding.text, replay(finding));
}

fn replay(finding: &Finding) -> String {
    format!(
        "cargo run --release -p mendblock-simulation --bin crash-points -- {}",
        finding.state
    )
}

/// The workloads, in an order that the seed draws: what a budget leaves out is not always the same.
fn workloads(given: &Arguments) -> Vec<Workload> {
    if let Some(only) = &given.only {
        return vec![only.clone()];
    }
    let mut all = Workload::all(given.length);
    Rng::with_seed(given.seed).shuffle(&mut all);
    all.into_iter()
        .skip(given.part.0 - 1)
        .step_by(given.part.1)
        .collect()
}

fn run(given: &Arguments) -> std::io::Result<bool> {
    let tools = Tools::find()?;
    if given.depth.tools_one_in > 0 && !tools.has_drbdmeta() {
        println!("drbdmeta (drbd-utils) is not installed: crashed meta-data are checked without it");
    }
    let bench = Bench::prepare();
    let mut campaign = Campaign::new(&bench, given.seed, given.depth, Some(&tools));
    if let Some(minutes) = given.minutes {
        campaign = campaign.within(Duration::from_secs(60 * minutes));
    }
    let began = Instant::now();
    if let (Some(workload), Some(crash_at)) = (given.only.clone(), given.crash_at) {
        campaign.try_one(&CrashState {
            workload,
            seed: given.seed,
            victim: given.victim,
            crash_at,
            mode: given.mode,
            then: given.then,
        });
    } else {
        let workloads = workloads(given);
        println!("{} workloads, --seed {}", workloads.len(), given.seed);
        let mut last = Instant::now();
        campaign.try_all(&workloads, |campaign| {
            if last.elapsed() >= Duration::from_secs(5) {
                last = Instant::now();
                progress(campaign, began, workloads.len());
            }
        });
        progress(&campaign, began, workloads.len());
    }
    for (count, finding) in campaign.kinds().values() {
        report(finding);
        println!("  {count} states of this kind");
    }
    println!(
        "{} states, {} of them with off-line tools, {} findings{}",
        campaign.states,
        campaign.tool_states,
        campaign.findings.len(),
        if campaign.is_over() {
            ", stopped by the budget"
        } else {
            ""
        }
    );
    Ok(campaign.findings.is_empty())
}

fn progress(campaign: &Campaign<'_>, began: Instant, workloads: usize) {
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{seconds:.0} s: {} states ({:.0}/s), {} of {workloads} workloads, {} findings",
        campaign.states,
        campaign.states as f64 / seconds.max(0.001),
        campaign.workloads,
        campaign.findings.len()
    );
}

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let ended = arguments().and_then(|given| run(&given).map_err(|error| error.to_string()));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(text) => {
            eprintln!("{text}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
