//! The JSON Schema of the configuration, and what in a document violates it.
//!
//! In: the `Config` structs of all rooms. Out: a schema for editors (`portcullis schema`) that says exactly what the reader takes, and
//! every violation of it at once. Two things differ from what is derived: an absent value is an absent key, never null, and an enum of
//! one variant is that variant. Both would otherwise reach people as "not valid under any of the given schemas".

use serde_json::{Map, Value};

use super::Config;
use super::document::Place;
use super::report::Mistake;
use super::violation;

/// The schema of the whole file.
pub(super) fn of_config() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    simplify(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "Portcullis configuration".into());
    }
    schema
}

/// Every violation of the schema below `root`.
pub(super) fn violations(root: &Place<'_>) -> Vec<Mistake> {
    let schema = of_config();
    let value = root.node.value();
    match jsonschema::validator_for(&schema) {
        Ok(validator) => violation::mistakes(&schema, root, validator.iter_errors(&value)),
        Err(error) => vec![Mistake::whole(format!("the schema of the configuration cannot be used: {}", error.masked()))],
    }
}

fn simplify(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(simplify),
        Value::Object(object) => {
            object.values_mut().for_each(simplify);
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            drop_null(object);
            inline_single(object);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `anyOf: [X, null]` → `X`, `type: [T, null]` → `T`.
fn drop_null(object: &mut Map<String, Value>) {
    let is_null = |branch: &Value| branch.get("type").is_some_and(|kind| kind == "null");
    if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
        branches.retain(|branch| !is_null(branch));
    }
    if let Some(Value::Array(kinds)) = object.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            let kind = kind.clone();
            object.insert("type".to_owned(), kind);
        }
    }
}

/// `anyOf: [X]` and `oneOf: [X]` → `X`, beside which the outer description stays.
fn inline_single(object: &mut Map<String, Value>) {
    for keyword in ["anyOf", "oneOf"] {
        if let Some(Value::Array(branches)) = object.get(keyword)
            && let [Value::Object(branch)] = branches.as_slice()
        {
            let branch = branch.clone();
            object.remove(keyword);
            for (key, value) in branch {
                object.entry(key).or_insert(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_schema_takes_null_and_no_choice_has_one_branch() {
        fn walk(value: &Value, path: &str) {
            match value {
                Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| walk(item, &format!("{path}/{index}"))),
                Value::Object(object) => {
                    assert!(object.get("type").is_none_or(|kind| !kind.to_string().contains("null")), "{path}");
                    for keyword in ["anyOf", "oneOf"] {
                        assert!(object.get(keyword).is_none_or(|branches| branches.as_array().unwrap().len() > 1), "{path}");
                    }
                    object.iter().for_each(|(key, item)| walk(item, &format!("{path}/{key}")));
                }
                Value::Null => panic!("{path}"),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        walk(&of_config(), "");
    }
}
