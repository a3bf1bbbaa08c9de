//! The health file: one write at a time, coalesced; who waits for it is told when the version with his change is durable.

use super::part::BitmapPart;
use super::{BitmapEffect, HeaderChange, HealthHeader};
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, Query};
use crate::part::{Outbox, To};
use crate::volume::machine::StateIn;
use crate::volume::state::DetachCause;
use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
use mendblock_storage::health::{DetachCause as FileCause, GenerationSlots, Health, LastDetach, LossMark};
use std::collections::BTreeMap;

/// Who waits for a version of the file.
#[derive(Clone, Debug)]
enum Waiter {
    Query(Query),
    /// The peer's lists are merged on this connection.
    Merged(ConnectionNumber),
}

/// The writer and what it writes.
#[derive(Default)]
pub(super) struct HealthWriter {
    /// The file of the disk that was attached last.
    pub content: Option<Health>,
    archives: BTreeMap<u64, Health>,
    /// Counts changes; a write carries the version that it began with.
    pub version: u64,
    durable: u64,
    writing: Option<(u64, u64)>,
    waiters: Vec<(u64, Waiter)>,
    /// A random number for the id of a new file.
    pub id_source: Option<u64>,
    failed: bool,
}

impl HealthWriter {
    /// The content changed; the version that holds the change.
    pub fn changed(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

impl BitmapPart {
    pub(super) fn health_read(&mut self, files: Vec<(u64, Vec<u8>)>) {
        let mut contents = files
            .into_iter()
            .filter_map(|(_, bytes)| Health::parse(&bytes).ok());
        self.health.content = contents.next();
        self.health.archives = contents.map(|health| (health.device_id, health)).collect();
        self.lists_changed();
    }

    pub(super) fn load_health(
        &mut self,
        query: Query,
        device_id: Option<u64>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        let last_device = self.health.content.as_ref().map(|health| health.device_id);
        let wanted = device_id.or(last_device);
        if let Some(device) = wanted
            && last_device != Some(device)
            && let Some(archived) = self.health.archives.remove(&device)
        {
            // The disk of an archive comes back: its list counts again.
            if let Some(present) = self.health.content.replace(archived) {
                self.health.archives.insert(present.device_id, present);
            }
        }
        let health = self
            .health
            .content
            .as_ref()
            .filter(|health| Some(health.device_id) == wanted);
        let header = health.map(|health| Box::new(header_of(health)));
        let bad_blocks = health.map_or(0, |health| health.records.own_blocks());
        out.send(To::State(StateIn::HealthLoaded {
            query,
            header,
            bad_blocks,
            last_device,
        }));
    }

    pub(super) fn set_header(&mut self, query: Query, change: HeaderChange, out: &mut Outbox<BitmapEffect>) {
        let (now, generation) = (self.now_wall, self.current_generation());
        if let Some((device_id, attach_id)) = change.attached {
            self.attached(device_id, attach_id);
        }
        let Some(health) = self.health.content.as_mut() else {
            // No disk was ever attached: there is nothing that could be outdated.
            return out.send(To::State(StateIn::HealthWritten {
                query,
                durable: false,
            }));
        };
        health.generation = generation;
        if let Some([current, bitmap, younger, older]) = change.slots {
            health.ids = GenerationSlots {
                current,
                bitmap,
                history: [younger, older],
            };
        }
        if let Some(outdated) = change.outdated_since {
            health.outdated_mark = outdated;
        }
        if let Some(open) = change.source_open {
            health.source_open_mark = open;
        }
        if let Some(loss) = change.loss_of {
            health.loss_mark = loss.map(|(peer_attach_id, current)| LossMark {
                peer_attach_id,
                current,
            });
        }
        if let Some(cause) = change.last_detach {
            health.last_detach = Some(LastDetach {
                cause: file_cause(cause),
                at: now,
            });
        }
        self.persist(query, out);
    }

    /// A disk was attached: its file becomes the volume's.
    fn attached(&mut self, device_id: u64, attach_id: u64) {
        let same = self
            .health
            .content
            .as_ref()
            .is_some_and(|health| health.device_id == device_id);
        if !same {
            if let Some(present) = self.health.content.take() {
                self.health.archives.insert(present.device_id, present);
            }
            let id = self.health.id_source.take().unwrap_or(device_id);
            let fresh = || Health::new(id, &self.configuration.volume, device_id);
            self.health.content = Some(self.health.archives.remove(&device_id).unwrap_or_else(fresh));
        }
        if let Some(health) = self.health.content.as_mut() {
            health.attach_id = attach_id;
        }
        self.lists_changed();
    }

    pub(super) fn persist(&mut self, query: Query, out: &mut Outbox<BitmapEffect>) {
        if self.health.content.is_none() {
            return out.send(To::State(StateIn::HealthWritten {
                query,
                durable: false,
            }));
        }
        let version = self.health.changed();
        self.health.waiters.push((version, Waiter::Query(query)));
    }

    /// The peer's lists are in the records: the handshake may go on when they are durable.
    pub(super) fn persist_merge(&mut self, connection: ConnectionNumber, out: &mut Outbox<BitmapEffect>) {
        if self.health.content.is_none() {
            return self.report_merge(connection, out);
        }
        let version = self.health.changed();
        self.health.waiters.push((version, Waiter::Merged(connection)));
    }

    pub(super) fn write_health(&mut self, out: &mut Outbox<BitmapEffect>) {
        if self.health.writing.is_some() || self.health.durable >= self.health.version {
            return;
        }
        let Some(health) = self.health.content.as_mut() else {
            return;
        };
        health.sequence += 1;
        let (sequence, device_id) = (health.sequence, health.device_id);
        let bytes = health.encode();
        self.health.writing = Some((sequence, self.health.version));
        out.effect(BitmapEffect::WriteHealth {
            device_id,
            slot: (sequence & 1) as u8,
            sequence,
            bytes,
        });
    }

    pub(super) fn health_written(
        &mut self,
        sequence: u64,
        result: Result<(), i32>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        let Some((_, version)) = self.health.writing.filter(|(writing, _)| *writing == sequence) else {
            return;
        };
        self.health.writing = None;
        // A failed write is not tried again by itself: the next change does. What waited learns that it is not durable.
        self.health.durable = version;
        if let (Err(errno), false) = (result, self.health.failed) {
            out.fact(Fact::Alert { what: format!("the health file cannot be written (errno {errno}): check the node's state-dir; bad blocks are known to the bitmap and the peer alone") });
        }
        self.health.failed = result.is_err();
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.health.waiters)
            .into_iter()
            .partition(|(of, _)| *of <= version);
        self.health.waiters = rest;
        for (_, waiter) in done {
            match waiter {
                Waiter::Query(query) => out.send(To::State(StateIn::HealthWritten {
                    query,
                    durable: result.is_ok(),
                })),
                Waiter::Merged(connection) => self.report_merge(connection, out),
            }
        }
        for waiting in self
            .pages
            .waiting
            .iter_mut()
            .filter(|waiting| waiting.record.is_some_and(|of| of <= version))
        {
            waiting.record = None;
            waiting.record_lost = result.is_err();
        }
    }
}

fn header_of(health: &Health) -> HealthHeader {
    let ids = health.ids;
    let listed = health.records.records().len();
    let anchor = Anchor {
        health_id: health.health_id,
        sequence: health.sequence,
        record_count: u32::try_from(listed).unwrap_or(u32::MAX),
    };
    HealthHeader {
        device_id: health.device_id,
        sequence: health.sequence,
        anchor: StoredAnchor::Present(anchor),
        attach_id: health.attach_id,
        slots: [ids.current, ids.bitmap, ids.history[0], ids.history[1]],
        outdated_since: health.outdated_since(),
        source_open: health.source_open().then_some(health.source_open_mark).flatten(),
        loss_of: health.loss_mark.map(|loss| (loss.peer_attach_id, loss.current)),
        last_detach: health.last_detach.map(|detach| format!("{:?}", detach.cause)),
    }
}

fn file_cause(cause: DetachCause) -> FileCause {
    match cause {
        DetachCause::Admin | DetachCause::NegotiationRefused | DetachCause::DriverFailed => FileCause::Admin,
        DetachCause::ReadError => FileCause::Read,
        DetachCause::WriteError => FileCause::Write,
        DetachCause::FlushError => FileCause::Flush,
        DetachCause::MetaData(_) => FileCause::Meta,
        DetachCause::DeviceGone => FileCause::DeviceGone,
        DetachCause::NoSpace => FileCause::NoSpace,
        DetachCause::ReadOnly => FileCause::ReadOnly,
        DetachCause::Alignment => FileCause::Alignment,
        DetachCause::Shrunk => FileCause::Shrunk,
        DetachCause::Timeout { .. } => FileCause::Timeout,
        DetachCause::TooManyBad => FileCause::TooManyBad,
        DetachCause::HealFailed => FileCause::HealFailed,
        DetachCause::HealBudgetHour => FileCause::HealBudgetHour,
        DetachCause::HealBudgetTotal => FileCause::HealBudgetTotal,
        DetachCause::HealDoesNotHold => FileCause::HealDoesNotHold,
        DetachCause::Attach => FileCause::Attach,
    }
}
