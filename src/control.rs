//! The control API on a unix socket: what is open, what is killed, what judges; and the calls that change it.
//!
//! In: HTTP/1.1 over a socket of mode 0600, from callers the kernel names by uid. Out: JSON, and a line in the record for every call,
//! refused ones included. What must stay true: whoever may not operate changes nothing; a call that began is carried to its end and
//! recorded, also when its caller hangs up meanwhile; views never take the room of kills.
//! Not a TCP port: an agent shares the network of its sidecar, and what can change enforcement must not be reachable there.
//!
//! ```text
//! serve      accept → uid → caller      calls      name, role, limits, record      kills, activation, views      answers
//! ```

mod activation;
pub mod answers;
mod body;
mod caller;
mod calls;
mod kills;
mod reply;
mod report;
mod serve;
mod socket;
pub mod status;
mod views;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::anomaly::Watch;
use crate::audit::Audit;
use crate::judge::shadow::Shadow;
use crate::kill::Door;
use crate::session::Sessions;

pub use answers::{Activated, ExchangeRow};
pub use report::{StatusConfig, report};
pub use serve::serve;
pub use socket::{ControlError, bind};
pub use status::{
    BundleStatus, DeliveryStatus, EntryStatus, FaultKind, IdentityStatus, ListenerStatus, PolicyStatus, Read, ServiceError,
    SignatureStatus, SourceFault, Status, StatusBoard, SvidStatus, Unloaded,
};

/// `control`: where operators reach the gate, and who may do what.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
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
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    pub uid: u32,
}

/// Which operators may do what. A caller without a name may only view.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Kill, lift kills, activate and roll back policy.
    pub operate: Vec<String>,
}

/// What the API acts on.
#[derive(Debug)]
pub struct Control {
    pub door: Arc<Door>,
    pub sessions: Arc<Sessions<Watch>>,
    pub audit: Audit,
    pub status: Arc<StatusBoard>,
    pub shadow: Arc<Shadow>,
    /// Whoever can activate and knows what is open.
    pub orders: mpsc::Sender<Order>,
    pub config: Config,
}

/// What only the builder of the gate can do or tell. A reply nobody waits for any more may be dropped.
#[derive(Debug)]
pub enum Order {
    /// Reads configuration and bundles anew and puts them in force. The error is the report, one finding a line.
    Activate {
        dry_run: bool,
        /// Bundles that may be older than what was in force.
        allow_rollback: Vec<String>,
        reply: oneshot::Sender<Result<Activated, String>>,
    },
    /// Puts the generation before this one in force again.
    Rollback {
        dry_run: bool,
        reply: oneshot::Sender<Result<Activated, String>>,
    },
    Exchanges {
        reply: oneshot::Sender<Vec<ExchangeRow>>,
    },
}

#[cfg(test)]
pub(crate) mod tests;
