//! The whole state machine as reviewed tables: what each command and each fact makes of each state.
//!
//! Rows are (connection, own disk / peer's disk) of a Secondary (`Sec`), of a Primary (`Pri`), or of both when the
//! answers are the same (`any`). Cells:
//!
//! * `.`: does not apply in this state; `=`: nothing to do; `-2`: refused with DRBD's code;
//! * else what changed: role, connection, `d:` own disk, `p:` peer's disk, pause reasons; `!` when a warning is told.
//!
//! Disks: Dl Diskless, At Attaching, Fa Failed, Ne Negotiating, In Inconsistent, Ou Outdated, DU DUnknown,
//! Co Consistent, UT UpToDate. Policy: no fencing, one Primary, a verify algorithm; nobody holds the device open.

use mendblock_core::volume::state::{
    ConnectionState as C, DiskState as D, DownReason, PauseFlags, Role, StateVector,
};
use mendblock_core::volume::transition::{Confirmed, Kind, Policy, Refusal, change, is_legal};

/// An event: what it wants, as fact or request, by what proof; `None` where it does not apply.
type Event = (&'static str, fn(StateVector) -> Option<Step>);

struct Step {
    wanted: StateVector,
    kind: Kind,
    confirmed: Confirmed,
}

fn request(wanted: StateVector) -> Option<Step> {
    Some(Step {
        wanted,
        kind: Kind::Soft,
        confirmed: Confirmed::Nothing,
    })
}

fn fact(wanted: StateVector) -> Option<Step> {
    Some(Step {
        wanted,
        kind: Kind::Hard,
        confirmed: Confirmed::Nothing,
    })
}

/// The first state packet of a connection, after a handshake unless a disk is missing.
fn met(now: StateVector, connection: C, peer_disk: D, confirmed: Confirmed) -> Option<Step> {
    let wanted = StateVector {
        connection,
        peer_disk,
        peer_role: Role::Secondary,
        ..now
    };
    (now.connection == C::WFReportParams).then_some(Step {
        wanted,
        kind: Kind::Soft,
        confirmed,
    })
}

fn to(now: StateVector, connection: C) -> StateVector {
    StateVector { connection, ..now }
}

fn disk(now: StateVector, disk: D) -> StateVector {
    StateVector { disk, ..now }
}

fn role(now: StateVector, role: Role) -> StateVector {
    StateVector { role, ..now }
}

/// A state packet of an established connection.
fn peer(now: StateVector, peer_disk: D) -> Option<Step> {
    when(
        now.connection.is_connected_or_better(),
        fact(StateVector { peer_disk, ..now }),
    )
}

fn when(applies: bool, step: Option<Step>) -> Option<Step> {
    step.filter(|_| applies)
}

fn pause(now: StateVector) -> StateVector {
    let paused = PauseFlags {
        user: true,
        ..now.paused
    };
    StateVector { paused, ..now }
}

fn finished(now: StateVector) -> StateVector {
    disk(
        StateVector {
            peer_disk: D::UpToDate,
            ..to(now, C::Connected)
        },
        D::UpToDate,
    )
}

const ROLE_AND_DISK: &[Event] = &[
    ("primary", |s| request(role(s, Role::Primary))),
    ("primary --force", primary_by_force),
    ("secondary", |s| request(role(s, Role::Secondary))),
    ("attach", |s| {
        when(s.disk == D::Diskless, request(disk(s, D::Attaching)))
    }),
    ("attached UpToDate", |s| attached(s, D::UpToDate)),
    ("attached Outdated", |s| attached(s, D::Outdated)),
    ("attach failed", |s| {
        when(s.disk == D::Attaching, fact(disk(s, D::Diskless)))
    }),
    ("detach", |s| request(disk(s, D::Failed.min(s.disk)))),
    ("detach --force, disk failed", |s| {
        fact(disk(s, D::Failed.min(s.disk)))
    }),
    ("read error, pass_on", |s| {
        when(s.disk.is_usable(), fact(disk(s, D::Inconsistent)))
    }),
    ("detach finished", |s| {
        when(s.disk == D::Failed, fact(disk(s, D::Diskless)))
    }),
    ("outdate", |s| request(disk(s, D::Outdated))),
];

const LINK: &[Event] = &[
    ("connect", |s| {
        when(s.connection == C::StandAlone, request(to(s, C::Unconnected)))
    }),
    ("disconnect", |s| request(to(s, C::Disconnecting))),
    ("disconnect --force", |s| fact(to(s, C::Disconnecting))),
    ("link lost", |s| fact(to(s, C::BrokenPipe))),
    ("cleaned up", |s| match s.connection {
        C::Disconnecting => fact(to(s, C::StandAlone)),
        down => when(down.is_down(), request(to(s, C::Unconnected))),
    }),
    ("met, same data", |s| handshake(s, C::Connected, D::UpToDate)),
    ("met, as source", |s| handshake(s, C::WFBitMapS, D::Inconsistent)),
    ("met, as target", |s| handshake(s, C::WFBitMapT, D::Consistent)),
    ("met a Diskless", |s| {
        met(s, C::Connected, D::Diskless, Confirmed::Nothing)
    }),
    ("met, own Diskless", |s| {
        when(
            !s.disk.is_usable(),
            met(s, C::Connected, D::UpToDate, Confirmed::Nothing),
        )
    }),
];

const RESYNC: &[Event] = &[
    ("invalidate", |s| request(to(s, C::StartingSyncT))),
    ("invalidate-remote", |s| request(to(s, C::StartingSyncS))),
    ("verify", |s| request(to(s, C::VerifyS))),
    ("pause-sync", |s| request(pause(s))),
    ("resync as source", |s| {
        when(s.connection.is_source(), request(to(s, C::SyncSource)))
    }),
    ("resync as target", |s| {
        when(s.connection.is_target(), request(to(s, C::SyncTarget)))
    }),
    ("finished", |s| {
        when(s.connection.is_resync(), request(finished(s)))
    }),
    ("given up", |s| {
        when(s.connection.in_sync_phase(), request(to(s, C::Connected)))
    }),
    ("peer Diskless", |s| peer(s, D::Diskless)),
    ("peer Failed", |s| peer(s, D::Failed)),
    ("peer Inconsistent", |s| peer(s, D::Inconsistent)),
    ("peer Outdated", |s| peer(s, D::Outdated)),
    ("peer UpToDate", |s| peer(s, D::UpToDate)),
    ("peer Ahead", |s| {
        when(s.connection.is_connected_or_better(), fact(to(s, C::Behind)))
    }),
];

/// Two disks met and compared their generations.
fn handshake(now: StateVector, result: C, peer_disk: D) -> Option<Step> {
    when(
        now.disk.is_usable(),
        met(now, result, peer_disk, Confirmed::ByHandshake),
    )
}

/// Force only takes the own data as good where the plain wish fails for want of good data.
fn primary_by_force(now: StateVector) -> Option<Step> {
    let plain = StateVector {
        role: Role::Primary,
        ..now
    };
    let no_data = change(&now, &plain, Kind::Soft, &Policy::default()) == Err(Refusal::NoUpToDateDisk);
    let usable = (D::Inconsistent..D::UpToDate).contains(&now.disk);
    request(if no_data && usable {
        disk(plain, D::UpToDate)
    } else {
        plain
    })
}

/// The adopting step of an attach: the handshake decides while Connected.
fn attached(now: StateVector, decided: D) -> Option<Step> {
    let connected = now.connection.is_connected_or_better();
    let to = if connected { D::Negotiating } else { decided };
    if now.disk == D::Attaching {
        request(disk(now, to))
    } else {
        None
    }
}

fn policy(confirmed: Confirmed) -> Policy {
    let mut policy = Policy {
        verify_algorithm: true,
        ..Policy::default()
    };
    policy.facts.confirmed = confirmed;
    policy
}

fn state(role: Role, connection: C, disk: D, peer_disk: D) -> StateVector {
    let peer_role = if connection.is_connected_or_better() {
        Role::Secondary
    } else {
        Role::Unknown
    };
    let user = matches!(connection, C::PausedSyncS | C::PausedSyncT);
    let paused = PauseFlags {
        user,
        ..PauseFlags::NONE
    };
    StateVector {
        role,
        peer_role,
        connection,
        disk,
        peer_disk,
        paused,
        ..StateVector::START
    }
}

/// Every legal state with these: one error state for all five; of an unknown peer nothing is known.
fn rows() -> Vec<(C, D, D)> {
    let mut rows = Vec::new();
    for connection in C::ALL {
        let same_as_another = connection.is_down() && *connection != C::BrokenPipe;
        for own in D::ALL {
            for other in D::ALL {
                let told_apart = match connection {
                    C::Connected => {
                        matches!(other, D::Diskless | D::Inconsistent | D::Outdated | D::UpToDate)
                    }
                    alone if !alone.is_connected_or_better() => *other == D::DUnknown,
                    _ => true,
                };
                let legal = is_legal(&state(Role::Secondary, *connection, *own, *other));
                if legal && told_apart && !same_as_another {
                    rows.push((*connection, *own, *other));
                }
            }
        }
    }
    rows
}

fn short(disk: D) -> &'static str {
    match disk {
        D::Diskless => "Dl",
        D::Attaching => "At",
        D::Failed => "Fa",
        D::Negotiating => "Ne",
        D::Inconsistent => "In",
        D::Outdated => "Ou",
        D::DUnknown => "DU",
        D::Consistent => "Co",
        D::UpToDate => "UT",
    }
}

