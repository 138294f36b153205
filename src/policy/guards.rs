//! Builtins whose cost the timer cannot bound, refused when what they are given is too much.
//!
//! In: a call's arguments. Out: what regorus' own builtin says, or a failure that denies. What must stay true: with what passes, a
//! call takes tens of milliseconds and some hundred MiB at most; and both engines refuse the same calls. A look at the policy
//! cannot tell how large values get: `[input.l | input.l[_]]` refers to one list a thousand times and costs nothing, until it is
//! written out as text, walked or merged. So the arguments are measured, each place by itself, and measuring stops at the bound.
//! In the interpreter these are extensions, because those win over builtins and their errors are never taken for undefined; in
//! the VM, which takes every error for undefined, the call unwinds, and then the interpreter is asked, which refuses.

use std::io;
use std::panic::resume_unwind;

use regorus::rvm::Program;
use regorus::unstable::{BUILTINS, BuiltinFcn, Expr, Ref, Source, Span};
use regorus::{LimitError, Value};

use super::patterns;

/// Bytes a text may have that a builtin makes, and the weight of values it works through.
const WEIGHT: usize = 16 << 20;
/// Steps of one value against another.
const STEPS: usize = 64 << 20;
/// Bytes of text times bytes of a pattern.
const SEARCH: usize = 64 << 20;
/// Bytes of text in which all matches are looked for: each may be looked for up to the end of the text.
const MATCHES: usize = 64 << 10;
/// Digits of a number that is read from a text.
const DIGITS: usize = 1024;

/// How much a call takes.
#[derive(Clone, Copy)]
enum Cost {
    /// It works through all of its arguments.
    Deep,
    /// It makes a pair of each place and its path.
    Walk,
    Joined,
    Replaced,
    /// Each match may be replaced by a text that repeats it.
    Expanded,
    ReplacedInTurn,
    /// Each part of one argument meets each part of the other.
    Product(usize, usize),
    /// A pattern and the text it is looked for in.
    Search(usize, usize),
    /// A pattern and the text all of whose matches are looked for.
    Matches,
    Digits,
    /// A number with a unit; a large exponent would be multiplied out.
    Unit,
    /// A text with numbers in it; reading one takes the square of its digits.
    Numbers,
    /// Numbers that are multiplied.
    Factors,
}

struct Guard {
    name: &'static str,
    arity: u8,
    cost: Cost,
    /// What takes the builtin's place in the VM, which knows no closures.
    vm: BuiltinFcn,
}

macro_rules! guards {
    ($($name:literal $arity:literal $cost:expr;)+) => {
        &[$(Guard {
            name: $name,
            arity: $arity,
            cost: $cost,
            vm: (
                |span, terms, arguments, strict| {
                    if too_much($cost, arguments) {
                        unwind();
                    }
                    BUILTINS.get($name).map_or(Ok(Value::Undefined), |own| own.0(span, terms, arguments, strict))
                },
                $arity,
            ),
        }),+]
    };
}

const GUARDS: &[Guard] = guards! {
    "concat" 2 Cost::Joined;
    "graph.reachable" 2 Cost::Deep;
    "json.is_valid" 1 Cost::Numbers;
    "json.unmarshal" 1 Cost::Numbers;
    "yaml.is_valid" 1 Cost::Numbers;
    "yaml.unmarshal" 1 Cost::Numbers;
    "product" 1 Cost::Factors;
    "json.filter" 2 Cost::Product(0, 1);
    "json.marshal" 1 Cost::Deep;
    "json.marshal_with_options" 2 Cost::Deep;
    "json.patch" 2 Cost::Product(0, 1);
    "json.remove" 2 Cost::Product(0, 1);
    "object.subset" 2 Cost::Product(0, 1);
    "object.union" 2 Cost::Deep;
    "object.union_n" 1 Cost::Deep;
    "regex.find_n" 3 Cost::Matches;
    "regex.globs_match" 2 Cost::Search(0, 1);
    "regex.match" 2 Cost::Search(0, 1);
    "regex.replace" 3 Cost::Expanded;
    "regex.split" 2 Cost::Matches;
    "regex.template_match" 4 Cost::Search(0, 1);
    "glob.match" 3 Cost::Search(0, 2);
    "replace" 3 Cost::Replaced;
    "sprintf" 2 Cost::Deep;
    "strings.any_prefix_match" 2 Cost::Product(0, 1);
    "strings.any_suffix_match" 2 Cost::Product(0, 1);
    "strings.replace_n" 2 Cost::ReplacedInTurn;
    "to_number" 1 Cost::Digits;
    "trim" 2 Cost::Product(0, 1);
    "trim_left" 2 Cost::Product(0, 1);
    "trim_right" 2 Cost::Product(0, 1);
    "units.parse" 1 Cost::Unit;
    "units.parse_bytes" 1 Cost::Unit;
    "urlquery.encode_object" 1 Cost::Deep;
    "walk" 1 Cost::Walk;
    "yaml.marshal" 1 Cost::Deep;
};

