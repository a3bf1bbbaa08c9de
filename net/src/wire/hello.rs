//! Whether two nodes may talk, from their two [`Hello`]s, and which connection stays when there are two.

use super::message::{Hello, features};

/// Lowest protocol version that this release speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest protocol version that this release speaks.
pub const VERSION_MAX: u16 = 1;

/// What both sides keep to on this connection. Both compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    /// Highest version that both speak.
    pub version: u16,
    /// Features that both offer.
    pub features: u64,
}

/// Why this node does not talk to the peer. The text names this node "here" and the other one "the peer", and says
/// what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloRefusal {
    /// The hello came back: this node dialled itself.
    #[error("the connection leads back to this node: set the peer's address to that of the other node")]
    Itself,
    /// Another volume.
    #[error(
        "volume \"{own}\" is configured here, the peer serves \"{peer}\" on this connection: correct the peer's address or the volume's name"
    )]
    Volume {
        /// Volume here.
        own: String,
        /// Volume of the peer.
        peer: String,
    },
    /// Both nodes have the same id.
    #[error("both nodes have node id {id}: give one of them another id")]
    SameNodeId {
        /// The id.
        id: u8,
    },
    /// The peer is another node than expected.
    #[error(
        "node {expected} is expected, node {found} (\"{name}\") answers: correct the peer's address or its id in the configuration here"
    )]
    OtherPeer {
        /// Id in the configuration here.
        expected: u8,
        /// Id of the peer.
        found: u8,
        /// Name of the peer's node.
        name: String,
    },
    /// The peer expects another node than this one.
    #[error(
        "the peer \"{name}\" expects node {expected}, this is node {own}: correct the peer's id in the configuration of the peer"
    )]
    NotExpected {
        /// Id in the peer's configuration.
        expected: u8,
        /// Id here.
        own: u8,
        /// Name of the peer's node.
        name: String,
    },
    /// No version that both speak.
    #[error(
        "protocol versions {}..={} are spoken here, the peer \"{name}\" speaks {}..={}: upgrade {}",
        own.0, own.1, peer.0, peer.1, older(*own, *peer)
    )]
    Version {
        /// Lowest and highest version here.
        own: (u16, u16),
        /// Lowest and highest version of the peer.
        peer: (u16, u16),
        /// Name of the peer's node.
        name: String,
    },
    /// The peer lacks what is required here.
    #[error(
        "the peer \"{name}\" lacks {}, required here: upgrade the peer or stop requiring it here",
        feature_names(*missing)
    )]
    PeerLacks {
        /// Feature bits.
        missing: u64,
        /// Name of the peer's node.
        name: String,
    },
    /// This node lacks what the peer requires.
    #[error(
        "the peer \"{name}\" requires {}, not known here: upgrade this node or stop requiring it there",
        feature_names(*missing)
    )]
    Lacking {
        /// Feature bits.
        missing: u64,
        /// Name of the peer's node.
        name: String,
    },
    /// Both sides, or neither, say that they dialled.
    #[error("both ends say that they {}: this connection is closed, the next one is tried", if *dialled { "dialled" } else { "listened" })]
    Direction {
        /// What both say.
        dialled: bool,
    },
}

impl HelloRefusal {
    /// Whether another attempt is useless until somebody changes the configuration of a node. Versions and features
    /// are not for good: the other node's upgrade ends them without a change here.
    pub fn for_good(&self) -> bool {
        match self {
            Self::Itself
            | Self::Volume { .. }
            | Self::SameNodeId { .. }
            | Self::OtherPeer { .. }
            | Self::NotExpected { .. } => true,
            Self::Version { .. } | Self::PeerLacks { .. } | Self::Lacking { .. } | Self::Direction { .. } => {
                false
            }
        }
    }
}

