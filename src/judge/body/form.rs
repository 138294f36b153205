//! `application/x-www-form-urlencoded`, as Go's `url.ParseQuery` reads it.
//!
//! In: a body. Out: an object of name → array of values, in the order they came. What Go calls an error is one here; so is a name or a
//! value that is not UTF-8 once decoded, which a policy could not compare.

use std::collections::BTreeMap;

use regorus::Value;

use super::BodyError;

/// Reads a form; `;` does not separate, it is an error.
pub(super) fn read(text: &str) -> Result<Value, BodyError> {
    let mut fields: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        if pair.contains(';') {
            return Err(BodyError::Form { what: "a semicolon separates nothing; encode it as %3B" });
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.entry(decoded(name)?).or_default().push(decoded(value)?);
    }
    Ok(Value::from(fields.into_iter().map(|(name, values)| (name, Value::from(values))).collect::<BTreeMap<_, _>>()))
}

fn decoded(text: &str) -> Result<Value, BodyError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => escape(rest.next(), rest.next())?,
            other => other,
        });
    }
    String::from_utf8(bytes).map(Value::from).map_err(|_| BodyError::Form { what: "an escape decodes to what is not UTF-8" })
}

fn escape(high: Option<u8>, low: Option<u8>) -> Result<u8, BodyError> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(BodyError::Form { what: "a % is not followed by two hexadecimal digits" }),
    }
}
