//! Mendblock, a replicated block-storage node in user space: its configuration, its commands and its admin API.

pub mod configuration;
