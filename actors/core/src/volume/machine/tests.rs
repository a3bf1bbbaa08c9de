//! Tests of the state part, named after the rows of the manual's tables.

mod detach;
mod world;
