//! A node is told to end (SIGTERM, Ctrl-C): it ends as `drbdadm down` would leave it, and within a limit in every case.

use mendblock::admin::paths;
use mendblock::configuration::{FaultKind, FaultMode, FaultRule};
use mendblock_harness::disks::{self, BLOCK};
use mendblock_harness::events::Events;
use mendblock_harness::history::History;
use mendblock_harness::load::{Load, check_all};
use mendblock_harness::nbd::Session;
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair, connection};
use rustix::process::Signal;
use std::fs::{self, File};
use std::sync::Arc;

/// Blocks of an activity-log extent.
const EXTENT: u64 = 1024;
/// Two extents in the middle of the disk.
const HOT: std::ops::Range<u64> = 5 * EXTENT..7 * EXTENT;

/// Closed log, no bit, no mark of a Primary.
#[track_caller]
fn assert_closed(node: &Node) {
    let left = disks::dump(node);
    assert_eq!(left["clean"], true, "the activity log is open: {left:#}");
    assert_eq!(disks::number(&left, "bits-set"), 0, "{left:#}");
    let flags = left["flags"].to_string();
    assert!(
        flags.contains("CONSISTENT") && !flags.contains("PRIMARY"),
        "no crashed Primary: {left:#}"
    );
}

/// Starts `alice` again, which was Primary: nothing is copied, although there is a difference that no bit speaks of.
#[track_caller]
fn comes_back_without_a_resync(pair: &mut Pair) {
    let events = Events::follow(&pair.bob.admin);
    let hot = disks::block(&pair.bob, HOT.start);
    let other: Vec<u8> = hot.iter().map(|byte| !byte).collect();
    disks::poke(&pair.bob, &other, HOT.start * BLOCK);
    pair.alice.start();
    pair.wait_in_sync(60);
    assert_eq!(events.resyncs(), [""; 0], "nothing had to be copied");
    assert_eq!(
        disks::block(&pair.bob, HOT.start),
        other,
        "a block was copied that was the same on both"
    );
    disks::poke(&pair.bob, &hot, HOT.start * BLOCK);
}

#[test]
fn a_primary_that_ends_under_load_comes_back_without_a_resync() {
    let mut pair = Pair::running(&Options::default());
    let history = Arc::<History>::default();
    for _ in 0..3 {
        let load = Load::start(&pair.alice, Arc::clone(&history), HOT, 4);
        load.progress(200, 30);
        pair.alice.stop();
        let ended = load.stop();
        ended.expect_only_broken();
        assert!(!ended.errors.is_empty(), "clients were not let go");
        assert_closed(&pair.alice);
        let volume = pair.bob.admin.wait_for("the peer has gone", 20, |volume| {
            connection(volume) == "WFConnection"
        });
        assert_eq!(volume.disk.state, "UpToDate");
        comes_back_without_a_resync(&mut pair);
        pair.alice.admin.order(&["primary"]).expect_code(0);
        check_all(&pair.alice.nbd_socket(), &history);
        pair.alice.demote();
        pair.alice.admin.order(&["primary"]).expect_code(0);
    }
    pair.stop_and_check(&history);
}

/// An idle client, writes that nobody flushed, and Ctrl-C.
#[test]
fn an_idle_primary_that_ends_comes_back_without_a_resync() {
    let mut pair = Pair::running(&Options::default());
    let mut session = pair.alice.session();
    for extent in 0..8 {
        session
            .write((HOT.start + extent * EXTENT / 8) * BLOCK, &[7; 8192])
            .unwrap();
    }
    pair.alice.signal(Signal::INT);
    assert!(pair.alice.ended().success());
    assert!(session.answer().is_err(), "the client was let go");
    assert_closed(&pair.alice);
    comes_back_without_a_resync(&mut pair);
    pair.alice.admin.order(&["primary"]).expect_code(0);
    let mut session = pair.alice.session();
    assert_eq!(session.read(HOT.start * BLOCK, 8192).unwrap(), [7; 8192]);
    drop(session);
    pair.stop_and_compare();
}

/// The Secondary ends: its Primary's clients notice nothing, and what they wrote meanwhile is all that is copied.
#[test]
fn a_secondary_that_ends_under_load_misses_only_what_comes_after() {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), HOT, 2);
    load.progress(100, 30);
    let (cold, other) = (HOT.end + EXTENT, vec![0xCC; BLOCK as usize]);
    pair.bob.stop();
    let left = disks::dump(&pair.bob);
    assert_eq!(left["clean"], true, "{left:#}");
    load.progress(100, 30);
    disks::poke(&pair.bob, &other, cold * BLOCK);
    pair.bob.start();
    pair.wait_in_sync(60);
    assert_eq!(disks::block(&pair.bob, cold), other, "a cold block was copied");
    disks::poke(&pair.bob, &vec![0; BLOCK as usize], cold * BLOCK);
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    pair.stop_and_check(&history);
}

