//! The small neighbours of a state part: disk, bitmap, activity log, handlers, and the peer part's end of the connection. They
//! answer at once, as the real ones do in the end; a superblock's write alone ends by an action.

use crate::node::{ALL, DISK_BYTES, Store};
use crate::planted::Planted;
use crate::world::{Queue, Wire, World};
use mendblock_core::activity::ActivityIn;
use mendblock_core::bitmap::{BitmapIn, HeaderChange, HealthHeader, LoadPlan};
use mendblock_core::disk::{DiskIn, MetaCompletion, MetaKind, MetaOperation, OpenedDevice, TableAnswer};
use mendblock_core::engine::VolumeIn;
use mendblock_core::helper::HelperIn;
use mendblock_core::identity::{ConnectionNumber, ErrorNumber, MarkNumber, PartGeneration};
use mendblock_core::part::{PartName, To};
use mendblock_core::peer::{LinkWish, PeerIn};
use mendblock_core::volume::machine::{ErrorKind, StateIn};
use mendblock_core::volume::state::DownReason;
use mendblock_net::wire::message::{Message, PeerState, RequestedChange, WireRecord};
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::layout::{DeviceSizes, MetaIndex};
use mendblock_storage::format::superblock::{Superblock, UnverifiedSuperblock};

const GENERATION: PartGeneration = PartGeneration(1);
const EIO: i32 = 5;
const NO_MARK: MarkNumber = MarkNumber(0);

fn count(blocks: u8) -> u64 {
    u64::from(blocks.count_ones())
}

fn blocks_of(records: &[WireRecord]) -> u8 {
    records
        .iter()
        .flat_map(|record| record.range.iter())
        .fold(0, |blocks, block| blocks | 1 << block)
}

impl World {
    /// A message of the state part to a neighbour.
    pub(crate) fn carry(&mut self, node: usize, message: To, queue: &mut Queue) {
        match message {
            To::Disk(message) => self.disk(node, message, queue),
            To::Bitmap(message) => self.bitmap(node, message, queue),
            To::ActivityLog(message) => self.activity_log(node, message, queue),
            To::Volume(VolumeIn::Snapshot(snapshot)) => self.volume_sees(node, snapshot, queue),
            To::Volume(VolumeIn::Quiesce { query }) => {
                self.nodes[node].volume.quiesce.push(query);
                self.volume_goes_on(node, queue);
            }
            To::Volume(VolumeIn::Fence { query }) => {
                queue.push_back(StateIn::Fenced { query, mark: NO_MARK });
            }
            To::Helper(HelperIn::Run { query, .. }) => queue.push_back(StateIn::HelperEnded {
                query,
                exit_code: None,
                outcome: "not configured".to_owned(),
            }),
            To::Peer(message) => self.peer(node, message, queue),
            _ => {}
        }
    }

    // Disk.

    fn disk(&mut self, node: usize, message: DiskIn, queue: &mut Queue) {
        match message {
            DiskIn::Open { query } => queue.push_back(StateIn::DiskOpened {
                query,
                result: Ok(OpenedDevice {
                    data_bytes: DISK_BYTES,
                    meta_bytes: None,
                    logical_block: 512,
                    backend: "model",
                }),
            }),
            DiskIn::Close => {
                self.nodes[node].closing = true;
                self.close_if_idle(node, queue);
            }
            DiskIn::Meta(operations) => {
                for operation in operations {
                    self.superblock(node, operation, queue);
                }
            }
            DiskIn::QueryTable { query, .. } => {
                let stores = self.nodes[node].stores.iter();
                queue.push_back(StateIn::Table(TableAnswer {
                    query,
                    asker: GENERATION,
                    data: Vec::new(),
                    meta: stores.map(|store| (GENERATION, store.number)).collect(),
                }));
            }
            _ => {}
        }
    }

    fn close_if_idle(&mut self, node: usize, queue: &mut Queue) {
        let it = &mut self.nodes[node];
        if it.closing && it.stores.is_empty() {
            it.closing = false;
            queue.push_back(StateIn::DiskClosed);
        }
    }

