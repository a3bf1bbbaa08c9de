//! The only file that names all parts of a node: who reaches whom, what a new generation is made of and told first. The real
//! wiring in `actors` follows the same table.
//!
//! | part | port that outlives it | a new generation is given |
//! |---|---|---|
//! | state | the last snapshot | the last snapshot, the number of openers |
//! | disk | the device's table | `Adopted`: its operations and unacknowledged failures |
//! | bitmap | the health file | `HealthRead`: the newest content of each file |
//! | activity log | – | – |
//! | peer | sockets, closed first | the number of the last connection |
//! | volume | – | `Sessions`: the client sessions that will replay |
//! | resync | – | – |
//! | client | unanswered requests | the generation of the volume part |
//! | helper | the programs that run | their queries |
//!
//! Every generation but the first is announced to all others by `Restarted`.

use crate::node::{Parts, Slot};
use crate::world::{Event, MICROSECOND, World, port_of};
use mendblock_core::activity::{ActivityIn, ActivityPart};
use mendblock_core::bitmap::{BitmapIn, BitmapPart};
use mendblock_core::client::{ClientIn, ClientPart};
use mendblock_core::disk::{DiskIn, DiskPart};
use mendblock_core::engine::{VolumeIn, VolumePart};
use mendblock_core::helper::{HelperIn, HelperPart};
use mendblock_core::identity::{ClientId, PartGeneration};
use mendblock_core::part::{Instant, Part, PartName, To};
use mendblock_core::peer::{PeerIn, PeerPart};
use mendblock_core::resync::{ResyncIn, ResyncPart};
use mendblock_core::volume::machine::{StateIn, StatePart};
use std::sync::Arc;

/// A part within a node; the client is 0 but for sessions.
pub type Address = (PartName, ClientId);

/// The parts that there are once.
pub const SINGLE: [PartName; 8] = [
    PartName::State,
    PartName::Disk,
    PartName::Bitmap,
    PartName::ActivityLog,
    PartName::Volume,
    PartName::Resync,
    PartName::Helper,
    PartName::Peer,
];

/// A part with its place in a node and its port.
pub trait Wired: Part {
    /// Its slot.
    fn slot(parts: &mut Parts, client: ClientId) -> Option<&mut Slot<Self>>
    where
        Self: Sized;
    /// Its port.
    fn carry_out(world: &mut World, node: usize, address: Address, effects: Vec<Self::Effect>);
}

/// The receiver of a message.
pub fn address_of(message: &To) -> Address {
    let name = match message {
        To::State(_) => PartName::State,
        To::Disk(_) => PartName::Disk,
        To::Bitmap(_) => PartName::Bitmap,
        To::ActivityLog(_) => PartName::ActivityLog,
        To::Peer(_) => PartName::Peer,
        To::Volume(_) => PartName::Volume,
        To::Resync(_) => PartName::Resync,
        To::Client(client, _) => return (PartName::Client, *client),
        To::Helper(_) => PartName::Helper,
    };
    (name, ClientId(0))
}

/// Generation of a living part.
pub fn living(parts: &Parts, (name, client): Address) -> Option<PartGeneration> {
    fn of<P>(slot: &Slot<P>) -> Option<PartGeneration> {
        slot.part.as_ref().map(|_| slot.generation)
    }
    match name {
        PartName::State => of(&parts.state),
        PartName::Disk => of(&parts.disk),
        PartName::Bitmap => of(&parts.bitmap),
        PartName::ActivityLog => of(&parts.activity),
        PartName::Peer => of(&parts.peer),
        PartName::Volume => of(&parts.volume),
        PartName::Resync => of(&parts.resync),
        PartName::Helper => of(&parts.helper),
        PartName::Client => parts.clients.get(&client).and_then(of),
    }
}

