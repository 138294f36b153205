//! Input paths a policy reads and the gate never gives.
//!
//! In: a policy. Out: a finding for each path no row of the table of facts lies on, with the nearest that is one. What must stay
//! true: a path that some request may have is never named; what lies beneath a fact of open shape (headers, a body) is the
//! request's to fill. It is a warning and no mistake: stock policies read what another proxy tells, and a path of a later version
//! is legal; but `not input.requst.path == "/admin"` allows, so nobody should have to find it by reading.

use super::facts::FACTS;
use crate::policy::{Finding, Policy};

/// Facts whose own keys are all known. Each stands in the table as one row, because it is built as one.
const CLOSED: &[(&[&str], &[&str])] = &[
    (&["connection"], &["address", "port", "lists", "sni"]),
    (&["peer"], &["spiffe_id", "trust_domain", "segments", "proof", "claims", "certificate"]),
    (&["peer", "certificate"], &["serial", "sha256", "not_after", "lifetime_seconds"]),
    (&["anomaly"], &["score", "rules", "learning"]),
];

/// One finding a path, for all entry points.
pub fn unknown(policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in 0..policy.entries().len() {
        for (path, at) in &policy.footprint(entry).paths {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            if is_known(&path) {
                continue;
            }
            let written = path.join(".");
            let nearest = every().into_iter().min_by_key(|known| strsim::osa_distance(&written, known));
            findings.push(Finding {
                file: at.file.clone(),
                line: at.line,
                column: at.column,
                message: format!("`input.{written}` is nothing this gate tells, and never defined (in {})", at.rule),
                hint: nearest.map_or_else(String::new, |known| format!("the nearest is `input.{known}`")),
            });
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

fn is_known(path: &[&str]) -> bool {
    let meets = |fact: &[&str]| fact.iter().zip(path).all(|(fact, asked)| fact == asked);
    let closed = |(above, keys): &(&[&str], &[&str])| {
        path.strip_prefix(*above).and_then(|rest| rest.first()).is_none_or(|key| keys.contains(key))
    };
    FACTS.iter().any(|fact| meets(fact.path)) && CLOSED.iter().all(closed)
}

fn every() -> Vec<String> {
    let rows = FACTS.iter().map(|fact| fact.path.join("."));
    let beneath = CLOSED.iter().flat_map(|(above, keys)| keys.iter().map(|key| format!("{}.{key}", above.join("."))));
    rows.chain(beneath).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_beside_the_table_are_told_with_the_nearest() {
        for path in
            [&["requst", "method"][..], &["request", "metod"], &["peer", "spiffeid"], &["x"], &["peer", "certificate", "cn"]]
        {
            assert!(!is_known(path), "{path:?}");
        }
        for path in [
            &["request"][..],
            &[],
            &["request", "headers", "x-a", "0"],
            &["request", "body", "deep"],
            &["peer", "spiffe_id"],
            &["peer", "certificate"],
            &["attributes", "request", "http", "headers", ":path"],
        ] {
            assert!(is_known(path), "{path:?}");
        }
        let nearest = every().into_iter().min_by_key(|known| strsim::osa_distance("requst.method", known));
        assert_eq!(nearest.as_deref(), Some("request.method"));
    }
}
