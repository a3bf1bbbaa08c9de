//! The hash by which a model checker tells states of the part apart.

use super::super::StatePart;
use super::world::World;
use crate::configuration::OnIoError::Detach;
use std::hash::{DefaultHasher, Hash, Hasher};

fn hash(part: &StatePart) -> u64 {
    let mut hasher = DefaultHasher::new();
    part.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn a_copy_behaves_alike_and_a_promotion_shows() {
    let world = World::connected(Detach);
    let before = world.part.clone();
    assert_eq!(hash(&before), hash(&world.part));
    let world = world.promote();
    assert_ne!(hash(&before), hash(&world.part));
}

#[test]
fn what_only_makes_numbers_unique_does_not_show() {
    let world = World::connected(Detach);
    let mut later = world.part.clone();
    later.query();
    later.current.number = later.current.number.next();
    later.current.reasons.handshake = Some("in other words".to_owned());
    assert_eq!(hash(&world.part), hash(&later));
}
