//! The table.

use crate::load::{Load, Measured};
use std::fmt;

/// All loads.
#[derive(Debug)]
pub struct Report {
    /// In their order.
    pub rows: Vec<Row>,
}

/// One load.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub load: &'static Load,
    /// What was measured in each round: the pair, and `qemu-nbd`.
    pub rounds: Vec<(Measured, Measured)>,
}

impl Row {
    /// Requests of the pair for each of `qemu-nbd`: median, least and most of the rounds.
    pub fn ratios(&self) -> [f64; 3] {
        let mut ratios: Vec<f64> = self
            .rounds
            .iter()
            .map(|(ours, theirs)| ours.rate / theirs.rate)
            .collect();
        ratios.sort_by(f64::total_cmp);
        [median(&ratios), ratios[0], ratios[ratios.len() - 1]]
    }

    fn medians(&self, of: impl Fn(&Measured) -> f64) -> [f64; 2] {
        let side = |values: Vec<f64>| {
            let mut values = values;
            values.sort_by(f64::total_cmp);
            median(&values)
        };
        [
            side(self.rounds.iter().map(|(ours, _)| of(ours)).collect()),
            side(self.rounds.iter().map(|(_, theirs)| of(theirs)).collect()),
        ]
    }
}

/// The middle of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| load | requests/s, ratio | (rounds) | median time, ratio | processor time per request, ratio |"
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        for row in &self.rows {
            let [ratio, least, most] = row.ratios();
            let [time, their_time] = row.medians(|measured| measured.median);
            let [used, their_use] = row.medians(|measured| measured.processor);
            writeln!(
                f,
                "| {} | {ratio:.2} | {least:.2} to {most:.2} | {:.2} | {:.2} |",
                row.load.name,
                time / their_time,
                used / their_use
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LOADS;

    fn measured(rate: f64) -> Measured {
        Measured {
            rate,
            median: 100.0,
            processor: 10.0,
        }
    }

    #[test]
    fn a_ratio_is_that_of_one_round_not_of_two() {
        let rounds = [(10.0, 20.0), (300.0, 100.0), (1.0, 1.0)];
        let row = Row {
            load: &LOADS[0],
            rounds: rounds
                .map(|(ours, theirs)| (measured(ours), measured(theirs)))
                .to_vec(),
        };
        assert_eq!(row.ratios(), [1.0, 0.5, 3.0]);
        let text = Report { rows: vec![row] }.to_string();
        assert!(
            text.ends_with("| sequential read, 1 MiB, depth 8 | 1.00 | 0.50 to 3.00 | 1.00 | 1.00 |\n"),
            "{text}"
        );
        assert_eq!(median(&[1.0, 2.0]), 1.5);
    }
}
