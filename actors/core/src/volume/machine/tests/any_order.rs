//! Answers in any order, late, failed or lost: the detach ends, the attach ends, every command is answered exactly once.

use super::world::*;
use crate::configuration::OnIoError;
use crate::volume::machine::{Command, ErrorKind};
use crate::volume::state::{ConnectionState, DiskState};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Act {
    /// The question at this place (modulo how many wait) gets this answer.
    Answer(u8, Fate),
    Error(ErrorKind, i32),
    Command(u8),
    LinkDown,
    LinkUp,
    Pass(u16),
}

fn act() -> impl Strategy<Value = Act> {
    let fate = prop_oneof![6 => Just(Fate::Answer), 1 => Just(Fate::Fail(EIO)), 1 => Just(Fate::Lose)];
    let kind = prop_oneof![
        Just(ErrorKind::Read),
        Just(ErrorKind::Write),
        Just(ErrorKind::Flush),
        Just(ErrorKind::Meta)
    ];
    let errno = prop_oneof![4 => Just(EIO), 1 => Just(ENODEV), 1 => Just(ENOSPC)];
    prop_oneof![
        12 => (any::<u8>(), fate).prop_map(|(at, fate)| Act::Answer(at, fate)),
        1 => (kind, errno).prop_map(|(kind, errno)| Act::Error(kind, errno)),
        2 => (0_u8..9).prop_map(Act::Command),
        1 => Just(Act::LinkDown),
        1 => Just(Act::LinkUp),
        1 => (0_u16..3000).prop_map(Act::Pass),
    ]
}

fn order(number: u8) -> Command {
    match number {
        0 => Command::Primary { force: false },
        1 => Command::Secondary,
        2 | 3 => Command::Attach { new_disk: false },
        4 => Command::Detach { force: false },
        5 => Command::Detach { force: true },
        6 => Command::Disconnect { force: false },
        7 => Command::Primary { force: true },
        _ => Command::Connect {
            discard_my_data: false,
        },
    }
}

/// Time passes and nothing that is held is answered any more; what is lost stays lost.
fn let_go(world: &mut World, milliseconds: u64) {
    let end = world.now + milliseconds * 1_000_000;
    while let Some(at) = world.wake_at().filter(|at| *at <= end) {
        world.wake(at);
    }
    world.now = end;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn everything_ends_and_every_command_is_answered_once(
        policy in prop_oneof![Just(OnIoError::Detach), Just(OnIoError::CallLocalIoError), Just(OnIoError::PassOn)],
        start in 0_u8..4,
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = match start {
            0 => World::new(policy),
            1 => World::attached(policy),
            2 => World::primary_connected(policy),
            _ => World::primary_alone(policy),
        };
        let mut commands = Vec::new();
        for act in acts {
            match act {
                Act::Answer(at, fate) if !world.questions.is_empty() => {
                    let question = world.questions.remove(usize::from(at) % world.questions.len());
                    world.settle_one(question, fate);
                }
                Act::Answer(..) => {}
                Act::Error(kind, errno) => world.io_error(kind, 9, errno),
                Act::Command(number) => commands.push(world.command(order(number))),
                Act::LinkDown => world.link_down(),
                Act::LinkUp if world.vector().connection == ConnectionState::WFConnection => world.link_up(),
                Act::LinkUp => {}
                Act::Pass(milliseconds) => let_go(&mut world, u64::from(milliseconds)),
            }
        }
        // The peer part owns the deadline of what the peer does not answer: it gives the connection up.
        world.link_down();
        let_go(&mut world, 200_000);
        for id in commands {
            world.answer(id);
        }
        prop_assert_ne!(world.vector().disk, DiskState::Failed);
        prop_assert_ne!(world.vector().disk, DiskState::Attaching);
        prop_assert_ne!(world.vector().disk, DiskState::Negotiating);
        prop_assert!(world.snapshot().reasons.detaching.is_none());
    }
}
