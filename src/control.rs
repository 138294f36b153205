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
