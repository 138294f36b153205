//! A request's body, as far as a policy may see it.
//!
//! In: the body whole, with its Content-Type and Content-Encoding. Out: a value for the policy, nothing, or a [`BodyError`], which
//! denies. What must stay true: the policy never sees another document than the upstream would, whichever parser that uses. So what
//! parsers are known to read differently is refused instead of read our way: repeated keys, lone surrogates, a byte order mark, bytes
//! after the end, numbers that would change. The media type is compared whole, because `text/x; application/json` is not JSON.
//!
//! The parser is our own: serde_json keeps the last of two equal keys, and has rounded a number before a visitor sees it.

mod form;
mod json;
mod media;

use regorus::Value;

/// What a policy may see of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// There is no body, or its type is not one we read.
    Absent,
    Json(Value),
    /// Name → array of values, from `application/x-www-form-urlencoded`.
    Form(Value),
}

impl Parsed {
    /// About how many bytes it holds in memory. A document of many small values takes several times its text.
    pub fn size(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Json(value) | Self::Form(value) => size(value),
        }
    }
}

/// A node of a map or an array with its count of references, as allocated. An estimate: what matters is that it grows with what is held.
const NODE: u64 = 48;

/// About how many bytes a value holds in memory.
pub(super) fn size(value: &Value) -> u64 {
    NODE + match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => 0,
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Set(items) => items.iter_sorted().map(size).sum(),
        Value::Object(object) => object.iter().map(|(key, value)| size(key) + size(value)).sum(),
    }
}

/// Why a body cannot be read without doubt. It names places, never content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("content-encoding is not identity; a policy that reads the body needs it as it is")]
    Encoded,
    #[error("content-type is malformed, or has a parameter twice")]
    MediaType,
    #[error("the charset is not utf-8")]
    Charset,
    #[error("multipart bodies cannot be read for a policy")]
    Multipart,
    #[error("the body is not UTF-8")]
    Utf8,
    #[error("JSON: {what} at byte {at}")]
    Json { what: &'static str, at: usize },
    #[error("form: {what}")]
    Form { what: &'static str },
}

/// A value that JSON cannot hold as it is: an integer beyond 64 bits, keys that become one, or a nesting nobody meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value has no JSON form without loss")]
pub struct NoJson;

/// Reads a body for a policy, in time linear in its length, nested at most `depth` deep (and never more than 120).
///
/// # Errors
///
/// A body that has a readable type but is not without doubt of it, is encoded or is multipart.
pub fn parse(content_type: Option<&str>, content_encoding: Option<&str>, bytes: &[u8], depth: usize) -> Result<Parsed, BodyError> {
    if bytes.is_empty() {
        return Ok(Parsed::Absent);
    }
    if !content_encoding.is_none_or(is_identity) {
        return Err(BodyError::Encoded);
    }
    match content_type.map(media::kind).transpose()? {
        Some(media::Kind::Json) => json::read(utf8(bytes)?, depth).map(Parsed::Json),
        Some(media::Kind::Form) => form::read(utf8(bytes)?).map(Parsed::Form),
        Some(media::Kind::Multipart) => Err(BodyError::Multipart),
        Some(media::Kind::Other) | None => Ok(Parsed::Absent),
    }
}

/// The document that [`parse`] saw as [`Parsed::Json`], for a patch to work on: same keys, same numbers, `1.0` still not `1`.
///
/// # Errors
///
/// As [`parse`]; a document it refuses would lose something here.
pub fn document(bytes: &[u8], depth: usize) -> Result<serde_json::Value, BodyError> {
    let text = utf8(bytes)?;
    json::read(text, depth)?;
    serde_json::from_str(text).map_err(|_| BodyError::Json { what: "no document", at: 0 })
}

/// A policy's value as JSON without loss: sets become sorted arrays, keys that are no strings become their JSON, as OPA does.
///
/// # Errors
///
/// [`NoJson`] where that would lose or merge something.
pub fn to_json(value: &Value) -> Result<serde_json::Value, NoJson> {
    convert(value, json::MAX_DEPTH)
}

fn convert(value: &Value, depth: usize) -> Result<serde_json::Value, NoJson> {
    let inner = |value: &Value| convert(value, depth.checked_sub(1).ok_or(NoJson)?);
    Ok(match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(truth) => serde_json::Value::Bool(*truth),
        Value::String(text) => serde_json::Value::String(text.as_ref().to_owned()),
        Value::Number(number) => serde_json::Value::Number(match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(whole)) => whole.into(),
            (None, None) => number.as_f64().and_then(serde_json::Number::from_f64).ok_or(NoJson)?,
        }),
        Value::Array(items) => serde_json::Value::Array(items.iter().map(inner).collect::<Result<_, _>>()?),
        Value::Set(items) => serde_json::Value::Array(items.iter_sorted().map(inner).collect::<Result<_, _>>()?),
        Value::Object(object) => {
            let mut fields = serde_json::Map::new();
            for (key, value) in object.iter() {
                let key = match key {
                    Value::String(text) => text.as_ref().to_owned(),
                    other => convert(other, depth)?.to_string(),
                };
                if fields.insert(key, inner(value)?).is_some() {
                    return Err(NoJson);
                }
            }
            serde_json::Value::Object(fields)
        }
        Value::Undefined => return Err(NoJson),
    })
}

fn utf8(bytes: &[u8]) -> Result<&str, BodyError> {
    std::str::from_utf8(bytes).map_err(|_| BodyError::Utf8)
}

fn is_identity(encoding: &str) -> bool {
    encoding.split(',').all(|coding| coding.trim_matches([' ', '\t']).eq_ignore_ascii_case("identity"))
}

#[cfg(test)]
mod tests;
