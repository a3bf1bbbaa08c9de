//! `cargo run --release -p mendblock-model -- --depth 3`

use mendblock_core::configuration::OnIoError;
use mendblock_model::action::Action;
use mendblock_model::planted::Planted;
use mendblock_model::starts::{STARTS, start};
use mendblock_model::walker::{Limits, Outcome, Walker};
use mendblock_model::world::World;
use std::process::ExitCode;
use std::time::{Duration, Instant};

struct Options {
    limits: Limits,
    starts: Vec<String>,
    policy: OnIoError,
    planted: Planted,
}

const USAGE: &str = "options:
  --depth N       orders, writes and faults, each at every moment (3)
  --at-rest N     the first N of them only when nothing else happens (0)
  --minutes M     stop then, for each start
  --states N      stop then, for each start (20000000)
  --start NAME    secondaries, primary, alone, diskless (all)
  --policy NAME   detach or pass-on (detach)
  --planted NAME  a fault of the model: clear-without-proof, old-generation, ignore-the-peer, stale-generations";

fn options() -> Result<Options, String> {
    let mut options = Options {
        limits: Limits {
            depth: 3,
            at_rest: 0,
            time: None,
            states: 20_000_000,
        },
        starts: Vec::new(),
        policy: OnIoError::Detach,
        planted: Planted::Nothing,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
        let number = || {
            value
                .parse::<usize>()
                .map_err(|error| format!("{word} {value}: {error}"))
        };
        match word.as_str() {
            "--depth" => options.limits.depth = number()?,
            "--at-rest" => options.limits.at_rest = number()?,
            "--minutes" => options.limits.time = Some(Duration::from_secs(60 * number()? as u64)),
            "--states" => options.limits.states = number()?,
            "--start" => options.starts.push(value),
            "--policy" if value == "detach" => options.policy = OnIoError::Detach,
            "--policy" if value == "pass-on" => options.policy = OnIoError::PassOn,
            "--planted" => {
                options.planted = Planted::named(&value).ok_or(format!("no fault {value}\n{USAGE}"))?;
            }
            _ => return Err(format!("{word} {value} is not known\n{USAGE}")),
        }
    }
    if options.starts.is_empty() {
        options.starts = STARTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    }
    Ok(options)
}

fn line(outcome: &Outcome, seconds: f64) -> String {
    format!(
        "{} states ({:.0}/s), {} events tried, longest way {}, by depth {:?}",
        outcome.states,
        outcome.states as f64 / seconds.max(0.001),
        outcome.transitions,
        outcome.longest,
        outcome.layers,
    )
}

fn search(name: &str, options: &Options) -> Result<bool, String> {
    let begin = || start(name, options.policy, options.planted);
    let world = begin().ok_or_else(|| format!("no start {name}\n{USAGE}"))?;
    let [a, b] = world.nodes.each_ref().map(|node| node.vector());
    println!("{name}: A {a}, B {b}");
    let began = Instant::now();
    let mut last = began;
    let mut progress = |outcome: &Outcome| {
        if last.elapsed() > Duration::from_secs(10) {
            last = Instant::now();
            eprintln!("{}", line(outcome, began.elapsed().as_secs_f64()));
        }
    };
    let outcome = Walker::new(options.limits, &mut progress).run(world);
    println!("{}", line(&outcome, began.elapsed().as_secs_f64()));
    let Some(found) = &outcome.found else {
        let depth = outcome.layers.len() - 1;
        let reached = if outcome.complete {
            depth
        } else {
            depth.saturating_sub(1)
        };
        println!("nothing is wrong; complete up to depth {reached}");
        return Ok(true);
    };
    println!("WRONG: {}", found.what);
    println!("after {} events:", found.actions.len());
    if let Some(world) = begin() {
        tell(world, &found.actions);
    }
    Ok(false)
}

/// The events one by one, and what they did.
fn tell(mut world: World, actions: &[Action]) {
    for action in actions {
        let arrives = match action {
            Action::Deliver(node) => world.channels[*node].front().map(|what| format!(": {what:?}")),
            _ => None,
        };
        println!("  {action}{}", arrives.unwrap_or_default());
        let before = world.nodes.each_ref().map(|node| *node.vector());
        world.act(*action);
        for (node, before) in world.nodes.iter().zip(before) {
            if *node.vector() != before {
                let name = ["A", "B"][usize::from(std::ptr::eq(node, &world.nodes[1]))];
                println!("        {name}: {}", before.difference(node.vector()));
            }
        }
    }
}

fn main() -> ExitCode {
    let all = options().and_then(|options| {
        let mut right = true;
        for name in &options.starts {
            right &= search(name, &options)?;
        }
        Ok(right)
    });
    match all {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(2)
        }
    }
}
