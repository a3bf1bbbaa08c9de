//! What decides for one volume.

pub mod generations;
