//! What a seed draws. Each storm has its own subset of troubles and its own rates: a storm with everything in it hides what
//! only a few of them do together.

use super::action::{Action, Order, Region, Victim};
use super::scenes::{self, Stage};
use fastrand::Rng;
use mendblock_core::configuration::OnIoError;
use mendblock_kit::wiring::SINGLE;
use serde::{Deserialize, Serialize};

/// Bytes of a small disk: three extents of the activity log.
pub const DISK_BYTES: u64 = 12 << 20;
/// Bytes of a large one: sixteen extents, more than the log has slots for.
pub const LARGE_DISK_BYTES: u64 = 64 << 20;

/// Inside what the promises cover, or beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// One good copy of every block stays reachable: no client may see an error, nothing may be lost.
    Inside,
    /// Anything may fail at any moment: errors are allowed, wrong data is not.
    Beyond,
}

/// A storm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Seed of all that is not in the plan: delays, requests, what a crash leaves.
    pub seed: u64,
    /// What it may do.
    pub mode: Mode,
    /// Policy of both nodes.
    pub on_io_error: OnIoError,
    /// Clients at a time.
    pub clients: u8,
    /// The disks are large.
    #[serde(default)]
    pub large: bool,
    /// What happens.
    pub actions: Vec<Action>,
}

/// Kinds of trouble; a storm has some of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Line,
    Process,
    Deaths,
    Sectors,
    Meta,
    Hang,
    Orders,
    Handlers,
    Clock,
}

const TROUBLES: [Trouble; 9] = [
    Trouble::Line,
    Trouble::Process,
    Trouble::Deaths,
    Trouble::Sectors,
    Trouble::Meta,
    Trouble::Hang,
    Trouble::Orders,
    Trouble::Handlers,
    Trouble::Clock,
];

const VICTIMS: [Victim; 7] = [
    Victim::Secondary,
    Victim::Secondary,
    Victim::PrimaryDisk,
    Victim::PrimaryDisk,
    Victim::PrimaryProcess,
    Victim::Both,
    Victim::Nobody,
];

impl Plan {
    /// The storm of a seed.
    #[must_use]
    pub fn of_seed(seed: u64, mode: Mode) -> Self {
        let mut random = Rng::with_seed(seed ^ 0x0073_746f_726d);
        let policies = [OnIoError::Detach, OnIoError::PassOn, OnIoError::CallLocalIoError];
        let on_io_error = policies[random.usize(0..policies.len())];
        let mut draw = Draw::new(&mut random);
        let large = draw.random.u8(0..4) == 0;
        let rounds = draw.random.usize(1..6);
        let mut actions = Vec::new();
        for _ in 0..rounds {
            if draw.random.bool() {
                draw.scene((mode, on_io_error), &mut actions);
                // By itself, or with all kinds of trouble behind it.
                if draw.random.bool() {
                    continue;
                }
            } else {
                draw.victim = VICTIMS[draw.random.usize(0..VICTIMS.len())];
                actions.push(Action::Round(draw.victim));
            }
            for _ in 0..draw.random.usize(1..9) {
                let trouble = draw.action();
                actions.push(trouble);
                actions.push(draw.requests());
            }
            draw.end_of_round(&mut actions);
        }
        let clients = random.u8(1..4);
        Self {
            seed,
            mode,
            on_io_error,
            clients,
            large,
            actions,
        }
    }
}

struct Draw<'a> {
    random: &'a mut Rng,
    troubles: Vec<Trouble>,
    /// Requests between two troubles at most.
    requests: u16,
    blocks: u64,
    victim: Victim,
    /// The node that is Primary if every takeover succeeds.
    primary: u8,
}

impl<'a> Draw<'a> {
    fn new(random: &'a mut Rng) -> Self {
        let mut troubles: Vec<Trouble> = TROUBLES.into_iter().filter(|_| random.bool()).collect();
        if troubles.is_empty() {
            troubles.push(Trouble::Deaths);
        }
        let requests = [2, 10, 30][random.usize(0..3)];
        Self {
            random,
            troubles,
            requests,
            blocks: DISK_BYTES / 4096 - 64,
            victim: Victim::Nobody,
            primary: 0,
        }
    }

    fn scene(&mut self, mode: (Mode, OnIoError), actions: &mut Vec<Action>) {
        let mut stage = Stage {
            random: self.random,
            primary: self.primary,
            blocks: self.blocks,
        };
        let (victim, scene) = scenes::draw(&mut stage, mode);
        (self.primary, self.victim) = (stage.primary, victim);
        actions.push(Action::Round(victim));
        actions.extend(scene);
    }

