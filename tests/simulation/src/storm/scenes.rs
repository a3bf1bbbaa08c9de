//! Scenes: short sequences that chance alone would hardly find, with details drawn at random. Each one is there for a *class* of
//! faults: a promise that is hard to break anywhere but there. What a scene asks for goes through the atlas like all else.

use super::action::{Action, Order, Region, Victim};
use super::moment::Moment;
use super::plan::Mode;
use fastrand::Rng;
use mendblock_core::configuration::OnIoError;

/// Who is who, and what is to be drawn from.
pub struct Stage<'a> {
    /// Draws.
    pub random: &'a mut Rng,
    /// The node that is Primary.
    pub primary: u8,
    /// Blocks of a disk.
    pub blocks: u64,
}

/// A scene: what happens in it, after its round began.
type Scene = fn(&mut Stage<'_>) -> Vec<Action>;

/// Scenes inside of what is promised, each with who is hurt in it.
const INSIDE: [(Victim, Scene); 8] = [
    (Victim::PrimaryDisk, attach_that_is_given_up),
    (Victim::Secondary, attach_that_is_given_up),
    (Victim::PrimaryDisk, reads_of_a_target),
    (Victim::PrimaryDisk, disk_that_misses_writes),
    (Victim::Secondary, crash_in_a_resync),
    (Victim::Secondary, exchange_that_is_given_up),
    (Victim::Secondary, power_lost_with_cold_writes),
    (Victim::PrimaryProcess, crash_with_writes_under_way),
];

/// Scenes inside, of disks that are given up when they fail.
const INSIDE_DETACH: [(Victim, Scene); 3] = [
    (Victim::DisklessPrimary, forgotten_bad_blocks),
    (Victim::DisklessPrimary, forgotten_bad_blocks),
    (Victim::PrimaryDisk, attach_that_is_given_up),
];

/// Scenes inside, of disks that stay in use after they failed.
const INSIDE_PASS_ON: [(Victim, Scene); 3] = [
    (Victim::DisklessPrimary, forgotten_bad_blocks),
    (Victim::PrimaryDisk, resync_that_is_spoiled),
    (Victim::PrimaryDisk, disk_that_misses_writes),
];

/// Scenes beyond: no good copy, or not the one that is used.
const BEYOND: [(Victim, Scene); 4] = [
    (Victim::Nobody, disk_lost_in_a_handshake),
    (Victim::Nobody, promotion_of_the_one_that_lacks_writes),
    (Victim::PrimaryNode, writes_that_only_the_peer_has),
    (Victim::PrimaryNode, forgotten_bad_blocks),
];

/// One of the scenes of a mode and a policy.
pub fn draw(stage: &mut Stage<'_>, (mode, policy): (Mode, OnIoError)) -> (Victim, Vec<Action>) {
    let special: &[(Victim, Scene)] = match (mode, policy) {
        (Mode::Beyond, _) => &BEYOND,
        (Mode::Inside, OnIoError::PassOn) => &INSIDE_PASS_ON,
        (Mode::Inside, _) => &INSIDE_DETACH,
    };
    // What can happen only here is worth more than what can happen everywhere.
    let scenes = if stage.random.bool() { special } else { &INSIDE };
    let (victim, scene) = scenes[stage.random.usize(0..scenes.len())];
    (victim, scene(stage))
}

impl Stage<'_> {
    fn secondary(&self) -> u8 {
        1 - self.primary
    }

    /// A block where clients read and write.
    fn met_block(&mut self) -> u64 {
        self.random.u64(0..self.blocks) | 1
    }

    fn some(&mut self) -> Action {
        Action::Requests(self.random.u16(1..20))
    }

    fn burst(&mut self) -> Action {
        Action::Burst(self.random.u16(1..16))
    }

    /// A very short while, often none at all.
    fn instant(&mut self) -> Action {
        let most = [1, 50, 400, 3_000][self.random.usize(0..4)];
        Action::Micros(self.random.u16(0..most))
    }

    fn maybe(&mut self, actions: &mut Vec<Action>, action: Action) {
        if self.random.bool() {
            actions.push(action);
        }
    }
}

