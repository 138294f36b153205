//! `array.flatten` and `strings.split_n`.
//!
//! In: arrays and texts. Out: OPA's arrays. An empty delimiter splits a text into its characters, as Go does.

use regorus::Value;

use super::text;

/// `array.flatten(array)`: one level.
pub(super) fn flatten(arguments: &[Value]) -> Option<Value> {
    let [Value::Array(items)] = arguments else { return None };
    let mut flat = Vec::with_capacity(items.len());
    for item in items.iter() {
        match item {
            Value::Array(inner) => flat.extend(inner.iter().cloned()),
            other => flat.push(other.clone()),
        }
    }
    Some(flat.into())
}

/// `strings.split_n(text, delimiter, n)`: the first `n` parts, or the last `-n`.
pub(super) fn split_n(arguments: &[Value]) -> Option<Value> {
    let [value, delimiter, Value::Number(count)] = arguments else { return None };
    let (value, delimiter, count) = (text(value)?, text(delimiter)?, count.as_i64()?);
    let mut parts: Vec<&str> = match delimiter {
        "" => value.char_indices().filter_map(|(at, one)| value.get(at..at + one.len_utf8())).collect(),
        delimiter => value.split(delimiter).collect(),
    };
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if count < 0 {
        drop(parts.drain(..parts.len().saturating_sub(wanted)));
    } else {
        parts.truncate(wanted);
    }
    Some(parts.into_iter().map(Value::from).collect::<Vec<_>>().into())
}
