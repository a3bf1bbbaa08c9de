//! After the crash: what was promised is noted, the pair comes back in one of several ways, and everything is checked.

use super::base::{BAD_BLOCK, block, is_good};
use super::image;
use super::state::{CrashState, Then, Victim};
use fastrand::Rng;
use mendblock_core::identity::ClientId;
use mendblock_core::volume::generations::Generation;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::{ConnectionState, DiskState, Role};
use mendblock_kit::device::{Faults, Loss};
use mendblock_kit::format;
use mendblock_kit::world::World;
use mendblock_storage::format::superblock::Flags;
use mendblock_storage::health::Whose;
use mendblock_storage::units::{BlockRange, SectorRange};

/// What is known when power goes.
struct Before {
    primary: Option<usize>,
    /// The Primary's disk counts: what it answered is on it.
    primary_is_good: bool,
    /// The other node had everything that was answered.
    peer_is_good: bool,
    /// The node gave its disk up because of the bad block.
    given_up: bool,
    /// An order is under way.
    is_ordered: bool,
}

impl Before {
    fn of(world: &World) -> Self {
        let primary = (0..2).find(|&node| world.role(node) == Role::Primary);
        let bad = world.nodes[0].device.faults.unreadable.contains(&BAD_BLOCK);
        Self {
            primary,
            primary_is_good: primary.is_some_and(|node| world.disk_state(node) == DiskState::UpToDate),
            peer_is_good: is_good(world, 0) && is_good(world, 1),
            is_ordered: world.awaits_answer(),
            given_up: bad && world.disk_state(0) == DiskState::Diskless,
        }
    }
}

/// The node's own health file says, durably, that the bad block is bad.
fn own_record(world: &World) -> bool {
    let device_id = format::superblock(&world.nodes[0].device).device_id;
    let own = world.nodes[0].health.health(device_id);
    own.is_some_and(|health| health.records.is_bad(BlockRange::single(BAD_BLOCK)))
}

/// The peer says so: in memory if it runs, else in its health file.
fn record_of_peer(world: &World) -> bool {
    let peer = &world.nodes[1];
    if peer.up {
        return peer.bad_blocks.peer.iter().any(|range| range.contains(BAD_BLOCK));
    }
    let device_id = format::superblock(&peer.device).device_id;
    let health = peer.health.health(device_id);
    health.is_some_and(|health| {
        let records = health
            .records
            .overlapping(Whose::Peer(0), BlockRange::single(BAD_BLOCK));
        records.iter().any(|record| record.is_listed())
    })
}

/// Power goes, and what is durable then is checked.
fn lose_power(world: &mut World, state: &CrashState) {
    world.random = Rng::with_seed(state.seed_after());
    for &node in state.victim.nodes() {
        world.crash_with(node, Some(state.mode));
    }
    image::check(world);
}

/// The drive remaps its bad block, which then reads as zeroes: whoever forgets it returns wrong data. As long as nobody has it
/// in writing, only the drive knows, and must say so again.
fn drive_mends_itself(world: &mut World, state: &CrashState, given_up: bool) {
    if !world.nodes[0].device.faults.unreadable.contains(&BAD_BLOCK) {
        return;
    }
    let own = own_record(world);
    assert!(
        own || !given_up,
        "the disk was given up for a bad block that is not on its list\n{}",
        world.describe()
    );
    if own || (state.then != Then::Alone && record_of_peer(world)) {
        world.nodes[0].device.repair();
    }
}

/// Everything from the crash on.
///
/// # Panics
/// With what is wrong.
pub fn follow(world: &mut World, state: &CrashState, on_image: impl FnOnce(&World)) {
    let before = Before::of(world);
    lose_power(world, state);
    on_image(world);
    drive_mends_itself(world, state, before.given_up);
    let primary_is_down = before.primary.is_some_and(|node| !world.nodes[node].up);
    let may_take_over = state.victim == Victim::Node && before.primary == Some(0) && before.peer_is_good;
    if state.then == Then::Takeover && may_take_over {
        take_over(world);
    } else if primary_is_down
        || !world.nodes.iter().any(|node| node.up)
        || (before.primary.is_some() && !before.primary_is_good)
        || (before.primary.is_none() && before.is_ordered && comes_back_as_primary(world))
    {
        // What no flush covered may be gone: its only other copy is no longer the one that counts.
        world.history.power_lost();
    }
    let pause = world.random.u64(1..50_000_000);
    world.run_nanoseconds(pause);
    let gives_way = state.then == Then::Alone && !world.nodes[0].up && alone(world);
    come_back(world, gives_way);
    settle(world);
    power_cycle(world);
}

/// A node that is being demoted lost power before its disk said so: it counts as a crashed Primary, and its copy wins. (Once the
/// demotion is answered, that is over.)
fn comes_back_as_primary(world: &World) -> bool {
    let mut crashed = world.nodes.iter().filter(|node| !node.up);
    crashed.any(|node| {
        format::superblock(&node.device)
            .flags
            .contains(Flags::PRIMARY_IND)
    })
}

