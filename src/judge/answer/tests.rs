//! Tests of both shapes, and the comparison with what opa-envoy-plugin itself makes of the same results.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::*;
use crate::decision::Scope;
use crate::verdict::{KillOrder, Rewrite};

const ALL: &[KillScope] = &[KillScope::Exchange, KillScope::Session, KillScope::Identity];

fn portcullis(answer: &str) -> Result<Verdict, AnswerError> {
    read(&Value::from_json_str(answer).unwrap(), ResultShape::Portcullis, ALL)
}

fn envoy(answer: &str) -> Result<Verdict, AnswerError> {
    read(&Value::from_json_str(answer).unwrap(), ResultShape::Envoy, ALL)
}

fn set(items: &[&str]) -> Value {
    Value::from(items.iter().map(|item| Value::from(*item)).collect::<BTreeSet<_>>())
}

fn object(fields: Vec<(Value, Value)>) -> Value {
    Value::from(fields.into_iter().collect::<BTreeMap<_, _>>())
}

#[derive(Deserialize)]
struct Case<'a> {
    name: String,
    #[serde(borrow)]
    result: &'a RawValue,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Told {
    name: String,
    error: String,
    allowed: bool,
    status: u16,
    body: String,
    headers: Vec<(String, String)>,
    request_headers_to_remove: Vec<String>,
    response_headers_to_add: Vec<(String, String)>,
    query_to_set: Vec<(String, String)>,
    query_to_remove: Vec<String>,
    metadata: serde_json::Value,
}

/// Where we differ from the plugin on purpose. Both ends are a denial with 403.
const OURS: &[(&str, &str)] = &[
    ("deny, http_status 100", "an error here: 1xx does not end a response"),
    ("deny, http_status 403.0", "403 here: regorus does not keep how a number was written"),
    ("deny, http_status 4.03e2", "403 here: as above"),
];

#[test]
fn an_envoy_result_is_read_as_the_plugin_reads_it() {
    let cases = include_str!("../../../tests/envoy_oracle/cases.jsonl").lines();
    let answers = include_str!("../../../tests/envoy_oracle/answers.jsonl").lines();
    let mut compared = 0;
    for (case, answer) in cases.clone().zip(answers.clone()) {
        let case: Case<'_> = serde_json::from_str(case).unwrap();
        let theirs: Told = serde_json::from_str(answer).unwrap();
        assert_eq!(case.name, theirs.name);
        let ours = told(&theirs, case.result.get());
        let differs = ours != lower(theirs);
        assert_eq!(differs, OURS.iter().any(|(name, _)| *name == case.name), "{}: we read {ours:?}", case.name);
        compared += 1;
    }
    assert_eq!((cases.count(), answers.count()), (compared, compared));
    assert!(compared >= 300, "{compared}");
}

/// Our reading in the oracle's words. Of an error only that it is one is compared: we may trip over another part first.
fn told(theirs: &Told, result: &str) -> Told {
    let verdict = Value::from_json_str(result).ok().map(|value| read(&value, ResultShape::Envoy, &[]));
    let Some(Ok(verdict)) = verdict else {
        let error = if theirs.error.is_empty() { "only ours".to_owned() } else { theirs.error.clone() };
        return Told { name: theirs.name.clone(), error, ..Told::default() };
    };
    let pairs = |named: &[(String, Vec<String>)]| {
        named.iter().flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone()))).collect()
    };
    let object = result.starts_with('{');
    Told {
        name: theirs.name.clone(),
        error: String::new(),
        allowed: verdict.allowed,
        status: if verdict.allowed || !object { 0 } else { verdict.denial.status.unwrap_or(403) },
        body: verdict.denial.body.unwrap_or_default(),
        headers: if verdict.allowed { pairs(&verdict.edits.headers) } else { pairs(&verdict.denial.headers) },
        request_headers_to_remove: verdict.edits.request_headers_to_remove,
        response_headers_to_add: pairs(&verdict.edits.response_headers_to_add),
        query_to_set: pairs(&verdict.edits.query_parameters_to_set),
        query_to_remove: verdict.edits.query_parameters_to_remove,
        metadata: verdict.metadata.filter(|metadata| *metadata != serde_json::json!({})).unwrap_or_default(),
    }
}

