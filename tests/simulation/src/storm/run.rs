//! A storm runs: actions happen, and what must hold is checked on the way and at the end.

use super::action::{Action, Order, Region, Victim, index};
use super::atlas::{Atlas, hurts_whole_disk};
use super::plan::{Mode, Plan};
use crate::load::Load;
use crate::panics::caught;
use crate::ready::ready_pair;
use mendblock_core::helper::Handler;
use mendblock_core::identity::PartGeneration;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::Role;
use mendblock_kit::coverage::Coverage;
use mendblock_kit::device::Faults;
use mendblock_kit::format;
use mendblock_kit::world::World;
use std::ops::Range;

/// What a storm that went well leaves.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it reached.
    pub coverage: Coverage,
    /// Events.
    pub events: u64,
    /// Of all events: the same for the same plan.
    pub digest: u64,
    /// Requests that clients sent.
    pub requests: u64,
}

/// Runs a storm; the text says what did not hold.
///
/// # Errors
/// What was violated, and where both nodes stood.
pub fn run(plan: &Plan) -> Result<Outcome, String> {
    caught(|| Storm::begin(plan).all()).map_err(|panic| panic.to_string())
}

struct Storm<'a> {
    plan: &'a Plan,
    world: World,
    atlas: Atlas,
    load: Load,
    requests: u64,
    /// The Primary lost its power and is not back: what no flush covered may be gone when it is.
    power_lost: bool,
    /// Orders that are to be answered, with their node, and the life and state part that they were given to.
    orders: Vec<(usize, (u64, PartGeneration), u64)>,
    /// What the Primary had when its process ended is on the other node too.
    may_take_over: bool,
}

impl<'a> Storm<'a> {
    fn begin(plan: &'a Plan) -> Self {
        let mut world = ready_pair(plan.seed, plan.on_io_error);
        let load = Load::new(&mut world, 0, usize::from(plan.clients));
        let atlas = Atlas {
            victim: Victim::Nobody,
            primary: 0,
            beyond: plan.mode == Mode::Beyond,
            whole: None,
        };
        Self {
            plan,
            world,
            atlas,
            load,
            requests: 0,
            power_lost: false,
            orders: Vec::new(),
            may_take_over: false,
        }
    }

    fn all(mut self) -> Outcome {
        for action in &self.plan.actions {
            if self.atlas.allows(action) {
                self.world.note(0, || format!("ACTION {action:?}"));
                self.atlas.whole = self.atlas.whole.or(hurts_whole_disk(action));
                self.act(action);
            }
        }
        match self.plan.mode {
            Mode::Inside => self.end_inside(),
            Mode::Beyond => self.end_beyond(),
        }
        Outcome {
            coverage: self.world.coverage,
            events: self.world.events,
            digest: self.world.digest,
            requests: self.requests,
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Round(victim) => {
                self.peace();
                self.atlas.victim = victim;
                self.atlas.whole = None;
            }
            Action::Requests(count) => {
                self.requests += u64::from(count);
                self.load.run(&mut self.world, usize::from(count));
            }
            Action::Pause(milliseconds) => self.world.run_for(u64::from(milliseconds)),
            Action::Break => self.world.break_connections(),
            Action::Partition => self.world.network.partitioned = true,
            Action::Deaf(node) => self.world.network.blocked[index(node)] = true,
            Action::Slow(times) => self.world.network.slow = u64::from(times),
            Action::Heal => self.world.network.heal(),
            Action::Crash { node, power } => self.crash(index(node), power),
            Action::Start(node) => self.start(index(node)),
            Action::TakeOver => self.take_over(),
            Action::Kill(node, part) => self.world.kill(index(node), part),
            Action::KillSession(number) => {
                let client = self.load.clients[usize::from(number) % self.load.clients.len()];
                self.world.kill_session(self.load.node, client);
            }
            Action::Order(node, order) => self.order(index(node), order),
            Action::Clock(node, seconds) => self.world.nodes[index(node)].clock_off += i64::from(seconds),
            Action::Handlers(node, code, milliseconds) => {
                let all = [
                    Handler::LocalIoError,
                    Handler::PriOnInconDegr,
                    Handler::AfterResyncTarget,
                ];
                for handler in all {
                    let how = (i32::from(code), u64::from(milliseconds));
                    self.world.nodes[index(node)].handlers.insert(handler, how);
                }
            }
            _ => self.fault(action),
        }
    }

