//! Facts as events: the form of `drbdsetup events2`, first what there is, then what changes.

use super::Node;
use crate::admin::schema::{Event, EventKind};
use mendblock_actors::facts::Happened;
use mendblock_core::fact::Fact;
use mendblock_core::volume::state::StateVector;

fn field(key: &str, value: impl ToString) -> (String, String) {
    (key.to_owned(), value.to_string())
}

fn event(number: u64, at: f64, kind: EventKind, object: &str, fields: Vec<(String, String)>) -> Event {
    Event {
        number,
        at,
        kind,
        object: object.to_owned(),
        fields,
    }
}

/// What there is now; ends with the event `exists -`.
pub fn dump(node: &Node) -> Vec<Event> {
    let at = super::status::seconds(std::time::SystemTime::now());
    let mut events = Vec::new();
    for volume in &node.volumes {
        let Some(snapshot) = volume.last() else { continue };
        let v = snapshot.vector;
        let name = volume.name();
        events.push(event(
            0,
            at,
            EventKind::Exists,
            "resource",
            vec![
                field("name", name),
                field("role", v.role),
                field("suspended", v.suspended),
            ],
        ));
        events.push(event(
            0,
            at,
            EventKind::Exists,
            "device",
            vec![field("name", name), field("volume", 0), field("disk", v.disk)],
        ));
        let peer = &volume.setup.configuration.peer_name;
        let connection = vec![
            field("name", name),
            field("conn-name", peer),
            field("connection", v.connection),
            field("role", v.peer_role),
        ];
        events.push(event(0, at, EventKind::Exists, "connection", connection));
        let device = vec![
            field("name", name),
            field("conn-name", peer),
            field("volume", 0),
            field("peer-disk", v.peer_disk),
        ];
        events.push(event(0, at, EventKind::Exists, "peer-device", device));
    }
    events.push(event(0, at, EventKind::Exists, "-", Vec::new()));
    events
}

/// The events of one fact.
pub fn of(happened: &Happened, peer: &str, number: &mut u64) -> Vec<Event> {
    let at = happened.wall as f64;
    let name = &*happened.volume;
    let mut make = |kind, object: &str, fields: Vec<(String, String)>| {
        *number += 1;
        let mut all = vec![field("name", name)];
        all.extend(fields);
        event(*number, at, kind, object, all)
    };
    match &happened.fact {
        Fact::StateChanged { old, new, cause } => changes(old, new, cause, peer)
            .into_iter()
            .map(|(object, fields)| make(EventKind::Change, object, fields))
            .collect(),
        Fact::IoError {
            number,
            kind,
            range,
            errno,
        } => {
            let range = range.map_or_else(|| "-".to_owned(), |range| range.to_string());
            let fields = vec![
                field("io-error", kind),
                field("number", number),
                field("sectors", range),
                field("errno", errno),
            ];
            vec![make(EventKind::Change, "device", fields)]
        }
        Fact::Step { step, outcome } => vec![make(
            EventKind::Change,
            "device",
            vec![field("step", step), field("outcome", outcome)],
        )],
        Fact::HelperEnded {
            handler,
            exit_code,
            outcome,
            milliseconds,
        } => {
            let status = exit_code.map_or(0, |code| code * 256);
            let fields = vec![
                field("helper", handler),
                field("status", status),
                field("outcome", outcome),
                field("ms", milliseconds),
            ];
            vec![make(EventKind::Response, "helper", fields)]
        }
        Fact::ResyncStarted { source, bits } => {
            let role = if *source { "source" } else { "target" };
            vec![make(
                EventKind::Change,
                "peer-device",
                vec![field("resync", role), field("out-of-sync-kib", bits * 4)],
            )]
        }
        Fact::ResyncEnded {
            source,
            failed,
            aborted,
            ..
        } => {
            let role = if *source { "source" } else { "target" };
            let end = aborted.as_deref().unwrap_or("done");
            vec![make(
                EventKind::Change,
                "peer-device",
                vec![
                    field("resync", role),
                    field("resync-end", end),
                    field("lost-blocks", failed),
                ],
            )]
        }
        Fact::BadBlocks { range, change, cause } => {
            vec![make(
                EventKind::Change,
                "device",
                vec![
                    field("bad-blocks", range),
                    field("change", change),
                    field("cause", cause),
                ],
            )]
        }
        Fact::Generation {
            operation,
            current,
            cause,
        } => {
            let fields = vec![
                field("generation", operation),
                field("current", format!("{current:016X}")),
                field("cause", cause),
            ];
            vec![make(EventKind::Change, "device", fields)]
        }
        Fact::Alert { what } => vec![make(EventKind::Change, "resource", vec![field("alert", what)])],
        Fact::BulkClear { bits, reason } => {
            vec![make(
                EventKind::Change,
                "peer-device",
                vec![field("bulk-clear-bits", bits), field("reason", reason)],
            )]
        }
        _ => Vec::new(),
    }
}

fn changes(
    old: &StateVector,
    new: &StateVector,
    cause: &str,
    peer: &str,
) -> Vec<(&'static str, Vec<(String, String)>)> {
    let mut all = Vec::new();
    if old.role != new.role || old.suspended != new.suspended {
        all.push((
            "resource",
            vec![
                field("role", new.role),
                field("suspended", new.suspended),
                field("cause", cause),
            ],
        ));
    }
    if old.disk != new.disk {
        all.push((
            "device",
            vec![field("volume", 0), field("disk", new.disk), field("cause", cause)],
        ));
    }
    if old.connection != new.connection || old.peer_role != new.peer_role {
        let fields = vec![
            field("conn-name", peer),
            field("connection", new.connection),
            field("role", new.peer_role),
            field("cause", cause),
        ];
        all.push(("connection", fields));
    }
    if old.peer_disk != new.peer_disk {
        let fields = vec![
            field("conn-name", peer),
            field("volume", 0),
            field("peer-disk", new.peer_disk),
            field("cause", cause),
        ];
        all.push(("peer-device", fields));
    }
    all
}