    fn superblock(&mut self, node: usize, operation: MetaOperation, queue: &mut Queue) {
        let it = &mut self.nodes[node];
        match operation.kind {
            MetaKind::Read { .. } => {
                let bytes = Buffer::from_vec(it.platters.superblock.encode().to_vec());
                queue.push_back(completed(operation.number, Ok(Some(bytes))));
            }
            MetaKind::Write { buffer, .. } => match parse(&buffer) {
                Some(superblock) => {
                    let last = it
                        .stores
                        .back()
                        .map_or(it.platters.superblock, |store| *store.superblock);
                    let superblock = Box::new(match self.planted {
                        Planted::OldGeneration => Superblock {
                            generations: last.generations,
                            ..superblock
                        },
                        _ => superblock,
                    });
                    it.stores.push_back(Store {
                        number: operation.number,
                        superblock,
                    });
                }
                None => self
                    .broken
                    .push(format!("node {node} writes a superblock that nobody can read")),
            },
            other => self
                .broken
                .push(format!("not an operation of the state part: {other:?}")),
        }
    }

    /// The oldest superblock write ends; a failed one is an error of the disk too.
    pub fn store_ends(&mut self, node: usize, ok: bool) {
        let Some(store) = self.nodes[node].stores.pop_front() else {
            return;
        };
        if ok {
            self.nodes[node].platters.superblock = *store.superblock;
        }
        let result = if ok { Ok(None) } else { Err(EIO) };
        self.feed(node, completed(store.number, result));
        if !ok {
            self.io_error(node, ErrorKind::Meta, None);
        }
        let mut queue = Queue::new();
        self.close_if_idle(node, &mut queue);
        for message in queue {
            self.feed(node, message);
        }
    }

    fn io_error(&mut self, node: usize, kind: ErrorKind, block: Option<usize>) {
        self.nodes[node].errors += 1;
        let number = ErrorNumber(self.nodes[node].errors);
        let range = block.and_then(|block| {
            mendblock_storage::units::BlockRange::single(block as u64).sectors(u64::MAX >> 1)
        });
        self.feed(
            node,
            StateIn::IoError {
                number,
                kind,
                range,
                errno: EIO,
            },
        );
    }

    /// A block of the lower disk cannot be read.
    pub fn read_error(&mut self, node: usize, block: usize) {
        self.excuse(node, 1 << block);
        let it = &mut self.nodes[node];
        it.platters.bad |= 1 << block;
        it.mark(block);
        self.io_error(node, ErrorKind::Read, Some(block));
    }

    // Bitmap and log.

    fn activity_log(&mut self, node: usize, message: ActivityIn, queue: &mut Queue) {
        let log = &mut self.nodes[node].platters.log;
        match message {
            ActivityIn::Load { query, .. } => {
                let hot = (0..u32::from(u8::BITS as u8)).filter(|block| *log & 1 << block != 0);
                queue.push_back(StateIn::LogLoaded {
                    query,
                    result: Ok(hot.collect()),
                });
            }
            ActivityIn::Reset { query, .. } => {
                *log = 0;
                queue.push_back(StateIn::LogReset {
                    query,
                    result: Ok(()),
                });
            }
            _ => {}
        }
    }

