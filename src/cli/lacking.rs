//! What a recorded input does not tell of what a policy reads.
//!
//! In: an input as it stands in the record, and what a policy can read. Out: the paths that may have been there and were not recorded, and
//! those whose value was taken out or stands as a hash. What must stay true: an absent path is never passed off as absent where it may
//! only be unrecorded. A fact leaves no key when there is nothing to say, so absence alone proves nothing; it does where the record
//! holds a whole head, or where the policy that judged then is known and read the same path.

use std::collections::BTreeSet;

use regorus::Value;

use crate::judge::facts::{FACTS, Fact, Needs};
use crate::policy::Footprint;

/// Facts of every request, whatever its listener: all of them stand in a record of whole heads, and no policy reads just these one by one.
const OF_EVERY_HEAD: &[&[&str]] = &[
    &["attributes", "request", "http", "id"],
    &["environment"],
    &["exchange", "age_seconds"],
    &["phase"],
    &["request", "host"],
    &["request", "method"],
    &["request", "rewritten"],
    &["route", "name"],
    &["session", "id"],
    &["source_principal"],
    &["time", "seconds"],
    &["truncated_body"],
    &["version"],
];

/// What is known of how an input was recorded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recorded<'a> {
    /// What the policy that judged then could read, where that policy is at hand.
    pub(super) by: Option<&'a Footprint>,
    /// Nothing came up, and the exchange was over when the line was written.
    pub(super) no_body: bool,
}

/// What the policy reads, and the record may only have left out.
///
/// A record holds the facts the policy of then could read, of the headers those it could read, and no bodies.
pub(super) fn unrecorded(footprint: &Footprint, recorded: Recorded<'_>, input: &Value) -> BTreeSet<String> {
    let whole = OF_EVERY_HEAD.iter().all(|path| stands(input, path).is_some());
    let mut missing = BTreeSet::new();
    for fact in FACTS.iter().filter(|fact| footprint.reads(fact.path)) {
        let is_body = fact.needs == Needs::Body;
        let by_name = fact.path.last() == Some(&"headers");
        let shown_whole = if is_body { recorded.no_body } else { whole };
        if shown_whole || (!by_name && stands(input, fact.path).is_some()) {
            continue;
        }
        let beneath = footprint.paths.keys().map(|path| path.iter().map(String::as_str).collect::<Vec<_>>());
        let beneath: Vec<_> = beneath.filter(|path| path.len() > fact.path.len() && path.starts_with(fact.path)).collect();
        let was_shown = |path: &[&str]| !is_body && recorded.by.is_some_and(|by| shows(by, fact, path));
        if beneath.is_empty() && !was_shown(fact.path) {
            missing.insert(name(fact.path));
        }
        let absent = beneath.iter().filter(|path| stands(input, path).is_none() && !was_shown(path));
        missing.extend(absent.map(|path| name(path)));
    }
    missing
}

/// True when a policy that reads this much would have had all of a path in its record.
fn shows(by: &Footprint, fact: &Fact, path: &[&str]) -> bool {
    let covers = by.paths.keys().any(|read| read.len() <= path.len() && read.iter().zip(path).all(|(read, asked)| read == asked));
    let by_name = fact.path.last() == Some(&"headers");
    covers || (!by_name && by.reads(fact.path))
}

/// The paths a policy reads whose value was taken out of the line or put another in its place, from their JSON pointers.
pub(super) fn taken_out<'p>(footprint: &Footprint, pointers: impl Iterator<Item = &'p String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for pointer in pointers {
        let parts: Vec<String> =
            pointer.trim_start_matches('/').split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
        let Some((first, path)) = parts.split_first().filter(|(first, _)| *first == "input") else { continue };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if footprint.reads(&path) {
            found.insert([first.as_str()].into_iter().chain(path).collect::<Vec<_>>().join("."));
        }
    }
    found
}

/// `input.request.method`
pub(super) fn name(path: &[&str]) -> String {
    std::iter::once("input").chain(path.iter().copied()).collect::<Vec<_>>().join(".")
}

pub(super) fn stands<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    let mut at = value;
    for part in path {
        let Value::Object(object) = at else { return None };
        at = object.get(&Value::from(*part))?;
    }
    Some(at)
}

