//! Supervision: one loop per actor. It awaits the actor's task, so that a panic is seen (actix's own supervisor dies with the
//! actor), makes the next generation from a factory, and asks for a heartbeat, so that a hang is seen too.

use crate::handle::{Living, Slot};
use crate::shell::{Heartbeat, Shell};
use actix::Context;
use mendblock_core::identity::PartGeneration;
use mendblock_core::part::Part;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// An actor that does not answer a heartbeat for so long while its Arbiter runs is hung.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(2);
/// Time between heartbeats.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);
/// Deaths within [`BUDGET_WINDOW`] after which an actor is given up. Chaos runs kill often on purpose, so it is generous: what
/// it must catch is an actor that dies at its first message, again and again.
const BUDGET: usize = 64;
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// How a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It stopped.
    Stopped,
    /// It panicked.
    Panicked,
    /// It did not answer and was aborted.
    Hung,
}

impl End {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Panicked => "panicked",
            Self::Hung => "hung",
        }
    }
}

/// What the owner of a supervised actor is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This generation lives, and its address is in the slot.
    Lives(PartGeneration),
    /// A generation ended; the next one follows.
    Died(PartGeneration, End),
    /// It died too often: nothing follows.
    GivenUp(PartGeneration),
}

/// Runs an actor generation after generation, until it has ended and `is_over`, or its factory returns none.
pub async fn supervise<P>(
    slot: Slot<P>,
    is_over: impl Fn() -> bool + 'static,
    mut make: impl FnMut(PartGeneration) -> Option<Shell<P>> + 'static,
    mut notice: impl FnMut(Notice) + 'static,
) where
    P: Part + Unpin + 'static,
{
    let mut generation = PartGeneration(0);
    let mut deaths: VecDeque<Instant> = VecDeque::new();
    loop {
        generation = generation.next();
        let Some(shell) = make(generation) else { return };
        let end = run_generation(&slot, shell, generation, &mut notice).await;
        slot.send_replace(None);
        if is_over() {
            return;
        }
        notice(Notice::Died(generation, end));
        let now = Instant::now();
        deaths.push_back(now);
        while deaths
            .front()
            .is_some_and(|&at| now.duration_since(at) > BUDGET_WINDOW)
        {
            deaths.pop_front();
        }
        if deaths.len() > BUDGET {
            notice(Notice::GivenUp(generation));
            return;
        }
        tokio::time::sleep(back_off(deaths.len())).await;
    }
}

/// The first death is followed at once; a series slows down to 100 ms.
fn back_off(recent: usize) -> Duration {
    Duration::from_millis(if recent <= 2 {
        0
    } else {
        (1u64 << (recent - 2).min(7)).min(100)
    })
}

async fn run_generation<P>(
    slot: &Slot<P>,
    shell: Shell<P>,
    generation: PartGeneration,
    notice: &mut impl FnMut(Notice),
) -> End
where
    P: Part + Unpin + 'static,
{
    let ctx = Context::<Shell<P>>::new();
    let address = actix::AsyncContext::address(&ctx);
    let mut task = actix::spawn(ctx.into_future(shell));
    slot.send_replace(Some(Living {
        generation,
        address: address.clone(),
    }));
    notice(Notice::Lives(generation));
    let mut beat = tokio::time::interval(HEARTBEAT_EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = &mut task => {
                return match ended {
                    Err(error) if error.is_panic() => End::Panicked,
                    Ok(()) | Err(_) => End::Stopped,
                };
            }
            _ = beat.tick() => {
                let answer = address.send(Heartbeat);
                tokio::select! {
                    ended = &mut task => {
                        return match ended {
                            Err(error) if error.is_panic() => End::Panicked,
                            Ok(()) | Err(_) => End::Stopped,
                        };
                    }
                    answer = tokio::time::timeout(HEARTBEAT_LIMIT, answer) => {
                        if answer.is_err() {
                            task.abort();
                            return End::Hung;
                        }
                    }
                }
            }
        }
    }
}
