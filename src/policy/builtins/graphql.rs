//! `graphql.*`: queries and schemas taken apart and held against each other.
//!
//! In: texts, or the trees `graphql.parse_query` and `graphql.parse_schema` make of them. Out: trees, and whether a query keeps the
//! rules of a schema. What must stay true: OPA's trees and OPA's verdicts, which are those of Go's gqlparser. A call that would
//! cost more than [`Budget`] ends the evaluation, so that `not graphql.is_valid(…)` cannot be had by asking for much: the
//! specification's rules are quadratic, and one of them (section 5.3.2, fields that can merge) is exponential in what a client sends.
//!
//! Why no crate: those there are keep the specification where gqlparser does not (a schema without a query type, `@defer`, block strings),
//! keep no comments, and bound neither their merging of fields nor their walks through fragments.

mod ast;
mod lexer;
mod merge;
mod parser;
mod query;
mod schema;
mod sdl;
mod values;

use std::cell::Cell;

use regorus::Value;
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};

use self::ast::{QueryDocument, SchemaDocument};
use self::schema::Schema;
use super::TooLong;

/// Bytes of a text, and of all texts in a tree.
const TEXT: usize = 1 << 20;
/// Places of a tree that is given as an object, and how deep it may be: what reads JSON ends at 128.
const PLACES: usize = 200_000;
const LEVELS: usize = 120;
/// Steps of checking a query or a schema; up to a hundred nanoseconds each.
const STEPS: usize = 500_000;
/// Selections and fragments inside each other while they are walked; fragments chain where brackets do not nest.
const NESTED: usize = 100;

/// Why there is no answer.
enum Stop {
    /// It is no GraphQL, or breaks a rule.
    Invalid,
    /// It would take too much.
    TooMuch,
}

/// What checking may cost.
struct Budget {
    steps: Cell<usize>,
    levels: Cell<usize>,
}

impl Budget {
    fn new() -> Self {
        Self { steps: Cell::new(STEPS), levels: Cell::new(NESTED) }
    }

    fn spend(&self, steps: usize) -> Result<(), Stop> {
        self.steps.set(self.steps.get().checked_sub(steps).ok_or(Stop::TooMuch)?);
        Ok(())
    }

    fn deeper<T>(&self, inner: impl FnOnce() -> Result<T, Stop>) -> Result<T, Stop> {
        self.spend(1)?;
        let levels = self.levels.get();
        self.levels.set(levels.checked_sub(1).ok_or(Stop::TooMuch)?);
        let said = inner();
        self.levels.set(levels);
        said
    }
}

/// `graphql.parse_query(query)`
pub(super) fn parse_query(arguments: &[Value]) -> Result<Option<Value>, TooLong> {
    let [Value::String(text)] = arguments else { return Ok(None) };
    shown(short(text).and_then(parser::query).and_then(|document| tree(&document)))
}

/// `graphql.parse_schema(schema)`; the schema need not keep any rule.
pub(super) fn parse_schema(arguments: &[Value]) -> Result<Option<Value>, TooLong> {
    let [Value::String(text)] = arguments else { return Ok(None) };
    shown(short(text).and_then(sdl::schema).and_then(|document| tree(&document)))
}

/// `graphql.schema_is_valid(schema)`
pub(super) fn schema_is_valid(arguments: &[Value]) -> Result<Option<Value>, TooLong> {
    let [schema] = arguments else { return Ok(None) };
    let budget = Budget::new();
    let checked = document(schema, sdl::schema).and_then(|document| Schema::new(&document, &budget).map(drop));
    verdict(checked).map(|valid| Some(valid.into()))
}

/// `graphql.is_valid(query, schema)`
pub(super) fn is_valid(arguments: &[Value]) -> Result<Option<Value>, TooLong> {
    let [query, schema] = arguments else { return Ok(None) };
    verdict(verified(query, schema).map(drop)).map(|valid| Some(valid.into()))
}

/// `graphql.parse(query, schema)`: both trees.
pub(super) fn parse(arguments: &[Value]) -> Result<Option<Value>, TooLong> {
    let [query, schema] = arguments else { return Ok(None) };
    shown(verified(query, schema).and_then(|(query, schema)| Ok(vec![tree(&query)?, tree(&schema)?].into())))
}

