//! The lines of the record.
//!
//! In: borrowed words of an exchange. Out: one JSON line in OPA's decision-log schema, `{labels, decision_id, timestamp, path, input,
//! result, bundles, requested_by, metrics, error, portcullis: {kind, …}}`. OPA's optional fields are absent when there is nothing to
//! say, as its readers expect; every field of `portcullis` is always there, `null` when empty, so that a reader needs to know no
//! policy. No header value is a field here. How lines are written is `line`'s business.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::decision::{Basis, Cause, Ending, Enforcement, Opinion, Phase, Protocol, Reason, Refusal};

mod json;
mod line;

pub(super) use line::{encode_call, encode_line, encode_own};

/// Who writes the record; in every line.
#[derive(Clone, Debug, Serialize)]
pub struct Labels {
    /// This instance, a UUID.
    pub id: String,
    pub version: String,
    pub environment: String,
    #[serde(flatten)]
    pub extra: BTreeMap<String, String>,
}

/// A line of an exchange.
#[derive(Clone, Copy, Debug)]
pub enum Line<'a> {
    /// What was decided about it, or that it was refused before a policy was asked.
    Decision(&'a Record<'a>),
    /// How it ended, when its decision line was written before that.
    Closing(&'a Closing<'a>),
}

/// The decision line of an exchange.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When the verdict was reached.
    pub at: SystemTime,
    pub decision_id: &'a str,
    pub requested_by: Option<SocketAddr>,
    /// The rule that decided.
    pub path: Option<&'a str>,
    /// Credentials in it are hashed by whoever writes it.
    pub input: Option<&'a dyn Document>,
    /// `None`: undefined.
    pub result: Option<&'a dyn Document>,
    /// Pointers to what the policy had taken out of both, and to where it had something else put.
    pub erased: &'a [String],
    pub masked: &'a [String],
    /// Name and revision of each bundle that judged; `None`: nobody did.
    pub bundles: Option<&'a BTreeMap<String, String>>,
    pub evaluation: Option<Duration>,
    pub error: Option<&'a str>,
    pub core: Core<'a>,
}

/// JSON that is written where it stands in a line: made apart first, a policy's input would be copied twice.
pub trait Document: fmt::Debug {
    /// Appends itself.
    ///
    /// # Errors
    /// When it is no JSON; the line then goes without it.
    fn append_to(&self, line: &mut Vec<u8>) -> serde_json::Result<()>;
}

impl<T: Serialize + fmt::Debug> Document for T {
    fn append_to(&self, line: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(line, self)
    }
}

/// What is in every decision line, whatever the policy reads.
#[derive(Clone, Debug, Default)]
pub struct Core<'a> {
    pub exchange: Option<&'a str>,
    pub session: Option<&'a str>,
    /// The SPIFFE ID of the caller.
    pub peer: Option<&'a str>,
    /// `None`: the gate's own.
    pub environment: Option<&'a str>,
    pub task: Option<&'a str>,
    pub intent: Option<&'a str>,
    pub owner: Option<&'a str>,
    pub action: Option<&'a str>,
    pub tool: Option<&'a str>,
    pub resource: Option<Resource<'a>>,
    pub route: Option<&'a str>,
    pub listener: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub delegation: Option<&'a str>,
    pub approval: Option<&'a str>,
    pub exception: Option<&'a str>,
    pub break_glass: Option<&'a str>,
    /// The name of the upstream credential, never its value.
    pub credential: Option<&'a str>,
    pub basis: Option<Basis>,
    pub enforcement: Option<Enforcement>,
    pub verdict: Outcome,
    pub reason: Option<Why>,
    /// Codes of the policy.
    pub reasons: &'a [String],
    pub generation: Option<u64>,
    pub trace_id: Option<&'a str>,
    pub protocol: Option<Protocol>,
    pub method: Option<&'a str>,
    pub host: Option<&'a str>,
    /// Without its query. Of a refused head: [`readable_target`](super::readable_target).
    pub path: Option<&'a str>,
    pub status: Option<u16>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Of a refused head: how much of it had been read.
    pub bytes_read: Option<u64>,
    pub duration: Option<Duration>,
    /// `None`: still open when the line was written; a closing line follows.
    pub ending: Option<Ending>,
    pub cause: Option<Cause>,
    /// The standing kill that refused or cut it, or that it asked for itself. The kill of one exchange stands for nothing and has none.
    pub kill: Option<uuid::Uuid>,
    pub phase: Option<Phase>,
    /// Names of the edits that were made.
    pub edits: &'a [String],
    /// Names of the anomaly rules that fired on it, those that only observe as well.
    pub anomaly: &'a [String],
    pub engine: Option<&'a str>,
    /// What the shadow policy said, where that is not what the policy in force did and was known in time; else the closing line has it.
    pub shadow: Option<ShadowLine<'a>>,
}