fn lower(mut theirs: Told) -> Told {
    for (name, _) in theirs.headers.iter_mut().chain(&mut theirs.response_headers_to_add) {
        name.make_ascii_lowercase();
    }
    theirs.request_headers_to_remove.iter_mut().for_each(|name| name.make_ascii_lowercase());
    theirs
}

#[test]
fn only_the_boolean_true_allows() {
    for shape in [ResultShape::Portcullis, ResultShape::Envoy] {
        for yes in [Value::Bool(true), object(vec![("allowed".into(), true.into())])] {
            assert_eq!(read(&yes, shape, ALL), Ok(Verdict { allowed: true, ..Verdict::default() }));
        }
        for no in [Value::Bool(false), object(vec![("allowed".into(), false.into())])] {
            assert_eq!(read(&no, shape, ALL), Ok(Verdict::deny(Reason::Policy)));
        }
        let wrong =
            [Value::Undefined, Value::Null, 1u64.into(), "true".into(), set(&["allowed"]), Value::new_array(), Value::new_object()];
        for value in wrong.iter().chain(&[object(vec![("allow".into(), true.into())])]) {
            assert!(read(value, shape, ALL).is_err(), "{value}");
            assert!(read(&object(vec![("allowed".into(), value.clone())]), shape, ALL).is_err(), "{value}");
        }
    }
}

#[test]
fn an_unknown_key_denies_or_is_counted() {
    let answer = r#"{"allowed": true, "headres": {}, "extra": 1}"#;
    assert_eq!(portcullis(answer), Err(AnswerError::UnknownKey { key: "extra".into() }));
    assert_eq!(envoy(answer), Ok(Verdict { allowed: true, ignored_keys: 2, ..Verdict::default() }));
    let numbered = object(vec![("allowed".into(), true.into()), (1u64.into(), true.into())]);
    assert_eq!(read(&numbered, ResultShape::Portcullis, ALL), Err(AnswerError::UnknownKey { key: "1".into() }));
    assert_eq!(read(&numbered, ResultShape::Envoy, ALL).unwrap().ignored_keys, 1);
}