    fn bitmap(&mut self, node: usize, message: BitmapIn, queue: &mut Queue) {
        match message {
            BitmapIn::LoadHealth { query, .. } => {
                let platters = &self.nodes[node].platters;
                let header = platters.health.clone();
                queue.push_back(StateIn::HealthLoaded {
                    query,
                    last_device: header
                        .as_ref()
                        .map(|header| header.device_id)
                        .filter(|id| *id != 0),
                    header: header.map(Box::new),
                    bad_blocks: count(platters.bad),
                });
            }
            BitmapIn::SetHeader { query, change } => {
                let health = self.nodes[node].platters.health.get_or_insert_default();
                change_header(health, &change);
                queue.push_back(StateIn::HealthWritten { query, durable: true });
            }
            BitmapIn::PersistHealth { query } => {
                queue.push_back(StateIn::HealthWritten { query, durable: true });
            }
            BitmapIn::Unload => self.nodes[node].bits = None,
            BitmapIn::Load { query, plan } => self.load(node, query, &plan, queue),
            BitmapIn::WriteOut { query, .. } => self.write_out(node, query, queue),
            BitmapIn::SetAll { query, .. } => {
                self.nodes[node].mark_durably(ALL);
                queue.push_back(StateIn::AllSet {
                    query,
                    result: Ok(()),
                });
            }
            BitmapIn::RecordTell {
                connection,
                number,
                records,
            } => {
                let blocks = blocks_of(&records);
                self.nodes[node].platters.suspect |= blocks;
                self.nodes[node].mark_durably(blocks);
                queue.push_back(StateIn::TellRecorded { number, connection });
            }
            BitmapIn::SendRecords { .. } => {
                let bad = self.nodes[node].platters.bad;
                self.nodes[node].lists.sent.push_back(bad);
                self.send(node, Wire::Lists(bad));
                self.round(node, queue);
            }
            BitmapIn::Exchange {
                connection, source, ..
            } => {
                self.nodes[node].exchange.ordered = Some((connection, source));
                if source {
                    self.send(node, Wire::Bits(self.nodes[node].bits.unwrap_or(0)));
                }
                self.exchange(node, queue);
            }
            _ => {}
        }
    }

    /// A list was sent and the peer's is merged: both nodes count by these two.
    fn round(&mut self, node: usize, queue: &mut Queue) {
        let connection = ConnectionNumber(self.connection);
        let lists = &mut self.nodes[node].lists;
        if lists.sent.is_empty() || lists.received.is_empty() {
            return;
        }
        if let (Some(own), Some(peer)) = (lists.sent.pop_front(), lists.received.pop_front()) {
            queue.push_back(StateIn::PeerRecordsMerged {
                connection,
                own_bad: count(own),
                peer_bad: count(peer),
            });
        }
    }

    fn load(
        &mut self,
        node: usize,
        query: mendblock_core::identity::Query,
        plan: &LoadPlan,
        queue: &mut Queue,
    ) {
        let platters = &mut self.nodes[node].platters;
        let hot = plan.extents.iter().fold(0, |blocks, block| blocks | 1 << block);
        let kept = if plan.set_all { ALL } else { platters.bits };
        platters.bits = kept | hot | platters.bad | platters.suspect;
        let bits = platters.bits;
        self.nodes[node].bits = Some(bits);
        queue.push_back(StateIn::BitmapLoaded {
            query,
            result: Ok(count(bits)),
        });
    }

    fn write_out(&mut self, node: usize, query: mendblock_core::identity::Query, queue: &mut Queue) {
        let it = &mut self.nodes[node];
        let bits = it.bits.unwrap_or(it.platters.bits);
        let uncovered = bits & !it.platters.bits & !it.platters.log != 0;
        it.platters.bits = bits;
        queue.push_back(StateIn::WrittenOut {
            query,
            result: Ok(()),
            uncovered,
        });
    }

    /// The target lays the source's map over its own and sends the union back.
    fn exchange(&mut self, node: usize, queue: &mut Queue) {
        let it = &mut self.nodes[node];
        let (Some((connection, source)), Some(received)) = (it.exchange.ordered, it.exchange.received) else {
            return;
        };
        it.exchange = Default::default();
        if let Some(bits) = it.bits.as_mut() {
            *bits |= received;
        }
        let bits = it.bits.unwrap_or(0);
        if !source {
            self.send(node, Wire::Bits(bits));
        }
        queue.push_back(StateIn::BitmapExchanged {
            connection,
            set_bits: count(bits),
        });
    }

    // Connection.

