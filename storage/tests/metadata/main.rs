//! The meta-data as others see them: golden vectors, properties, a real `drbdmeta`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(feature = "devices")]
mod drbdmeta;
mod golden;
#[cfg(feature = "devices")]
mod offline;
mod properties;
mod vectors;
