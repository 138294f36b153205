//! What callers send, read strictly, and told by field when it is wrong.
//!
//! In: the bytes of a body, or a query. Out: the whole value, or a problem that names the field. The strict reading decides; only
//! when it fails is the body looked at again to find the field, because serde names it for unknown and missing ones alone.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::answers::{KillRequest, Problem};
use crate::exchange::Selector;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::units::Span;

/// The longest reason of a kill, in characters.
const REASON: usize = 500;

type Received = Result<Bytes, BytesRejection>;

/// The body of a kill, each field of it such that it can match something.
pub(super) fn kill(received: Received) -> Result<KillRequest, Problem> {
    let bytes = whole(received)?;
    let request: KillRequest = serde_json::from_slice(&bytes).map_err(|error| {
        locate(&bytes, &error, |name, value| match name {
            "selector" => selector_field(value),
            "reason" => misfit::<String>(name, value),
            "ttl" => misfit::<Option<Span>>(name, value),
            "dry_run" => misfit::<bool>(name, value),
            _ => None,
        })
    })?;
    check_nulls(&bytes)?;
    check_selector(&request.selector)?;
    let reason = request.reason.trim();
    if reason.is_empty() {
        return Err(wrong("reason", "a kill needs a reason").hint("say why, for whoever reads the record"));
    }
    if reason.chars().count() > REASON {
        return Err(wrong("reason", format!("the reason is longer than {REASON} characters")).hint("shorten it"));
    }
    if request.ttl.is_some_and(|ttl| ttl.0.is_zero()) {
        return Err(wrong("ttl", "ttl must be longer than zero").hint("leave it out for a kill that stands until it is lifted"));
    }
    Ok(request)
}

/// A small body of named switches; nothing at all is the default.
pub(super) fn switches<T: DeserializeOwned + Default>(received: Received) -> Result<T, Problem> {
    let bytes = whole(received)?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        locate(&bytes, &error, |name, value| match name {
            "allow_rollback" => misfit::<Vec<String>>(name, value),
            _ => misfit::<bool>(name, value),
        })
    })
}

fn whole(received: Received) -> Result<Bytes, Problem> {
    received.map_err(|rejection| {
        let status = rejection.status().as_u16();
        Problem::new(status, "body", if status == 413 { "the body is larger than 1 MiB" } else { "the body did not arrive whole" })
    })
}

pub(super) fn wrong(field: &str, title: impl Into<String>) -> Problem {
    Problem::new(422, "field", title).field(field)
}

/// The problem of a body that was not understood, at the first field that `misfits` finds wrong by itself.
fn locate(bytes: &[u8], error: &serde_json::Error, misfits: impl Fn(&str, &Value) -> Option<Problem>) -> Problem {
    if let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(bytes)
        && let Some(problem) = fields.iter().find_map(|(name, value)| misfits(name, value))
    {
        return problem;
    }
    let problem =
        Problem::new(if error.is_data() { 422 } else { 400 }, "body", format!("the body is not what it should be: {error}"));
    // serde quotes the name of a field that is unknown, missing or there twice.
    match error.to_string().split('`').nth(1) {
        Some(name) if error.is_data() => problem.field(name),
        _ => problem.hint("send one JSON object"),
    }
}

fn misfit<T: DeserializeOwned>(name: &str, value: &Value) -> Option<Problem> {
    T::deserialize(value).err().map(|error| wrong(name, format!("{name}: {error}")))
}

fn selector_field(selector: &Value) -> Option<Problem> {
    let Some(fields) = selector.as_object() else { return misfit::<Selector>("selector", selector) };
    fields.iter().find_map(|(name, value)| {
        let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
        misfit::<Selector>(&format!("selector.{name}"), &alone)
    })
}

/// A field that is null would not narrow the kill, although somebody meant it to.
fn check_nulls(bytes: &[u8]) -> Result<(), Problem> {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let fields = body.get("selector").and_then(Value::as_object);
    match fields.into_iter().flatten().find(|(_, value)| value.is_null()) {
        Some((name, _)) => {
            Err(wrong(&format!("selector.{name}"), "null selects nothing").hint("leave the field out, or give its value"))
        }
        None => Ok(()),
    }
}

