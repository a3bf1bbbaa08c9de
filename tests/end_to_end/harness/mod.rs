//! What the tests stand on: real processes of the real binary, their configuration, their admin API, an NBD client and
//! a checker of what clients were told.

pub mod admin;
pub mod disks;
pub mod events;
pub mod history;
pub mod link;
pub mod load;
pub mod nbd;
pub mod node;
pub mod pair;
pub mod tool;
