//! What a policy keeps out of the record: the rule `data.system.log.mask`, as OPA means it. The rule beside it, `drop`, keeps a
//! decision out of it whole; it needs no reading, since nothing but `true` drops.
//!
//! In: what the rule yields, and a record's input and result. Out: both without what it names, and which pointers were erased or
//! masked. A string, or `{"op": "remove", "path": …}`, erases; `{"op": "upsert", "path": …, "value": …}` puts a value there. A pointer
//! to what is not there is passed over. What must stay true: a mask that is not understood is an error and never half a mask, for what
//! it was to hide is not known.
//! Unlike OPA, which percent-encodes the parts of a pointer before it looks for them, a key with a space or a percent sign is found.
//! There is no `nd_builtin_cache` here; pointers to it are passed over.

use serde_json::{Map, Value};

/// The rule.
pub(super) const RULE: [&str; 3] = ["system", "log", "mask"];

/// The rule that keeps a decision out whole.
pub(super) const DROP: [&str; 3] = ["system", "log", "drop"];

/// What may be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masked {
    pub input: Option<Value>,
    pub result: Option<Value>,
    /// Pointers to what was there and is gone.
    pub erased: Vec<String>,
    /// Pointers to where another value stands now.
    pub masked: Vec<String>,
}

struct Rule {
    pointer: String,
    parts: Vec<String>,
    /// `None`: erase.
    value: Option<Value>,
}

/// Masks a record by what the rule yields.
///
/// # Errors
///
/// The rule yields something that is no mask.
pub(super) fn apply(rules: Value, input: Option<Value>, result: Option<Value>) -> Result<Masked, String> {
    let Value::Array(rules) = rules else { return Err("data.system.log.mask is no set of masks".to_owned()) };
    let rules = rules.into_iter().map(Rule::read).collect::<Result<Vec<_>, _>>()?;
    let mut masked = Masked { input, result, ..Masked::default() };
    for rule in rules {
        let place = match rule.parts.first().map(String::as_str) {
            Some("input") => &mut masked.input,
            Some("result") => &mut masked.result,
            _ => continue,
        };
        let parts = rule.parts.get(1..).unwrap_or_default();
        let upserts = rule.value.is_some();
        let done = match rule.value {
            None => erase(place, parts),
            Some(value) => upsert(place, parts, value),
        };
        let told = if upserts { &mut masked.masked } else { &mut masked.erased };
        told.extend(done.then_some(rule.pointer));
    }
    Ok(masked)
}

impl Rule {
    fn read(rule: Value) -> Result<Self, String> {
        match rule {
            Value::String(pointer) => Self::at(pointer, None),
            Value::Object(mut fields) => {
                let Some(Value::String(pointer)) = fields.remove("path") else {
                    return Err("a mask has no path".to_owned());
                };
                match fields.get("op").and_then(Value::as_str) {
                    Some("remove") => Self::at(pointer, None),
                    Some("upsert") => Self::at(pointer, Some(fields.remove("value").unwrap_or(Value::Null))),
                    _ => Err("a mask's op is neither remove nor upsert".to_owned()),
                }
            }
            _ => Err("a mask is neither a string nor an object".to_owned()),
        }
    }

    fn at(pointer: String, value: Option<Value>) -> Result<Self, String> {
        let parts: Vec<String> =
            pointer.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/')).map(str::to_owned).collect();
        match parts.first().map(String::as_str) {
            Some("input" | "result" | "nd_builtin_cache") => Ok(Self { pointer, parts, value }),
            _ => Err("a mask's path begins with neither /input nor /result".to_owned()),
        }
    }
}

fn erase(place: &mut Option<Value>, parts: &[String]) -> bool {
    let Some((last, way)) = parts.split_last() else { return place.take().is_some() };
    let Some(root) = place else { return false };
    match step_all(root, way) {
        Some(Value::Object(fields)) => fields.remove(last).is_some(),
        // OPA takes nothing out of a list that is the whole document.
        Some(Value::Array(items)) if !way.is_empty() => match index(last).filter(|index| *index < items.len()) {
            Some(index) => {
                items.remove(index);
                true
            }
            None => false,
        },
        _ => false,
    }
}

