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

// STUB-BEGIN
use std::sync::Arc;
pub struct Probes {
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    pub metrics: Arc<dyn Fn() -> (String, String) + Send + Sync>,
}
pub async fn serve(_listener: std::net::TcpListener, _probes: Probes, mut stop: tokio::sync::watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}
// STUB-END
