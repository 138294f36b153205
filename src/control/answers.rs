//! What goes over the control socket, both ways: the one description that the API writes by and the command line reads by.
//!
//! Field names are a contract. Times are Unix seconds, ages are whole seconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::status::{BundleStatus, DeliveryStatus, IdentityStatus, ListenerStatus, SignatureStatus, SvidStatus, Unloaded};
use crate::anomaly::Explanation;
use crate::exchange::Selector;
use crate::judge::shadow::{Group, Observed, Tally};
use crate::session::{Summary, View};
use crate::units::Span;

pub use super::status::PolicyStatus;
pub use crate::kill::Outcome as Killed;

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    pub version: String,
    pub environment: String,
    pub started: u64,
    pub ready: bool,
    pub draining: bool,
    pub listeners: Vec<ListenerStatus>,
    pub svid: Option<SvidStatus>,
    pub identity: IdentityStatus,
    pub generation: u64,
    pub activated_at: u64,
    /// By an operator's rollback: something newer is there.
    #[serde(default)]
    pub rolled_back: bool,
    pub revisions: BTreeMap<String, String>,
    /// Bundle → who vouches for it; what is not signed is not here.
    #[serde(default)]
    pub signatures: BTreeMap<String, SignatureStatus>,
    pub warnings: usize,
    pub last_error: Option<Unloaded>,
    /// Those that come from services.
    pub bundles: Vec<BundleStatus>,
    /// `None` where nobody but the file gets the record's lines.
    #[serde(default)]
    pub delivery: Option<DeliveryStatus>,
    /// `None` where the configuration names no shadow policy.
    #[serde(default)]
    pub shadow: Option<ShadowBrief>,
    pub connections: usize,
    pub exchanges: usize,
    pub sessions: usize,
    pub kills: usize,
    pub you: You,
}

/// A shadow policy in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowBrief {
    /// Counted on its own; 0 before one could be loaded.
    pub generation: u64,
    pub activated_at: u64,
    /// Another one is being loaded.
    #[serde(default)]
    pub loading: bool,
    pub revisions: BTreeMap<String, String>,
    pub last_error: Option<Unloaded>,
}

/// `GET /v1/policy`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyAnswer {
    #[serde(flatten)]
    pub policy: PolicyStatus,
    /// What is tried beside it.
    #[serde(default)]
    pub shadow: Option<PolicyStatus>,
}

/// `GET /v1/policy/shadow`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowAnswer {
    pub shadow: Option<ShadowBrief>,
    /// Requests both policies judged, since this shadow does.
    pub compared: u64,
    pub disagreed: u64,
    /// Requests the shadow did not judge, by why.
    pub unjudged: BTreeMap<String, u64>,
    /// The most frequent first.
    pub groups: Vec<ShadowGroup>,
    /// Disagreements of groups that found no room in the table.
    pub ungrouped: u64,
    /// What routes that only observe let pass, since the start: the most sensitive first, then the most frequent.
    pub observed: Vec<ObservedRow>,
    pub observed_ungrouped: u64,
}

/// Disagreements that differ in nothing an operator would act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowGroup {
    pub listener: String,
    pub route: String,
    pub method: String,
    /// A gRPC method, or the path with what looks like an id as `*`.
    pub action: String,
    pub resource: String,
    pub sensitivity: String,
    pub spiffe_id: String,
    pub from: String,
    pub to: String,
    pub reason: String,
    pub count: u64,
    pub first: u64,
    pub last: u64,
    pub decision_id: String,
}

/// Requests a route let pass although they were denied; one row without any for a route on which there are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRow {
    pub listener: String,
    pub route: String,
    pub resource: Option<String>,
    pub sensitivity: Option<String>,
    pub effect: Option<String>,
    pub would_deny: u64,
    pub last: Option<u64>,
    pub decision_id: Option<String>,
}

impl From<PolicyStatus> for ShadowBrief {
    fn from(status: PolicyStatus) -> Self {
        let PolicyStatus { generation, activated_at, loading, revisions, last_error, .. } = status;
        Self { generation, activated_at, loading, revisions, last_error }
    }
}

impl From<(Group, Tally)> for ShadowGroup {
    fn from((group, tally): (Group, Tally)) -> Self {
        let Group { listener, route, method, action, resource, sensitivity, spiffe_id, from, to, reason } = group;
        let (sensitivity, from, to) = (sensitivity.code().to_owned(), from.to_string(), to.to_string());
        let Tally { count, first, last, decision_id } = tally;
        Self {
            listener,
            route,
            method,
            action,
            resource,
            sensitivity,
            spiffe_id,
            from,
            to,
            reason,
            count,
            first,
            last,
            decision_id,
        }
    }
}

