//! Probes and metrics on plain TCP: `/livez`, `/readyz`, `/metrics`; nothing that changes anything.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

/// `admin`: the plain port for probes and Prometheus.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub address: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9901)) }
    }
}
