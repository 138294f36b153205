//! The control API on a unix socket: what is open, what is killed, what judges; and the calls that change it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// `control`: where operators reach the gate, and who may do what.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A unix socket, made with mode 0600.
    pub socket: PathBuf,
    /// Name → how a caller is known as that person. Without any, only root and the gate's own uid may call, as `uid:N`.
    pub operators: BTreeMap<String, Operator>,
    pub roles: Roles,
}

impl Default for Config {
    fn default() -> Self {
        Self { socket: PathBuf::from("portcullis.sock"), operators: BTreeMap::new(), roles: Roles::default() }
    }
}

/// One person: known by the uid of the process that calls.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    pub uid: u32,
}

/// Which operators may do what. A caller without a name may only view.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Kill, lift kills, activate and roll back policy.
    pub operate: Vec<String>,
}

// STUB-BEGIN
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot, watch};
pub struct Control {
    pub door: Arc<crate::kill::Door>,
    pub sessions: Arc<crate::session::Sessions>,
    pub audit: crate::audit::Audit,
    pub status: Arc<StatusBoard>,
    pub orders: mpsc::Sender<Order>,
    pub config: Config,
}
pub enum Order {
    Activate { dry_run: bool, reply: oneshot::Sender<Result<Activated, String>> },
    Rollback { dry_run: bool, reply: oneshot::Sender<Result<Activated, String>> },
    Exchanges { reply: oneshot::Sender<Vec<ExchangeRow>> },
}
pub struct Activated {
    pub generation: Option<u64>,
    pub open: usize,
    pub cut: usize,
    pub revisions: BTreeMap<String, String>,
    pub dry_run: bool,
}
pub struct ExchangeRow {
    pub id: String,
    pub spiffe_id: String,
    pub session: String,
    pub listener: String,
    pub protocol: String,
    pub method: String,
    pub host: String,
    pub path: String,
    pub upstream: Option<String>,
    pub status: Option<u16>,
    pub age_seconds: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub generation: u64,
}
#[derive(Default)]
pub struct StatusBoard(Mutex<Status>);
#[derive(Default, Clone)]
pub struct Status {
    pub version: String,
    pub environment: String,
    pub started: u64,
    pub draining: bool,
    pub ready: bool,
    pub listeners: Vec<(String, String)>,
    pub svid: SvidStatus,
    pub policy: PolicyStatus,
}
#[derive(Default, Clone)]
pub struct SvidStatus {
    pub spiffe_id: String,
    pub not_after: u64,
}
#[derive(Default, Clone)]
pub struct PolicyStatus {
    pub generation: u64,
    pub activated_at: u64,
    pub revisions: BTreeMap<String, String>,
    pub entries: Vec<EntryStatus>,
    pub warnings: Vec<String>,
    pub last_error: Option<PolicyError>,
}
#[derive(Default, Clone)]
pub struct EntryStatus {
    pub decision: String,
    pub reads: Vec<ReadStatus>,
    pub whole: bool,
    pub clock: bool,
    pub builtins: Vec<String>,
    pub engine: String,
}
#[derive(Default, Clone)]
pub struct ReadStatus {
    pub path: String,
    pub place: String,
}
#[derive(Default, Clone)]
pub struct PolicyError {
    pub at: u64,
    pub report: String,
}
impl StatusBoard {
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
    pub fn read(&self) -> Status {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct ControlError;
pub fn bind(config: &Config) -> Result<std::os::unix::net::UnixListener, ControlError> {
    std::os::unix::net::UnixListener::bind(&config.socket).map_err(|_| ControlError)
}
pub async fn serve(_socket: std::os::unix::net::UnixListener, _control: Control, mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}
// STUB-END