/// Hands a message to its part.
pub(crate) fn deliver(world: &mut World, node: usize, message: To) {
    let at = address_of(&message);
    let meta_error = crate::invariants::is_meta_error(&message);
    match message {
        To::State(message) => world.step::<StatePart>(node, at, |part, cx, out| part.on(cx, message, out)),
        To::Disk(message) => world.step::<DiskPart>(node, at, |part, cx, out| part.on(cx, message, out)),
        To::Bitmap(message) => world.step::<BitmapPart>(node, at, |part, cx, out| part.on(cx, message, out)),
        To::ActivityLog(message) => {
            world.step::<ActivityPart>(node, at, |part, cx, out| part.on(cx, message, out))
        }
        To::Peer(message) => world.step::<PeerPart>(node, at, |part, cx, out| part.on(cx, message, out)),
        To::Volume(message) => world.step::<VolumePart>(node, at, |part, cx, out| part.on(cx, message, out)),
        To::Resync(message) => world.step::<ResyncPart>(node, at, |part, cx, out| part.on(cx, message, out)),
        To::Client(_, message) => {
            world.step::<ClientPart>(node, at, |part, cx, out| part.on(cx, message, out))
        }
        To::Helper(message) => world.step::<HelperPart>(node, at, |part, cx, out| part.on(cx, message, out)),
    }
    if meta_error {
        crate::invariants::after_meta_error(world, node);
    }
}

/// Wakes a part.
pub(crate) fn wake(
    world: &mut World,
    node: usize,
    address: Address,
    generation: PartGeneration,
    at: Option<Instant>,
) {
    match address.0 {
        PartName::State => world.wake::<StatePart>(node, address, generation, at),
        PartName::Disk => world.wake::<DiskPart>(node, address, generation, at),
        PartName::Bitmap => world.wake::<BitmapPart>(node, address, generation, at),
        PartName::ActivityLog => world.wake::<ActivityPart>(node, address, generation, at),
        PartName::Peer => world.wake::<PeerPart>(node, address, generation, at),
        PartName::Volume => world.wake::<VolumePart>(node, address, generation, at),
        PartName::Resync => world.wake::<ResyncPart>(node, address, generation, at),
        PartName::Helper => world.wake::<HelperPart>(node, address, generation, at),
        PartName::Client => world.wake::<ClientPart>(node, address, generation, at),
    }
}

/// A part dies: its memory and its mailbox are gone. Its successor comes soon.
pub fn kill(world: &mut World, node: usize, address: Address) {
    fn end<P>(slot: &mut Slot<P>) -> bool {
        slot.wake = None;
        slot.part.take().is_some()
    }
    world.note(node, || format!("KILL {} {}", address.0, address.1));
    let parts = &mut world.nodes[node].parts;
    let died = match address.0 {
        PartName::State => end(&mut parts.state),
        PartName::Disk => end(&mut parts.disk),
        PartName::Bitmap => end(&mut parts.bitmap),
        PartName::ActivityLog => end(&mut parts.activity),
        PartName::Peer => end(&mut parts.peer),
        PartName::Volume => end(&mut parts.volume),
        PartName::Resync => end(&mut parts.resync),
        PartName::Helper => end(&mut parts.helper),
        PartName::Client => parts.clients.get_mut(&address.1).is_some_and(end),
    };
    if died {
        let delay = world.delay(100 * MICROSECOND);
        world.schedule(node, delay, Event::Reborn(address));
    }
}

