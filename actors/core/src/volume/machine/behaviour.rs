//! What a model checker needs of the state part: two parts with the same hash behave alike. Left out are counters that only
//! make numbers unique, texts for people, and what follows from the rest; the numbers themselves are left to the hasher, which
//! may rename them.
//!
//! Everything is taken apart by name: a field that is added does not compile until it is decided whether it belongs here.

use super::part::StatePart;
use crate::snapshot::{Reasons, Snapshot};
use std::hash::{Hash, Hasher};

impl Hash for StatePart {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            configuration: _,
            generation: _,
            current,
            published: _,
            queries: _,
            disk,
            exposed,
            health,
            unsettled,
            store,
            attach,
            detach,
            link,
            running,
            errors,
            sync,
            tells,
            openers,
            discard_my_data,
            helper_wanted,
            last_superblock,
            taken,
            // Answered at the end of each step.
            news_asked: _,
            last_peer_state,
        } = self;
        snapshot(current, state);
        (disk, exposed, health, unsettled, store, attach, detach).hash(state);
        (link, running, errors, sync, tells).hash(state);
        (openers, discard_my_data, helper_wanted, last_superblock, taken).hash(state);
        let heard = last_peer_state.map(|sent| mendblock_net::wire::message::PeerState { number: 0, ..sent });
        heard.hash(state);
    }
}

fn snapshot<H: Hasher>(snapshot: &Snapshot, state: &mut H) {
    let Snapshot {
        number: _,
        vector,
        disk,
        volume_sectors,
        connection,
        writes,
        reads,
        alone_settled,
        own_loss_settled,
        errors_seen,
        errors_settled,
        peer_loss_settled,
        tell,
        drain,
        mirror,
        link_lost_at: _,
        identifiers,
        exposed,
        source_open,
        crashed_primary,
        reasons,
        waits: _,
    } = snapshot;
    (vector, disk, volume_sectors, connection, writes, reads).hash(state);
    (
        alone_settled,
        own_loss_settled,
        errors_seen,
        errors_settled,
        peer_loss_settled,
    )
        .hash(state);
    (
        tell,
        drain,
        mirror,
        identifiers,
        exposed,
        source_open,
        crashed_primary,
    )
        .hash(state);
    let Reasons {
        diskless,
        detaching,
        inconsistent,
        failed_request: _,
        down,
        disconnected,
        handshake: _,
        split_brain: _,
        turned_away: _,
    } = reasons;
    (diskless, detaching, inconsistent, down, disconnected).hash(state);
}
