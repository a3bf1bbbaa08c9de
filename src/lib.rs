//! Mendblock, a replicated block-storage node in user space: its configuration, its commands and its admin API.

pub mod admin;
pub mod cli;
pub mod configuration;
pub mod demo;
pub mod node;
pub mod offline;
