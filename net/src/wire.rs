//! The peer protocol: [`message`] says what is said, [`prelude`] and [`frame`] how it lies in the byte stream,
//! [`hello`] whether two nodes may talk. No I/O and no clock here: a simulator passes [`message::Message`]
//! values, [`crate::transport`] moves bytes. The protocol in words: `net/PROTOCOL.md`.

mod check;
pub mod frame;
pub mod hello;
pub mod kind;
pub mod message;
pub mod prelude;
