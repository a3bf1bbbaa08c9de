//! One trouble after the other, at random, under load: processes are killed, the line breaks, disks fail and are
//! detached, actors die. In the end everything is well again, both disks are equal, and no answered write is lost.
//!
//! `TROUBLE_SECONDS=600 cargo test -p mendblock --test end_to_end trouble` goes on for so long, `SEED=n` repeats the
//! sequence of a run; processes and the kernel keep their own time, so a failure may need several attempts.

use mendblock::admin::schema::Kill;
use mendblock::configuration::{FaultKind, FaultMode};
use mendblock_harness::admin::failing;
use mendblock_harness::history::{BLOCK_SECTORS, History};
use mendblock_harness::link::Line;
use mendblock_harness::load::{Load, Random, check_all};
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Blocks that clients use.
const AREA: Range<u64> = 0..2048;
const CONNECTIONS: u64 = 3;
/// Longest wait for something that has to happen, seconds.
const LIMIT: u64 = 60;

/// Which of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Primary,
    Secondary,
}

/// What happens to a node that keeps the volume together with a good one.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// SIGKILL of the Secondary.
    Killed,
    Started,
    Line(Line),
    Detached {
        force: bool,
    },
    Attached,
    /// The next operations of this kind fail.
    Failing(FaultKind, u32),
    /// Blocks cannot be read until they are written.
    Unreadable {
        first: u64,
        blocks: u64,
    },
    Actor(Who, &'static str, Kill),
}

/// What the troubles of a round hit. Never two things at once that are each other's last copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The line and the Secondary.
    Secondary,
    /// The Primary's disk.
    Disk,
    /// Both are well, and the Primary dies: the other node takes over.
    Takeover,
    /// Both are well, and both die at once.
    BothKilled,
}

