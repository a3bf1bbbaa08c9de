//! The worked examples of `vectors/generations.json`, played step by step with the operations.

use super::vectors::{Role, array};
use mendblock_core::volume::generations::*;
use serde::Deserialize;
use std::collections::VecDeque;

const A: usize = 0;
const B: usize = 1;

#[derive(Deserialize)]
struct Sequence {
    name: String,
    steps: VecDeque<Step>,
}

#[derive(Deserialize)]
struct Step {
    event: String,
    #[serde(rename = "A")]
    a: Option<Line>,
    #[serde(rename = "B")]
    b: Option<Line>,
    roles: Option<Pair<Role>>,
    flags: Option<Pair<u32>>,
}

#[derive(Clone, Copy, Deserialize)]
struct Pair<T> {
    #[serde(rename = "A")]
    a: T,
    #[serde(rename = "B")]
    b: T,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Line {
    Slots(Identifiers),
    Answer { rule: u8, result: i32 },
}

impl Step {
    fn slots(&self) -> [Option<Identifiers>; 2] {
        [self.a, self.b].map(|line| match line {
            Some(Line::Slots(identifiers)) => Some(identifiers),
            Some(Line::Answer { .. }) => panic!("{} is a comparison", self.event),
            None => None,
        })
    }
}

/// Two nodes in one example.
struct Play {
    name: String,
    steps: VecDeque<Step>,
    slots: [Identifiers; 2],
    primary: [bool; 2],
    verdicts: Option<[Verdict; 2]>,
    source: usize,
}

impl Play {
    /// The example `name`, with the slots of its first step.
    fn new(name: &str) -> Self {
        let found = array::<Sequence>("sequences", 10)
            .into_iter()
            .find(|sequence| sequence.name == name);
        let steps = found.unwrap().steps;
        let fresh = [Identifiers::FRESH; 2];
        let mut play = Self {
            name: name.to_owned(),
            steps,
            slots: fresh,
            primary: [false; 2],
            verdicts: None,
            source: A,
        };
        play.load();
        play
    }

    fn next(&mut self) -> Step {
        self.steps
            .pop_front()
            .unwrap_or_else(|| panic!("({}) has no more steps", self.name))
    }

    /// The next step gives the slots.
    fn load(&mut self) {
        for (own, given) in std::iter::zip(&mut self.slots, self.steps[0].slots()) {
            *own = given.unwrap_or(*own);
        }
        self.steps.pop_front();
    }

    /// The next step has the slots that the operations have made.
    fn check(&mut self) {
        let step = self.next();
        for (node, expected) in step.slots().into_iter().enumerate() {
            if let Some(expected) = expected {
                assert_eq!(
                    self.slots[node], expected,
                    "({}) node {node}: {}",
                    self.name, step.event
                );
            }
        }
    }

    /// The next step is a comparison.
    fn compare(&mut self) {
        let step = self.next();
        let (roles, flags) = (step.roles.unwrap(), step.flags.unwrap());
        let side = |node: usize, role, flags| Side {
            identifiers: self.slots[node],
            crashed_primary: flags & 2 != 0,
            primary: role == Role::Primary,
        };
        let sides = [side(A, roles.a, flags.a), side(B, roles.b, flags.b)];
        self.primary = sides.map(|side| side.primary);
        let view = |own: usize| {
            compare(&Comparison {
                own: sides[own],
                peer: sides[1 - own],
                resolver: own == B,
                agreed: Agreed {
                    renames: false,
                    ..Agreed::OURS
                },
            })
        };
        let verdicts = [view(A), view(B)];
        for (verdict, line) in std::iter::zip(verdicts, [step.a, step.b]) {
            let Some(Line::Answer { rule, result }) = line else {
                panic!("{} has no answer", step.event)
            };
            assert_eq!(
                verdict.answer.rule.number(),
                rule,
                "({}) {}: {verdict}",
                self.name,
                step.event
            );
            assert_eq!(
                verdict.answer.outcome.value(),
                result,
                "({}) {}: {verdict}",
                self.name,
                step.event
            );
        }
        assert!(
            verdicts[A].answer.fits(verdicts[B].answer),
            "({}) {}",
            self.name,
            step.event
        );
        self.verdicts = Some(verdicts);
    }

    fn new_generation(&mut self, node: usize, primary: bool, random: u64) {
        self.slots[node] = self.slots[node].new_generation(primary, random);
        self.primary[node] = primary;
    }

    fn repair(&mut self, node: usize) {
        self.slots[node] = self.verdicts.unwrap()[node].own_corrected();
    }

    /// START-SOURCE; the other node gets the sync id unless it is lost.
    fn start(&mut self, source: usize, random: u64, delivered: bool) {
        self.repair(source);
        self.source = source;
        let (slots, sync_id) = self.slots[source].start_source(random);
        self.slots[source] = slots;
        if delivered {
            let target = 1 - source;
            self.slots[target] = self.slots[target].start_target(self.primary[target], sync_id);
        }
    }