/// Paths of texts that a hash stands for.
pub(super) fn hashed(input: &Value) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    hashes(input, &mut Vec::new(), &mut found);
    found
}

fn hashes(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match value {
        Value::String(text) if holds_hash(text) && found.last() != Some(path) => found.push(path.clone()),
        Value::Array(items) => items.iter().for_each(|item| hashes(item, path, found)),
        Value::Object(object) => {
            for (key, value) in object.iter_sorted() {
                path.push(key.as_string().map_or_else(|_| key.to_string(), |key| key.to_string()));
                hashes(value, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// The form [`crate::audit::hash_secret`] gives.
pub(super) fn holds_hash(text: &str) -> bool {
    text.match_indices("sha256:").any(|(at, mark)| {
        let digits = text.get(at + mark.len()..).unwrap_or_default().chars().take_while(char::is_ascii_hexdigit).count();
        digits == 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(paths: &[&[&str]]) -> Footprint {
        let at = crate::policy::footprint::Occurrence { file: String::new(), line: 1, column: 1, rule: String::new() };
        let paths = paths.iter().map(|path| (path.iter().map(|part| (*part).to_owned()).collect(), at.clone())).collect();
        Footprint { paths, ..Footprint::default() }
    }

    fn value(json: &str) -> Value {
        Value::from_json_str(json).unwrap()
    }

    #[test]
    fn absence_is_known_only_where_the_record_would_have_shown_it() {
        let team = reading(&[&["request", "headers", "x-team"], &["workload", "owner"]]);
        let told = |by, input: &str| {
            unrecorded(&team, Recorded { by, no_body: true }, &value(input)).into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(None, r#"{"request": {"headers": {}}}"#), "input.request.headers.x-team input.workload.owner");
        assert_eq!(told(None, r#"{"request": {"headers": {"x-team": ["a"]}}, "workload": {"owner": "b"}}"#), "");
        assert_eq!(told(Some(&team), r#"{"request": {"headers": {}}}"#), "", "it read the same and found nothing");
        let other = reading(&[&["request", "headers", "x-other"], &["workload"]]);
        assert_eq!(told(Some(&other), r#"{"request": {"headers": {}}}"#), "input.request.headers.x-team");
        let head = r#"{"attributes": {"request": {"http": {"id": "1"}}}, "environment": "t", "exchange": {"age_seconds": 0}, "phase": "request",
            "request": {"host": "h", "method": "GET", "rewritten": false, "headers": {}}, "route": {"name": "r"}, "session": {"id": "s"},
            "source_principal": "p", "time": {"seconds": 1}, "truncated_body": false, "version": {}}"#;
        assert_eq!(told(None, head), "", "a whole head shows every header");
    }

    #[test]
    fn a_body_is_known_only_where_it_stands_or_nothing_came() {
        let body = reading(&[&["request", "body", "role"]]);
        let told = |no_body, input: &str| unrecorded(&body, Recorded { by: Some(&body), no_body }, &value(input)).len();
        assert_eq!(told(false, "{}"), 1, "the same policy is no proof: bodies are left out");
        assert_eq!(told(true, "{}"), 0);
        assert_eq!(told(false, r#"{"request": {"body": {"name": "x"}}}"#), 0);
    }

    #[test]
    fn what_was_taken_out_counts_where_it_is_read() {
        let method = reading(&[&["request", "method"]]);
        let pointers = ["/input/request/method", "/input/request/path", "/result/x"].map(str::to_owned);
        assert_eq!(taken_out(&method, pointers.iter()).into_iter().collect::<Vec<_>>(), ["input.request.method"]);
    }

    #[test]
    fn what_the_record_hashed_is_named() {
        let input = value(
            r#"{"request": {"headers": {"authorization": ["sha256:ba7816bf8f01cfea"], "x": ["sha256:1"]}, "path": "/a?token=sha256:ba7816bf8f01cfea"}}"#,
        );
        let found: Vec<String> = hashed(&input).iter().map(|path| path.join(".")).collect();
        assert_eq!(found, ["request.headers.authorization", "request.path"]);
    }
}
