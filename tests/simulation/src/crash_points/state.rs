//! One crash of one workload, and the arguments that name it.

use super::workload::Workload;
use mendblock_kit::device::Loss;
use std::fmt;
use std::str::FromStr;

/// Who loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Node 0.
    Node,
    /// Node 1.
    Peer,
    /// Both at once.
    Both,
}

impl Victim {
    /// The nodes.
    pub fn nodes(self) -> &'static [usize] {
        match self {
            Self::Node => &[0],
            Self::Peer => &[1],
            Self::Both => &[0, 1],
        }
    }
}

/// What happens after the crash, before everybody is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Who crashed starts again and connects.
    Together,
    /// Node 0 starts without its peer, becomes Primary if it may, and clients read.
    Alone,
    /// The peer becomes Primary, clients read and write, then node 0 comes back.
    Takeover,
}

/// What happens to writes that are not stable, with the names of the kinds.
pub const MODES: [(Loss, &str); 4] = [
    (Loss::Nothing, "nothing-lost"),
    (Loss::All, "all-lost"),
    (Loss::Torn, "torn"),
    (Loss::Some, "reordered"),
];
/// Victims by name.
pub const VICTIMS: [(Victim, &str); 3] = [
    (Victim::Node, "node"),
    (Victim::Peer, "peer"),
    (Victim::Both, "both"),
];
/// What follows, by name.
pub const THENS: [(Then, &str); 3] = [
    (Then::Together, "together"),
    (Then::Alone, "alone"),
    (Then::Takeover, "takeover"),
];

/// The value of a name.
pub fn named<T: Copy>(table: &[(T, &'static str)], name: &str) -> Result<T, String> {
    let found = table.iter().find(|(_, known)| *known == name);
    found.map(|(value, _)| *value).ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(_, name)| *name).collect();
        format!("{name:?} is none of {}", known.join(" "))
    })
}

fn name_of<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> &'static str {
    let found = table.iter().find(|(known, _)| known == value);
    found.map_or("", |(_, name)| name)
}

/// One crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashState {
    /// What was being done.
    pub workload: Workload,
    /// Decides all times and orders.
    pub seed: u64,
    /// Who loses power.
    pub victim: Victim,
    /// Moment of the crash: 0 before anything was stored, odd before the next stored operation ends, even after it, and one more
    /// at the end of the workload.
    pub crash_at: usize,
    /// What happens to what is not stable.
    pub mode: Loss,
    /// What follows.
    pub then: Then,
}

impl CrashState {
    /// Seed of what happens up to the crash: the same for all crashes of a workload.
    pub fn seed_before(&self) -> u64 {
        mix(self.seed, &self.workload.to_string())
    }

    /// Seed of what happens from the crash on.
    pub fn seed_after(&self) -> u64 {
        mix(self.seed_before(), &self.to_string())
    }
}

/// FNV-1a.
fn mix(seed: u64, text: &str) -> u64 {
    let start = seed ^ 0xCBF2_9CE4_8422_2325;
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    text.bytes().fold(start, step)
}

/// The arguments that replay it.
impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--seed {} --only {} --victim {} --crash-at {} --mode {} --then {}",
            self.seed,
            self.workload,
            name_of(&VICTIMS, &self.victim),
            self.crash_at,
            name_of(&MODES, &self.mode),
            name_of(&THENS, &self.then),
        )
    }
}

/// Reads what [`fmt::Display`] wrote.
impl FromStr for CrashState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let value = |name: &str| {
            let place = words.iter().position(|word| *word == name);
            let value = place.and_then(|place| words.get(place + 1));
            value
                .copied()
                .ok_or_else(|| format!("{name} is missing in {text}"))
        };
        let number = |name: &str| {
            let text = value(name)?;
            text.parse::<u64>()
                .map_err(|error| format!("{name} {text}: {error}"))
        };
        Ok(Self {
            workload: value("--only")?.parse()?,
            seed: number("--seed")?,
            victim: named(&VICTIMS, value("--victim")?)?,
            crash_at: number("--crash-at")? as usize,
            mode: named(&MODES, value("--mode")?)?,
            then: named(&THENS, value("--then")?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let text =
            "--seed 12 --only trim+write-fua+detach --victim peer --crash-at 4 --mode torn --then takeover";
        assert_eq!(
            text.parse::<CrashState>().map(|state| state.to_string()),
            Ok(text.to_owned())
        );
        assert!("--seed 12".parse::<CrashState>().is_err());
    }
}
