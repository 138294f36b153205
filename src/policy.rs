//! The policy: bundles read, checked before they may judge, and compiled once for each worker.
//!
//! In: [`Config`] and the entry points that judge. Out: a [`engine::Policy`] (sources, data, footprints) and from it one
//! [`engine::Engine`] a worker, or a [`Report`] with every mistake found. What must stay true: nothing that was not read,
//! checked and compiled as a whole ever judges, and no policy that passed can take the process down with it.

mod builtins;
pub mod bundle;
pub mod engine;
pub mod explain;
mod fitness;
pub mod footprint;
mod guards;
mod hazard;
mod machine;
mod mask;
mod nesting;
mod patterns;
pub mod preflight;
mod program;
mod results;
mod samples;
pub mod suite;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::{Size, Span};

pub use engine::{Chosen, Engine, Evaluation, EvaluationError, Kind, Policy};
pub use footprint::Footprint;
pub use mask::Masked;

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
    #[serde(default)]
    pub engine: EngineChoice,
    #[serde(default)]
    pub tests: TestChoice,
    /// How much each worker may keep of verdicts given before, to answer equal questions without judging again; 0 turns it off. Only
    /// verdicts of policies that ask neither clock nor chance are kept, each under exactly the values the policy can read.
    #[serde(default = "default_reuse")]
    pub reuse: Size,
}

/// What the bundles' own `test_` rules count for.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum TestChoice {
    /// Nothing: `portcullis test` runs them.
    #[default]
    Ignore,
    /// Each must pass before a set of bundles may judge, within ten seconds; a set without any may not.
    Require,
}

/// Which engine may judge.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// The bytecode VM wherever it is known to answer as the interpreter does, the interpreter elsewhere.
    #[default]
    Auto,
    /// The interpreter alone.
    Interpreter,
}

fn default_reuse() -> Size {
    Size::mib(4)
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

/// One rule that judges, and how its answer is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// A rule as a path: `portcullis/decision`.
    pub decision: String,
    pub shape: ResultShape,
}

impl Entry {
    /// The entry for a decision path; without a shape, `envoy/…` answers as opa-envoy-plugin does and all else as ours.
    pub fn new(decision: &str, shape: Option<ResultShape>) -> Self {
        let usual = if decision.starts_with("envoy/") { ResultShape::Envoy } else { ResultShape::Portcullis };
        Self { decision: decision.to_owned(), shape: shape.unwrap_or(usual) }
    }
}

/// One mistake, or one warning, with its place and the next step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, or the key of the configuration, it is about.
    pub file: String,
    /// One-based; 0 when the finding is about the file as a whole.
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// What to do about it; empty when the message says it all.
    pub hint: String,
}

impl Finding {
    /// A finding about a file as a whole.
    pub(crate) fn whole(file: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message)?,
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message)?,
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n    hint: {}", self.hint) }
    }
}

/// Every mistake of a set of bundles at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report in reading order, each finding once.
    pub(crate) fn sorted(mut findings: Vec<Finding>) -> Self {
        findings.sort();
        findings.dedup();
        Self { findings }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
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
