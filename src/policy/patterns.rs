//! Globs, networks and regexes compiled once a worker, for the VM.
//!
//! In: a call's arguments. Out: exactly what regorus' own builtin says, or, of networks, what [`super::builtins`] says. What must stay
//! true: of globs and regexes only calls whose arguments are plain and valid are answered here; every other one goes to regorus, so
//! that what is an error, undefined or a limit is decided in one place. regorus keeps its globs behind a lock of the whole process
//! and clones the matcher for each call, which throws its scratch space away: 1.6 µs a glob, and two workers wait for each other.

use std::cell::RefCell;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use globset::{GlobBuilder, GlobMatcher};
use regex::{Regex, RegexBuilder};
use regorus::Value;
use regorus::rvm::Program;
use regorus::unstable::BUILTINS;

use super::builtins::network::{Address, Network};
use super::guards;

/// Patterns of one kind a worker keeps. A policy may make patterns from the request, so what is full is emptied.
const KEPT: usize = 1024;
/// The largest compiled regex, as regorus has it.
const REGEX_BYTES: usize = 100 * 1024;

/// Not the standard hasher, which takes longer than the rest of a look-up: no more than [`KEPT`] patterns can meet in one place.
type Kept<T> = HashMap<String, T, RandomState>;

/// The builtins this file answers for.
pub(super) const REPLACED: &[&str] = &["glob.match", "net.cidr_contains", "regex.match"];

thread_local! {
    static GLOBS: RefCell<Kept<Vec<Glob>>> = RefCell::default();
    static NETWORKS: RefCell<Kept<Network>> = RefCell::default();
    static ADDRESS: RefCell<(String, Option<Address>)> = RefCell::default();
    static REGEXES: RefCell<Kept<Regex>> = RefCell::default();
}

/// A glob and the delimiters it was read with.
struct Glob {
    /// As the policy gives them.
    given: Value,
    /// `None`: no delimiters at all.
    delimiters: Option<Vec<char>>,
    matcher: GlobMatcher,
}

/// Puts the builtins of this file in the place of regorus' own.
pub(super) fn install(program: &mut Program) {
    for (info, slot) in program.builtin_info_table.iter().zip(&mut program.resolved_builtins) {
        match info.name.as_str() {
            "glob.match" => {
                *slot = (
                    |span, terms, arguments, strict| {
                        guards::search(arguments, 2);
                        match glob(arguments) {
                            Some(said) => Ok(Value::Bool(said)),
                            None => {
                                BUILTINS.get("glob.match").map_or(Ok(Value::Undefined), |own| own.0(span, terms, arguments, strict))
                            }
                        }
                    },
                    3,
                );
            }
            "net.cidr_contains" => {
                *slot = (|_, _, arguments, _| Ok(contains(arguments).map_or(Value::Undefined, Value::Bool)), 2);
            }
            "regex.match" => {
                *slot = (
                    |span, terms, arguments, strict| {
                        guards::search(arguments, 1);
                        match matches(arguments) {
                            Some(said) => Ok(Value::Bool(said)),
                            None => BUILTINS
                                .get("regex.match")
                                .map_or(Ok(Value::Undefined), |own| own.0(span, terms, arguments, strict)),
                        }
                    },
                    2,
                );
            }
            _ => {}
        }
    }
}

/// `regex.match(pattern, text)`
fn matches(arguments: &[Value]) -> Option<bool> {
    let [Value::String(pattern), Value::String(text)] = arguments else { return None };
    REGEXES.with_borrow_mut(|kept| {
        if let Some(regex) = kept.get(pattern.as_ref()) {
            return Some(regex.is_match(text));
        }
        let regex = RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build().ok()?;
        let said = regex.is_match(text);
        keep(kept, pattern, regex);
        Some(said)
    })
}

/// `net.cidr_contains(network, network or address)`
fn contains(arguments: &[Value]) -> Option<bool> {
    let [Value::String(network), Value::String(asked)] = arguments else { return None };
    NETWORKS.with_borrow_mut(|kept| {
        let network = match kept.get(network.as_ref()) {
            Some(network) => *network,
            None => {
                let read = Network::read(network)?;
                keep(kept, network, read);
                read
            }
        };
        if asked.contains('/') {
            return Some(network.covers(Network::read(asked)?));
        }
        // Policies ask about one address and many networks.
        ADDRESS.with_borrow_mut(|(text, address)| {
            if address.is_none() || text.as_str() != asked.as_ref() {
                *address = Some(Address::read(asked)?);
                asked.as_ref().clone_into(text);
            }
            address.map(|address| network.has(address))
        })
    })
}

/// `glob.match(pattern, delimiters, text)`
fn glob(arguments: &[Value]) -> Option<bool> {
    let [Value::String(pattern), given, Value::String(text)] = arguments else { return None };
    if text.contains('\0') {
        return None;
    }
    GLOBS.with_borrow_mut(|kept| {
        // What is kept was valid, and so is what equals it.
        if let Some(globs) = kept.get(pattern.as_ref())
            && let Some(glob) = globs.iter().find(|glob| glob.given == *given)
        {
            return Some(glob.says(text));
        }
        let glob = Glob::read(pattern, given)?;
        let said = glob.says(text);
        match kept.get_mut(pattern.as_ref()) {
            Some(globs) if globs.len() < 8 => globs.push(glob),
            _ => keep(kept, pattern, vec![glob]),
        }
        Some(said)
    })
}

fn delimiter(value: &Value) -> Option<char> {
    let Value::String(text) = value else { return None };
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(one), None) if one.is_ascii() && one != '\0' => Some(one),
        _ => None,
    }
}

impl Glob {
    fn read(pattern: &str, given: &Value) -> Option<Self> {
        let delimiters: Option<Vec<char>> = match given {
            Value::Null => None,
            Value::Array(items) => Some(items.iter().map(delimiter).collect::<Option<_>>()?),
            _ => return None,
        };
        if pattern.contains('\0') {
            return None;
        }
        let read = unified(pattern, delimiters.as_deref());
        let matcher = GlobBuilder::new(read.as_deref().unwrap_or(pattern)).literal_separator(true).build().ok()?.compile_matcher();
        Some(Self { given: given.clone(), delimiters, matcher })
    }

    fn says(&self, text: &str) -> bool {
        match unified(text, self.delimiters.as_deref()) {
            Some(unified) => self.matcher.is_match(unified),
            None => self.matcher.is_match(text),
        }
    }
}

/// A text with its delimiters in the form the glob crate knows, exactly as regorus writes it; `None` when it stays as it is.
fn unified(text: &str, delimiters: Option<&[char]>) -> Option<String> {
    let delimiters = match delimiters {
        None => return text.contains('/').then(|| text.replace('/', "\0")),
        Some([]) => &['.'],
        Some(['/']) => return None,
        Some(delimiters) => delimiters,
    };
    let mut unified = if delimiters.contains(&'/') { text.to_owned() } else { text.replace('/', "\0") };
    for delimiter in delimiters {
        match delimiter {
            '/' => {}
            ':' => unified = unified.replace(':', "\0"),
            other => unified = unified.replace(*other, &format!("/{other}/")),
        }
    }
    Some(unified)
}

fn keep<T>(kept: &mut Kept<T>, key: &str, value: T) {
    if kept.len() >= KEPT {
        kept.clear();
    }
    kept.insert(key.to_owned(), value);
}

#[cfg(test)]
mod tests;
