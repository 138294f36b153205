//! Where requests go: one endpoint a name, over plain TCP or mutual TLS, HTTP/1.1 or HTTP/2, and the upstream side of a cut.
//!
//! In: a request and the exchange it belongs to. Out: the response head, and the connection back into the pool once its body was
//! read. A cut ends what its exchange has here and nothing else: an HTTP/1.1 connection is reset and writes nothing from then on, an
//! HTTP/2 stream is reset while its siblings flow, so that the upstream learns that its client is gone.
//!
//! ```text
//! config     what is written, and an Upstream made of it        resolve   a name to addresses
//! connect    a Stream: TCP, and TLS with both ends proven       http1     one exchange at a time
//! pool       who gets which connection                          http2     many at once
//! ```

mod config;
mod connect;
mod error;
mod http1;
mod http2;
mod pool;
mod resolve;
mod response;
mod switch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use config::{Config, ConfigError, Expected, Proof, ProtocolConfig, Speaks, TlsConfig, Upstream, Way};
pub use connect::Stream;
pub use error::{Fault, UpstreamError};
pub use pool::{Lease, Pool};
pub use response::Answer;
pub use switch::Switch;

use crate::exchange::Exchange;
use crate::socket::Gate;

/// A gate that shuts when the exchange is cut: for a connection that carries this exchange and no other.
pub fn gate_of(exchange: &Arc<Exchange>) -> Gate {
    let exchange = Arc::clone(exchange);
    Gate::new(move || exchange.cut.cause().is_some())
}
