//! Why a policy says what it says: which rules fired with which values, and where those that did not stopped.
//!
//! In: a loaded policy, an entry point, an input. Out: an [`Explanation`]. The policy's text is given probes ([`probe`]) and judged
//! once more by the interpreter; what the probes saw is told. What must stay true: it explains the answer the gate gives. Where the
//! text with probes gives another answer, or the engine refuses a probe, that is said, and nothing is told in its place.
//! Not a second evaluator of our own, which would explain what we believe Rego to mean.

mod head;
mod names;
mod probe;
mod text;
mod trace;

use std::collections::BTreeSet;

use regorus::Value;
use serde::{Serialize, Serializer};

use super::program::{Occurrence, canonical};
use super::{EvaluationError, Policy};
pub(super) use trace::{Event, Tracer};

/// Solutions of a prefix that are told; loops have many.
const SOLUTIONS: usize = 3;
/// Entries of one definition that are told: a function is entered often.
const RUNS: usize = 6;

/// What a policy made of one input, rule by rule, the one that decides first.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub rules: Vec<RuleStory>,
    /// Rules that could have been asked and were not.
    pub not_asked: Vec<Unasked>,
    /// Why there is nothing to tell, or not all.
    pub not_told: Option<String>,
}

/// One rule or function.
#[derive(Clone, Debug, Serialize)]
pub struct RuleStory {
    /// `data.portcullis.decision`
    pub rule: String,
    pub function: bool,
    /// `None`: undefined, or not evaluated.
    #[serde(serialize_with = "maybe")]
    pub value: Option<Value>,
    /// It has one value here; a function has not, nor has what a test asks under several inputs.
    pub evaluated: bool,
    /// None of its definitions held, and its default is its value.
    pub by_default: bool,
    pub definitions: Vec<DefinitionStory>,
}

/// A rule nothing asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Unasked {
    pub rule: String,
    pub file: String,
    pub line: u32,
}

/// What a point of the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A definition of a rule.
    Rule,
    /// What follows an `else`.
    Else,
    /// The body of an `every`.
    Every,
}

/// One definition of a rule.
#[derive(Clone, Debug, Serialize)]
pub struct DefinitionStory {
    pub file: String,
    pub line: u32,
    pub kind: Kind,
    /// Each time it was entered with other values; empty: it was not.
    pub runs: Vec<Run>,
    /// Runs that are not told.
    pub more: usize,
    /// The engine refused to look into it.
    pub not_told: bool,
}

/// One time a definition was entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    pub arguments: Vec<Named>,
    pub outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Its body held. Of a loop: each solution's values.
    Held {
        gave: Vec<Vec<Named>>,
        /// How many solutions there were.
        times: usize,
    },
    /// This statement did not hold, and all before it did.
    Failed {
        line: u32,
        statement: String,
        /// What its parts were, for each way the statements before it held.
        with: Vec<Vec<Named>>,
        times: usize,
    },
}

/// A part of the text and its value; `None`: undefined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    pub name: String,
    #[serde(serialize_with = "maybe")]
    pub value: Option<Value>,
}

fn maybe<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_none(),
    }
}

/// A place of the text that tells.
#[derive(Clone, Debug)]
pub(super) struct Point {
    /// Whose definition it is.
    pub(super) node: usize,
    pub(super) place: Occurrence,
    pub(super) kind: Kind,
    pub(super) arguments: Vec<String>,
    pub(super) steps: Vec<Step>,
    /// What its head's parts are called.
    pub(super) head: Vec<String>,
    pub(super) told: bool,
}

/// One or more statements that are told as one.
#[derive(Clone, Debug)]
pub(super) struct Step {
    line: u32,
    text: String,
    shown: Vec<String>,
}

impl Point {
    fn new(node: usize, place: Occurrence, kind: Kind, arguments: Vec<String>) -> Self {
        Self { node, place, kind, arguments, steps: Vec::new(), head: Vec::new(), told: true }
    }

