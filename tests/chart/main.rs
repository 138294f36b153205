//! The chart as its users meet it: rendered by the real Helm, checked by the real gate, watched by a real Prometheus.
//!
//! `PORTCULLIS_WRITE=1 cargo test --test chart` writes what is generated: the golden files, and the gate's part of
//! `values.schema.json`. Look at the difference before it is committed.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking, and says where")]

mod alerts;
mod helm;
mod image;
mod objects;
mod queries;
mod rendered;
mod values;