impl From<(Observed, Tally)> for ObservedRow {
    fn from((observed, tally): (Observed, Tally)) -> Self {
        Self {
            listener: observed.listener,
            route: observed.route,
            resource: Some(observed.resource),
            sensitivity: Some(observed.sensitivity.code().to_owned()),
            effect: Some(observed.effect.code().to_owned()),
            would_deny: tally.count,
            last: Some(tally.last),
            decision_id: Some(tally.decision_id),
        }
    }
}

/// How the gate knows whoever is calling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct You {
    pub uid: u32,
    pub name: Option<String>,
    pub may_operate: bool,
}

/// `GET /v1/sessions`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsAnswer {
    pub sessions: Vec<SessionRow>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    pub id: String,
    pub spiffe_id: String,
    pub task: Option<String>,
    pub age_seconds: u64,
    pub idle_seconds: u64,
    pub open: usize,
    pub requests: u64,
    pub denied: u64,
    pub cut: u64,
}

/// `GET /v1/sessions/{id}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAnswer {
    pub session: SessionRow,
    /// Newest first.
    pub recent: Vec<PastRow>,
}

/// `GET /v1/sessions/{id}/anomaly`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnomalyAnswer {
    pub session: String,
    pub spiffe_id: String,
    #[serde(flatten)]
    pub anomaly: Explanation,
}

/// A recent request of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRow {
    pub action: String,
    pub host: String,
    pub verdict: String,
    pub seconds_ago: u64,
}

/// `GET /v1/exchanges`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangesAnswer {
    pub exchanges: Vec<ExchangeRow>,
}

/// One open exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Of the response; nothing before its head came.
    pub status: Option<u16>,
    pub age_seconds: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub generation: u64,
}

/// `POST /v1/kills`: what is asked. Answered by [`Killed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    pub selector: Selector,
    pub reason: String,
    /// How long it stands; until it is lifted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    #[serde(default)]
    pub dry_run: bool,
}

/// `GET /v1/kills`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillsAnswer {
    /// Oldest first.
    pub kills: Vec<KillRow>,
}

/// A kill that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillRow {
    pub id: String,
    pub selector: Selector,
    pub reason: String,
    pub by: String,
    pub created: u64,
    /// `None`: until lifted.
    pub seconds_left: Option<u64>,
}

/// `DELETE /v1/kills/{id}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    pub id: String,
    /// False when that could not be stored: the kill will stand again after a restart.
    pub durable: bool,
}

/// `POST /v1/policy/activate`: what is asked. Answered by [`Activated`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ActivateRequest {
    pub dry_run: bool,
    /// Signed bundles that may be older than what was in force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_rollback: Vec<String>,
}

/// `POST /v1/policy/rollback`: what is asked. Answered by [`Activated`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackRequest {
    pub dry_run: bool,
}

/// What an activation did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// None on a dry run.
    pub generation: Option<u64>,
    /// Exchanges that were open.
    pub open: usize,
    /// Of them, those cut, or that would be.
    pub cut: usize,
    pub revisions: BTreeMap<String, String>,
    /// Signed bundles older than what was in force, let back by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<String>,
    /// What becomes of it: how long a rollback lasts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub dry_run: bool,
}

/// Why a call was refused (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub status: u16,
    /// One of a few words, for programs.
    pub code: Box<str>,
    pub title: String,
    /// The field of the body or of the query it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is wrong with a policy, one finding a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

impl From<Summary> for SessionRow {
    fn from(summary: Summary) -> Self {
        let Summary { id, spiffe_id, task, age_seconds, idle_seconds, open, requests, denied, cut } = summary;
        Self { id, spiffe_id, task, age_seconds, idle_seconds, open, requests, denied, cut }
    }
}

impl From<(Summary, View)> for SessionAnswer {
    fn from((summary, view): (Summary, View)) -> Self {
        let recent = view.recent.into_iter().map(|(past, seconds_ago)| PastRow {
            action: past.action,
            host: past.host,
            verdict: past.verdict.to_owned(),
            seconds_ago,
        });
        Self { session: summary.into(), recent: recent.collect() }
    }
}
