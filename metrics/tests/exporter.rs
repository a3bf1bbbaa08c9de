//! What a scrape sees: every metric of the table with HELP, TYPE and its labels; values as they were set; the manual.

use mendblock_metrics::table::{Kind, METRICS};
use mendblock_metrics::{
    ActorMetrics, DeathCause, DetachCause, ErrorKind, Exporter, NodeMetrics, Operation, PeerLabels,
    PeerMetrics, VolumeLabels, VolumeMetrics,
};

struct Node {
    exporter: Exporter,
    node: NodeMetrics,
    volume: VolumeMetrics,
    peer: PeerMetrics,
    actor: ActorMetrics,
}

fn node() -> Node {
    let (exporter, recorder) = Exporter::local().expect("the table makes an exporter");
    metrics::with_local_recorder(&recorder, || Node {
        exporter,
        node: NodeMetrics::new("alice", 0, "0.1.0", 1000.0),
        volume: VolumeMetrics::new(VolumeLabels {
            volume: "r0",
            minor: 7,
        }),
        peer: PeerMetrics::new(PeerLabels {
            volume: "r0",
            peer: "bob",
            node_id: 1,
        }),
        actor: ActorMetrics::new("r0", "disk"),
    })
}

/// The value of a series as a line of the text.
fn has(text: &str, line: &str) -> bool {
    text.lines().any(|found| found == line)
}

#[test]
fn a_fresh_node_shows_every_metric_with_help_type_and_labels() {
    let node = node();
    for operation in [Operation::Read, Operation::Write] {
        node.volume.client_duration(operation, 0.001);
        node.volume.disk_duration(operation, 0.001);
    }
    node.peer.write_duration.record(0.001);
    let text = node.exporter.render();
    for metric in METRICS {
        assert!(
            has(&text, &format!("# HELP {} {}", metric.name, metric.help)),
            "HELP of {}",
            metric.name
        );
        assert!(
            has(
                &text,
                &format!("# TYPE {} {}", metric.name, metric.kind.prometheus())
            ),
            "TYPE of {}",
            metric.name
        );
        let suffix = if metric.kind == Kind::Histogram {
            "_bucket"
        } else {
            ""
        };
        let series = text.lines().find(|line| {
            line.strip_prefix(metric.name)
                .and_then(|rest| rest.strip_prefix(suffix))
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let series = series.unwrap_or_else(|| panic!("no series of {}", metric.name));
        for label in metric.labels {
            assert!(series.contains(&format!("{label}=\"")), "{label} in {series}");
        }
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert_eq!(types, METRICS.len(), "a series that is not in the table:\n{text}");
}

#[test]
fn a_state_is_1_in_one_series() {
    let node = node();
    node.volume.set_disk_state("UpToDate");
    node.volume.set_disk_state("Failed");
    node.volume.set_role("Primary");
    node.volume.set_suspended(&["no-data"]);
    node.peer.set_state("SyncSource");
    node.peer.set_disk_state("Inconsistent");
    let text = node.exporter.render();
    for line in [
        "mendblock_disk_state{volume=\"r0\",state=\"Failed\"} 1",
        "mendblock_disk_state{volume=\"r0\",state=\"UpToDate\"} 0",
        "drbd_device_state{name=\"r0\",volume=\"0\",minor=\"7\",drbd_device_state=\"Failed\"} 1",
        "mendblock_volume_role{volume=\"r0\",role=\"Primary\"} 1",
        "mendblock_volume_suspended{volume=\"r0\",reason=\"no-data\"} 1",
        "mendblock_volume_suspended{volume=\"r0\",reason=\"user\"} 0",
        "mendblock_connection_state{volume=\"r0\",peer=\"bob\",state=\"SyncSource\"} 1",
        "drbd_connection_state{name=\"r0\",conn_name=\"bob\",peer_node_id=\"1\",drbd_connection_state=\"Connected\"} 1",
        "mendblock_peer_disk_state{volume=\"r0\",peer=\"bob\",state=\"Inconsistent\"} 1",
    ] {
        assert!(has(&text, line), "{line} in\n{text}");
    }
    node.peer.set_state("WFConnection");
    let text = node.exporter.render();
    let connecting = "drbd_connection_state{name=\"r0\",conn_name=\"bob\",peer_node_id=\"1\",drbd_connection_state=\"Connecting\"} 1";
    assert!(has(&text, connecting));
}

#[test]
fn counts_and_durations_arrive() {
    let node = node();
    node.node.volumes.set(1.0);
    node.volume.client_answered(Operation::Read, 3, 12_288);
    node.volume.client_failed(Operation::Write, 1);
    node.volume.client_duration(Operation::Read, 0.000_07);
    node.volume.disk_ended(Operation::Flush, 2, 0);
    node.volume.disk_error(ErrorKind::Read);
    node.volume.detached(DetachCause::ReadError);
    node.volume.handler_ran("local-io-error");
    node.volume.handler_ran("no-such-handler");
    node.actor.died(DeathCause::Panicked);
    node.actor.restarts.increment(1);
    node.peer.out_of_sync_bytes.set(4096.0);
    node.exporter.run_upkeep();
    let text = node.exporter.render();
    for line in [
        "mendblock_node_info{node=\"alice\",node_id=\"0\",version=\"0.1.0\"} 1",
        "mendblock_node_volumes 1",
        "mendblock_client_requests_total{volume=\"r0\",operation=\"read\"} 3",
        "mendblock_client_bytes_total{volume=\"r0\",operation=\"read\"} 12288",
        "mendblock_client_requests_total{volume=\"r0\",operation=\"write\"} 1",
        "mendblock_client_errors_total{volume=\"r0\",operation=\"write\"} 1",
        "mendblock_client_request_duration_seconds_bucket{volume=\"r0\",operation=\"read\",le=\"0.00005\"} 0",
        "mendblock_client_request_duration_seconds_bucket{volume=\"r0\",operation=\"read\",le=\"0.0001\"} 1",
        "mendblock_disk_operations_total{volume=\"r0\",operation=\"flush\"} 2",
        "mendblock_disk_errors_total{volume=\"r0\",kind=\"read\"} 1",
        "mendblock_detaches_total{volume=\"r0\",cause=\"read_error\"} 1",
        "mendblock_handler_runs_total{volume=\"r0\",handler=\"local-io-error\"} 1",
        "mendblock_actor_deaths_total{volume=\"r0\",actor=\"disk\",cause=\"panicked\"} 1",
        "mendblock_actor_restarts_total{volume=\"r0\",actor=\"disk\"} 1",
        "drbd_peerdevice_outofsync_bytes{name=\"r0\",conn_name=\"bob\",peer_node_id=\"1\",volume=\"0\"} 4096",
    ] {
        assert!(has(&text, line), "{line} in\n{text}");
    }
}

#[test]
fn a_second_exporter_is_refused() {
    Exporter::install().unwrap();
    let Err(error) = Exporter::install() else {
        panic!("two recorders in one process")
    };
    assert!(error.to_string().contains("install it once"), "{error}");
}

#[test]
fn the_manual_lists_the_table() {
    let manual = include_str!("../../docs/metrics.md");
    let expected: Vec<String> = METRICS
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            format!(
                "| `{}` | {} | {} | {} |",
                metric.name,
                metric.kind.prometheus(),
                labels.join(", "),
                metric.help
            )
        })
        .collect();
    let rows: Vec<&str> = manual.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(
        rows,
        expected,
        "docs/metrics.md should have the rows:\n{}",
        expected.join("\n")
    );
}
