//! A volume as the rest of the node sees it: a [`VolumeHandle`] that may cross threads, and the volumes of one Arbiter.

use crate::clock::Clock;
use crate::counters::Counters;
use crate::facts::{FactSink, Happened};
use crate::ports::disk::{DiskConfiguration, DiskPort};
use crate::ports::health::HealthFiles;
use crate::ports::helper::{HandlerConfiguration, HelperPort};
use crate::ports::peer::PeerPort;
use crate::service::Serving;
use crate::shell::Death;
use crate::supervision::End;
use crate::wiring::{self, Ports, Wired};
use mendblock_core::bitmap::BadBlocks;
use mendblock_core::configuration::VolumeConfiguration;
use mendblock_core::identity::PartGeneration;
use mendblock_core::part::PartName;
use mendblock_core::resync::Progress;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::machine::{Command, CommandAnswer, StateIn};
use mendblock_metrics::{PeerMetrics, VolumeMetrics};
use mendblock_net::transport::TcpOptions;
use mendblock_storage::buffer::{BufferPool, PoolSizes};
use mendblock_storage::device::fault::FaultHandle;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Everything that a volume is made from.
#[derive(Clone)]
pub struct VolumeSetup {
    /// What its parts are configured with.
    pub configuration: Arc<VolumeConfiguration>,
    /// Its lower disk.
    pub disk: DiskConfiguration,
    /// Faults of the lower disk.
    pub faults: FaultHandle,
    /// Its handlers.
    pub handlers: Arc<HandlerConfiguration>,
    /// Where health files lie.
    pub state_dir: PathBuf,
    /// The peer's address.
    pub peer: SocketAddr,
    /// Socket options of the peer's connection.
    pub tcp: TcpOptions,
    /// Bytes of the buffer pool.
    pub pool_bytes: usize,
    /// Actors may be killed by order.
    pub allow_kill: bool,
}

/// Life of one kind of actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActorStatus {
    /// Which.
    pub part: PartName,
    /// Present generation (the youngest, for client sessions).
    pub generation: PartGeneration,
    /// Deaths by stopping.
    pub stopped: u64,
    /// Deaths by panic.
    pub panicked: u64,
    /// Deaths by hanging.
    pub hung: u64,
}

impl ActorStatus {
    /// All deaths.
    pub fn deaths(&self) -> u64 {
        self.stopped + self.panicked + self.hung
    }
}

/// Lives and deaths of the actors of a volume.
#[derive(Clone, Default)]
pub struct Actors(Arc<Mutex<BTreeMap<PartName, ActorStatus>>>);

impl Actors {
    fn with(&self, part: PartName, edit: impl FnOnce(&mut ActorStatus)) {
        let mut actors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = ActorStatus {
            part,
            generation: PartGeneration(0),
            stopped: 0,
            panicked: 0,
            hung: 0,
        };
        edit(actors.entry(part).or_insert(fresh));
    }

    pub(crate) fn lives(&self, part: PartName, generation: PartGeneration) {
        self.with(part, |status| status.generation = generation);
    }

    pub(crate) fn died(&self, part: PartName, end: End) {
        self.with(part, |status| match end {
            End::Stopped => status.stopped += 1,
            End::Panicked => status.panicked += 1,
            End::Hung => status.hung += 1,
        });
    }

    /// All, by name.
    pub fn list(&self) -> Vec<ActorStatus> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .copied()
            .collect()
    }
}

/// Metrics of a volume.
#[derive(Clone)]
pub struct Meters {
    /// Its own.
    pub volume: Arc<VolumeMetrics>,
    /// Those of its peer, if it has one.
    pub peer: Option<PeerMetrics>,
}

enum Order {
    Command(Command, oneshot::Sender<CommandAnswer>),
    Kill(PartName, Death, oneshot::Sender<bool>),
}

/// A volume, seen from any thread.
#[derive(Clone)]
pub struct VolumeHandle {
    /// What it is made from.
    pub setup: Arc<VolumeSetup>,
    orders: mpsc::UnboundedSender<Order>,
    /// Last snapshot; none before the first.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Bad blocks.
    pub bad_blocks: watch::Receiver<Arc<BadBlocks>>,
    /// Progress of a resync.
    pub progress: watch::Receiver<Option<Progress>>,
    /// Actors.
    pub actors: Actors,
    /// Whether clients are served.
    pub serving: Serving,
    /// Client sessions that exist.
    pub sessions: Arc<std::sync::atomic::AtomicU64>,
    /// Counts.
    pub counters: Arc<Counters>,
    /// Time as the snapshots' instants count it.
    pub clock: Clock,
}

impl VolumeHandle {
    /// Name of the volume.
    pub fn name(&self) -> &str {
        &self.setup.configuration.volume
    }

    /// Gives an order and waits for its answer.
    pub async fn command(&self, command: Command) -> CommandAnswer {
        let (sender, answer) = oneshot::channel();
        let sent = self.orders.send(Order::Command(command, sender)).is_ok();
        let gone = CommandAnswer {
            code: 0,
            text: "the volume is gone: the node is stopping".to_owned(),
            hint: None,
            exit_code: 20,
        };
        if sent { answer.await.unwrap_or(gone) } else { gone }
    }

    /// Kills an actor by order: false if that is not allowed, or if it does not live at the moment.
    pub async fn kill(&self, part: PartName, death: Death) -> bool {
        if !self.setup.allow_kill {
            return false;
        }
        let (sender, answer) = oneshot::channel();
        self.orders.send(Order::Kill(part, death, sender)).is_ok() && answer.await.unwrap_or(false)
    }

