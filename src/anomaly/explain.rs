//! What an operator reads of a session's watch: how every rule stands, what fired on what evidence, and the score it makes.
//!
//! In: a watch and a time. Out: plain rows, for the control API and the command line alike.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::watch::{Mark, State, Watch};

/// `GET /v1/sessions/{id}/anomaly`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub score: f64,
    /// Rules that fired and still count.
    pub holding: Vec<String>,
    pub learning: bool,
    pub rules: Vec<RuleRow>,
    /// Newest first.
    pub fired: Vec<FiringRow>,
}

/// How one rule stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    pub rule: String,
    pub kind: String,
    pub action: String,
    pub observe: bool,
    /// In a sentence.
    pub state: String,
    /// How often it fired in this session.
    pub fired: u64,
    /// What it adds to the score now.
    pub score: f64,
    /// How long it will still only learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_seconds: Option<u64>,
    /// The requests that matched the first steps of a sequence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub progress: Vec<MarkRow>,
}

/// A rule that fired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FiringRow {
    pub rule: String,
    /// What was done: the rule's action, or `observe`.
    pub action: String,
    /// How often in a row; the rest is about the last time.
    pub times: u64,
    pub seconds_ago: f64,
    pub exchange: String,
    /// Nothing where a denial or a byte made it fire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    pub why: String,
    /// The requests of a sequence, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<MarkRow>,
}

/// A request that is evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MarkRow {
    pub exchange: String,
    pub action: String,
    pub seconds_ago: f64,
}

impl Watch {
    /// How everything stands now.
    pub fn explain(&self, now: Instant) -> Explanation {
        let state = self.lock();
        let reading = state.reading(now);
        Explanation {
            score: reading.score,
            holding: reading.rules,
            learning: reading.learning,
            rules: rules(&state, now),
            fired: firings(&state, now),
        }
    }
}

fn rules(state: &State, now: Instant) -> Vec<RuleRow> {
    let at = state.at(now);
    let rows = state.rules.rules.iter().zip(&state.kept).map(|(rule, kept)| RuleRow {
        rule: rule.name.clone(),
        kind: rule.kind.code().to_owned(),
        action: rule.action.code().to_owned(),
        observe: rule.observe,
        state: kept.memory.told(rule, at),
        fired: kept.fired,
        score: hundredths(rule.score * kept.share(&state.rules, now)),
        learning_seconds: kept.learns_for(rule, now).map(|left| left.as_secs()),
        progress: kept.memory.progress(rule, at).iter().map(|mark| row(mark, state, now)).collect(),
    });
    rows.collect()
}

fn firings(state: &State, now: Instant) -> Vec<FiringRow> {
    let rows = state.firings.iter().rev().map(|firing| FiringRow {
        rule: firing.rule.clone(),
        action: firing.action.to_owned(),
        times: firing.times,
        seconds_ago: seconds(now.saturating_duration_since(firing.at)),
        exchange: firing.exchange.to_string(),
        request: firing.request.clone(),
        why: firing.why.clone(),
        evidence: firing.marks.iter().map(|mark| row(mark, state, now)).collect(),
    });
    rows.collect()
}

fn row(mark: &Mark, state: &State, now: Instant) -> MarkRow {
    let at = state.began + Duration::from_millis(mark.at);
    let (exchange, action) = (mark.exchange.to_string(), mark.action.to_string());
    MarkRow { exchange, action, seconds_ago: seconds(now.saturating_duration_since(at)) }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