/// A new generation of a part: made, told what its port knows, announced.
pub(crate) fn make(world: &mut World, node: usize, address: Address) {
    let generation = match address.0 {
        PartName::State => state(world, node),
        PartName::Disk => disk(world, node),
        PartName::Bitmap => bitmap(world, node),
        PartName::ActivityLog => {
            let configuration = Arc::new(world.nodes[node].configuration.clone());
            born::<ActivityPart>(
                world,
                node,
                address,
                |generation| ActivityPart::new(configuration, generation),
                vec![],
            )
        }
        PartName::Peer => peer(world, node),
        PartName::Volume => volume(world, node),
        PartName::Resync => {
            let configuration = Arc::new(world.nodes[node].configuration.clone());
            born::<ResyncPart>(
                world,
                node,
                address,
                |generation| ResyncPart::new(configuration, generation),
                vec![],
            )
        }
        PartName::Helper => {
            let started: Vec<_> = world.nodes[node].started.iter().copied().collect();
            born::<HelperPart>(
                world,
                node,
                address,
                |generation| HelperPart::new(generation, started),
                vec![],
            )
        }
        PartName::Client => match session(world, node, address) {
            Some(generation) => generation,
            None => return,
        },
    };
    world.note(node, || {
        format!("{} {} in generation {generation}", address.0, address.1)
    });
    if generation > PartGeneration(1) {
        announce(world, node, address, generation);
    }
}

/// All parts of a process that starts: every one of them is there before the first says a word.
pub(crate) fn make_all(world: &mut World, node: usize) {
    world.booting = Some(Vec::new());
    for name in SINGLE {
        make(world, node, (name, ClientId(0)));
    }
    for begin in world.booting.take().into_iter().flatten() {
        begin(world);
    }
}

/// Puts a new part into its slot and gives it its first messages, before anything that is delivered.
fn born<P: Wired>(
    world: &mut World,
    node: usize,
    address: Address,
    make: impl FnOnce(PartGeneration) -> P,
    initial: Vec<P::In>,
) -> PartGeneration {
    let slot =
        P::slot(&mut world.nodes[node].parts, address.1).expect("the slot of a part that is made exists");
    slot.generation = slot.generation.next();
    slot.wake = None;
    let generation = slot.generation;
    slot.part = Some(make(generation));
    let begin = move |world: &mut World| {
        world.step::<P>(node, address, |part, cx, out| {
            part.start(cx, out);
            for message in initial {
                part.on(cx, message, out);
            }
        });
    };
    match world.booting.as_mut() {
        Some(beginnings) => beginnings.push(Box::new(begin)),
        None => begin(world),
    }
    generation
}

fn announce(world: &mut World, node: usize, from: Address, generation: PartGeneration) {
    let part = from.0;
    for name in SINGLE.into_iter().filter(|&name| name != part) {
        let message = match name {
            PartName::State => To::State(StateIn::Restarted { part, generation }),
            PartName::Disk => To::Disk(DiskIn::Restarted { part, generation }),
            PartName::Bitmap => To::Bitmap(BitmapIn::Restarted { part, generation }),
            PartName::ActivityLog => To::ActivityLog(ActivityIn::Restarted { part, generation }),
            PartName::Peer => To::Peer(PeerIn::Restarted { part, generation }),
            PartName::Volume => To::Volume(VolumeIn::Restarted { part, generation }),
            PartName::Resync => To::Resync(ResyncIn::Restarted { part, generation }),
            PartName::Helper | PartName::Client => To::Helper(HelperIn::Restarted { part, generation }),
        };
        world.send(node, from, message);
    }
    let clients: Vec<ClientId> = world.nodes[node].parts.clients.keys().copied().collect();
    for client in clients
        .into_iter()
        .filter(|&client| (PartName::Client, client) != from)
    {
        world.send(
            node,
            from,
            To::Client(client, ClientIn::Restarted { part, generation }),
        );
    }
}

fn state(world: &mut World, node: usize) -> PartGeneration {
    let configuration = Arc::new(world.nodes[node].configuration.clone());
    let last = world.nodes[node].snapshot.clone();
    let count = world.nodes[node].parts.clients.len() as u32;
    born::<StatePart>(
        world,
        node,
        (PartName::State, ClientId(0)),
        |generation| match last {
            Some(last) => StatePart::resume(configuration, generation, last),
            None => StatePart::new(configuration),
        },
        vec![StateIn::Openers { count }],
    )
}

