//! The policy: bundles read, checked before they may judge, and compiled once for each worker.
//!
//! In: [`Config`] and the entry points that judge. Out: a [`Policy`] (sources, data, footprints) and from it one
//! [`Engine`] a worker, or a [`Report`] with every mistake found. What must stay true: nothing that was not read,
//! checked and compiled as a whole ever judges, and no policy that passed can take the process down with it.

pub mod annotations;
mod builtins;
pub mod bundle;
mod choice;
pub mod engine;
pub mod explain;
mod fitness;
pub mod footprint;
pub mod frameworks;
mod guards;
mod hazard;
mod interpreter;
mod loaded;
mod machine;
mod mask;
mod nesting;
mod patterns;
mod plan;
pub mod preflight;
mod program;
mod results;
pub mod rollback;
mod samples;
pub mod source;
pub mod suite;
mod walk;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::{Size, Span};

pub use bundle::signature::{Key, Signature, Signing};
pub use choice::Chosen;
pub use engine::{Engine, Evaluation, EvaluationError, Kind};
pub use footprint::Footprint;
pub use loaded::Policy;
pub use mask::Masked;
pub use source::{Archives, BundleSource, Origin};

/// `policy`: which bundles judge, by which rule, within which limits.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name → where the bundle comes from. Their roots must not overlap.
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
    /// A second set of bundles, tried on the same requests without effect.
    #[serde(default)]
    pub shadow: Option<ShadowConfig>,
}

/// `policy.shadow`: a policy that judges what the one in force has judged, and changes nothing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowConfig {
    /// Name → where the bundle lies. Their roots must not overlap. They lie on this machine: nothing is fetched for a trial.
    #[schemars(with = "BTreeMap<String, source::LocalKeys>")]
    pub bundles: BTreeMap<String, BundleSource>,
    /// The rule asked for routes that name none of their own; `policy.decision` when absent.
    #[serde(default)]
    pub decision: Option<String>,
    /// How its answer is read; as that of `policy.decision` when it is the same rule.
    #[serde(default)]
    pub result: Option<ResultShape>,
    /// It judges one in this many requests.
    #[serde(default = "every_request")]
    pub sample: u32,
    /// How long one evaluation may take; `policy.limits.time` when absent.
    #[serde(default)]
    pub time: Option<Span>,
}

const fn every_request() -> u32 {
    1
}

impl Config {
    /// Those that judge, and those of the shadow.
    pub fn all_bundles(&mut self) -> impl Iterator<Item = &mut BundleSource> {
        self.bundles.values_mut().chain(self.shadow.iter_mut().flat_map(|shadow| shadow.bundles.values_mut()))
    }

    /// The shadow, as a policy of its own.
    pub fn of_shadow(&self) -> Option<Self> {
        let shadow = self.shadow.as_ref()?;
        let limits = Limits { time: shadow.time.unwrap_or(self.limits.time), ..self.limits.clone() };
        Some(Self { bundles: shadow.bundles.clone(), limits, shadow: None, ..self.clone() })
    }
}

impl ShadowConfig {
    /// What the shadow is asked where the policy in force is asked `entry`; `usual` is `policy.decision`.
    pub fn entry(&self, usual: &str, entry: &Entry) -> Entry {
        match &self.decision {
            Some(decision) if entry.decision == usual => Entry::new(decision, self.result),
            None if entry.decision == usual => Entry { shape: self.result.unwrap_or(entry.shape), ..entry.clone() },
            _ => entry.clone(),
        }
    }
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
    pub about: About,
}

/// What a finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// What stands in bundles, or in the configuration of them.
    #[default]
    Content,
    /// Who vouches for the bundle of this name.
    Signature(String),
    /// That the bundle of this name is older than what was in force.
    Age(String),
}

impl Finding {
    /// A finding about a file as a whole.
    pub(crate) fn whole(file: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, message: message.into(), hint: hint.into(), about: About::Content }
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
    /// The bundles whose signatures it is about, and those that are older than what was in force.
    pub fn signatures_and_ages(&self) -> (Vec<&str>, Vec<&str>) {
        let (mut signatures, mut ages) = (Vec::new(), Vec::new());
        for finding in &self.findings {
            match &finding.about {
                About::Signature(name) => signatures.push(name.as_str()),
                About::Age(name) => ages.push(name.as_str()),
                About::Content => {}
            }
        }
        signatures.dedup();
        ages.dedup();
        (signatures, ages)
    }

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