/// `graphql.parse_and_verify(query, schema)`: whether all is well, and both trees.
pub(super) fn parse_and_verify(arguments: &[Value]) -> Result<Option<Value>, TooLong> {
    let [query, schema] = arguments else { return Ok(None) };
    let trees = |(query, schema)| Ok(vec![Value::Bool(true), tree(&query)?, tree(&schema)?]);
    let unverified = || vec![Value::Bool(false), Value::new_object(), Value::new_object()];
    match verified(query, schema).and_then(trees) {
        Ok(said) => Ok(Some(said.into())),
        Err(Stop::Invalid) => Ok(Some(unverified().into())),
        Err(Stop::TooMuch) => Err(TooLong),
    }
}

/// A query that keeps the rules of a schema that keeps its own.
fn verified(query: &Value, schema: &Value) -> Result<(QueryDocument, SchemaDocument), Stop> {
    let query = document(query, parser::query)?;
    let schema = document(schema, sdl::schema)?;
    let budget = Budget::new();
    query::check(&Schema::new(&schema, &budget)?, &query, &budget)?;
    Ok((query, schema))
}

fn shown(said: Result<Value, Stop>) -> Result<Option<Value>, TooLong> {
    match said {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Invalid) => Ok(None),
        Err(Stop::TooMuch) => Err(TooLong),
    }
}

fn verdict(said: Result<(), Stop>) -> Result<bool, TooLong> {
    match said {
        Ok(()) => Ok(true),
        Err(Stop::Invalid) => Ok(false),
        Err(Stop::TooMuch) => Err(TooLong),
    }
}

fn short(text: &str) -> Result<&str, Stop> {
    if text.len() > TEXT { Err(Stop::TooMuch) } else { Ok(text) }
}

/// The document an argument is or describes.
fn document<T: DeserializeOwned>(value: &Value, parsed: fn(&str) -> Result<T, Stop>) -> Result<T, Stop> {
    match value {
        Value::String(text) => parsed(short(text)?),
        Value::Object(_) => {
            let (mut places, mut bytes) = (PLACES, TEXT);
            if !fits(value, LEVELS, &mut places, &mut bytes) {
                return Err(Stop::TooMuch);
            }
            let json = serde_json::to_string(&Pruned { value, list: false }).map_err(|_| Stop::Invalid)?;
            serde_json::from_str(&json).map_err(|_| Stop::Invalid)
        }
        _ => Err(Stop::Invalid),
    }
}

/// The tree of a document as policies see it.
fn tree(document: &impl Serialize) -> Result<Value, Stop> {
    let json = serde_json::to_string(document).map_err(|_| Stop::Invalid)?;
    Value::from_json_str(&json).map_err(|_| Stop::TooMuch)
}

fn fits(value: &Value, levels: usize, places: &mut usize, bytes: &mut usize) -> bool {
    let (Some(left), Some(below)) = (places.checked_sub(1), levels.checked_sub(1)) else { return false };
    *places = left;
    match value {
        Value::String(text) => bytes.checked_sub(text.len()).is_some_and(|left| {
            *bytes = left;
            true
        }),
        Value::Array(items) => items.iter().all(|item| fits(item, below, places, bytes)),
        Value::Set(items) => items.iter().all(|item| fits(item, below, places, bytes)),
        Value::Object(members) => {
            members.iter().all(|(key, value)| fits(key, below, places, bytes) && fits(value, below, places, bytes))
        }
        _ => true,
    }
}

/// A value without the members that are null, which Go reads as if they were not there. A list where no list may be is refused: serde
/// would take it for the members of a structure, in their order.
struct Pruned<'v> {
    value: &'v Value,
    list: bool,
}

/// The members of trees that are lists.
const LISTS: [&str; 19] = [
    "Arguments",
    "Children",
    "Definitions",
    "Directives",
    "EnumValues",
    "Extensions",
    "Fields",
    "Fragments",
    "Interfaces",
    "List",
    "Locations",
    "OperationTypes",
    "Operations",
    "Schema",
    "SchemaExtension",
    "SelectionSet",
    "Types",
    "VariableDefinition",
    "VariableDefinitions",
];

impl Serialize for Pruned<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Array(items) if self.list => to.collect_seq(items.iter().map(|value| Pruned { value, list: false })),
            Value::Set(items) if self.list => to.collect_seq(items.iter_sorted().map(|value| Pruned { value, list: false })),
            Value::Array(_) | Value::Set(_) => Err(S::Error::custom("a list in the place of something else")),
            Value::Object(members) => to.collect_map(members.iter().filter_map(|(key, value)| match key {
                Value::String(key) if *value != Value::Null => {
                    Some((key.as_ref(), Pruned { value, list: LISTS.contains(&key.as_ref()) }))
                }
                _ => None,
            })),
            other => other.serialize(to),
        }
    }
}

#[cfg(test)]
mod tests;