    fn fault(&mut self, action: &Action) {
        match *action {
            Action::Unreadable(node, block) => {
                let block = self.load.met(block);
                self.faults(node).unreadable.insert(block);
            }
            Action::Unwritable(node, block) => {
                let block = self.load.met(block);
                self.faults(node).unwritable.insert(block);
            }
            Action::FailingFlushes(node, count) => self.faults(node).failing_flushes += u32::from(count),
            Action::UnwritableMeta(node, region) => {
                let bytes = bytes_of(&self.world, region);
                self.faults(node).unwritable_bytes.push(bytes);
            }
            Action::UnwritableHealth(node) => self.world.nodes[index(node)].health.unwritable = true,
            Action::Hang(node) => self.faults(node).hangs = true,
            Action::Thaw(node) => self.world.thaw(index(node)),
            Action::Dead(node) => self.faults(node).dead = true,
            Action::MendDisk(node) => self.mend_disk(index(node)),
            _ => {}
        }
    }

    fn faults(&mut self, node: u8) -> &mut Faults {
        &mut self.world.nodes[index(node)].device.faults
    }

    fn mend_disk(&mut self, node: usize) {
        self.world.thaw(node);
        self.world.nodes[node].health.unwritable = false;
        self.world.nodes[node].device.faults = Faults::default();
    }

    fn crash(&mut self, node: usize, power: bool) {
        if !self.world.nodes[node].up {
            return;
        }
        if self.atlas.beyond {
            // Its disk may have been the only one.
            self.world.history.doubt(power);
        } else if node == self.atlas.primary {
            self.power_lost |= power;
            self.may_take_over = self.world.is_healthy();
        }
        self.world.crash(node, power);
    }

    fn start(&mut self, node: usize) {
        if self.world.nodes[node].up {
            return;
        }
        if node == self.atlas.primary && std::mem::take(&mut self.power_lost) {
            self.world.history.power_lost();
        }
        self.world.start(node);
    }

    /// The survivor becomes Primary; it has everything that was answered.
    fn take_over(&mut self) {
        let survivor = 1 - self.atlas.primary;
        let is_alone = !self.world.nodes[self.atlas.primary].up && self.world.nodes[survivor].up;
        if !is_alone || !std::mem::take(&mut self.may_take_over) {
            return;
        }
        self.world.network.heal();
        self.world.run_until("the survivor notices", 60_000, |world| {
            world.nodes[survivor].state().connection.is_none()
        });
        self.world.order_ok(survivor, Command::Primary { force: false });
        self.power_lost = false;
        self.atlas.primary = survivor;
        // What it holds is right without a word of the other node.
        self.world.check_disk(survivor);
        self.new_load();
    }

    fn order(&mut self, node: usize, order: Order) {
        if !self.world.nodes[node].up {
            return;
        }
        let command = match order {
            Order::Attach => Command::Attach { new_disk: false },
            Order::Detach { force } => Command::Detach { force },
            Order::Connect => Command::Connect {
                discard_my_data: false,
            },
            Order::Disconnect => Command::Disconnect { force: false },
            Order::Invalidate => Command::Invalidate,
            Order::Primary => Command::Primary { force: false },
            Order::Secondary => Command::Secondary,
        };
        let id = self.world.command(node, command);
        let here = &self.world.nodes[node];
        self.orders
            .push((node, (here.life, here.parts.state.generation), id));
    }

