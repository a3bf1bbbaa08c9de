//! What an operator does, and what is refused, with DRBD's exit codes.

use mendblock_harness::disks::{self, BLOCK};
use mendblock_harness::events::Events;
use mendblock_harness::history::History;
use mendblock_harness::load::{Load, check_all};
use mendblock_harness::pair::{Options, Pair, connection, peer_disk};
use std::sync::Arc;

const BUSY: std::ops::Range<u64> = 0..2048;

#[test]
fn disconnect_and_connect_under_load() {
    let mut pair = Pair::running(&Options::default());
    let (alice, bob) = (pair.alice.admin.clone(), pair.bob.admin.clone());
    let load = Load::start(&pair.alice, Arc::<History>::default(), BUSY, 2);
    for admin in [&alice, &bob] {
        load.progress(30, 20);
        admin.order(&["disconnect"]).expect_code(0);
        admin.wait_for("apart", 10, |volume| connection(volume) == "StandAlone");
        admin.order(&["disconnect"]).expect_code(0);
        load.progress(30, 20);
        alice.wait_for("counted", 10, |volume| volume.out_of_sync_bytes > 0);
        admin.order(&["connect"]).expect_code(0);
        pair.wait_in_sync(60);
        admin.order(&["connect"]).expect_code(10);
    }
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

#[test]
fn clients_move_to_the_other_node_and_back() {
    let mut pair = Pair::running(&Options::default());
    let history = Arc::<History>::default();
    for round in 0..2 {
        let (from, to) = if round == 0 {
            (&pair.alice, &pair.bob)
        } else {
            (&pair.bob, &pair.alice)
        };
        let load = Load::start(from, Arc::clone(&history), BUSY, 2);
        load.progress(40, 20);
        // Two Primaries at once: DRBD's -1.
        to.admin
            .order(&["primary"])
            .expect_code(11)
            .expect_error("Multiple primaries not allowed by config");
        // Clients are there: DRBD's -12.
        from.admin
            .order(&["secondary"])
            .expect_code(11)
            .expect_error("Device is held open by someone");
        load.stop().expect_no_error();
        from.demote();
        from.admin.order(&["secondary"]).expect_code(0);
        to.admin.order(&["primary"]).expect_code(0);
        check_all(&to.nbd_socket(), &history);
    }
    pair.stop_and_compare();
}

#[test]
fn invalidate_copies_everything_from_the_peer() {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), BUSY, 2);
    load.progress(40, 20);
    // The last one: the Primary's own disk, whose clients read the peer's copy meanwhile.
    for node in [&pair.bob, &pair.alice] {
        // What stands there is not what it should be, and no bit says so.
        disks::poke(node, &[0xEE; 64 * BLOCK as usize], 8192 * BLOCK);
        let events = Events::follow(&node.admin);
        node.admin.order(&["invalidate"]).expect_code(0);
        events.wait_for_field("device", "disk", "Inconsistent");
        load.progress(20, 20);
        pair.wait_in_sync(60);
    }
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

#[test]
fn detach_and_attach_under_load() {
    let mut pair = Pair::running(&Options::default());
    let (alice, bob) = (pair.alice.admin.clone(), pair.bob.admin.clone());
    let load = Load::start(&pair.alice, Arc::<History>::default(), BUSY, 2);
    for (own, other, force) in [(&alice, &bob, false), (&bob, &alice, false), (&alice, &bob, true)] {
        load.progress(30, 20);
        let order: &[&str] = if force {
            &["detach", "--force"]
        } else {
            &["detach"]
        };
        own.order(order).expect_code(0);
        own.wait_for("given up", 20, |volume| volume.disk.state == "Diskless");
        own.order(&["detach"]).expect_code(0);
        other.wait_for("known", 10, |volume| peer_disk(volume) == "Diskless");
        // The last copy stays: DRBD's -2, or the peer's refusal.
        let refused = other.order(&["detach"]);
        assert!(matches!(refused.code, Some(11 | 17)), "{refused:#?}");
        load.progress(30, 20);
        own.order(&["attach"]).expect_code(0);
        pair.wait_in_sync(60);
        own.order(&["attach"]).expect_code(10);
    }
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

#[test]
fn refused_commands_have_drbds_exit_codes() {
    let mut pair = Pair::new(&Options {
        disk_bytes: 32 << 20,
        ..Options::default()
    });
    pair.alice.start();
    let alice = pair.alice.admin.clone();
    alice.wait_for("attached", 20, |volume| volume.disk.state == "Inconsistent");
    alice
        .order(&["primary"])
        .expect_code(17)
        .expect_error("Need access to UpToDate data");
    alice.order(&["primary", "--force"]).expect_code(0);
    // Primary and alone: its disk is all there is.
    alice.order(&["detach"]).expect_code(17);
    alice.order(&["invalidate"]).expect_code(11);
    alice.command(&["status", "r9"]).expect_code(10);
    alice.command(&["primary", "r9"]).expect_code(10);
    alice.command(&["explode", "r0"]).expect_code(20);
    alice.order(&["secondary"]).expect_code(0);
    alice.order(&["detach"]).expect_code(0);
    alice.wait_for("detached", 20, |volume| volume.disk.state == "Diskless");
    alice.order(&["primary"]).expect_code(17);
    alice.order(&["primary", "--force"]).expect_code(17);
    alice.order(&["invalidate"]).expect_code(16);
    alice.order(&["attach"]).expect_code(0);
    pair.alice.stop();
    alice.command(&["status"]).expect_code(20).expect_error("no node");
}

/// A node ends orderly and starts again: nothing has to be copied.
#[test]
fn an_orderly_restart_needs_no_resync() {
    let mut pair = Pair::running(&Options::default());
    let mut session = pair.alice.session();
    session.write(3 * BLOCK, &[5; 8192]).unwrap();
    // What the peer has not yet on stable storage is owed to it.
    session.flush().unwrap();
    drop(session);
    for _ in 0..2 {
        pair.bob.stop();
        let volume = pair
            .alice
            .admin
            .wait_for("apart", 20, |volume| connection(volume) != "Connected");
        assert_eq!(volume.out_of_sync_bytes, 0, "{volume:#?}");
        pair.bob.start();
        pair.wait_in_sync(30);
    }
    pair.alice.demote();
    pair.alice.stop();
    pair.bob
        .admin
        .wait_for("apart", 20, |volume| connection(volume) != "Connected");
    pair.alice.start();
    pair.wait_in_sync(30);
    pair.stop_and_compare();
}

/// The disk hangs: clients go on with the peer's copy after the time limit, or at once by order.
#[test]
fn a_hanging_disk_is_given_up() {
    use mendblock::configuration::{FaultKind, FaultMode, FaultRule};
    let options = Options {
        volume_keys: "disk-timeout = 20".into(),
        ..Options::default()
    };
    let mut pair = Pair::running(&options);
    let load = Load::start(&pair.alice, Arc::<History>::default(), BUSY, 2);
    load.progress(30, 20);
    let alice = pair.alice.admin.clone();
    alice.fault(&FaultRule {
        kind: FaultKind::Any,
        first_sector: None,
        sectors: None,
        error: None,
        mode: FaultMode::Always,
        delay_ms: 0,
        hang: true,
    });
    alice.wait_for("the disk is given up", 40, |volume| {
        volume.disk.state == "Diskless"
    });
    load.progress(30, 20);
    alice.clear_faults();
    alice.wait_for("attached again", 20, |volume| {
        volume.disk.state != "Diskless" || alice.order(&["attach"]).code == Some(0)
    });
    pair.wait_in_sync(60);
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}
