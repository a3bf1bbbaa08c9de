//! What may happen, and which of it goes together.

use mendblock::admin::schema::Kill;
use mendblock::configuration::{FaultKind, FaultMode, FaultRule};
use mendblock_harness::admin::failing;
use mendblock_harness::disks::Area;
use mendblock_harness::history::BLOCK_SECTORS;
use mendblock_harness::link::Line;
use mendblock_harness::load::Random;
use std::ops::Range;

/// Which of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The one that serves clients.
    Primary,
    /// The other one.
    Secondary,
}

/// One of the lower disk's faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The next operations of this kind on the clients' blocks fail.
    Failing(FaultKind, u32),
    /// Blocks cannot be read until they are written.
    Unreadable {
        /// First block.
        first: u64,
        /// How many.
        blocks: u64,
    },
    /// The next writes to a part of the meta-data fail.
    MetaData(MetaData, u32),
    /// The next operations take so many milliseconds longer.
    Delay(u64, u32),
    /// Operations do not end, until the fault is removed or the disk is given up.
    Hang,
}

/// A part of the meta-data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaData {
    /// The superblock.
    Superblock,
    /// The bitmap.
    Bitmap,
    /// The activity log.
    ActivityLog,
}

/// Where the parts of the meta-data lie.
pub struct MetaAreas {
    /// The superblock.
    pub superblock: Area,
    /// The bitmap.
    pub bitmap: Area,
    /// The activity log.
    pub activity_log: Area,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// An actor dies.
    Actor(Who, &'static str, Kill),
    /// SIGKILL of the Secondary.
    NodeKilled,
    /// The Secondary is started again.
    NodeStarted,
    /// SIGSTOP, and SIGCONT so many milliseconds later.
    NodeStopped(Who, u64),
    /// The line between the nodes.
    Line(Line),
    /// The disk is taken away by order.
    Detached {
        /// Without waiting for what is under way.
        force: bool,
    },
    /// The disk is attached by order.
    Attached,
    /// The disk fails.
    Disk(DiskFault),
}

/// What the troubles of a round hit. Never two things at once that are each other's last copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Actors of both nodes, one after the other; disks and line are good.
    Actors,
    /// The line and the Secondary: the Primary's disk is good.
    Secondary,
    /// The Primary's disk: the Secondary and the line are good.
    Disk,
    /// A process stands still for a while; disks and line are good.
    Standstill,
    /// Both are well, and the Primary dies: the other node takes over.
    Takeover,
    /// Both are well, and both die at once.
    BothKilled,
}

/// Every kind of actor, those that take the link with them last: to lose the Primary's disk at the same time is to lose
/// both copies, for what was written between the two is nowhere else.
pub const ACTORS: [&str; 9] = [
    "disk",
    "activity-log",
    "resync",
    "helper",
    "client",
    "volume",
    "bitmap",
    "state",
    "peer",
];
/// How many of them leave the link alone.
const GENTLE: usize = 5;

impl Round {
    /// A round that may follow. Unless both nodes are well, the Secondary may lack something.
    pub fn draw(random: &mut Random, are_well: bool, may_kill_nodes: bool) -> Self {
        let always = [Self::Actors, Self::Actors, Self::Secondary];
        let well = [
            Self::Actors,
            Self::Secondary,
            Self::Secondary,
            Self::Disk,
            Self::Disk,
            Self::Standstill,
        ];
        let deadly = [Self::Takeover, Self::Takeover, Self::BothKilled];
        let mut rounds = Vec::from(always);
        if are_well {
            rounds.extend(well);
        }
        if are_well && may_kill_nodes {
            rounds.extend(deadly);
        }
        rounds[random.below(rounds.len() as u64) as usize]
    }

    /// Most troubles of this round.
    pub fn troubles(self, random: &mut Random) -> u64 {
        match self {
            Self::Actors => 10 + random.below(30),
            Self::Secondary | Self::Disk => 1 + random.below(6),
            Self::Standstill => 1 + random.below(3),
            Self::Takeover | Self::BothKilled => 0,
        }
    }
}

/// Draws the troubles of a round.
pub struct Draw<'a> {
    /// Where chance comes from.
    pub random: &'a mut Random,
    /// The clients' blocks.
    pub area: Range<u64>,
    /// Whether processes may be killed.
    pub may_kill_nodes: bool,
}