    fn finish_target(&mut self) {
        let target = 1 - self.source;
        let peer = self.verdicts.unwrap()[target].peer_corrected();
        self.slots[target] = self.slots[target].finish_target(self.primary[target], &peer);
    }

    fn finish(&mut self) {
        self.finish_target();
        self.slots[self.source] = self.slots[self.source].finish_source();
    }

    fn resync(&mut self, source: usize, random: u64) {
        self.start(source, random, true);
        self.finish();
    }

    fn end(self) {
        assert!(self.steps.is_empty(), "({}) has more steps", self.name);
    }
}

const G1: u64 = 0x1A1A_1A1A_1A1A_1A10;
const G2: u64 = 0x2B2B_2B2B_2B2B_2B20;
const G3: u64 = 0x3C3C_3C3C_3C3C_3C30;
/// Where the base names the resync, the random number must not show.
const UNUSED: u64 = 0xBAD0_BAD0_BAD0_BAD0;

#[test]
fn a_fresh_pair_forced_promotion_initial_sync() {
    let mut play = Play::new("a");
    play.compare();
    play.new_generation(A, true, G1);
    play.check();
    play.compare();
    play.start(A, 0x5E5E_5E5E_5E5E_5E50, true);
    play.check();
    play.finish();
    play.check();
    play.end();
}

#[test]
fn b_secondary_rebooted_nothing_written() {
    let mut play = Play::new("b");
    play.new_generation(A, true, G2);
    play.check();
    play.compare();
    play.start(A, UNUSED, true);
    play.check();
    play.finish();
    play.check();
    play.end();
}

#[test]
fn c_secondary_away_while_the_primary_wrote() {
    let mut play = Play::new("c");
    let old_image = play.slots[B];
    play.compare();
    play.resync(A, UNUSED);
    play.check();
    play.new_generation(A, true, G3);
    play.check();
    play.slots[B] = old_image;
    play.compare();
    play.end();
}

#[test]
fn d_primary_crashes_under_load_restarts_as_secondary() {
    let mut play = Play::new("d");
    play.slots[A] = play.slots[A].with_role(false);
    play.check();
    let crashed = play.slots;
    play.compare();
    play.resync(A, 0x6F6F_6F6F_6F6F_6F60);
    play.check();
    play.slots = crashed;
    play.new_generation(B, true, G2);
    play.check();
    play.compare();
    play.end();
}

#[test]
fn e_both_were_primary_while_apart() {
    let mut play = Play::new("e");
    // B has stayed where A was before its NEW.
    let in_sync = Identifiers {
        current: play.slots[A].bitmap,
        bitmap: Generation::NONE,
        ..play.slots[A]
    };
    play.slots[B] = in_sync.with_role(false);
    play.new_generation(B, true, G3);
    play.check();
    play.compare();
    play.primary[B] = false;
    play.start(A, UNUSED, true);
    play.check();
    play.finish();
    play.check();
    play.end();
}

#[test]
fn f_resync_interrupted_and_resumed_then_the_sync_id_is_lost() {
    let mut play = Play::new("f");
    for delivered in [true, true, false] {
        play.compare();
        play.start(A, UNUSED, delivered);
        play.check();
    }
    play.compare();
    play.repair(A);
    play.check();
    play.resync(A, UNUSED);
    play.check();
    play.end();
}

#[test]
fn g_notice_of_the_end_of_resync_lost() {
    let mut play = Play::new("g");
    play.compare();
    play.start(A, UNUSED, true);
    play.check();
    play.finish_target();
    play.check();
    play.compare();
    play.repair(A);
    play.check();
    play.resync(A, 0x7A7A_7A7A_7A7A_7A70);
    play.check();
    play.end();
}

#[test]
fn h_read_error_on_the_primarys_disk_detach_reattach() {
    let mut play = Play::new("h");
    play.new_generation(B, false, G2);
    play.check();
    play.check();
    play.compare();
    play.start(B, UNUSED, true);
    play.check();
    play.finish();
    play.check();
    play.compare();
    play.end();
}

#[test]
fn i_disk_of_the_secondary_replaced_by_a_blank_one() {
    let mut play = Play::new("i");
    play.compare();
    play.start(A, UNUSED, true);
    play.check();
    play.finish();
    play.check();
    play.end();
}

#[test]
fn j_skip_the_initial_sync() {
    let mut play = Play::new("j");
    play.new_generation(A, false, G1);
    play.check();
    play.slots[B] = play.slots[B].start_target(false, play.slots[A].current);
    play.slots[A].bitmap = Generation::NONE;
    play.check();
    play.compare();
    play.slots[A] = play.slots[A].with_role(true);
    play.check();
    play.end();
}