/// Compares the own hello with the peer's. What is found first is told: who the peer is before what it can do.
pub fn agree(own: &Hello, peer: &Hello) -> Result<Agreement, HelloRefusal> {
    check_identity(own, peer)?;
    let name = || peer.node_name.clone();
    let version = own.version_max.min(peer.version_max);
    if version < own.version_min || version < peer.version_min {
        return Err(HelloRefusal::Version {
            own: (own.version_min, own.version_max),
            peer: (peer.version_min, peer.version_max),
            name: name(),
        });
    }
    let missing = own.required & !peer.features;
    if missing != 0 {
        return Err(HelloRefusal::PeerLacks {
            missing,
            name: name(),
        });
    }
    let missing = peer.required & !own.features;
    if missing != 0 {
        return Err(HelloRefusal::Lacking {
            missing,
            name: name(),
        });
    }
    if own.dialled == peer.dialled {
        return Err(HelloRefusal::Direction { dialled: own.dialled });
    }
    Ok(Agreement {
        version,
        features: own.features & peer.features,
    })
}

fn check_identity(own: &Hello, peer: &Hello) -> Result<(), HelloRefusal> {
    if own.process_id == peer.process_id && own.node_id == peer.node_id {
        return Err(HelloRefusal::Itself);
    }
    if own.volume != peer.volume {
        return Err(HelloRefusal::Volume {
            own: own.volume.clone(),
            peer: peer.volume.clone(),
        });
    }
    if own.node_id == peer.node_id {
        return Err(HelloRefusal::SameNodeId { id: own.node_id });
    }
    if peer.node_id != own.peer_id {
        return Err(HelloRefusal::OtherPeer {
            expected: own.peer_id,
            found: peer.node_id,
            name: peer.node_name.clone(),
        });
    }
    if peer.peer_id != own.node_id {
        return Err(HelloRefusal::NotExpected {
            expected: peer.peer_id,
            own: own.node_id,
            name: peer.node_name.clone(),
        });
    }
    Ok(())
}

fn older(own: (u16, u16), peer: (u16, u16)) -> &'static str {
    if own.1 < peer.1 { "this node" } else { "the peer" }
}

fn feature_names(bits: u64) -> String {
    let known = [
        (features::BAD_BLOCKS, "bad-block lists"),
        (features::RENAME, "generation rules 52 and 72"),
        (features::WRITE_ZEROES, "write-zeroes without payload"),
    ];
    let mut names: Vec<String> = known
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    let unknown = bits & !features::ALL;
    if unknown != 0 {
        names.push(format!("features {unknown:#x} of a newer release"));
    }
    names.join(", ")
}

/// Which of two connections to the same peer stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The one that was there; the new one is refused (not for good).
    Established,
    /// The new one; the established one is closed.
    New,
}

/// A second connection to the peer was agreed on while one is established: which stays. `established` and `new` are
/// the peer's hellos on them.
///
/// | the peer's hellos | stays | why |
/// |---|---|---|
/// | from two lives of its process | new | the other end of the established one is gone |
/// | both dialled by the same node | new | a node dials only when it has given up what it had |
/// | crossed | the one dialled by the node with the lower id | both ends decide alike |
///
/// A node that dials anew because it found a dead link may meet "established" by the third row; the other node's
/// keep-alive ends the dead one within its time limit, and the next attempt succeeds.
pub fn keep(own_id: u8, established: &Hello, new: &Hello) -> Keep {
    if established.process_id != new.process_id || established.dialled == new.dialled {
        return Keep::New;
    }
    let lower_dialled_new = new.dialled == (new.node_id < own_id);
    if lower_dialled_new {
        Keep::New
    } else {
        Keep::Established
    }
}

