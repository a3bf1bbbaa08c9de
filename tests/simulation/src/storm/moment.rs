//! Moments that a plan can wait for, so that its next action lands exactly there and not somewhere beside it.

use super::action::index;
use mendblock_core::disk::{PortOperation, Token};
use mendblock_core::part::PartName;
use mendblock_core::volume::state::{ConnectionState, DiskState};
use mendblock_kit::node::InKernel;
use mendblock_kit::world::World;
use serde::{Deserialize, Serialize};

/// Longest wait in simulated milliseconds: a little more than a silent peer is borne.
const LIMIT: u64 = 12_000;

/// Something that a node is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// It runs, and has no connection.
    LinkLost(u8),
    /// Generations are being compared.
    Handshake(u8),
    /// Bitmaps are being exchanged.
    BitmapExchange(u8),
    /// A resync runs.
    Resync(u8),
    /// It is the target of a resync that has copied everything and is not over.
    ResyncEnds(u8),
    /// Both are connected and UpToDate.
    Healthy,
    /// Its disk has failed and is being given up.
    DiskFailed(u8),
    /// It has no disk.
    Diskless(u8),
    /// A disk is being attached, or waits to be compared.
    Attaching(u8),
    /// Its disk is writing data.
    DataWrite(u8),
    /// Its disk is writing meta-data.
    MetaWrite(u8),
    /// Its superblock is being written, or what comes before it is being flushed.
    Superblock(u8),
    /// A request of a client has just been answered.
    Answer(u8),
    /// Its health file is being written.
    HealthWrite(u8),
    /// A request of a client failed on its disk, and the state part has not heard of it.
    UnheardError(u8),
}

impl Moment {
    /// Waits until it is there; false: it did not come.
    pub fn wait(self, world: &mut World) -> bool {
        if let Self::Answer(node) = self {
            let open = world.nodes[index(node)].open_requests();
            return world.reaches(LIMIT, |world| world.nodes[index(node)].open_requests() < open);
        }
        world.reaches(LIMIT, |world| self.is_there(world))
    }

    fn is_there(self, world: &World) -> bool {
        let disk = |node: u8| world.disk_state(index(node));
        let connection = |node: u8| world.connection_state(index(node));
        let here = |node: u8| &world.nodes[index(node)];
        let up = |node: u8| here(node).up && here(node).snapshot.is_some();
        match self {
            Self::LinkLost(node) => up(node) && here(node).state().connection.is_none(),
            Self::Handshake(node) => connection(node) == ConnectionState::WFReportParams,
            Self::BitmapExchange(node) => matches!(
                connection(node),
                ConnectionState::WFBitMapS | ConnectionState::WFBitMapT | ConnectionState::WFSyncUUID
            ),
            Self::Resync(node) => connection(node).is_resync(),
            Self::ResyncEnds(node) => {
                connection(node) == ConnectionState::SyncTarget && here(node).set_bits == 0
            }
            Self::Healthy => world.is_healthy(),
            Self::DiskFailed(node) => disk(node) == DiskState::Failed,
            Self::Diskless(node) => up(node) && disk(node) == DiskState::Diskless,
            Self::Attaching(node) => matches!(disk(node), DiskState::Attaching | DiskState::Negotiating),
            Self::DataWrite(node) => in_kernel(world, node, |entry| matches!(entry.token, Token::Data(..))),
            Self::MetaWrite(node) => in_kernel(world, node, |entry| !matches!(entry.token, Token::Data(..))),
            Self::Superblock(node) => here(node).table.in_kernel.values().any(|entry| {
                let of_state = matches!(
                    entry.token,
                    Token::Meta {
                        holder: PartName::State,
                        ..
                    }
                );
                of_state && !matches!(entry.operation, PortOperation::Read { .. })
            }),
            // Something that happens, not something that is: see `wait`.
            Self::Answer(_) => true,
            Self::HealthWrite(node) => !here(node).health_writes.is_empty(),
            Self::UnheardError(node) => {
                let seen = here(node).snapshot.as_ref().map(|snapshot| snapshot.errors_seen);
                here(node).table.failed.keys().any(|error| Some(*error) > seen)
            }
        }
    }
}

/// A write of the disk that is under way.
fn in_kernel(world: &World, node: u8, of: impl Fn(&InKernel) -> bool) -> bool {
    world.nodes[index(node)].table.in_kernel.values().any(|entry| {
        !matches!(entry.operation, PortOperation::Read { .. } | PortOperation::Flush) && of(entry)
    })
}
