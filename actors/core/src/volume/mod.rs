//! One replicated volume: its state vector and what may happen to it.

pub mod state;
pub mod transition;
//! What decides for one volume.

pub mod generations;
