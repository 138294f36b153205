//! Anomaly rules: what a session does, watched while it does it. Pure; time and randomness are arguments.
//!
//! In: requests when they are asked, bytes while they flow, denials. Out: which rules fired and why; whoever asked acts on it, because
//! the one door of cuts is not opened from here. What must stay true: a request counts from the moment it is asked and not when it
//! ends, so that a thousand open streams are a thousand requests; and everything that is remembered of a session is bounded by the
//! configuration, whatever the session does. What is remembered is kept with the session and goes with it.

mod explain;
mod known;
mod memory;
mod rules;
mod sequence;
mod volume;
mod watch;
mod window;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::action::{Effect, Sensitivity};
use crate::spiffe::Pattern;
use crate::units::{Size, Span};

pub use explain::{Explanation, FiringRow, MarkRow, RuleRow};
pub use rules::{Rule, Rules};
pub use watch::{Asked, Direction, Fired, Found, Reading, Watch, Where};

/// `anomaly`: rules over what a session does.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a session is only learned from before a rule of `first_seen` fires; the policy reads it as `anomaly.learning`.
    pub learning: Span,
    /// A rule that fired counts with its whole score for this long.
    pub holds: Span,
    /// After that its score halves in each of these.
    pub half_life: Span,
    /// What was learned of a session is kept this long after the session idled out.
    pub remembers: Span,
    pub rules: Vec<RuleConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            learning: Span::seconds(24 * 3600),
            holds: Span::seconds(300),
            half_life: Span::seconds(300),
            remembers: Span::seconds(7 * 86_400),
            rules: Vec::new(),
        }
    }
}

/// One rule: whom it is about, exactly one kind with its numbers, and what it does.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// In metrics, records and the policy's input.
    pub name: String,
    /// Whom it is about; everybody when absent.
    #[serde(default)]
    pub spiffe_ids: Vec<Pattern>,
    /// Names of listeners; all when absent.
    #[serde(default)]
    pub listeners: Vec<String>,
    /// Names of routes; all when absent.
    #[serde(default)]
    pub routes: Vec<String>,
    #[serde(default)]
    pub rate: Option<RateConfig>,
    #[serde(default)]
    pub burst: Option<BurstConfig>,
    #[serde(default)]
    pub first_seen: Option<FirstSeenConfig>,
    #[serde(default)]
    pub volume: Option<VolumeConfig>,
    #[serde(default)]
    pub denied_burst: Option<DeniedBurstConfig>,
    #[serde(default)]
    pub fan_out: Option<FanOutConfig>,
    #[serde(default)]
    pub escalation: Option<EscalationConfig>,
    #[serde(default)]
    pub sequence: Option<SequenceConfig>,
    pub action: Action,
    /// What `action: score` adds, from 0 to 1. Rules that hold together give 1 - (1 - a)(1 - b).
    #[serde(default)]
    pub score: Option<f64>,
    /// How long a kill of a session or an identity stands; until it is lifted when absent.
    #[serde(default)]
    pub ttl: Option<Span>,
    /// Records that it fired, and does nothing.
    #[serde(default)]
    pub observe: bool,
}

/// What a rule does when it fires.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Raises `anomaly.score`, which the policy may read.
    Score,
    /// Refuses the request that fired.
    Deny,
    /// Ends the exchange that fired.
    KillExchange,
    /// Cuts everything the session has open, and admits nothing of it until the kill ends or is lifted.
    KillSession,
    /// The same for everything that bears the SPIFFE ID.
    KillIdentity,
}

impl Action {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Deny => "deny",
            Self::KillExchange => "kill_exchange",
            Self::KillSession => "kill_session",
            Self::KillIdentity => "kill_identity",
        }
    }
}

/// More requests than that within a window.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// As many are no anomaly yet.
    pub requests: u32,
    /// A sliding window. A request leaves it after 7/8 of it at the earliest.
    pub within: Span,
}

/// More requests at once than a bucket of tokens holds.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BurstConfig {
    /// Tokens in a full bucket; a request takes one.
    pub requests: u32,
    /// One token comes back in each of these.
    pub every: Span,
}

/// Something the session never did before.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FirstSeenConfig {
    pub of: SeenOf,
    /// Another learning period than `anomaly.learning`.
    #[serde(default)]
    pub learning: Option<Span>,
    /// How many are remembered of each session; beyond it the one not seen longest is forgotten.
    #[serde(default = "known")]
    pub known: usize,
}

const fn known() -> usize {
    64
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SeenOf {
    /// The request's host: its destination.
    Host,
    Method,
    /// The `type` of its row in `resources`.
    Resource,
}

/// More bytes in a window than the session's own windows before it led to expect.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    pub of: VolumeOf,
    /// Bytes are counted in windows of this, one after the other. Windows without a byte do not count.
    pub window: Span,
    /// How many deviations above the moving average are an anomaly.
    #[serde(default = "deviations")]
    pub deviations: u32,
    /// As many bytes in a window are never an anomaly.
    pub least: Size,
    /// Windows that only teach, before the first can be an anomaly.
    #[serde(default = "warm_up")]
    pub warm_up: u32,
}

const fn deviations() -> u32 {
    4
}

const fn warm_up() -> u32 {
    5
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum VolumeOf {
    /// Request bodies.
    BytesIn,
    /// Response bodies.
    BytesOut,
}

/// As many denials within a window. What a kill or an anomaly rule refused is not counted, nor are faults of the gate.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct DeniedBurstConfig {
    /// The denial that makes it this many fires.
    pub denials: u32,
    /// A sliding window. A denial leaves it after 7/8 of it at the earliest.
    pub within: Span,
}

/// More different things than that within a window.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FanOutConfig {
    pub of: SpreadOf,
    /// As many are no anomaly yet. Counted exactly, with room for one more than this.
    pub distinct: usize,
    pub within: Span,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SpreadOf {
    /// Each path on each host.
    Path,
    Host,
    /// The `type` of a row in `resources`.
    Resource,
}

/// More than the session ever did before. Its first request is where it starts from.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EscalationConfig {
    pub of: RiseOf,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum RiseOf {
    /// From read to write to destroy.
    Effect,
    /// From low to medium to high.
    Sensitivity,
}

/// Requests in this order, with others between them.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SequenceConfig {
    /// From the first step to the last.
    pub within: Span,
    /// Two to eight. One request is never two steps.
    pub steps: Vec<StepConfig>,
}

/// One step of a sequence.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct StepConfig {
    /// What the request is; any when absent.
    pub r#match: MatchConfig,
    /// And what it is not.
    pub not: Option<MatchConfig>,
    /// No such request may stand between the step before and this one; `{}`: none at all.
    pub without: Option<MatchConfig>,
}

/// Requests with all of these; what is absent matches everything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct MatchConfig {
    /// Exact, or `*.example.org` for any one label.
    pub hosts: Vec<String>,
    /// `*` stands for one whole segment, a last `**` for any rest.
    pub path: Option<String>,
    pub methods: Vec<String>,
    /// Values of `type` in `resources`.
    pub resources: Vec<String>,
    pub sensitivities: Vec<Sensitivity>,
    pub effects: Vec<Effect>,
}

#[cfg(test)]
mod tests;
