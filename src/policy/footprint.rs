//! What an entry point can read of its input: more than it will, never less.
//!
//! In: the rules of all bundles and one of them to start from. Out: the input paths any rule reachable from it mentions, by
//! their longest literal prefix, each with a place. What must stay true: the verdict on an input cut down to its footprint is
//! the verdict on the whole input. Following values through assignments would be sharper (`x := input.request; x.path` counts
//! as all of `input.request` here) and would be one more place to be wrong in.

use std::collections::{BTreeMap, BTreeSet};

pub use super::program::Occurrence;
use super::program::Program;

/// Builtins whose answer changes without the input changing.
const CLOCKS: &[&str] = &["time.now_ns", "uuid.rfc4122", "rand.intn", "opa.runtime"];

/// What one entry point depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Input path → one place that reads it. No path lies beneath another.
    pub paths: BTreeMap<Vec<String>, Occurrence>,
    /// It may read any part of the input; `paths` then holds the empty path with the place that does.
    pub whole: bool,
    /// It asks for the time, or for chance: two equal inputs may get two verdicts.
    pub clock: bool,
    /// The builtins it calls, each with one place.
    pub builtins: BTreeMap<String, Occurrence>,
}

impl Footprint {
    pub(super) fn of(program: &Program, entry: usize) -> Self {
        let mut reached = BTreeSet::from([entry]);
        let mut waiting = vec![entry];
        let mut footprint = Self::default();
        while let Some(node) = waiting.pop().and_then(|index| program.nodes.get(index)) {
            for (path, place) in &node.facts.reads {
                footprint.add(path, place);
            }
            for (name, place) in &node.facts.calls {
                footprint.builtins.entry(name.clone()).or_insert_with(|| place.clone());
            }
            footprint.clock |= node.facts.clock;
            waiting.extend(node.facts.edges.iter().filter(|edge| reached.insert(**edge)));
        }
        footprint.whole = footprint.paths.contains_key(&Vec::new());
        footprint.clock |= CLOCKS.iter().any(|clock| footprint.builtins.contains_key(*clock));
        footprint
    }

    /// Keeps the widest of the paths that cover each other.
    fn add(&mut self, path: &[String], place: &Occurrence) {
        if (0..=path.len()).any(|length| path.get(..length).is_some_and(|prefix| self.paths.contains_key(prefix))) {
            return;
        }
        self.paths.retain(|there, _| !there.starts_with(path));
        self.paths.insert(path.to_vec(), place.clone());
    }

    /// The footprint of whoever reads everything.
    pub fn everything() -> Self {
        let nobody = Occurrence { file: String::new(), line: 0, column: 0, rule: String::new() };
        Self { paths: BTreeMap::from([(Vec::new(), nobody)]), whole: true, ..Self::default() }
    }

    /// True when a value at this path may matter: it lies on, above or beneath what is read.
    pub fn reads(&self, path: &[&str]) -> bool {
        self.reading(path).is_some()
    }

    /// A place that reads a value on, above or beneath this path.
    pub fn reading(&self, path: &[&str]) -> Option<&Occurrence> {
        let meets = |read: &Vec<String>| read.iter().zip(path).all(|(read, asked)| read == asked);
        self.paths.iter().find(|(read, _)| meets(read)).map(|(_, place)| place)
    }

    /// The builtin, and the place, that make two equal inputs get two verdicts.
    pub fn clock(&self) -> Option<(&str, &Occurrence)> {
        self.builtins.iter().find(|(name, _)| CLOCKS.contains(&name.as_str())).map(|(name, place)| (name.as_str(), place))
    }
}

#[cfg(test)]
pub(super) mod tests;
