//! Runs a workload event by event, counts the moments at which it can be cut off, and stops at the one that is asked for.

use super::base::{BAD_BLOCK, EXTENT_BLOCKS, HOT_BLOCK, block};
use super::workload::{Operation, Workload};
use mendblock_core::configuration::OnIoError;
use mendblock_core::identity::ClientId;
use mendblock_core::volume::machine::{Command, CommandAnswer};
use mendblock_core::volume::state::{ConnectionState, DiskState, Role};
use mendblock_kit::world::{MILLISECOND, World};
use mendblock_storage::units::SectorRange;

/// Milliseconds within which an operation must be done.
const LIMIT: u64 = 120_000;
/// Milliseconds after the last answer in which what is late (barriers, lazy bitmap pages) is still part of the workload.
const LATE: u64 = 1_500;

/// The moment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut;

/// A workload that runs.
pub struct Drive<'a> {
    /// The pair.
    pub world: World,
    /// Moments that have passed.
    pub moments: usize,
    workload: &'a Workload,
    stop_at: Option<usize>,
    watched: &'static [usize],
    clients: [Option<ClientId>; 2],
    writes: usize,
    cold_writes: usize,
}

impl<'a> Drive<'a> {
    /// On a pair whose node 0 has this client. Moments are counted at the `watched` nodes.
    pub fn new(
        (world, client): (World, ClientId),
        workload: &'a Workload,
        watched: &'static [usize],
        stop_at: Option<usize>,
    ) -> Self {
        Self {
            world,
            moments: 0,
            workload,
            stop_at,
            watched,
            clients: [Some(client), None],
            writes: 0,
            cold_writes: 0,
        }
    }

    /// The whole workload, or up to the moment.
    pub fn run(&mut self) -> Result<(), Cut> {
        if self.stop_at == Some(0) {
            return Err(Cut);
        }
        for &operation in &self.workload.operations {
            self.perform(operation)?;
        }
        self.finish()?;
        self.moment()
    }

    fn moment(&mut self) -> Result<(), Cut> {
        self.moments += 1;
        match self.stop_at == Some(self.moments) {
            true => Err(Cut),
            false => Ok(()),
        }
    }

