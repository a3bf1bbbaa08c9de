//! A model check of two nodes. The nodes' state parts are the real ones; what surrounds them is small, and what happens when is
//! tried in every order.
//!
//! Read in this order: [`world`], [`node`], [`neighbours`] and [`volume`] (what surrounds a part), [`action`] (what can
//! happen), [`ledger`] and [`properties`] (what must hold), [`fingerprint`] and [`walker`] (the search).

pub mod action;
pub mod fingerprint;
pub mod ledger;
pub mod neighbours;
pub mod node;
pub mod planted;
pub mod properties;
pub mod starts;
pub mod volume;
pub mod walker;
pub mod world;
