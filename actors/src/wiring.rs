//! The only file that names all actors of a volume: who reaches whom, what a new generation is made of and told first. The
//! simulator's wiring follows the same table.
//!
//! | part | port that outlives it | a new generation is given |
//! |---|---|---|
//! | state | the snapshot's sender | the last snapshot |
//! | disk | `Device` with its table | the table's operations and unacknowledged failures |
//! | bitmap | the health file | the health files' newest content |
//! | activity log | – | – |
//! | peer | sockets, closed first | the number of the last connection |
//! | volume | – | the client sessions that will replay |
//! | resync | – | – |
//! | client | the client's socket and unanswered requests | – |
//! | helper | the programs that run | their queries |

use crate::clock::Clock;
use crate::counters::Counters;
use crate::facts::FactSink;
use crate::handle::{Handle, Slot};
use crate::ports::client::ClientPort;
use crate::ports::disk::DiskPort;
use crate::ports::health::{HealthFiles, HealthPort};
use crate::ports::helper::HelperPort;
use crate::ports::peer::PeerPort;
use crate::ports::snapshot::{Answers, SnapshotPort};
use crate::shell::{Kill, NoPort, Port, Shell};
use crate::supervision::{Notice, supervise};
use crate::volume::Actors;
use mendblock_core::activity::{ActivityIn, ActivityPart};
use mendblock_core::bitmap::{BadBlocks, BitmapIn, BitmapPart};
use mendblock_core::client::{ClientIn, ClientPart};
use mendblock_core::configuration::VolumeConfiguration;
use mendblock_core::disk::{DiskIn, DiskPart};
use mendblock_core::engine::{VolumeIn, VolumePart};
use mendblock_core::helper::{HelperIn, HelperPart};
use mendblock_core::identity::{ClientId, ConnectionNumber, PartGeneration};
use mendblock_core::part::{Part, PartName, To};
use mendblock_core::peer::{PeerIn, PeerPart};
use mendblock_core::resync::{Progress, ResyncEffect, ResyncIn, ResyncPart};
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::machine::{StateIn, StatePart};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

/// Handles of the client sessions that exist.
pub type Sessions = Rc<RefCell<BTreeMap<ClientId, Handle<ClientPart>>>>;

/// How every part of a volume is reached.
#[derive(Clone)]
pub struct Routes {
    /// `StateActor`.
    pub state: Handle<StatePart>,
    /// `DiskActor`.
    pub disk: Handle<DiskPart>,
    /// `BitmapActor`.
    pub bitmap: Handle<BitmapPart>,
    /// `ActivityLogActor`.
    pub activity: Handle<ActivityPart>,
    /// `PeerActor`.
    pub peer: Handle<PeerPart>,
    /// `VolumeActor`.
    pub volume: Handle<VolumePart>,
    /// `ResyncActor`.
    pub resync: Handle<ResyncPart>,
    /// `HelperActor`.
    pub helper: Handle<HelperPart>,
    /// Client sessions.
    pub clients: Sessions,
}

/// Where the supervisors say who lives.
struct Slots {
    state: Slot<StatePart>,
    disk: Slot<DiskPart>,
    bitmap: Slot<BitmapPart>,
    activity: Slot<ActivityPart>,
    peer: Slot<PeerPart>,
    volume: Slot<VolumePart>,
    resync: Slot<ResyncPart>,
    helper: Slot<HelperPart>,
}

/// Messages of one outbox, by receiver.
#[derive(Default)]
struct Sorted {
    state: Vec<StateIn>,
    disk: Vec<DiskIn>,
    bitmap: Vec<BitmapIn>,
    activity: Vec<ActivityIn>,
    peer: Vec<PeerIn>,
    volume: Vec<VolumeIn>,
    resync: Vec<ResyncIn>,
    helper: Vec<HelperIn>,
    clients: BTreeMap<ClientId, Vec<ClientIn>>,
}

fn hand<P: Part + Unpin + 'static>(handle: &Handle<P>, messages: Vec<P::In>) {
    if !messages.is_empty() {
        handle.deliver(messages);
    }
}

impl Routes {
    fn new() -> (Self, Slots) {
        let (state_slot, state) = Handle::new();
        let (disk_slot, disk) = Handle::new();
        let (bitmap_slot, bitmap) = Handle::new();
        let (activity_slot, activity) = Handle::new();
        let (peer_slot, peer) = Handle::new();
        let (volume_slot, volume) = Handle::new();
        let (resync_slot, resync) = Handle::new();
        let (helper_slot, helper) = Handle::new();
        let routes = Self {
            state,
            disk,
            bitmap,
            activity,
            peer,
            volume,
            resync,
            helper,
            clients: Sessions::default(),
        };
        let slots = Slots {
            state: state_slot,
            disk: disk_slot,
            bitmap: bitmap_slot,
            activity: activity_slot,
            peer: peer_slot,
            volume: volume_slot,
            resync: resync_slot,
            helper: helper_slot,
        };
        (routes, slots)
    }

