//! What a policy would allow an identity that never did it: the policy is asked.
//!
//! In: judges, samples, each identity's own facts. Out: for each identity the kinds of requests that would be allowed, and how many could
//! not be judged. What must stay true: the same log, configuration and order give the same list; what the record does not tell makes a
//! question unknown, never an answer; the number of questions is bounded and the rest counted.
//! A question is a recorded request of somebody else in which everything that says who asks is this identity's own, as it was last recorded.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::gather::{Did, Gathered, Identity, Sample};
use crate::cli::courts::{Court, Courts};
use crate::cli::lacking::{self, Recorded};
use crate::cli::log::Revision;

/// Questions put to the policy.
const QUESTIONS: u64 = 200_000;
/// What says who asks.
const WHO: &[&[&str]] = &[
    &["peer"],
    &["source_principal"],
    &["attributes", "source"],
    &["attributes", "tlsSession"],
    &["connection"],
    &["workload"],
    &["session"],
    &["anomaly"],
];

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Unused {
    /// By identity.
    pub(super) of: BTreeMap<String, OfOne>,
    /// Questions that were answered.
    pub(super) asked: u64,
    /// Questions beyond the bound.
    pub(super) not_asked: u64,
    /// Rules of the log the configuration's policy cannot judge, and why.
    pub(super) no_court: BTreeMap<String, String>,
    /// Name → revision of who was asked.
    pub(super) revisions: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
pub(super) struct OfOne {
    pub(super) allowed: BTreeSet<Did>,
    /// What the record lacks → kinds of requests it kept from being judged.
    pub(super) unknown: BTreeMap<String, u64>,
}

pub(super) fn ask(courts: &mut Courts, gathered: &Gathered) -> Unused {
    let mut unused = Unused::default();
    let mut samples = Vec::new();
    for ((rule, did), sample) in &gathered.samples {
        if unused.no_court.contains_key(rule) {
            continue;
        }
        match courts.of(rule) {
            Ok(_) => samples.push((rule, did, sample, Value::from_json_str(&sample.input).ok())),
            Err(why) => {
                unused.no_court.insert(rule.clone(), why.to_string());
            }
        }
    }
    let trust = courts.trust();
    for (name, identity) in &gathered.identities {
        let mut of_one = OfOne::default();
        let own: BTreeMap<&String, Value> =
            identity.last_input.iter().filter_map(|(rule, text)| Some((rule, Value::from_json_str(text).ok()?))).collect();
        for (rule, did, sample, input) in &samples {
            if used(identity, did) || of_one.allowed.contains(did) {
                continue;
            }
            if unused.asked >= QUESTIONS {
                unused.not_asked += 1;
                continue;
            }
            unused.asked += 1;
            // Of another rule it may hold less; what it lacks is then unknown.
            let own = own.get(rule).or_else(|| own.values().next());
            let (Some(input), Some(own), Ok(court)) = (input, own, courts.of(rule)) else {
                *of_one.unknown.entry("an input of this identity".to_owned()).or_default() += 1;
                continue;
            };
            match question(court, sample, input, own, trust) {
                Ok(question) => {
                    let said = court.judge.judge_document(0, question);
                    match (said.fault, said.verdict.allowed) {
                        (Some(_), _) => *of_one.unknown.entry("the policy failed on it".to_owned()).or_default() += 1,
                        (None, true) => {
                            of_one.allowed.insert((*did).clone());
                        }
                        (None, false) => {}
                    }
                }
                Err(lacks) => *of_one.unknown.entry(lacks).or_default() += 1,
            }
        }
        unused.of.insert(name.clone(), of_one);
    }
    unused.revisions = courts.revisions();
    unused
}

fn used(identity: &Identity, did: &Did) -> bool {
    identity.did.get(did).and_then(Option::as_ref).is_some_and(|used| used.allowed > 0)
}

/// The request of a sample as this identity would make it, or what the record lacks of it.
fn question(court: &Court, sample: &Sample, input: &Value, own: &Value, trust: bool) -> Result<Value, String> {
    let footprint = court.footprint();
    let mut question = input.clone();
    let mut lacks = BTreeSet::new();
    for path in WHO.iter().filter(|path| footprint.reads(path)) {
        match (lacking::stands(own, path), lacking::stands(input, path)) {
            (Some(value), _) => put(&mut question, path, value.clone()),
            (None, Some(_)) => {
                lacks.insert(format!("{} of this identity", lacking::name(path)));
            }
            (None, None) => {}
        }
    }
    let bundles = sample.bundles.iter().map(|(name, revision)| (name.clone(), Revision { revision: revision.clone() })).collect();
    let recorded = Recorded { by: court.judged_by(&bundles, trust), no_body: sample.no_body };
    lacks.extend(lacking::unrecorded(footprint, recorded, &question));
    lacks.extend(lacking::taken_out(footprint, sample.taken_out.iter()));
    for path in lacking::hashed(&question) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if footprint.reads(&path) {
            lacks.insert(lacking::name(&path));
        }
    }
    if lacks.is_empty() { Ok(question) } else { Err(lacks.into_iter().collect::<Vec<_>>().join(", ")) }
}

/// Puts a value at a path.
fn put(at: &mut Value, path: &[&str], value: Value) {
    let Some((key, rest)) = path.split_first() else { return };
    let Value::Object(fields) = &*at else { return };
    let mut fields: BTreeMap<Value, Value> = fields.iter_sorted().map(|(key, value)| (key.clone(), value.clone())).collect();
    let key = Value::from(*key);
    if rest.is_empty() {
        fields.insert(key, value);
    } else {
        put(fields.entry(key).or_insert_with(Value::new_object), rest, value);
    }
    *at = Value::from(fields);
}
