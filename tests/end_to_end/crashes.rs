//! A process is gone at once, under load.

use mendblock_harness::admin::{self, mendblock};
use mendblock_harness::disks::{self, BLOCK};
use mendblock_harness::events::Events;
use mendblock_harness::history::History;
use mendblock_harness::load::{Load, check_all};
use mendblock_harness::pair::{Options, Pair, connection};
use mendblock_harness::tool::{is_installed, limited, succeeds, text};
use std::fs;
use std::process::Stdio;
use std::sync::Arc;

/// Blocks of an activity-log extent.
const EXTENT: u64 = 1024;
/// Two extents in the middle of the disk.
const HOT: std::ops::Range<u64> = 5 * EXTENT..7 * EXTENT;

fn wide() -> Options {
    Options {
        disk_bytes: 128 << 20,
        ..Options::default()
    }
}

#[test]
fn fio_verifies_while_the_secondary_is_killed_and_comes_back() {
    if !is_installed("fio") {
        return;
    }
    let mut pair = Pair::running(&Options::default());
    let uri = format!("--uri={}", pair.alice.uri());
    let fio = limited(
        "fio",
        &[
            "--name=load",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=8",
            "--size=24M",
            "--rate=6M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--randseed=7",
        ],
    )
    .stdin(Stdio::null())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let alice = pair.alice.admin.clone();
    let before = alice.volume().io.written_bytes;
    alice.wait_for("fio writes", 20, |volume| {
        volume.io.written_bytes > before + (4 << 20)
    });
    pair.bob.kill();
    let volume = alice.wait_for("the peer is missed, and fio goes on", 20, |volume| {
        connection(volume) != "Connected" && volume.out_of_sync_bytes > 1 << 20
    });
    assert_eq!(volume.disk.state, "UpToDate");
    pair.bob.start();
    pair.wait_in_sync(60);
    let output = fio.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    pair.stop_and_compare();
}

/// The Secondary dies under load again and again; each time only what it missed is copied.
#[test]
fn the_secondary_is_killed_again_and_again() {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), HOT, 3);
    for _ in 0..3 {
        load.progress(50, 20);
        pair.bob.kill();
        load.progress(50, 20);
        pair.bob.start();
        load.progress(50, 20);
        pair.wait_in_sync(60);
    }
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

/// On copies of the crashed disk our `apply-al` and drbdmeta's find the same: exactly the hot extents.
fn expect_the_log_to_name(pair: &Pair, hot: u64) {
    let copies = [
        pair.disks.path().join("ours.img"),
        pair.disks.path().join("theirs.img"),
    ];
    for copy in &copies {
        fs::copy(&pair.alice.disk, copy).unwrap();
    }
    let [ours, theirs] = copies.each_ref().map(|copy| admin::text(copy));
    mendblock(&["apply-al", "--disk", ours]).expect_code(0);
    mendblock(&["check-md", "--disk", ours]).expect_code(0);
    let dump = mendblock(&["dump-md", "--disk", ours, "--json"]).expect_code(0);
    let dump: serde_json::Value = serde_json::from_str(&dump.out).unwrap();
    assert_eq!(disks::number(&dump, "bits-set"), hot, "{dump:#}");
    assert_eq!(
        dump["bits-set-runs"],
        serde_json::json!([[HOT.start, HOT.end - 1]])
    );
    let drbdmeta = |arguments: &[&str]| {
        let first = ["--force", "-", "v08", theirs, "internal"];
        succeeds("drbdmeta", &[&first, arguments].concat())
    };
    if drbdmeta(&["apply-al"]).is_some() {
        let theirs = mendblock(&["dump-md", "--disk", theirs, "--json"]).expect_code(0);
        let theirs: serde_json::Value = serde_json::from_str(&theirs.out).unwrap();
        assert_eq!(theirs["bits-set-runs"], dump["bits-set-runs"], "{theirs:#}");
        drbdmeta(&["dump-md"]);
    }
}

/// The Primary dies under load and comes back: its activity log says what may differ, and only that is copied.
#[test]
fn the_primary_is_killed_and_comes_back() {
    let mut pair = Pair::running(&wide());
    let load = Load::start(&pair.alice, Arc::<History>::default(), HOT, 4);
    load.progress(200, 30);
    pair.alice.kill();
    let history = Arc::clone(&load.history);
    load.stop().expect_only_broken();
    assert!(history.counts().acknowledged > 0);

    history.crashed();
    let left = disks::dump(&pair.alice);
    assert_eq!(left["clean"], false, "a crashed Primary is not clean: {left:#}");
    let hot = HOT.end - HOT.start;
    expect_the_log_to_name(&pair, hot);
    let events = Events::follow(&pair.bob.admin);
    // A difference that no bit and no log speaks of: what is copied although it is not hot would undo it.
    let cold = HOT.end + 1;
    disks::poke(&pair.bob, &[0xCC; BLOCK as usize], cold * BLOCK);
    pair.alice.start();
    pair.wait_in_sync(60);
    let sizes = events.resyncs();
    assert_eq!(sizes, [(hot * 4).to_string()], "one resync, of the hot extents");
    assert_eq!(
        disks::block(&pair.bob, cold),
        [0xCC; BLOCK as usize],
        "a cold block was copied"
    );
    disks::poke(&pair.bob, &[0; BLOCK as usize], cold * BLOCK);
    pair.alice.admin.order(&["primary"]).expect_code(0);
    check_all(&pair.alice.nbd_socket(), &history);

    let load = Load::start(&pair.alice, Arc::clone(&history), HOT, 2);
    load.progress(50, 20);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

/// The Primary dies under load, the other node takes over with every acknowledged write, and keeps them when the old
/// Primary comes back.
#[test]
fn the_other_node_takes_over_from_a_killed_primary() {
    let mut pair = Pair::running(&wide());
    let load = Load::start(&pair.alice, Arc::<History>::default(), HOT, 4);
    load.progress(200, 30);
    pair.alice.kill();
    let history = Arc::clone(&load.history);
    load.stop().expect_only_broken();
    history.crashed();
    pair.bob.admin.wait_for("the loss is noticed", 20, |volume| {
        connection(volume) != "Connected"
    });
    pair.bob.admin.order(&["primary"]).expect_code(0);
    check_all(&pair.bob.nbd_socket(), &history);
    let load = Load::start(&pair.bob, Arc::clone(&history), HOT, 2);
    load.progress(50, 20);

    pair.alice.start();
    pair.wait_in_sync(60);
    load.progress(50, 20);
    load.stop().expect_no_error();
    let volume = pair.alice.admin.volume();
    assert_eq!(volume.role, "Secondary");
    check_all(&pair.bob.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

/// Both processes are killed at once: no acknowledged write is lost.
#[test]
fn both_are_killed_at_once() {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), HOT, 4);
    load.progress(200, 30);
    pair.bob.kill();
    pair.alice.kill();
    let history = Arc::clone(&load.history);
    load.stop().expect_only_broken();
    history.crashed();
    pair.bob.start();
    pair.alice.start();
    pair.wait_in_sync(60);
    pair.alice.admin.order(&["primary"]).expect_code(0);
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}
