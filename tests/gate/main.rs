//! The gate as its users meet it: the built app on port 0, real sockets, real TLS.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test fails by panicking, and says where"
)]

mod anomaly;
mod bundles;
mod cuts;
mod delivery;
mod deny;
mod drops;
mod examples;
mod forward;
mod grpc;
mod harness;
mod killed;
mod life;
mod masks;
mod promises;
mod readers;
mod record;
mod review;
mod rollback;
mod shadow;
mod spire;
mod story;
mod swaps;
mod threats;
mod upstreams;
mod verdicts;
mod walk;
mod websocket;