/// Puts the guards before the builtins of an interpreter.
///
/// # Errors
/// An extension of one of these names is already there.
pub(super) fn extend(engine: &mut regorus::Engine) -> Result<(), String> {
    let source = Source::from_contents("builtin".to_owned(), String::new()).map_err(|error| error.to_string())?;
    let span = Span { source, line: 1, col: 1, start: 0, end: 0 };
    for guard in GUARDS {
        // A builtin asks its terms only where they stand, when it complains; without strict errors nobody hears of it.
        let terms: Vec<Ref<Expr>> =
            (0..guard.arity).map(|_| Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 })).collect();
        let (span, cost, name) = (span.clone(), guard.cost, guard.name);
        let guarded = move |arguments: Vec<Value>| {
            if too_much(cost, &arguments) {
                return Err(io::Error::other(format!("{name} was given more than it may work through")).into());
            }
            let Some(own) = BUILTINS.get(name) else { return Ok(Value::Undefined) };
            match own.0(&span, &terms, &arguments, false) {
                // Not strict: a bad argument is undefined. A limit is none.
                Err(error) if error.downcast_ref::<LimitError>().is_none() => Ok(Value::Undefined),
                said => said,
            }
        };
        engine.add_extension(guard.name.to_owned(), guard.arity, Box::new(guarded)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Puts the guards before the builtins of the VM.
pub(super) fn install(program: &mut Program) {
    for (info, slot) in program.builtin_info_table.iter().zip(&mut program.resolved_builtins) {
        // Those of `patterns` look for themselves.
        if let Some(guard) = GUARDS.iter().find(|guard| guard.name == info.name && !patterns::REPLACED.contains(&guard.name)) {
            *slot = guard.vm;
        }
    }
}

/// True for an answer that no verdict is as large as: it would be compared, copied and written to the record.
pub(super) fn is_too_large(answer: &Value) -> bool {
    let mut left = WEIGHT;
    !weigh(answer, &mut left)
}

/// Unwinds out of the VM where a pattern and the text at `text` are too long for each other.
pub(super) fn search(arguments: &[Value], text: usize) {
    if too_much(Cost::Search(0, text), arguments) {
        unwind();
    }
}

/// No panic: nobody is told of it, and the VM's caller asks the interpreter.
fn unwind() -> ! {
    resume_unwind(Box::new("a builtin was given too much"))
}

fn too_much(cost: Cost, arguments: &[Value]) -> bool {
    let argument = |place: usize| arguments.get(place).unwrap_or(&Value::Undefined);
    let text = |place: usize| match argument(place) {
        Value::String(text) => Some(text.as_ref()),
        _ => None,
    };
    match cost {
        Cost::Deep => {
            let mut left = WEIGHT;
            !arguments.iter().all(|argument| weigh(argument, &mut left))
        }
        Cost::Walk => {
            let mut left = WEIGHT;
            !paths(argument(0), 1, &mut left)
        }
        Cost::Joined => {
            let delimiter = text(0).map_or(0, str::len);
            let mut left = WEIGHT;
            let mut take = |item: &Value| {
                let length = if let Value::String(item) = item { item.len() } else { 0 };
                spend(&mut left, length.saturating_add(delimiter))
            };
            match argument(1) {
                Value::Array(items) => !items.iter().all(&mut take),
                Value::Set(items) => !items.iter().all(&mut take),
                _ => false,
            }
        }
        Cost::Replaced => match (text(0), text(1), text(2)) {
            (Some(whole), Some(old), Some(new)) => replaced(whole, old, new) > WEIGHT,
            _ => false,
        },
        Cost::Matches => text(1).is_some_and(|text| text.len() > MATCHES),
        Cost::Expanded => {
            let [whole, by] = [0, 2].map(|place| text(place).map_or(0, str::len));
            whole > MATCHES || whole.saturating_add(1).saturating_mul(by.saturating_add(1)) > WEIGHT
        }
        Cost::ReplacedInTurn => match (argument(0), text(1)) {
            (Value::Object(pairs), Some(whole)) => in_turn(pairs.iter_sorted(), whole),
            _ => false,
        },
        Cost::Product(one, other) => {
            let size = |place: usize| {
                let mut left = STEPS;
                if weigh(argument(place), &mut left) { STEPS.saturating_sub(left) } else { STEPS }
            };
            // Each place weighs sixteen, and a text its bytes.
            let (one, other) = (size(one) / 16, size(other) / 16);
            one.saturating_mul(other) > STEPS / 4
        }
        Cost::Search(pattern, whole) => {
            let length = |place: usize| {
                let mut left = SEARCH;
                if weigh(argument(place), &mut left) { SEARCH.saturating_sub(left) } else { SEARCH }
            };
            length(pattern).saturating_mul(length(whole)) > SEARCH
        }
        Cost::Digits => text(0).is_some_and(|text| text.len() > DIGITS || large_exponent(text)),
        Cost::Numbers => text(0).is_some_and(|text| text.split(|c: char| !c.is_ascii_digit()).any(|run| run.len() > DIGITS)),
        Cost::Factors => {
            // A factor of 64 bits or fewer has at most 20 digits, and each larger one as many as its text.
            let mut left = 16 * DIGITS;
            let mut take = |item: &Value| match item {
                Value::Number(number) => spend(&mut left, number.as_i64().map_or_else(|| item.to_string().len(), |_| 20)),
                _ => true,
            };
            match argument(0) {
                Value::Array(items) => !items.iter().all(&mut take),
                Value::Set(items) => !items.iter().all(&mut take),
                _ => false,
            }
        }
        Cost::Unit => text(0).is_some_and(|text| text.len() > 64 || large_exponent(text)),
    }
}

/// More than three digits after an `e`.
fn large_exponent(text: &str) -> bool {
    let after = text.split(['e', 'E']).skip(1).map(|after| after.trim_start_matches(['+', '-']));
    after.map(|after| after.chars().take_while(char::is_ascii_digit).count()).any(|digits| digits > 3)
}

fn spend(left: &mut usize, much: usize) -> bool {
    match left.checked_sub(much) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

/// Counts a value with everything in it, as often as it is in it; false when there is more than is left.
fn weigh(value: &Value, left: &mut usize) -> bool {
    match value {
        Value::String(text) => spend(left, text.len().saturating_add(16)),
        Value::Array(items) => spend(left, 16) && items.iter().all(|item| weigh(item, left)),
        Value::Set(items) => spend(left, 16) && items.iter().all(|item| weigh(item, left)),
        Value::Object(fields) => spend(left, 16) && fields.iter_sorted().all(|(key, value)| weigh(key, left) && weigh(value, left)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => spend(left, 16),
    }
}

/// Counts what `walk` makes: for each place a path as long as the place is deep.
fn paths(value: &Value, depth: usize, left: &mut usize) -> bool {
    let below = depth.saturating_add(1);
    // A pair and a path take memory even where the place is not deep.
    spend(left, depth.saturating_add(4))
        && match value {
            Value::Array(items) => items.iter().all(|item| paths(item, below, left)),
            Value::Set(items) => items.iter().all(|item| paths(item, below, left)),
            Value::Object(fields) => fields.iter_sorted().all(|(_, value)| paths(value, below, left)),
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => true,
        }
}

/// How long a text becomes.
fn replaced(whole: &str, old: &str, new: &str) -> usize {
    if new.len() <= old.len() {
        return whole.len();
    }
    whole.len().saturating_add(whole.matches(old).count().saturating_mul(new.len().saturating_sub(old.len())))
}

/// Pairs are replaced one after the other, so each works on what the one before it made.
fn in_turn<'v>(pairs: impl Iterator<Item = (&'v Value, &'v Value)>, whole: &str) -> bool {
    let mut text = whole.to_owned();
    let mut work = 0_usize;
    for (old, new) in pairs {
        let (Value::String(old), Value::String(new)) = (old, new) else { return false };
        work = work.saturating_add(text.len());
        if work > STEPS || replaced(&text, old, new) > WEIGHT {
            return true;
        }
        text = text.replace(old.as_ref(), new);
    }
    false
}

#[cfg(test)]
mod tests;
