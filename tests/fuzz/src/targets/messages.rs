//! What a peer says, in well-formed messages and at the wrong moment: the parts of a node that hear it, on the simulator.
//!
//! An input is the moment (1 byte: who hears it, how far the pair is) and a stream of frames.

use super::wire::{Wire, frame};
use super::wire_samples::samples;
use crate::execute::caught;
use crate::target::{Breach, Cap, Probe, Target, ensure};
use fastrand::Rng;
use mendblock_core::configuration::OnIoError;
use mendblock_core::peer::PeerFrame;
use mendblock_core::volume::machine::Command;
use mendblock_kit::world::World;
use mendblock_net::wire::frame::Head;
use mendblock_net::wire::message::{Hello, Message, features};
use mendblock_storage::buffer::Buffer;
use mendblock_storage::units::SectorRange;

/// Bytes of the two disks.
const DISK_BYTES: u64 = 4 << 20;
/// Most frames of one input.
const MOST_FRAMES: usize = 24;
/// Events that a node may need for one message and what follows from it.
const MOST_EVENTS: u64 = 100_000;
/// A node answers its administrator within so many milliseconds.
const ANSWER_LIMIT: u64 = 150_000;

/// Forged messages.
pub(super) struct Messages;

impl Target for Messages {
    fn name(&self) -> &'static str {
        "messages"
    }

    fn about(&self) -> &'static str {
        "well-formed messages of a peer at any moment, heard by the parts of a simulated node"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 0,
            because: "nothing is measured: what a node remembers is not bounded by one message",
        }
    }

    fn longest(&self) -> usize {
        24 << 10
    }

    fn expense(&self) -> u64 {
        10
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let said = samples();
        let frames = said
            .iter()
            .filter_map(|(message, payload)| frame(message, payload));
        let mut seeds: Vec<Vec<u8>> = frames
            .enumerate()
            .map(|(number, frame)| [vec![number as u8 % 4], frame].concat())
            .collect();
        let hello = Message::Hello(Hello {
            version_min: 1,
            version_max: 1,
            features: features::ALL,
            required: 0,
            volume: "v0".into(),
            node_id: 0,
            peer_id: 1,
            node_name: "alpha".into(),
            process_id: 1,
            dialled: true,
        });
        for moment in 0..4 {
            seeds.extend(frame(&hello, &[]).map(|frame| [vec![moment], frame].concat()));
        }
        seeds
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let Some((&moment, stream)) = input.split_first() else {
            return Ok(());
        };
        let frames = frames(stream);
        if frames.is_empty() {
            return Ok(());
        }
        match caught(|| hear(moment, frames, probe)) {
            Ok(outcome) => outcome,
            // A peer that lies breaks what is true of two honest nodes. What must not break is the node.
            Err((place, _)) if place.contains("tests/kit/") => {
                probe.feature(("invariant", place));
                Ok(())
            }
            Err((place, message)) => Err(Breach {
                property: "no message ends a part",
                seen: format!("{place}: {message}"),
            }),
        }
    }

    fn seal(&self, input: &mut Vec<u8>) {
        if let Some((&moment, stream)) = input.split_first() {
            let mut stream = stream.to_vec();
            Wire.seal(&mut stream);
            *input = [vec![moment], stream].concat();
        }
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let (&moment, stream) = input.split_first()?;
        let theirs = other.get(1..).unwrap_or_default();
        let moment = if random.u8(0..8) == 0 {
            random.u8(0..4)
        } else {
            moment
        };
        let stream = Wire.restructure(stream, theirs, random)?;
        Some([vec![moment], stream].concat())
    }
}

/// A pair at the moment that the input names, and the node that hears the messages.
fn pair_at(moment: u8) -> (World, usize) {
    let victim = usize::from(moment & 1);
    if moment & 2 != 0 {
        return (World::synced(1, DISK_BYTES, OnIoError::Detach), victim);
    }
    // Both are about to meet, and nothing is agreed yet.
    let mut world = World::pair(1, DISK_BYTES, OnIoError::Detach);
    world.start(0);
    world.start(1);
    world.reaches(5_000, |world| !world.network.connections.is_empty());
    (world, victim)
}

fn hear(moment: u8, frames: Vec<PeerFrame>, probe: &mut Probe) -> Result<(), Breach> {
    let (mut world, victim) = pair_at(moment);
    let client = (moment & 2 != 0).then(|| world.open_client(0));
    for frame in frames {
        let kind = frame.message.kind();
        if let (Some(client), Some(range)) = (client, SectorRange::new(64, 8))
            && probe.random.bool()
        {
            world.write(0, client, range, false);
            world.read(0, client, range);
        }
        let forged = world.forge(victim, frame);
        probe.feature((kind.number(), forged));
        let limit = world.events + MOST_EVENTS;
        let pause = probe.random.u64(0..30);
        let busy = world.reaches(pause, |world| world.events > limit);
        ensure(!busy, "a message keeps no node busy for ever", || {
            format!("{kind:?}\n{}", world.describe())
        })?;
        show(&world, victim, probe);
    }
    check_answers(&mut world, victim)?;
    show(&world, victim, probe);
    Ok(())
}

fn show(world: &World, victim: usize, probe: &mut Probe) {
    if let Some(snapshot) = &world.nodes[victim].snapshot {
        probe.feature(snapshot.vector.to_string());
    }
    for (_, part, fact) in world.nodes[victim].facts.iter().rev().take(6) {
        probe.feature((part.as_str(), std::mem::discriminant(fact)));
    }
}

/// Whatever was heard, an administrator gets an answer, and clients get theirs when the peer is cut off.
fn check_answers(world: &mut World, victim: usize) -> Result<(), Breach> {
    let id = world.command(victim, Command::Disconnect { force: true });
    let answered = world.reaches(ANSWER_LIMIT, |world| {
        world.nodes[victim].answers.contains_key(&id)
    });
    ensure(answered, "a node answers its administrator", || world.describe())?;
    let other = world.command(1 - victim, Command::Disconnect { force: true });
    world.reaches(ANSWER_LIMIT, |world| {
        world.nodes[1 - victim].answers.contains_key(&other)
    });
    let quiet = world.reaches(ANSWER_LIMIT, |world| {
        world.nodes.iter().all(|node| node.open_requests() == 0)
    });
    ensure(quiet, "every request is answered", || world.describe())
}

/// The whole, valid frames at the front of the stream.
fn frames(mut stream: &[u8]) -> Vec<PeerFrame> {
    let mut frames = Vec::new();
    while let Ok(Some(head)) = Head::parse(stream) {
        let (length, payload_length) = (head.length(), head.payload_length());
        let Some(payload) = stream.get(length..length + payload_length) else {
            break;
        };
        let Ok(message) = head.finish(payload) else {
            break;
        };
        frames.push(PeerFrame {
            message,
            payload: (!payload.is_empty()).then(|| Buffer::from_vec(payload.to_vec())),
        });
        stream = &stream[length + payload_length..];
        if frames.len() == MOST_FRAMES {
            break;
        }
    }
    frames
}