fn upsert(place: &mut Option<Value>, parts: &[String], value: Value) -> bool {
    let Some(root) = place else { return false };
    let Some((last, way)) = parts.split_last() else {
        *root = value;
        return true;
    };
    if !root.is_object() {
        return false;
    }
    let mut at = root;
    for part in way {
        let next = match at {
            Value::Object(fields) => Some(fields.entry(part.clone()).or_insert_with(|| Value::Object(Map::new()))),
            Value::Array(items) => index(part).and_then(|index| items.get_mut(index)),
            _ => None,
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match at {
        Value::Object(fields) => {
            fields.insert(last.clone(), value);
            true
        }
        Value::Array(items) => match index(last).and_then(|index| items.get_mut(index)) {
            Some(item) => {
                *item = value;
                true
            }
            None => false,
        },
        _ => false,
    }
}

fn step_all<'a>(root: &'a mut Value, way: &[String]) -> Option<&'a mut Value> {
    way.iter().try_fold(root, |at, part| match at {
        Value::Object(fields) => fields.get_mut(part),
        Value::Array(items) => index(part).and_then(|index| items.get_mut(index)),
        _ => None,
    })
}

fn index(part: &str) -> Option<usize> {
    part.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(rules: Value) -> Masked {
        apply(rules, Some(json!({"a": {"b": [1, 2, 3], "c": "x"}, "d": 4})), Some(json!({"allowed": true, "h": {"k": "v"}})))
            .unwrap()
    }

    #[test]
    fn strings_and_removes_erase_and_upserts_put_a_value_there() {
        let all = masked(
            json!(["/input/a/c", {"op": "remove", "path": "/input/a/b/1"}, {"op": "upsert", "path": "/result/h/k", "value": "**"},
            {"op": "upsert", "path": "/input/new/deep", "value": {"e": 1}}]),
        );
        assert_eq!(all.input, Some(json!({"a": {"b": [1, 3]}, "d": 4, "new": {"deep": {"e": 1}}})));
        assert_eq!(all.result, Some(json!({"allowed": true, "h": {"k": "**"}})));
        assert_eq!(
            (all.erased, all.masked),
            (
                vec!["/input/a/c".to_owned(), "/input/a/b/1".to_owned()],
                vec!["/result/h/k".to_owned(), "/input/new/deep".to_owned()]
            )
        );
        let whole = masked(json!(["/input", {"op": "upsert", "path": "/result", "value": null}]));
        assert_eq!((whole.input, whole.result), (None, Some(Value::Null)));
    }

    #[test]
    fn what_is_not_there_is_passed_over() {
        let none = masked(
            json!(["/input/x/y", "/input/d/e", "/input/a/b/7", "/nd_builtin_cache/x", {"op": "upsert", "path": "/input/a/b/7", "value": 1},
            {"op": "upsert", "path": "/input/d/e", "value": 1}]),
        );
        assert!(none.erased.is_empty() && none.masked.is_empty(), "{none:?}");
        assert_eq!(none.input, Some(json!({"a": {"b": [1, 2, 3], "c": "x"}, "d": 4})));
        assert_eq!(apply(json!(["/input", "/result/x"]), None, None).unwrap(), Masked::default());
    }

    #[test]
    fn what_is_no_mask_is_an_error_and_hides_nothing_by_half() {
        for rules in [
            json!(["/input/a", "/labels"]),
            json!(["input/a"]),
            json!([""]),
            json!([7]),
            json!({"a": 1}),
            json!(true),
            json!([{"path": "/input/a"}]),
            json!([{"op": "replace", "path": "/input/a"}]),
            json!([{"op": "remove"}]),
            json!([{"op": "remove", "path": ""}]),
        ] {
            assert!(apply(rules.clone(), Some(json!({"a": 1})), None).is_err(), "{rules}");
        }
    }
}
