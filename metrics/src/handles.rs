//! Handles of series, registered once. They are cheap to clone and may go to any thread.

pub mod node;
pub mod peer;
pub mod volume;