fn cell(now: StateVector, event: &Event) -> String {
    let Some(step) = event.1(now) else {
        return ".".to_owned();
    };
    let change = match change(&now, &step.wanted, step.kind, &policy(step.confirmed)) {
        Err(refusal) => return refusal.number().to_string(),
        Ok(change) => change,
    };
    let new = change.new;
    assert!(is_legal(&new), "{} makes {new} of {now}", event.0);
    let mut parts = Vec::new();
    if new.role != now.role {
        parts.push(if new.role == Role::Primary {
            "Pri".to_owned()
        } else {
            "Sec".to_owned()
        });
    }
    if new.connection != now.connection {
        parts.push(new.connection.to_string());
    }
    if new.disk != now.disk {
        parts.push(format!("d:{}", short(new.disk)));
    }
    if new.peer_disk != now.peer_disk {
        parts.push(format!("p:{}", short(new.peer_disk)));
    }
    if new.paused != now.paused {
        parts.push(new.paused.to_string());
    }
    if change.warning.is_some() {
        parts.push("!".to_owned());
    }
    if parts.is_empty() {
        "=".to_owned()
    } else {
        parts.join(" ")
    }
}

/// Columns as wide as their widest cell; the heads stand above, numbered.
fn table(events: &[Event], from: C) -> String {
    let mut lines = Vec::new();
    for (connection, own, other) in rows().into_iter().filter(|row| row.0 >= from) {
        let cells = |role| -> Vec<String> {
            events
                .iter()
                .map(|event| cell(state(role, connection, own, other), event))
                .collect()
        };
        let label = |role: &str| format!("{role} {connection} {}/{}", short(own), short(other));
        let (secondary, primary) = (cells(Role::Secondary), cells(Role::Primary));
        if secondary == primary {
            lines.push((label("any"), secondary));
        } else {
            lines.push((label("Sec"), secondary));
            lines.push((label("Pri"), primary));
        }
    }
    let heads: Vec<String> = (1..=events.len()).map(|number| format!("({number})")).collect();
    lines.insert(0, (String::new(), heads));
    let width = |column: usize| {
        lines
            .iter()
            .map(|(_, cells)| cells[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..events.len()).map(width).collect();
    let mut text = String::new();
    for (number, (name, _)) in events.iter().enumerate() {
        text.push_str(&format!("({}) {name}\n", number + 1));
    }
    for (label, cells) in &lines {
        let mut line = format!("{label:<24}");
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!(" | {cell:<width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn role_and_disk() {
    insta::assert_snapshot!(table(ROLE_AND_DISK, C::StandAlone));
}

#[test]
fn link() {
    insta::assert_snapshot!(table(LINK, C::StandAlone));
}

#[test]
fn resync_and_peer() {
    insta::assert_snapshot!(table(RESYNC, C::WFReportParams));
}

#[test]
fn no_resync_and_no_verify_without_a_connection() {
    for (connection, own, other) in rows().into_iter().filter(|row| !row.0.is_connected_or_better()) {
        for role in [Role::Secondary, Role::Primary] {
            let now = state(role, connection, own, other);
            for phase in [C::StartingSyncT, C::StartingSyncS, C::VerifyS] {
                let result = change(&now, &to(now, phase), Kind::Soft, &policy(Confirmed::Nothing));
                assert_eq!(result, Err(Refusal::NeedConnection), "{now} {phase}");
            }
        }
    }
}

#[test]
fn all_kinds_of_link_loss_do_the_same() {
    for (connection, own, other) in rows() {
        for role in [Role::Secondary, Role::Primary] {
            let now = state(role, connection, own, other);
            let lost = |to: C| {
                let change = change(
                    &now,
                    &StateVector {
                        connection: to,
                        ..now
                    },
                    Kind::Hard,
                    &Policy::default(),
                );
                change.map(|change| StateVector {
                    connection: C::BrokenPipe,
                    ..change.new
                })
            };
            // The first error stays (BrokenPipe is one already).
            for reason in DownReason::ALL.iter().filter(|_| now.connection != C::BrokenPipe) {
                assert_eq!(lost(reason.state()), lost(C::BrokenPipe), "{now} {reason}");
            }
            let refused = [C::StandAlone, C::Disconnecting].contains(&connection);
            assert_eq!(lost(C::BrokenPipe).is_err(), refused, "{now}");
        }
    }
}

#[test]
fn no_hang_in_front_of_a_promotion() {
    // Promotion meets -18 only while a resync is being set up, which something will end.
    for (connection, own, other) in rows() {
        let now = state(Role::Secondary, connection, own, other);
        let wanted = StateVector {
            role: Role::Primary,
            ..now
        };
        let waits = change(&now, &wanted, Kind::Soft, &Policy::default()) == Err(Refusal::InTransientState);
        assert!(!waits || connection.is_resync_setup(), "{now}");
    }
}