/// P3: blocks go bad and are read while what should note them fails; the disk is given up and comes back. The drive has given the
/// blocks up meanwhile, so whoever trusts them serves zeroes.
fn forgotten_bad_blocks(stage: &mut Stage<'_>) -> Vec<Action> {
    let node = stage.primary;
    let mut actions = vec![stage.some()];
    for _ in 0..stage.random.u8(1..4) {
        actions.push(Action::Unreadable(node, stage.met_block()));
    }
    if stage.random.u8(0..4) > 0 {
        actions.push(Action::UnwritableHealth(node));
    }
    if stage.random.u8(0..3) == 0 {
        actions.push(Action::UnwritableMeta(node, Region::Bitmap));
    }
    actions.push(Action::Sweep);
    if stage.random.bool() {
        actions.extend([
            stage.instant(),
            Action::Order(node, Order::Detach { force: false }),
        ]);
    }
    actions.push(Action::Until(Moment::Diskless(node)));
    let power = stage.random.bool();
    stage.maybe(&mut actions, Action::Crash { node, power });
    actions.extend([
        Action::Remap(node),
        Action::Start(node),
        Action::Order(node, Order::Attach),
        Action::Until(Moment::Healthy),
        Action::Sweep,
        stage.some(),
    ]);
    actions
}

/// P2: the Primary's disk comes back and is behind; clients read while it is being brought up to date.
fn reads_of_a_target(stage: &mut Stage<'_>) -> Vec<Action> {
    let node = stage.primary;
    let mut actions = vec![
        Action::Order(node, Order::Detach { force: false }),
        Action::Until(Moment::Diskless(node)),
        stage.some(),
        Action::Burst(15),
        stage.some(),
    ];
    if stage.random.bool() {
        actions.push(Action::Slow(stage.random.u16(2..40)));
    }
    let moment = [Moment::Resync, Moment::BitmapExchange, Moment::Attaching][stage.random.usize(0..3)];
    actions.extend([
        Action::Order(node, Order::Attach),
        Action::Until(moment(node)),
        stage.instant(),
        Action::Sweep,
        stage.burst(),
        Action::Heal,
        Action::Until(Moment::Healthy),
    ]);
    actions
}

/// P1: the Primary's disk fails writes that its peer takes, and its process ends right then.
fn writes_that_only_the_peer_has(stage: &mut Stage<'_>) -> Vec<Action> {
    let node = stage.primary;
    let mut actions = vec![stage.some()];
    if stage.random.bool() {
        actions.push(Action::UnwritableMeta(node, Region::Data));
    } else {
        let blocks = stage.random.u8(1..12);
        actions.extend((0..blocks).map(|_| Action::Unwritable(node, stage.met_block())));
    }
    let moment = [Moment::Answer, Moment::DiskFailed, Moment::MetaWrite][stage.random.usize(0..3)];
    actions.extend([
        Action::Burst(stage.random.u16(8..24)),
        Action::Until(Moment::UnheardError(node)),
        Action::Until(moment(node)),
        Action::Micros(stage.random.u16(0..20)),
        Action::Crash {
            node,
            power: stage.random.u8(0..4) == 0,
        },
        Action::Remap(node),
        Action::Start(node),
        Action::Until(Moment::Healthy),
    ]);
    actions
}

/// P2: the Primary's disk goes with writes under way, and comes back.
fn disk_that_misses_writes(stage: &mut Stage<'_>) -> Vec<Action> {
    let node = stage.primary;
    let how = match stage.random.u8(0..4) {
        0 => Action::Unwritable(node, stage.met_block()),
        1 => Action::Unreadable(node, stage.met_block()),
        2 => Action::FailingFlushes(node, 1),
        _ => Action::Order(node, Order::Detach { force: false }),
    };
    let mut actions = vec![
        how,
        stage.burst(),
        Action::Sweep,
        stage.burst(),
        Action::Until(Moment::DiskFailed(node)),
    ];
    actions.extend([
        stage.burst(),
        Action::Until(Moment::Diskless(node)),
        stage.burst(),
        Action::Remap(node),
        Action::Order(node, Order::Attach),
        Action::Until(Moment::Healthy),
        Action::Sweep,
    ]);
    actions
}

