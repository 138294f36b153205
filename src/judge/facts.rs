//! The table of facts: one row for everything a policy can read.
//!
//! In: a footprint, a case. Out: which rows a policy needs, and the input document made of exactly those. Building the input,
//! buffering bodies, and what `check` prints read this table and nothing else, so they cannot drift apart. A row whose value is
//! absent leaves no key: policies test for presence, and `null` would be a value.

use std::collections::BTreeMap;

use http::header::HeaderMap;
use regorus::Value;

use super::case::{Case, envoy_address, object};
use crate::anomaly::Reading;
use crate::policy::Footprint;

/// What must be at hand before a fact can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    Connection,
    Head,
    Body,
    /// Read anew at each judgement.
    Now,
}

/// Whether a fact stays as it was when the exchange was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Frozen,
    Live,
}

/// One row.
#[derive(Debug)]
pub struct Fact {
    /// Where it stands in the input document.
    pub path: &'static [&'static str],
    pub needs: Needs,
    pub half: Half,
    build: fn(&Case<'_>) -> Option<Value>,
}

macro_rules! facts {
    ($($path:literal $(. $rest:literal)*, $needs:ident, $half:ident, $build:expr;)+) => {
        &[$(Fact { path: &[$path $(, $rest)*], needs: Needs::$needs, half: Half::$half, build: $build }),+]
    };
}

