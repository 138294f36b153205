//! The lines of the record, as they are written.
//!
//! In: borrowed words of an exchange. Out: one JSON line in OPA's decision-log schema, `{labels, decision_id, timestamp, path, input,
//! result, bundles, requested_by, metrics, error, portcullis: {kind, …}}`. OPA's optional fields are absent when there is nothing to
//! say, as its readers expect; every field of `portcullis` is always there, `null` when empty, so that a reader needs to know no
//! policy. No header value is a field here.
//! Not a `serde_json::Value` that is filled and then written: it costs twice the time of writing the fields as they stand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::decision::{Basis, Cause, Ending, Enforcement, Opinion, Phase, Protocol, Reason, Refusal};

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");

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
    /// Credentials in it are hashed by whoever built it.
    pub input: Option<&'a RawValue>,
    /// `None`: undefined.
    pub result: Option<&'a RawValue>,
    /// Pointers to what the policy had taken out of both, and to where it had something else put.
    pub erased: &'a [String],
    pub masked: &'a [String],
    /// Name and revision of each bundle that judged.
    pub bundles: &'a [(String, String)],
    pub evaluation: Option<Duration>,
    pub error: Option<&'a str>,
    pub core: Core<'a>,
}

/// What is in every decision line, whatever the policy reads.
#[derive(Clone, Debug, Default, Serialize)]
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
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
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
#[derive(Clone, Debug, Serialize)]
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
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Resource<'a> {
    pub r#type: &'a str,
    pub sensitivity: &'a str,
    pub effect: &'a str,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Why {
    Denied(Reason),
    Refused(Refusal),
}

/// The closing line of an exchange whose decision line was written while it was open.
#[derive(Clone, Debug, Serialize)]
pub struct Closing<'a> {
    #[serde(skip)]
    pub at: SystemTime,
    pub decision_id: &'a str,
    pub exchange: &'a str,
    pub status: Option<u16>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
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
            bundles: &[],
            evaluation: None,
            error: None,
            core,
        }
    }
}

/// The part of a line that its kind has in common with no other, in OPA's envelope.
#[derive(Serialize)]
struct Envelope<'a, B> {
    labels: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<&'a str>,
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Bundles::is_empty")]
    bundles: Bundles<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_by: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Timers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    erased: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    masked: &'a [String],
    portcullis: Kind<'a, B>,
}

#[derive(Serialize)]
struct Kind<'a, B> {
    kind: &'static str,
    #[serde(flatten)]
    body: &'a B,
}

#[derive(Serialize)]
struct Timers {
    timer_rego_query_eval_ns: u64,
}

struct Bundles<'a>(&'a [(String, String)]);

#[derive(Serialize)]
struct Revision<'a> {
    revision: &'a str,
}

impl Bundles<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Bundles<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, revision) in self.0 {
            map.serialize_entry(name, &Revision { revision })?;
        }
        map.end()
    }
}

struct Timestamp(SystemTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = OffsetDateTime::from(self.0).format(TIMESTAMP).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

fn envelope<'a, B>(labels: &'a RawValue, at: SystemTime, kind: &'static str, body: &'a B) -> Envelope<'a, B> {
    Envelope {
        labels,
        decision_id: None,
        timestamp: Timestamp(at),
        trace_id: None,
        path: None,
        bundles: Bundles(&[]),
        requested_by: None,
        metrics: None,
        error: None,
        input: None,
        result: None,
        erased: &[],
        masked: &[],
        portcullis: Kind { kind, body },
    }
}

/// Writes a line of an exchange into `buffer`, which is emptied first.
pub(super) fn encode_line(buffer: &mut Vec<u8>, labels: &RawValue, environment: &str, line: Line<'_>) -> serde_json::Result<()> {
    match line {
        Line::Decision(record) => {
            let core = Core { environment: record.core.environment.or(Some(environment)), ..record.core.clone() };
            let metrics = record
                .evaluation
                .map(|taken| Timers { timer_rego_query_eval_ns: u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX) });
            let line = Envelope {
                decision_id: Some(record.decision_id),
                trace_id: core.trace_id,
                path: record.path,
                bundles: Bundles(record.bundles),
                requested_by: record.requested_by,
                metrics,
                error: record.error,
                input: record.input,
                result: record.result,
                erased: record.erased,
                masked: record.masked,
                ..envelope(labels, record.at, "decision", &core)
            };
            encode(buffer, &line)
        }
        Line::Closing(closing) => {
            let decision_id = Some(closing.decision_id);
            encode(buffer, &Envelope { decision_id, ..envelope(labels, closing.at, "closing", closing) })
        }
    }
}

/// Writes the line of a control call into `buffer`, which is emptied first.
pub(super) fn encode_call(buffer: &mut Vec<u8>, labels: &RawValue, call: &ControlCall<'_>) -> serde_json::Result<()> {
    encode(buffer, &envelope(labels, call.at, "control", call))
}

/// Writes a line of the writer's own into `buffer`, which is emptied first.
pub(super) fn encode_own<B: Serialize>(
    buffer: &mut Vec<u8>,
    labels: &RawValue,
    kind: &'static str,
    body: &B,
) -> serde_json::Result<()> {
    encode(buffer, &envelope(labels, SystemTime::now(), kind, body))
}

fn encode<B: Serialize>(buffer: &mut Vec<u8>, line: &Envelope<'_, B>) -> serde_json::Result<()> {
    buffer.clear();
    serde_json::to_writer(&mut *buffer, line)?;
    // serde_json escapes line ends in strings, but raw JSON is written as its owner laid it out. Outside strings they are blanks.
    for byte in &mut *buffer {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    buffer.push(b'\n');
    Ok(())
}
