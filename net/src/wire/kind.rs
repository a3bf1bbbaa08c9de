//! The numbers of the message kinds, fixed for ever, and in which of the sender's two queues each kind waits.

use super::message::Message;

/// Queue of the sender. An urgent message overtakes ordered ones that were queued before it; an ordered message
/// never overtakes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Acknowledgements and keep-alives: others wait for them, and what they say stays true however early it
    /// arrives.
    Urgent,
    /// Data, and everything whose meaning depends on its place between the data: a state after an out-of-sync
    /// notice, a cleared record after the tell that made it.
    Ordered,
}

macro_rules! kinds {
    ($($name:ident = $number:literal, $class:ident;)*) => {
        /// Kind of a message, as numbered in the prelude. A number is never given to another kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "each variant is documented at the variant of Message of the same name")]
        pub enum Kind {
            $($name = $number,)*
        }

        impl Kind {
            /// All kinds, by number.
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            /// The kind of that number, if there is one.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }

            /// The number in the prelude.
            pub fn number(self) -> u16 {
                self as u16
            }

            /// Queue of the sender.
            pub fn class(self) -> Class {
                match self {
                    $(Kind::$name => Class::$class,)*
                }
            }
        }

        impl Message {
            /// Kind of the message.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Message::$name { .. } => Kind::$name,)*
                }
            }
        }
    };
}

kinds! {
    // Connection
    Hello = 1, Urgent;
    Refused = 2, Urgent;
    Ping = 3, Urgent;
    Pong = 4, Urgent;
    // Parameters and state
    Sizes = 16, Ordered;
    BadBlocks = 17, Ordered;
    Generations = 18, Ordered;
    State = 19, Ordered;
    ChangeRequest = 20, Ordered;
    ChangeAnswer = 21, Urgent;
    Parting = 22, Ordered;
    DiskRefused = 23, Ordered;
    // Replication
    Write = 32, Ordered;
    WriteZeroes = 33, Ordered;
    WriteAcks = 34, Urgent;
    WriteNack = 35, Urgent;
    WriteAnsweredWithError = 36, Ordered;
    Barrier = 37, Ordered;
    BarrierAck = 38, Urgent;
    OutOfSync = 39, Ordered;
    Read = 40, Ordered;
    ReadData = 41, Ordered;
    ReadFailed = 42, Ordered;
    // Resync
    BitmapPages = 64, Ordered;
    BitmapEnd = 65, Ordered;
    SyncId = 66, Ordered;
    ResyncRead = 67, Ordered;
    ResyncData = 68, Ordered;
    ResyncFailed = 69, Ordered;
    ResyncWritten = 70, Urgent;
    // Loss of a disk, bad blocks
    Tell = 80, Ordered;
    Told = 81, Urgent;
    Marked = 82, Urgent;
    Cleared = 83, Ordered;
    ClearedAck = 84, Ordered;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_lead_back() {
        assert!(
            Kind::ALL
                .windows(2)
                .all(|pair| pair[0].number() < pair[1].number())
        );
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(*kind));
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(5), None);
    }
}
