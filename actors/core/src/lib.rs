//! What decides: pure parts without I/O, clock or randomness.

pub mod volume;
