//! The generic shell: makes any part of `mendblock-core` an actix actor. It decides nothing.

use crate::clock::{self, Clock};
use crate::facts::FactSink;
use crate::wiring::Routes;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, SpawnHandle};
use mendblock_core::part::{Context as PartContext, Instant, Outbox, Part};

/// The port of a part: what carries out its effects. It outlives the actor.
pub trait Port<E> {
    /// Carries out effects, in order; the vector comes back empty.
    fn carry_out(&mut self, effects: &mut Vec<E>);

    /// The actor's work is done: it ends.
    fn is_over(&self) -> bool {
        false
    }
}

/// A part without a port of its own.
pub struct NoPort;

impl<E> Port<E> for NoPort {
    fn carry_out(&mut self, effects: &mut Vec<E>) {
        effects.clear();
    }
}

/// Messages for the part, in order: the only message between actors.
pub struct Deliver<M>(pub Vec<M>);

impl<M: Send + 'static> Message for Deliver<M> {
    type Result = ();
}

/// The part wanted to be woken, or has more of a long work to do.
struct Wake;

impl Message for Wake {
    type Result = ();
}

/// Are you alive? Answered by handling it.
pub struct Heartbeat;

impl Message for Heartbeat {
    type Result = ();
}

/// How to die, for rehearsals (`--allow-kill`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// By a panic in the middle of a handler.
    Panic,
    /// By stopping.
    Stop,
    /// Alive, but deaf: nothing is handled any more.
    Hang,
}

/// Dies.
pub struct Kill(pub Death);

impl Message for Kill {
    type Result = ();
}

/// A part as an actor.
pub struct Shell<P: Part + 'static> {
    part: P,
    port: Box<dyn Port<P::Effect>>,
    routes: Routes,
    facts: FactSink,
    clock: Clock,
    initial: Vec<P::In>,
    out: Outbox<P::Effect>,
    timer: Option<(Instant, SpawnHandle)>,
    hung: bool,
}

/// A shell holds its part, port and messages by value: moving it moves nothing that anyone points into.
impl<P: Part + 'static> Unpin for Shell<P> {}

impl<P: Part + Unpin + 'static> Shell<P> {
    /// A shell around a part; `initial` is handled before anything that is delivered.
    pub fn new(
        part: P,
        port: Box<dyn Port<P::Effect>>,
        routes: Routes,
        facts: FactSink,
        clock: Clock,
        initial: Vec<P::In>,
    ) -> Self {
        Self {
            part,
            port,
            routes,
            facts,
            clock,
            initial,
            out: Outbox::default(),
            timer: None,
            hung: false,
        }
    }

    fn step(&mut self, run: impl FnOnce(&mut P, &mut PartContext<'_>, &mut Outbox<P::Effect>)) {
        let mut random = clock::random;
        let mut cx = PartContext {
            now: self.clock.now(),
            wall: clock::wall(),
            random: &mut random,
        };
        run(&mut self.part, &mut cx, &mut self.out);
    }

    /// Sends what the part put into its outbox: facts first (they happened), then messages, then effects.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        for fact in self.out.facts.drain(..) {
            self.facts.put(P::NAME, fact);
        }
        if !self.out.messages.is_empty() {
            self.routes.deliver(&mut self.out.messages);
        }
        if !self.out.effects.is_empty() {
            self.port.carry_out(&mut self.out.effects);
            if self.port.is_over() {
                ctx.stop();
            }
        }
        if std::mem::take(&mut self.out.again) {
            let me = ctx.address();
            // Through a task that yields first: a message to oneself would keep timers and sockets of the Arbiter waiting
            // until the long work is done.
            actix::spawn(async move {
                tokio::task::yield_now().await;
                me.do_send(Wake);
            });
        }
        self.set_timer(ctx);
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let wanted = self.part.wake_at();
        if wanted == self.timer.as_ref().map(|(at, _)| *at) {
            return;
        }
        if let Some((_, running)) = self.timer.take() {
            ctx.cancel_future(running);
        }
        if let Some(at) = wanted {
            let handle = ctx.run_later(self.clock.until(at), |shell, ctx| {
                shell.timer = None;
                shell.wake(ctx);
            });
            self.timer = Some((at, handle));
        }
    }

    fn wake(&mut self, ctx: &mut Context<Self>) {
        if self.hung {
            return;
        }
        self.step(|part, cx, out| part.wake(cx, out));
        self.flush(ctx);
    }
}

impl<P: Part + Unpin + 'static> Actor for Shell<P> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.step(|part, cx, out| part.start(cx, out));
        for message in std::mem::take(&mut self.initial) {
            self.step(|part, cx, out| part.on(cx, message, out));
        }
        self.flush(ctx);
    }
}

impl<P: Part + Unpin + 'static> Handler<Deliver<P::In>> for Shell<P> {
    type Result = ();

    fn handle(&mut self, Deliver(messages): Deliver<P::In>, ctx: &mut Self::Context) {
        if self.hung {
            return;
        }
        for message in messages {
            self.step(|part, cx, out| part.on(cx, message, out));
        }
        self.flush(ctx);
    }
}

impl<P: Part + Unpin + 'static> Handler<Wake> for Shell<P> {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.wake(ctx);
    }
}

impl<P: Part + Unpin + 'static> Handler<Heartbeat> for Shell<P> {
    type Result = actix::ResponseFuture<()>;

    fn handle(&mut self, _: Heartbeat, _: &mut Self::Context) -> Self::Result {
        if self.hung {
            Box::pin(std::future::pending())
        } else {
            Box::pin(std::future::ready(()))
        }
    }
}

impl<P: Part + Unpin + 'static> Handler<Kill> for Shell<P> {
    type Result = ();

    fn handle(&mut self, Kill(death): Kill, ctx: &mut Self::Context) {
        match death {
            Death::Panic => panic!("killed by order: {} panics", P::NAME),
            Death::Stop => ctx.stop(),
            Death::Hang => self.hung = true,
        }
    }
}
