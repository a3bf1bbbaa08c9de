//! actors/core

pub mod volume;