    /// Sends an outbox: what goes to one receiver becomes one message. The peer part comes before the volume part, so that a
    /// `Tell` is in its mailbox before the volume part sees the snapshot that names it.
    pub fn deliver(&self, messages: &mut Vec<To>) {
        let mut sorted = Sorted::default();
        for message in messages.drain(..) {
            match message {
                To::State(message) => sorted.state.push(message),
                To::Disk(message) => sorted.disk.push(message),
                To::Bitmap(message) => sorted.bitmap.push(message),
                To::ActivityLog(message) => sorted.activity.push(message),
                To::Peer(message) => sorted.peer.push(message),
                To::Volume(message) => sorted.volume.push(message),
                To::Resync(message) => sorted.resync.push(message),
                To::Helper(message) => sorted.helper.push(message),
                To::Client(client, message) => sorted.clients.entry(client).or_default().push(message),
            }
        }
        hand(&self.peer, sorted.peer);
        hand(&self.disk, sorted.disk);
        hand(&self.volume, sorted.volume);
        hand(&self.bitmap, sorted.bitmap);
        hand(&self.activity, sorted.activity);
        hand(&self.state, sorted.state);
        hand(&self.resync, sorted.resync);
        hand(&self.helper, sorted.helper);
        for (client, messages) in sorted.clients {
            if let Some(session) = self.clients.borrow().get(&client) {
                session.deliver(messages);
            }
        }
    }

    /// A new generation announces itself to each neighbour (R2).
    fn announce(&self, part: PartName, generation: PartGeneration) {
        let mut messages = vec![
            To::State(StateIn::Restarted { part, generation }),
            To::Disk(DiskIn::Restarted { part, generation }),
            To::Bitmap(BitmapIn::Restarted { part, generation }),
            To::ActivityLog(ActivityIn::Restarted { part, generation }),
            To::Peer(PeerIn::Restarted { part, generation }),
            To::Volume(VolumeIn::Restarted { part, generation }),
            To::Resync(ResyncIn::Restarted { part, generation }),
            To::Helper(HelperIn::Restarted { part, generation }),
        ];
        messages.retain(|message| name_of(message) != part);
        messages.extend(
            self.clients
                .borrow()
                .keys()
                .map(|&client| To::Client(client, ClientIn::Restarted { part, generation })),
        );
        self.deliver(&mut messages);
    }

    /// Kills an actor by order; false if it does not live at the moment.
    pub fn kill(&self, part: PartName, death: crate::shell::Death) -> bool {
        fn order<P: Part + Unpin + 'static>(handle: &Handle<P>, death: crate::shell::Death) -> bool {
            let living = handle.living();
            if let Some(living) = living.as_ref() {
                living.address.do_send(Kill(death));
            }
            living.is_some()
        }
        match part {
            PartName::State => order(&self.state, death),
            PartName::Disk => order(&self.disk, death),
            PartName::Bitmap => order(&self.bitmap, death),
            PartName::ActivityLog => order(&self.activity, death),
            PartName::Peer => order(&self.peer, death),
            PartName::Volume => order(&self.volume, death),
            PartName::Resync => order(&self.resync, death),
            PartName::Helper => order(&self.helper, death),
            // Every session dies: each client must not notice.
            PartName::Client => self
                .clients
                .borrow()
                .values()
                .map(|session| order(session, death))
                .fold(false, |a, b| a | b),
        }
    }
}

fn name_of(message: &To) -> PartName {
    match message {
        To::State(_) => PartName::State,
        To::Disk(_) => PartName::Disk,
        To::Bitmap(_) => PartName::Bitmap,
        To::ActivityLog(_) => PartName::ActivityLog,
        To::Peer(_) => PartName::Peer,
        To::Volume(_) => PartName::Volume,
        To::Resync(_) => PartName::Resync,
        To::Client(..) => PartName::Client,
        To::Helper(_) => PartName::Helper,
    }
}

/// The resync part's port: progress for `status` and metrics.
struct ProgressPort(watch::Sender<Option<Progress>>);

impl Port<ResyncEffect> for ProgressPort {
    fn carry_out(&mut self, effects: &mut Vec<ResyncEffect>) {
        for ResyncEffect::Progress(progress) in effects.drain(..) {
            self.0.send_replace(progress);
        }
    }
}