/// P6: a request fails while the resync that its disk is the target of comes to its end.
fn resync_that_is_spoiled(stage: &mut Stage<'_>) -> Vec<Action> {
    let node = stage.primary;
    let mut actions = vec![
        Action::Order(node, Order::Detach { force: false }),
        Action::Until(Moment::Diskless(node)),
        stage.some(),
        Action::Order(node, Order::Attach),
        Action::Until(Moment::Resync(node)),
    ];
    // Their extents are hot then.
    actions.extend([
        stage.burst(),
        stage.burst(),
        Action::Until(Moment::ResyncEnds(node)),
    ]);
    stage.maybe(&mut actions, Action::Until(Moment::Superblock(node)));
    match stage.random.u8(0..3) {
        0 => actions.push(Action::FailingFlushes(node, stage.random.u8(1..3))),
        _ => actions.push(Action::UnwritableMeta(node, Region::Data)),
    }
    actions.extend([Action::Burst(16), stage.instant(), stage.burst()]);
    stage.maybe(&mut actions, Action::Pause(20));
    actions.extend([
        Action::Remap(node),
        stage.some(),
        Action::Until(Moment::Healthy),
        Action::Sweep,
    ]);
    actions
}

/// P6: either side of a resync loses its process, or its power, in the middle of it.
fn crash_in_a_resync(stage: &mut Stage<'_>) -> Vec<Action> {
    let (primary, secondary) = (stage.primary, stage.secondary());
    let node = [primary, secondary, secondary][stage.random.usize(0..3)];
    let power = stage.random.u8(0..4) > 0;
    let mut actions = vec![
        Action::Break,
        stage.some(),
        stage.burst(),
        Action::Until(Moment::Resync(secondary)),
    ];
    if stage.random.bool() {
        actions.push(Action::Until(Moment::ResyncEnds(secondary)));
    }
    actions.extend([
        stage.instant(),
        Action::Crash { node, power },
        Action::Start(node),
        Action::Until(Moment::Healthy),
        stage.some(),
    ]);
    actions
}

/// P6: the connection breaks while bitmaps are exchanged, or a little beside it, again and again.
fn exchange_that_is_given_up(stage: &mut Stage<'_>) -> Vec<Action> {
    let secondary = stage.secondary();
    let mut actions = vec![Action::Break, stage.some()];
    for _ in 0..stage.random.u8(1..5) {
        let moment = match stage.random.u8(0..4) {
            0 => Moment::Handshake(secondary),
            1 => Moment::Resync(secondary),
            _ => Moment::BitmapExchange(stage.random.u8(0..2)),
        };
        actions.extend([
            Action::Until(moment),
            stage.instant(),
            Action::Break,
            stage.some(),
            stage.burst(),
        ]);
    }
    actions.extend([Action::Until(Moment::Healthy), stage.some()]);
    actions
}

/// P6: a disk that is brought up to date is taken away again while the bitmaps are exchanged, on a connection that stays.
fn attach_that_is_given_up(stage: &mut Stage<'_>) -> Vec<Action> {
    // The atlas lets one of them through.
    let node = [stage.primary, stage.secondary()][stage.random.usize(0..2)];
    let mut actions = vec![
        Action::Order(node, Order::Detach { force: false }),
        Action::Until(Moment::Diskless(node)),
        stage.some(),
    ];
    for _ in 0..stage.random.u8(1..4) {
        let moment = match stage.random.u8(0..4) {
            0 => Moment::Attaching(node),
            1 => Moment::Resync(node),
            _ => Moment::BitmapExchange(stage.random.u8(0..2)),
        };
        let fault = match stage.random.u8(0..5) {
            0 => Action::FailingFlushes(node, 1),
            1 => Action::UnwritableMeta(node, Region::Superblock),
            force => Action::Order(node, Order::Detach { force: force == 2 }),
        };
        actions.extend([
            Action::Order(node, Order::Attach),
            Action::Until(moment),
            stage.instant(),
            fault,
            stage.burst(),
            Action::Until(Moment::Diskless(node)),
            Action::Remap(node),
            stage.some(),
        ]);
    }
    actions.extend([
        Action::Order(node, Order::Attach),
        Action::Until(Moment::Healthy),
        Action::Sweep,
    ]);
    actions
}

