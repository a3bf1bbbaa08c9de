//! What happens from outside: processes start and crash, administrators give orders, and at the end everything must be well.

use crate::device::{Device, Loss};
use crate::format;
use crate::node::{Node, Table};
use crate::world::{World, part};
use mendblock_core::configuration::OnIoError;
use mendblock_core::identity::ClientId;
use mendblock_core::part::{PartName, To};
use mendblock_core::volume::machine::{Command, CommandAnswer, StateIn};
use mendblock_core::volume::state::{ConnectionState, DiskState, Role};
use mendblock_storage::units::SectorRange;

/// An order must be answered within so many milliseconds.
const ORDER_LIMIT: u64 = 120_000;

impl World {
    /// Two formatted disks of so many bytes, no process.
    pub fn pair(seed: u64, bytes: u64, on_io_error: OnIoError) -> Self {
        let node = |index| {
            let mut device = Device::new(bytes);
            format::create_md(&mut device);
            Node::new(crate::node::configuration(index, on_io_error), device)
        };
        Self::new(seed, [node(0), node(1)])
    }

    /// Starts the process of a node.
    pub fn boot(&mut self, node: usize) {
        assert!(!self.nodes[node].up, "the node is up already");
        let process_id = self.random.u64(1..);
        let here = &mut self.nodes[node];
        here.life += 1;
        here.up = true;
        here.configuration.process_id = process_id;
        crate::wiring::make_all(self, node);
    }

    /// Starts the process, attaches the disk and connects.
    #[track_caller]
    pub fn start(&mut self, node: usize) {
        self.boot(node);
        self.order(node, Command::Attach { new_disk: false });
        self.command(
            node,
            Command::Connect {
                discard_my_data: false,
            },
        );
    }

    /// Gives an order; returns its number.
    pub fn command(&mut self, node: usize, command: Command) -> u64 {
        self.last_command += 1;
        let id = self.last_command;
        self.note(node, || format!("COMMAND {id} {command:?}"));
        self.port_says(node, PartName::State, To::State(StateIn::Command { id, command }));
        id
    }

    /// The last order is not answered yet.
    pub fn awaits_answer(&self) -> bool {
        let last = self.last_command;
        !self.nodes.iter().any(|node| node.answers.contains_key(&last))
    }

    /// Gives an order and waits for its answer.
    #[track_caller]
    pub fn order(&mut self, node: usize, command: Command) -> CommandAnswer {
        let text = format!("answer to {command:?}");
        let id = self.command(node, command);
        self.run_until(&text, ORDER_LIMIT, |world| {
            world.nodes[node].answers.contains_key(&id)
        });
        self.nodes[node].answers[&id].clone()
    }

    /// Gives an order that must succeed.
    #[track_caller]
    pub fn order_ok(&mut self, node: usize, command: Command) {
        let text = format!("{command:?}");
        let answer = self.order(node, command);
        assert_eq!(answer.exit_code, 0, "{text}: {answer:?}\n{}", self.describe());
    }

    /// The process of a node is gone: with `power` what the disk had not flushed may go with it.
    pub fn crash(&mut self, node: usize, power: bool) {
        self.crash_with(node, power.then_some(Loss::Mixed));
    }