#[test]
fn a_key_of_a_later_capability_denies_in_both_shapes() {
    for key in ["hold", "redact", "credential", "risk"] {
        let answer = format!(r#"{{"allowed": true, "{key}": {{}}}}"#);
        assert_eq!(portcullis(&answer), Err(AnswerError::NotYet { key: key.into() }));
        assert_eq!(envoy(&answer), Err(AnswerError::NotYet { key: key.into() }));
    }
}

#[test]
fn portcullis_checks_what_has_no_effect_and_then_drops_it() {
    let everything = r#""headers": {"X-A": ["1", "2"]}, "request_headers_to_remove": ["Cookie"], "response_headers_to_add": {"x-b": "1"},
        "query_parameters_to_set": {"Q": "1"}, "query_parameters_to_remove": ["r"], "http_status": 429, "body": "slow down",
        "dynamic_metadata": {"a": [1]}, "reasons": ["r1"], "rewrite": {"path": "/x"}, "lease": {"max_age": "1m"}"#;
    let allow = portcullis(&format!(r#"{{"allowed": true, {everything}}}"#)).unwrap();
    let values = vec!["1".to_owned(), "2".to_owned()];
    assert_eq!(
        allow.edits,
        Edits {
            headers: vec![("x-a".into(), values.clone())],
            request_headers_to_remove: vec!["cookie".into()],
            response_headers_to_add: vec![("x-b".into(), vec!["1".into()])],
            query_parameters_to_set: vec![("Q".into(), vec!["1".into()])],
            query_parameters_to_remove: vec!["r".into()],
            rewrite: Some(Rewrite { path: Some("/x".into()), body: None }),
        }
    );
    assert_eq!((allow.denial, allow.lease.max_age), (Denial::default(), Some(Duration::from_secs(60))));
    let deny = portcullis(&format!(r#"{{"allowed": false, {everything}}}"#)).unwrap();
    assert_eq!(deny.denial, Denial { status: Some(429), body: Some("slow down".into()), headers: vec![("x-a".into(), values)] });
    assert_eq!((deny.edits, deny.lease), (Edits::default(), Lease::default()));
    assert_eq!((deny.reasons, deny.metadata), (vec!["r1".to_owned()], Some(serde_json::json!({"a": [1]}))));

    for wrong in [
        r#""allowed": true, "body": 1"#,
        r#""allowed": true, "http_status": 99"#,
        r#""allowed": false, "headers": null"#,
        r#""allowed": false, "query_parameters_to_set": [{"a": "b"}]"#,
        r#""allowed": false, "lease": {"max_age": 5}"#,
    ] {
        assert!(portcullis(&format!("{{{wrong}}}")).is_err(), "{wrong}");
    }
}

#[test]
fn sets_and_other_keys_are_read_as_opa_hands_them_to_the_plugin() {
    let answer = |headers: Value| {
        object(vec![("allowed".into(), true.into()), ("headers".into(), headers), ("reasons".into(), set(&["b", "a"]))])
    };
    let numbered = answer(object(vec![(1u64.into(), set(&["y", "x"]))]));
    let verdict = read(&numbered, ResultShape::Envoy, ALL).unwrap();
    assert_eq!(verdict.edits.headers, vec![("1".to_owned(), vec!["x".to_owned(), "y".to_owned()])]);
    assert_eq!(verdict.reasons, ["a", "b"]);
    assert!(matches!(read(&numbered, ResultShape::Portcullis, ALL), Err(AnswerError::Unexpected { .. })));
    let named = answer(object(vec![("x".into(), set(&["y", "x"]))]));
    assert_eq!(read(&named, ResultShape::Portcullis, ALL).unwrap().edits.headers, [("x".into(), vec!["x".into(), "y".into()])]);
}

#[test]
fn one_name_in_two_spellings_is_one_header() {
    let verdict = portcullis(r#"{"allowed": true, "headers": [{"X-A": "1"}, {"x-a": "2", "x-b": []}]}"#).unwrap();
    assert_eq!(verdict.edits.headers, [("x-a".to_owned(), vec!["1".to_owned(), "2".to_owned()])]);
}

#[test]
fn a_kill_needs_a_denial_and_a_lent_scope() {
    let kill = |allowed: bool, kill: &str, lent: &[KillScope], shape| {
        read(&Value::from_json_str(&format!(r#"{{"allowed": {allowed}, "kill": {kill}}}"#)).unwrap(), shape, lent)
    };
    for shape in [ResultShape::Portcullis, ResultShape::Envoy] {
        for (name, scope, lent) in [
            ("exchange", Scope::Exchange, KillScope::Exchange),
            ("session", Scope::Session, KillScope::Session),
            ("identity", Scope::Identity, KillScope::Identity),
        ] {
            let bare = format!(r#"{{"scope": "{name}"}}"#);
            assert_eq!(kill(false, &bare, &[lent], shape).unwrap().kill, Some(KillOrder { scope, ttl: None }));
            let others: Vec<_> = ALL.iter().copied().filter(|other| *other != lent).collect();
            assert!(kill(false, &bare, &others, shape).unwrap_err().to_string().contains("may_kill"));
            assert!(kill(true, &bare, ALL, shape).unwrap_err().to_string().contains("beside an allow"));
        }
        let timed = kill(false, r#"{"scope": "session", "ttl": "15m"}"#, ALL, shape).unwrap();
        assert_eq!(timed.kill, Some(KillOrder { scope: Scope::Session, ttl: Some(Duration::from_secs(900)) }));
        for wrong in [
            "true",
            "\"session\"",
            "{}",
            r#"{"scope": "task"}"#,
            r#"{"scope": 1}"#,
            r#"{"scope": "Session"}"#,
            r#"{"scope": "session", "ttl": 900}"#,
            r#"{"scope": "session", "ttl": "15"}"#,
            r#"{"scope": "session", "ttl": null}"#,
            r#"{"scope": "session", "tll": "15m"}"#,
            r#"{"ttl": "15m"}"#,
        ] {
            assert!(kill(false, wrong, ALL, shape).is_err(), "{wrong}");
        }
    }
}

#[test]
fn a_lease_is_bounds_or_an_error() {
    let lease = |lease: &str| portcullis(&format!(r#"{{"allowed": true, "lease": {lease}}}"#)).map(|verdict| verdict.lease);
    let whole = lease(r#"{"max_age": "15m", "reassess_every": "1s", "max_bytes_in": 10, "max_bytes_out": "64KiB"}"#).unwrap();
    assert_eq!(
        whole,
        Lease {
            max_age: Some(Duration::from_secs(900)),
            reassess_every: Some(Duration::from_secs(1)),
            max_bytes_in: Some(10),
            max_bytes_out: Some(65_536)
        }
    );
    assert_eq!(lease("{}"), Ok(Lease::default()));
    for wrong in [
        "[]",
        r#"{"max_age": 15}"#,
        r#"{"max_age": "15"}"#,
        r#"{"max_age": null}"#,
        r#"{"reassess_every": "999ms"}"#,
        r#"{"max_bytes_in": -1}"#,
        r#"{"max_bytes_in": 1.5}"#,
        r#"{"max_bytes_out": "64KB"}"#,
        r#"{"max_bytes_out": true}"#,
        r#"{"max_agee": "15m"}"#,
    ] {
        assert!(lease(wrong).is_err(), "{wrong}");
        assert!(envoy(&format!(r#"{{"allowed": true, "lease": {wrong}}}"#)).is_err(), "{wrong}");
    }
}

#[test]
fn a_rewrite_is_a_path_a_patch_or_both() {
    let rewrite =
        |rewrite: &str| portcullis(&format!(r#"{{"allowed": true, "rewrite": {rewrite}}}"#)).map(|verdict| verdict.edits.rewrite);
    let patch = r#"[{"op": "replace", "path": "/a", "value": [1, 2.5, null]}]"#;
    let serde_json::Value::Array(operations) = serde_json::from_str(patch).unwrap() else { panic!() };
    assert_eq!(
        rewrite(&format!(r#"{{"path": "/v2", "body": {patch}}}"#)),
        Ok(Some(Rewrite { path: Some("/v2".into()), body: Some(operations) }))
    );
    assert_eq!(rewrite("{}"), Ok(None));
    for wrong in ["\"/v2\"", r#"{"path": 1}"#, r#"{"body": {}}"#, r#"{"body": ["x"]}"#, r#"{"query": "x"}"#, r#"{"path": null}"#] {
        assert!(rewrite(wrong).is_err(), "{wrong}");
    }
    let big = object(vec![("value".into(), Value::from_numeric_string("18446744073709551616").unwrap())]);
    let lossy = object(vec![("allowed".into(), true.into()), ("rewrite".into(), object(vec![("body".into(), vec![big].into())]))]);
    assert!(read(&lossy, ResultShape::Portcullis, ALL).is_err());
}

#[test]
fn a_message_names_the_place_and_no_value() {
    let error = portcullis(r#"{"allowed": true, "headers": {"x-a": {"token": "s3cret"}}}"#).unwrap_err();
    assert_eq!(error.to_string(), "headers.x-a: expected a string or an array of strings, found an object");
    let error = portcullis(r#"{"allowed": false, "kill": {"scope": "s3cret"}}"#).unwrap_err();
    assert!(error.to_string().starts_with("kill.scope: ") && !error.to_string().contains("s3cret"));
    let long = portcullis(&format!(r#"{{"allowed": true, "{}": 1}}"#, "k".repeat(10_000))).unwrap_err();
    assert!(long.to_string().len() < 200);
}
