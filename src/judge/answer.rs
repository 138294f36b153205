//! A policy's answer, read into a [`Verdict`].
//!
//! In: the value of the decision rule, and the shape it was promised in. Out: a verdict, or an [`AnswerError`], which denies.
//! What must stay true: nothing is an allow but the boolean `true`, alone or as `allowed`; what the policy asks for beside an allow is
//! either understood whole or the answer is an error, so that no half-read edit goes up.
//!
//! `Portcullis` refuses unknown keys and checks every value, also where the outcome makes it void. `Envoy` follows opa-envoy-plugin:
//! a key of the other outcome is not even looked at, a key nobody knows is counted. `tests/envoy_oracle` holds the plugin's own
//! answers. Where both shapes leave the plugin: a 1xx `http_status` is refused (it cannot end a response), and our own keys, those
//! of later capabilities included, are read in both, because a `hold` that is ignored is an allow nobody gave.

mod own;
mod plugin;

use std::borrow::Cow;

use regorus::Value;

use crate::decision::Reason;
use crate::policy::{KillScope, ResultShape};
use crate::verdict::{Denial, Edits, Lease, Verdict};

/// Why an answer is no verdict. It names keys and types, never values: those may come from the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("{place}: expected {expected}, found {found}")]
    Unexpected { place: String, expected: &'static str, found: &'static str },
    #[error("the answer is an object without `allowed`; set it to true or false")]
    NoOutcome,
    #[error("`{key}` is no key of a verdict; remove it, or correct its spelling")]
    UnknownKey { key: String },
    #[error("`{key}` asks for what this gate cannot do yet; remove it")]
    NotYet { key: String },
    #[error("{place}: {why}")]
    Refused { place: String, why: &'static str },
}

/// Reads what a policy answered.
///
/// On a denial the request's edits and the lease have no effect, on an allow `body` and `http_status` have none; `kill` beside an
/// allow is an error, because one of the two cannot be meant.
///
/// # Errors
///
/// Whatever is not exactly of the given shape, undefined included; the caller denies with [`Reason::VerdictType`].
pub fn read(answer: &Value, shape: ResultShape, may_kill: &[KillScope]) -> Result<Verdict, AnswerError> {
    let keys = match answer {
        Value::Bool(allowed) => return Ok(outcome(*allowed)),
        Value::Object(keys) => keys,
        other => return Err(unexpected("the answer", "a boolean or an object", other)),
    };
    let allowed = match keys.iter_sorted().find(|(key, _)| is_text(key, "allowed")) {
        Some((_, Value::Bool(allowed))) => *allowed,
        Some((_, other)) => return Err(unexpected("allowed", "a boolean", other)),
        None => return Err(AnswerError::NoOutcome),
    };
    let mut reading = Reading { verdict: outcome(allowed), shape, may_kill };
    for (key, value) in keys.iter_sorted() {
        match key {
            Value::String(name) => reading.key(name, value)?,
            other => reading.unknown(&text(other))?,
        }
    }
    Ok(settled(reading.verdict))
}

fn outcome(allowed: bool) -> Verdict {
    Verdict { allowed, reason: (!allowed).then_some(Reason::Policy), ..Verdict::default() }
}

/// One answer being read, key by key.
struct Reading<'a> {
    verdict: Verdict,
    shape: ResultShape,
    may_kill: &'a [KillScope],
}

