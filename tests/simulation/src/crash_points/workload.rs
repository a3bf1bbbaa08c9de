//! Workloads: up to three operations, and which of them may follow which.

use mendblock_core::configuration::OnIoError;
use std::fmt;
use std::str::FromStr;

/// What is done to the pair. Node 0 is "the" node, node 1 its peer; clients work on the Primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A write to an extent that is hot.
    WriteHot,
    /// A write to an extent that is not: the log changes, another extent is evicted.
    WriteCold,
    /// A write with FUA.
    WriteFua,
    /// A flush.
    Flush,
    /// Zeroes, which may deallocate.
    Trim,
    /// A read that fails on the node's disk.
    ReadBad,
    /// The node gives up its disk.
    Detach,
    /// It takes it again.
    Attach,
    /// The node goes `StandAlone`.
    Disconnect,
    /// Whoever is `StandAlone` connects.
    Connect,
    /// The link breaks and comes back by itself, with a write in between: a generation, and a resync of one block.
    CutLink,
    /// Disconnect, write, connect, until it is copied.
    Resync,
    /// The Primary becomes Secondary.
    Demote,
    /// The node becomes Primary.
    Promote,
    /// The peer becomes Primary.
    PromotePeer,
}

/// All of them, with their names.
pub const OPERATIONS: [(Operation, &str); 15] = [
    (Operation::WriteHot, "write-hot"),
    (Operation::WriteCold, "write-cold"),
    (Operation::WriteFua, "write-fua"),
    (Operation::Flush, "flush"),
    (Operation::Trim, "trim"),
    (Operation::ReadBad, "read-bad"),
    (Operation::Detach, "detach"),
    (Operation::Attach, "attach"),
    (Operation::Disconnect, "disconnect"),
    (Operation::Connect, "connect"),
    (Operation::CutLink, "cut-link"),
    (Operation::Resync, "resync"),
    (Operation::Demote, "demote"),
    (Operation::Promote, "promote"),
    (Operation::PromotePeer, "promote-peer"),
];

impl Operation {
    /// A client's request.
    pub fn is_request(self) -> bool {
        matches!(
            self,
            Self::WriteHot | Self::WriteCold | Self::WriteFua | Self::Flush | Self::Trim | Self::ReadBad
        )
    }

    fn name(self) -> &'static str {
        let entry = OPERATIONS.iter().find(|(operation, _)| *operation == self);
        entry.map_or("", |(_, name)| name)
    }
}

/// Operations, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What the node does about an I/O error.
    pub policy: OnIoError,
    /// Clients do not wait for the answer to one request before they send the next.
    pub overlapped: bool,
    /// What is done.
    pub operations: Vec<Operation>,
}

/// Where the pair stands between two operations, as far as it decides what may come next.
#[derive(Clone, Copy, Debug)]
struct Standing {
    primary: Option<usize>,
    /// Only it may be promoted while the nodes are apart: anything else is a split brain by order.
    last_primary: usize,
    attached: bool,
    connected: bool,
    bad: bool,
}

impl Standing {
    const START: Self = Self {
        primary: Some(0),
        last_primary: 0,
        attached: true,
        connected: true,
        bad: false,
    };

    /// Where it stands after an operation; none: that cannot come now.
    fn after(self, operation: Operation, policy: OnIoError) -> Option<Self> {
        let reaches_data = self.primary == Some(1) || self.attached || self.connected;
        let promotable = |node| self.primary.is_none() && (self.connected || self.last_primary == node);
        let (may, next) = match operation {
            Operation::WriteHot
            | Operation::WriteCold
            | Operation::WriteFua
            | Operation::Flush
            | Operation::Trim => (self.primary.is_some() && reaches_data, self),
            Operation::ReadBad => {
                let attached = policy == OnIoError::PassOn;
                let may = self.primary == Some(0) && self.attached && !self.bad;
                (
                    may,
                    Self {
                        attached,
                        bad: true,
                        ..self
                    },
                )
            }
            Operation::Detach => {
                let may = self.attached && (self.connected || self.primary != Some(0));
                (
                    may,
                    Self {
                        attached: false,
                        ..self
                    },
                )
            }
            Operation::Attach => (
                !self.attached,
                Self {
                    attached: true,
                    ..self
                },
            ),
            Operation::Disconnect => (
                self.connected && self.attached,
                Self {
                    connected: false,
                    ..self
                },
            ),
            Operation::Connect => (
                !self.connected,
                Self {
                    connected: true,
                    ..self
                },
            ),
            Operation::CutLink => (self.primary.is_some() && self.connected && self.attached, self),
            Operation::Resync => {
                let may = self.primary.is_some() && self.attached;
                (
                    may,
                    Self {
                        connected: true,
                        ..self
                    },
                )
            }
            Operation::Demote => (
                self.primary.is_some(),
                Self {
                    primary: None,
                    ..self
                },
            ),
            Operation::Promote => {
                let may = promotable(0) && (self.attached || self.connected);
                (
                    may,
                    Self {
                        primary: Some(0),
                        last_primary: 0,
                        ..self
                    },
                )
            }
            Operation::PromotePeer => (
                promotable(1),
                Self {
                    primary: Some(1),
                    last_primary: 1,
                    ..self
                },
            ),
        };
        may.then_some(next)
    }
}

