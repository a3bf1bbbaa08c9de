//! The committed inputs through all checks, and some thousand changes of them from fixed seeds.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use mendblock_fuzz::corpus;
use mendblock_fuzz::execute::execute;
use mendblock_fuzz::run::{Limit, Settings, run};
use mendblock_fuzz::target::Target;
use mendblock_fuzz::targets;
use std::path::Path;
use std::time::Duration;

/// Executions of each target in the short runs; of an expensive one fewer.
const EXECUTIONS: u64 = 2000;

fn executions(target: &dyn Target) -> u64 {
    EXECUTIONS / target.expense()
}

fn settings(target: &dyn Target, seed: u64) -> Settings {
    Settings {
        seed,
        limit: Limit::Executions(executions(target)),
        patience: Duration::from_secs(60),
        on_hang: Box::new(|input| {
            eprintln!("an input has run for a minute: {input:02x?}");
            std::process::abort();
        }),
        before: None,
    }
}

fn committed(target: &dyn Target) -> Vec<Vec<u8>> {
    let found = corpus::load(&corpus::folder(target.name())).unwrap();
    found.into_iter().map(|(_, input)| input).collect()
}

#[test]
fn the_corpus_shows_no_fault() {
    for target in targets::all() {
        let found = corpus::load(&corpus::folder(target.name())).unwrap();
        assert!(!found.is_empty(), "{} has no committed input", target.name());
        for (path, input) in found {
            assert_eq!(execute(target, &input).finding, None, "{}", path.display());
        }
        for seed in target.seeds() {
            assert_eq!(
                execute(target, &seed).finding,
                None,
                "{}: {seed:02x?}",
                target.name()
            );
        }
    }
}

/// Each target has a thread of its own: two cores are used, and a slow one keeps no other back.
#[test]
fn changed_inputs_show_no_fault() {
    std::thread::scope(|scope| {
        for target in targets::all() {
            scope.spawn(move || {
                let report = run(target, committed(target), settings(target, 1));
                let failure = report.failure.map(|failure| (failure.finding, failure.smallest));
                assert_eq!(failure, None, "{}", target.name());
                assert!(report.executions >= executions(target));
            });
        }
    });
}

/// A target whose inputs all end at the first check proves nothing: mutations must get past what the seeds show.
#[test]
fn mutations_show_more_than_the_seeds() {
    for target in targets::all() {
        let mut seeds_only = settings(target, 2);
        seeds_only.limit = Limit::Executions(1);
        let seeds = run(target, Vec::new(), seeds_only).shapes;
        let mutated = run(target, Vec::new(), settings(target, 2)).shapes;
        assert!(
            mutated > seeds,
            "{}: {mutated} shapes, the seeds alone {seeds}",
            target.name()
        );
    }
}

#[test]
fn a_run_follows_from_its_seed() {
    let target = targets::find("wire").unwrap();
    let runs = [3, 3, 4].map(|seed| run(target, Vec::new(), settings(target, seed)).discovered);
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target() {
    let root = corpus::folder("");
    for entry in std::fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name();
        let is_known = targets::find(name.to_str().unwrap()).is_some();
        assert!(
            is_known,
            "{}: no target of that name",
            root.join(Path::new(&name)).display()
        );
    }
}
