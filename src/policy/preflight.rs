//! Everything that can be wrong with a set of bundles, found before any of them judges.
//!
//! In: bundles and entry points. Out: a checked [`Program`], or every finding at once. What must stay true: a policy that
//! passes can neither recurse nor call what is not there, and its deepest chain of calls fits a worker's stack. regorus looks
//! up functions when a call is reached and would report a missing one as undefined from inside another function.

mod answers;
mod growth;

use regorus::unstable::{Module, Ref};
use serde_json::{Map, Value};

use super::bundle::{self, Bundle, Source};
use super::program::{Program, canonical};
use super::{About, Entry, Finding, interpreter, nesting};

/// Frames of the interpreter one evaluation may stack up; measured: twice as many fit 1 MiB, half of a thread's usual stack.
const FRAMES: usize = 256;
/// More keys than this beside a rule make each evaluation slower (regorus copies every map on the way to a rule it writes).
const CROWD: usize = 1000;

/// What was checked, and what is no mistake but should be known.
pub(super) struct Checked {
    pub(super) program: Program,
    /// What the program was made from, without test files.
    pub(super) modules: Vec<Ref<Module>>,
    /// The files that only test.
    pub(super) tests: Vec<Ref<Module>>,
    pub(super) data: Map<String, Value>,
    /// The rule of each entry, as `eval_rule` wants it, with its index in the program.
    pub(super) rules: Vec<(String, usize)>,
    pub(super) warnings: Vec<Finding>,
}

/// Checks bundles against each other, their rules, and the entry points.
pub(super) fn check(bundles: &[Bundle], entries: &[Entry]) -> Result<Checked, Vec<Finding>> {
    let mut findings = overlaps(bundles);
    let (mut modules, mut tests) = (Vec::new(), Vec::new());
    for bundle in bundles {
        for source in &bundle.modules {
            match parse(source) {
                Ok(module) => {
                    findings.extend(outside_roots(bundle, &module));
                    let kind = if source.test { &mut tests } else { &mut modules };
                    kind.push(module);
                }
                Err(finding) => findings.push(finding),
            }
        }
    }
    // A file that did not parse hides rules: whatever is said about missing ones would be noise.
    if !findings.is_empty() {
        return Err(findings);
    }
    let program = Program::new(&modules);
    for node in &program.nodes {
        findings.extend(node.facts.findings.iter().cloned());
    }
    findings.extend(recursion(&program));
    findings.extend(growth::check(&program, &program.definitions(&modules)));
    let data = merged(bundles, &mut findings);
    findings.extend(conflicts(&program, &data));
    let rules: Vec<(String, usize)> =
        entries.iter().filter_map(|entry| resolve(entry, &program).map_err(|finding| findings.push(finding)).ok()).collect();
    if !findings.is_empty() {
        return Err(findings);
    }
    let mut warnings = crowds(&program, &data, &rules);
    warnings.extend(prints(&program));
    warnings.extend(mute(&program, &modules, &rules));
    Ok(Checked { program, modules, tests, data, rules, warnings })
}

pub(super) fn parse(source: &Source) -> Result<Ref<Module>, Finding> {
    nesting::check(&source.text).map_err(|deep| Finding {
        file: source.file.clone(),
        line: deep.line,
        column: deep.column,
        message: deep.message,
        hint: deep.hint.to_owned(),
        about: About::Content,
    })?;
    let mut parser = interpreter::bare();
    parser.set_rego_v0(source.v0);
    parser.add_policy(source.file.clone(), source.text.clone()).map_err(|error| placed(&source.file, &error))?;
    parser
        .get_modules()
        .first()
        .cloned()
        .ok_or_else(|| Finding::whole(&source.file, "the file holds no package", "start it with `package name`"))
}

/// Turns regorus' picture of an error into a place and a message.
pub(super) fn placed(file: &str, error: &dyn std::fmt::Display) -> Finding {
    let said = error.to_string();
    let message = said.rsplit("\nerror: ").next().unwrap_or(&said).trim().to_owned();
    let place = said.lines().find_map(|line| line.strip_prefix("--> ")).and_then(|place| {
        let (rest, column) = place.rsplit_once(':')?;
        let (file, line) = rest.rsplit_once(':')?;
        Some((file.to_owned(), line.parse().ok()?, column.parse().ok()?))
    });
    let (file, line, column) = place.unwrap_or_else(|| (file.to_owned(), 0, 0));
    Finding { file, line, column, message, hint: String::new(), about: About::Content }
}

