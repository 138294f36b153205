//! The bytes a signature's hash of a file is taken over, as OPA takes them.
//!
//! In: a file's name and content. Out: `data.json`, `data.yaml`, `data.yml` and `.manifest` written anew with sorted keys, no
//! space and numbers as they stood; any other file as it is. What must stay true: a document OPA would write otherwise than this
//! never gets the hash of another document, so that a difference is a refusal. Not by way of [`serde_json::Value`]: it keeps what
//! a number means and loses how it was written, and OPA hashes how it was written.
//!
//! Source: OPA `v1/bundle/hash.go`, and Go's `encoding/json` without HTML escapes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// As deep as `serde_json` reads.
const DEPTH: usize = 128;

/// What is hashed of a file, or why it cannot be read.
pub(super) fn bytes<'c>(path: &str, content: &'c [u8]) -> Result<Cow<'c, [u8]>, String> {
    let leaf = path.rsplit('/').next().unwrap_or(path);
    let yaml = matches!(leaf, "data.yaml" | "data.yml");
    if !yaml && !matches!(leaf, "data.json" | ".manifest") {
        return Ok(Cow::Borrowed(content));
    }
    let mut out = String::new();
    match serde_json::from_slice::<&RawValue>(content) {
        Ok(raw) => raw_value(raw, DEPTH, &mut out)?,
        Err(_) if yaml => {
            let value: Value = serde_yaml::from_slice(content).map_err(|error| error.to_string())?;
            parsed_value(&value, &mut out)?;
        }
        Err(error) => return Err(error.to_string()),
    }
    Ok(Cow::Owned(out.into_bytes()))
}

fn raw_value(raw: &RawValue, depth: usize, out: &mut String) -> Result<(), String> {
    let text = raw.get();
    let deeper = || depth.checked_sub(1).ok_or_else(|| format!("it nests deeper than {DEPTH}"));
    let broken = |error: serde_json::Error| error.to_string();
    match text.as_bytes().first() {
        Some(b'{') => {
            let depth = deeper()?;
            // Of a key given twice the last counts, here and where the document is read.
            let object: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text).map_err(broken)?;
            out.push('{');
            for (index, (key, value)) in object.into_iter().enumerate() {
                comma(index, out);
                string(&key, out);
                out.push(':');
                raw_value(value, depth, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let depth = deeper()?;
            let array: Vec<&RawValue> = serde_json::from_str(text).map_err(broken)?;
            out.push('[');
            for (index, value) in array.into_iter().enumerate() {
                comma(index, out);
                raw_value(value, depth, out)?;
            }
            out.push(']');
        }
        Some(b'"') => string(&serde_json::from_str::<String>(text).map_err(broken)?, out),
        _ => out.push_str(text),
    }
    Ok(())
}

/// A document that was YAML: OPA makes JSON of it first, so numbers are as Go writes them.
fn parsed_value(value: &Value, out: &mut String) -> Result<(), String> {
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<&String, &Value> = object.iter().collect();
            out.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                comma(index, out);
                string(key, out);
                out.push(':');
                parsed_value(value, out)?;
            }
            out.push('}');
        }
        Value::Array(array) => {
            out.push('[');
            for (index, value) in array.iter().enumerate() {
                comma(index, out);
                parsed_value(value, out)?;
            }
            out.push(']');
        }
        Value::String(text) => string(text, out),
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or(f64::NAN), out)?,
        Value::Number(_) | Value::Bool(_) | Value::Null => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn comma(index: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
}

/// The shortest digits that mean the number, with an exponent where it is very small or very large.
fn float(number: f64, out: &mut String) -> Result<(), String> {
    if !number.is_finite() {
        return Err("a number is not finite".to_owned());
    }
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let written = format!("{number:e}");
        let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
        let sign = if exponent.starts_with('-') { "" } else { "+" };
        out.push_str(&format!("{digits}e{sign}{exponent}"));
    } else {
        out.push_str(&number.to_string());
    }
    Ok(())
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, content: &str) -> String {
        String::from_utf8(bytes(path, content.as_bytes()).unwrap().into_owned()).unwrap()
    }

    #[test]
    fn documents_are_written_as_go_writes_them() {
        let rows = [
            (
                r#" { "b" : 1e2, "a": [1.0, -0, 12345678901234567890123], "é": null } "#,
                r#"{"a":[1.0,-0,12345678901234567890123],"b":1e2,"é":null}"#,
            ),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"["\u0041\/\u2028<>&\u007f\u0001\b\f\ud83d\ude00"]"#, "[\"A/\\u2028<>&\u{7f}\\u0001\\b\\f😀\"]"),
            ("{}", "{}"),
        ];
        for (written, expected) in rows {
            assert_eq!(of("x/data.json", written), expected);
        }
        assert_eq!(of("data.yaml", "b: 1.0\na: [1e2, 1e21, 0.0000001, 1.5]\n"), r#"{"a":[100,1e+21,1e-7,1.5],"b":1}"#);
        assert_eq!(of("p.rego", " {} "), " {} ");
        assert!(bytes("data.json", b"{").is_err());
        assert!(bytes("data.json", "[".repeat(100_000).as_bytes()).is_err());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(bytes("data.json", deep.as_bytes()).unwrap_err().contains("deeper"));
    }
}