/// Every fact, in the order of the contract.
pub const FACTS: &[Fact] = facts! {
    "attributes"."source", Connection, Frozen, |c| Some(c.connection.envoy_source.clone());
    "attributes"."destination", Head, Frozen, |c| Some(envoy_destination(c));
    "attributes"."tlsSession", Connection, Frozen, |c| c.connection.server_name.clone();
    "attributes"."request"."time", Head, Frozen, |c| Some(object([
        ("seconds", Value::from(c.began.as_secs())), ("nanos", Value::from(c.began.subsec_nanos()))]));
    "attributes"."request"."http"."id", Head, Frozen, |c| text(c.exchange_id);
    "attributes"."request"."http"."method", Head, Frozen, |c| text(c.request.method);
    "attributes"."request"."http"."path", Head, Frozen, |c| Some(Value::from(path_and_query(c)));
    "attributes"."request"."http"."host", Head, Frozen, |c| Some(Value::from(authority(c)));
    "attributes"."request"."http"."scheme", Head, Frozen, |c| scheme(c);
    "attributes"."request"."http"."protocol", Head, Frozen, |c| text(c.request.protocol);
    "attributes"."request"."http"."size", Head, Frozen, |c| c.request.size.map(Value::from);
    "attributes"."request"."http"."headers", Head, Frozen, |c| Some(envoy_headers(c));
    "attributes"."request"."http"."body", Body, Frozen, |c| c.body.text.filter(|body| !body.is_empty()).map(Value::from);
    "parsed_path", Head, Frozen, |c| Some(envoy_segments(c));
    "parsed_query", Head, Frozen, |c| Some(query(c.request.query));
    "parsed_body", Body, Frozen, |c| Some(c.body.json.or(c.body.form).cloned().unwrap_or(Value::Null));
    // A body that does not fit is a deny before this is ever read.
    "truncated_body", Head, Frozen, |_| Some(Value::from(false));
    "source_principal", Connection, Frozen, |c| Some(c.connection.principal.clone());
    "version", Connection, Frozen, |_| Some(object([
        ("ext_authz", Value::from("v3")), ("encoding", Value::from("protojson"))]));
    "phase", Now, Live, |c| text(c.phase.code());
    "environment", Head, Frozen, |c| text(c.environment);
    "request"."method", Head, Frozen, |c| text(c.request.method);
    "request"."scheme", Head, Frozen, |c| scheme(c);
    "request"."host", Head, Frozen, |c| text(c.request.host);
    "request"."port", Head, Frozen, |c| Some(Value::from(u64::from(c.request.port)));
    "request"."path", Head, Frozen, |c| text(c.request.path);
    "request"."segments", Head, Frozen, |c| Some(strings(c.request.segments.iter()));
    "request"."query", Head, Frozen, |c| Some(query(c.request.query));
    "request"."headers", Head, Frozen, |c| Some(headers(c.request.headers));
    "request"."body", Body, Frozen, |c| c.body.json.cloned();
    "request"."size", Head, Frozen, |c| c.request.size.map(Value::from);
    "request"."protocol", Head, Frozen, |c| text(c.request.protocol);
    "request"."rewritten", Head, Frozen, |c| Some(Value::from(c.request.rewritten));
    "action"."protocol", Head, Frozen, |c| text(c.request.action.protocol);
    "action"."name", Head, Frozen, |c| text(c.request.action.name);
    "resource"."type", Head, Frozen, |c| text(c.resource.r#type);
    "resource"."sensitivity", Head, Frozen, |c| text(c.resource.sensitivity);
    "resource"."effect", Head, Frozen, |c| text(c.resource.effect);
    "resource"."environment", Head, Frozen, |c| text(c.resource.environment);
    "route"."listener", Head, Frozen, |c| text(c.route.listener);
    "route"."name", Head, Frozen, |c| text(c.route.name);
    "route"."upstream", Head, Frozen, |c| text(c.route.upstream);
    "destination"."host", Head, Frozen, |c| text(c.destination?.host);
    "destination"."port", Head, Frozen, |c| Some(Value::from(u64::from(c.destination?.port)));
    "destination"."addresses", Head, Frozen, |c| Some(Value::from(
        c.destination?.addresses.iter().map(|address| Value::from(address.ip().to_string())).collect::<Vec<_>>()));
    "destination"."private", Head, Frozen, |c| Some(Value::from(c.destination?.private));
    // Known once the tunnel has begun, and then the policy that reads it is asked again.
    "destination"."sni", Now, Live, |c| text(c.destination?.sni?);
    "connection", Connection, Frozen, |c| Some(c.connection.connection.clone());
    "peer", Connection, Frozen, |c| Some(c.connection.peer.clone());
    "workload"."owner", Connection, Frozen, |c| text(c.workload?.owner);
    "workload"."kind", Connection, Frozen, |c| text(c.workload?.kind);
    "workload"."class", Connection, Frozen, |c| text(c.workload?.class?);
    "session"."id", Connection, Frozen, |c| text(c.session_id);
    "session"."age_seconds", Head, Frozen, |c| Some(Value::from(c.session.age_seconds));
    "session"."requests", Head, Frozen, |c| Some(Value::from(c.session.requests));
    "session"."denied", Head, Frozen, |c| Some(Value::from(c.session.denied));
    "session"."recent", Head, Frozen, |c| Some(recent(c));
    "exchange"."age_seconds", Now, Live, |c| Some(Value::from(c.progress.age.as_secs()));
    "exchange"."bytes_in", Now, Live, |c| Some(Value::from(c.progress.bytes_in));
    "exchange"."bytes_out", Now, Live, |c| Some(Value::from(c.progress.bytes_out));
    "anomaly", Now, Live, |c| Some(anomaly(&c.anomaly.read()?));
    "time"."seconds", Now, Live, |c| Some(Value::from(c.now.as_secs()));
    "time"."windows", Now, Live, |c| Some(object(c.windows.iter().map(|(name, open)| (name.as_str(), Value::from(*open)))));
};

/// The rows one entry point needs, shaped like the document they make.
#[derive(Debug)]
pub struct Plan {
    root: Vec<Node>,
    pub needs_body: bool,
    pub reads_recent: bool,
    /// It reads the TLS server name a tunnel begins with.
    pub reads_server_name: bool,
    /// It reads what the anomaly rules say.
    pub reads_anomaly: bool,
    /// Some fact it reads changes while an exchange is open.
    pub reads_live: bool,
}

#[derive(Debug)]
enum Node {
    Leaf(Value, &'static Fact),
    Branch(Value, Vec<Self>),
}

impl Plan {
    /// Chooses the rows a footprint can read.
    pub fn new(footprint: &Footprint) -> Self {
        let wanted: Vec<&'static Fact> = FACTS.iter().filter(|fact| footprint.reads(fact.path)).collect();
        Self {
            needs_body: wanted.iter().any(|fact| fact.needs == Needs::Body),
            reads_server_name: wanted.iter().any(|fact| fact.path == ["destination", "sni"]),
            reads_recent: wanted.iter().any(|fact| fact.path == ["session", "recent"]),
            reads_anomaly: wanted.iter().any(|fact| fact.path == ["anomaly"]),
            reads_live: wanted.iter().any(|fact| fact.half == Half::Live),
            root: nodes(&wanted, 0),
        }
    }

    /// The input document of one case.
    pub fn input(&self, case: &Case<'_>) -> Value {
        document(&self.root, case).unwrap_or_else(Value::new_object)
    }
}

fn nodes(wanted: &[&'static Fact], depth: usize) -> Vec<Node> {
    let mut made = Vec::new();
    // Rows of one branch stand together in the table, so runs of equal keys are whole branches.
    for run in wanted.chunk_by(|a, b| a.path.get(depth) == b.path.get(depth)) {
        let Some((first, key)) = run.first().and_then(|fact| Some((*fact, *fact.path.get(depth)?))) else { continue };
        if first.path.len() == depth + 1 {
            made.push(Node::Leaf(Value::from(key), first));
        } else {
            made.push(Node::Branch(Value::from(key), nodes(run, depth + 1)));
        }
    }
    made
}

fn document(nodes: &[Node], case: &Case<'_>) -> Option<Value> {
    let mut parts = BTreeMap::new();
    for node in nodes {
        let (key, value) = match node {
            Node::Leaf(key, fact) => (key, (fact.build)(case)),
            Node::Branch(key, inner) => (key, document(inner, case)),
        };
        if let Some(value) = value {
            parts.insert(key.clone(), value);
        }
    }
    (!parts.is_empty()).then(|| Value::from(parts))
}

fn text(text: &str) -> Option<Value> {
    Some(Value::from(text))
}

fn strings<'s>(texts: impl Iterator<Item = &'s String>) -> Value {
    Value::from(texts.map(|text| Value::from(text.as_str())).collect::<Vec<_>>())
}

fn query(pairs: &[(String, String)]) -> Value {
    let mut grouped: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, value) in pairs {
        grouped.entry(name).or_default().push(Value::from(value.as_str()));
    }
    object(grouped.into_iter().map(|(name, values)| (name, Value::from(values))))
}

/// Name → all its values in order: an exact match must not miss a second value.
fn headers(headers: &HeaderMap) -> Value {
    object(headers.keys().map(|name| {
        let values: Vec<Value> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(Value::from).collect();
        (name.as_str(), Value::from(values))
    }))
}

/// Name → its values joined by commas, with the pseudo headers, as Envoy shows them to ext_authz.
fn envoy_headers(case: &Case<'_>) -> Value {
    let mut joined: BTreeMap<Value, Value> = case
        .request
        .headers
        .keys()
        .map(|name| {
            let values: Vec<&str> = case.request.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            (Value::from(name.as_str()), Value::from(values.join(",")))
        })
        .collect();
    for (name, value) in [
        (":authority", authority(case)),
        (":method", case.request.method.to_owned()),
        (":path", path_and_query(case)),
        (":scheme", case.request.scheme.to_owned()),
    ] {
        // RFC 9113 section 8.5.
        if is_tunnel(case) && matches!(name, ":path" | ":scheme") {
            continue;
        }
        joined.insert(Value::from(name), Value::from(value));
    }
    Value::from(joined)
}

/// opa-envoy-plugin trims leading slashes and splits, so `/` gives one empty segment.
fn envoy_segments(case: &Case<'_>) -> Value {
    if case.request.segments.is_empty() {
        return Value::from(vec![Value::from("")]);
    }
    strings(case.request.segments.iter())
}

/// A tunnel has no path, and no scheme either.
fn is_tunnel(case: &Case<'_>) -> bool {
    case.request.path.is_empty()
}

fn scheme(case: &Case<'_>) -> Option<Value> {
    if is_tunnel(case) { None } else { text(case.request.scheme) }
}

/// Beside an agent it is where the request goes, as Envoy tells of traffic it took from an agent, and not our own socket.
fn envoy_destination(case: &Case<'_>) -> Value {
    match case.destination.and_then(|destination| destination.addresses.first()) {
        None => case.connection.envoy_destination.clone(),
        Some(first) => object([("address", envoy_address(*first))]),
    }
}

fn path_and_query(case: &Case<'_>) -> String {
    match case.request.raw_query {
        Some(query) => format!("{}?{query}", case.request.path),
        None => case.request.path.to_owned(),
    }
}

fn authority(case: &Case<'_>) -> String {
    if is_tunnel(case) {
        return format!("{}:{}", case.request.host, case.request.port);
    }
    let default = if case.request.scheme == "https" { 443 } else { 80 };
    if case.request.port == default { case.request.host.to_owned() } else { format!("{}:{}", case.request.host, case.request.port) }
}

fn anomaly(reading: &Reading) -> Value {
    object([
        ("score", Value::from(reading.score)),
        ("rules", strings(reading.rules.iter())),
        ("learning", Value::from(reading.learning)),
    ])
}

fn recent(case: &Case<'_>) -> Value {
    let rows = case.session.recent.iter().map(|(past, ago)| {
        object([
            ("action", Value::from(past.action.as_str())),
            ("host", Value::from(past.host.as_str())),
            ("verdict", Value::from(past.verdict)),
            ("seconds_ago", Value::from(*ago)),
        ])
    });
    Value::from(rows.collect::<Vec<_>>())
}
