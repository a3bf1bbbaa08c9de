//! The size of the volume: what both disks have room for.

use super::StateEffect;
use super::part::StatePart;
use crate::identity::ConnectionNumber;
use crate::part::{Context, Outbox};
use crate::volume::state::{DisconnectReason, DiskState, Role};
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

    /// A size that both worked with stays: it never grows by a connection, and never shrinks under good data.
    pub(super) fn peer_sizes(&mut self, sizes: Sizes, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let own = self.current.disk.as_ref().map_or(0, |disk| disk.data_sectors);
        let known = self.current.volume_sectors;
        let size = agreed(own, known, &sizes);
        let never_agreed = self
            .disk
            .as_ref()
            .is_some_and(|disk| disk.superblock.effective_sectors == 0);
        let vector = self.vector();
        let in_use = vector.disk >= DiskState::Outdated || vector.role == Role::Primary;
        if size < known && in_use && !never_agreed {
            let text = self.too_small(known, size, &sizes);
            return self.part_with_peer(DisconnectReason::TooSmall, &text, cx, out);
        }
        if size != known {
            self.current.volume_sectors = size;
            self.store.want();
        }
        if let Some(link) = self.link.as_mut() {
            link.sizes = Some(sizes);
        }
    }

    fn too_small(&self, known: u64, size: u64, sizes: &Sizes) -> String {
        let (node, peer) = (&self.configuration.node_name, &self.configuration.peer_name);
        let found = format!("the volume has {known} sectors on {node}, {peer} has {size}");
        if sizes.disk_sectors >= known {
            format!(
                "{found}, which is the size that its meta-data say: make them new there with `mendblock create-md --force`"
            )
        } else {
            format!("{found}: the peer's disk size is too small; give {peer} a larger disk")
        }
    }
}

/// The size that both have room for, and that neither has been using a smaller one than. `own` and `known`: sectors of
/// the own disk and of the volume here; 0: none, not known. A node without a disk limits nobody, and takes the size of the
/// one that has a disk.
fn agreed(own: u64, known: u64, peer: &Sizes) -> u64 {
    let first_known = |sizes: [u64; 2]| sizes.into_iter().find(|&size| size > 0).unwrap_or(0);
    match (own, peer.disk_sectors) {
        (0, 0) => first_known([known, peer.volume_sectors]),
        (0, disk) => first_known([peer.volume_sectors, disk]),
        (own, 0) => first_known([known, own]),
        (own, disk) => [own, known, disk, peer.volume_sectors]
            .into_iter()
            .filter(|&size| size > 0)
            .min()
            .unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_disk_and_the_smaller_use_decide() {
        let peer = |disk_sectors, volume_sectors| Sizes {
            disk_sectors,
            volume_sectors,
            logical_block: 512,
        };
        // Own disk and volume, the peer's, agreed.
        for (own, known, disk, volume, size) in [
            (100, 100, 80, 80, 80),
            (80, 80, 100, 100, 80),
            // A larger disk in the place of the smaller one: the volume stays as it was, on both nodes.
            (100, 80, 120, 120, 80),
            (120, 120, 100, 80, 80),
            // One without a disk.
            (0, 0, 100, 80, 80),
            (0, 60, 100, 80, 80),
            (0, 0, 100, 0, 100),
            (100, 80, 0, 60, 80),
            (100, 0, 0, 0, 100),
            (0, 80, 0, 60, 80),
            (0, 0, 0, 60, 60),
            (0, 0, 0, 0, 0),
        ] {
            assert_eq!(
                agreed(own, known, &peer(disk, volume)),
                size,
                "{own} {known} {disk} {volume}"
            );
        }
    }
}
