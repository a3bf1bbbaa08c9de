//! One replicated volume: its state vector and what may happen to it.

pub mod state;
pub mod transition;
