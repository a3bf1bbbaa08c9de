//! A process is gone at once, under load.

use crate::harness::disks;
use crate::harness::events::Events;
use crate::harness::history::History;
use crate::harness::load::{Load, check_all};
use crate::harness::pair::{Options, Pair, connection};
use crate::harness::tool::{is_installed, limited, text};
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
    pair.stop_and_compare();
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

    let left = disks::dump(&pair.alice);
    assert_eq!(left["clean"], false, "a crashed Primary is not clean: {left:#}");
    let events = Events::follow(&pair.bob.admin);
    pair.alice.start();
    pair.wait_in_sync(60);
    let hot = ((HOT.end - HOT.start) * 4).to_string();
    events.wait_for_field("peer-device", "out-of-sync-kib", &hot);
    pair.alice.admin.order(&["primary"]).expect_code(0);
    check_all(&pair.alice.nbd_socket(), &history);

    let load = Load::start(&pair.alice, Arc::clone(&history), HOT, 2);
    load.progress(50, 20);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_compare();
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
    pair.stop_and_compare();
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
    pair.bob.start();
    pair.alice.start();
    pair.wait_in_sync(60);
    pair.alice.admin.order(&["primary"]).expect_code(0);
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_compare();
}