    /// Mostly the node that may be hurt; the atlas leaves out what is not covered.
    fn node(&mut self) -> u8 {
        match (self.victim, self.random.u8(0..5)) {
            (_, 0) | (Victim::Nobody | Victim::Both, _) => self.random.u8(0..2),
            (Victim::Secondary, _) => 1 - self.primary,
            (_, _) => self.primary,
        }
    }

    /// What a round is for, should chance not have brought it: a process ends with requests under way.
    fn end_of_round(&mut self, actions: &mut Vec<Action>) {
        let (primary, power) = (self.primary, self.random.bool());
        match self.victim {
            Victim::PrimaryProcess => {
                actions.extend([self.requests(), Action::Crash { node: primary, power }]);
                if self.random.bool() {
                    actions.push(Action::TakeOver);
                    self.primary = 1 - primary;
                    actions.push(self.requests());
                }
                actions.push(Action::Start(primary));
            }
            Victim::Both => {
                actions.push(self.requests());
                actions.extend([0, 1].map(|node| Action::Crash { node, power }));
            }
            Victim::Secondary if self.random.u8(0..3) == 0 => {
                actions.extend([
                    self.requests(),
                    Action::Crash { node: primary, power },
                    Action::Start(primary),
                ]);
            }
            _ => {}
        }
    }

    fn requests(&mut self) -> Action {
        match self.random.u8(0..8) {
            0 => Action::Pause(self.random.u16(1..2_000)),
            _ => Action::Requests(self.random.u16(1..=self.requests)),
        }
    }

    fn action(&mut self) -> Action {
        let node = self.node();
        match self.troubles[self.random.usize(0..self.troubles.len())] {
            Trouble::Line => self.line(node),
            Trouble::Process => match self.random.u8(0..4) {
                0 => Action::Start(node),
                1 => Action::TakeOver,
                _ => Action::Crash {
                    node,
                    power: self.random.bool(),
                },
            },
            Trouble::Deaths => match self.random.u8(0..8) {
                0 => Action::KillSession(self.random.u8(..)),
                _ => Action::Kill(node, SINGLE[self.random.usize(0..SINGLE.len())]),
            },
            Trouble::Sectors => self.sectors(node),
            Trouble::Meta => match self.random.u8(0..6) {
                0 => Action::MendDisk(node),
                1 => Action::UnwritableHealth(node),
                2 => Action::FailingFlushes(node, self.random.u8(1..4)),
                _ => {
                    let regions = [Region::Superblock, Region::ActivityLog, Region::Bitmap];
                    Action::UnwritableMeta(node, regions[self.random.usize(0..3)])
                }
            },
            Trouble::Hang => match self.random.u8(0..3) {
                0 => Action::Hang(node),
                1 => Action::Dead(node),
                _ => Action::Thaw(node),
            },
            Trouble::Orders => Action::Order(node, self.order()),
            Trouble::Handlers => {
                let code = [0, 1, 3][self.random.usize(0..3)];
                let milliseconds = [0, 20, 3_000, 60_000][self.random.usize(0..4)];
                Action::Handlers(node, code, milliseconds)
            }
            Trouble::Clock => Action::Clock(node, self.random.i32(-100_000..100_000)),
        }
    }

    fn line(&mut self, node: u8) -> Action {
        match self.random.u8(0..6) {
            0 => Action::Partition,
            1 => Action::Deaf(node),
            2 => Action::Slow(self.random.u16(2..200)),
            3 => Action::Heal,
            _ => Action::Break,
        }
    }

    fn sectors(&mut self, node: u8) -> Action {
        // Clients use few places: most of the faults are to be met.
        let block = self.random.u64(0..self.blocks);
        match self.random.u8(0..6) {
            0 => Action::FailingFlushes(node, self.random.u8(1..4)),
            1 => Action::MendDisk(node),
            2 => Action::Unwritable(node, block),
            _ => Action::Unreadable(node, block),
        }
    }

    fn order(&mut self) -> Order {
        let force = self.random.u8(0..4) == 0;
        let orders = [
            Order::Attach,
            Order::Attach,
            Order::Detach { force },
            Order::Detach { force },
            Order::Connect,
            Order::Disconnect,
            Order::Invalidate,
            Order::Primary,
            Order::Secondary,
        ];
        orders[self.random.usize(0..orders.len())]
    }
}
