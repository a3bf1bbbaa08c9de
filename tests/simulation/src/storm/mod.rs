//! Storms: everything at random, from one seed. A storm is a *plan*, a list of actions that can be shown, shortened and kept
//! as a regression; the *atlas* decides, while it runs, which of them the promises cover at that moment.
//!
//! Read in this order: [`action`], [`moment`], [`plan`] and [`scenes`] (what a seed draws), [`atlas`], [`run`] (what is checked), [`shrink`].

pub mod action;
pub mod atlas;
mod endings;
pub mod moment;
pub mod plan;
pub mod planted;
pub mod run;
pub mod scenes;
pub mod shrink;
pub mod table;
