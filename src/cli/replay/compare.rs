//! One recorded decision, judged again: the same, another, unknown, or never the policy's.
//!
//! What must stay true: only what a policy said is compared. A kill, an anomaly rule or a limit of the gate denied in the gate's own name
//! and would again. Answers are compared as they are recorded, credentials hashed, since that is all there is of the old one.

use std::collections::BTreeSet;

use regorus::Value;

use crate::cli::courts::{Court, Courts};
use crate::cli::failure::Failure;
use crate::cli::lacking::{self, Recorded};
use crate::cli::log::{Core, Line};
use crate::judge::answer;
use crate::policy::{KillScope, ResultShape};
use crate::proxy::record::answer_as_recorded;
use crate::verdict::{Denial, Verdict};

/// Denials in which a policy had the word.
const OF_THE_POLICY: [&str; 5] = ["policy", "undefined", "policy_error", "policy_panic", "verdict_type"];
/// Denials of what a policy asked for beside an allow.
const OF_ITS_EDITS: [&str; 2] = ["edit_refused", "rewrite_unstable"];

/// What became of one decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    Changed(Change),
    /// What the log does not tell.
    Unknown(BTreeSet<String>),
    /// No word of a policy's: why it was denied or refused.
    Skipped(String),
}

/// How it would change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub(super) kind: Kind,
    /// `allow`, or why not.
    pub(super) then: String,
    pub(super) now: String,
    /// Parts of the answer that differ where the verdict stays.
    pub(super) parts: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    AllowToDeny,
    DenyToAllow,
    /// The verdict stays, what comes with it does not.
    Answer,
    /// The new policy fails on it, which denies.
    Error,
}

impl Kind {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::AllowToDeny => "allow_to_deny",
            Self::DenyToAllow => "deny_to_allow",
            Self::Answer => "answer",
            Self::Error => "error",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::AllowToDeny => "allow → deny",
            Self::DenyToAllow => "deny → allow",
            Self::Answer => "another answer",
            Self::Error => "→ error",
        }
    }
}

/// Judges the decision of a line again.
pub(super) fn compare(courts: &mut Courts, line: &Line<'_>, core: &Core) -> Result<Outcome, Failure> {
    let reason = core.reason.as_deref();
    let Some((rule, input)) = line.envelope.path.as_deref().zip(line.envelope.input) else {
        return Ok(Outcome::Skipped(reason.or(core.verdict.as_deref()).unwrap_or("no reason told").to_owned()));
    };
    if !core.allowed() {
        let reason = reason.unwrap_or("no reason told");
        if reason == "policy_timeout" {
            return Ok(unknown("the verdict: the policy ran out of time, which is a measure of the machine"));
        }
        if OF_ITS_EDITS.contains(&reason) {
            return Ok(unknown("whether the request's edits hold, which is known only when they are made"));
        }
        if !OF_THE_POLICY.contains(&reason) {
            return Ok(Outcome::Skipped(reason.to_owned()));
        }
    }
    let (trust, may_kill) = (courts.trust(), courts.may_kill());
    let court = courts.of(rule)?;
    let Ok(input) = Value::from_json_str(input.get()) else { return Ok(unknown("an input that is JSON")) };
    let missing = missing(court, line, core, &input, trust);
    if !missing.is_empty() {
        return Ok(Outcome::Unknown(missing));
    }
    let shape = court.entry.shape;
    let now = court.judge.judge_document(0, input);
    let verdict = &now.verdict;
    let told = |kind, parts| {
        let now =
            if verdict.allowed { "allow".to_owned() } else { deny(verdict.reason.map(|reason| reason.code()), &verdict.reasons) };
        let then = if core.allowed() { "allow".to_owned() } else { deny(reason, &core.reasons) };
        Outcome::Changed(Change { kind, then, now, parts })
    };
    let now_reason = verdict.reason.map(|reason| reason.code());
    Ok(match (core.allowed(), verdict.allowed) {
        _ if now.fault.is_some() && now_reason != reason => told(Kind::Error, Vec::new()),
        (true, false) => told(Kind::AllowToDeny, Vec::new()),
        (false, true) => told(Kind::DenyToAllow, Vec::new()),
        _ if now_reason != reason => told(Kind::Answer, vec!["reason"]),
        _ => match differences(line, core, &now.answer, shape, &may_kill) {
            Ok(parts) if parts.is_empty() => Outcome::Same,
            Ok(parts) => told(Kind::Answer, parts),
            Err(what) => unknown(what),
        },
    })
}

