//! actors/core
