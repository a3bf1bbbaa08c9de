//! A short slice of the chaos run, with a seed that nobody has tried before.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

use mendblock_chaos::program::{Profile, build};
use mendblock_chaos::run::{Orders, fresh_seed, run};
use std::time::Duration;

#[test]
fn some_seconds_of_chaos() {
    mendblock_harness::program::choose(build(Profile::Dev).unwrap()).unwrap();
    let seed = std::env::var("SEED").map_or_else(|_| fresh_seed(), |seed| seed.parse().unwrap());
    println!(
        "seed {seed}: repeat with SEED={seed}, or with cargo run --release -p mendblock-chaos -- --seed {seed}"
    );
    let report = run(&Orders::new(seed, Duration::from_secs(16)));
    assert!(report.is_good(), "{report}");
    assert!(report.requests > 0 && report.actor_deaths > 0, "{report}");
    // A process may not live long enough for two looks.
    assert!(!report.lives.is_empty(), "{report}");
    println!("{report}");
}
