//! Inputs on which the two engines are compared before the VM may judge.
//!
//! In: a footprint, the policy's text, its data and its tests. Out: the objects that stand after `with input as` in the tests, and
//! inputs made of the paths the policy reads and the words it knows, with values of the wrong type and absent ones among them.
//! What must stay true: the same policy gives the same inputs, so that what `check` found is what the gate finds.

use regorus::Value;
use regorus::unstable::{Expr, Literal, Module, Query, Ref, Rule};

use super::bundle::Source;
use super::fitness;
use super::footprint::Footprint;

/// Inputs made at most.
const INPUTS: usize = 64;
/// Words taken from the policy, and from its data.
const WORDS: usize = 256;

/// The inputs for one entry point.
pub(super) fn of(footprint: &Footprint, sources: &[Source], data: &Value, tests: &[Ref<Module>]) -> Vec<Value> {
    let mut words: Vec<Value> = sources.iter().flat_map(|source| quoted(&source.text)).take(WORDS).collect();
    let before = words.len();
    gather(data, &mut words, before + WORDS, 6);
    let mut inputs = vec![Value::new_object()];
    for module in tests {
        for rule in &module.policy {
            if let Rule::Spec { bodies, .. } = rule.as_ref() {
                bodies.iter().for_each(|body| given(&body.query, &mut inputs));
            }
        }
    }
    inputs.truncate(INPUTS / 2);
    let given = inputs.len();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    while inputs.len() < INPUTS {
        // Some start from an input of the tests, so that rules behind many conditions are reached as well.
        let start = if given > 1 && chance.below(2) == 0 { inputs.get(chance.below(given)).cloned() } else { None };
        let changed = if start.is_some() { 1 } else { footprint.paths.len() };
        let mut input = start.unwrap_or_else(Value::new_object);
        let first = if changed == 1 { chance.below(footprint.paths.len().max(1)) } else { 0 };
        for path in footprint.paths.keys().skip(first).take(changed) {
            if let Some(value) = chance.value(&words, 3) {
                set(&mut input, path, value);
            }
        }
        inputs.push(input);
    }
    inputs
}

/// The texts between double quotes, near enough: a word too many costs nothing.
fn quoted(text: &str) -> Vec<Value> {
    text.lines().flat_map(|line| line.split('"').skip(1).step_by(2)).map(Value::from).collect()
}

fn gather(value: &Value, words: &mut Vec<Value>, most: usize, depth: usize) {
    if words.len() >= most || depth == 0 {
        return;
    }
    match value {
        Value::Object(object) => {
            for (key, value) in object.iter_sorted().take(16) {
                words.push(key.clone());
                gather(value, words, most, depth - 1);
            }
        }
        Value::Array(items) => items.iter().take(16).for_each(|item| gather(item, words, most, depth - 1)),
        other => words.push(other.clone()),
    }
}

/// Literal objects a test puts in the place of the input.
fn given(query: &Query, inputs: &mut Vec<Value>) {
    for statement in &query.stmts {
        for with in &statement.with_mods {
            if matches!(with.refr.as_ref(), Expr::Var { span, .. } if span.text() == "input") {
                inputs.extend(fitness::constant(&with.r#as));
            }
        }
        if let Literal::Every { query, .. } = &statement.literal {
            given(query, inputs);
        }
    }
}

fn set(at: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *at = value;
        return;
    };
    if !matches!(at, Value::Object(_)) {
        *at = Value::new_object();
    }
    if let Ok(object) = at.as_object_mut() {
        let key = Value::from(first.as_str());
        let mut inner = object.get(&key).cloned().unwrap_or_else(Value::new_object);
        set(&mut inner, rest, value);
        object.insert(key, inner);
    }
}

/// A small generator: the numbers only have to differ, and to be the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// A value for one path; `None`: absent.
    fn value(&mut self, words: &[Value], depth: usize) -> Option<Value> {
        Some(match self.below(if depth == 0 { 12 } else { 16 }) {
            0 => return None,
            1 => Value::from(self.below(2) == 0),
            2 => Value::Null,
            3 => Value::from(self.below(200)),
            4 => Value::from(0.5),
            5..=11 => words.get(self.below(words.len())).cloned().unwrap_or_else(|| Value::from("")),
            12 | 13 => {
                let count = self.below(4);
                Value::from((0..count).filter_map(|_| self.value(words, depth - 1)).collect::<Vec<_>>())
            }
            _ => {
                let mut object = Value::new_object();
                for _ in 0..self.below(4) {
                    let key = words.get(self.below(words.len())).cloned();
                    if let (Some(Value::String(key)), Some(value)) = (key, self.value(words, depth - 1)) {
                        set(&mut object, &[key.as_ref().to_owned()], value);
                    }
                }
                object
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_policy_gives_the_same_inputs() {
        let mut footprint = Footprint::default();
        let place = super::super::footprint::Occurrence { file: String::new(), line: 0, column: 0, rule: String::new() };
        footprint.paths.insert(vec!["request".to_owned(), "method".to_owned()], place.clone());
        footprint.paths.insert(vec!["risk".to_owned()], place);
        let data = Value::from_json_str("{\"roles\": {\"ops\": [\"GET\"]}}").unwrap();
        let made = of(&footprint, &[], &data, &[]);
        assert_eq!(made.len(), INPUTS);
        assert_eq!(made, of(&footprint, &[], &data, &[]));
        assert!(made.iter().any(|input| input["request"]["method"] == Value::from("GET")));
        assert!(made.iter().any(|input| matches!(input["risk"], Value::Number(_))));
        assert!(made.iter().any(|input| input["risk"] == Value::Undefined));
    }
}
