//! Why a state is not the best one: cause, what follows, what to do; each with a stable code.

use crate::admin::schema::Explanation;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::state::{ConnectionState, DiskState, Role};

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

fn disk(name: &str, snapshot: &Snapshot, reasons: &mut Vec<Explanation>) {
    match snapshot.vector.disk {
        DiskState::Diskless => {
            let text = snapshot
                .reasons
                .diskless
                .map_or_else(|| "there is no disk".to_owned(), |reason| reason.to_string());
            let remedy = format!(
                "check the disk, then `mendblock attach {name}`: what differs is resynced from the peer"
            );
            reasons.push(explain("diskless", text, remedy));
        }
        DiskState::Failed => {
            let text = snapshot.reasons.detaching.map_or_else(
                || "the disk is being given up".to_owned(),
                |detaching| detaching.to_string(),
            );
            reasons.push(explain(
                "detaching",
                text,
                "wait: the detach ends by itself, each step has a deadline",
            ));
        }
        DiskState::Inconsistent => {
            let text = snapshot.reasons.inconsistent.map_or_else(
                || "some blocks are not current".to_owned(),
                |reason| reason.to_string(),
            );
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
    let vector = snapshot.vector;
    if let Some(text) = snapshot.reasons.split_brain.as_ref() {
        let remedy = format!(
            "choose the node whose changes are to be lost; there: `mendblock secondary {name}`, `mendblock connect --discard-my-data {name}`; on the other node: `mendblock connect {name}`"
        );
        reasons.push(explain("split-brain", text.clone(), remedy));
        return;
    }
    match vector.connection {
        ConnectionState::StandAlone => {
            let text = match (snapshot.reasons.disconnected, snapshot.reasons.handshake.as_ref()) {
                (Some(reason), Some(handshake)) => format!("{reason}: {handshake}"),
                (Some(reason), None) => reason.to_string(),
                (None, _) => "not connected to the peer".to_owned(),
            };
            reasons.push(explain("standalone", text, format!("`mendblock connect {name}`")));
        }
        ConnectionState::WFConnection | ConnectionState::Unconnected => {
            let text = snapshot.reasons.down.map_or_else(
                || "the peer has not been seen since the start".to_owned(),
                |reason| format!("the connection was lost: {reason}"),
            );
            reasons.push(explain(
                "waiting-for-peer",
                text,
                "start the peer, or check the network: this node keeps dialling",
            ));
        }
        _ => {}
    }
}