    /// What an event at this point says.
    fn run(&self, event: &Event) -> Run {
        let arguments = named(&self.arguments, event.arguments.iter().cloned().map(Some));
        let (last, reached) = (self.steps.len(), event.prefixes.iter().take_while(|solutions| !solutions.is_empty()).count());
        let step = if reached > last { last } else { reached.saturating_sub(1) };
        let solutions = event.prefixes.get(step).map(Vec::as_slice).unwrap_or_default();
        Run { arguments, outcome: self.outcome(step, solutions.iter()) }
    }

    /// What an event says of one case of a test.
    pub(super) fn case(&self, event: &Event, keys: &[Option<Value>]) -> Option<Run> {
        let of_case = |step: usize| {
            let cases = event.cases.get(step).into_iter().flatten();
            let solutions = event.prefixes.get(step).into_iter().flatten();
            cases.zip(solutions).filter(|(case, _)| *case == keys).map(|(_, solution)| solution).collect::<Vec<_>>()
        };
        let step = (0..=self.steps.len()).rev().find(|step| !of_case(*step).is_empty())?;
        let name = |value: &Option<Value>| Named { name: "case".to_owned(), value: value.clone() };
        Some(Run { arguments: keys.iter().map(name).collect(), outcome: self.outcome(step, of_case(step).into_iter()) })
    }

    /// What it means that these are the solutions of the prefix of so many steps, and that they are none of a longer one.
    fn outcome<'s>(&self, step: usize, solutions: impl Iterator<Item = &'s Vec<Option<Value>>>) -> Outcome {
        let Some(stopped) = self.steps.get(step) else {
            let gave = distinct(solutions.map(|values| named(&self.head, values.iter().cloned())));
            return Outcome::Held { times: gave.len(), gave: gave.into_iter().take(SOLUTIONS).collect() };
        };
        let with = distinct(solutions.map(|values| named(&stopped.shown, values.iter().cloned())));
        let (line, statement, times) = (stopped.line, stopped.text.clone(), with.len());
        Outcome::Failed { line, statement, with: with.into_iter().take(SOLUTIONS).collect(), times }
    }
}

fn named(names: &[String], values: impl Iterator<Item = Option<Value>>) -> Vec<Named> {
    names.iter().cloned().zip(values).map(|(name, value)| Named { name, value }).collect()
}