impl Workload {
    /// Each operation may follow the ones before it.
    pub fn is_possible(&self) -> bool {
        let mut standing = Standing::START;
        self.operations.iter().all(|&operation| {
            let next = standing.after(operation, self.policy);
            standing = next.unwrap_or(standing);
            next.is_some()
        })
    }

    /// There is an operation of this kind.
    pub fn has(&self, operation: Operation) -> bool {
        self.operations.contains(&operation)
    }

    /// Every possible workload of this length.
    pub fn all(length: usize) -> Vec<Self> {
        let mut all = Vec::new();
        let count = OPERATIONS.len();
        for number in 0..count.pow(length as u32) {
            let operations: Vec<Operation> = (0..length)
                .map(|place| OPERATIONS[number / count.pow(place as u32) % count].0)
                .collect();
            let is_bad = operations.contains(&Operation::ReadBad);
            // Only between two requests there is an answer that need not be waited for.
            let overlaps = operations.windows(2).any(|pair| pair[0].is_request());
            for (policy, overlapped) in [
                (OnIoError::Detach, false),
                (OnIoError::Detach, true),
                (OnIoError::PassOn, false),
                (OnIoError::PassOn, true),
            ] {
                let wanted = (is_bad || policy == OnIoError::Detach) && (overlaps || !overlapped);
                let workload = Self {
                    policy,
                    overlapped,
                    operations: operations.clone(),
                };
                if wanted && workload.is_possible() {
                    all.push(workload);
                }
            }
        }
        all
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.policy == OnIoError::PassOn {
            f.write_str("pass-on:")?;
        }
        for (place, operation) in self.operations.iter().enumerate() {
            if place > 0 {
                f.write_str(if self.overlapped { "+" } else { "," })?;
            }
            f.write_str(operation.name())?;
        }
        Ok(())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (policy, rest) = match text.strip_prefix("pass-on:") {
            Some(rest) => (OnIoError::PassOn, rest),
            None => (OnIoError::Detach, text),
        };
        let operation = |name: &str| {
            let entry = OPERATIONS.iter().find(|(_, known)| *known == name);
            entry.map(|(operation, _)| *operation).ok_or_else(|| {
                let known: Vec<&str> = OPERATIONS.iter().map(|(_, name)| *name).collect();
                format!("{name:?} is no operation; there are {}", known.join(" "))
            })
        };
        let workload = Self {
            policy,
            overlapped: rest.contains('+'),
            operations: rest.split(['+', ',']).map(operation).collect::<Result<_, _>>()?,
        };
        match workload.is_possible() {
            true => Ok(workload),
            false => Err(format!("{text}: one of these cannot follow the ones before it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_the_workload_that_it_names() {
        for length in 1..=2 {
            for workload in Workload::all(length) {
                assert_eq!(workload.to_string().parse(), Ok(workload));
            }
        }
        assert!("write-hot,attach".parse::<Workload>().is_err());
        assert!("write".parse::<Workload>().is_err());
    }

    #[test]
    fn every_operation_comes_somewhere() {
        for (operation, name) in OPERATIONS {
            let comes = |length| {
                Workload::all(length)
                    .iter()
                    .any(|workload| workload.has(operation))
            };
            assert!(comes(1) || comes(2), "{name}");
        }
    }

    #[test]
    fn nobody_orders_a_split_brain() {
        let text = "disconnect,demote,promote-peer";
        assert!(text.parse::<Workload>().is_err());
        assert!("demote,promote-peer,write-hot".parse::<Workload>().is_ok());
    }
}
