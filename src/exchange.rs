//! The registry of open exchanges, the standing kills, and the cut. Std only, so that a model checker can run it.
