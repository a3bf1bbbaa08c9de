//! Configuration, snapshots, and a part that is driven by hand.

use mendblock_core::configuration::{OnIoError, OnNoData, ResyncRate, VolumeConfiguration};
use mendblock_core::identity::{AttachId, ErrorNumber, SnapshotNumber, TellNumber};
use mendblock_core::part::{Context, Instant, Outbox, Part};
use mendblock_core::snapshot::{Admission, DiskFacts, Reasons, Snapshot};
use mendblock_core::volume::generations::identifiers::{Generation, Identifiers};
use mendblock_core::volume::state::{DiskState, StateVector};
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::Superblock;
use std::sync::Arc;

pub fn configuration(meta_index: MetaIndex, al_extents: u32) -> Arc<VolumeConfiguration> {
    Arc::new(VolumeConfiguration {
        volume: "v".to_owned(),
        node_id: 0,
        node_name: "a".to_owned(),
        peer_id: 1,
        peer_name: "b".to_owned(),
        process_id: 1,
        meta_index,
        on_io_error: OnIoError::Detach,
        on_no_data: OnNoData::IoError,
        al_extents,
        max_epoch_size: 2048,
        peer_window: 8 << 20,
        detach_step_timeout: 10_000,
        helper_timeout: 1000,
        reconnect_grace: 1000,
        disk_timeout: 500,
        peer_timeout: 0,
        ping_interval: 1000,
        ping_timeout: 500,
        connect_interval: 1000,
        resync: ResyncRate {
            resync_rate: 250,
            plan_ahead: 20,
            delay_target: 1,
            fill_target: 100,
            max_rate: 102_400,
            min_rate: 250,
        },
    })
}

pub fn layout() -> MetadataLayout {
    let sizes = DeviceSizes::internal(1 << 30);
    MetadataLayout::compute(MetaIndex::Internal, sizes, LogGeometry::default()).unwrap()
}

/// A snapshot with this disk state; the disk is there unless Diskless.
pub fn snapshot(number: u64, disk: DiskState) -> Arc<Snapshot> {
    let facts = DiskFacts {
        attach_id: AttachId(7),
        data_sectors: layout().usable_sectors(),
        logical_block: 512,
        device_id: 1,
        backend: "memory",
        layout: layout(),
        superblock: Superblock::create(&layout()),
    };
    Arc::new(Snapshot {
        number: SnapshotNumber(number),
        vector: StateVector {
            disk,
            ..StateVector::START
        },
        disk: (disk != DiskState::Diskless).then_some(facts),
        volume_sectors: 0,
        connection: None,
        writes: Admission::Open,
        reads: Admission::Open,
        alone_settled: true,
        own_loss_settled: true,
        errors_seen: ErrorNumber(0),
        errors_settled: ErrorNumber(0),
        peer_loss_settled: true,
        tell: TellNumber(0),
        drain: None,
        mirror: false,
        link_lost_at: None,
        identifiers: Identifiers::default(),
        exposed: Generation::NONE,
        source_open: None,
        crashed_primary: false,
        reasons: Reasons::default(),
        waits: Vec::new(),
    })
}

/// A part and its clock.
pub struct Driven<P: Part> {
    pub part: P,
    pub now: Instant,
}

impl<P: Part> Driven<P> {
    pub fn new(part: P) -> Self {
        Self {
            part,
            now: Instant::default(),
        }
    }

    fn step(
        &mut self,
        run: impl FnOnce(&mut P, &mut Context<'_>, &mut Outbox<P::Effect>),
    ) -> Outbox<P::Effect> {
        let mut out = Outbox::default();
        let mut random = || 1;
        let mut cx = Context {
            now: self.now,
            wall: 0,
            random: &mut random,
        };
        run(&mut self.part, &mut cx, &mut out);
        out
    }

    pub fn start(&mut self) -> Outbox<P::Effect> {
        self.step(|part, cx, out| part.start(cx, out))
    }

    pub fn on(&mut self, message: P::In) -> Outbox<P::Effect> {
        self.step(|part, cx, out| part.on(cx, message, out))
    }

    pub fn wake(&mut self) -> Outbox<P::Effect> {
        self.step(|part, cx, out| part.wake(cx, out))
    }
}