fn unknown(what: &str) -> Outcome {
    Outcome::Unknown(BTreeSet::from([what.to_owned()]))
}

fn deny(reason: Option<&str>, reasons: &[String]) -> String {
    let reason = reason.unwrap_or("deny");
    if reasons.is_empty() { reason.to_owned() } else { format!("{reason}: {}", reasons.join(", ")) }
}

/// What the new policy reads and this line does not tell.
fn missing(court: &Court, line: &Line<'_>, core: &Core, input: &Value, trust: bool) -> BTreeSet<String> {
    let footprint = court.footprint();
    let by = court.judged_by(&line.envelope.bundles, trust);
    let recorded = Recorded { by, no_body: core.end.bytes_in == 0 && core.end.ending.is_some() };
    let mut missing = lacking::unrecorded(footprint, recorded, input);
    missing.extend(lacking::taken_out(footprint, line.envelope.erased.iter().chain(&line.envelope.masked)));
    for path in lacking::hashed(input) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if footprint.reads(&path) {
            missing.insert(format!("{} (a hash stands for it)", lacking::name(&path)));
        }
    }
    if footprint.clock {
        let asked = footprint.clock().map_or("the clock", |(name, _)| name);
        missing.insert(format!("what {asked} would have said then"));
    }
    let rewritten = |edit: &&String| ["rewrite ", "set query ", "remove query "].iter().any(|what| edit.starts_with(what));
    if core.edits.iter().any(|edit| rewritten(&edit)) {
        missing.insert("the request as it came: the record holds it as it was rewritten".to_owned());
    }
    missing
}

/// The parts in which two answers of one verdict differ.
fn differences(
    line: &Line<'_>,
    core: &Core,
    now: &Option<Value>,
    shape: ResultShape,
    may_kill: &[KillScope],
) -> Result<Vec<&'static str>, &'static str> {
    let touched = line.envelope.erased.iter().chain(&line.envelope.masked).any(|pointer| pointer.starts_with("/result"));
    if touched {
        return Err("all of the policy's answer: some was masked");
    }
    let now = now.as_ref().map(answer_as_recorded);
    let (then, now) = match (line.envelope.result, now) {
        // Undefined, an error or no verdict at all, then and now: there is nothing more to differ.
        (None, _) | (_, None) if core.reason.as_deref().is_some_and(|reason| reason != "policy") => return Ok(Vec::new()),
        (None, _) | (_, None) => return Err("all of the policy's answer"),
        (Some(then), Some(now)) => (Value::from_json_str(then.get()).ok(), now),
    };
    let read = |value: &Option<Value>| value.as_ref().and_then(|value| answer::read(value, shape, may_kill).ok());
    let (Some(then), Some(mut now)) = (read(&then), read(&now)) else {
        return Err("all of the policy's answer: as it is recorded it cannot be read");
    };
    // The texts a denied client sees are recorded with `input: full` only.
    if then.denial.body.is_none() {
        now.denial.body = None;
    }
    if then.edits.rewrite.is_none() && now.edits.rewrite.is_some() {
        return Err("whether the answer rewrote the request: `input: full` records it");
    }
    Ok(parts(&then, &now))
}

fn parts(then: &Verdict, now: &Verdict) -> Vec<&'static str> {
    let mut parts = Vec::new();
    let mut differ = |what, differs: bool| parts.extend(differs.then_some(what));
    differ("reasons", then.reasons != now.reasons);
    differ("edits", then.edits != now.edits);
    let head = |denial: &Denial| (denial.status, denial.headers.clone(), denial.body.clone());
    differ("denial", head(&then.denial) != head(&now.denial));
    differ("kill", then.kill != now.kill);
    differ("lease", then.lease != now.lease);
    differ("metadata", then.metadata != now.metadata);
    parts
}
