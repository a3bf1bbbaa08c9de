//! `mendblock-bench`: see `docs/performance.md`.

use clap::Parser;
use mendblock_bench::{Orders, measure};
use mendblock_chaos::program::{Profile, build};
use mendblock_harness::tool::is_installed;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// The pair beside qemu-nbd on one raw file, under the same loads: only the ratio counts.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds of each load on each server
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=90))]
    seconds: u32,
    /// How often the two take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// MiB of each lower disk, and of the raw file
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    mebibytes: u64,
    /// The binary to measure; built in release if it is not given
    #[arg(long)]
    mendblock: Option<PathBuf>,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mendblock-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn bench(arguments: &Arguments) -> io::Result<ExitCode> {
    if !is_installed("fio") || !is_installed("qemu-nbd") {
        return Ok(ExitCode::from(2));
    }
    let binary = match &arguments.mendblock {
        Some(path) => path.canonicalize()?,
        None => build(Profile::Release)?,
    };
    println!("{}", binary.display());
    mendblock_harness::program::choose(binary)
        .map_err(|path| io::Error::other(format!("{} cannot be chosen any more", path.display())))?;
    let orders = Orders {
        disk_bytes: arguments.mebibytes << 20,
        seconds: arguments.seconds,
        rounds: arguments.rounds,
    };
    let report = measure(orders, |line| println!("{line}"));
    println!("\n{report}");
    Ok(ExitCode::SUCCESS)
}
