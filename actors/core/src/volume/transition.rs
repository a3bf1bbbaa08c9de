//! What may happen to a state vector: silent corrections, checks, refusals.
