//! Accept → TLS → peer → wire → hyper.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::proxy::RouteConfig;
use crate::tls::MinimumVersion;
use crate::units::{Size, Span};

/// One of `listeners`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub name: String,
    /// 0.0.0.0:8443; port 0 takes a free one.
    pub address: SocketAddr,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub identity: IdentityFrom,
    /// Whose peers may connect; each is checked against its own bundle. Our own domain when absent.
    #[serde(default)]
    pub trust_domains: Vec<String>,
    /// A certificate that lives longer is refused.
    #[serde(default)]
    pub max_svid_lifetime: Option<Span>,
    #[serde(default)]
    pub minimum_tls: MinimumVersion,
    /// TLS server names we answer to; another one gets 421. Every name when absent.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// For load balancers without an SVID: ready or not, nothing else, never forwarded.
    #[serde(default)]
    pub health: Option<Health>,
    /// A last `event: portcullis` before a cut server-sent event stream ends.
    #[serde(default)]
    pub sse_last_event: bool,
    pub routes: Vec<RouteConfig>,
}

/// Where the listener stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In front of a service.
    #[default]
    Reverse,
}

/// Where a listener learns who is calling.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum IdentityFrom {
    /// The peer's X.509-SVID, from mTLS.
    #[default]
    Peer,
}

/// `health`: a path that answers whether the gate is ready, to callers without a certificate as well.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub path: String,
}

/// `limits`: how much of the gate one peer, and all of them, may hold.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// From the first byte of a head to its end, and for a TLS handshake.
    pub header_timeout: Span,
    pub header_bytes: Size,
    pub headers: usize,
    /// Handshakes at a time.
    pub handshakes: usize,
    pub connections: usize,
    /// HTTP/2 streams of one connection.
    pub streams: u32,
    /// How long a connection may idle between requests.
    pub idle_timeout: Span,
    pub per_identity: PerIdentity,
    /// How long open exchanges may go on after SIGTERM.
    pub drain: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Span::seconds(10),
            header_bytes: Size::kib(64),
            headers: 100,
            handshakes: 256,
            connections: 20_000,
            streams: 100,
            idle_timeout: Span::seconds(300),
            per_identity: PerIdentity::default(),
            drain: Span::seconds(30),
        }
    }
}

/// What one SPIFFE ID may hold at a time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PerIdentity {
    pub connections: usize,
    pub exchanges: usize,
}

impl Default for PerIdentity {
    fn default() -> Self {
        Self { connections: 200, exchanges: 1000 }
    }
}
