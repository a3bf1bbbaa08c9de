//! What carries out the effects of parts.

mod client;
mod disk;
mod peer;

use crate::node::HealthWrite;
use crate::world::{Event, MICROSECOND, MILLISECOND, World, part, port_of};
use mendblock_core::activity::ActivityEffect;
use mendblock_core::bitmap::{BitmapEffect, BitmapIn};
use mendblock_core::engine::VolumeEffect;
use mendblock_core::helper::{HelperEffect, HelperIn};
use mendblock_core::identity::Query;
use mendblock_core::part::{PartName, To};
use mendblock_core::resync::ResyncEffect;
use mendblock_core::volume::machine::StateEffect;
use std::sync::Arc;

impl World {
    /// A message from a part's own port.
    pub(crate) fn port_says(&mut self, node: usize, name: PartName, message: To) {
        self.send(node, port_of(part(name)), message);
    }

    pub(crate) fn state(&mut self, node: usize, effect: StateEffect) {
        match effect {
            StateEffect::Publish(snapshot) => {
                let old = self.nodes[node].snapshot.replace(snapshot);
                crate::invariants::on_snapshot(self, node, old.as_deref());
            }
            StateEffect::Answer { id, answer } => {
                self.note(node, || format!("ANSWER {id}: {answer:?}"));
                let before = self.nodes[node].answers.insert(id, answer);
                assert!(before.is_none(), "command {id} was answered twice");
            }
        }
    }

    pub(crate) fn bitmap(&mut self, node: usize, effect: BitmapEffect) {
        match effect {
            BitmapEffect::WriteHealth {
                device_id,
                slot,
                sequence,
                bytes,
            } => {
                let write = HealthWrite {
                    device_id,
                    slot,
                    sequence,
                    bytes: Arc::new(bytes),
                };
                let number = self.number();
                self.nodes[node].health_writes.insert(number, write.clone());
                let delay = self.delay(200 * MICROSECOND);
                self.schedule(node, delay, Event::HealthDone(number, write));
            }
            BitmapEffect::Publish(bad) => self.nodes[node].bad_blocks = bad,
            BitmapEffect::SetBits(_) => {}
        }
    }

    pub(crate) fn health_done(&mut self, node: usize, number: u64, write: &HealthWrite) {
        self.nodes[node].health_writes.remove(&number);
        let result = self.nodes[node]
            .health
            .write(write.device_id, write.slot, &write.bytes);
        let sequence = write.sequence;
        self.port_says(
            node,
            PartName::Bitmap,
            To::Bitmap(BitmapIn::HealthWritten { sequence, result }),
        );
    }

    pub(crate) fn helper(&mut self, node: usize, effect: HelperEffect) {
        match effect {
            HelperEffect::Start { query, handler } => {
                assert!(
                    self.nodes[node].started.insert(query),
                    "handler {query} was started twice"
                );
                let (exit_code, duration) = match self.nodes[node].handlers.get(&handler) {
                    Some(&configured) => {
                        self.nodes[node].ran.push(handler);
                        configured
                    }
                    None => (0, 0),
                };
                self.schedule(
                    node,
                    duration * MILLISECOND + 1,
                    Event::HelperDone(query, exit_code),
                );
            }
            HelperEffect::Stop { query } => self.note(node, || format!("handler {query} is stopped")),
        }
    }

    pub(crate) fn helper_done(&mut self, node: usize, query: Query, exit_code: i32) {
        let ended = HelperIn::Ended {
            query,
            exit_code: Some(exit_code),
            outcome: format!("exit code {exit_code}"),
        };
        self.port_says(node, PartName::Helper, To::Helper(ended));
    }

    pub(crate) fn resync(&mut self, node: usize, effect: ResyncEffect) {
        let ResyncEffect::Progress(progress) = effect;
        self.note(node, || format!("progress {progress:?}"));
    }

    pub(crate) fn activity(&mut self, _: usize, effect: ActivityEffect) {
        match effect {}
    }

    pub(crate) fn volume(&mut self, _: usize, effect: VolumeEffect) {
        match effect {}
    }
}
