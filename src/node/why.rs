//! Why a state is not the best one: cause, what follows, what to do; each with a stable code.

use crate::admin::schema::Explanation;
use mendblock_core::snapshot::{FailedRequest, Snapshot};
use mendblock_core::volume::state::{
    ConnectionState, DetachCause, DisconnectReason, DiskState, DisklessReason, Role,
};

fn explain(code: &str, text: impl Into<String>, remedy: impl Into<String>) -> Explanation {
    Explanation {
        code: code.to_owned(),
        text: text.into(),
        remedy: remedy.into(),
    }
}

/// All that keeps the volume from being healthy.
pub fn why(name: &str, snapshot: &Snapshot, bad_blocks: u64) -> Vec<Explanation> {
    let mut reasons = Vec::new();
    disk(name, snapshot, &mut reasons);
    connection(name, snapshot, &mut reasons);
    let vector = snapshot.vector;
    if vector.suspended.any() {
        let remedy = "connect the peer, or attach a disk; requests wait and are answered then";
        reasons.push(explain(
            "suspended",
            format!("I/O waits: {}", vector.suspended),
            remedy,
        ));
    }
    if vector.role == Role::Primary && !vector.has_up_to_date_data() {
        let remedy =
            format!("connect the peer (`mendblock connect {name}`) or attach a disk with current data");
        reasons.push(explain(
            "no-data",
            "Primary without access to up-to-date data: clients get I/O errors",
            remedy,
        ));
    }
    if bad_blocks > 0 {
        let text = format!(
            "{bad_blocks} block(s) of this disk are known to be bad: they are never read here and come from the peer"
        );
        let remedy =
            "they mend when the disk is resynced from the peer, or when a client overwrites them whole";
        reasons.push(explain("bad-blocks", text, remedy));
    }
    reasons
}

/// Why the disk is in its state: the cause, and the request whose failure was the cause.
pub fn disk_reason(snapshot: &Snapshot) -> Option<String> {
    let reasons = &snapshot.reasons;
    let request = reasons.failed_request;
    // A request that failed earlier explains nothing of a disk that went for another reason.
    let that = |cause: DetachCause| request.filter(|request| request.cause == cause);
    let (reason, request) = match snapshot.vector.disk {
        DiskState::Diskless => {
            let reason = reasons.diskless?;
            let request = match reason {
                DisklessReason::Detached { cause, .. } => that(cause),
                _ => None,
            };
            (reason.to_string(), request)
        }
        DiskState::Failed => {
            let detaching = reasons.detaching?;
            (detaching.to_string(), that(detaching.cause))
        }
        DiskState::Inconsistent => {
            let reason = reasons.inconsistent?;
            (reason.to_string(), request.filter(|_| reason.is_io_error()))
        }
        _ => return None,
    };
    Some(request.map_or_else(
        || reason.clone(),
        |request| format!("{reason}: {}", failed(request)),
    ))
}

fn failed(FailedRequest { range, errno, .. }: FailedRequest) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    match range {
        Some(range) if range.count() == 1 => format!("sector {}: {error}", range.first()),
        Some(range) => format!("sectors {} to {}: {error}", range.first(), range.end() - 1),
        None => error.to_string(),
    }
}

fn disk(name: &str, snapshot: &Snapshot, reasons: &mut Vec<Explanation>) {
    match snapshot.vector.disk {
        DiskState::Diskless => {
            let text = disk_reason(snapshot).unwrap_or_else(|| "there is no disk".to_owned());
            let remedy = format!(
                "check the disk, then `mendblock attach {name}`: what differs is resynced from the peer"
            );
            reasons.push(explain("diskless", text, remedy));
        }
        DiskState::Failed => {
            let text = disk_reason(snapshot).unwrap_or_else(|| "the disk is being given up".to_owned());
            reasons.push(explain(
                "detaching",
                text,
                "wait: the detach ends by itself, each step has a deadline",
            ));
        }
        DiskState::Inconsistent => {
            let text = disk_reason(snapshot).unwrap_or_else(|| "some blocks are not current".to_owned());
            let remedy = if snapshot.vector.connection.is_resync() {
                "wait for the resync".to_owned()
            } else {
                format!(
                    "connect a peer with good data, or, if there is none, take this data for good: `mendblock primary --force {name}`"
                )
            };
            reasons.push(explain("inconsistent", text, remedy));
        }
        DiskState::Outdated => {
            let text = "this disk is consistent, but the peer went on without it";
            let remedy = format!(
                "connect the peer: what differs is resynced. To lose the peer's changes: `mendblock primary --force {name}`"
            );
            reasons.push(explain("outdated", text, remedy));
        }
        DiskState::Attaching | DiskState::Negotiating => {
            reasons.push(explain(
                "attaching",
                "the disk is being attached",
                "wait: each step has a deadline",
            ));
        }
        DiskState::Consistent | DiskState::DUnknown | DiskState::UpToDate => {}
    }
}

