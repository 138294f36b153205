//! Sessions: everything one workload does under one task, and what policies may know of it. Pure; time is an argument.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::Span;

/// `sessions`: how long and how many are remembered.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A session with no open exchange is forgotten after this.
    pub idle_timeout: Span,
    /// Recent requests remembered of each.
    pub history: usize,
    /// Sessions remembered; beyond it the longest idle one goes first.
    pub max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { idle_timeout: Span::seconds(15 * 60), history: 64, max: 100_000 }
    }
}