    fn step(&mut self) -> Result<(), Cut> {
        let stores = self.watched.iter().any(|&node| self.world.about_to_store(node));
        if stores {
            self.moment()?;
        }
        self.world.advance();
        if stores {
            self.moment()?;
        }
        Ok(())
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&World) -> bool) -> Result<(), Cut> {
        let until = self.world.now + LIMIT * MILLISECOND;
        while !holds(&self.world) {
            let due = self.world.next_at().is_some_and(|at| at <= until);
            assert!(due, "never: {what}\n{}", self.world.describe());
            self.step()?;
        }
        Ok(())
    }

    fn answered(&mut self) -> Result<(), Cut> {
        self.wait("the requests are answered", |world| {
            world.nodes.iter().all(|node| node.open_requests() == 0)
        })
    }

    fn finish(&mut self) -> Result<(), Cut> {
        self.answered()?;
        let until = self.world.now + LATE * MILLISECOND;
        while self.world.next_at().is_some_and(|at| at <= until) {
            self.step()?;
        }
        self.world.now = until;
        Ok(())
    }

    fn primary(&self) -> usize {
        usize::from(self.world.role(0) != Role::Primary)
    }

    /// The client of the Primary; opens one.
    fn client(&mut self) -> (usize, ClientId) {
        let node = self.primary();
        let client = match self.clients[node] {
            Some(client) => client,
            None => self.world.open_client(node),
        };
        self.clients[node] = Some(client);
        (node, client)
    }

    fn perform(&mut self, operation: Operation) -> Result<(), Cut> {
        match operation {
            Operation::WriteHot => self.write(operation),
            Operation::WriteCold => self.write(operation),
            Operation::WriteFua => self.write(operation),
            Operation::Flush => {
                let (node, client) = self.client();
                self.world.flush(node, client);
            }
            Operation::Trim => {
                let (node, client) = self.client();
                let range = SectorRange::new(HOT_BLOCK * 8, 16).expect("the range is not empty");
                self.world.write_zeroes(node, client, range, true);
            }
            Operation::ReadBad => return self.read_bad(),
            Operation::Detach => return self.order(0, Command::Detach { force: false }),
            Operation::Attach => return self.attach(),
            Operation::Disconnect => return self.order(0, Command::Disconnect { force: false }),
            Operation::Connect => return self.connect(),
            Operation::CutLink => return self.cut_link(),
            Operation::Resync => return self.resync(),
            Operation::Demote => return self.demote(),
            Operation::Promote => return self.order(0, Command::Primary { force: false }),
            Operation::PromotePeer => return self.order(1, Command::Primary { force: false }),
        }
        match self.workload.overlapped {
            true => Ok(()),
            false => self.answered(),
        }
    }

    fn write(&mut self, operation: Operation) {
        let (node, client) = self.client();
        let range = match operation {
            Operation::WriteCold => {
                self.cold_writes += 1;
                block([3, 0, 1][(self.cold_writes - 1) % 3] * EXTENT_BLOCKS + 20)
            }
            _ => {
                let (first, count) = [(0, 8), (4, 8), (2, 3)][self.writes % 3];
                SectorRange::new(HOT_BLOCK * 8 + first, count).expect("the range is not empty")
            }
        };
        self.writes += 1;
        self.world
            .write(node, client, range, operation == Operation::WriteFua);
    }

    fn order(&mut self, node: usize, command: Command) -> Result<(), Cut> {
        let until = self.world.now + LIMIT * MILLISECOND;
        loop {
            let id = self.world.command(node, command.clone());
            self.wait("an order is answered", |world| {
                world.nodes[node].answers.contains_key(&id)
            })?;
            let answer = &self.world.nodes[node].answers[&id];
            if answer.code == CommandAnswer::BUSY && self.world.now < until {
                continue;
            }
            assert_eq!(
                answer.exit_code,
                0,
                "{command:?} is refused: {answer:?}\n{}",
                self.world.describe()
            );
            return Ok(());
        }
    }

    /// The node's disk is read where it cannot be, and the node does what its policy says.
    fn read_bad(&mut self) -> Result<(), Cut> {
        let (node, client) = self.client();
        self.world.nodes[0].device.faults.unreadable.insert(BAD_BLOCK);
        self.world.read(node, client, block(BAD_BLOCK));
        let connected = self.world.connection_state(0) == ConnectionState::Connected;
        match self.workload.policy {
            _ if self.workload.overlapped => Ok(()),
            OnIoError::PassOn if connected => {
                self.answered()?;
                self.wait("the block is repaired", |world| {
                    world.is_healthy() && !world.nodes[0].device.faults.unreadable.contains(&BAD_BLOCK)
                })
            }
            OnIoError::PassOn => self.answered(),
            _ => {
                self.answered()?;
                self.given_up()
            }
        }
    }

    fn given_up(&mut self) -> Result<(), Cut> {
        self.wait("the disk is given up", |world| {
            world.disk_state(0) == DiskState::Diskless
        })
    }

    fn attach(&mut self) -> Result<(), Cut> {
        if self.workload.has(Operation::ReadBad) && self.workload.overlapped {
            self.given_up()?;
        }
        self.order(0, Command::Attach { new_disk: false })?;
        let connected = self.world.connection_state(0).is_connected_or_better();
        match connected {
            true => self.healthy(),
            false => Ok(()),
        }
    }

    fn healthy(&mut self) -> Result<(), Cut> {
        self.wait("both are well", World::is_healthy)
    }

    fn connect(&mut self) -> Result<(), Cut> {
        for node in 0..2 {
            if self.world.connection_state(node) == ConnectionState::StandAlone {
                self.order(
                    node,
                    Command::Connect {
                        discard_my_data: false,
                    },
                )?;
            }
        }
        self.wait("both are connected", |world| {
            let settled = |node| world.connection_state(node) == ConnectionState::Connected;
            settled(0) && settled(1)
        })
    }

    fn cut_link(&mut self) -> Result<(), Cut> {
        self.world.break_connections();
        self.write(Operation::WriteHot);
        self.answered()?;
        self.wait("the link is back", |world| {
            world.is_healthy() && world.is_connected()
        })
    }

    fn resync(&mut self) -> Result<(), Cut> {
        if self.world.connection_state(0) != ConnectionState::StandAlone {
            self.order(0, Command::Disconnect { force: false })?;
        }
        self.write(Operation::WriteHot);
        self.answered()?;
        self.connect()?;
        self.healthy()
    }

    fn demote(&mut self) -> Result<(), Cut> {
        self.answered()?;
        let node = self.primary();
        if let Some(client) = self.clients[node].take() {
            self.world.close_client(node, client);
            self.wait("the client has gone", |world| {
                !world.nodes[node].parts.clients.contains_key(&client)
            })?;
        }
        self.order(node, Command::Secondary)
    }
}
