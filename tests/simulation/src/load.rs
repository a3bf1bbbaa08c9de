//! Random requests of clients.

use mendblock_core::fact::Fact;
use mendblock_core::identity::ClientId;
use mendblock_kit::world::World;
use mendblock_storage::units::SectorRange;
use std::collections::BTreeSet;

/// Blocks that the resyncs of this node set out to copy, since its fact number `since`.
pub fn resynced(world: &World, node: usize, since: usize) -> u64 {
    let facts = &world.nodes[node].facts[since..];
    let started = facts.iter().filter_map(|(_, _, fact)| match fact {
        Fact::ResyncStarted { source: false, bits } => Some(*bits),
        _ => None,
    });
    started.sum()
}

/// Clients of one node that read and write few places, so that they meet.
pub struct Load {
    /// Node.
    pub node: usize,
    /// Its clients.
    pub clients: Vec<ClientId>,
    /// Places in sectors, each the start of a 64 KiB stretch.
    places: Vec<u64>,
    /// Requests that a client may have open.
    depth: usize,
}

impl Load {
    /// So many clients.
    pub fn new(world: &mut World, node: usize, clients: usize) -> Self {
        let clients = (0..clients).map(|_| world.open_client(node)).collect();
        let sectors = world.sectors();
        let places = (0..12)
            .map(|_| world.random.u64(0..(sectors - 256) / 128) * 128)
            .collect();
        Self {
            node,
            clients,
            places,
            depth: 8,
        }
    }

    /// A block for a fault: every second one is where these clients read and write.
    #[must_use]
    pub fn met(&self, block: u64) -> u64 {
        let place = self.places[block as usize / 2 % self.places.len()];
        if block.is_multiple_of(2) {
            block
        } else {
            place / 8 + block / 16 % 16
        }
    }

    /// Reads every place where any client ever wrote, and waits for the answers.
    pub fn read_everything(&self, world: &mut World) {
        let client = world.open_client(self.node);
        let written: BTreeSet<u64> = world
            .history
            .written()
            .into_iter()
            .map(|sector| sector / 128 * 128)
            .filter(|place| place + 128 <= world.sectors())
            .collect();
        for place in written {
            let range = SectorRange::new(place, 128).expect("the range is not empty");
            world.read(self.node, client, range);
        }
        world.run_until("every place is read", 120_000, |world| {
            world.nodes[self.node].open_requests() == 0
        });
    }

    /// One more request, if its client has room.
    pub fn one(&self, world: &mut World) {
        let client = self.clients[world.random.usize(0..self.clients.len())];
        let Some(port) = world.nodes[self.node].clients.get(&client) else {
            return;
        };
        if port.unanswered.len() >= self.depth {
            return;
        }
        let place = self.places[world.random.usize(0..self.places.len())];
        let range = if world.random.u8(0..4) == 0 {
            SectorRange::new(place + world.random.u64(0..100), world.random.u32(1..28))
        } else {
            SectorRange::new(place + 8 * world.random.u64(0..8), 8 * world.random.u32(1..8))
        };
        let range = range.expect("the range is not empty");
        match world.random.u8(0..20) {
            0 => _ = world.flush(self.node, client),
            1 => _ = world.write_zeroes(self.node, client, range, world.random.clone().bool()),
            2..=10 => {
                let fua = world.random.u8(0..10) == 0;
                world.write(self.node, client, range, fua);
            }
            _ => _ = world.read(self.node, client, range),
        }
    }

    /// So many requests at once.
    pub fn burst(&self, world: &mut World, requests: usize) {
        for _ in 0..requests {
            self.one(world);
        }
    }

    /// Each place is read by one of the clients; says how many reads there are.
    pub fn sweep(&self, world: &mut World) -> u64 {
        let mut reads = 0;
        for (number, &place) in self.places.iter().enumerate() {
            let client = self.clients[number % self.clients.len()];
            let range = SectorRange::new(place, 128).expect("the range is not empty");
            if world.nodes[self.node].clients.contains_key(&client) {
                world.read(self.node, client, range);
                reads += 1;
            }
        }
        reads
    }

    /// So many requests, a little time between them.
    pub fn run(&self, world: &mut World, requests: usize) {
        for _ in 0..requests {
            self.one(world);
            let pause = world.random.u64(1..300_000);
            world.run_nanoseconds(pause);
        }
    }
}
