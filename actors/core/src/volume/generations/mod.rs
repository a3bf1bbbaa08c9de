//! Which copy of the data is newer, and how two nodes agree on it.
//!
//! Every volume keeps four generation identifiers on each node's disk ([`Identifiers`]). Bits of the bitmap say
//! *where* two copies may differ; identifiers say *who* is newer, and whether the bitmap counts from the
//! other's generation at all. The rules are DRBD 8.4's (two nodes, v08 meta-data) and carry its rule numbers; what
//! goes beyond it is marked "ours".
//!
//! | File | Subject |
//! |---|---|
//! | [`identifiers`] | the four slots and the operations that change them |
//! | [`mod@compare`] | both slot sets -> rule and result, the same on both nodes with the sides swapped |
//! | [`handshake`] | result, disks and policies -> connection state, full sync, handlers |
//! | [`after_split_brain`] | the automatic policies for a split brain |
//! | [`exposed`] | the generation that this node's application has seen: which data a diskless Primary may use |
//! | [`promotion`] | no promotion while a newer, unattached disk is known |
//!
//! Nothing here does I/O or draws random numbers; what must be durable before it is told stands at each operation.

pub mod after_split_brain;
pub mod compare;
pub mod exposed;
pub mod handshake;
pub mod identifiers;
pub mod promotion;

pub use compare::{Agreed, Answer, Comparison, Outcome, Rule, Side, Verdict, compare};
pub use handshake::{Decision, Handshake, NegotiatedDisk, decide};
pub use identifiers::{Generation, Identifiers};