    /// Blocks of 4 KiB on the own bad-block list.
    pub fn own_bad_blocks(&self) -> u64 {
        self.bad_blocks
            .borrow()
            .own
            .iter()
            .map(|range| u64::from(range.count()))
            .sum()
    }

    /// The last snapshot.
    pub fn last(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }
}

/// A volume on its Arbiter.
pub struct Volume {
    /// Its handle.
    pub handle: VolumeHandle,
    /// Its actors.
    pub wired: Wired,
    /// Its buffers.
    pub pool: BufferPool,
    /// Requests of its clients, counted.
    pub arrivals: Rc<Cell<u64>>,
}

/// The volumes of one Arbiter, by name.
#[derive(Clone, Default)]
pub struct Volumes(Rc<RefCell<BTreeMap<String, Rc<Volume>>>>);

impl Volumes {
    /// By name.
    pub fn get(&self, name: &str) -> Option<Rc<Volume>> {
        self.0.borrow().get(name).cloned()
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Rc<Volume>> {
        self.0.borrow().values().cloned().collect()
    }

    /// Starts a volume on this Arbiter.
    pub fn start(
        &self,
        setup: VolumeSetup,
        clock: Clock,
        events: broadcast::Sender<Arc<Happened>>,
        meters: Meters,
    ) -> Result<VolumeHandle, StartError> {
        let volume = Rc::new(start(setup, clock, events, meters)?);
        let handle = volume.handle.clone();
        self.0.borrow_mut().insert(handle.name().to_owned(), volume);
        Ok(handle)
    }
}

/// Why a volume cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its health file.
    #[error(transparent)]
    Health(#[from] mendblock_storage::health::file::HealthFileError),
    /// Its buffers.
    #[error("the buffer pool of the volume: {0}")]
    Pool(#[from] mendblock_storage::buffer::PoolError),
}

fn start(
    setup: VolumeSetup,
    clock: Clock,
    events: broadcast::Sender<Arc<Happened>>,
    meters: Meters,
) -> Result<Volume, StartError> {
    let name = setup.configuration.volume.clone();
    let (health, _) = HealthFiles::open(&setup.state_dir, &name)?;
    let pool = BufferPool::new(PoolSizes::of_total(setup.pool_bytes))?;
    let (snapshot_sender, snapshot) = watch::channel(None);
    let (bad_sender, bad_blocks) = watch::channel(Arc::default());
    let (progress_sender, progress) = watch::channel(None);
    let actors = Actors::default();
    let handler_metrics = Arc::clone(&meters.volume);
    let counters = Arc::new(Counters::new(meters.volume, meters.peer, clock));
    let peer_counters = Arc::clone(&counters);
    let disk_counters = Arc::clone(&counters);
    let (disk, faults, disk_pool) = (setup.disk.clone(), setup.faults.clone(), pool.clone());
    let (address, tcp, peer_pool) = (setup.peer, setup.tcp.clone(), pool.clone());
    let handlers = Arc::clone(&setup.handlers);
    let ports = Ports {
        disk: Box::new(move |actor| {
            DiskPort::new(
                disk.clone(),
                faults.clone(),
                disk_pool.clone(),
                actor,
                Arc::clone(&disk_counters),
            )
        }),
        peer: Box::new(move |actor| {
            let counters = Arc::clone(&peer_counters);
            PeerPort::new(address, tcp.clone(), peer_pool.clone(), actor, counters)
        }),
        helper: Box::new(move |actor| {
            HelperPort::new(Arc::clone(&handlers), actor, Arc::clone(&handler_metrics))
        }),
        health,
        counters: Arc::clone(&counters),
        snapshot: snapshot_sender,
        bad_blocks: bad_sender,
        progress: progress_sender,
    };
    let observer = Arc::clone(&counters);
    let facts = FactSink::new(
        &name,
        events,
        Arc::new(move |happened: &Happened| observer.observe(happened)),
    );
    let wired = wiring::start(
        Arc::clone(&setup.configuration),
        ports,
        facts,
        clock,
        actors.clone(),
    );
    let (orders, taken) = mpsc::unbounded_channel();
    actix::spawn(take_orders(taken, wired.routes.clone(), wired.answers.clone()));
    let handle = VolumeHandle {
        setup: Arc::new(setup),
        orders,
        snapshot,
        bad_blocks,
        progress,
        actors,
        serving: Serving::default(),
        sessions: Arc::default(),
        counters,
        clock,
    };
    Ok(Volume {
        handle,
        wired,
        pool,
        arrivals: Rc::new(Cell::new(0)),
    })
}

async fn take_orders(
    mut orders: mpsc::UnboundedReceiver<Order>,
    routes: wiring::Routes,
    answers: crate::ports::snapshot::Answers,
) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Command(command, answer) => {
                let (id, answered) = answers.expect();
                wait_for_life(&routes).await;
                routes.state.deliver(vec![StateIn::Command { id, command }]);
                actix::spawn(async move {
                    if let Ok(text) = answered.await {
                        // The caller may have gone.
                        let _ = answer.send(text);
                    }
                });
            }
            Order::Kill(part, death, answer) => {
                let _ = answer.send(routes.kill(part, death));
            }
        }
    }
}

/// A command that comes between two generations of the state actor waits for the second.
async fn wait_for_life(routes: &wiring::Routes) {
    for _ in 0..1000 {
        if routes.state.living().is_some() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
