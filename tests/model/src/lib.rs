//! The promises of `src/exchange.rs`, kept in whatever order threads and memory run its steps.
//!
//! ```text
//! cargo test --manifest-path tests/model/Cargo.toml
//! ```
//!
//! In: the very files the gate is built from (`src/exchange.rs`, `src/exchange/{cut,standing}.rs`, `src/decision.rs`), with loom's
//! mutexes and atomics in place of std's. Out: a panic that names the promise and the order of steps that broke it, or nothing.
//! A stress test runs the likely orders a million times, this runs each that matters. Bounded is only how often a thread is stopped
//! where it could have gone on: each model says how often it bears to be, `LOOM_MAX_PREEMPTIONS=5` looks further. To read the steps of
//! an order that fails: `LOOM_LOG=trace LOOM_LOCATION=1 LOOM_MAX_PREEMPTIONS=3`, the name of one model, and the end of the output.
//!
//! loom takes SeqCst for little more than acquire and release, so what is shown here leans on locks, not on a total order of atomics.

// What the gate's files call `loom` is this package: its mutexes and atomics, see there.
extern crate self as loom;
pub mod sync;

// A directory for a path, so that `mod cut;` in exchange.rs is looked for where it is and the files stay as the gate has them.
#[path = "../../../src"]
mod house {
    pub mod decision;
    pub mod exchange;
}

pub use house::{decision, exchange};

#[cfg(test)]
mod activation;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod killing;
#[cfg(test)]
mod lifting;
#[cfg(test)]
mod stage;