/// Whether this node is the resolver of conflicts on the connection: the side that accepted it.
pub fn is_resolver(own: &Hello) -> bool {
    !own.dialled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node_id: u8, peer_id: u8, dialled: bool) -> Hello {
        Hello {
            version_min: 1,
            version_max: 3,
            features: features::ALL,
            required: features::BAD_BLOCKS,
            volume: "data".into(),
            node_id,
            peer_id,
            node_name: format!("node{node_id}"),
            process_id: 1000 + u64::from(node_id),
            dialled,
        }
    }

    /// The refusal of a peer's hello changed by `change`.
    fn refusal(change: impl FnOnce(&mut Hello)) -> HelloRefusal {
        let mut peer = hello(1, 0, false);
        change(&mut peer);
        agree(&hello(0, 1, true), &peer).unwrap_err()
    }

    #[test]
    fn both_sides_agree_on_the_same() {
        let mut own = hello(0, 1, true);
        own.features |= 1 << 40;
        let mut peer = hello(1, 0, false);
        (peer.version_min, peer.version_max) = (2, 9);
        let agreement = agree(&own, &peer).unwrap();
        assert_eq!(
            agreement,
            Agreement {
                version: 3,
                features: features::ALL
            }
        );
        assert_eq!(agree(&peer, &own), Ok(agreement));
    }

    #[test]
    fn refusals() {
        type Change = fn(&mut Hello);
        let table: [(Change, bool, &str); 11] = [
            (
                |p| *p = hello(0, 1, true),
                true,
                "leads back to this node: set the peer's address",
            ),
            (
                |p| p.volume = "logs".into(),
                true,
                "\"data\" is configured here, the peer serves \"logs\"",
            ),
            (|p| p.node_id = 0, true, "both nodes have node id 0: give one"),
            (
                |p| p.node_id = 2,
                true,
                "node 1 is expected, node 2 (\"node1\") answers",
            ),
            (|p| p.peer_id = 5, true, "expects node 5, this is node 0"),
            (
                |p| (p.version_min, p.version_max) = (4, 6),
                false,
                "speaks 4..=6: upgrade this node",
            ),
            (
                |p| (p.version_min, p.version_max) = (0, 0),
                false,
                "speaks 0..=0: upgrade the peer",
            ),
            (|p| (p.version_min, p.version_max) = (3, 2), false, "speaks 3..=2"),
            (|p| p.features = 0, false, "lacks bad-block lists, required here"),
            (
                |p| p.required = 1 << 9,
                false,
                "requires features 0x200 of a newer release",
            ),
            (|p| p.dialled = true, false, "both ends say that they dialled"),
        ];
        for (change, for_good, text) in table {
            let refusal = refusal(change);
            assert_eq!(refusal.for_good(), for_good, "{refusal}");
            assert!(refusal.to_string().contains(text), "{refusal}");
        }
    }

    #[test]
    fn who_the_peer_is_comes_before_what_it_can_do() {
        let refusal = refusal(|peer| {
            peer.volume = "logs".into();
            peer.version_min = 9;
            peer.version_max = 9;
        });
        assert!(matches!(refusal, HelloRefusal::Volume { .. }));
    }

    #[test]
    fn crossed_connections_end_alike_on_both_nodes() {
        // By whom the established and the new connection were dialled, and which of them stays.
        for (first_by_lower, kept) in [(true, Keep::Established), (false, Keep::New)] {
            let seen_by_lower = keep(0, &hello(1, 0, !first_by_lower), &hello(1, 0, first_by_lower));
            let seen_by_higher = keep(1, &hello(0, 1, first_by_lower), &hello(0, 1, !first_by_lower));
            assert_eq!((seen_by_lower, seen_by_higher), (kept, kept));
        }
    }

    #[test]
    fn a_restarted_or_redialling_peer_replaces_its_connection() {
        let established = hello(1, 0, false);
        let mut restarted = hello(1, 0, true);
        restarted.process_id += 1;
        assert_eq!(keep(0, &established, &restarted), Keep::New);
        assert_eq!(keep(0, &established, &established), Keep::New);
    }

    #[test]
    fn the_accepting_side_resolves() {
        assert!(is_resolver(&hello(0, 1, false)));
        assert!(!is_resolver(&hello(0, 1, true)));
    }
}
