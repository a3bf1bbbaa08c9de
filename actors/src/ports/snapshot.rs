//! The sender of the last state snapshot: a new `StateActor` goes on from it, and everybody else may look at it.

use crate::shell::Port;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::machine::{CommandAnswer, StateEffect};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// Commands that wait for their answer.
#[derive(Clone, Default)]
pub struct Answers {
    waiting: Rc<RefCell<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    answers: BTreeMap<u64, oneshot::Sender<CommandAnswer>>,
}

impl Answers {
    /// A number for a command, and where its answer will arrive.
    pub fn expect(&self) -> (u64, oneshot::Receiver<CommandAnswer>) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.last += 1;
        let id = waiting.last;
        let (sender, receiver) = oneshot::channel();
        waiting.answers.insert(id, sender);
        (id, receiver)
    }

    fn answer(&self, id: u64, answer: CommandAnswer) {
        if let Some(sender) = self.waiting.borrow_mut().answers.remove(&id) {
            // A caller that has gone wants no answer.
            let _ = sender.send(answer);
        }
    }

    /// The state actor died: it knows of no command any more.
    pub fn fail_all(&self, text: &str) {
        let waiting = std::mem::take(&mut self.waiting.borrow_mut().answers);
        for (_, sender) in waiting {
            let _ = sender.send(CommandAnswer {
                code: 0,
                text: text.to_owned(),
                hint: Some("look at `status`, then repeat the command".to_owned()),
                exit_code: 11,
            });
        }
    }
}

/// The port of the state part.
pub struct SnapshotPort {
    last: watch::Sender<Option<Arc<Snapshot>>>,
    answers: Answers,
}

impl SnapshotPort {
    /// On this channel and these commands.
    pub fn new(last: watch::Sender<Option<Arc<Snapshot>>>, answers: Answers) -> Self {
        Self { last, answers }
    }
}

impl Port<StateEffect> for SnapshotPort {
    fn carry_out(&mut self, effects: &mut Vec<StateEffect>) {
        for effect in effects.drain(..) {
            match effect {
                StateEffect::Publish(snapshot) => {
                    self.last.send_replace(Some(snapshot));
                }
                StateEffect::Answer { id, answer } => self.answers.answer(id, answer),
            }
        }
    }
}