/// The ports of a volume and where it publishes.
pub struct Ports {
    /// Lower disk.
    pub disk: Box<dyn Fn(Handle<DiskPart>) -> DiskPort>,
    /// Peer.
    pub peer: Box<dyn Fn(Handle<PeerPart>) -> PeerPort>,
    /// Handlers.
    pub helper: Box<dyn Fn(Handle<HelperPart>) -> HelperPort>,
    /// Health file.
    pub health: HealthFiles,
    /// Counts.
    pub counters: Arc<Counters>,
    /// Last snapshot.
    pub snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    /// Bad blocks.
    pub bad_blocks: watch::Sender<Arc<BadBlocks>>,
    /// Progress of a resync.
    pub progress: watch::Sender<Option<Progress>>,
}

/// What all shells of a volume share.
#[derive(Clone)]
struct Common {
    configuration: Arc<VolumeConfiguration>,
    routes: Routes,
    facts: FactSink,
    clock: Clock,
    actors: Actors,
    answers: Answers,
}

/// The running actors of one volume, on their Arbiter.
pub struct Wired {
    /// How they are reached.
    pub routes: Routes,
    /// Commands that wait for answers.
    pub answers: Answers,
    /// The peer's sockets.
    pub peer: PeerPort,
    common: Common,
    next_client: Rc<Cell<u64>>,
}

/// Makes and starts the actors of a volume on this Arbiter.
pub fn start(
    configuration: Arc<VolumeConfiguration>,
    ports: Ports,
    facts: FactSink,
    clock: Clock,
    actors: Actors,
) -> Wired {
    let (routes, slots) = Routes::new();
    let answers = Answers::default();
    let common = Common {
        configuration,
        routes: routes.clone(),
        facts,
        clock,
        actors,
        answers: answers.clone(),
    };
    let disk = (ports.disk)(routes.disk.clone());
    let peer = (ports.peer)(routes.peer.clone());
    let helper = (ports.helper)(routes.helper.clone());
    let connection = ports.snapshot.subscribe();
    common.state(slots.state, ports.snapshot);
    common.disk(slots.disk, disk);
    common.bitmap(slots.bitmap, ports.health, ports.bad_blocks, ports.counters);
    common.activity(slots.activity);
    common.volume(slots.volume);
    common.resync(slots.resync, ports.progress);
    common.helper(slots.helper, helper);
    common.peer(slots.peer, peer.clone(), connection);
    Wired {
        routes,
        answers,
        peer,
        common,
        next_client: Rc::new(Cell::new(0)),
    }
}

impl Wired {
    /// A session for a client whose negotiation has ended; `make` gives its port the handle of the session's actor.
    pub fn session(&self, make: impl FnOnce(Handle<ClientPart>) -> ClientPort) -> ClientPort {
        self.next_client.set(self.next_client.get() + 1);
        let id = ClientId(self.next_client.get());
        let (slot, handle) = Handle::new();
        let port = make(handle.clone());
        self.routes.clients.borrow_mut().insert(id, handle);
        self.tell_openers();
        self.common.client(slot, id, port.clone());
        port
    }

    fn tell_openers(&self) {
        tell_openers(&self.routes);
    }
}

fn tell_openers(routes: &Routes) {
    let count = u32::try_from(routes.clients.borrow().len()).unwrap_or(u32::MAX);
    routes.state.deliver(vec![StateIn::Openers { count }]);
}