/// A client reads everything that was ever written; what it gets is checked, an error is none.
fn read_all(world: &mut World, node: usize) {
    let client = world.open_client(node);
    for sector in world.history.written() {
        let range = SectorRange::new(sector, 1).expect("the range is not empty");
        world.read(node, client, range);
    }
    answered(world, node, client);
    world.close_client(node, client);
}

fn answered(world: &mut World, node: usize, client: ClientId) {
    world.run_until("the requests are answered", 60_000, |world| {
        world.nodes[node].clients[&client].unanswered.is_empty()
    });
}

/// The peer has everything that was answered: it goes on, and its data win.
fn take_over(world: &mut World) {
    world.run_until("the survivor notices", 60_000, |world| {
        world.nodes[1].state().connection.is_none()
    });
    world.order_ok(1, Command::Primary { force: false });
    world.check_disk(1);
    read_all(world, 1);
    let client = world.open_client(1);
    world.write(1, client, block(super::base::HOT_BLOCK + 3), false);
    answered(world, 1, client);
    world.close_client(1, client);
    world.run_until("the client has gone", 10_000, |world| {
        !world.nodes[1].parts.clients.contains_key(&client)
    });
}

/// The node comes back and finds nobody: if it may be Primary, what it serves is right, or an error. True: that was a split brain,
/// because the peer had gone on before the node could learn of it.
fn alone(world: &mut World) -> bool {
    let peer_generation = generation(world, 1);
    let had_gone_on = peer_generation != generation(world, 0);
    let mut promoted = false;
    world.network.partitioned = true;
    world.boot(0);
    world.order(0, Command::Attach { new_disk: false });
    if world.order(0, Command::Primary { force: false }).exit_code == 0 {
        promoted = true;
        read_all(world, 0);
        world.run_for(100);
        world.order_ok(0, Command::Secondary);
    }
    world.network.partitioned = false;
    promoted && had_gone_on && generation(world, 0) != peer_generation
}

/// The generation of a node's data; the lowest bit says who is Primary.
fn generation(world: &World, node: usize) -> Generation {
    let on_disk = Generation(format::superblock(&world.nodes[node].device).generations.current);
    let here = &world.nodes[node];
    let live = here
        .snapshot
        .as_ref()
        .filter(|_| here.up)
        .map(|state| state.identifiers.current);
    live.unwrap_or(on_disk).without_role()
}

fn come_back(world: &mut World, gives_way: bool) {
    if gives_way && world.connection_state(0) == ConnectionState::StandAlone {
        world.order_ok(
            0,
            Command::Connect {
                discard_my_data: true,
            },
        );
    }
    for node in 0..2 {
        world.nodes[node].device.faults = Faults::default();
        if !world.nodes[node].up {
            world.start(node);
        } else if world.connection_state(node) == ConnectionState::StandAlone {
            world.order(
                node,
                Command::Connect {
                    discard_my_data: false,
                },
            );
        }
    }
    // A disk that is taken again without the peer that has gone on would go on by itself: a split brain by order.
    world.reaches(30_000, World::is_connected);
    for node in 0..2 {
        if world.disk_state(node) == DiskState::Diskless {
            world.order(node, Command::Attach { new_disk: false });
        }
    }
    world.recover();
}

/// The pair is well, no block is bad, everything can be read and written, both disks are equal and right.
fn settle(world: &mut World) {
    let errors = world.client_errors.len();
    let primary = (0..2).find(|&node| world.role(node) == Role::Primary);
    let primary = primary.unwrap_or_else(|| {
        world.order_ok(0, Command::Primary { force: false });
        0
    });
    let is_listed = |world: &World| world.nodes.iter().any(|node| !node.bad_blocks.own.is_empty());
    if is_listed(world) {
        // Bad on the node that was the source: a client's overwrite mends it.
        let client = world.open_client(primary);
        world.write(primary, client, block(BAD_BLOCK), false);
        answered(world, primary, client);
        // The answer says so; the other node's word of it may still be on its way.
        assert!(
            !is_listed(world),
            "an overwrite was answered before its block was healed"
        );
        world.run_until("the bad block is healed", 60_000, |world| {
            !is_listed(world) && world.nodes.iter().all(|node| node.bad_blocks.peer.is_empty())
        });
        world.close_client(primary, client);
    }
    read_all(world, primary);
    world.check_quiet();
    assert_eq!(
        &world.client_errors[errors..],
        &[] as &[String],
        "a healthy pair answers without errors"
    );
    assert!(
        !is_listed(world),
        "a bad block is left over\n{}",
        world.describe()
    );
}

/// Everything is flushed. Both lose power once more, and all that was not stable: nothing is missing.
fn power_cycle(world: &mut World) {
    for node in 0..2 {
        world.crash_with(node, Some(Loss::All));
    }
    world.history.power_lost();
    image::check(world);
    for node in 0..2 {
        world.check_disk(node);
    }
}
