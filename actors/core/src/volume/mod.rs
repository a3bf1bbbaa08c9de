//! One replicated volume: its state vector, which copy is newer, and the part that changes its state.

pub mod generations;
pub mod machine;
pub mod state;
pub mod transition;