/// P1: the Primary loses its power while it writes where it did not write lately, and comes back.
fn power_lost_with_cold_writes(stage: &mut Stage<'_>) -> Vec<Action> {
    let node = stage.primary;
    let mut actions = Vec::new();
    // What is in the log falls out of it: so do the writes of these clients to their many places.
    stage.maybe(&mut actions, Action::Requests(30));
    if stage.random.u8(0..3) == 0 {
        actions.push(Action::Break);
    }
    for _ in 0..stage.random.u8(1..4) {
        let moment = [Moment::DataWrite, Moment::MetaWrite][stage.random.usize(0..2)];
        actions.extend([
            Action::Burst(stage.random.u16(1..6)),
            stage.instant(),
            Action::Until(moment(node)),
        ]);
    }
    actions.extend([
        stage.instant(),
        Action::Crash {
            node,
            power: stage.random.u8(0..4) > 0,
        },
        Action::Start(node),
        Action::Until(Moment::Healthy),
    ]);
    actions
}

/// P1: the Primary ends with writes under way, and the other one takes over.
fn crash_with_writes_under_way(stage: &mut Stage<'_>) -> Vec<Action> {
    let node = stage.primary;
    let moment = [Moment::DataWrite, Moment::MetaWrite][stage.random.usize(0..2)];
    let mut actions = vec![
        stage.some(),
        stage.burst(),
        Action::Until(moment(node)),
        stage.instant(),
        Action::Crash {
            node,
            power: stage.random.bool(),
        },
    ];
    if stage.random.bool() {
        actions.extend([Action::TakeOver, stage.some()]);
        stage.primary = 1 - node;
    }
    actions.extend([Action::Start(node), Action::Until(Moment::Healthy), stage.some()]);
    actions
}

/// Beyond, P1: the peer is behind, and the Primary's disk fails before the two have been compared.
fn disk_lost_in_a_handshake(stage: &mut Stage<'_>) -> Vec<Action> {
    let (node, secondary) = (stage.primary, stage.secondary());
    let far = [
        vec![Action::Order(secondary, Order::Disconnect)],
        vec![Action::Partition],
    ];
    let mut actions = far[stage.random.usize(0..2)].clone();
    actions.extend([Action::Until(Moment::LinkLost(node)), stage.some(), stage.some()]);
    if stage.random.bool() {
        actions.push(Action::Slow(stage.random.u16(2..40)));
    }
    let moment = [Moment::Handshake, Moment::BitmapExchange][stage.random.usize(0..2)];
    let fault = match stage.random.u8(0..3) {
        0 => Action::UnwritableMeta(node, Region::Superblock),
        1 => Action::Order(node, Order::Detach { force: true }),
        _ => Action::Dead(node),
    };
    stage.maybe(&mut actions, Action::Until(Moment::Attaching(node)));
    actions.extend([Action::Heal, Action::Order(secondary, Order::Connect)]);
    // The fault before the handshake shows in it.
    if stage.random.bool() {
        actions.extend([stage.instant(), fault, stage.burst(), Action::Until(moment(node))]);
    } else {
        actions.extend([Action::Until(moment(node)), stage.instant(), fault, stage.burst()]);
    }
    actions.extend([Action::Sweep, Action::Pause(500), Action::Sweep, stage.some()]);
    actions
}

/// Beyond, P1: the Primary has lost its peer and ends; the peer, which lacks what was written since, is promoted. That these two
/// have parted must be seen when they meet: it may not be settled without a word.
fn promotion_of_the_one_that_lacks_writes(stage: &mut Stage<'_>) -> Vec<Action> {
    let (node, secondary) = (stage.primary, stage.secondary());
    let mut actions = vec![stage.some()];
    // Then nothing of the burst arrives.
    stage.maybe(&mut actions, Action::Partition);
    actions.extend([stage.burst(), stage.instant(), Action::Break]);
    stage.maybe(&mut actions, Action::Until(Moment::LinkLost(node)));
    if stage.random.bool() {
        let moment = [Moment::DataWrite, Moment::MetaWrite][stage.random.usize(0..2)];
        actions.extend([stage.burst(), Action::Until(moment(node))]);
    }
    actions.extend([
        Action::Micros(stage.random.u16(0..400)),
        Action::Crash { node, power: false },
        Action::Part(secondary),
    ]);
    actions
}
