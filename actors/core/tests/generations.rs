//! The generation rules against DRBD 8.4's answers (`vectors/generations.json`), rule by rule, and in random histories.

mod generations {
    mod beyond;
    mod histories;
    mod rules;
    mod sequences;
    mod vectors;
}