fn distinct(all: impl Iterator<Item = Vec<Named>>) -> Vec<Vec<Named>> {
    let mut kept: Vec<Vec<Named>> = Vec::new();
    for one in all {
        // Enough to count what a person would look at.
        if kept.len() < 1000 && !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

/// Says why an entry point of a policy answers an input as it does.
pub fn explain(policy: &Policy, entry: usize, input: &Value) -> Explanation {
    let told = |why: String| Explanation { rules: Vec::new(), not_asked: Vec::new(), not_told: Some(why) };
    let Some(rule) = policy.rule(entry) else { return told("there is no such entry point".to_owned()) };
    let data = match policy.data() {
        Ok(data) => data,
        Err(why) => return told(why),
    };
    let mut tracer = match Tracer::new(policy.sources(), &data) {
        Ok(tracer) => tracer,
        Err(why) => return told(why),
    };
    let plain = tracer.plain(rule, input);
    let (mut probed, mut events) = tracer.probed(rule, input);
    if plain != probed
        && let Ok(careful) = Tracer::careful(policy.sources(), &data, rule, input)
    {
        (probed, events) = careful.probed(rule, input);
        tracer = careful;
    }
    if plain != probed {
        return told(different(&plain, &probed));
    }
    let start = tracer.node(rule);
    let mut explanation = tracer.stories(&events, start, &|rule, tracer| Some(tracer.plain(rule, input).ok()));
    if tracer.lost() {
        explanation.not_told = Some("there was more to tell than is kept".to_owned());
    }
    explanation
}

fn different(plain: &Result<Value, EvaluationError>, probed: &Result<Value, EvaluationError>) -> String {
    match (plain, probed) {
        (_, Err(EvaluationError::Timeout)) => "looking into it took longer than a minute".to_owned(),
        (_, Err(error)) => format!("looking into it failed: {error}"),
        (Err(_) | Ok(_), Ok(_)) => "the policy answers otherwise when it is looked into".to_owned(),
    }
}

impl Tracer {
    /// A rule and all it can lead to.
    pub(super) fn reachable(&self, start: usize) -> BTreeSet<usize> {
        let (mut reached, mut waiting) = (BTreeSet::new(), vec![start]);
        while let Some(node) = waiting.pop() {
            if reached.insert(node) {
                waiting.extend(self.program().nodes.get(node).into_iter().flat_map(|node| &node.facts.edges));
            }
        }
        reached
    }

    /// What events say, rule by rule: `start` first, the others as they were entered.
    pub(super) fn stories(
        &self,
        events: &[Event],
        start: Option<usize>,
        value: &dyn Fn(&str, &Self) -> Option<Option<Value>>,
    ) -> Explanation {
        let asked: BTreeSet<usize> =
            events.iter().filter_map(|event| self.points().get(event.point)).map(|point| point.node).chain(start).collect();
        // As a reader would follow them: each rule before those it asks.
        let (mut order, mut reached) = (Vec::new(), BTreeSet::new());
        // The engine may evaluate more of a package than the rules in question lead to; that is no part of the answer.
        let mut waiting: Vec<usize> = start.into_iter().collect();
        while let Some(node) = waiting.pop() {
            if !reached.insert(node) {
                continue;
            }
            order.extend(asked.get(&node));
            let edges = self.program().nodes.get(node).map(|node| &node.facts.edges);
            waiting.extend(edges.into_iter().flatten().rev());
        }
        let rules: Vec<RuleStory> = order.iter().map(|node| self.story(*node, events, value)).collect();
        let mut not_asked = Vec::new();
        for node in reached.iter().filter(|node| !asked.contains(*node)).filter_map(|node| self.program().nodes.get(*node)) {
            not_asked.push(Unasked { rule: canonical(&node.path), file: node.place.file.clone(), line: node.place.line });
        }
        not_asked.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
        // What has only a default, or nothing the engine let us look into, is not "not asked".
        not_asked.retain(|unasked| self.points().iter().any(|point| point.told && canonical_of(self, point.node) == unasked.rule));
        Explanation { rules, not_asked, not_told: None }
    }

    fn story(&self, node: usize, events: &[Event], value: &dyn Fn(&str, &Self) -> Option<Option<Value>>) -> RuleStory {
        let rule = canonical_of(self, node);
        let function = self.program().nodes.get(node).is_some_and(|node| node.arity.is_some());
        let value = if function { None } else { value(&rule, self) };
        let evaluated = value.is_some();
        let value = value.flatten();
        let mut definitions = Vec::new();
        let mut held = false;
        for (id, point) in self.points().iter().enumerate().filter(|(_, point)| point.node == node) {
            let mut runs: Vec<Run> = Vec::new();
            for run in events.iter().filter(|event| event.point == id).map(|event| point.run(event)) {
                let fails = matches!(run.outcome, Outcome::Failed { .. });
                held |= !fails && point.kind != Kind::Every;
                // Of an `every`, those elements are of interest for which it did not hold.
                if !runs.contains(&run) && (fails || point.kind != Kind::Every) {
                    runs.push(run);
                }
            }
            let more = runs.len().saturating_sub(RUNS);
            runs.truncate(RUNS);
            if point.kind == Kind::Every && runs.is_empty() {
                continue;
            }
            let (file, line) = (point.place.file.clone(), point.place.line);
            definitions.push(DefinitionStory { file, line, kind: point.kind, runs, more, not_told: !point.told });
        }
        definitions.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
        let set = self.program().nodes.get(node).is_some_and(|node| node.set);
        let by_default = value.is_some() && !held && !set && !definitions.iter().any(|definition| definition.not_told);
        RuleStory { rule, function, by_default, value, evaluated, definitions }
    }
}

fn canonical_of(tracer: &Tracer, node: usize) -> String {
    tracer.program().nodes.get(node).map(|node| canonical(&node.path)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
