//! net
pub mod nbd;
