//! What mends, in numbers: exactly the bad blocks are marked, fetched and rewritten, and an unmodified client that reads
//! them says nothing of an error. Without a load, so that every number is known.

use mendblock::configuration::{FaultKind, FaultMode};
use mendblock_harness::admin::failing;
use mendblock_harness::disks::{self, BLOCK};
use mendblock_harness::events::Events;
use mendblock_harness::pair::{Options, Pair, is_in_sync, peer_disk};
use mendblock_harness::tool::{is_installed, succeeds};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Blocks that one request reads: it fails as a whole, and only once.
const BAD: Range<u64> = 9_000..9_002;
const COUNT: u64 = BAD.end - BAD.start;
/// Longest run of the handler, seconds.
const HELPER_LIMIT: u64 = 2;

/// A pair whose Primary holds 0x5A in the blocks around the bad ones, and cannot read those.
fn with_bad_blocks(policy: &str, handler: impl Fn(&Pair) -> String) -> Pair {
    let mut pair = Pair::new(&Options {
        volume_keys: format!("on-io-error = \"{policy}\"\nhelper-timeout = {HELPER_LIMIT}"),
        ..Options::default()
    });
    pair.alice.settings.handlers = handler(&pair);
    pair.alice.configure();
    pair.bring_up();
    let mut session = pair.alice.session();
    let bytes = vec![0x5A; (COUNT + 2) as usize * BLOCK as usize];
    session.write((BAD.start - 1) * BLOCK, &bytes).unwrap();
    session.flush().unwrap();
    let lost = [0xDE; (COUNT * BLOCK) as usize];
    disks::poke(&pair.alice, &lost, BAD.start * BLOCK);
    let rule = failing(
        FaultKind::Read,
        BAD.start * 8,
        COUNT as u32 * 8,
        FaultMode::UntilWritten,
    );
    pair.alice.admin.fault(&rule);
    pair
}

