//! One exchange, top to bottom.

pub mod edit;
pub mod normalise;
pub mod route;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::policy::ResultShape;

/// One of a listener's `routes`. The first whose hosts and path prefix match takes the request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    pub name: String,
    /// Exact names, `*.example.org` for any one label, or `*`.
    #[serde(default = "any_host")]
    pub hosts: Vec<String>,
    /// Whole segments: /v1 takes /v1 and /v1/users, not /v10.
    #[serde(default = "root")]
    pub path_prefix: String,
    /// A name of `upstreams`.
    pub upstream: String,
    #[serde(default)]
    pub enforcement: EnforcementConfig,
    /// Another rule than `policy.decision`.
    #[serde(default)]
    pub decision: Option<String>,
    #[serde(default)]
    pub result: Option<ResultShape>,
}

/// Whether a denial by policy blocks, or is only recorded. Identity, normalising and kills block either way.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum EnforcementConfig {
    #[default]
    Enforce,
    Observe,
}

fn any_host() -> Vec<String> {
    vec!["*".to_owned()]
}

fn root() -> String {
    "/".to_owned()
}