fn disk(world: &mut World, node: usize) -> PartGeneration {
    let configuration = Arc::new(world.nodes[node].configuration.clone());
    let table = &world.nodes[node].table;
    let adopted = DiskIn::Adopted {
        in_kernel: table
            .in_kernel
            .values()
            .filter(|entry| !entry.quarantined)
            .map(|entry| entry.token)
            .collect(),
        failed: table
            .failed
            .iter()
            .map(|(&number, &(token, errno))| (token, number, errno))
            .collect(),
    };
    let make = |generation| DiskPart::new(configuration, generation);
    born::<DiskPart>(world, node, (PartName::Disk, ClientId(0)), make, vec![adopted])
}

fn bitmap(world: &mut World, node: usize) -> PartGeneration {
    let configuration = Arc::new(world.nodes[node].configuration.clone());
    let files = world.nodes[node].health.read();
    let make = |generation| BitmapPart::new(configuration, generation);
    born::<BitmapPart>(
        world,
        node,
        (PartName::Bitmap, ClientId(0)),
        make,
        vec![BitmapIn::HealthRead { files }],
    )
}

fn peer(world: &mut World, node: usize) -> PartGeneration {
    world.close_sockets(node);
    let configuration = Arc::new(world.nodes[node].configuration.clone());
    let last = world.nodes[node]
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.connection);
    let make = |generation| PeerPart::new(configuration, generation, last);
    born::<PeerPart>(world, node, (PartName::Peer, ClientId(0)), make, vec![])
}

fn volume(world: &mut World, node: usize) -> PartGeneration {
    let configuration = Arc::new(world.nodes[node].configuration.clone());
    let sessions = world.nodes[node].parts.clients.keys().copied().collect();
    let make = |generation| VolumePart::new(configuration, generation);
    born::<VolumePart>(
        world,
        node,
        (PartName::Volume, ClientId(0)),
        make,
        vec![VolumeIn::Sessions(sessions)],
    )
}

fn session(world: &mut World, node: usize, address: Address) -> Option<PartGeneration> {
    let client = address.1;
    let port = world.nodes[node].clients.get(&client)?;
    if port.gone && port.unanswered.is_empty() {
        world.nodes[node].parts.clients.remove(&client);
        tell_openers(world, node);
        return None;
    }
    let volume = living(&world.nodes[node].parts, (PartName::Volume, ClientId(0)));
    let make = |generation| ClientPart::new(client, generation, volume);
    Some(born::<ClientPart>(world, node, address, make, vec![]))
}

/// The state part must know how many clients there are.
pub(crate) fn tell_openers(world: &mut World, node: usize) {
    let count = world.nodes[node].parts.clients.len() as u32;
    world.send(
        node,
        port_of((PartName::State, ClientId(0))),
        To::State(StateIn::Openers { count }),
    );
}

macro_rules! slots {
    ($($part:ty => $field:ident),* $(,)?) => {$(
        impl Wired for $part {
            fn slot(parts: &mut Parts, _: ClientId) -> Option<&mut Slot<Self>> {
                Some(&mut parts.$field)
            }
            fn carry_out(world: &mut World, node: usize, _: Address, effects: Vec<Self::Effect>) {
                for effect in effects {
                    world.$field(node, effect);
                }
            }
        }
    )*};
}

slots! {
    StatePart => state,
    DiskPart => disk,
    BitmapPart => bitmap,
    ActivityPart => activity,
    PeerPart => peer,
    VolumePart => volume,
    ResyncPart => resync,
    HelperPart => helper,
}

impl Wired for ClientPart {
    fn slot(parts: &mut Parts, client: ClientId) -> Option<&mut Slot<Self>> {
        parts.clients.get_mut(&client)
    }
    fn carry_out(world: &mut World, node: usize, (_, client): Address, effects: Vec<Self::Effect>) {
        for effect in effects {
            world.client(node, client, effect);
        }
    }
}
