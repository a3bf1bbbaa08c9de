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
use mendblock_core::volume::state::DiskState;
use mendblock_kit::coverage::Coverage;
use mendblock_kit::device::Faults;
use mendblock_kit::format;
use mendblock_kit::world::{MICROSECOND, World};
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

pub(super) struct Storm<'a> {
    plan: &'a Plan,
    pub(super) world: World,
    pub(super) atlas: Atlas,
    pub(super) load: Load,
    requests: u64,
    /// The Primary lost its power and is not back: what no flush covered may be gone when it is.
    power_lost: bool,
    /// Orders that are to be answered, with their node, and the life and state part that they were given to.
    orders: Vec<(usize, (u64, PartGeneration), u64)>,
    /// What the Primary had when its process ended is on the other node too.
    may_take_over: bool,
    /// Parts died in this round: what they were about to clear may stay marked.
    pub(super) deaths: bool,
    /// Since both were well, nothing happened but crashes and breaks of the line: whatever was answered must be somewhere.
    pub(super) whole: bool,
    /// The two have parted: nothing more can be asked of them.
    over: bool,
}

impl<'a> Storm<'a> {
    fn begin(plan: &'a Plan) -> Self {
        let mut world = ready_pair(plan.seed, plan.on_io_error, plan.large);
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
            deaths: false,
            whole: true,
            over: false,
        }
    }

    fn all(mut self) -> Outcome {
        for action in &self.plan.actions {
            if self.over {
                break;
            }
            if self.atlas.allows(action) {
                self.world.note(0, || format!("ACTION {action:?}"));
                self.atlas.whole = self.atlas.whole.or(hurts_whole_disk(action));
                self.whole &= leaves_whole(action);
                self.act(action);
            }
        }
        match self.plan.mode {
            _ if self.over => {}
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
                self.whole = self.peace();
                self.deaths = false;
                self.atlas.victim = victim;
                self.atlas.whole = None;
            }
            Action::Requests(count) => {
                self.requests += u64::from(count);
                self.load.run(&mut self.world, usize::from(count));
            }
            Action::Burst(count) => {
                self.requests += u64::from(count);
                self.load.burst(&mut self.world, usize::from(count));
            }
            Action::Sweep => self.requests += self.load.sweep(&mut self.world),
            Action::Micros(microseconds) => self.world.run_nanoseconds(u64::from(microseconds) * MICROSECOND),
            Action::Until(moment) => _ = moment.wait(&mut self.world),
            Action::Part(node) => self.over = self.part(index(node)),
            Action::Pause(milliseconds) => self.world.run_for(u64::from(milliseconds)),
            Action::Break => self.world.break_connections(),
            Action::Partition => self.world.network.partitioned = true,
            Action::Deaf(node) => self.world.network.blocked[index(node)] = true,
            Action::Slow(times) => self.world.network.slow = u64::from(times),
            Action::Heal => self.world.network.heal(),
            Action::Crash { node, power } => self.crash(index(node), power),
            Action::Start(node) => self.start(index(node)),
            Action::TakeOver => self.take_over(),
            Action::Kill(node, part) => {
                self.deaths = true;
                self.world.kill(index(node), part);
            }
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
                self.world.goes_bad(index(node), block);
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
            Action::Remap(node) => {
                self.world.remap(index(node));
                self.keep_bad_blocks(index(node));
            }
            _ => {}
        }
    }

    fn faults(&mut self, node: u8) -> &mut Faults {
        &mut self.world.nodes[index(node)].device.faults
    }

    pub(super) fn mend_disk(&mut self, node: usize) {
        self.world.thaw(node);
        self.world.nodes[node].health.unwritable = false;
        self.world.nodes[node].device.faults = Faults::default();
    }

    fn crash(&mut self, node: usize, power: bool) {
        if !self.world.nodes[node].up {
            return;
        }
        // With its disk it would come back as the source of a resync, bad blocks and all: see "Open" in docs/reliability.md.
        let inside = !self.atlas.beyond && self.atlas.victim == Victim::DisklessPrimary;
        if inside && self.world.disk_state(node) != DiskState::Diskless {
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

    pub(super) fn start(&mut self, node: usize) {
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
    pub(super) fn orders_end(&mut self) {
        for (node, receiver, id) in std::mem::take(&mut self.orders) {
            self.world.run_until("every order is answered", 120_000, |world| {
                let here = &world.nodes[node];
                let living = (here.life, here.parts.state.generation);
                here.answers.contains_key(&id) || living != receiver || !here.up
            });
        }
    }

    pub(super) fn new_load(&mut self) {
        let clients = usize::from(self.plan.clients);
        self.load = Load::new(&mut self.world, self.atlas.primary, clients);
    }
}

/// What was answered is still somewhere after it, and each node knows what it has.
fn leaves_whole(action: &Action) -> bool {
    matches!(
        action,
        Action::Requests(_)
            | Action::Burst(_)
            | Action::Sweep
            | Action::Pause(_)
            | Action::Micros(_)
            | Action::Until(_)
            | Action::Break
            | Action::Partition
            | Action::Heal
            | Action::Part(_)
            | Action::Crash { power: false, .. }
    )
}

fn bytes_of(world: &World, region: Region) -> Range<u64> {
    let layout = format::layout(&world.nodes[0].device);
    match region {
        Region::Superblock => layout.superblock_byte()..layout.superblock_byte() + 4096,
        Region::ActivityLog => layout.log_byte()..layout.log_byte() + u64::from(layout.log().blocks()) * 4096,
        Region::Data => 0..world.sectors() * 512,
        Region::Bitmap => layout.bitmap_byte()..layout.bitmap_byte() + layout.bitmap_bytes(),
    }
}
