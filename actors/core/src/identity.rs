//! The numbers by which parts name things to each other.

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Life of a part, counted by its supervisor from 1.
    PartGeneration
}
number! {
    /// A client session, unique within the process.
    ClientId
}
number! {
    /// Number of a client's request within its session.
    Sequence
}
number! {
    /// Number of a client request in the order of arrival at the volume's ports (over all clients).
    Arrival
}
number! {
    /// A failed completion, numbered by the device's table when it is reaped: ascending. 0 = none.
    ErrorNumber
}
number! {
    /// A mark that `VolumeActor` sent to `BitmapActor`: ascending over all its generations. 0 = none.
    MarkNumber
}
number! {
    /// A connection to the peer, numbered over all generations of `PeerActor`. 0 = none.
    ConnectionNumber
}
number! {
    /// A state snapshot.
    SnapshotNumber
}
number! {
    /// A `Tell` to the peer: ascending. 0 = none.
    TellNumber
}
number! {
    /// A request for an answer between two parts (query, write-out, command): unique per asker.
    Query
}
number! {
    /// One life of the attached disk: random at each attach; 0 = no disk.
    AttachId
}

/// An operation of `VolumeActor` on the lower disk: who submitted it and what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId {
    /// Generation of the holder that submitted it.
    pub generation: PartGeneration,
    /// Number within the holder (a request's slot and its count of use).
    pub request: u64,
}
