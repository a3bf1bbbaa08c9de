//! The neighbours of the part: they note what they are asked, and answer as the script says.

use super::super::super::{ErrorKind, StateEffect, StateIn, StatePart};
use super::*;
use crate::activity::ActivityIn;
use crate::bitmap::{BitmapIn, HeaderChange, HealthHeader};
use crate::disk::{DiskIn, MetaCompletion, MetaKind, OpenFailure, OpenedDevice, TableAnswer};
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::helper::HelperIn;
use crate::identity::{ConnectionNumber, MarkNumber};
use crate::part::{Context, Instant, Outbox, PartName, To};
use crate::peer::PeerIn;
use crate::snapshot::Snapshot;
use crate::volume::state::Role;
use mendblock_net::wire::message::Message;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::layout::{DeviceSizes, MetaIndex};
use mendblock_storage::format::superblock::{Superblock, UnverifiedSuperblock};
use std::sync::Arc;

impl World {
    pub(super) fn step(
        &mut self,
        act: impl FnOnce(&mut StatePart, &mut Context<'_>, &mut Outbox<StateEffect>),
    ) {
        let mut out = Outbox::default();
        let mut random = self.random;
        let mut fresh = || {
            random += 0x10;
            random
        };
        let mut cx = Context {
            now: Instant(self.now),
            wall: 1_700_000_000,
            random: &mut fresh,
        };
        act(&mut self.part, &mut cx, &mut out);
        self.random = random;
        for fact in out.facts {
            if let Fact::Alert { what } | Fact::Surprise { what } = fact {
                self.alerts.push(what);
            }
        }
        for message in out.messages {
            self.deliver(message);
        }
        for effect in out.effects {
            match effect {
                StateEffect::Publish(snapshot) => {
                    self.events.push(Event::Published(Arc::clone(&snapshot)));
                    self.watch_drain(&snapshot);
                }
                StateEffect::Answer { id, answer } => {
                    self.events.push(Event::Answered(id));
                    self.answers.push((id, answer));
                }
            }
        }
    }

    pub(super) fn watch_drain(&mut self, snapshot: &Snapshot) {
        let wanted = snapshot
            .drain
            .zip(snapshot.disk.as_ref())
            .map(|(drain, disk)| (disk.attach_id.0, drain == crate::snapshot::Drain::Abandon));
        match wanted {
            Some((life, abandon)) if self.drain_asked.is_none_or(|(of, _)| of != life) => {
                self.drain_asked = Some((life, abandon));
                self.ask(Question::Drain(snapshot.number));
            }
            Some(wanted) => self.drain_asked = Some(wanted),
            None => {}
        }
    }

    fn ask(&mut self, question: Question) {
        self.events.push(Event::Asked(question.kind()));
        self.questions.push(question);
    }

    fn deliver(&mut self, message: To) {
        match message {
            To::Disk(message) => self.disk_asked(message),
            To::Bitmap(message) => self.bitmap_asked(message),
            To::ActivityLog(ActivityIn::Load { query, .. }) => self.ask(Question::Log(query)),
            To::ActivityLog(ActivityIn::Reset { query, .. }) => self.ask(Question::Reset(query)),
            To::Volume(VolumeIn::Quiesce { query }) => self.ask(Question::Quiesce(query)),
            To::Volume(VolumeIn::Fence { query }) => self.ask(Question::Fence(query)),
            To::Helper(HelperIn::Run { query, handler, .. }) => {
                self.events.push(Event::Handler(handler));
                self.ask(Question::Helper(query));
            }
            To::Peer(PeerIn::Wish(wish)) => self.events.push(Event::Wish(wish)),
            To::Peer(PeerIn::Drop { .. }) => self.events.push(Event::Dropped),
            To::Peer(PeerIn::Send {
                connection, frames, ..
            }) => {
                for frame in frames {
                    self.peer_hears(connection, frame.message);
                }
            }
            _ => {}
        }
    }

    fn disk_asked(&mut self, message: DiskIn) {
        match message {
            DiskIn::Open { query } => self.ask(Question::Open(query)),
            DiskIn::Close => self.ask(Question::Close),
            DiskIn::Meta(operations) => {
                for operation in operations {
                    match operation.kind {
                        MetaKind::Read { .. } => {
                            self.ask(Question::SuperblockRead(operation.number, operation.generation));
                        }
                        MetaKind::Write {
                            buffer,
                            flush_before,
                            offset,
                        } => {
                            assert!(
                                flush_before,
                                "data that a superblock speaks of is stable before it"
                            );
                            assert_eq!(offset, layout().superblock_byte());
                            let block = parse(&buffer);
                            self.ask(Question::SuperblockWrite(
                                operation.number,
                                operation.generation,
                                Box::new(block),
                            ));
                        }
                        other => panic!("not an operation of the state part: {other:?}"),
                    }
                }
            }
            DiskIn::QueryTable {
                generation, query, ..
            } => {
                let meta = self
                    .questions
                    .iter()
                    .filter_map(|question| match question {
                        Question::SuperblockWrite(number, of, _) => Some((*of, *number)),
                        _ => None,
                    })
                    .collect();
                self.send(StateIn::Table(TableAnswer {
                    query,
                    asker: generation,
                    data: Vec::new(),
                    meta,
                }));
            }
            DiskIn::ErrorTaken { .. } => self.events.push(Event::ErrorTaken),
            _ => {}
        }
    }

    fn bitmap_asked(&mut self, message: BitmapIn) {
        match message {
            BitmapIn::LoadHealth { query, .. } => self.ask(Question::Health(query)),
            BitmapIn::Load { query, plan } => {
                self.plans.push(*plan);
                self.ask(Question::Load(query));
            }
            BitmapIn::WriteOut { query, .. } => self.ask(Question::WriteOut(query)),
            BitmapIn::SetHeader { query, change } => self.ask(Question::SetHeader(query, change)),
            BitmapIn::PersistHealth { query } => self.ask(Question::Persist(query)),
            BitmapIn::SetAll { query, .. } => self.ask(Question::SetAll(query)),
            BitmapIn::RecordTell {
                connection, number, ..
            } => self.ask(Question::Record(connection, number)),
            BitmapIn::Exchange { connection, .. } => self.ask(Question::Exchange(connection)),
            _ => {}
        }
    }

    fn peer_hears(&mut self, connection: ConnectionNumber, message: Message) {
        if connection.0 != self.connection {
            return;
        }
        match &message {
            Message::ChangeRequest { request, .. } => self.ask(Question::Consent(connection, *request)),
            Message::Tell { number, failed, .. } => {
                self.ask(Question::Told(connection, *number, *failed));
            }
            _ => {}
        }
        self.events.push(Event::Peer(message));
    }

    /// One question is answered, fails, or its answer is lost.
    pub fn settle_one(&mut self, question: Question, fate: Fate) {
        let error = match fate {
            Fate::Fail(error) => Some(error),
            _ => None,
        };
        let result = error.map_or(Ok(()), Err);
        let reply = match question {
            Question::Open(query) => StateIn::DiskOpened {
                query,
                result: self.opened(error),
            },
            Question::Close => StateIn::DiskClosed,
            Question::SuperblockRead(number, generation) => StateIn::Meta(MetaCompletion {
                holder: PartName::State,
                generation,
                number,
                result: match error {
                    Some(error) => Err(error),
                    None => Ok(Some(Buffer::from_vec(self.superblock.encode().to_vec()))),
                },
            }),
            Question::SuperblockWrite(number, generation, block) => {
                if error.is_none() {
                    self.superblock = *block;
                    self.events.push(Event::Superblock(block));
                }
                StateIn::Meta(MetaCompletion {
                    holder: PartName::State,
                    generation,
                    number,
                    result: result.map(|()| None),
                })
            }
            Question::Health(query) => StateIn::HealthLoaded {
                query,
                header: self.health.clone().map(Box::new),
                bad_blocks: self.bad_blocks,
                last_device: self.health.as_ref().map(|health| health.device_id),
            },
            Question::Load(query) => StateIn::BitmapLoaded {
                query,
                result: result.map(|()| self.set_bits),
            },
            Question::Log(query) => StateIn::LogLoaded {
                query,
                result: match error {
                    Some(error) => Err(format!("errno {error}")),
                    None => self.log_extents.clone(),
                },
            },
            Question::Reset(query) => StateIn::LogReset { query, result },
            Question::WriteOut(query) => {
                if error.is_none() {
                    self.events.push(Event::Pages);
                }
                StateIn::WrittenOut {
                    query,
                    result,
                    uncovered: self.uncovered,
                }
            }
            Question::SetHeader(query, change) => {
                if error.is_none() {
                    self.header(&change);
                    self.events.push(Event::Header(change));
                }
                StateIn::HealthWritten {
                    query,
                    durable: error.is_none(),
                }
            }
            Question::Persist(query) => StateIn::HealthWritten {
                query,
                durable: error.is_none(),
            },
            Question::SetAll(query) => StateIn::AllSet { query, result },
            Question::Record(connection, number) => StateIn::TellRecorded { number, connection },
            Question::Merge(connection) => StateIn::PeerRecordsMerged {
                connection,
                own_bad: self.peer.own_bad,
                peer_bad: self.peer.peer_bad,
            },
            Question::Exchange(connection) => StateIn::BitmapExchanged {
                connection,
                set_bits: self.set_bits,
            },
            Question::Fence(query) => StateIn::Fenced {
                query,
                mark: MarkNumber(8),
            },
            Question::Quiesce(query) => StateIn::Quiesced {
                query,
                mark: MarkNumber(7),
            },
            Question::Drain(snapshot) => StateIn::Drained {
                snapshot,
                mark: MarkNumber(9),
                complete: self.drain_asked.is_none_or(|(_, abandon)| !abandon),
            },
            Question::Helper(query) => StateIn::HelperEnded {
                query,
                exit_code: error,
                outcome: "ended".to_owned(),
            },
            Question::Consent(connection, request) => StateIn::Peer {
                connection,
                message: Message::ChangeAnswer {
                    request,
                    code: error.unwrap_or(1),
                    cause: "the peer says so".to_owned(),
                },
            },
            Question::Told(connection, number, failed) => {
                let new_generation = failed && self.told_generation && self.in_use();
                if new_generation {
                    self.peer.ids = [PEER_NEW, self.peer.ids[0], self.peer.ids[2], self.peer.ids[3]];
                    self.told_generation = false;
                }
                StateIn::Peer {
                    connection,
                    message: Message::Told {
                        number,
                        current: self.peer.ids[0],
                        new_generation: failed && self.peer.ids[0] == PEER_NEW,
                    },
                }
            }
        };
        let meta = matches!(
            reply,
            StateIn::WrittenOut { result: Err(_), .. }
                | StateIn::LogReset { result: Err(_), .. }
                | StateIn::BitmapLoaded { result: Err(_), .. }
        ) || matches!(&reply, StateIn::Meta(completion) if completion.result.is_err());
        if fate != Fate::Lose {
            self.send(reply);
        }
        if let (true, Some(error)) = (meta, error) {
            self.io_error(ErrorKind::Meta, 0, error);
        }
    }

    fn in_use(&self) -> bool {
        self.vector().role == Role::Primary || self.peer.role == Role::Primary
    }

    fn opened(&self, error: Option<i32>) -> Result<OpenedDevice, OpenFailure> {
        if let Some(failure) = self.open_failure.clone() {
            return Err(failure);
        }
        match error {
            Some(errno) => Err(OpenFailure::Failed {
                text: "cannot be opened".to_owned(),
                errno: Some(errno),
                in_use: false,
            }),
            None => Ok(OpenedDevice {
                data_bytes: self.disk_bytes,
                meta_bytes: None,
                logical_block: 512,
                backend: "test",
            }),
        }
    }

    fn header(&mut self, change: &HeaderChange) {
        let health = self.health.get_or_insert_with(HealthHeader::default);
        if let Some((device, attach)) = change.attached {
            health.device_id = device;
            health.attach_id = attach;
        }
        if let Some(slots) = change.slots {
            health.slots = slots;
        }
        if let Some(outdated) = change.outdated_since {
            health.outdated_since = outdated;
        }
        if let Some(open) = change.source_open {
            health.source_open = open;
        }
        if let Some(loss) = change.loss_of {
            health.loss_of = loss;
        }
    }
}

fn parse(bytes: &[u8]) -> Superblock {
    UnverifiedSuperblock::parse(bytes)
        .and_then(|block| block.verify(MetaIndex::Internal, DeviceSizes::internal(DISK_BYTES)))
        .expect("the part writes superblocks that can be read")
        .superblock
}
