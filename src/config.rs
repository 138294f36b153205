//! The configuration: one file, composed of what each room owns, with every mistake reported at once.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{action, admin, audit, control, judge, listener, policy, reassess, session, store, tls, upstream};

/// The whole configuration file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// In the policy's input and in every record: production, staging, test.
    pub environment: String,
    pub identity: tls::Config,
    pub listeners: Vec<listener::Config>,
    pub upstreams: BTreeMap<String, upstream::Config>,
    pub policy: policy::Config,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub address_lists: judge::AddressLists,
    #[serde(default)]
    pub time_windows: BTreeMap<String, judge::TimeWindow>,
    #[serde(default)]
    pub resources: Vec<action::ResourceRule>,
    #[serde(default)]
    pub workloads: Vec<judge::WorkloadRule>,
    #[serde(default)]
    pub exchanges: reassess::Config,
    #[serde(default)]
    pub sessions: session::Config,
    #[serde(default)]
    pub limits: listener::Limits,
    #[serde(default)]
    pub state: store::Config,
    #[serde(default)]
    pub audit: audit::Config,
    #[serde(default)]
    pub admin: admin::Config,
    #[serde(default)]
    pub control: control::Config,
}
