//! Events by name, for the order of things.

use super::{Event, Kind};
use crate::helper::Handler;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::message::{Message, RequestedChange};

pub fn published(state: DiskState) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Published(snapshot) if snapshot.vector.disk == state)
}

pub fn in_connection(state: ConnectionState) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Published(snapshot) if snapshot.vector.connection == state)
}

pub fn asked(kind: Kind) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Asked(of) if *of == kind)
}

pub fn tell(event: &Event) -> bool {
    matches!(event, Event::Peer(Message::Tell { .. }))
}

pub fn marked(event: &Event) -> bool {
    matches!(event, Event::Peer(Message::Marked { .. }))
}

pub fn generations(event: &Event) -> bool {
    matches!(event, Event::Peer(Message::Generations(_)))
}

pub fn says_disk(state: DiskState) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Peer(Message::State(told)) if told.disk == state.number())
}

pub fn told(event: &Event) -> bool {
    matches!(event, Event::Peer(Message::Told { .. }))
}

pub fn superblock_written(event: &Event) -> bool {
    matches!(event, Event::Superblock(_))
}

pub fn handler(wanted: Handler) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Handler(of) if *of == wanted)
}

pub fn request(wanted: RequestedChange) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Peer(Message::ChangeRequest { change, .. }) if *change == wanted)
}