impl Reading<'_> {
    fn key(&mut self, name: &str, value: &Value) -> Result<(), AnswerError> {
        let (allowed, shape) = (self.verdict.allowed, self.shape);
        let other_outcome = matches!(acts_on(name), Some(outcome) if outcome != allowed);
        if other_outcome && shape == ResultShape::Envoy {
            return Ok(());
        }
        let verdict = &mut self.verdict;
        match name {
            "allowed" => {}
            "headers" if allowed => verdict.edits.headers = plugin::headers(name, value, shape)?,
            "headers" => verdict.denial.headers = plugin::headers(name, value, shape)?,
            "request_headers_to_remove" => verdict.edits.request_headers_to_remove = plugin::header_names(name, value)?,
            "response_headers_to_add" => verdict.edits.response_headers_to_add = plugin::headers(name, value, shape)?,
            "query_parameters_to_set" => verdict.edits.query_parameters_to_set = plugin::query(name, value, shape)?,
            "query_parameters_to_remove" => verdict.edits.query_parameters_to_remove = texts(name, value)?,
            "http_status" => verdict.denial.status = Some(plugin::status(name, value)?),
            "body" => verdict.denial.body = Some(string(name, value, "a string")?.to_owned()),
            "dynamic_metadata" => verdict.metadata = Some(plugin::metadata(name, value)?),
            "reasons" => verdict.reasons = texts(name, value)?,
            "kill" => verdict.kill = Some(own::kill(value, allowed, self.may_kill)?),
            "rewrite" => verdict.edits.rewrite = own::rewrite(value)?,
            "lease" => verdict.lease = own::lease(value)?,
            "hold" | "redact" | "credential" | "risk" => return Err(AnswerError::NotYet { key: name.to_owned() }),
            other => return self.unknown(other),
        }
        Ok(())
    }

    fn unknown(&mut self, key: &str) -> Result<(), AnswerError> {
        match self.shape {
            ResultShape::Portcullis => Err(AnswerError::UnknownKey { key: clipped(key) }),
            ResultShape::Envoy => {
                self.verdict.ignored_keys += 1;
                Ok(())
            }
        }
    }
}

/// The outcome for which the plugin looks at one of its keys; `None`: for both, or the key is not the plugin's.
fn acts_on(key: &str) -> Option<bool> {
    match key {
        "request_headers_to_remove" | "response_headers_to_add" | "query_parameters_to_set" | "query_parameters_to_remove" => {
            Some(true)
        }
        "http_status" | "body" => Some(false),
        _ => None,
    }
}

/// Drops what was read but has no effect on this outcome, so that no later reader has to remember it.
fn settled(mut verdict: Verdict) -> Verdict {
    if verdict.allowed {
        verdict.denial = Denial::default();
    } else {
        verdict.edits = Edits::default();
        verdict.lease = Lease::default();
    }
    verdict
}

/// The texts of an array or a set; OPA hands sets to the plugin as sorted arrays.
fn texts(place: &str, value: &Value) -> Result<Vec<String>, AnswerError> {
    items(value)
        .ok_or_else(|| unexpected(place, "an array of strings", value))?
        .into_iter()
        .map(|item| string(place, item, "an array of strings").map(str::to_owned))
        .collect()
}

fn items(value: &Value) -> Option<Vec<&Value>> {
    match value {
        Value::Array(items) => Some(items.iter().collect()),
        Value::Set(items) => Some(items.iter_sorted().collect()),
        _ => None,
    }
}

fn string<'a>(place: &str, value: &'a Value, expected: &'static str) -> Result<&'a str, AnswerError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(unexpected(place, expected, other)),
    }
}

/// A key as text; what is no string becomes its JSON, as OPA makes it one for the plugin.
fn text(key: &Value) -> Cow<'_, str> {
    match key {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

fn is_text(key: &Value, wanted: &str) -> bool {
    matches!(key, Value::String(text) if text.as_ref() == wanted)
}

fn unexpected(place: &str, expected: &'static str, found: &Value) -> AnswerError {
    AnswerError::Unexpected { place: clipped(place), expected, found: kind(found) }
}

fn refused(place: &str, why: &'static str) -> AnswerError {
    AnswerError::Refused { place: clipped(place), why }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Set(_) => "a set",
        Value::Object(_) => "an object",
        Value::Undefined => "undefined",
    }
}

/// A name for a message. A policy may build keys from the request, and a message must not grow with it.
fn clipped(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests;
