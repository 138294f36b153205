//! The policy: bundles read, checked before they may judge, and compiled once for each worker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::{Size, Span};

/// `policy`: which bundles judge, by which rule, within which limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name → where the bundle lies. Their roots must not overlap.
    pub bundles: BTreeMap<String, BundleSource>,
    /// The rule that decides, as a path: portcullis/decision.
    #[serde(default = "default_decision")]
    pub decision: String,
    /// How its answer is read; `envoy` by default when the path starts with envoy/.
    #[serde(default)]
    pub result: Option<ResultShape>,
    /// Scopes a policy may ask a kill for.
    #[serde(default)]
    pub may_kill: Vec<KillScope>,
    #[serde(default)]
    pub limits: Limits,
}

fn default_decision() -> String {
    "portcullis/decision".to_owned()
}

/// Where a bundle lies on disk.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BundleSource {
    /// A directory, or a .tar.gz bundle; looked at again when it changes.
    pub path: PathBuf,
}

/// How a policy's answer is read.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum ResultShape {
    /// A boolean or an object; unknown keys and wrong types deny.
    Portcullis,
    /// As opa-envoy-plugin reads it; extra keys are ignored.
    Envoy,
}

/// A scope a policy may ask a kill for.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum KillScope {
    Exchange,
    Session,
    Identity,
}

/// Bounds of one evaluation.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How long one evaluation may take; then it is a deny.
    pub time: Span,
    /// The largest body that is buffered for a policy that reads it; a larger one is a deny.
    pub body: Size,
    /// How deep a parsed body may nest.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Span::millis(20), body: Size::mib(1), depth: 64 }
    }
}
