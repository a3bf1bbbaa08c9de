//! Where the search begins.

use crate::action::{Action, Order};
use crate::planted::Planted;
use crate::walker::settle;
use crate::world::World;
use mendblock_core::configuration::OnIoError;

/// The names of all starts, and what each adds to the one that it is made from.
pub const STARTS: [(&str, &str); 4] = [
    ("secondaries", "both Secondary, connected, in sync"),
    ("primary", "A is Primary"),
    ("alone", "A is Primary and has written alone, B is StandAlone"),
    ("diskless", "A is Primary without its disk, B serves it"),
];

/// The start of this name.
pub fn start(name: &str, policy: OnIoError, planted: Planted) -> Option<World> {
    let actions: &[Action] = match name {
        "secondaries" => &[],
        "primary" => &[Action::Order(0, Order::Primary)],
        "alone" => &[
            Action::Order(0, Order::Primary),
            Action::Order(1, Order::Disconnect),
            Action::Write(0, 0),
        ],
        "diskless" => &[Action::Order(0, Order::Primary), Action::Order(0, Order::Detach)],
        _ => return None,
    };
    let mut world = World::new(policy, planted);
    settle(&mut world);
    for action in actions {
        world.act(*action);
        settle(&mut world);
    }
    Some(world)
}