/// Both are told at once, as when a machine room is switched off.
#[test]
fn both_end_at_once_under_load() {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), HOT, 2);
    load.progress(100, 30);
    for node in [&pair.alice, &pair.bob] {
        node.signal(Signal::TERM);
    }
    for node in [&mut pair.alice, &mut pair.bob] {
        assert!(node.ended().success());
    }
    let history = Arc::clone(&load.history);
    load.stop().expect_only_broken();
    for node in [&pair.alice, &pair.bob] {
        let left = disks::dump(node);
        assert_eq!(left["clean"], true, "{left:#}");
    }
    pair.alice.start();
    pair.bob.start();
    pair.wait_in_sync(60);
    pair.alice.admin.order(&["primary"]).expect_code(0);
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

/// A client that does not fetch its answers: it is cut off, and the disk is closed in order all the same.
#[test]
fn a_client_that_does_not_listen_is_cut_off() {
    let mut pair = Pair::running(&Options::default());
    let mut session = pair.alice.session();
    // More than sockets hold.
    for number in 0..64 {
        session.send_read(number << 18, 1 << 18).unwrap();
    }
    let alice = &pair.alice.admin;
    alice.wait_for("all is answered", 10, |volume| volume.io.upper_pending == 0);
    pair.alice.stop();
    assert_closed(&pair.alice);
    drop(session);
    comes_back_without_a_resync(&mut pair);
}

/// Every operation of the lower disk hangs.
fn hanging() -> FaultRule {
    FaultRule {
        kind: FaultKind::Any,
        first_sector: None,
        sectors: None,
        error: None,
        mode: FaultMode::Always,
        delay_ms: 0,
        hang: true,
    }
}

/// A node with two volumes that are Primary, and whose disks hang under a write of a client each.
fn with_two_hanging_volumes() -> (Pair, [Session; 2]) {
    let mut pair = Pair::new(&Options::default());
    let disk = pair.disks.path().join("second.img");
    File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    let second = format!(
        "[[volume]]\nname = \"r1\"\nminor = 1\ndisk = \"{}\"\n",
        disk.display()
    );
    let file = &pair.alice.configuration;
    let both = fs::read_to_string(file).unwrap() + &second;
    fs::write(file, both).unwrap();
    let file = file.display().to_string();
    mendblock_harness::admin::mendblock(&["create-md", "r1", "--config", &file]).expect_code(0);
    pair.alice.start();
    let alice = &pair.alice.admin;
    let sessions = ["r0", "r1"].map(|volume| {
        alice.wait_for("attached", 20, |_| {
            alice.command(&["primary", volume, "--force"]).code == Some(0)
        });
        let rule = serde_json::to_string(&hanging()).unwrap();
        let mut session = Session::connect(&pair.alice.nbd_socket(), volume).unwrap();
        session.write(0, &[1; 4096]).unwrap();
        alice.ok("POST", &paths::faults(volume, None), &rule);
        session.send_write(4096, &[2; 4096], false).unwrap();
        session
    });
    alice.wait_for("both writes hang", 20, |_| {
        let volumes = alice.status().unwrap().volumes;
        volumes.iter().all(|volume| volume.io.upper_pending > 0)
    });
    (pair, sessions)
}

/// Two hanging disks take no longer than one: the volumes are taken down side by side, and not for ever.
#[test]
fn hanging_disks_do_not_keep_a_node_from_its_end() {
    let (mut pair, _sessions) = with_two_hanging_volumes();
    pair.alice.stop();
    let log = pair.alice.log_text();
    assert_eq!(log.matches("as by a crash").count(), 2, "{log}");
}

#[test]
fn a_second_signal_ends_the_node_at_once() {
    let (mut pair, _sessions) = with_two_hanging_volumes();
    let (alice, admin) = (&pair.alice, &pair.alice.admin);
    alice.signal(Signal::TERM);
    // While it stops it says so.
    admin.wait_for("stopping", 10, |_| {
        let refused = admin.command(&["primary", "r0"]);
        refused.errors.contains("the node is stopping")
    });
    alice.signal(Signal::INT);
    assert_eq!(pair.alice.ended().code(), Some(130));
}
