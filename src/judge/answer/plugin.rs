//! The keys of a verdict that opa-envoy-plugin knows, read as it reads them.
//!
//! In: the value of one key. Out: the words of [`crate::verdict`]. Header names leave in lower case with all values of one name
//! together, because whoever sets them replaces what was there, and would otherwise keep only the last. A name with no value says
//! nothing, as with the plugin; it does not remove the header.

use std::collections::BTreeMap;

use regorus::Value;

use crate::policy::ResultShape;

use super::{AnswerError, clipped, items, refused, string, text, texts, unexpected};

/// Headers: an object of name to string or array of strings, or an array of such objects.
pub(super) fn headers(place: &str, value: &Value, shape: ResultShape) -> Result<Vec<(String, Vec<String>)>, AnswerError> {
    let mut named = BTreeMap::new();
    match items(value) {
        Some(objects) => {
            objects.into_iter().try_for_each(|object| add(&mut named, place, object, shape, str::to_ascii_lowercase))?
        }
        None => add(&mut named, place, value, shape, str::to_ascii_lowercase)?,
    }
    Ok(said(named))
}

/// Query parameters: one object only. Their names keep their case.
pub(super) fn query(place: &str, value: &Value, shape: ResultShape) -> Result<Vec<(String, Vec<String>)>, AnswerError> {
    let mut named = BTreeMap::new();
    add(&mut named, place, value, shape, str::to_owned)?;
    Ok(said(named))
}

/// Names of headers, in lower case.
pub(super) fn header_names(place: &str, value: &Value) -> Result<Vec<String>, AnswerError> {
    let mut names = texts(place, value)?;
    names.iter_mut().for_each(|name| name.make_ascii_lowercase());
    Ok(names)
}

/// A final status of Envoy's `StatusCode`; 451, for one, is not among them. A 1xx is, but cannot end a response.
pub(super) fn status(place: &str, value: &Value) -> Result<u16, AnswerError> {
    let Value::Number(number) = value else {
        return Err(unexpected(place, "a number", value));
    };
    match number.as_u64().and_then(|code| u16::try_from(code).ok()) {
        Some(
            code
            @ (200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511),
        ) => Ok(code),
        _ => Err(refused(place, "is not a final status code that Envoy knows; 403 is the usual one")),
    }
}

/// `dynamic_metadata`, for the record. Numbers become doubles where they must, as in the plugin.
pub(super) fn metadata(place: &str, value: &Value) -> Result<serde_json::Value, AnswerError> {
    match value {
        Value::Object(_) => serde_json::to_value(value).map_err(|_| refused(place, "holds a number beyond the range of a double")),
        other => Err(unexpected(place, "an object", other)),
    }
}

fn add(
    into: &mut BTreeMap<String, Vec<String>>,
    place: &str,
    value: &Value,
    shape: ResultShape,
    name: fn(&str) -> String,
) -> Result<(), AnswerError> {
    let Value::Object(object) = value else {
        return Err(unexpected(place, "an object of names and values", value));
    };
    for (key, value) in object.iter_sorted() {
        if shape == ResultShape::Portcullis {
            string(place, key, "names that are strings")?;
        }
        let key = text(key);
        let values = match value {
            Value::String(value) => vec![value.as_ref().to_owned()],
            Value::Array(_) | Value::Set(_) => texts(&inside(place, &key), value)?,
            other => return Err(unexpected(&inside(place, &key), "a string or an array of strings", other)),
        };
        into.entry(name(&key)).or_default().extend(values);
    }
    Ok(())
}

fn said(named: BTreeMap<String, Vec<String>>) -> Vec<(String, Vec<String>)> {
    named.into_iter().filter(|(_, values)| !values.is_empty()).collect()
}

fn inside(place: &str, key: &str) -> String {
    clipped(&format!("{place}.{key}"))
}