    /// Every order has its answer, sooner or later (P5), unless the state part that it was given to is no more: then whoever
    /// gave it is told so by the port.
    fn orders_end(&mut self) {
        for (node, receiver, id) in std::mem::take(&mut self.orders) {
            self.world.run_until("every order is answered", 120_000, |world| {
                let here = &world.nodes[node];
                let living = (here.life, here.parts.state.generation);
                here.answers.contains_key(&id) || living != receiver || !here.up
            });
        }
    }

    fn new_load(&mut self) {
        let clients = usize::from(self.plan.clients);
        self.load = Load::new(&mut self.world, self.atlas.primary, clients);
    }

    /// All faults but unreadable blocks are gone, everybody is started.
    fn mend(&mut self) {
        self.world.network.heal();
        for node in [self.atlas.primary, 1 - self.atlas.primary] {
            let unreadable = self.world.nodes[node].device.faults.unreadable.clone();
            self.mend_disk(node);
            self.world.nodes[node].device.faults.unreadable = unreadable;
            self.world.nodes[node].handlers.clear();
            self.start(node);
        }
    }

    /// Everything is mended, both get well, and the Primary serves.
    fn peace(&mut self) {
        self.mend();
        self.orders_end();
        // A connection that broke just now is not noticed yet.
        self.world.run_for(1_000);
        let well = self.world.gets_well();
        assert!(
            well || self.atlas.beyond,
            "liveness: the pair does not get well after its faults are gone\n{}",
            self.world.describe()
        );
        for node in 0..2 {
            self.mend_disk(node);
        }
        if well {
            self.get_in_sync();
        }
        self.get_served();
    }

    fn get_in_sync(&mut self) {
        let in_sync = |world: &World| world.is_healthy() && world.nodes.iter().all(|node| node.set_bits == 0);
        for _ in 0..10 {
            if self.world.reaches(5_000, in_sync) {
                return;
            }
            // A clear that died with a part is a bit too many: the next connection copies the block once more.
            self.world.break_connections();
            self.world.reaches(30_000, in_sync);
        }
        assert!(
            self.atlas.beyond,
            "liveness: blocks stay out of sync\n{}",
            self.world.describe()
        );
    }

    /// The Primary serves its clients again.
    fn get_served(&mut self) {
        let primary = self.atlas.primary;
        self.world
            .run_until("every request is answered", 120_000, |world| {
                world.nodes.iter().all(|node| node.open_requests() == 0)
            });
        if self.world.role(primary) != Role::Primary {
            let answer = self.world.order(primary, Command::Primary { force: false });
            assert!(
                answer.exit_code == 0 || self.atlas.beyond,
                "primary: {answer:?}\n{}",
                self.world.describe()
            );
            if answer.exit_code == 0 {
                self.new_load();
            }
        }
    }

    fn end_inside(&mut self) {
        self.peace();
        self.world.check_quiet();
        assert_eq!(
            self.world.client_errors,
            Vec::<String>::new(),
            "clients saw errors\n{}",
            self.world.describe()
        );
    }

    /// Safe, whatever else: everything is answered, and what can be read is right.
    fn end_beyond(&mut self) {
        self.peace();
        let both = self.world.is_connected()
            && (0..2).all(|node| self.world.disk_state(node).is_usable())
            && self.world.role(self.atlas.primary) == Role::Primary;
        if both {
            self.load.read_everything(&mut self.world);
        }
    }
}

fn bytes_of(world: &World, region: Region) -> Range<u64> {
    let layout = format::layout(&world.nodes[0].device);
    match region {
        Region::Superblock => layout.superblock_byte()..layout.superblock_byte() + 4096,
        Region::ActivityLog => layout.log_byte()..layout.log_byte() + u64::from(layout.log().blocks()) * 4096,
        Region::Bitmap => layout.bitmap_byte()..layout.bitmap_byte() + layout.bitmap_bytes(),
    }
}