struct Stage {
    pair: Pair,
    load: Load,
    random: Random,
    alice_is_primary: bool,
    crashes: u64,
    begun: Instant,
    line: Line,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let policy = ["detach", "pass_on", "call-local-io-error"][random.below(3) as usize];
        let pair = Pair::running(&Options {
            disk_bytes: 24 << 20,
            volume_keys: format!("on-io-error = \"{policy}\"\nresync-rate = \"12M\"\nc-plan-ahead = 0"),
            link: true,
            ..Options::default()
        });
        let load = Load::that_comes_back(&pair.alice, Arc::<History>::default(), AREA, CONNECTIONS);
        let stage = Self {
            pair,
            load,
            random,
            alice_is_primary: true,
            crashes: 0,
            begun: Instant::now(),
            line: Line::Open,
        };
        stage.say(&format!("seed {seed}, on-io-error {policy}"));
        stage
    }

    fn say(&self, what: &str) {
        eprintln!("{:7.3} {what}", self.begun.elapsed().as_secs_f64());
    }

    fn node(&self, who: Who) -> &Node {
        match (who == Who::Primary) == self.alice_is_primary {
            true => &self.pair.alice,
            false => &self.pair.bob,
        }
    }

    fn node_mut(&mut self, who: Who) -> &mut Node {
        match (who == Who::Primary) == self.alice_is_primary {
            true => &mut self.pair.alice,
            false => &mut self.pair.bob,
        }
    }

    fn progress(&mut self) {
        let requests = 5 + self.random.below(150);
        self.load.progress(requests, LIMIT);
    }

    /// A trouble of a round; what does not apply at the moment draws the same random numbers and does nothing.
    fn draw(&mut self, round: Round) -> Trouble {
        let who = [Who::Primary, Who::Secondary][self.random.below(2) as usize];
        let how = [Kill::Panic, Kill::Stop, Kill::Hang][self.random.below(3) as usize];
        // The last four take the link with them. To lose the Primary's disk at the same time is to lose both copies: what
        // was written between the two is nowhere else.
        let actors = [
            "disk",
            "activity-log",
            "resync",
            "helper",
            "volume",
            "bitmap",
            "state",
            "peer",
        ];
        let among = actors.len() - if round == Round::Disk { 4 } else { 0 };
        let actor = Trouble::Actor(who, actors[self.random.below(among as u64) as usize], how);
        let first = self.random.below(AREA.end - 64);
        let blocks = 1 + self.random.below(64);
        let times = 1 + self.random.below(3) as u32;
        let kind = [FaultKind::Read, FaultKind::Write, FaultKind::Flush][self.random.below(3) as usize];
        let common = [
            actor,
            Trouble::Detached { force: times == 1 },
            Trouble::Attached,
            Trouble::Failing(kind, times),
            Trouble::Unreadable { first, blocks },
        ];
        let others = [
            Trouble::Killed,
            Trouble::Started,
            Trouble::Line(Line::Cut),
            Trouble::Line(Line::Silent),
            Trouble::Line(Line::Open),
        ];
        let number = self.random.below(10) as usize;
        match others.get(number.wrapping_sub(common.len())) {
            Some(other) if round == Round::Secondary => *other,
            _ => common[number % common.len()],
        }
    }

    fn happen(&mut self, trouble: Trouble, on: Who) {
        let is_running = self.node(on).is_started();
        match trouble {
            Trouble::Killed if is_running => self.node_mut(on).kill(),
            Trouble::Started if !is_running => self.node_mut(on).start(),
            Trouble::Line(line) => self.set_line(line),
            Trouble::Actor(who, actor, how) if self.node(who).is_started() => {
                // It may be dead at the moment.
                let _ = self.node(who).admin.kill(actor, how);
            }
            Trouble::Detached { force } if is_running => {
                let order: &[&str] = if force {
                    &["detach", "--force"]
                } else {
                    &["detach"]
                };
                let answer = self.node(on).admin.order(order);
                self.say(&format!("  detach: {:?} {}", answer.code, answer.errors.trim()));
            }
            Trouble::Attached if is_running => {
                let answer = self.node(on).admin.order(&["attach"]);
                self.say(&format!("  attach: {:?} {}", answer.code, answer.errors.trim()));
            }
            Trouble::Failing(kind, times) if is_running => {
                let sectors = (AREA.end * BLOCK_SECTORS) as u32;
                let mut rule = failing(kind, AREA.start, sectors, FaultMode::Times(times));
                if kind == FaultKind::Flush {
                    (rule.first_sector, rule.sectors) = (None, None);
                }
                self.node(on).admin.fault(&rule);
            }
            Trouble::Unreadable { first, blocks } if is_running => {
                let sectors = (blocks * BLOCK_SECTORS) as u32;
                let rule = failing(
                    FaultKind::Read,
                    first * BLOCK_SECTORS,
                    sectors,
                    FaultMode::UntilWritten,
                );
                self.node(on).admin.fault(&rule);
            }
            _ => {}
        }
    }

    fn set_line(&mut self, line: Line) {
        self.line = line;
        self.pair.link.as_ref().unwrap().set(line);
    }

    /// Some troubles on one side, with some requests between them.
    fn hurt(&mut self, round: Round, on: Who) {
        for _ in 0..=self.random.below(4) {
            let trouble = self.draw(round);
            self.say(&format!("{on:?}: {trouble:?}"));
            self.happen(trouble, on);
            self.progress();
        }
    }

    /// Whatever an operator can do: the line, the processes, the disks.
    fn heal(&mut self) {
        self.say("heal");
        self.set_line(Line::Open);
        if !self.node(Who::Secondary).is_started() {
            self.node_mut(Who::Secondary).start();
        }
        for who in [Who::Primary, Who::Secondary] {
            let admin = &self.node(who).admin;
            admin.clear_faults();
            admin.wait_for("attached", LIMIT, |volume| {
                let away = matches!(&*volume.disk.state, "Diskless" | "Failed");
                if away {
                    admin.order(&["attach"]);
                }
                !away && volume.disk.detach.is_none()
            });
        }
    }

    /// The Primary's process is gone; what it has not answered is decided.
    fn crash(&mut self) {
        self.node_mut(Who::Primary).kill();
        self.load.history.crashed();
        self.crashes += 1;
    }

    fn promote(&mut self) {
        let admin = &self.node(Who::Primary).admin;
        admin.wait_for("Primary again", LIMIT, |_| {
            admin.order(&["primary"]).code == Some(0)
        });
    }

    /// The Primary dies, the other node takes over, and the first one comes back as Secondary.
    fn take_over(&mut self) {
        self.crash();
        self.alice_is_primary = !self.alice_is_primary;
        self.promote();
        let primary = self.node(Who::Primary);
        self.load.moves_to(primary);
        self.progress();
        self.node_mut(Who::Secondary).start();
    }

    fn restart_both(&mut self) {
        if self.node(Who::Secondary).is_started() {
            self.node_mut(Who::Secondary).kill();
        }
        self.crash();
        self.set_line(Line::Open);
        self.node_mut(Who::Secondary).start();
        self.node_mut(Who::Primary).start();
        self.promote();
    }

    /// The Primary dies in the middle of the Secondary's troubles: it is the only one with all data.
    fn restart_primary(&mut self) {
        self.crash();
        self.node_mut(Who::Primary).start();
        self.heal();
        self.promote();
    }

    /// Returns whether both nodes are well again, or still on their way.
    fn round(&mut self, both_are_well: bool) -> bool {
        let rounds = [
            Round::Secondary,
            Round::Secondary,
            Round::Disk,
            Round::Disk,
            Round::Takeover,
            Round::BothKilled,
        ];
        let drawn = rounds[self.random.below(rounds.len() as u64) as usize];
        let round = if both_are_well { drawn } else { Round::Secondary };
        self.say(&format!("round {round:?}"));
        match round {
            Round::Secondary => {
                self.hurt(round, Who::Secondary);
                if self.random.below(4) == 0 {
                    self.say("the Primary is killed as well");
                    self.restart_primary();
                } else {
                    self.heal();
                }
            }
            Round::Disk => {
                self.hurt(round, Who::Primary);
                self.heal();
            }
            Round::Takeover => self.take_over(),
            Round::BothKilled => self.restart_both(),
        }
        self.progress();
        let is_awaited = round != Round::Secondary || self.random.below(2) == 0;
        if is_awaited {
            self.pair.wait_in_sync(LIMIT);
        }
        is_awaited
    }

    fn end(mut self) {
        self.heal();
        self.pair.wait_in_sync(LIMIT);
        self.progress();
        let history = Arc::clone(&self.load.history);
        let crashes = self.crashes;
        self.say("the end");
        let socket = self.node(Who::Primary).nbd_socket();
        let ended = self.load.stop();
        ended.expect_no_error();
        assert!(
            ended.reconnects <= crashes * CONNECTIONS,
            "{} broken connections in {crashes} crashes",
            ended.reconnects
        );
        let counts = history.counts();
        eprintln!(
            "{} requests, {crashes} crashes, {} reconnections, {counts:?}",
            ended.requests, ended.reconnects
        );
        check_all(&socket, &history);
        self.pair.stop_and_check(&history);
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
    )
}

#[test]
fn one_trouble_after_the_other() {
    let budget = Duration::from_secs(number("TROUBLE_SECONDS").unwrap_or(10));
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("SEED").unwrap_or(clock.subsec_nanos().into());
    let mut stage = Stage::new(seed);
    let mut are_well = true;
    while stage.begun.elapsed() < budget {
        are_well = stage.round(are_well);
    }
    stage.end();
}
