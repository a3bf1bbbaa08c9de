//! How an actor is reached: by a [`Handle`], which knows its present generation and address; never by a bare address.

use crate::shell::{Deliver, Shell};
use actix::Addr;
use mendblock_core::identity::PartGeneration;
use mendblock_core::part::Part;
use tokio::sync::watch;

/// A generation of an actor and its address.
pub struct Living<P: Part + Unpin + 'static> {
    /// Its generation.
    pub generation: PartGeneration,
    /// Its address.
    pub address: Addr<Shell<P>>,
}

impl<P: Part + Unpin + 'static> Clone for Living<P> {
    fn clone(&self) -> Self {
        Self {
            generation: self.generation,
            address: self.address.clone(),
        }
    }
}

/// Where the supervisor says which generation lives.
pub type Slot<P> = watch::Sender<Option<Living<P>>>;

/// A neighbour's view of an actor. What is sent while no generation lives is lost: the rules of recovery repeat it when
/// the next one announces itself.
pub struct Handle<P: Part + Unpin + 'static>(watch::Receiver<Option<Living<P>>>);

impl<P: Part + Unpin + 'static> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Part + Unpin + 'static> Handle<P> {
    /// A slot and the handle on it.
    pub fn new() -> (Slot<P>, Self) {
        let (slot, receiver) = watch::channel(None);
        (slot, Self(receiver))
    }

    /// Delivers messages to the living generation.
    pub fn deliver(&self, messages: Vec<P::In>) {
        if let Some(living) = self.0.borrow().as_ref() {
            living.address.do_send(Deliver(messages));
        }
    }

    /// The living generation.
    pub fn living(&self) -> Option<Living<P>> {
        self.0.borrow().clone()
    }
}
