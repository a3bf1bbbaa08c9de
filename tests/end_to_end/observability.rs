//! What is to be seen from outside: metrics, events, status.

use mendblock::admin::schema::Kill;
use mendblock::configuration::{FaultKind, FaultMode, FaultRule};
use mendblock_harness::admin::{failing, http};
use mendblock_harness::disks::BLOCK;
use mendblock_harness::events::Events;
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair, connection};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn page(node: &Node) -> String {
    let stream = TcpStream::connect(node.metrics_port()).unwrap();
    let (code, page) = http(stream, "GET", "/metrics", "").unwrap();
    assert_eq!(code, 200, "{page}");
    page
}

/// Sum of the series of a metric that have all these labels.
fn value(page: &str, metric: &str, labels: &[&str]) -> Option<f64> {
    let series = page.lines().filter(|line| {
        line.strip_prefix(metric)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    let values: Vec<f64> = series
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Waits until a metric has this value or a higher one.
#[track_caller]
fn wait_for(node: &Node, metric: &str, labels: &[&str], least: f64) {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let page = page(node);
        if value(&page, metric, labels).is_some_and(|value| value >= least) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{metric} {labels:?} stays below {least}:\n{page}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn metrics_and_events_tell_the_story() {
    let mut pair = Pair::running(&Options::default());
    let alice = pair.alice.admin.clone();
    let mut session = pair.alice.session();
    session.write(0, &vec![1; 16 * BLOCK as usize]).unwrap();
    session.read(0, 8192).unwrap();
    session.flush().unwrap();

    let node = &pair.alice;
    wait_for(node, "mendblock_node_info", &["node=\"alice\""], 1.0);
    wait_for(node, "mendblock_volume_role", &["role=\"Primary\""], 1.0);
    wait_for(node, "mendblock_disk_state", &["state=\"UpToDate\""], 1.0);
    wait_for(
        node,
        "mendblock_connection_state",
        &["peer=\"bob\"", "state=\"Connected\""],
        1.0,
    );
    wait_for(node, "mendblock_peer_disk_state", &["state=\"UpToDate\""], 1.0);
    wait_for(
        node,
        "mendblock_client_requests_total",
        &["operation=\"write\""],
        1.0,
    );
    wait_for(
        node,
        "mendblock_client_bytes_total",
        &["operation=\"write\""],
        65536.0,
    );
    wait_for(
        node,
        "mendblock_client_requests_total",
        &["operation=\"read\""],
        1.0,
    );
    wait_for(
        node,
        "mendblock_client_request_duration_seconds_count",
        &["operation=\"flush\""],
        1.0,
    );
    wait_for(node, "mendblock_nbd_sessions", &[], 1.0);
    wait_for(node, "mendblock_al_transactions_total", &[], 1.0);
    wait_for(
        node,
        "drbd_device_state",
        &["drbd_device_state=\"UpToDate\""],
        1.0,
    );

    // A read error, the detach, the handler's absence, the attach, the resync.
    let events = Events::follow(&alice);
    alice.fault(&failing(FaultKind::Read, 8, 8, FaultMode::UntilWritten));
    assert_eq!(session.read(BLOCK, 4096).unwrap(), vec![1; 4096]);
    events.wait_for_field("device", "io-error", "read");
    events.wait_for_field("device", "disk", "Failed");
    events.wait_for_field("device", "disk", "Diskless");
    let shown = alice.wait_for("shown", 10, |volume| volume.disk.state == "Diskless");
    let why = "a read failed: sectors 8 to 15: Input/output error (os error 5)";
    assert_eq!(shown.disk.reason, why);
    assert_eq!(shown.why[0].text, why, "{shown:#?}");
    wait_for(node, "mendblock_detaches_total", &["cause=\"read_error\""], 1.0);
    wait_for(node, "mendblock_disk_errors_total", &["kind=\"read\""], 1.0);
    wait_for(node, "mendblock_disk_state", &["state=\"Diskless\""], 1.0);
    wait_for(node, "mendblock_bad_blocks", &[], 1.0);
    assert_eq!(
        value(
            &page(node),
            "mendblock_client_errors_total",
            &["operation=\"read\""]
        ),
        Some(0.0)
    );
    alice.order(&["attach"]).expect_code(0);
    pair.wait_in_sync(60);
    events.wait_for_field("peer-device", "resync", "target");
    events.wait_for_field("device", "disk", "UpToDate");
    let node = &pair.alice;
    wait_for(node, "mendblock_blocks_mended_total", &[], 1.0);
    assert_eq!(value(&page(node), "mendblock_bad_blocks", &[]), Some(0.0));

    // The death of an actor.
    assert_eq!(alice.kill("bitmap", Kill::Panic).unwrap().0, 200);
    wait_for(
        node,
        "mendblock_actor_deaths_total",
        &["actor=\"bitmap\"", "cause=\"panicked\""],
        1.0,
    );
    wait_for(node, "mendblock_actor_restarts_total", &["actor=\"bitmap\""], 1.0);

    // The loss of the peer.
    pair.bob.kill();
    events.wait_for("the loss of the connection", |event| {
        event.object == "connection"
            && event
                .fields
                .iter()
                .any(|(key, value)| key == "connection" && value != "Connected")
    });
    session.write(0, &vec![2; BLOCK as usize]).unwrap();
    let node = &pair.alice;
    wait_for(node, "mendblock_out_of_sync_bytes", &[], 4096.0);
    drop(session);
}

const MANUAL: &str = include_str!("../../docs/metrics.md");

/// Rows of the manual's table: name, type, labels, meaning.
fn rows() -> Vec<[String; 4]> {
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        let [name, kind, labels, meaning] = cells[..] else {
            panic!("not four cells: {row}")
        };
        let labels = labels.replace(['`', ' '], "");
        [name.trim_end_matches('`'), kind, &labels, meaning].map(str::to_owned)
    })
    .collect()
}

/// The values that the manual lists behind `head`.
fn listed(head: &str) -> BTreeSet<String> {
    let (_, behind) = MANUAL.split_once(head).unwrap_or_else(|| panic!("no {head:?}"));
    let (values, _) = behind.split_once("\n* ").unwrap();
    values.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Name and labels, with their values, of a line of the page.
fn series(line: &str) -> (&str, Vec<(&str, &str)>) {
    let (series, _) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split("\",");
    let labels = labels.filter_map(|label| label.split_once("=\""));
    (
        name,
        labels
            .map(|(label, value)| (label, value.trim_end_matches('"')))
            .collect(),
    )
}

/// Each row of the manual is on the page of a running node, and each series of the page is in the manual.
#[test]
fn the_manual_says_what_the_page_shows() {
    let pair = Pair::running(&Options::default());
    // A histogram has no series until its first sample.
    let mut session = pair.alice.session();
    session.write(0, &vec![1; BLOCK as usize]).unwrap();
    session.read(0, 4096).unwrap();
    session.flush().unwrap();
    let node = &pair.alice;
    wait_for(node, "mendblock_peer_write_duration_seconds_count", &[], 1.0);
    let page = page(node);

    let heads = |word| {
        let lines = page.lines().filter_map(move |line| line.strip_prefix(word));
        lines.filter_map(|line| line.split_once(' '))
    };
    let types: BTreeMap<&str, &str> = heads("# TYPE ").collect();
    let helps: BTreeMap<&str, &str> = heads("# HELP ").collect();
    let rows = rows();
    assert!(rows.len() > 40, "the table was not found");
    let mut shown: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut values: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for line in page
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (name, labels) = series(line);
        let parts = ["_bucket", "_sum", "_count"].map(|part| name.strip_suffix(part));
        let histogram = parts
            .into_iter()
            .flatten()
            .find(|name| types.get(name) == Some(&"histogram"));
        let name = histogram.unwrap_or(name);
        let names: Vec<&str> = labels
            .iter()
            .map(|(label, _)| *label)
            .filter(|label| *label != "le")
            .collect();
        shown.entry(name).or_default().insert(names.join(","));
        for (label, value) in labels {
            values.entry((name, label)).or_default().insert(value.to_owned());
        }
    }
    for [name, kind, labels, meaning] in &rows {
        assert_eq!(types.get(name.as_str()), Some(&kind.as_str()), "{name}");
        assert_eq!(helps.get(name.as_str()), Some(&meaning.as_str()), "{name}");
        let shown = shown.remove(name.as_str());
        assert_eq!(shown, Some([labels.clone()].into()), "labels of {name}");
    }
    assert!(shown.is_empty(), "not in the manual: {shown:#?}");
    assert_eq!(types.len(), rows.len(), "{types:#?}");

    let values = |metric: &'static str, label: &'static str| values[&(metric, label)].clone();
    let operations = listed("* `operation` is one of");
    assert_eq!(values("mendblock_client_requests_total", "operation"), operations);
    assert_eq!(values("mendblock_disk_operations_total", "operation"), operations);
    for (head, metric, label) in [
        ("* `kind` of a disk error", "mendblock_disk_errors_total", "kind"),
        (
            "* `cause` of an actor's death",
            "mendblock_actor_deaths_total",
            "cause",
        ),
        ("* `cause` of a detach", "mendblock_detaches_total", "cause"),
    ] {
        assert_eq!(values(metric, label), listed(head), "{head}");
    }
}

/// A client that goes away under its own request leaves none open.
#[test]
fn a_client_that_has_gone_waits_for_nothing() {
    let pair = Pair::running(&Options::default());
    let slow = FaultRule {
        delay_ms: 1000,
        ..failing(FaultKind::Read, 8, 8, FaultMode::Always)
    };
    pair.alice.admin.fault(&slow);
    let mut session = pair.alice.session();
    session.send_read(BLOCK, 4096).unwrap();
    let open =
        |wanted| move |volume: &mendblock::admin::schema::VolumeStatus| volume.io.upper_pending == wanted;
    pair.alice.admin.wait_for("the request is open", 10, open(1));
    drop(session);
    pair.alice.admin.wait_for("it is not any more", 10, open(0));
}

/// A running resync shows how far it is, in status and metrics.
#[test]
fn a_resync_shows_its_progress() {
    let pair = Pair::running(&Options {
        volume_keys: "resync-rate = \"16M\"\nc-plan-ahead = 0".into(),
        ..Options::default()
    });
    pair.bob.admin.order(&["invalidate"]).expect_code(0);
    let under_way = |volume: &mendblock::admin::schema::VolumeStatus| {
        volume.connections[0]
            .resync
            .as_ref()
            .is_some_and(|resync| resync.left_bytes > 0 && resync.done_percent > 5.0)
    };
    let target = pair.bob.admin.wait_for("the target's progress", 20, under_way);
    assert_eq!(connection(&target), "SyncTarget");
    let source = pair.alice.admin.wait_for("the source's progress", 20, under_way);
    assert_eq!(connection(&source), "SyncSource");
    wait_for(&pair.bob, "mendblock_resync_size_bytes", &[], 1.0);
    let shown = pair.bob.admin.command(&["status"]).expect_code(0);
    assert!(shown.out.contains("done:"), "{shown:#?}");
    pair.wait_in_sync(60);
}

/// Traffic with the peer is counted, and both nodes count the same: payload alone, so that there is nothing between the two
/// numbers once all is at rest.
#[test]
fn traffic_with_the_peer_is_counted() {
    let mut pair = Pair::running(&Options::default());
    let sent = |node: &Node| counted(node, "mendblock_peer_sent_bytes_total");
    let received = |node: &Node| counted(node, "mendblock_peer_received_bytes_total");
    // The first resync copied every block.
    let copied = sent(&pair.alice);
    assert!(copied > 0, "the first resync is not counted");
    let written = |node: &Node| node.admin.volume().io.written_bytes;
    let size = pair.alice.admin.volume().size_bytes;
    assert_eq!(
        (written(&pair.alice), written(&pair.bob)),
        (0, size),
        "a resync's writes are writes of its target"
    );
    assert_eq!(received(&pair.bob), copied);
    let mut session = pair.alice.session();
    for block in 0..16 {
        session.write(block * BLOCK, &vec![1; BLOCK as usize]).unwrap();
    }
    session.flush().unwrap();
    assert_eq!(sent(&pair.alice), copied + 16 * BLOCK);
    assert_eq!(received(&pair.bob), copied + 16 * BLOCK);
    assert_eq!((sent(&pair.bob), received(&pair.alice)), (0, 0));
    assert_eq!(
        counted(&pair.alice, "mendblock_peer_write_duration_seconds_count"),
        16
    );
    assert!(counted(&pair.alice, "mendblock_barriers_total") >= 1);
    for node in [&pair.alice, &pair.bob] {
        for gauge in [
            "mendblock_peer_requests_pending",
            "mendblock_peer_requests_unacknowledged",
        ] {
            assert_eq!(counted(node, gauge), 0, "{gauge} at rest");
        }
    }
    let shown = pair.alice.admin.volume().connections[0].replication.clone();
    assert_eq!(shown.sent_bytes, copied + 16 * BLOCK);
    assert_eq!(written(&pair.alice), 16 * BLOCK);
    assert_eq!(written(&pair.bob), size + 16 * BLOCK);

    // Reads that the peer serves go the other way.
    pair.alice.admin.order(&["detach"]).expect_code(0);
    session.read(0, 4096).unwrap();
    assert_eq!((sent(&pair.bob), received(&pair.alice)), (BLOCK, BLOCK));

    // The promotion by force made the first connection anew, on purpose.
    let lost = counted(&pair.alice, "mendblock_connection_losses_total");
    pair.bob.kill();
    wait_for(
        &pair.alice,
        "mendblock_connection_losses_total",
        &[],
        (lost + 1) as f64,
    );
}

/// A number that is counted now, without waiting for it.
#[track_caller]
fn counted(node: &Node, metric: &str) -> u64 {
    let page = page(node);
    value(&page, metric, &[]).unwrap_or_else(|| panic!("no {metric}:\n{page}")) as u64
}

/// Requests that wait for a slow peer are seen waiting, at both ends.
#[test]
fn requests_that_wait_for_the_peer_are_shown() {
    let pair = Pair::running(&Options::default());
    let slow = FaultRule {
        delay_ms: 1500,
        ..failing(FaultKind::Write, 0, 8, FaultMode::Always)
    };
    pair.bob.admin.fault(&slow);
    let mut session = pair.alice.session();
    let writer = std::thread::spawn(move || session.write(0, &vec![3; BLOCK as usize]).map(|()| session));
    wait_for(&pair.alice, "mendblock_peer_requests_pending", &[], 1.0);
    wait_for(&pair.bob, "mendblock_peer_requests_unacknowledged", &[], 1.0);
    drop(writer.join().unwrap().unwrap());
    let page = page(&pair.alice);
    let sum = value(&page, "mendblock_peer_write_duration_seconds_sum", &[]);
    assert!(sum.is_some_and(|sum| sum >= 1.0), "{sum:?}");
}

/// A disk that is given up and attached again at once is counted each time.
#[test]
fn every_detach_is_counted() {
    let pair = Pair::running(&Options::default());
    for _ in 0..5 {
        pair.alice.admin.order(&["detach"]).expect_code(0);
        pair.alice.admin.wait_for("attached again", 20, |volume| {
            volume.disk.state != "Diskless" || pair.alice.admin.order(&["attach"]).code == Some(0)
        });
        pair.wait_in_sync(30);
    }
    let page = page(&pair.alice);
    assert_eq!(
        value(&page, "mendblock_detaches_total", &["cause=\"admin\""]),
        Some(5.0)
    );
    assert_eq!(value(&page, "mendblock_detaches_total", &[]), Some(5.0));
}