/// A selector that could never match anything would stand there as a comfort.
fn check_selector(selector: &Selector) -> Result<(), Problem> {
    if selector.is_empty() {
        let hint = "name at least one field: spiffe_id, trust_domain, session, exchange, upstream, certificate, address";
        return Err(wrong("selector", "an empty selector would be everybody").hint(hint));
    }
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let spiffe_id = |text: &str| SpiffeId::new(text).is_ok_and(|id| id.to_string() == text);
    let trust_domain = |text: &str| TrustDomain::new(text).is_ok_and(|domain| domain.as_str() == text);
    let fits = |name: &str, value: &Option<String>, fits: &dyn Fn(&str) -> bool, hint: &str| match value {
        Some(text) if !fits(text) => {
            Err(wrong(&format!("selector.{name}"), format!("no {name} looks like this, so nothing would match")).hint(hint))
        }
        Some(_) | None => Ok(()),
    };
    fits("spiffe_id", &selector.spiffe_id, &spiffe_id, "a SPIFFE ID is written spiffe://example.org/agents/research")?;
    fits("trust_domain", &selector.trust_domain, &trust_domain, "a trust domain is written example.org, in lower case")?;
    fits("session", &selector.session, &|text| hex(text, 32), "32 digits of lower-case hex; see GET /v1/sessions")?;
    fits("certificate", &selector.certificate, &|text| hex(text, 64), "its SHA-256 is 64 digits of lower-case hex")?;
    fits("upstream", &selector.upstream, &|text| !text.is_empty(), "a name of `upstreams`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> Problem {
        kill(Ok(Bytes::copy_from_slice(body.as_bytes()))).unwrap_err()
    }

    #[test]
    fn every_mistake_of_a_kill_names_its_field() {
        let long = format!(r#"{{"selector": {{"upstream": "a"}}, "reason": "{}"}}"#, "x".repeat(501));
        for (body, field) in [
            (r#"{"selector": {}, "reason": "x"}"#, "selector"),
            (r#"{"selector": "all", "reason": "x"}"#, "selector"),
            (r#"{"reason": "x"}"#, "selector"),
            (r#"{"selector": {"upstream": "a"}}"#, "reason"),
            (r#"{"selector": {"upstream": "a"}, "reason": " "}"#, "reason"),
            (r#"{"selector": {"upstream": "a"}, "reason": 5}"#, "reason"),
            (&long, "reason"),
            (r#"{"selector": {"upstream": "a"}, "reason": "x", "ttl": "15"}"#, "ttl"),
            (r#"{"selector": {"upstream": "a"}, "reason": "x", "ttl": "0s"}"#, "ttl"),
            (r#"{"selector": {"upstream": "a"}, "reason": "x", "dry_run": "yes"}"#, "dry_run"),
            (r#"{"selector": {"upstream": "a"}, "reason": "x", "dryrun": true}"#, "dryrun"),
            (r#"{"selector": {"upstream": "a"}, "reason": "x", "reason": "y"}"#, "reason"),
            (r#"{"selector": {"spifeid": "a"}, "reason": "x"}"#, "selector.spifeid"),
            (r#"{"selector": {"spiffe_id": 7}, "reason": "x"}"#, "selector.spiffe_id"),
            // Either of these two would have killed the whole trust domain.
            (r#"{"selector": {"trust_domain": "a.org", "spiffe_id": null}, "reason": "x"}"#, "selector.spiffe_id"),
            (r#"{"selector": {"trust_domain": "a.org", "spiffe_id": ""}, "reason": "x"}"#, "selector.spiffe_id"),
            (r#"{"selector": {"spiffe_id": "spiffe://A.org/x"}, "reason": "x"}"#, "selector.spiffe_id"),
            (r#"{"selector": {"trust_domain": "spiffe://a.org"}, "reason": "x"}"#, "selector.trust_domain"),
            (r#"{"selector": {"session": "ABC"}, "reason": "x"}"#, "selector.session"),
            (r#"{"selector": {"certificate": "ab:cd"}, "reason": "x"}"#, "selector.certificate"),
            (r#"{"selector": {"address": "10.0.0.0/8"}, "reason": "x"}"#, "selector.address"),
            (r#"{"selector": {"exchange": "7"}, "reason": "x"}"#, "selector.exchange"),
        ] {
            let problem = refusal(body);
            assert_eq!((problem.field.as_deref(), problem.status), (Some(field), 422), "{body}: {problem:?}");
        }
    }

    #[test]
    fn what_is_not_json_is_a_bad_request() {
        for body in ["", "{", "reason=x", "{\"reason\": \"\u{0}\"}"] {
            assert_eq!(refusal(body).status, 400, "{body}");
        }
        assert_eq!(refusal("[]").status, 422);
    }

    #[test]
    fn a_whole_kill_is_read_as_it_was_meant() {
        let body = r#"{"selector": {"spiffe_id": "spiffe://a.org/x", "address": "::1"}, "reason": "leaked", "ttl": "15m", "dry_run": true}"#;
        let request = kill(Ok(Bytes::from_static(body.as_bytes()))).unwrap();
        assert_eq!(request.selector.spiffe_id.as_deref(), Some("spiffe://a.org/x"));
        assert_eq!((request.ttl, request.dry_run), (Some(Span::seconds(900)), true));
    }
}