fn overlaps(bundles: &[Bundle]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, one) in bundles.iter().enumerate() {
        for other in bundles.iter().skip(index.saturating_add(1)) {
            for root in &one.roots {
                if let Some(same) = other.roots.iter().find(|same| bundle::overlap(root, same)) {
                    findings.push(Finding::whole(
                        &format!("policy.bundles.{}", other.name),
                        format!("root `{same}` overlaps root `{root}` of bundle `{}`", one.name),
                        "give each bundle roots of its own in its .manifest",
                    ));
                }
            }
        }
    }
    findings
}

/// The package of a file, dotted, once it has been parsed.
///
/// # Errors
/// Where it cannot be parsed.
pub fn package_of(source: &Source) -> Result<String, Finding> {
    parse(source).map(|module| super::program::package(&module).join("."))
}

fn outside_roots(bundle: &Bundle, module: &Module) -> Option<Finding> {
    let package = super::program::package(module);
    let path = package.join("/");
    if bundle.roots.iter().any(|root| bundle::under(&path, root)) {
        return None;
    }
    let span = &module.package.span;
    Some(Finding {
        file: span.source.file().clone(),
        line: span.line,
        column: span.col,
        message: format!("package {} lies outside the roots {:?} of bundle `{}`", package.join("."), bundle.roots, bundle.name),
        hint: format!("add \"{path}\" to the roots in .manifest"),
        about: About::Content,
    })
}

fn merged(bundles: &[Bundle], findings: &mut Vec<Finding>) -> Map<String, Value> {
    let mut data = Map::new();
    for bundle in bundles {
        if let Err(path) = bundle::merge(&mut data, bundle.data.clone()) {
            let file = format!("policy.bundles.{}", bundle.name);
            findings.push(Finding::whole(&file, format!("data.{path} is already given by another bundle"), ""));
        }
    }
    data
}

/// Data where a rule is: the rule's answer and the data would be merged, and an undefined rule would answer with the data.
fn conflicts(program: &Program, data: &Map<String, Value>) -> Vec<Finding> {
    let clash = |path: &[String]| {
        let (first, rest) = path.split_first()?;
        let mut at = data.get(first)?;
        for part in rest {
            match at {
                Value::Object(object) => at = object.get(part)?,
                // Data above a rule that is no object leaves the rule no place.
                _ => return Some(()),
            }
        }
        Some(())
    };
    let clashing = program.nodes.iter().filter(|node| clash(&node.path).is_some());
    clashing.map(|node| node.place.finding("a rule and data stand at the same path".to_owned(), "rename one of the two")).collect()
}

fn resolve(entry: &Entry, program: &Program) -> Result<(String, usize), Finding> {
    let path: Vec<String> = entry.decision.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let problem = |message: String, hint: String| Finding::whole("policy.decision", message, hint);
    let written = |path: &[String]| path.join("/");
    let found = program.index_of(&path);
    match found.zip(found.and_then(|index| program.nodes.get(index))) {
        Some((_, node)) if node.arity.is_some() => {
            Err(problem(format!("`{}` is a function, and the gate gives no arguments", entry.decision), "name a rule".to_owned()))
        }
        Some((index, _)) => Ok((canonical(&path), index)),
        None => {
            let beneath: Vec<String> =
                program.nodes.iter().filter(|node| node.path.starts_with(&path)).map(|node| written(&node.path)).take(5).collect();
            if !beneath.is_empty() {
                let message = format!("`{}` names a package, not a rule", entry.decision);
                return Err(problem(message, format!("name one of its rules: {}", beneath.join(", "))));
            }
            let nearest = program
                .nodes
                .iter()
                .filter(|node| node.arity.is_none())
                .map(|node| written(&node.path))
                .min_by_key(|known| strsim::osa_distance(&written(&path), known));
            let hint = nearest.map_or_else(|| "the bundles hold no rules".to_owned(), |known| format!("the nearest is `{known}`"));
            Err(problem(format!("no bundle has the rule `{}`", entry.decision), hint))
        }
    }
}