/// qemu-io reads the blocks and compares them; what it says must be free of errors.
fn read_as_a_client(pair: &Pair) {
    let length = COUNT * BLOCK;
    let step = format!("read -P 0x5a {} {length}", BAD.start * BLOCK);
    let uri = pair.alice.uri();
    let Some(said) = succeeds("qemu-io", &["-r", "-f", "raw", "-c", &step, &uri]) else {
        return;
    };
    assert!(said.contains(&format!("read {length}/{length} bytes")), "{said}");
    for word in ["error", "failed", "verification"] {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

/// Sizes of the resyncs in which this node was the target.
fn resyncs(events: &Events) -> Vec<String> {
    events
        .seen()
        .into_iter()
        .filter(|event| event.object == "peer-device")
        .filter(|event| event.fields.contains(&("resync".into(), "target".into())))
        .filter_map(|event| event.fields.into_iter().find(|(key, _)| key == "out-of-sync-kib"))
        .map(|(_, size)| size)
        .collect()
}

/// What must hold at the end: all bits and bad blocks are gone, the blocks stand on both disks, only they were copied.
fn expect_mended(mut pair: Pair, events: &Events) {
    let alice = &pair.alice.admin;
    let mended = alice.wait_for("mended", 60, |volume| {
        is_in_sync(volume) && volume.bad_blocks == 0
    });
    assert_eq!(mended.io.read_errors, 1, "it fails once: {mended:#?}");
    assert!(mended.why.is_empty(), "{mended:#?}");
    pair.bob.admin.wait_for("mended", 10, is_in_sync);
    events.wait_for_field("peer-device", "resync-end", "done");
    let sizes = resyncs(events);
    let total: u64 = sizes.iter().map(|size| size.parse::<u64>().unwrap()).sum();
    assert_eq!(total, COUNT * 4, "not exactly the bad blocks: {sizes:?}");
    read_as_a_client(&pair);
    assert_eq!(alice.volume().io.read_errors, 1, "a mended block fails again");
    pair.stop_and_compare();
    for block in BAD {
        assert_eq!(
            disks::block(&pair.alice, block),
            [0x5A; BLOCK as usize],
            "block {block}"
        );
    }
}

/// The disk is given up with exactly the two marks in its bitmap; attached again, exactly they are copied.
fn given_up_and_attached(pair: Pair, events: &Events, seconds: u64) {
    let alice = &pair.alice.admin;
    alice.wait_for("the disk is given up", seconds, |volume| {
        volume.disk.state == "Diskless"
    });
    pair.bob
        .admin
        .wait_for("the peer knows", 10, |volume| peer_disk(volume) == "Diskless");
    let dump = disks::dump(&pair.alice);
    let runs: Vec<(u64, u64)> = serde_json::from_value(dump["bits-set-runs"].clone()).unwrap();
    assert_eq!(runs, [(BAD.start, BAD.end - 1)], "{dump:#}");
    assert_eq!(disks::number(&dump, "bits-set"), COUNT);
    read_as_a_client(&pair);
    alice.order(&["attach"]).expect_code(0);
    expect_mended(pair, events);
}

#[test]
fn detach_resyncs_exactly_the_bad_blocks() {
    if !is_installed("qemu-io") {
        return;
    }
    let pair = with_bad_blocks("detach", |_| String::new());
    let events = Events::follow(&pair.alice.admin);
    read_as_a_client(&pair);
    given_up_and_attached(pair, &events, 20);
}

#[test]
fn pass_on_resyncs_exactly_the_bad_blocks() {
    if !is_installed("qemu-io") {
        return;
    }
    let pair = with_bad_blocks("pass_on", |_| String::new());
    let events = Events::follow(&pair.alice.admin);
    read_as_a_client(&pair);
    events.wait_for_field("device", "disk", "Inconsistent");
    expect_mended(pair, &events);
}

/// A handler that never returns is ended at its time limit, and everything goes on; until then the client waits for
/// nothing.
#[test]
fn a_handler_that_never_returns_has_a_time_limit() {
    if !is_installed("qemu-io") {
        return;
    }
    let pair = with_bad_blocks("call-local-io-error", |pair| {
        let file = pair.alice.file("environment");
        let file = file.display();
        format!("local-io-error = \"(env; echo pid=$$) > {file}.new; mv {file}.new {file}; sleep 600; true\"")
    });
    let events = Events::follow(&pair.alice.admin);
    let begun = Instant::now();
    read_as_a_client(&pair);
    let file = pair.alice.file("environment");
    pair.alice
        .admin
        .wait_for("the handler runs", 10, |_| file.exists());
    let environment = std::fs::read_to_string(&file).unwrap();
    let disk = pair.alice.disk.display().to_string();
    let peer = pair.alice.settings.peer.unwrap().2.to_string();
    let configuration = pair.alice.configuration.display().to_string();
    for (name, value) in [
        ("DRBD_RESOURCE", "r0"),
        ("DRBD_MINOR", "0"),
        ("DRBD_VOLUME", "0"),
        ("DRBD_LL_DISK", &disk),
        ("DRBD_CONF", &configuration),
        ("DRBD_PEER", "bob"),
        ("DRBD_PEERS", "bob"),
        ("DRBD_PEER_AF", "ipv4"),
        ("DRBD_PEER_ADDRESS", &peer),
        ("DRBD_PEER_NODE_ID", "1"),
        ("DRBD_MY_NODE_ID", "0"),
    ] {
        let wanted = format!("{name}={value}");
        assert!(
            environment.lines().any(|line| line == wanted),
            "{wanted}:\n{environment}"
        );
    }
    // The limit has not passed, the handler runs, and clients are served.
    let pid = environment
        .lines()
        .find_map(|line| line.strip_prefix("pid="))
        .unwrap();
    let process = std::path::Path::new("/proc").join(pid);
    if begun.elapsed() < Duration::from_secs(HELPER_LIMIT) / 2 {
        assert!(process.exists(), "the handler has ended by itself");
        assert_eq!(pair.alice.admin.volume().disk.state, "Failed");
    }
    read_as_a_client(&pair);
    events.wait_for("the handler's end", |event| {
        event.object == "helper"
            && event
                .fields
                .contains(&("outcome".into(), "stopped after its time limit".into()))
    });
    assert!(
        begun.elapsed() >= Duration::from_secs(HELPER_LIMIT),
        "it was stopped too early"
    );
    pair.alice
        .admin
        .wait_for("the process is gone", 10, |_| !process.exists());
    given_up_and_attached(pair, &events, 20);
}
