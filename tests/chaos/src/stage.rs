//! Two nodes, their clients, and the hands that do the troubles.

use crate::fio::Fio;
use crate::leaks::{Holds, Watch};
use crate::logs::Log;
use crate::meter::{Meter, Times};
use crate::report::{Class, Report};
use crate::run::Orders;
use crate::trouble::{Draw, MetaAreas, Round, Trouble, Who, way};
use mendblock::admin::paths;
use mendblock::admin::schema::{DetachRequest, Kill};
use mendblock_harness::admin::VOLUME;
use mendblock_harness::disks;
use mendblock_harness::history::History;
use mendblock_harness::link::Line;
use mendblock_harness::load::{ClientError, Load, Plan, Random, check_all};
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair};
use rustix::process::Signal;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Blocks that the checking clients use.
pub const AREA: Range<u64> = 0..2048;
/// Blocks that fio uses.
pub const FIO_AREA: Range<u64> = 2048..2560;
/// Checking clients.
pub const CLIENTS: u64 = 3;
const DISK_BYTES: u64 = 24 << 20;
/// Longest wait for something that has to happen, seconds.
const LIMIT: u64 = 60;
/// How long a process may take in a quiet moment to let go of what it does not need any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// A supervisor gives an actor up that dies more than 64 times in 10 s: the run stays away from that.
const MOST_DEATHS: usize = 40;
const WINDOW: Duration = Duration::from_secs(10);
/// Time between two lines on how it goes.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Actions that a violation is told with.
const REMEMBERED: usize = 60;

/// The nodes, the clients and what was counted.
pub struct Stage {
    /// Both nodes.
    pub pair: Pair,
    /// The checking clients, until the end.
    pub load: Option<Load>,
    /// The other witness.
    pub fio: Fio,
    /// What was found.
    pub report: Report,
    /// How long clients waited.
    pub meter: Arc<Meter>,
    /// Whether the last look was at disks and data: what fails then is wrong data.
    pub is_checking: bool,
    history: Arc<History>,
    random: Random,
    alice_is_primary: bool,
    meta: MetaAreas,
    logs: [Log; 2],
    watch: Watch,
    in_sync: BTreeMap<String, Times>,
    deaths: VecDeque<(Instant, &'static str, &'static str)>,
    deaths_of: BTreeMap<&'static str, u64>,
    actions: VecDeque<String>,
    begun: Instant,
    told: Instant,
    orders: Orders,
}

impl Stage {
    /// Two nodes in sync, under load.
    #[track_caller]
    pub fn new(orders: &Orders) -> Self {
        let seed = orders.seed;
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let policy = ["detach", "pass_on", "call-local-io-error"][random.below(3) as usize];
        let mut pair = Pair::new(&Options {
            disk_bytes: DISK_BYTES,
            volume_keys: format!(
                "on-io-error = \"{policy}\"\nresync-rate = \"40M\"\nc-plan-ahead = 0\ndisk-timeout = 10"
            ),
            link: true,
            is_apart: true,
            backtraces: false,
            ..Options::default()
        });
        let dump = disks::dump(&pair.alice);
        let meta = MetaAreas {
            superblock: disks::superblock(&dump),
            bitmap: disks::bitmap(&dump),
            activity_log: disks::activity_log(&dump),
        };
        pair.bring_up();
        let meter = Arc::<Meter>::default();
        let history = Arc::<History>::default();
        let plan = Plan {
            area: AREA,
            connections: CLIENTS,
            comes_back: true,
            seed,
            observer: Some(meter.clone()),
        };
        let load = Load::on(pair.alice.nbd_socket(), Arc::clone(&history), plan);
        let blocks = if orders.with_fio { FIO_AREA } else { 0..0 };
        Self {
            fio: Fio::start(pair.alice.uri(), blocks, seed),
            load: Some(load),
            logs: [&pair.alice, &pair.bob].map(|node| Log::new(node.log.clone())),
            pair,
            report: Report {
                seed,
                policy: policy.into(),
                leak_bounds: crate::leaks::BOUNDS,
                ..Report::default()
            },
            meter,
            is_checking: false,
            history,
            random,
            alice_is_primary: true,
            meta,
            watch: Watch::default(),
            in_sync: BTreeMap::new(),
            deaths: VecDeque::new(),
            deaths_of: BTreeMap::new(),
            actions: VecDeque::new(),
            begun: Instant::now(),
            told: Instant::now(),
            orders: orders.clone(),
        }
    }

