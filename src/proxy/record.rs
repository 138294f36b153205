//! What the record says of an exchange.
//!
//! In: the exchange and its story. Out: one decision line, and a closing line where that was written early. What must stay true: the
//! fixed core is there whatever the policy reads, and no credential stands in a line as it is: what is secret by its name is hashed,
//! bodies are left out unless the configuration asks for them, and headers the policy does not read are not there at all.

use std::borrow::Cow;
use std::time::SystemTime;

use regorus::Value;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use super::grpc;
use super::mask;
use super::normalise::Request;
use super::open::{Open, Story};
use super::shadow::Differs;
use crate::audit::{
    Ack, Closing, Core, Document, InputDetail, Line, Outcome, Permit, Record, Resource, Why, hash_secret, is_secret_header,
    is_secret_parameter, readable_target,
};
use crate::decision::{Basis, Ending, Phase, Reason};
use crate::judge::workload;
use crate::policy::Footprint;

/// Writes the decision line, unless the policy keeps it out of the record: then nothing.
pub(super) fn decision(open: &Open, story: &Story, permit: &mut Permit) -> Option<Ack> {
    let judgement = story.judgement.as_ref();
    let settings = story.settings.as_deref();
    let route = settings.zip(story.route).and_then(|(settings, place)| settings.route_at(open.downstream.listener, place));
    let generation = story.generation.as_ref();
    let nothing = Footprint::default();
    let footprint = generation.zip(route).map_or(&nothing, |(generation, route)| generation.policy.footprint(route.entry));
    let detail = settings.map_or(InputDetail::Footprint, |settings| settings.input_detail);
    let shown = story.record_input.as_ref().or_else(|| judgement.map(|judgement| &judgement.input));
    let shown = shown.filter(|input| **input != Value::Undefined);
    // What is no verdict has no places where secrets are known to stand: a rule that yields a header by mistake is one.
    let readable = judgement.filter(|judgement| judgement.verdict.reason != Some(Reason::VerdictType));
    let answer = readable.and_then(|judgement| judgement.answer.as_ref());
    let path =
        settings.zip(route).and_then(|(settings, route)| settings.entries.get(route.entry)).map(|entry| entry.decision.as_str());
    if mask::drops(open, story, path, shown, answer) {
        return None;
    }
    let mask = mask::of(open, story, path, shown, answer);
    let input = mask.input.as_deref().map(|value| Shown { value, place: Place::Input, detail, footprint });
    let result = mask.result.as_deref().map(|value| Shown { value, place: Place::Answer, detail, footprint });
    let fault = story.fault.as_deref().or_else(|| judgement.and_then(|judgement| judgement.fault.as_deref()));
    let record = Record {
        requested_by: Some(open.downstream.remote),
        path,
        input: input.as_ref().map(|shown| shown as &dyn Document),
        result: result.as_ref().map(|shown| shown as &dyn Document),
        bundles: generation.map(|generation| generation.policy.revisions()),
        evaluation: judgement.map(|judgement| judgement.took),
        erased: &mask.erased,
        masked: &mask.masked,
        error: mask.fault.as_deref().or(fault),
        ..Record::new(story.decided_at.unwrap_or_else(SystemTime::now), &open.id, core(open, story))
    };
    Some(permit.write(Line::Decision(&record)))
}

