//! Why a change is refused: DRBD's SS codes.

use serde::{Deserialize, Serialize};

/// A refused state change, by DRBD's name. The text is DRBD's.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Refusal {
    /// -1
    #[error("Multiple primaries not allowed by config")]
    TwoPrimaries,
    /// -2
    #[error("Need access to UpToDate data")]
    NoUpToDateDisk,
    /// -4
    #[error("Can not resync without local disk")]
    NoLocalDisk,
    /// -5
    #[error("Can not resync without remote disk")]
    NoRemoteDisk,
    /// -6
    #[error("Refusing to be Outdated while Connected")]
    ConnectedOutdates,
    /// -7
    #[error("Refusing to be Primary while peer is not outdated")]
    PrimaryNop,
    /// -8
    #[error("Can not start OV/resync since it is already active")]
    ResyncRunning,
    /// -9
    #[error("Can not disconnect a StandAlone device")]
    AlreadyStandalone,
    /// -10
    #[error("State change was refused by peer node")]
    CwFailedByPeer,
    /// -11
    #[error("Device is diskless, the requested operation requires a disk")]
    IsDiskless,
    /// -12
    #[error("Device is held open by someone")]
    DeviceInUse,
    /// -13
    #[error("Have no net/connection configuration")]
    NoNetConfig,
    /// -14
    #[error("Need a verify algorithm to start online verify")]
    NoVerifyAlg,
    /// -15
    #[error("Need a connection to start verify or resync")]
    NeedConnection,
    /// -16
    #[error("Disk state is lower than outdated")]
    LowerThanOutdated,
    /// -17
    #[error("Peer does not support protocol")]
    NotSupported,
    /// -18
    #[error("In transient state, retry after next state change")]
    InTransientState,
    /// -19; only on the wire
    #[error("Concurrent state changes detected and aborted")]
    ConcurrentStChg,
    /// -20
    #[error("Other vol primary on peer not allowed by config")]
    OVolPeerPri,
    /// -21
    #[error("Need a connection for a graceful disconnect/outdate peer")]
    OutdateWoConn,
}

impl Refusal {
    /// Every refusal, by falling number.
    pub const ALL: [Self; 20] = [
        Self::TwoPrimaries,
        Self::NoUpToDateDisk,
        Self::NoLocalDisk,
        Self::NoRemoteDisk,
        Self::ConnectedOutdates,
        Self::PrimaryNop,
        Self::ResyncRunning,
        Self::AlreadyStandalone,
        Self::CwFailedByPeer,
        Self::IsDiskless,
        Self::DeviceInUse,
        Self::NoNetConfig,
        Self::NoVerifyAlg,
        Self::NeedConnection,
        Self::LowerThanOutdated,
        Self::NotSupported,
        Self::InTransientState,
        Self::ConcurrentStChg,
        Self::OVolPeerPri,
        Self::OutdateWoConn,
    ];

    /// DRBD's number; negative, and there is no -3.
    pub fn number(self) -> i32 {
        match self {
            Self::TwoPrimaries => -1,
            Self::NoUpToDateDisk => -2,
            Self::NoLocalDisk => -4,
            Self::NoRemoteDisk => -5,
            Self::ConnectedOutdates => -6,
            Self::PrimaryNop => -7,
            Self::ResyncRunning => -8,
            Self::AlreadyStandalone => -9,
            Self::CwFailedByPeer => -10,
            Self::IsDiskless => -11,
            Self::DeviceInUse => -12,
            Self::NoNetConfig => -13,
            Self::NoVerifyAlg => -14,
            Self::NeedConnection => -15,
            Self::LowerThanOutdated => -16,
            Self::NotSupported => -17,
            Self::InTransientState => -18,
            Self::ConcurrentStChg => -19,
            Self::OVolPeerPri => -20,
            Self::OutdateWoConn => -21,
        }
    }

    /// The refusal with DRBD's number, for answers that come over the wire.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.number() == number)
    }

    /// The exit code of `drbdsetup` for it: 5, 16 and 17 tell fence scripts what they want to know, else 11.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::LowerThanOutdated => 5,
            Self::NoLocalDisk => 16,
            Self::NoUpToDateDisk => 17,
            _ => 11,
        }
    }

    /// What the operator can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::TwoPrimaries => "demote one of the two nodes first: `mendblock secondary` there",
            Self::NoUpToDateDisk => {
                "connect to the node that has UpToDate data; if there is none, \"primary --force\" takes the own data as good"
            }
            Self::NoLocalDisk => "attach the local disk first; \"why\" shows why it is not there",
            Self::NoRemoteDisk => {
                "attach the peer's disk first; \"why\" on the peer shows why it is not there"
            }
            Self::ConnectedOutdates => {
                "disconnect first; a connected node learns from its peer whether it is outdated"
            }
            Self::PrimaryNop => {
                "fence the peer (fence-peer handler), or make sure that it is down and use \"primary --force\""
            }
            Self::ResyncRunning => "wait until the running resync or verify has ended",
            Self::AlreadyStandalone => "nothing to disconnect",
            Self::CwFailedByPeer => "ask the peer with \"why\" for its reason",
            Self::IsDiskless => "attach a disk first",
            Self::DeviceInUse => "disconnect the clients of the volume first",
            Self::NoNetConfig => "use \"connect\" first",
            Self::NoVerifyAlg => "configure verify-alg",
            Self::NeedConnection => "connect to the peer first",
            Self::LowerThanOutdated => "the data is not consistent, so it cannot be used alone anyway",
            Self::NotSupported => "update the peer",
            Self::InTransientState => "wait for the change that is going on and try again",
            Self::ConcurrentStChg => "the peer's own change goes first; try again",
            Self::OVolPeerPri => "demote all volumes of the peer first: `mendblock secondary` there",
            Self::OutdateWoConn => "the connection is already lost; disconnect without outdating the peer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_drbds_and_unique() {
        let numbers: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.number()).collect();
        let expected: Vec<_> = (-21..=-1).rev().filter(|number| *number != -3).collect();
        assert_eq!(numbers, expected);
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_number(refusal.number()), Some(refusal));
        }
        assert_eq!((Refusal::from_number(-3), Refusal::from_number(1)), (None, None));
    }

    #[test]
    fn exit_codes_for_fence_scripts() {
        let code = |number| Refusal::from_number(number).unwrap().exit_code();
        assert_eq!((code(-16), code(-4), code(-2), code(-6)), (5, 16, 17, 11));
    }

    #[test]
    fn text_and_serialised_name() {
        assert_eq!(
            Refusal::PrimaryNop.to_string(),
            "Refusing to be Primary while peer is not outdated"
        );
        assert_eq!(
            serde_json::to_string(&Refusal::NoUpToDateDisk).unwrap(),
            "\"NO_UP_TO_DATE_DISK\""
        );
        assert_eq!(
            serde_json::to_string(&Refusal::OVolPeerPri).unwrap(),
            "\"O_VOL_PEER_PRI\""
        );
    }
}
