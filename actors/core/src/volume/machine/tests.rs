//! Tests of the state part, named after the rows of the manual's tables.

mod any_order;
mod attach;
mod behaviour;
mod commands;
mod connection;
mod detach;
mod known_bad;
mod offer;
mod restart;
mod spoiled;
mod uncompared;
mod world;
