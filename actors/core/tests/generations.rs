//! The generation rules against DRBD 8.4's answers (`vectors/generations.json`), rule by rule, and in random histories.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod generations {
    mod beyond;
    mod histories;
    mod node;
    mod pair;
    mod rules;
    mod sequences;
    mod vectors;
}