    fn say(&mut self, what: &str) {
        let line = format!("{:9.3} {what}", self.begun.elapsed().as_secs_f64());
        if self.orders.tells {
            eprintln!("{line}");
        }
        self.actions.push_back(line);
        if self.actions.len() > REMEMBERED {
            self.actions.pop_front();
        }
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

    fn load(&self) -> &Load {
        self.load.as_ref().expect("it runs until the end")
    }

    fn progress(&mut self, most: u64) {
        let requests = 1 + self.random.below(most);
        self.load().progress(requests, LIMIT);
        if let Some(failure) = self.fio.failure() {
            panic!("fio failed: {failure:?}");
        }
        if self.orders.shows_progress && self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            println!("{}", self.progress_line());
        }
    }

    /// Whether no new troubles are to be made.
    pub fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.orders.budget || self.orders.interrupted.load(Ordering::SeqCst)
    }

    fn post(&self, who: Who, command: &str, body: &str) -> String {
        let path = paths::command(VOLUME, command);
        match self.node(who).admin.request("POST", &path, body) {
            Ok((code, answer)) => format!("{code} {answer}"),
            Err(error) => format!("no answer: {error}"),
        }
    }

    fn kill_actor(&mut self, who: Who, actor: &'static str, how: Kill) {
        let name = self.node(who).settings.name;
        let now = Instant::now();
        while self.deaths.front().is_some_and(|(at, ..)| now - *at > WINDOW) {
            self.deaths.pop_front();
        }
        let same = self
            .deaths
            .iter()
            .filter(|(_, node, of)| (*node, *of) == (name, actor));
        if same.count() >= MOST_DEATHS {
            return;
        }
        self.meter.trouble(&Trouble::Actor(who, actor, how).name(who));
        // Between two generations there is nobody to kill.
        let killed = self.node(who).admin.kill(actor, how);
        if !killed.is_ok_and(|(code, _)| code == 200) {
            return;
        }
        self.deaths.push_back((now, name, actor));
        *self.deaths_of.entry(name).or_default() += 1;
        self.report.actor_deaths += 1;
        let ways = self.report.deaths.entry(actor.into()).or_default();
        *match how {
            Kill::Panic => &mut ways.panic,
            Kill::Stop => &mut ways.stop,
            Kill::Hang => &mut ways.hang,
        } += 1;
    }

    fn happen(&mut self, trouble: Trouble, on: Who) {
        let is_running = self.node(on).is_started();
        if let Trouble::Actor(who, actor, how) = trouble {
            if self.node(who).is_started() {
                self.say(&format!("{who:?}: {actor} {}", way(how)));
                self.kill_actor(who, actor, how);
            }
            return;
        }
        let needs_no_process = matches!(trouble, Trouble::Line(_) | Trouble::NodeStopped(..));
        let applies = match trouble {
            Trouble::NodeStarted => !is_running,
            Trouble::NodeStopped(who, _) => self.node(who).is_started(),
            _ => is_running || needs_no_process,
        };
        if !applies {
            return;
        }
        let name = trouble.name(on);
        self.say(&format!("{name} ({trouble:?})"));
        self.meter.trouble(&name);
        *self.report.troubles.entry(name).or_default() += 1;
        match trouble {
            Trouble::NodeKilled => self.node_mut(on).kill(),
            Trouble::NodeStarted => self.node_mut(on).start(),
            Trouble::NodeStopped(who, milliseconds) => self.stand_still(who, milliseconds),
            Trouble::Line(line) => self.set_line(line),
            Trouble::Detached { force } => {
                let body = serde_json::to_string(&DetachRequest { force }).unwrap();
                let answer = self.post(on, "detach", &body);
                self.say(&format!("  detach: {answer}"));
            }
            Trouble::Attached => {
                let answer = self.post(on, "attach", "{}");
                self.say(&format!("  attach: {answer}"));
            }
            Trouble::Disk(fault) => {
                let rule = fault.rule(&AREA, &self.meta);
                self.node(on).admin.fault(&rule);
            }
            Trouble::Actor(..) => {}
        }
    }

    fn stand_still(&mut self, who: Who, milliseconds: u64) {
        let node = self.node(who);
        node.signal(Signal::STOP);
        // The trouble itself takes this long.
        std::thread::sleep(Duration::from_millis(milliseconds));
        node.signal(Signal::CONT);
    }

    fn set_line(&mut self, line: Line) {
        let link = self.pair.link.as_ref().expect("the pair was made with one");
        link.set(line);
    }

    /// The round's troubles, with some requests between them.
    fn hurt(&mut self, round: Round, on: Who, may_kill_nodes: bool) {
        let most = if round == Round::Actors { 30 } else { 120 };
        for _ in 0..round.troubles(&mut self.random) {
            if self.is_over() {
                return;
            }
            let mut draw = Draw {
                random: &mut self.random,
                area: AREA,
                may_kill_nodes,
            };
            let trouble = draw.trouble(round);
            self.happen(trouble, on);
            self.progress(most);
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
                    self.post(who, "attach", "{}");
                }
                !away && volume.disk.detach.is_none()
            });
        }
    }

    /// The Primary's process is gone; what it has not answered is decided.
    fn crash(&mut self) {
        self.say("the Primary's process is killed");
        self.meter.trouble("Primary: SIGKILL");
        self.fio.lost();
        self.node_mut(Who::Primary).kill();
        self.load().history.crashed();
        self.report.primary_kills += 1;
    }

    fn promote(&mut self) {
        self.node(Who::Primary)
            .admin
            .wait_for("Primary again", LIMIT, |_| {
                self.post(Who::Primary, "primary", "{}").starts_with("200")
            });
        let primary = self.node(Who::Primary);
        self.load().moves_to(primary);
        self.fio.moves_to(primary.uri());
    }

    /// The Primary dies, the other node takes over, and the first one comes back as Secondary.
    fn take_over(&mut self) {
        self.crash();
        self.alice_is_primary = !self.alice_is_primary;
        self.promote();
        self.progress(120);
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

    /// Some troubles and the way out of them. Returns whether both nodes are well again, or still on their way.
    pub fn round(&mut self, are_well: bool, may_kill_nodes: bool) -> bool {
        let round = Round::draw(&mut self.random, are_well, may_kill_nodes);
        self.say(&format!("round {round:?}"));
        *self.report.rounds.entry(format!("{round:?}")).or_default() += 1;
        let on = match round {
            Round::Disk => Who::Primary,
            _ => Who::Secondary,
        };
        self.hurt(round, on, may_kill_nodes);
        let over = Instant::now();
        match round {
            Round::Secondary if may_kill_nodes && self.random.below(4) == 0 => self.restart_primary(),
            Round::Takeover => self.take_over(),
            Round::BothKilled => self.restart_both(),
            Round::Secondary | Round::Disk | Round::Actors | Round::Standstill => self.heal(),
        }
        self.progress(60);
        let may_go_on = matches!(round, Round::Secondary | Round::Actors);
        let is_awaited = !may_go_on || self.random.below(2) == 0;
        if is_awaited {
            self.pair.wait_in_sync(LIMIT);
            let times = self.in_sync.entry(format!("{round:?}")).or_default();
            times.push(over.elapsed());
        }
        self.look_at_processes();
        is_awaited
    }

    /// Neither process ended by itself, and no actor died without an order.
    fn look_at_processes(&mut self) {
        for node in [&mut self.pair.alice, &mut self.pair.bob] {
            if let Some(status) = node.has_ended() {
                let text = format!("the process of {} ended: {status}", node.settings.name);
                self.report.violated(Class::Death, text);
            }
        }
        for log in &mut self.logs {
            for news in log.news() {
                self.report.violated(Class::Death, news);
            }
        }
    }

    /// Everything comes to rest, and what the processes hold is looked at.
    pub fn quiet_moment(&mut self) {
        self.say("a quiet moment");
        self.fio.pause(LIMIT);
        self.load().pause(LIMIT);
        self.heal();
        self.pair.wait_in_sync(LIMIT);
        let seconds = self.begun.elapsed().as_secs_f64();
        for node in [&self.pair.alice, &self.pair.bob] {
            let name = node.settings.name;
            let process = node.process().expect("it was healed");
            let holds = self.at_rest(process);
            let deaths = self.deaths_of.get(name).copied().unwrap_or_default();
            if let Some(leak) = self.watch.look(name, process, holds, (seconds, deaths)) {
                self.report.violated(Class::Leak, leak);
            }
        }
        self.load().go_on();
        self.fio.go_on();
    }

    /// What the process holds, once it has let go of what it does not need.
    fn at_rest(&self, process: u32) -> Holds {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let holds = Holds::of(process).unwrap();
            if self.watch.is_good(process, holds) || Instant::now() > deadline {
                return holds;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The end of a good run: everything is read again, and both disks are compared and held against the history.
    pub fn check(&mut self) {
        self.heal();
        self.pair.wait_in_sync(LIMIT);
        self.progress(60);
        self.quiet_moment();
        self.fio.pause(LIMIT);
        self.fio.stop();
        let socket = self.node(Who::Primary).nbd_socket();
        self.end_load();
        self.is_checking = true;
        check_all(&socket, &self.history);
        self.pair.stop_and_compare();
        for node in [&self.pair.alice, &self.pair.bob] {
            disks::assert_holds_in(node, &self.history, AREA);
        }
        self.is_checking = false;
        self.look_at_processes();
    }

    /// Ends the clients, and writes down what they saw.
    pub fn end_load(&mut self) {
        if let Some(load) = self.load.take() {
            self.report.clients(load.stop());
        }
    }

    /// After a violation: what the nodes say is kept beside their logs, and everything is ended.
    pub fn give_up(&mut self) {
        for node in [&mut self.pair.alice, &mut self.pair.bob] {
            let status = node
                .admin
                .status()
                .map(|status| serde_json::to_string_pretty(&status));
            let name = format!("{}.status.json", node.settings.name);
            if let (Ok(Ok(status)), Some(folder)) = (status, node.log.parent()) {
                // The verdict stands without it.
                let _ = std::fs::write(folder.join(name), status);
            }
        }
        self.look_at_processes();
        for node in [&mut self.pair.alice, &mut self.pair.bob] {
            if node.is_started() {
                node.kill();
            }
        }
        if let Some(load) = self.load.take() {
            let mut ended = load.stop();
            ended
                .errors
                .retain(|error| !matches!(error, ClientError::Broken(_)));
            self.report.clients(ended);
        }
    }

    /// Sums up what was counted on the way.
    pub fn sum_up(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let report = &mut self.report;
        report.minutes = seconds / 60.0;
        report.acknowledged_sectors = self.history.counts().acknowledged;
        report.fio = self.fio.passes();
        report.longest_stall = self.meter.longest();
        report.back_to_service = self.meter.back_to_service();
        let summed_up = |(name, times): (&String, &Times)| (name.clone(), times.summary());
        report.in_sync = self.in_sync.iter().map(summed_up).collect();
        report.lives = self.watch.lives().to_vec();
        report.check_reconnects(CLIENTS);
        if !report.is_good() {
            report.last_actions = self.actions.iter().cloned().collect();
            report.kept = self.pair.keep().to_vec();
        }
    }

    fn progress_line(&self) -> String {
        format!(
            "{:6.0} s: {} requests, {} deaths of actors, {} kills of the Primary, {} fio passes, longest stall {:.2} s",
            self.begun.elapsed().as_secs_f64(),
            self.load.as_ref().map_or(0, Load::done),
            self.report.actor_deaths,
            self.report.primary_kills,
            self.fio.passes().verified,
            self.meter.longest().seconds
        )
    }
}