/// What a shadow policy said of a request it judged otherwise.
#[derive(Clone, Debug)]
pub struct ShadowLine<'a> {
    pub verdict: Opinion,
    pub reason: Option<Reason>,
    /// Codes of the policy.
    pub reasons: &'a [String],
    /// Counted on their own, beside those of the policy in force.
    pub generation: u64,
    pub revisions: &'a BTreeMap<String, String>,
}

/// What a request was for, as the configuration sees it.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    pub r#type: &'a str,
    pub sensitivity: &'a str,
    pub effect: &'a str,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    Allow,
    Deny,
    /// Denied by policy, and let through because the route only observes.
    ObserveDeny,
    /// Stopped before a policy was asked.
    #[default]
    Refused,
}

/// The gate's own word for a denial or a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Denied(Reason),
    Refused(Refusal),
}

impl Outcome {
    const fn code(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::ObserveDeny => "observe_deny",
            Self::Refused => "refused",
        }
    }
}

impl Why {
    const fn code(self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.code(),
            Self::Refused(refusal) => refusal.code(),
        }
    }
}

/// The closing line of an exchange whose decision line was written while it was open.
#[derive(Clone, Debug)]
pub struct Closing<'a> {
    pub at: SystemTime,
    pub decision_id: &'a str,
    pub exchange: &'a str,
    pub status: Option<u16>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Option<Duration>,
    pub ending: Ending,
    pub cause: Option<Cause>,
    /// The standing kill that cut it.
    pub kill: Option<uuid::Uuid>,
    /// The generation it was last judged by.
    pub generation: Option<u64>,
    /// Names of the anomaly rules that fired on it from its beginning to its end.
    pub anomaly: &'a [String],
    /// What the shadow policy said, where the decision line could not have it yet.
    pub shadow: Option<ShadowLine<'a>>,
}

/// A call of the control API.
#[derive(Clone, Debug, Serialize)]
pub struct ControlCall<'a> {
    #[serde(skip)]
    pub at: SystemTime,
    /// The operator's name; `None`: a caller without one.
    pub caller: Option<&'a str>,
    /// POST /v1/kills
    pub call: &'a str,
    pub status: u16,
    /// What came of it, in a word or a sentence.
    pub outcome: &'a str,
    /// What was asked for or changed.
    pub detail: Option<&'a RawValue>,
}

/// What the record lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Losses {
    /// Lines that were not written.
    pub(super) lost: u64,
    /// Exchanges refused because there was no room for their lines.
    pub(super) refused: u64,
    /// Lines an earlier run left unfinished at the file's end.
    pub(super) torn: u64,
    /// Decisions the policy keeps out, as `audit.allow_drop` lets it.
    pub(super) dropped: u64,
    /// Lines that are here, and that the service for decision logs never got.
    pub(super) undelivered: u64,
}

/// The line that tells of losses.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Loss<'a> {
    #[serde(flatten)]
    pub(super) losses: Losses,
    /// What stood in unfinished lines that were cut off.
    pub(super) torn_text: &'a [String],
}

/// The first line of a chain.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Start {
    /// The name of the key of its checkpoints.
    pub(super) key: Option<String>,
    /// Its public half, for the reader's convenience: who checks has it from elsewhere.
    pub(super) public_key: Option<String>,
}

/// How far the record had come.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Checkpoint<'a> {
    pub(super) seq: u64,
    pub(super) hash: &'a str,
    pub(super) key: String,
    pub(super) signature: String,
}

impl<'a> Record<'a> {
    /// A decision line with nothing beside its core.
    pub fn new(at: SystemTime, decision_id: &'a str, core: Core<'a>) -> Self {
        Self {
            at,
            decision_id,
            requested_by: None,
            path: None,
            input: None,
            result: None,
            erased: &[],
            masked: &[],
            bundles: None,
            evaluation: None,
            error: None,
            core,
        }
    }
}

#[cfg(test)]
mod tests;