fn core<'a>(open: &'a Open, story: &'a Story) -> Core<'a> {
    let downstream = &*open.downstream;
    let settings = story.settings.as_deref();
    let listener = settings.and_then(|settings| settings.listener(downstream.listener));
    let route = settings.zip(story.route).and_then(|(settings, place)| settings.route_at(downstream.listener, place));
    let upstream = settings.zip(route).and_then(|(settings, route)| settings.upstreams.get(route.upstream));
    let request = story.request.as_deref();
    let peer = downstream.peer.as_ref();
    let resource = settings.zip(request).map(|(settings, request)| {
        let found = settings.resources.find(&request.host, &request.segments, request.method.as_str());
        Resource { r#type: found.r#type, sensitivity: found.sensitivity.code(), effect: found.effect.code() }
    });
    let judgement = story.judgement.as_ref();
    let outcome = story.outcome.unwrap_or(Outcome::Refused);
    let over = story.ending;
    Core {
        exchange: Some(&open.id),
        session: peer.map(|_| downstream.caller.session.as_str()),
        peer: peer.map(|peer| &*peer.name),
        owner: settings.zip(peer).and_then(|(settings, peer)| workload(&settings.workloads, &peer.spiffe_id)).map(|w| w.owner),
        action: request.map(|request| grpc::action(open.protocol, request.version, &request.method, &request.path).name),
        resource,
        route: route.map(|route| route.name.as_str()),
        listener: listener.map(|listener| listener.name.as_str()),
        upstream: upstream.map(|target| &*target.upstream.name),
        basis: (outcome == Outcome::Allow).then_some(Basis::Standing),
        enforcement: story.enforcement,
        verdict: outcome,
        reason: story.why,
        reasons: judgement.map_or(&[], |judgement| judgement.verdict.reasons.as_slice()),
        generation: judgement.map(|judgement| judgement.generation),
        trace_id: request.and_then(trace_id),
        protocol: Some(open.protocol),
        method: request.map(|request| request.method.as_str()).or_else(|| story.asked.as_ref().map(|(method, _)| method.as_str())),
        host: request.map(|request| request.host.as_str()),
        path: request.map(|request| request.path.as_str()).or_else(|| story.asked.as_ref().map(|(_, target)| target.as_str())),
        status: story.status,
        bytes_in: open.flow.bytes_in(),
        bytes_out: open.flow.bytes_out(),
        duration: over.map(|_| open.began.elapsed()),
        ending: over,
        cause: open.exchange().cut.cause(),
        kill: kill(open, story),
        phase: judgement.map(|_| Phase::Request),
        edits: &story.edits,
        anomaly: &story.anomaly,
        engine: judgement.map(|judgement| judgement.engine.code()),
        shadow: story.shadow.as_ref().map(Differs::line),
        ..Core::default()
    }
}

/// The kill that refused it before it was judged, or the one that cut it.
fn kill(open: &Open, story: &Story) -> Option<uuid::Uuid> {
    let cut = || open.exchange().cut.cause().and_then(|_| open.exchange().cut.order()?.1);
    story.killed.or_else(cut).map(|kill| kill.0)
}

/// The trace a request belongs to (W3C Trace Context section 3.2): of any version but `ff`, and not all zeros.
fn trace_id(request: &Request) -> Option<&str> {
    let mut parts = request.headers.get("traceparent")?.to_str().ok()?.split('-');
    let (version, id) = (parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex(version, 2) && version != "ff" && hex(id, 32) && id.bytes().any(|byte| byte != b'0')).then_some(id)
}

/// Writes the closing line.
pub(super) fn closing(open: &Open, story: &Story, permit: &mut Permit) -> Ack {
    permit.write(Line::Closing(&Closing {
        at: SystemTime::now(),
        decision_id: &open.id,
        exchange: &open.id,
        status: story.status,
        bytes_in: open.flow.bytes_in(),
        bytes_out: open.flow.bytes_out(),
        duration: Some(open.began.elapsed()),
        ending: story.ending.unwrap_or(Ending::ClientGone),
        cause: open.exchange().cut.cause(),
        kill: kill(open, story),
        generation: Some(open.exchange().generation()).filter(|generation| *generation > 0),
        anomaly: &story.anomaly,
        shadow: story.shadow.as_ref().map(Differs::line),
    }))
}

/// The line of a head that was refused before hyper saw it.
pub fn rejected<'a>(id: &'a str, listener: &'a str, peer: Option<&'a str>, refused: &'a Rejected) -> Core<'a> {
    Core {
        exchange: Some(id),
        peer,
        listener: Some(listener),
        verdict: Outcome::Refused,
        reason: Some(Why::Refused(refused.refusal)),
        protocol: Some(refused.protocol),
        method: refused.method.as_deref(),
        path: refused.target.as_deref(),
        status: Some(refused.refusal.status()),
        bytes_read: Some(refused.bytes_read),
        ending: Some(Ending::Refused),
        ..Core::default()
    }
}

/// What is known of a head that was refused before hyper saw it.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub refusal: crate::decision::Refusal,
    pub protocol: crate::decision::Protocol,
    pub bytes_read: u64,
    pub method: Option<String>,
    /// Its query values hashed already.
    pub target: Option<String>,
}

/// A policy's answer as a record shows it, bodies and rewrites as well: to hold a new one against.
pub fn answer_as_recorded(answer: &Value) -> Option<Value> {
    let shown = raw(answer, Place::Answer, InputDetail::Full, &Footprint::default())?;
    Value::from_json_str(shown.get()).ok()
}

fn raw(value: &Value, place: Place, detail: InputDetail, footprint: &Footprint) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(&Shown { value, place, detail, footprint }).ok()
}

/// Where in a document a value stands, as far as secrets are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Input,
    Request,
    Attributes,
    AttributesRequest,
    AttributesHttp,
    Answer,
    /// Name → value or values; `true` where only the names a policy reads are shown.
    Headers(bool),
    Query,
    /// A path with its query.
    Target,
    Secret,
    /// Left out unless bodies are recorded.
    Body,
    Plain,
}

impl Place {
    fn of(self, key: &str) -> Self {
        match (self, key) {
            (Self::Input, "request") => Self::Request,
            (Self::Input, "attributes") => Self::Attributes,
            (Self::Input, "parsed_query") | (Self::Request, "query") => Self::Query,
            (Self::Input, "parsed_body") | (Self::Request | Self::AttributesHttp | Self::Answer, "body") => Self::Body,
            (Self::Attributes, "request") => Self::AttributesRequest,
            (Self::AttributesRequest, "http") => Self::AttributesHttp,
            (Self::Request | Self::AttributesHttp, "headers") => Self::Headers(true),
            (Self::AttributesHttp, "path") => Self::Target,
            (Self::Answer, "headers" | "response_headers_to_add") => Self::Headers(false),
            (Self::Answer, "query_parameters_to_set") => Self::Query,
            (Self::Answer, "rewrite") => Self::Body,
            (Self::Headers(_), ":path") => Self::Target,
            (Self::Headers(_), name) if is_secret_header(name) => Self::Secret,
            (Self::Query, name) if is_secret_parameter(name) => Self::Secret,
            (Self::Secret, _) => Self::Secret,
            (Self::Body, _) => Self::Body,
            _ => Self::Plain,
        }
    }
}

