//! Role, connection state and disk state: DRBD's names and numbers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A text that names no value of the enumeration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is not a {what}; known are {known}")]
pub struct UnknownName {
    /// What was expected: "role", "connection state" or "disk state".
    pub what: &'static str,
    /// What was given.
    pub given: String,
    /// The accepted spellings, separated by commas.
    pub known: String,
}

/// An enumeration with DRBD's numbers, whose variants are spelled as DRBD prints them.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident, $what:literal, [$($(#[$variant_doc:meta])* $variant:ident = $number:literal,)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $type {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $type {
            /// Every value, by rising number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// DRBD's number.
            pub const fn number(self) -> u8 {
                self as u8
            }

            /// The value with DRBD's number `number`, if there is one.
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.number() == number)
            }

            /// DRBD's spelling.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| UnknownName {
                    what: $what,
                    given: text.to_owned(),
                    known: Self::ALL.iter().map(|value| value.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

named! {
    /// The role of a node for a volume.
    ///
    /// The order of the numbers means nothing; see [`Role::highest`].
    Role, "role", [
        /// Not known (only of a peer that is not connected).
        Unknown = 0,
        /// May be opened for I/O.
        Primary = 1,
        /// Replica only.
        Secondary = 2,
    ]
}

impl Role {
    /// The role that stands for several volumes: Primary if any is, else Secondary if any is, else Unknown.
    pub fn highest(roles: impl IntoIterator<Item = Self>) -> Self {
        roles
            .into_iter()
            .fold(Self::Unknown, |highest, role| match (highest, role) {
                (Self::Primary, _) | (_, Self::Primary) => Self::Primary,
                (Self::Secondary, _) | (_, Self::Secondary) => Self::Secondary,
                _ => Self::Unknown,
            })
    }
}

named! {
    /// The state of the connection and, from 10 on, of the replication of one volume.
    ///
    /// Ordered: below 9 there is no socket, below 10 nothing is known of the peer, above 10 a resync or verify is
    /// set up or runs, or mirroring is off (Ahead, Behind).
    ConnectionState, "connection state", [
        /// No network configuration in use.
        StandAlone = 0,
        /// On the way to StandAlone.
        Disconnecting = 1,
        /// Network configured, the receiver (re)starts.
        Unconnected = 2,
        /// The peer was too slow.
        Timeout = 3,
        /// The socket was closed, or sending failed.
        BrokenPipe = 4,
        /// No answer to a ping, or another network error.
        NetworkFailure = 5,
        /// The peer sent what it must not send.
        ProtocolError = 6,
        /// The peer asked to disconnect.
        TearDown = 7,
        /// Listening and dialling.
        WFConnection = 8,
        /// Connected; the peer's sizes, generations and state are awaited.
        WFReportParams = 9,
        /// The peer is known; no resync.
        Connected = 10,
        /// A full sync from here was asked for; bits are being set.
        StartingSyncS = 11,
        /// A full sync towards here was asked for; bits are being set.
        StartingSyncT = 12,
        /// Will be source: sending the own bitmap.
        WFBitMapS = 13,
        /// Will be target: awaiting the bitmap.
        WFBitMapT = 14,
        /// Target: awaiting the generation of the resync.
        WFSyncUUID = 15,
        /// Resync from here runs.
        SyncSource = 16,
        /// Resync towards here runs.
        SyncTarget = 17,
        /// Online verify, driven from here.
        VerifyS = 18,
        /// Online verify, driven by the peer.
        VerifyT = 19,
        /// Resync from here, paused.
        PausedSyncS = 20,
        /// Resync towards here, paused.
        PausedSyncT = 21,
        /// Congested: writes are not mirrored, only noted.
        Ahead = 22,
        /// The peer is Ahead.
        Behind = 23,
    ]
}

impl ConnectionState {
    /// Whether there are sockets (WFReportParams or better).
    pub fn has_socket(self) -> bool {
        self >= Self::WFReportParams
    }

    /// Whether the peer's state is known.
    pub fn is_connected_or_better(self) -> bool {
        self >= Self::Connected
    }

    /// Whether a resync or verify is set up or runs, or mirroring is off: everything above Connected.
    pub fn in_sync_phase(self) -> bool {
        self > Self::Connected
    }

    /// Whether a resync runs or is paused.
    pub fn is_resync(self) -> bool {
        matches!(
            self,
            Self::SyncSource | Self::SyncTarget | Self::PausedSyncS | Self::PausedSyncT
        )
    }

    /// Whether a resync is being set up (11 to 15).
    pub fn is_resync_setup(self) -> bool {
        (Self::StartingSyncS..=Self::WFSyncUUID).contains(&self)
    }

    /// Whether an online verify runs.
    pub fn is_verify(self) -> bool {
        matches!(self, Self::VerifyS | Self::VerifyT)
    }

    /// Whether this node is, or is about to become, the source of a resync.
    pub fn is_source(self) -> bool {
        matches!(
            self,
            Self::StartingSyncS | Self::WFBitMapS | Self::SyncSource | Self::PausedSyncS | Self::Ahead
        )
    }

    /// Whether this node is, or is about to become, the target of a resync.
    pub fn is_target(self) -> bool {
        matches!(
            self,
            Self::StartingSyncT
                | Self::WFBitMapT
                | Self::WFSyncUUID
                | Self::SyncTarget
                | Self::PausedSyncT
                | Self::Behind
        )
    }

    /// Whether the connection broke and is being cleaned up (3 to 7).
    pub fn is_down(self) -> bool {
        (Self::Timeout..=Self::TearDown).contains(&self)
    }
}

named! {
    /// The state of a disk, own or the peer's. Ordered.
    DiskState, "disk state", [
        /// No backing disk.
        Diskless = 0,
        /// Reading meta-data; no I/O yet.
        Attaching = 1,
        /// Being given up; no new I/O.
        Failed = 2,
        /// Attached while connected: the handshake decides.
        Negotiating = 3,
        /// Some blocks cannot be used.
        Inconsistent = 4,
        /// Consistent, but known to be old.
        Outdated = 5,
        /// Only of the peer: not reachable.
        DUnknown = 6,
        /// Consistent, but may be old.
        Consistent = 7,
        /// Good data.
        UpToDate = 8,
    ]
}

impl DiskState {
    /// Whether an own disk in this state takes I/O: bits, superblock flags and options of it count.
    pub fn is_usable(self) -> bool {
        self >= Self::Inconsistent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_back_and_forth() {
        for (index, value) in ConnectionState::ALL.iter().enumerate() {
            assert_eq!(usize::from(value.number()), index);
            assert_eq!(ConnectionState::from_number(value.number()), Some(*value));
            assert_eq!(value.to_string().parse(), Ok(*value));
            assert_eq!(serde_json::to_string(value).unwrap(), format!("\"{value}\""));
        }
        for (index, value) in DiskState::ALL.iter().enumerate() {
            assert_eq!(usize::from(value.number()), index);
            assert_eq!(value.to_string().parse(), Ok(*value));
            assert_eq!(serde_json::to_string(value).unwrap(), format!("\"{value}\""));
        }
        for value in Role::ALL {
            assert_eq!(Role::from_number(value.number()), Some(*value));
            assert_eq!(value.to_string().parse(), Ok(*value));
        }
        assert_eq!(
            (ConnectionState::ALL.len(), DiskState::ALL.len(), Role::ALL.len()),
            (24, 9, 3)
        );
        assert_eq!(
            (ConnectionState::from_number(24), DiskState::from_number(9)),
            (None, None)
        );
    }

    #[test]
    fn unknown_name_says_what_is_known() {
        let error = "primary".parse::<Role>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"primary\" is not a role; known are Unknown, Primary, Secondary"
        );
    }

    #[test]
    fn predicates_split_the_order() {
        use ConnectionState::*;
        let count = |predicate: fn(ConnectionState) -> bool| {
            ConnectionState::ALL
                .iter()
                .filter(|state| predicate(**state))
                .count()
        };
        assert_eq!(count(ConnectionState::is_connected_or_better), 14);
        assert_eq!(count(ConnectionState::in_sync_phase), 13);
        assert_eq!(count(ConnectionState::is_down), 5);
        assert_eq!(count(ConnectionState::is_resync), 4);
        assert_eq!(count(ConnectionState::is_resync_setup), 5);
        // Every sync phase is source, target or verify, and only one of them.
        for state in ConnectionState::ALL.iter().filter(|state| state.in_sync_phase()) {
            let kinds = [state.is_source(), state.is_target(), state.is_verify()];
            assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1, "{state}");
        }
        assert!(WFReportParams.has_socket() && !WFConnection.has_socket());
        assert!(DiskState::Inconsistent.is_usable() && !DiskState::Negotiating.is_usable());
    }

    #[test]
    fn highest_role() {
        use Role::*;
        assert_eq!(Role::highest([Secondary, Primary, Unknown]), Primary);
        assert_eq!(Role::highest([Unknown, Secondary]), Secondary);
        assert_eq!(Role::highest([]), Unknown);
    }
}
