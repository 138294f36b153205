//! A violation of the schema → a mistake people can read.
//!
//! In: jsonschema's errors. Out: mistakes at the key or value in question, told in what was expected and what was found instead, with
//! the nearest name that is known. The texts of jsonschema are not used: they quote whole values and schemas.

use std::collections::BTreeSet;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::Value;

use super::document::{Content, Meaning, Place};
use super::report::{Mistake, nearest, quote, suggestion};

/// A mistake for each violation, one at most for each value.
pub(super) fn mistakes<'v>(schema: &Value, root: &Place<'_>, errors: impl Iterator<Item = ValidationError<'v>>) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut told = BTreeSet::new();
    for error in errors {
        let pointer = error.instance_path().as_str();
        let place = root.at_pointer(pointer);
        let keyword_path = error.schema_path().as_str();
        let around = keyword_path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let around = schema.pointer(around).unwrap_or(&Value::Null);
        match error.kind() {
            _ if place.is_broken() => {}
            Kind::AdditionalProperties { unexpected } => found.extend(unexpected.iter().map(|key| unknown(&place, around, key))),
            Kind::Required { property: Value::String(key) } => found.extend(missing(schema, &place, around, key)),
            _ if told.insert(pointer.to_owned()) => found.push(unfit(&place, around)),
            _ => {}
        }
    }
    found
}

fn known(around: &Value) -> Vec<&str> {
    around.get("properties").and_then(Value::as_object).map(|keys| keys.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// The known key an unknown one was probably meant to be; one that is there already cannot be it.
fn meant<'s>(place: &Place<'_>, around: &'s Value, key: &str) -> Option<&'s str> {
    nearest(key, known(around).into_iter().filter(|known| place.child(known).is_none()))
}

fn unknown(place: &Place<'_>, around: &Value, key: &str) -> Mistake {
    let hint = match meant(place, around, key) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known keys here: {}", known(around).into_iter().map(quote).collect::<Vec<_>>().join(", ")),
    };
    match place.child(key) {
        Some(child) => child.mistake_of_key("unknown key", Some(hint)),
        None => place.mistake_of_missing(key, "unknown key", Some(hint)),
    }
}

/// Nothing when the key is there and only misspelt: that is one mistake, not two.
fn missing(schema: &Value, place: &Place<'_>, around: &Value, key: &str) -> Option<Mistake> {
    let names = known(around);
    let misspelt = place.entries().iter().any(|(there, _)| !names.contains(there) && meant(place, around, there) == Some(key));
    let property = around.get("properties").and_then(|properties| properties.get(key));
    (!misspelt).then(|| place.mistake_of_missing(key, "missing key", property.and_then(|property| description(schema, property))))
}

fn description(schema: &Value, property: &Value) -> Option<String> {
    let referred = || schema.pointer(property.get("$ref")?.as_str()?.strip_prefix('#')?)?.get("description");
    property.get("description").or_else(referred)?.as_str().map(str::to_owned)
}

fn unfit(place: &Place<'_>, around: &Value) -> Mistake {
    let options = options(around);
    let hint = place.scalar().and_then(|scalar| match &scalar.meaning {
        _ if scalar.expanded => None,
        Meaning::Text(text) if options.is_empty() => {
            (text.parse::<u64>().is_ok() && takes(around, "integer")).then(|| format!("leave out the quotes: {text}"))
        }
        Meaning::Text(text) => suggestion(text, options.iter().copied(), "known").filter(|hint| hint.starts_with("did")),
        Meaning::Number(_) | Meaning::Boolean(_) => {
            let fits = if options.is_empty() {
                takes(around, "string") && around.get("pattern").is_none()
            } else {
                options.contains(&scalar.written.as_str())
            };
            fits.then(|| format!("write it in quotes: \"{}\"", scalar.written))
        }
    });
    place.mistake(format!("expected {}, found {}", expectation(around, &options), description_of(place)), hint)
}

/// The words a value may be, when there are only so many.
fn options(around: &Value) -> Vec<&str> {
    let words = |keyword: &str| around.get(keyword).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let single = around.get("const").and_then(Value::as_str);
    let constants = words("oneOf").iter().filter_map(|branch| branch.get("const")?.as_str());
    words("enum").iter().filter_map(Value::as_str).chain(constants).chain(single).collect()
}

fn takes(around: &Value, kind: &str) -> bool {
    match around.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|one| one == kind),
        Some(one) => one == kind,
        None => false,
    }
}

fn expectation(around: &Value, options: &[&str]) -> String {
    if let [only] = options {
        return quote(only);
    }
    if !options.is_empty() {
        return format!("one of {}", options.iter().map(|option| quote(option)).collect::<Vec<_>>().join(", "));
    }
    if around.get("pattern").is_some()
        && let Some(description) = around.get("description").and_then(Value::as_str)
    {
        return description.to_owned();
    }
    let kinds = [
        ("string", "text"),
        ("integer", "a whole number, 0 or more"),
        ("number", "a number"),
        ("boolean", "true or false"),
        ("array", "a list"),
        ("object", "a mapping of keys to values"),
    ];
    let kinds: Vec<&str> = kinds.into_iter().filter(|(kind, _)| takes(around, kind)).map(|(_, name)| name).collect();
    if kinds.is_empty() { "another value".to_owned() } else { kinds.join(" or ") }
}

fn description_of(place: &Place<'_>) -> String {
    match &place.node.content {
        Content::Sequence(_) => "a list".to_owned(),
        Content::Mapping(_) => "a mapping".to_owned(),
        Content::Broken => "nothing".to_owned(),
        Content::Scalar(scalar) => match scalar.meaning {
            Meaning::Text(_) => format!("the text {}", place.quoted()),
            Meaning::Number(_) => format!("the number {}", place.quoted()),
            Meaning::Boolean(_) => format!("the truth value {}", place.quoted()),
        },
    }
}
