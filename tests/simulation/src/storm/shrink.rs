//! A failing storm is made shorter as long as it still fails: fewer actions, fewer requests, fewer clients.

use super::action::Action;
use super::plan::Plan;
use super::run::run;

/// The shortest plan that was found to fail, and how it fails; at most `tries` runs.
///
/// Any failure counts: a shorter storm that shows another fault is as welcome.
#[must_use]
pub fn shrink(plan: &Plan, failure: String, tries: usize) -> (Plan, String) {
    let mut shrinker = Shrinker {
        best: plan.clone(),
        failure,
        left: tries,
    };
    shrinker.shorten();
    shrinker.simplify();
    (shrinker.best, shrinker.failure)
}

struct Shrinker {
    best: Plan,
    failure: String,
    left: usize,
}

impl Shrinker {
    /// Takes the plan over if it fails as well.
    fn fails(&mut self, plan: Plan) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        match run(&plan) {
            Ok(_) => false,
            Err(failure) => {
                (self.best, self.failure) = (plan, failure);
                true
            }
        }
    }

    /// Leaves out ever smaller stretches of actions.
    fn shorten(&mut self) {
        let mut length = self.best.actions.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            let mut shorter = false;
            while at < self.best.actions.len() {
                let mut plan = self.best.clone();
                let end = (at + length).min(plan.actions.len());
                plan.actions.drain(at..end);
                if self.fails(plan) {
                    shorter = true;
                } else {
                    at += length;
                }
            }
            if self.left == 0 || (length == 1 && !shorter) {
                return;
            }
            length = (length / 2).max(1);
        }
    }

    fn simplify(&mut self) {
        if self.best.clients > 1 {
            let plan = Plan {
                clients: 1,
                ..self.best.clone()
            };
            self.fails(plan);
        }
        for at in 0..self.best.actions.len() {
            while let Some(Action::Requests(count)) = self.best.actions.get(at).copied() {
                let mut plan = self.best.clone();
                plan.actions[at] = Action::Requests(count / 2);
                if count < 2 || !self.fails(plan) {
                    break;
                }
            }
        }
    }
}