/// One finding a cycle, and one for each chain of calls that is too deep for a stack.
pub(super) fn recursion(program: &Program) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut frames: Vec<Option<usize>> = vec![None; program.nodes.len()];
    for start in 0..program.nodes.len() {
        // The way down, each with the edges still to follow.
        let mut way: Vec<(usize, Vec<usize>)> = Vec::new();
        let enter = |index: usize| {
            let edges = program.nodes.get(index).map(|node| node.facts.edges.iter().copied().collect()).unwrap_or_default();
            (index, edges)
        };
        if frames.get(start).is_some_and(Option::is_none) {
            way.push(enter(start));
        }
        while let Some((index, edges)) = way.last_mut() {
            let index = *index;
            if let Some(next) = edges.pop() {
                if let Some(from) = way.iter().position(|(on, _)| *on == next) {
                    let cycle: Vec<usize> = way.iter().skip(from).map(|(on, _)| *on).collect();
                    findings.extend(cycle_finding(program, &cycle));
                } else if frames.get(next).is_some_and(Option::is_none) {
                    way.push(enter(next));
                }
                continue;
            }
            let Some(node) = program.nodes.get(index) else { break };
            let below = node.facts.edges.iter().filter_map(|edge| frames.get(*edge).copied().flatten()).max().unwrap_or(0);
            let total = node.facts.frames.saturating_add(below);
            if total > FRAMES && below <= FRAMES {
                findings.push(node.place.finding(
                    format!("its calls go {total} frames deep, and {FRAMES} are safe"),
                    "shorten the chain of rules it goes through",
                ));
            }
            if let Some(slot) = frames.get_mut(index) {
                *slot = Some(total);
            }
            way.pop();
        }
    }
    findings
}

fn cycle_finding(program: &Program, cycle: &[usize]) -> Option<Finding> {
    let names: Vec<String> =
        cycle.iter().chain(cycle.first()).filter_map(|index| program.nodes.get(*index)).map(|node| canonical(&node.path)).collect();
    let first = program.nodes.get(*cycle.first()?)?;
    Some(Finding {
        file: first.place.file.clone(),
        line: first.place.line,
        column: first.place.column,
        message: format!("recursion: {}", names.join(" → ")),
        hint: "Rego has no recursion; use walk or graph.reachable, or name the rule that a data[…] reference means".to_owned(),
        about: About::Content,
    })
}

fn crowds(program: &Program, data: &Map<String, Value>, rules: &[(String, usize)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in rules.iter().filter_map(|(_, index)| program.nodes.get(*index)).map(|node| &node.path) {
        let mut at = Some(data);
        for (depth, part) in path.iter().enumerate() {
            let Some(object) = at else { break };
            if object.len() > CROWD {
                findings.push(Finding::whole(
                    &canonical(path.get(..depth).unwrap_or_default()),
                    format!("{} keys lie beside the rules that judge, and each evaluation copies them", object.len()),
                    "put large data under a name of its own",
                ));
            }
            at = object.get(part).and_then(Value::as_object);
        }
    }
    findings
}

fn prints(program: &Program) -> Vec<Finding> {
    let calls = program.nodes.iter().filter_map(|node| node.facts.calls.get("print"));
    calls.map(|place| place.finding("what `print` says is thrown away".to_owned(), "remove it from what judges")).collect()
}

/// Entry points that can only deny.
fn mute(program: &Program, modules: &[Ref<Module>], rules: &[(String, usize)]) -> Vec<Finding> {
    let definitions = program.definitions(modules);
    let told = rules.iter().filter_map(|(rule, node)| {
        let own = definitions.iter().filter(|definition| definition.node == *node).map(|definition| definition.rule);
        let gives = answers::never_a_verdict(own)?;
        let message = format!("`{rule}` gives {gives}, which is never a verdict: whatever it judges is denied");
        let hint = "a verdict is a boolean, or an object with `allowed`";
        program.nodes.get(*node).map(|node| node.place.finding(message, hint))
    });
    told.collect()
}

#[cfg(test)]
mod tests;
