//! DRBD's resync controller: how many sectors to request in a tick of 0.1 s. It aims at an amount of data in flight
//! (`c-fill-target`) or at a delay (`c-delay-target`), and spreads each correction over `c-plan-ahead` ticks.

use crate::configuration::ResyncRate;
use std::collections::VecDeque;

/// Length of a tick, ms.
pub const TICK_MS: u64 = 100;
/// Sectors in a tick for each KiB/s, times ten.
const SECTORS_PER_KIB: i64 = 2;
const TICKS_PER_SECOND: i64 = 10;

/// The controller of one resync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Controller {
    settings: ResyncRate,
    /// Corrections due in this and the coming ticks, sectors; as long as `c-plan-ahead`.
    plan: VecDeque<i64>,
}

fn per_tick(kib_per_second: u32) -> i64 {
    i64::from(kib_per_second) * SECTORS_PER_KIB / TICKS_PER_SECOND
}

impl Controller {
    /// For a resync that begins.
    pub fn new(settings: ResyncRate) -> Self {
        let plan = VecDeque::from(vec![0; settings.plan_ahead as usize]);
        Self { settings, plan }
    }

    /// Sectors to request in this tick. `answered`: sectors answered since the last tick; `in_flight`: sectors requested
    /// and not answered. Never more than `c-max-rate` allows.
    pub fn tick(&mut self, answered: u64, in_flight: u64) -> u64 {
        let steps = self.plan.len() as i64;
        if steps == 0 {
            return per_tick(self.settings.resync_rate).max(0) as u64;
        }
        let answered = i64::try_from(answered).unwrap_or(i64::MAX / 4);
        let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX / 4);
        let wanted = if in_flight + answered == 0 {
            per_tick(self.settings.resync_rate).saturating_mul(steps)
        } else if self.settings.fill_target > 0 {
            i64::from(self.settings.fill_target)
        } else {
            answered.saturating_mul(i64::from(self.settings.delay_target))
        };
        let planned: i64 = self.plan.iter().sum();
        let step = (wanted - in_flight - planned) / steps;
        self.plan.iter_mut().for_each(|entry| *entry += step);
        let due = self.plan.pop_front().unwrap_or(0);
        self.plan.push_back(0);
        (answered + due).clamp(0, self.per_tick_limit() as i64) as u64
    }

    /// Most sectors in a tick (`c-max-rate`).
    pub fn per_tick_limit(&self) -> u64 {
        let limit = if self.settings.plan_ahead == 0 {
            self.settings.resync_rate
        } else {
            self.settings.max_rate
        };
        per_tick(limit).max(0) as u64
    }

    /// Sectors that may be kept in flight between ticks as well: with `c-fill-target`, an answer is replaced at once rather
    /// than at the next tick, up to `c-max-rate`. DRBD waits for the tick.
    pub fn refill(&self) -> u64 {
        if self.settings.plan_ahead == 0 {
            0
        } else {
            u64::from(self.settings.fill_target)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> ResyncRate {
        ResyncRate {
            resync_rate: 102_400,
            plan_ahead: 20,
            delay_target: 10,
            fill_target: 8192,
            max_rate: 4 << 20,
            min_rate: 250,
        }
    }

    /// A link that answers at most `speed` sectors in a tick: (sectors in flight at the last tick, answered in it).
    fn settle(settings: ResyncRate, speed: u64, ticks: u32) -> (u64, u64) {
        let mut controller = Controller::new(settings);
        let (mut in_flight, mut answered) = (0, 0);
        for _ in 0..ticks {
            in_flight += controller.tick(answered, in_flight);
            answered = in_flight.min(speed);
            in_flight -= answered;
        }
        (in_flight, answered)
    }

    #[test]
    fn the_first_tick_follows_resync_rate() {
        assert_eq!(Controller::new(settings()).tick(0, 0), 20_480);
    }

    #[test]
    fn a_fixed_rate_without_a_plan() {
        let mut controller = Controller::new(ResyncRate {
            plan_ahead: 0,
            ..settings()
        });
        for (answered, in_flight) in [(0, 0), (50_000, 0), (0, 90_000)] {
            assert_eq!(controller.tick(answered, in_flight), 20_480);
        }
    }

    #[test]
    fn the_fill_target_is_reached_and_the_link_stays_full() {
        let (in_flight, answered) = settle(settings(), 5000, 400);
        assert_eq!(answered, 5000, "full speed");
        assert!(in_flight.abs_diff(8192) < 400, "{in_flight}");
    }

    #[test]
    fn the_delay_target_bounds_what_is_in_flight() {
        let by_delay = ResyncRate {
            fill_target: 0,
            ..settings()
        };
        let (in_flight, answered) = settle(by_delay, 5000, 400);
        assert_eq!(answered, 5000);
        assert!(in_flight.abs_diff(50_000) < 2500, "{in_flight}");
    }

    #[test]
    fn a_link_that_stalls_gets_nothing_more() {
        let mut controller = Controller::new(settings());
        let mut in_flight = controller.tick(0, 0);
        for _ in 0..100 {
            in_flight += controller.tick(0, in_flight);
        }
        assert_eq!(controller.tick(0, in_flight), 0);
    }

    proptest! {
        #[test]
        fn never_above_the_highest_rate(
            max_rate in 250u32..4 << 20,
            history in proptest::collection::vec((0u64..1 << 24, 0u64..1 << 24), 1..80),
        ) {
            let mut controller = Controller::new(ResyncRate { max_rate, ..settings() });
            for (answered, in_flight) in history {
                let sectors = controller.tick(answered, in_flight);
                prop_assert!(sectors <= u64::from(max_rate) / 5);
            }
        }
    }
}
