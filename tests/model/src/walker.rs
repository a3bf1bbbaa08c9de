//! The search: every state that is reached by at most so many orders, writes and faults, with everything that happens by itself
//! in between in every order.

use crate::action::Action;
use crate::world::World;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Orders, writes and faults.
    pub depth: usize,
    /// So many of them, the first ones, come only when nothing else happens.
    pub at_rest: usize,
    /// The search ends then, whatever is left.
    pub time: Option<Duration>,
    /// So many states at the most.
    pub states: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct CounterExample {
    /// What is wrong.
    pub what: String,
    /// How it came to be.
    pub actions: Vec<Action>,
}

/// How far the search came.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// New states by number of orders, writes and faults.
    pub layers: Vec<usize>,
    /// Events that were tried.
    pub transitions: u64,
    /// The longest way that was taken, in events.
    pub longest: usize,
    /// All of the last depth was searched.
    pub complete: bool,
    /// The first thing that is wrong.
    pub found: Option<CounterExample>,
}

#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    action: Option<Action>,
    length: u16,
}

/// A search under way.
pub struct Walker<'a> {
    limits: Limits,
    began: Instant,
    seen: HashSet<u64>,
    origins: Vec<Origin>,
    /// States from which everything comes to rest, and well.
    settles: HashSet<u64>,
    outcome: Outcome,
    progress: &'a mut dyn FnMut(&Outcome),
}

/// More steps than any state needs to come to rest.
const MOST_STEPS_TO_REST: usize = 2000;
const NOBODY: u32 = u32::MAX;

impl<'a> Walker<'a> {
    /// `progress` is called now and then.
    pub fn new(limits: Limits, progress: &'a mut dyn FnMut(&Outcome)) -> Self {
        Self {
            limits,
            began: Instant::now(),
            seen: HashSet::new(),
            origins: Vec::new(),
            settles: HashSet::new(),
            outcome: Outcome::default(),
            progress,
        }
    }

    /// Searches from this state.
    pub fn run(mut self, start: World) -> Outcome {
        let mut layer = Vec::new();
        self.outcome.layers.push(0);
        let retained = self.limits.depth > 0;
        if !self.closure(start, NOBODY, None, retained.then_some(&mut layer)) {
            return self.outcome;
        }
        for depth in 1..=self.limits.depth {
            let mut next = Vec::new();
            self.outcome.layers.push(0);
            for (origin, world) in layer {
                if depth <= self.limits.at_rest && !world.steps().is_empty() {
                    continue;
                }
                for action in world.orders() {
                    let mut child = world.clone();
                    child.act(action);
                    self.outcome.transitions += 1;
                    let retained = depth < self.limits.depth;
                    if !self.closure(child, origin, Some(action), retained.then_some(&mut next)) {
                        return self.outcome;
                    }
                }
            }
            layer = next;
        }
        self.outcome.complete = true;
        self.outcome
    }

    /// All states that follow by themselves; false: the search is over.
    fn closure(
        &mut self,
        world: World,
        parent: u32,
        action: Option<Action>,
        mut retained: Option<&mut Vec<(u32, World)>>,
    ) -> bool {
        let mut open = std::collections::VecDeque::new();
        if let Some(origin) = self.enter(&world, parent, action) {
            open.push_back((origin, world));
        }
        while let Some((origin, world)) = open.pop_front() {
            if self.outcome.found.is_some() || self.is_over() {
                return false;
            }
            let steps = world.steps();
            for step in &steps {
                let mut child = world.clone();
                child.act(*step);
                self.outcome.transitions += 1;
                if let Some(origin) = self.enter(&child, origin, Some(*step)) {
                    open.push_back((origin, child));
                }
            }
            let rest_only = self.outcome.layers.len() <= self.limits.at_rest;
            if let Some(retained) = retained.as_deref_mut().filter(|_| !rest_only || steps.is_empty()) {
                retained.push((origin, world));
            }
        }
        self.outcome.found.is_none()
    }

    fn is_over(&mut self) -> bool {
        if self.origins.len().is_multiple_of(4096) {
            (self.progress)(&self.outcome);
        }
        let late = self.limits.time.is_some_and(|limit| self.began.elapsed() > limit);
        late || self.origins.len() >= self.limits.states
    }

    /// Notes a state if it is new, and checks it.
    fn enter(&mut self, world: &World, parent: u32, action: Option<Action>) -> Option<u32> {
        let fingerprint = world.fingerprint();
        if !self.seen.insert(fingerprint) {
            return None;
        }
        let length = match self.origins.get(parent as usize) {
            Some(origin) => origin.length + 1,
            None => 0,
        };
        let own = self.origins.len() as u32;
        self.origins.push(Origin {
            parent,
            action,
            length,
        });
        self.outcome.states += 1;
        self.outcome.longest = self.outcome.longest.max(usize::from(length));
        if let Some(layer) = self.outcome.layers.last_mut() {
            *layer += 1;
        }
        let wrong = world.wrong().map(|what| (what, Vec::new()));
        if let Some((what, more)) = wrong.or_else(|| self.does_not_settle(world, fingerprint)) {
            let mut actions = self.way_to(own);
            actions.extend(more);
            self.outcome.found = Some(CounterExample { what, actions });
        }
        Some(own)
    }

    fn way_to(&self, mut state: u32) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(origin) = self.origins.get(state as usize) {
            actions.extend(origin.action);
            state = origin.parent;
        }
        actions.reverse();
        actions
    }

    /// Everything is delivered in a fixed order until nothing is left: one fair run from this state.
    fn does_not_settle(&mut self, world: &World, fingerprint: u64) -> Option<(String, Vec<Action>)> {
        let mut world = world.clone();
        let mut way = Vec::new();
        let mut passed = vec![fingerprint];
        let mut on_the_way = HashSet::new();
        loop {
            let fingerprint = passed[passed.len() - 1];
            if self.settles.contains(&fingerprint) {
                break;
            }
            if !on_the_way.insert(fingerprint) || way.len() > MOST_STEPS_TO_REST {
                return Some(("it goes round and round".to_owned(), way));
            }
            let Some(step) = world.steps().first().copied() else {
                if let Some(what) = world.stuck() {
                    return Some((format!("at rest: {what}"), way));
                }
                break;
            };
            world.act(step);
            way.push(step);
            if let Some(what) = world.wrong() {
                return Some((what, way));
            }
            passed.push(world.fingerprint());
        }
        self.settles.extend(passed);
        None
    }
}

/// Lets everything come to rest in a fixed order.
pub fn settle(world: &mut World) {
    for _ in 0..MOST_STEPS_TO_REST {
        let Some(step) = world.steps().first().copied() else {
            return;
        };
        world.act(step);
    }
}
