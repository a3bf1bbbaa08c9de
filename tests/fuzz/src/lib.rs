//! A mutation fuzzer for everything that reads bytes from outside: clients, peers, disks, files, people.
//!
//! No coverage: novelty is told by the *outcome* of an input ([`target::Probe::outline`]). What it lacks in
//! guidance it makes up by knowing the formats: a target repairs lengths and checksums ([`target::Target::seal`]) and
//! changes parts of a format as such ([`target::Target::restructure`]). See `README.md`.

mod allocation;
pub mod corpus;
pub mod execute;
pub mod mutate;
pub mod run;
pub mod shrink;
pub mod target;
pub mod targets;
pub mod text;
pub mod watchdog;