    fn peer(&mut self, node: usize, message: PeerIn, queue: &mut Queue) {
        match message {
            PeerIn::Wish(wish) => {
                self.nodes[node].wish = wish;
                if wish == LinkWish::Down {
                    self.hang_up(node, DownReason::TearDown, queue);
                }
            }
            PeerIn::Drop { connection, .. } if connection.0 == self.connection && self.ends[node] => {
                self.hang_up(node, DownReason::NetworkFailure, queue);
            }
            PeerIn::Drop { connection, text } => {
                queue.push_back(StateIn::Link(mendblock_core::volume::machine::LinkFact::Down {
                    connection,
                    reason: DownReason::NetworkFailure,
                    text,
                }));
            }
            PeerIn::Send {
                connection, frames, ..
            } if connection.0 == self.connection => {
                for frame in frames {
                    self.send(node, Wire::State(self.said(frame.message)));
                }
            }
            _ => {}
        }
    }

    /// Without what only people read, and with the planted fault.
    fn said(&self, message: Message) -> Message {
        match message {
            Message::State(state) => Message::State(PeerState { number: 0, ..state }),
            Message::Parting { reason, .. } => Message::Parting {
                reason,
                text: String::new(),
            },
            Message::DiskRefused { reason, .. } => Message::DiskRefused {
                reason,
                text: String::new(),
            },
            Message::ChangeAnswer { request, code, .. } => Message::ChangeAnswer {
                request,
                code: if self.planted == Planted::IgnoreThePeer {
                    1
                } else {
                    code
                },
                cause: String::new(),
            },
            Message::Generations(mut info) => {
                if self.planted == Planted::StaleGenerations && info.bitmap != 0 {
                    (info.current, info.bitmap) = (info.bitmap, 0);
                }
                Message::Generations(info)
            }
            other => other,
        }
    }

    /// Something arrives over the connection.
    pub(crate) fn arrived(&mut self, node: usize, what: Wire, queue: &mut Queue) {
        let connection = ConnectionNumber(self.connection);
        match what {
            Wire::Closed => self.end_here(node, DownReason::BrokenPipe, queue),
            Wire::State(message) => {
                if matches!(message, Message::Tell { failed: true, .. }) {
                    self.nodes[node].volume.sender_diskless = true;
                }
                self.agreed(node, &message);
                queue.push_back(StateIn::Peer { connection, message });
            }
            Wire::Lists(bad) => {
                let it = &mut self.nodes[node];
                it.platters.suspect = bad;
                let listed = it.platters.bad | bad;
                it.mark_durably(listed);
                it.lists.received.push_back(bad);
                self.round(node, queue);
            }
            Wire::Bits(bits) => {
                self.nodes[node].exchange.received = Some(bits);
                self.exchange(node, queue);
            }
            Wire::Cleared(blocks) => {
                let it = &mut self.nodes[node];
                it.platters.suspect &= !blocks;
                it.bits = it.bits.map(|bits| bits & !blocks);
            }
            Wire::Data(block, version) => self.data_arrived(node, block, version, queue),
            Wire::Ack(version) => self.write_answered(node, version, true, queue),
            Wire::Nack(version) => self.write_answered(node, version, false, queue),
        }
    }

    /// An agreed full resync to the peer voids what the peer has: its administrator said so.
    fn agreed(&mut self, node: usize, message: &Message) {
        let Message::ChangeRequest { change, .. } = message else {
            return;
        };
        if *change == RequestedChange::FullSyncToYou {
            self.excuse(node, ALL);
        }
    }
}

fn completed(number: u64, result: Result<Option<Buffer>, i32>) -> StateIn {
    StateIn::Meta(MetaCompletion {
        holder: PartName::State,
        generation: GENERATION,
        number,
        result,
    })
}

fn parse(bytes: &[u8]) -> Option<Superblock> {
    let superblock = UnverifiedSuperblock::parse(bytes).ok()?;
    let sizes = DeviceSizes::internal(DISK_BYTES);
    Some(superblock.verify(MetaIndex::Internal, sizes).ok()?.superblock)
}

fn change_header(health: &mut HealthHeader, change: &HeaderChange) {
    if let Some((device, attach)) = change.attached {
        (health.device_id, health.attach_id) = (device, attach);
    }
    health.slots = change.slots.unwrap_or(health.slots);
    health.outdated_since = change.outdated_since.unwrap_or(health.outdated_since);
    health.source_open = change.source_open.unwrap_or(health.source_open);
    health.loss_of = change.loss_of.unwrap_or(health.loss_of);
}
