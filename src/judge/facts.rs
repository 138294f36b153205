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

/// The keys of the rows that hold an object of ours. Those of the others are a request's own, or Envoy's.
const KEYS: &[(&[&str], &[&str])] = &[
    (&["connection"], &["address", "port", "lists", "sni"]),
    (&["peer"], &["spiffe_id", "trust_domain", "segments", "proof", "certificate"]),
    (&["peer", "certificate"], &["serial", "sha256", "not_after", "lifetime_seconds"]),
    (&["anomaly"], &["score", "rules", "learning"]),
    (&["time"], &["seconds", "windows"]),
];

/// A path of the input document that nothing ever stands at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strange {
    /// Up to the first key nobody knows.
    pub path: Vec<String>,
    /// The key in its place that comes nearest.
    pub nearest: Option<String>,
}

/// What is strange about a path; `None` where a fact stands at it, above it or beneath it.
pub fn strange(path: &[&str]) -> Option<Strange> {
    let common = |known: &[&str]| known.iter().zip(path).take_while(|(known, asked)| known == asked).count();
    let inside =
        KEYS.iter().filter_map(|(at, keys)| path.get(at.len()).filter(|_| path.starts_with(at)).map(|key| (at.len(), key, keys)));
    for (depth, key, keys) in inside {
        if !keys.contains(key) {
            return Some(stray(path, depth, keys.iter().copied()));
        }
    }
    if FACTS.iter().any(|fact| common(fact.path) == fact.path.len().min(path.len())) {
        return None;
    }
    let depth = FACTS.iter().map(|fact| common(fact.path)).max().unwrap_or(0);
    let beside = FACTS.iter().filter(|fact| common(fact.path) == depth).filter_map(|fact| fact.path.get(depth).copied());
    Some(stray(path, depth, beside))
}

fn stray<'k>(path: &[&str], depth: usize, beside: impl Iterator<Item = &'k str>) -> Strange {
    let asked = path.get(depth).copied().unwrap_or_default();
    // Farther than half of the word it is another word.
    let near = beside.map(|key| (strsim::osa_distance(asked, key), key)).filter(|(far, key)| far * 2 < key.len().max(asked.len()));
    let nearest = near.min().map(|(_, key)| key.to_owned());
    Strange { path: path.iter().take(depth + 1).map(|part| (*part).to_owned()).collect(), nearest }
}

impl std::fmt::Display for Strange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nothing ever stands at input.{}", self.path.join("."))?;
        match &self.nearest {
            Some(nearest) => write!(f, "; the nearest is `{nearest}`"),
            None => Ok(()),
        }
    }
}

/// What is strange about the keys of an input document, each path once.
pub fn strangers(input: &Value) -> Vec<Strange> {
    let mut found = Vec::new();
    each_path(input, &mut Vec::new(), &mut found);
    found.dedup();
    found
}

fn each_path(value: &Value, path: &mut Vec<String>, found: &mut Vec<Strange>) {
    if !path.is_empty() {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Some(strange) = strange(&parts) {
            found.push(strange);
            return;
        }
    }
    let Value::Object(object) = value else { return };
    for (key, value) in object.iter_sorted() {
        if let Value::String(name) = key {
            path.push(name.as_ref().to_owned());
            each_path(value, path, found);
            path.pop();
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_nobody_knows_is_told_with_the_nearest() {
        let told = |path: &[&str]| strange(path).map(|strange| strange.to_string());
        for known in [
            &["request", "method"] as &[_],
            &["request"],
            &["request", "headers", "x-team"],
            &["peer", "certificate", "serial"],
            &["peer", "segments", "0"],
            &["attributes", "source", "principal"],
            &["time", "windows", "office"],
        ] {
            assert_eq!(told(known), None, "{known:?}");
        }
        assert_eq!(told(&["requst", "method"]).unwrap(), "nothing ever stands at input.requst; the nearest is `request`");
        assert_eq!(told(&["request", "metod"]).unwrap(), "nothing ever stands at input.request.metod; the nearest is `method`");
        assert_eq!(
            told(&["peer", "spife_id", "x"]).unwrap(),
            "nothing ever stands at input.peer.spife_id; the nearest is `spiffe_id`"
        );
        assert_eq!(told(&["user"]).unwrap(), "nothing ever stands at input.user");
    }

    #[test]
    fn the_keys_of_an_input_are_looked_at_one_by_one() {
        let input = Value::from_json_str(
            r#"{"request": {"method": "GET", "pth": "/"}, "peer": {"certificate": {"serail": "1"}}, "x": {"y": 1}}"#,
        )
        .unwrap();
        let told: Vec<String> = strangers(&input).iter().map(|strange| strange.path.join(".")).collect();
        assert_eq!(told, ["peer.certificate.serail", "request.pth", "x"]);
    }
}
