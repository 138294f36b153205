//! The gate as its users meet it: the built app on port 0, real sockets, real TLS.

mod cuts;
mod harness;
mod promises;
mod threats;
mod walk;