#[derive(Debug)]
struct Shown<'a> {
    value: &'a Value,
    place: Place,
    detail: InputDetail,
    footprint: &'a Footprint,
}

impl<'a> Shown<'a> {
    fn inside(&self, value: &'a Value, place: Place) -> Self {
        Self { value, place, detail: self.detail, footprint: self.footprint }
    }

    fn shows(&self, key: &str, place: Place) -> bool {
        match (self.place, place) {
            (_, Place::Body) => self.detail == InputDetail::Full,
            (Place::Headers(true), _) if self.detail == InputDetail::Footprint => {
                self.footprint.reads(&["request", "headers", key])
                    || self.footprint.reads(&["attributes", "request", "http", "headers", key])
            }
            _ => true,
        }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(None)?;
                for (key, value) in fields.iter_sorted() {
                    let name = match key {
                        Value::String(name) => Cow::Borrowed(&**name),
                        other => Cow::Owned(other.to_string()),
                    };
                    let place = self.place.of(&name);
                    if self.shows(&name, place) {
                        map.serialize_entry(&*name, &self.inside(value, place))?;
                    }
                }
                map.end()
            }
            Value::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items.iter() {
                    seq.serialize_element(&self.inside(item, self.place))?;
                }
                seq.end()
            }
            Value::Set(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items.iter_sorted() {
                    seq.serialize_element(&self.inside(item, self.place))?;
                }
                seq.end()
            }
            Value::String(text) if self.place == Place::Secret => serializer.serialize_str(&hash_secret(text.as_bytes())),
            Value::String(text) if self.place == Place::Target => serializer.serialize_str(&readable_target(text.as_bytes())),
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str, place: Place, detail: InputDetail, reads: &[&[&str]]) -> serde_json::Value {
        let value = Value::from_json_str(json).unwrap();
        let occurrence = crate::policy::footprint::Occurrence { file: String::new(), line: 1, column: 1, rule: String::new() };
        let paths = reads.iter().map(|path| (path.iter().map(|p| (*p).to_owned()).collect(), occurrence.clone())).collect();
        let footprint = Footprint { paths, ..Footprint::default() };
        serde_json::from_str(raw(&value, place, detail, &footprint).unwrap().get()).unwrap()
    }

    const INPUT: &str = r#"{"request": {"path": "/a", "headers": {"authorization": ["canary"], "x-team": ["blue"], "x-custom": ["canary"]},
        "query": {"token": ["canary"], "page": ["2"]}, "body": {"password": "canary"}}, "parsed_body": "canary",
        "parsed_query": {"api_key": ["canary"]},
        "attributes": {"request": {"http": {"path": "/a?token=canary&page=2", "headers": {":path": "/a?token=canary", "cookie": "canary"},
        "body": "canary"}}}}"#;

    #[test]
    fn what_is_secret_by_its_name_is_hashed_and_bodies_are_left_out() {
        let all: &[&[&str]] = &[&["request"], &["attributes"]];
        let seen = shown(INPUT, Place::Input, InputDetail::Footprint, all);
        let mut without = seen.clone();
        assert_eq!(
            without["request"]["headers"]["x-custom"],
            serde_json::json!(["canary"]),
            "a policy that reads all headers shows them"
        );
        without["request"]["headers"]["x-custom"] = serde_json::json!([]);
        assert!(!without.to_string().contains("canary"), "{without}");
        assert_eq!(seen["request"]["headers"]["authorization"], serde_json::json!([hash_secret("canary")]));
        assert_eq!(seen["request"]["query"]["page"], serde_json::json!(["2"]));
        assert!(seen.get("parsed_body").is_none() && seen["request"].get("body").is_none());
    }

    #[test]
    fn only_headers_the_policy_reads_are_shown() {
        let seen = shown(INPUT, Place::Input, InputDetail::Footprint, &[&["request", "headers", "x-team"]]);
        assert_eq!(seen["request"]["headers"], serde_json::json!({"x-team": ["blue"]}));
        let head = shown(INPUT, Place::Input, InputDetail::Head, &[]);
        assert!(head["request"]["headers"].get("x-custom").is_some() && head["request"].get("body").is_none());
        assert!(shown(INPUT, Place::Input, InputDetail::Full, &[])["request"].get("body").is_some());
    }

    #[test]
    fn an_answer_shows_no_credential_it_sets() {
        let answer = r#"{"allowed": true, "headers": {"authorization": "canary", "x-role": "reader"}, "rewrite": {"body": [{"value": "canary"}]},
            "query_parameters_to_set": {"token": "canary"}}"#;
        let seen = shown(answer, Place::Answer, InputDetail::Head, &[]);
        assert!(!seen.to_string().contains("canary"), "{seen}");
        assert_eq!(seen["headers"]["x-role"], "reader");
    }
}
