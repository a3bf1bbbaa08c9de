//! Makes a failing input smaller as long as it fails in the same way.

use crate::execute::execute;
use crate::target::{Finding, Target};

/// Executions that shrinking may cost.
const TRIES: usize = 4000;

/// The smallest input found that shows the same finding. A hang is left as it is: each try would cost the whole limit.
pub fn shrink(target: &dyn Target, input: &[u8], finding: &Finding) -> Vec<u8> {
    if matches!(finding, Finding::Hang { .. }) {
        return input.to_vec();
    }
    let mut shrinking = Shrinking {
        target,
        finding,
        best: input.to_vec(),
        tries: TRIES,
    };
    loop {
        let length = shrinking.best.len();
        shrinking.remove_pieces();
        if shrinking.best.len() == length || shrinking.tries == 0 {
            break;
        }
    }
    shrinking.clear_bytes();
    shrinking.best
}

struct Shrinking<'a> {
    target: &'a dyn Target,
    finding: &'a Finding,
    best: Vec<u8>,
    tries: usize,
}

impl Shrinking<'_> {
    fn remove_pieces(&mut self) {
        let mut size = self.best.len().next_power_of_two();
        while size > 0 && self.tries > 0 {
            let mut at = 0;
            while at < self.best.len() && self.tries > 0 {
                let mut smaller = self.best.clone();
                smaller.drain(at..(at + size).min(smaller.len()));
                if !self.accept(smaller) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    fn clear_bytes(&mut self) {
        for at in 0..self.best.len() {
            if self.tries == 0 {
                return;
            }
            if self.best[at] != 0 {
                let mut simpler = self.best.clone();
                simpler[at] = 0;
                self.accept(simpler);
            }
        }
    }

    /// Takes the input, as it is or with its checksums made right, if it still fails alike and is no larger.
    fn accept(&mut self, input: Vec<u8>) -> bool {
        let mut sealed = input.clone();
        self.target.seal(&mut sealed);
        for candidate in [input, sealed] {
            let is_progress = candidate != self.best && candidate.len() <= self.best.len();
            if !is_progress || self.tries == 0 {
                continue;
            }
            self.tries -= 1;
            let found = execute(self.target, &candidate).finding;
            if found.is_some_and(|found| found.is_like(self.finding)) {
                self.best = candidate;
                return true;
            }
        }
        false
    }
}
