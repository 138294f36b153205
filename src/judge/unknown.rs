//! Input paths that are read or given and that no fact ever stands at: most are a misspelt word.
//!
//! In: a policy, or an input document. Out: each such path up to the first key nobody knows, with the nearest that is one. What must
//! stay true: a path that some request may have is never named; what lies beneath a fact of open shape (headers, a body) is the
//! request's to fill. It is a warning and no mistake: stock policies read what another proxy tells, and a path of a later version
//! is legal; but `not input.requst.path == "/admin"` allows, so nobody should have to find it by reading.

use regorus::Value;

use super::facts::FACTS;
use crate::policy::{About, Finding, Policy};

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

/// What the entry points of a policy read and never get, each with the place that does.
pub fn reads(policy: &Policy) -> Vec<Finding> {
    let paths = (0..policy.entries().len()).flat_map(|entry| policy.footprint(entry).paths.iter());
    let told = paths.filter_map(|(path, at)| {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let message = format!("{} (read in {})", strange(&parts)?, at.rule);
        Some(Finding {
            file: at.file.clone(),
            line: at.line,
            column: at.column,
            message,
            hint: String::new(),
            about: About::Content,
        })
    });
    let mut findings: Vec<Finding> = told.collect();
    findings.sort();
    findings.dedup();
    findings
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