fn connection(name: &str, snapshot: &Snapshot, reasons: &mut Vec<Explanation>) {
    match snapshot.vector.connection {
        ConnectionState::StandAlone => reasons.push(stand_alone(name, snapshot)),
        ConnectionState::WFConnection | ConnectionState::Unconnected => {
            reasons.push(waiting_for_peer(snapshot));
        }
        _ => {}
    }
}

fn stand_alone(name: &str, snapshot: &Snapshot) -> Explanation {
    let reasons = &snapshot.reasons;
    let text = match (reasons.disconnected, reasons.handshake.as_ref()) {
        (Some(reason), Some(found)) => format!("{reason}: {found}"),
        (Some(reason), None) => reason.to_string(),
        (None, _) => "not connected to the peer".to_owned(),
    };
    let connect = format!("`mendblock connect {name}`");
    let (code, remedy) = match reasons.disconnected {
        Some(DisconnectReason::SplitBrain) => (
            "split-brain",
            format!(
                "choose the node whose changes are to be lost; there: `mendblock secondary {name}`, `mendblock connect --discard-my-data {name}`; on the other node: {connect}"
            ),
        ),
        Some(reason) if reason.is_parting() => (
            "standalone",
            format!("{}; then {connect} on both nodes", before_connect(name, reason)),
        ),
        _ => ("standalone", connect),
    };
    explain(code, text, remedy)
}

/// What to do before two nodes that parted for this reason are connected again.
fn before_connect(name: &str, reason: DisconnectReason) -> String {
    match reason {
        DisconnectReason::HandshakeRefused => {
            "correct names, node ids and addresses in the two configurations, and restart the node".to_owned()
        }
        DisconnectReason::UnrelatedData => {
            "check that these are the right disks; make the one that is to be overwritten new with `mendblock create-md --force`"
                .to_owned()
        }
        DisconnectReason::DataNotCurrent => {
            "connect a node whose disk has the data that the Primary works with".to_owned()
        }
        DisconnectReason::TooSmall => "put a disk into the node with the small one that holds the volume".to_owned(),
        DisconnectReason::HandlerVeto => "see to what the handler says".to_owned(),
        DisconnectReason::StateRefused | DisconnectReason::TargetIsPrimary => {
            format!("stop the application of the node whose data is to be overwritten, `mendblock secondary {name}` there")
        }
        DisconnectReason::NoSource => {
            format!("choose the better copy: `mendblock primary --force {name}` there")
        }
        DisconnectReason::AnswersDiffer => {
            "compare both with `mendblock dump-md`; make the wrong disk new with `mendblock create-md --force`".to_owned()
        }
        DisconnectReason::RuleUnknown => "upgrade the older node".to_owned(),
        DisconnectReason::SplitBrain
        | DisconnectReason::Admin
        | DisconnectReason::AdminForced
        | DisconnectReason::DriverFailed => String::new(),
    }
}

fn waiting_for_peer(snapshot: &Snapshot) -> Explanation {
    let code = "waiting-for-peer";
    if let Some(refusal) = &snapshot.reasons.turned_away {
        let remedy = "do that: this node keeps dialling, and is connected then";
        return explain(code, format!("the connection is refused: {refusal}"), remedy);
    }
    let text = snapshot.reasons.down.map_or_else(
        || "the peer has not been seen since the start".to_owned(),
        |reason| format!("the connection was lost: {reason}"),
    );
    explain(
        code,
        text,
        "start the peer, or check the network: this node keeps dialling",
    )
}
