//! Ports: what the kernel or a client still holds the other end of. They outlive the actors that use them; each has one user
//! at a time, and only shells and [`crate::wiring`] touch them.

pub mod client;
pub mod disk;
pub mod health;
pub mod helper;
pub mod peer;
pub mod snapshot;
