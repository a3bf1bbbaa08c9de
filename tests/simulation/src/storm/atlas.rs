//! Which actions the promises cover at a moment. A storm inside of them never takes both good copies of a block; everything
//! else is allowed, and what is not allowed does not happen.

use super::action::{Action, Order, Victim, index};
use mendblock_core::part::PartName;

/// Who may be hurt now.
#[derive(Clone, Copy, Debug)]
pub struct Atlas {
    /// Of this round.
    pub victim: Victim,
    /// The node that is Primary, or was when its process ended.
    pub primary: usize,
    /// Nothing is covered: everything is allowed, but a second Primary, and the loss of both disks as a whole in one round.
    pub beyond: bool,
    /// The node whose disk as a whole was hurt in this round.
    pub whole: Option<usize>,
}

/// Parts whose death ends the connection. Until it is back, what clients write is on the Primary's disk alone.
const ENDS_CONNECTION: [PartName; 4] = [
    PartName::State,
    PartName::Bitmap,
    PartName::Volume,
    PartName::Peer,
];

impl Atlas {
    /// Whether it may happen.
    #[must_use]
    pub fn allows(&self, action: &Action) -> bool {
        match *action {
            Action::Round(_) | Action::Requests(_) | Action::Burst(_) | Action::Sweep => true,
            Action::Pause(_) | Action::Micros(_) | Action::Until(_) | Action::Heal => true,
            Action::Clock(..) | Action::KillSession(_) | Action::Slow(_) => true,
            // A second Primary with other data would be a split brain, which is a refusal and no promise.
            Action::TakeOver => self.victim == Victim::PrimaryProcess && !self.beyond,
            Action::Part(node) => self.beyond && !self.is_primary(index(node)),
            Action::Order(_, Order::Primary) => false,
            // Both disks gone at once: a write that only the second one got, with no record anywhere that could be made
            // durable, is not found missing when the first comes back alone. See docs/reliability.md.
            _ if self.beyond => {
                hurts_whole_disk(action).is_none_or(|node| self.whole.is_none_or(|whole| whole == node))
            }
            Action::Kill(_, part) => {
                let at_disk = [Victim::PrimaryDisk, Victim::PrimaryNode, Victim::DisklessPrimary];
                !at_disk.contains(&self.victim) || !ENDS_CONNECTION.contains(&part)
            }
            Action::Break | Action::Partition | Action::Deaf(_) => self.victim == Victim::Secondary,
            Action::Crash { node, .. } | Action::Start(node) => self.process(index(node)),
            Action::Order(node, order) => self.order(index(node), order),
            Action::Unreadable(node, _)
            | Action::Unwritable(node, _)
            | Action::FailingFlushes(node, _)
            | Action::UnwritableMeta(node, _)
            | Action::UnwritableHealth(node)
            | Action::Hang(node)
            | Action::Thaw(node)
            | Action::Dead(node)
            | Action::MendDisk(node)
            | Action::Remap(node)
            | Action::Handlers(node, ..) => self.disk(index(node)),
        }
    }

    fn is_primary(&self, node: usize) -> bool {
        node == self.primary
    }

    fn process(&self, node: usize) -> bool {
        match self.victim {
            // The Primary comes back with all that was answered, if nobody takes over meanwhile.
            Victim::Secondary | Victim::Both => true,
            // Of a Diskless one, see `Storm::crash`.
            Victim::PrimaryProcess | Victim::PrimaryNode | Victim::DisklessPrimary => self.is_primary(node),
            Victim::Nobody | Victim::PrimaryDisk => false,
        }
    }

    fn disk(&self, node: usize) -> bool {
        match self.victim {
            Victim::Secondary => !self.is_primary(node),
            Victim::PrimaryDisk | Victim::PrimaryNode | Victim::DisklessPrimary => self.is_primary(node),
            Victim::Nobody | Victim::PrimaryProcess | Victim::Both => false,
        }
    }

    fn order(&self, node: usize, order: Order) -> bool {
        match order {
            // Refused while clients are there.
            Order::Secondary => self.is_primary(node) && self.victim == Victim::Nobody,
            Order::Connect => true,
            Order::Disconnect => self.victim == Victim::Secondary,
            Order::Attach | Order::Detach { .. } | Order::Invalidate => self.disk(node),
            Order::Primary => false,
        }
    }
}

/// The node whose whole disk an action takes, or of what it holds all that was not flushed.
#[must_use]
pub fn hurts_whole_disk(action: &Action) -> Option<usize> {
    match *action {
        Action::Crash { node, power: true }
        | Action::Dead(node)
        | Action::FailingFlushes(node, _)
        | Action::UnwritableMeta(node, _)
        | Action::UnwritableHealth(node)
        | Action::Order(node, Order::Detach { .. } | Order::Invalidate) => Some(index(node)),
        _ => None,
    }
}
