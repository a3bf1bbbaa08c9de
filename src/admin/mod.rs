//! The admin API: HTTP/1.1 with JSON over a unix socket. [`schema`] is what both sides speak, [`paths`] where.

pub mod exit;
pub mod paths;
pub mod schema;