impl Common {
    fn shell<P: Part + Unpin + 'static>(
        &self,
        part: P,
        port: Box<dyn Port<P::Effect>>,
        initial: Vec<P::In>,
    ) -> Shell<P> {
        Shell::new(
            part,
            port,
            self.routes.clone(),
            self.facts.clone(),
            self.clock,
            initial,
        )
    }

    /// Supervises a part: books its lives and deaths, announces new generations, gives it up in a defined state.
    fn supervise<P: Part + Unpin + 'static>(
        &self,
        slot: Slot<P>,
        make: impl FnMut(PartGeneration) -> Option<Shell<P>> + 'static,
    ) {
        let common = self.clone();
        let notice = move |notice: Notice| common.notice(P::NAME, notice);
        actix::spawn(supervise(slot, || false, make, notice));
    }

    fn notice(&self, part: PartName, notice: Notice) {
        match notice {
            Notice::Lives(generation) => {
                self.actors.lives(part, generation);
                if generation.0 > 1 {
                    self.routes.announce(part, generation);
                }
            }
            Notice::Died(generation, end) => {
                self.actors.died(part, end);
                tracing::warn!(volume = %self.configuration.volume, actor = part.as_str(), generation = generation.0, end = end.as_str(), "actor died, its successor follows");
                if part == PartName::State {
                    self.answers
                        .fail_all("the state actor died while it worked on the command");
                }
            }
            Notice::GivenUp(generation) => self.given_up(part, generation),
        }
    }

    /// An actor that dies again and again ends in a defined state, never in a loop.
    fn given_up(&self, part: PartName, generation: PartGeneration) {
        tracing::error!(volume = %self.configuration.volume, actor = part.as_str(), generation = generation.0, "actor given up");
        match part {
            PartName::Disk | PartName::Bitmap | PartName::ActivityLog | PartName::Peer => {
                self.routes.state.deliver(vec![StateIn::DriverFailed { part }]);
            }
            PartName::State | PartName::Volume => {
                // Without these two nothing can be promised to anyone: the node stops serving rather than guess. The peer sees a
                // crash, and what was acknowledged is on both disks.
                tracing::error!("the node ends: {part} cannot live");
                std::process::abort();
            }
            PartName::Resync | PartName::Client | PartName::Helper => {}
        }
    }

    fn state(&self, slot: Slot<StatePart>, snapshot: watch::Sender<Option<Arc<Snapshot>>>) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            let configuration = Arc::clone(&common.configuration);
            let last = snapshot.borrow().clone();
            let part = match last {
                Some(last) => StatePart::resume(configuration, generation, last),
                None => StatePart::new(configuration),
            };
            let openers = u32::try_from(common.routes.clients.borrow().len()).unwrap_or(u32::MAX);
            let port = SnapshotPort::new(snapshot.clone(), common.answers.clone());
            Some(common.shell(part, Box::new(port), vec![StateIn::Openers { count: openers }]))
        });
    }

    fn disk(&self, slot: Slot<DiskPart>, port: DiskPort) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            let part = DiskPart::new(Arc::clone(&common.configuration), generation);
            Some(common.shell(part, Box::new(port.clone()), vec![port.adopted()]))
        });
    }

    fn bitmap(
        &self,
        slot: Slot<BitmapPart>,
        files: HealthFiles,
        bad_blocks: watch::Sender<Arc<BadBlocks>>,
        counters: Arc<Counters>,
    ) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            let part = BitmapPart::new(Arc::clone(&common.configuration), generation);
            let port = HealthPort::new(
                files.clone(),
                common.routes.bitmap.clone(),
                bad_blocks.clone(),
                Arc::clone(&counters),
            );
            Some(common.shell(
                part,
                Box::new(port),
                vec![BitmapIn::HealthRead { files: files.read() }],
            ))
        });
    }

    fn activity(&self, slot: Slot<ActivityPart>) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            let part = ActivityPart::new(Arc::clone(&common.configuration), generation);
            Some(common.shell(part, Box::new(NoPort), Vec::new()))
        });
    }

    fn volume(&self, slot: Slot<VolumePart>) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            let part = VolumePart::new(Arc::clone(&common.configuration), generation);
            let sessions = common.routes.clients.borrow().keys().copied().collect();
            Some(common.shell(part, Box::new(NoPort), vec![VolumeIn::Sessions(sessions)]))
        });
    }

    fn resync(&self, slot: Slot<ResyncPart>, progress: watch::Sender<Option<Progress>>) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            let part = ResyncPart::new(Arc::clone(&common.configuration), generation);
            Some(common.shell(part, Box::new(ProgressPort(progress.clone())), Vec::new()))
        });
    }

    fn helper(&self, slot: Slot<HelperPart>, port: HelperPort) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            let part = HelperPart::new(generation, port.started());
            Some(common.shell(part, Box::new(port.clone()), Vec::new()))
        });
    }

    fn peer(&self, slot: Slot<PeerPart>, port: PeerPort, snapshot: watch::Receiver<Option<Arc<Snapshot>>>) {
        let common = self.clone();
        self.supervise(slot, move |generation| {
            port.close_all();
            let last: Option<ConnectionNumber> = snapshot
                .borrow()
                .as_ref()
                .and_then(|snapshot| snapshot.connection);
            let part = PeerPart::new(Arc::clone(&common.configuration), generation, last);
            Some(common.shell(part, Box::new(port.clone()), Vec::new()))
        });
    }

    fn client(&self, slot: Slot<ClientPart>, id: ClientId, port: ClientPort) {
        let common = self.clone();
        let (noticing, ending, ended) = (self.clone(), self.clone(), port.clone());
        let is_over = move || ended.is_over();
        let make = move |generation| {
            let volume = common.routes.volume.living().map(|living| living.generation);
            let part = ClientPart::new(id, generation, volume);
            // The word that the client has gone may have been lost with the predecessor.
            let gone = port.is_gone().then_some(ClientIn::Gone);
            Some(common.shell(part, Box::new(port.clone()), gone.into_iter().collect()))
        };
        let notice = move |notice: Notice| noticing.notice(PartName::Client, notice);
        actix::spawn(async move {
            supervise(slot, is_over, make, notice).await;
            ending.routes.clients.borrow_mut().remove(&id);
            tell_openers(&ending.routes);
        });
    }
}
