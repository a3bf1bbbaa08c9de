//! Each kind of actor dies under load, in each way: no client sees an error, nothing is lost, a successor serves.

use mendblock::admin::schema::{Kill, VolumeStatus};
use mendblock_harness::history::History;
use mendblock_harness::load::{Load, check_all};
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair, connection};
use std::sync::Arc;

const BUSY: std::ops::Range<u64> = 0..4096;

/// Generation and deaths of an actor.
fn life(volume: &VolumeStatus, actor: &str) -> (u64, u64) {
    let actor = volume.actors.iter().find(|status| status.name == actor);
    actor.map_or((0, 0), |actor| (actor.generation, actor.restarts))
}

/// Kills the actor and waits for its successor.
#[track_caller]
fn kill(node: &Node, actor: &str, how: Kill) {
    let (generation, restarts) = life(&node.admin.volume(), actor);
    let what = format!("{actor} of {} after {how:?}", node.settings.name);
    // Between two generations there is nobody to kill.
    node.admin.wait_for(&format!("{what} is killed"), 10, |_| {
        node.admin.kill(actor, how).is_ok_and(|(code, _)| code == 200)
    });
    node.admin.wait_for(&format!("{what} lives again"), 15, |volume| {
        let (next, deaths) = life(volume, actor);
        next > generation && deaths > restarts
    });
}

fn die(actor: &str, on_secondary_too: bool) {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), BUSY, 3);
    load.progress(50, 20);
    let nodes = [Some(&pair.alice), on_secondary_too.then_some(&pair.bob)];
    for node in nodes.into_iter().flatten() {
        for how in [Kill::Panic, Kill::Stop, Kill::Hang] {
            kill(node, actor, how);
            load.progress(50, 30);
        }
    }
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    pair.wait_in_sync(60);
    check_all(&pair.alice.nbd_socket(), &history);
    pair.alice.assert_alive();
    pair.bob.assert_alive();
    pair.stop_and_check(&history);
}

macro_rules! deaths {
    ($($name:ident: $actor:literal, $secondary:literal;)*) => {
        $(#[test] fn $name() { die($actor, $secondary); })*
    };
}

deaths! {
    state: "state", true;
    disk: "disk", true;
    bitmap: "bitmap", true;
    activity_log: "activity-log", true;
    peer: "peer", true;
    volume: "volume", true;
    resync: "resync", true;
    client: "client", false;
    helper: "helper", true;
}

/// Actors die on both sides while a resync runs: it comes to its end, and the disks are equal.
#[test]
fn deaths_during_a_resync() {
    let options = Options {
        volume_keys: "resync-rate = \"8M\"\nc-plan-ahead = 0".into(),
        disk_bytes: 32 << 20,
        ..Options::default()
    };
    let mut pair = Pair::running(&options);
    let load = Load::start(&pair.alice, Arc::<History>::default(), 0..2048, 2);
    load.progress(50, 20);
    for actor in ["resync", "bitmap", "volume", "disk"] {
        pair.bob.admin.order(&["invalidate"]).expect_code(0);
        pair.bob.admin.wait_for("the resync runs", 20, |volume| {
            connection(volume) == "SyncTarget" && (1..volume.size_bytes).contains(&volume.out_of_sync_bytes)
        });
        kill(&pair.bob, actor, Kill::Panic);
        kill(&pair.alice, actor, Kill::Panic);
        pair.wait_in_sync(60);
        load.progress(20, 20);
    }
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

/// The peer's actor dies while it is all that clients have: they wait, and see no error.
#[test]
fn the_peer_actor_dies_while_the_disk_is_away() {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), BUSY, 2);
    load.progress(50, 20);
    pair.alice.admin.order(&["detach"]).expect_code(0);
    load.progress(50, 20);
    for how in [Kill::Panic, Kill::Stop] {
        kill(&pair.alice, "peer", how);
        load.progress(50, 20);
    }
    pair.alice.admin.order(&["attach"]).expect_code(0);
    pair.wait_in_sync(60);
    let history = Arc::clone(&load.history);
    load.stop().expect_no_error();
    check_all(&pair.alice.nbd_socket(), &history);
    pair.stop_and_check(&history);
}

/// Without `--allow-kill` nobody kills anything; an unknown actor is named as such.
#[test]
fn an_unknown_actor_is_refused() {
    let pair = Pair::running(&Options::default());
    let refused = pair
        .alice
        .admin
        .order(&["kill", "--actor", "caretaker"])
        .expect_code(10);
    refused.expect_error("activity-log");
}
