//! `status` as text: DRBD's paragraphs, with lines of our own below: causes, waits, what to do.

use crate::admin::schema::{ConnectionStatus, DiskStatus, ResyncProgress, Status, VolumeStatus, Wait};
use std::fmt::Write;

/// The text for all volumes, or for the one named. Ends with a line end unless it is empty.
pub fn render(status: &Status, only: Option<&str>) -> String {
    let mut text = String::new();
    for volume in status
        .volumes
        .iter()
        .filter(|volume| only.is_none_or(|name| name == volume.name))
    {
        if !text.is_empty() {
            text.push('\n');
        }
        Paragraph {
            text: &mut text,
            now: status.node.now,
        }
        .volume(volume);
    }
    text
}

struct Paragraph<'t> {
    text: &'t mut String,
    now: f64,
}

impl Paragraph<'_> {
    fn line(&mut self, indent: usize, line: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "");
    }

    fn volume(&mut self, volume: &VolumeStatus) {
        let mut head = format!("{} role:{}", volume.name, volume.role);
        if !volume.suspended.is_empty() {
            head += &format!(" suspended:{}", volume.suspended.join(","));
        }
        self.line(0, &head);
        self.disk(&volume.disk);
        if volume.out_of_sync_bytes > 0 || volume.bad_blocks > 0 {
            let bad = match volume.bad_blocks {
                0 => String::new(),
                blocks => format!(" bad-blocks:{blocks}"),
            };
            self.line(
                4,
                &format!("out-of-sync:{}{bad}", volume.out_of_sync_bytes / 1024),
            );
        }
        for connection in &volume.connections {
            self.connection(connection);
        }
        for wait in &volume.waits {
            self.wait(wait);
        }
        for why in &volume.why {
            self.line(2, &format!("why: {} [{}]", why.text, why.code));
            if !why.remedy.is_empty() {
                self.line(4, &format!("do: {}", why.remedy));
            }
        }
        for fault in &volume.faults {
            self.line(
                2,
                &format!("fault {}: {}", fault.number, super::run::fault_text(fault)),
            );
        }
    }

    fn disk(&mut self, disk: &DiskStatus) {
        self.line(2, &format!("disk:{}", disk.state));
        if !disk.reason.is_empty() {
            self.line(
                4,
                &format!("cause: {}, {} ago", disk.reason, span(self.now - disk.since)),
            );
        }
        if let Some(detach) = &disk.detach {
            let limit = match detach.until {
                Some(until) => format!("at most {} more", span(until - self.now)),
                None => "as long as it makes progress".into(),
            };
            self.line(4, &format!("detaching: {} {}, {limit}", detach.step, detach.text));
        }
    }

    fn connection(&mut self, connection: &ConnectionStatus) {
        let connected = is_connected(&connection.state);
        let head = match connected {
            true => format!("role:{}", connection.role),
            // The word of drbdsetup 9 for this state.
            false if connection.state == "WFConnection" => "connection:Connecting".into(),
            false => format!("connection:{}", connection.state),
        };
        self.line(2, &format!("{} {head}", connection.name));
        if !connection.reason.is_empty() {
            self.line(
                4,
                &format!(
                    "cause: {}, {} ago",
                    connection.reason,
                    span(self.now - connection.since)
                ),
            );
        }
        if !connected && connection.peer_disk == "DUnknown" {
            return;
        }
        let mut line = String::new();
        if connected && connection.state != "Connected" {
            line += &format!("replication:{} ", connection.state);
        }
        line += &format!("peer-disk:{}", connection.peer_disk);
        if !connection.resync_suspended.is_empty() {
            line += &format!(" resync-suspended:{}", connection.resync_suspended.join(","));
        }
        if let Some(resync) = &connection.resync {
            line += &format!(" done:{:.2}", resync.done_percent);
        }
        self.line(4, &line);
        if let Some(resync) = &connection.resync {
            self.resync(resync);
        }
    }

    fn resync(&mut self, resync: &ResyncProgress) {
        let rate = resync.rate_bytes_per_second / 1024;
        let eta = resync
            .eta_seconds
            .map_or("stalled".into(), |eta| format!("{} to go", span(eta)));
        let failed = match resync.failed_bytes {
            0 => String::new(),
            bytes => format!(", {} KiB failed", bytes / 1024),
        };
        self.line(
            4,
            &format!(
                "resync: {} of {} KiB left at {rate} KiB/s, {eta}{failed}",
                resync.left_bytes / 1024,
                resync.total_bytes / 1024
            ),
        );
    }

    fn wait(&mut self, wait: &Wait) {
        let limit = match wait.until {
            Some(until) => format!("at most {} more", span(until - self.now)),
            None => "until the operator ends it".into(),
        };
        self.line(
            2,
            &format!(
                "waiting: {} for {}, {} so far, {limit}",
                wait.who,
                wait.what,
                span(self.now - wait.since)
            ),
        );
    }
}

/// Whether the peer's state is known: `Connected`, and the states of resync and verify.
fn is_connected(state: &str) -> bool {
    !matches!(
        state,
        "" | "StandAlone"
            | "Disconnecting"
            | "Unconnected"
            | "Timeout"
            | "BrokenPipe"
            | "NetworkFailure"
            | "ProtocolError"
            | "TearDown"
            | "WFConnection"
            | "WFReportParams"
    )
}

/// A duration for people; a negative one (clocks were set) is 0.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{:.1} s", seconds.max(0.0)),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}