impl Draw<'_> {
    /// A trouble.
    pub fn trouble(&mut self, round: Round) -> Trouble {
        match round {
            Round::Standstill => self.standstill(),
            Round::Secondary => match self.random.below(10) {
                0..=3 => self.actor(ACTORS.len()),
                4..=6 => self.disk(),
                7 => self.line(),
                8 if self.may_kill_nodes => [Trouble::NodeKilled, Trouble::NodeStarted][self.one_of(2)],
                8 => self.line(),
                _ => Trouble::NodeStopped(Who::Secondary, self.milliseconds()),
            },
            Round::Disk => match self.random.below(10) {
                0..=4 => self.actor(GENTLE),
                _ => self.disk(),
            },
            Round::Actors | Round::Takeover | Round::BothKilled => self.actor(ACTORS.len()),
        }
    }

    fn one_of(&mut self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    fn who(&mut self) -> Who {
        [Who::Primary, Who::Secondary][self.one_of(2)]
    }

    /// Hangs are rare, for each takes the supervisor seconds to notice.
    fn actor(&mut self, among: usize) -> Trouble {
        let how = match self.random.below(16) {
            0 => Kill::Hang,
            1..=8 => Kill::Panic,
            _ => Kill::Stop,
        };
        let actor = ACTORS[self.one_of(among)];
        // The Secondary has no clients.
        let who = self.who();
        let who = if actor == "client" { Who::Primary } else { who };
        Trouble::Actor(who, actor, how)
    }

    fn line(&mut self) -> Trouble {
        Trouble::Line([Line::Cut, Line::Cut, Line::Silent, Line::Open, Line::Open][self.one_of(5)])
    }

    /// Most standstills are short; some are longer than a peer waits.
    fn milliseconds(&mut self) -> u64 {
        match self.random.below(12) {
            0 => 2500 + self.random.below(1500),
            _ => 10 + self.random.below(300),
        }
    }

    fn standstill(&mut self) -> Trouble {
        let who = self.who();
        Trouble::NodeStopped(who, self.milliseconds())
    }

    fn disk(&mut self) -> Trouble {
        let times = 1 + self.random.below(3) as u32;
        let kind = [FaultKind::Read, FaultKind::Write, FaultKind::Flush][self.one_of(3)];
        let part = [MetaData::Superblock, MetaData::Bitmap, MetaData::ActivityLog][self.one_of(3)];
        let first = self.area.start + self.random.below(self.area.end - self.area.start - 64);
        let blocks = 1 + self.random.below(64);
        match self.random.below(14) {
            0 | 1 => Trouble::Detached { force: times == 1 },
            2 => Trouble::Attached,
            3 | 4 => Trouble::Disk(DiskFault::Failing(kind, times)),
            5..=8 => Trouble::Disk(DiskFault::Unreadable { first, blocks }),
            9 | 10 => Trouble::Disk(DiskFault::MetaData(part, times)),
            11 | 12 => Trouble::Disk(DiskFault::Delay(5 + self.random.below(200), times)),
            _ => Trouble::Disk(DiskFault::Hang),
        }
    }
}

impl DiskFault {
    /// The rule that lays it over the disk.
    pub fn rule(self, area: &Range<u64>, meta: &MetaAreas) -> FaultRule {
        let first_sector = area.start * BLOCK_SECTORS;
        let sectors = ((area.end - area.start) * BLOCK_SECTORS) as u32;
        let whole = |mode| FaultRule {
            kind: FaultKind::Any,
            first_sector: None,
            sectors: None,
            error: None,
            mode,
            delay_ms: 0,
            hang: false,
        };
        match self {
            Self::Failing(FaultKind::Flush, times) => FaultRule {
                kind: FaultKind::Flush,
                ..whole(FaultMode::Times(times))
            },
            Self::Failing(kind, times) => failing(kind, first_sector, sectors, FaultMode::Times(times)),
            Self::Unreadable { first, blocks } => {
                let sectors = (blocks * BLOCK_SECTORS) as u32;
                let mode = FaultMode::UntilWritten;
                failing(FaultKind::Read, first * BLOCK_SECTORS, sectors, mode)
            }
            Self::MetaData(part, times) => {
                let area = match part {
                    MetaData::Superblock => &meta.superblock,
                    MetaData::Bitmap => &meta.bitmap,
                    MetaData::ActivityLog => &meta.activity_log,
                };
                let mode = FaultMode::Times(times);
                failing(FaultKind::Write, area.first_sector, area.sectors, mode)
            }
            Self::Delay(milliseconds, times) => FaultRule {
                delay_ms: milliseconds,
                ..whole(FaultMode::Times(times))
            },
            Self::Hang => FaultRule {
                hang: true,
                ..whole(FaultMode::Always)
            },
        }
    }

    fn name(self) -> String {
        match self {
            Self::Failing(kind, _) => format!("{} errors", word(kind)),
            Self::Unreadable { .. } => "unreadable blocks".into(),
            Self::MetaData(part, _) => format!("{part:?} write errors"),
            Self::Delay(..) => "slow operations".into(),
            Self::Hang => "hanging operations".into(),
        }
    }
}

impl Trouble {
    /// What it is called in the report, on a disk of `side`.
    pub fn name(&self, side: Who) -> String {
        match self {
            Self::Actor(who, actor, how) => format!("{who:?}: {actor} {}", way(*how)),
            Self::NodeKilled => "Secondary: SIGKILL".into(),
            Self::NodeStarted => "Secondary: started".into(),
            Self::NodeStopped(who, _) => format!("{who:?}: SIGSTOP"),
            Self::Line(Line::Open) => "line: healed".into(),
            Self::Line(line) => format!("line: {}", format!("{line:?}").to_lowercase()),
            Self::Detached { force: true } => format!("{side:?}: detach --force"),
            Self::Detached { force: false } => format!("{side:?}: detach"),
            Self::Attached => format!("{side:?}: attach"),
            Self::Disk(fault) => format!("{side:?}: disk: {}", fault.name()),
        }
    }
}

fn word(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Read => "read",
        FaultKind::Write => "write",
        FaultKind::Flush => "flush",
        FaultKind::Any => "any",
    }
}

/// The way in which an actor dies, as a word.
pub fn way(how: Kill) -> &'static str {
    match how {
        Kill::Panic => "panic",
        Kill::Stop => "stop",
        Kill::Hang => "hang",
    }
}
