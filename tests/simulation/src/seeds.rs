//! Seeds: a fixed set and a few fresh ones. `SEED=n` replays one, `SEEDS=n` runs more fresh ones, `TRACE=1` shows every step.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs a test under each seed; a failing one is named.
pub fn each_seed(test: &str, fixed: u64, run: impl Fn(u64)) {
    let one = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed],
        None => {
            let fresh = std::env::var("SEEDS")
                .ok()
                .and_then(|count| count.parse().ok())
                .unwrap_or(2);
            (1..=fixed)
                .chain((0..fresh).map(|_| fastrand::u64(1 << 32..1 << 48)))
                .collect()
        }
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!(
                "{test} failed with seed {seed}; replay: SEED={seed} TRACE=1 cargo test -p mendblock-simulation {test}"
            );
            resume_unwind(panic);
        }
    }
}