    /// The process of a node is gone, and power too, if there is a loss.
    pub fn crash_with(&mut self, node: usize, loss: Option<Loss>) {
        self.note(node, || format!("CRASH (loss of power {loss:?})"));
        self.close_sockets(node);
        let now = self.now;
        let here = &mut self.nodes[node];
        for open in here
            .clients
            .values()
            .flat_map(|client| client.unanswered.values())
        {
            if let Some((range, value)) = open.write {
                self.history.cut_off(range, value, open.began, now);
            }
        }
        let hangs = here.device.faults.hangs;
        let operations: Vec<_> = std::mem::take(&mut here.table)
            .in_kernel
            .into_values()
            .map(|entry| entry.operation)
            .collect();
        if let Some(loss) = loss {
            here.device.lose_power(operations, loss, &mut self.random);
        } else if !hangs {
            // What the kernel has, it may do or not.
            let mut operations = operations;
            self.random.shuffle(&mut operations);
            for operation in operations {
                if self.random.u8(0..4) > 0 {
                    let _ = here.device.execute(&operation);
                }
            }
        }
        for (_, write) in std::mem::take(&mut here.health_writes) {
            here.health
                .tear(write.device_id, write.slot, &write.bytes, &mut self.random);
        }
        here.ledger.new_life();
        here.up = false;
        here.table = Table::default();
        here.parts = crate::node::Parts::default();
        here.snapshot = None;
        here.clients.clear();
        here.started.clear();
        here.bad_blocks = std::sync::Arc::default();
        here.set_bits = 0;
        self.forget(node);
    }

    /// Kills a part.
    pub fn kill(&mut self, node: usize, name: PartName) {
        crate::wiring::kill(self, node, part(name));
    }

    /// Kills a session.
    pub fn kill_session(&mut self, node: usize, client: ClientId) {
        crate::wiring::kill(self, node, (PartName::Client, client));
    }

    /// Disk of a node, from its snapshot.
    pub fn disk_state(&self, node: usize) -> DiskState {
        self.nodes[node]
            .snapshot
            .as_ref()
            .map_or(DiskState::Diskless, |snapshot| snapshot.vector.disk)
    }

    /// Connection of a node, from its snapshot.
    pub fn connection_state(&self, node: usize) -> ConnectionState {
        self.nodes[node]
            .snapshot
            .as_ref()
            .map_or(ConnectionState::StandAlone, |snapshot| snapshot.vector.connection)
    }

    /// Role of a node, from its snapshot.
    pub fn role(&self, node: usize) -> Role {
        self.nodes[node]
            .snapshot
            .as_ref()
            .map_or(Role::Secondary, |snapshot| snapshot.vector.role)
    }

    /// Both nodes are connected and UpToDate.
    pub fn is_healthy(&self) -> bool {
        (0..2).all(|node| {
            self.nodes[node].up
                && self.connection_state(node) == ConnectionState::Connected
                && self.disk_state(node) == DiskState::UpToDate
        })
    }

    /// Both run and are connected.
    pub fn is_connected(&self) -> bool {
        (0..2).all(|node| self.nodes[node].up && self.connection_state(node).is_connected_or_better())
    }

    /// Usable sectors of the volume.
    pub fn sectors(&self) -> u64 {
        format::layout(&self.nodes[0].device).usable_sectors()
    }

    /// A fresh pair: both attached and connected, node 0 Primary, synced.
    #[track_caller]
    pub fn synced(seed: u64, bytes: u64, on_io_error: OnIoError) -> Self {
        let mut world = Self::pair(seed, bytes, on_io_error);
        world.start(0);
        world.start(1);
        world.run_until("the fresh pair is connected", 60_000, |world| {
            (0..2).all(|node| {
                world.connection_state(node) == ConnectionState::Connected
                    && world.disk_state(node) == DiskState::Inconsistent
            })
        });
        world.order_ok(0, Command::Primary { force: true });
        world.run_until("the initial sync has ended", 600_000, Self::is_healthy);
        world
    }

    /// Faults off, everybody back: the pair must get well by itself, answer everything, and hold the same right data.
    #[track_caller]
    pub fn settle(&mut self) {
        self.recover();
        self.check_quiet();
    }

    /// Faults off, everybody back: the pair must get well by itself.
    #[track_caller]
    pub fn recover(&mut self) {
        self.network.heal();
        for node in 0..2 {
            self.thaw(node);
            self.nodes[node].health.unwritable = false;
            self.nodes[node].device.faults = crate::device::Faults::default();
            if !self.nodes[node].up {
                self.start(node);
            }
        }
        assert!(
            self.gets_well(),
            "the pair does not get well\n{}",
            self.describe()
        );
    }

