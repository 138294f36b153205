//! JSON Patch (RFC 6902) on a parsed body.
//!
//! In: the operations of a verdict's `rewrite.body`, and a JSON value. Out: the value changed in place, or an error and a value that
//! must be thrown away. Strict: a pointer that leads nowhere, a missing member or a false `test` fails the whole patch.
//! What must stay true: the result nests no deeper than serde_json itself would have read, and `copy` cannot grow it without end;
//! thirty copies of a document into itself would otherwise fill the machine.

use serde_json::{Map, Value};

/// As deep as serde_json reads.
const DEPTH: usize = 127;
/// Nodes and bytes of text that the operations of one patch may copy.
const COPIED: usize = 4 << 20;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    #[error("operation {0} is not one of RFC 6902, or lacks a member it needs")]
    Operation(usize),
    #[error("operation {index}: `{pointer}` is not a JSON pointer; write /users/0, with ~1 for / and ~0 for ~")]
    Pointer { index: usize, pointer: String },
    #[error("operation {index}: there is nothing at `{pointer}`, or nothing can be added there")]
    Missing { index: usize, pointer: String },
    #[error("operation {index}: the value at `{pointer}` is not the one tested for")]
    Test { index: usize, pointer: String },
    #[error("operation {0} moves a value into itself")]
    IntoItself(usize),
    #[error("operation {0} makes the body too large or nests it too deep")]
    TooLarge(usize),
}

/// Applies the operations in their order.
///
/// # Errors
///
/// Names the first operation that fails; `document` is then half patched.
pub fn apply(operations: &[Value], document: &mut Value) -> Result<(), PatchError> {
    let mut copied = 0;
    for (index, operation) in operations.iter().enumerate() {
        let operation = Operation { index, members: operation.as_object().ok_or(PatchError::Operation(index))? };
        operation.apply(document, &mut copied)?;
    }
    Ok(())
}

struct Operation<'a> {
    index: usize,
    members: &'a Map<String, Value>,
}

impl Operation<'_> {
    fn apply(&self, document: &mut Value, copied: &mut usize) -> Result<(), PatchError> {
        let path = self.pointer("path")?;
        match self.text("op")? {
            "add" => self.add(document, &path, self.value()?.clone()),
            "remove" => self.remove(document, &path).map(drop),
            "replace" => {
                let value = self.value()?.clone();
                self.bound_depth(&path, &value)?;
                *find_mut(document, &path).ok_or_else(|| self.missing("path"))? = value;
                Ok(())
            }
            "move" => {
                let from = self.pointer("from")?;
                if path.len() > from.len() && path.starts_with(&from) {
                    return Err(PatchError::IntoItself(self.index));
                }
                let value = self.remove(document, &from).map_err(|_| self.missing("from"))?;
                self.add(document, &path, value)
            }
            "copy" => {
                let from = self.pointer("from")?;
                let value = find(document, &from).ok_or_else(|| self.missing("from"))?;
                *copied = copied.saturating_add(weight(value));
                if *copied > COPIED {
                    return Err(PatchError::TooLarge(self.index));
                }
                let value = value.clone();
                self.add(document, &path, value)
            }
            "test" => match find(document, &path) {
                None => Err(self.missing("path")),
                Some(found) if equal(found, self.value()?) => Ok(()),
                Some(_) => Err(PatchError::Test { index: self.index, pointer: self.text("path")?.to_owned() }),
            },
            _ => Err(PatchError::Operation(self.index)),
        }
    }

    fn add(&self, document: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
        self.bound_depth(path, &value)?;
        let Some((last, parents)) = path.split_last() else {
            *document = value;
            return Ok(());
        };
        match find_mut(document, parents) {
            Some(Value::Object(members)) => {
                members.insert(last.clone(), value);
            }
            Some(Value::Array(items)) => {
                let at = if last == "-" { Some(items.len()) } else { position(last) };
                let at = at.filter(|&at| at <= items.len()).ok_or_else(|| self.missing("path"))?;
                items.insert(at, value);
            }
            _ => return Err(self.missing("path")),
        }
        Ok(())
    }

    /// The whole document cannot be removed, for nothing would be left to send; `move` from it only ever goes into itself.
    fn remove(&self, document: &mut Value, path: &[String]) -> Result<Value, PatchError> {
        let (last, parents) = path.split_last().ok_or_else(|| self.missing("path"))?;
        let removed = match find_mut(document, parents) {
            Some(Value::Object(members)) => members.remove(last),
            Some(Value::Array(items)) => position(last).filter(|&at| at < items.len()).map(|at| items.remove(at)),
            _ => None,
        };
        removed.ok_or_else(|| self.missing("path"))
    }

    fn bound_depth(&self, path: &[String], value: &Value) -> Result<(), PatchError> {
        if path.len() + depth(value) > DEPTH { Err(PatchError::TooLarge(self.index)) } else { Ok(()) }
    }

    fn text(&self, member: &str) -> Result<&str, PatchError> {
        self.members.get(member).and_then(Value::as_str).ok_or(PatchError::Operation(self.index))
    }

    fn value(&self) -> Result<&Value, PatchError> {
        self.members.get("value").ok_or(PatchError::Operation(self.index))
    }

    fn pointer(&self, member: &str) -> Result<Vec<String>, PatchError> {
        let text = self.text(member)?;
        tokens(text).ok_or_else(|| PatchError::Pointer { index: self.index, pointer: text.to_owned() })
    }

    fn missing(&self, member: &str) -> PatchError {
        let pointer = self.text(member).unwrap_or_default().to_owned();
        PatchError::Missing { index: self.index, pointer }
    }
}

/// RFC 6901 section 3.
fn tokens(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    pointer.strip_prefix('/')?.split('/').map(unescape).collect()
}

fn unescape(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = match part.strip_prefix('0') {
            Some(rest) => ('~', rest),
            None => ('/', part.strip_prefix('1')?),
        };
        text.push(sign);
        text.push_str(rest);
    }
    Some(text)
}

/// An array index without sign or leading zeros.
fn position(token: &str) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    if canonical { token.parse().ok() } else { None }
}

fn find<'a>(document: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(document, |value, token| match value {
        Value::Object(members) => members.get(token),
        Value::Array(items) => items.get(position(token)?),
        _ => None,
    })
}

fn find_mut<'a>(document: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |value, token| match value {
        Value::Object(members) => members.get_mut(token),
        Value::Array(items) => items.get_mut(position(token)?),
        _ => None,
    })
}

/// Numbers are equal by value (RFC 6902 section 4.6), where serde_json tells 1 from 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len(),
        Value::Array(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Object(members) => 1 + members.iter().map(|(name, value)| name.len() + weight(value)).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

#[cfg(test)]
mod tests;
