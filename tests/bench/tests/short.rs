//! A measurement too short to say anything: it runs to its end, and the pair's disks are equal afterwards.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_bench::{Orders, measure};
use mendblock_chaos::program::{Profile, build};
use mendblock_harness::tool::is_installed;

#[test]
fn every_load_runs_on_both() {
    if !is_installed("fio") || !is_installed("qemu-nbd") {
        return;
    }
    mendblock_harness::program::choose(build(Profile::Dev).unwrap()).unwrap();
    let orders = Orders {
        disk_bytes: 32 << 20,
        seconds: 1,
        rounds: 1,
    };
    let report = measure(orders, |line| println!("{line}"));
    assert_eq!(report.rows.len(), 5);
    for row in &report.rows {
        let [ratio, ..] = row.ratios();
        assert!(ratio.is_finite() && ratio > 0.0, "{row:?}");
    }
    // The heading, the line below it, and a row for each load.
    assert_eq!(report.to_string().lines().count(), 7);
}