    /// What an administrator does until both are connected and UpToDate; false: they do not get well.
    pub fn gets_well(&mut self) -> bool {
        for _ in 0..20 {
            if self.reaches(30_000, Self::is_healthy) {
                return true;
            }
            for node in 0..2 {
                if self.disk_state(node) == DiskState::Diskless {
                    self.order(node, Command::Attach { new_disk: false });
                }
                if self.connection_state(node) == ConnectionState::StandAlone {
                    let connect = Command::Connect {
                        discard_my_data: false,
                    };
                    self.order(node, connect);
                }
            }
        }
        self.is_healthy()
    }

    /// All requests are answered, no bit is set, every extent can still be written, both disks hold the same right data.
    #[track_caller]
    pub fn check_quiet(&mut self) {
        self.run_until("every request is answered", 60_000, |world| {
            world.nodes.iter().all(|node| node.open_requests() == 0)
        });
        if let Some(primary) = (0..2).find(|&node| self.role(node) == Role::Primary) {
            self.touch_every_extent(primary);
        }
        if !self.reaches(5_000, Self::in_sync) {
            // A clear that died with a part is a bit too many: the next connection copies the block once more.
            self.break_connections();
            self.run_until("no block is out of sync", 60_000, |world| {
                world.is_healthy() && world.in_sync()
            });
        }
        self.run_for(3_000);
        self.check_equal();
    }

    fn in_sync(&self) -> bool {
        self.nodes.iter().all(|node| node.set_bits == 0)
    }

    fn touch_every_extent(&mut self, node: usize) {
        let client = self.open_client(node);
        let errors = self.client_errors.len();
        for first in (0..self.sectors()).step_by(8192) {
            let range = SectorRange::new(first, 8).expect("the range is not empty");
            self.write(node, client, range, false);
        }
        self.flush(node, client);
        self.run_until("no grant is leaked", 60_000, |world| {
            world.nodes[node].clients[&client].unanswered.is_empty()
        });
        assert_eq!(
            &self.client_errors[errors..],
            &[] as &[String],
            "a healthy pair answers without errors"
        );
        self.close_client(node, client);
    }

    /// Both data areas are equal, and every sector holds what a client may read.
    #[track_caller]
    pub fn check_equal(&mut self) {
        let sectors = self.sectors();
        let [first, second] = [0, 1].map(|node: usize| &self.nodes[node].device);
        // Of the last block, what is behind the volume may differ.
        let blocks = first.differing(second, sectors.div_ceil(8) * 4096);
        let suspects = blocks
            .iter()
            .flat_map(|block| block * 8..(block * 8 + 8).min(sectors));
        let values =
            |sector| [first, second].map(|device| crate::history::value_of(&device.peek(sector * 512, 512)));
        let differ = |sector: &u64| first.peek(sector * 512, 512) != second.peek(sector * 512, 512);
        if let Some(sector) = suspects.into_iter().find(differ) {
            panic!(
                "both disks differ at sector {sector} (block {}): values {:?}\n{}",
                sector / 8,
                values(sector),
                self.describe()
            );
        }
        for node in 0..2 {
            self.check_disk(node);
        }
    }

    /// A sector of its disk that does not hold what a client must read now.
    pub fn lacks(&self, node: usize) -> Option<u64> {
        let mut history = self.history.clone();
        history.written().into_iter().find(|&sector| {
            let bytes = self.nodes[node].device.peek(sector * 512, 512);
            let value = crate::history::value_of(&bytes).unwrap_or(u64::MAX);
            history.read(sector, value, self.now, self.now).is_err()
        })
    }

    /// Every sector that was ever written holds what a client may read now.
    #[track_caller]
    pub fn check_disk(&mut self, node: usize) {
        for sector in self.history.written() {
            let bytes = self.nodes[node].device.peek(sector * 512, 512);
            let range = SectorRange::new(sector, 1).expect("the range is not empty");
            let now = self.now;
            self.check_read(node, range, &bytes, now);
        }
    }
}
