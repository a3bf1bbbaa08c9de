//! The size of the volume: what both disks have room for.

use super::StateEffect;
use super::part::StatePart;
use crate::identity::ConnectionNumber;
use crate::part::{Context, Outbox};
use crate::volume::state::{DisconnectReason, DiskState};
use mendblock_net::wire::message::{Message, Sizes};

impl StatePart {
    pub(super) fn send_sizes_and_generations(
        &self,
        connection: ConnectionNumber,
        out: &mut Outbox<StateEffect>,
    ) {
        let disk_sectors = self.current.disk.as_ref().map_or(0, |disk| disk.data_sectors);
        let logical_block = self.current.disk.as_ref().map_or(512, |disk| disk.logical_block);
        let sizes = Sizes {
            disk_sectors,
            volume_sectors: self.current.volume_sectors,
            logical_block,
        };
        self.send_peer(connection, Message::Sizes(sizes), out);
        self.send_generations(connection, out);
    }

    pub(super) fn peer_sizes(&mut self, sizes: Sizes, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let own = self.current.disk.as_ref().map_or(0, |disk| disk.data_sectors);
        let known = self.current.volume_sectors;
        let agreed = match (own, sizes.disk_sectors) {
            (0, 0) => known.max(sizes.volume_sectors),
            (0, peer) => {
                if sizes.volume_sectors > 0 {
                    sizes.volume_sectors
                } else {
                    peer
                }
            }
            (own, 0) => {
                if known > 0 {
                    known
                } else {
                    own
                }
            }
            (own, peer) => own.min(peer),
        };
        // A size that both worked with stays; it never grows by a connection, and never shrinks under good data.
        let never_agreed = self
            .disk
            .as_ref()
            .is_some_and(|disk| disk.superblock.effective_sectors == 0);
        let size = if known > 0 && !never_agreed {
            known.min(agreed)
        } else {
            agreed
        };
        let good_data = self.vector().disk >= DiskState::Outdated;
        if known > 0 && size < known && good_data && !never_agreed {
            let text = format!(
                "the peer's disk size is too small: the volume has {known} sectors, the peer {size}; give the peer a larger disk"
            );
            self.part_with_peer(DisconnectReason::TooSmall, &text, cx, out);
            return;
        }
        self.current.volume_sectors = size;
        if let Some(link) = self.link.as_mut() {
            link.sizes = Some(sizes);
        }
    }
}
