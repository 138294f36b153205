//! The keys of a verdict that are Portcullis' own: `kill`, `rewrite`, `lease`.
//!
//! In: the value of one key. Out: the words of [`crate::verdict`]. They are strict in both shapes: a bound that was misspelt would be
//! a bound that does not hold.

use std::time::Duration;

use regorus::Value;

use crate::decision::Scope;
use crate::judge::body::to_json;
use crate::policy::KillScope;
use crate::units::{Size, Span};
use crate::verdict::{KillOrder, Lease, Rewrite};

use super::{AnswerError, clipped, refused, string, unexpected};

/// `kill`: `{scope, ttl?}`, only beside a denial and in a scope the configuration lends.
pub(super) fn kill(value: &Value, allowed: bool, may_kill: &[KillScope]) -> Result<KillOrder, AnswerError> {
    let keys = keys("kill", value)?;
    if allowed {
        return Err(refused("kill", "stands beside an allow; a kill needs `allowed: false`"));
    }
    let (mut scope, mut ttl) = (None, None);
    for (key, value) in keys {
        match key {
            "scope" => scope = Some(lent(string("kill.scope", value, "a string")?, may_kill)?),
            "ttl" => ttl = Some(span("kill.ttl", value)?),
            other => return Err(unknown("kill", other)),
        }
    }
    let scope = scope.ok_or_else(|| refused("kill", "needs a `scope`: exchange, session or identity"))?;
    Ok(KillOrder { scope, ttl })
}

/// `rewrite`: `{path?, body?}`. One that names neither asks for nothing.
pub(super) fn rewrite(value: &Value) -> Result<Option<Rewrite>, AnswerError> {
    let mut rewrite = Rewrite::default();
    for (key, value) in keys("rewrite", value)? {
        match key {
            "path" => rewrite.path = Some(string("rewrite.path", value, "a string")?.to_owned()),
            "body" => rewrite.body = Some(operations(value)?),
            other => return Err(unknown("rewrite", other)),
        }
    }
    Ok((rewrite != Rewrite::default()).then_some(rewrite))
}

/// `lease`: `{max_age?, reassess_every?, max_bytes_in?, max_bytes_out?}`.
pub(super) fn lease(value: &Value) -> Result<Lease, AnswerError> {
    let mut lease = Lease::default();
    for (key, value) in keys("lease", value)? {
        match key {
            "max_age" => lease.max_age = Some(span("lease.max_age", value)?),
            "reassess_every" => lease.reassess_every = Some(span("lease.reassess_every", value)?),
            "max_bytes_in" => lease.max_bytes_in = Some(bytes("lease.max_bytes_in", value)?),
            "max_bytes_out" => lease.max_bytes_out = Some(bytes("lease.max_bytes_out", value)?),
            other => return Err(unknown("lease", other)),
        }
    }
    match lease.reassess_every {
        Some(every) if every < Duration::from_secs(1) => Err(refused("lease.reassess_every", "is less than 1s")),
        _ => Ok(lease),
    }
}

/// The operations of an RFC 6902 patch. No set: their order counts. Whether each makes sense, only the document can tell.
fn operations(value: &Value) -> Result<Vec<serde_json::Value>, AnswerError> {
    const PLACE: &str = "rewrite.body";
    let Value::Array(operations) = value else {
        return Err(unexpected(PLACE, "an array of RFC 6902 operations", value));
    };
    operations
        .iter()
        .map(|operation| match operation {
            Value::Object(_) => to_json(operation).map_err(|_| refused(PLACE, "holds what JSON cannot hold without loss")),
            other => Err(unexpected(PLACE, "an array of RFC 6902 operations", other)),
        })
        .collect()
}

fn lent(scope: &str, may_kill: &[KillScope]) -> Result<Scope, AnswerError> {
    let (wanted, scope) = match scope {
        "exchange" => (KillScope::Exchange, Scope::Exchange),
        "session" => (KillScope::Session, Scope::Session),
        "identity" => (KillScope::Identity, Scope::Identity),
        _ => return Err(refused("kill.scope", "is none of exchange, session, identity")),
    };
    if may_kill.contains(&wanted) {
        Ok(scope)
    } else {
        Err(refused("kill.scope", "is not lent to policies; see `policy.may_kill`"))
    }
}

fn span(place: &str, value: &Value) -> Result<Duration, AnswerError> {
    const EXPECTED: &str = "a duration such as \"15m\"";
    let text = string(place, value, EXPECTED)?;
    text.parse().map(|Span(duration)| duration).map_err(|_| unexpected(place, EXPECTED, value))
}

fn bytes(place: &str, value: &Value) -> Result<u64, AnswerError> {
    const EXPECTED: &str = "a whole number of bytes, or a size such as \"64KiB\"";
    let read = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().map(|Size(bytes)| bytes).ok(),
        _ => None,
    };
    read.ok_or_else(|| unexpected(place, EXPECTED, value))
}

fn keys<'a>(place: &str, value: &'a Value) -> Result<Vec<(&'a str, &'a Value)>, AnswerError> {
    let Value::Object(object) = value else {
        return Err(unexpected(place, "an object", value));
    };
    object.iter_sorted().map(|(key, value)| Ok((string(place, key, "keys that are strings")?, value))).collect()
}

fn unknown(place: &str, key: &str) -> AnswerError {
    AnswerError::UnknownKey { key: clipped(&format!("{place}.{key}")) }
}
