//! The tests of a bundle: its `test_` rules, run as `opa test` runs them, and which rules they reach.
//!
//! In: paths of bundles and Rego files. Out: a [`Suite`], and for each test a [`Ran`]. What must stay true: a test passes here when
//! it passes under OPA: its rule is `true`; of a rule with one key for each case, every case is; two rules of one name are two
//! tests. A rule of the bundle counts as covered when some test entered one of its definitions, all of its body held, and its value
//! was defined, of the rules the test can lead to: told by the probes of [`super::explain`] in the test's own evaluation, whatever `with` was in place. Files that
//! only test, and defaults, are not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use regorus::Value;
use regorus::unstable::{Module, Ref};

use super::bundle::signature::Signatures;
use super::bundle::{self, Bounds, Bundle, Source};
use super::engine::EvaluationError;
use super::explain::{Event, Explanation, Kind, RuleStory, Tracer};
use super::program::{Occurrence, Program};
use super::{About, Finding, Report, preflight};
use text::{fully_named, renamed, replaces_functions};

mod text;

const STACK: usize = 64 * 1024 * 1024;
/// How long the tests that must pass may take, all together.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Tests, and the bundle they are about.
pub struct Suite {
    tracer: Tracer,
    pub tests: Vec<Test>,
    sources: Vec<Source>,
    data: Value,
    /// The points that are definitions of the bundle, not of its tests.
    counted: BTreeSet<usize>,
    covered: BTreeSet<usize>,
}

/// One `test_` rule.
#[derive(Clone, Debug)]
pub struct Test {
    /// `data.portcullis_test.test_reads`; the second of one name ends in `#01`.
    pub name: String,
    pub file: String,
    pub line: u32,
    /// It is called `todo_test_…`.
    pub skipped: bool,
    /// It has one key for each case.
    cases: bool,
    rule: String,
}

/// What came of a test.
#[derive(Clone, Debug)]
pub struct Ran {
    pub outcome: Outcome,
    pub took: Duration,
    /// Each case by its keys, and whether it held.
    pub cases: Vec<(Vec<String>, bool)>,
    /// The definitions of the bundle it made defined.
    pub reached: BTreeSet<Definition>,
    /// What it printed.
    pub prints: Vec<String>,
    /// Of one that failed: where, and what it asked.
    pub explanation: Option<Explanation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Fail,
    Error(String),
    Skipped,
}

/// One definition of a rule: where it begins, and the rule's path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Definition {
    pub file: String,
    pub line: u32,
    pub rule: String,
}

impl Suite {
    /// Reads bundles and files, and finds their tests.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn load(paths: &[impl AsRef<Path>]) -> Result<Self, Report> {
        let bundle = merged(paths)?;
        let mut checked = preflight::check(std::slice::from_ref(&bundle), &[]).map_err(Report::sorted)?;
        let data = serde_json::Value::Object(std::mem::take(&mut checked.data)).to_string();
        let data = Value::from_json_str(&data).map_err(|error| Report { findings: vec![told(&error.to_string())] })?;
        Self::of(&bundle.modules, &data)
    }

    /// The tests of files that were checked, tests apart.
    ///
    /// # Errors
    /// What is wrong with the tests.
    pub(super) fn of(modules: &[Source], data: &Value) -> Result<Self, Report> {
        let (sources, tests) = renamed(modules)?;
        let all: Vec<Ref<Module>> =
            sources.iter().map(preflight::parse).collect::<Result<_, _>>().map_err(|finding| Report { findings: vec![finding] })?;
        // A test that recurses would take the process with it.
        let program = Program::new(&all);
        let recursion = preflight::recursion(&program);
        if !recursion.is_empty() {
            return Err(Report::sorted(recursion));
        }
        let sources = if replaces_functions(&program, &all) { fully_named(&program, &all, sources) } else { sources };
        let tracer = Tracer::new(&sources, data).map_err(|why| Report { findings: vec![told(&why)] })?;
        let only_tests: BTreeSet<&str> = modules.iter().filter(|source| source.test).map(|source| source.file.as_str()).collect();
        let is_test = |rule: &str| tests.iter().any(|test| test.rule == rule);
        let points = tracer.points().iter().enumerate();
        let counted = points.filter(|(_, point)| {
            point.kind != Kind::Every
                && point.told
                && !only_tests.contains(point.place.file.as_str())
                && !is_test(&point.place.rule)
        });
        let counted = counted.map(|(id, _)| id).collect();
        Ok(Self { tracer, tests, sources, data: data.clone(), counted, covered: BTreeSet::new() })
    }

    /// Runs one test.
    pub fn run(&mut self, test: &Test) -> Ran {
        let nothing = Ran {
            outcome: Outcome::Skipped,
            took: Duration::ZERO,
            cases: Vec::new(),
            reached: BTreeSet::new(),
            prints: Vec::new(),
            explanation: None,
        };
        if test.skipped {
            return nothing;
        }
        let began = Instant::now();
        let (plain, prints) = self.tracer.printed(&test.rule);
        let took = began.elapsed();
        if plain == Err(EvaluationError::Timeout) {
            let outcome = Outcome::Error(EvaluationError::Timeout.to_string());
            return Ran { outcome, took, prints, ..nothing };
        }
        let (mut probed, mut events) = self.tracer.probed(&test.rule, &Value::Undefined);
        let mut own = None;
        if plain != probed
            && let Ok(careful) = Tracer::careful(&self.sources, &self.data, &test.rule, &Value::Undefined)
        {
            (probed, events) = careful.probed(&test.rule, &Value::Undefined);
            own = Some(careful);
        }
        let tracer = own.as_ref().unwrap_or(&self.tracer);
        let agree = plain == probed;
        let covered = if agree { held(tracer, test, &events) } else { Vec::new() };
        let cases = if test.cases { cases(tracer, test, plain.as_ref().ok(), &events) } else { Vec::new() };
        let outcome = match &plain {
            // Which cases there were, the probes say.
            Ok(_) | Err(EvaluationError::Undefined) if test.cases && !agree => {
                Outcome::Error("the engine cannot look into this test, and a case that does not hold would not be seen".to_owned())
            }
            Ok(_) | Err(EvaluationError::Undefined) if test.cases => passed(cases.iter().all(|(_, held)| *held)),
            Err(EvaluationError::Undefined) => Outcome::Fail,
            Err(error) => Outcome::Error(error.to_string()),
            Ok(value) => passed(*value == Value::Bool(true)),
        };
        let explanation = (outcome == Outcome::Fail).then(|| {
            if !agree {
                let why = "the test answers otherwise when it is looked into".to_owned();
                return Explanation { rules: Vec::new(), not_asked: Vec::new(), not_told: Some(why) };
            }
            let start = tracer.node(&test.rule);
            let value = plain.as_ref().ok();
            let mut explanation = tracer.stories(&events, start, &|rule, _| (rule == test.rule).then(|| value.cloned()));
            if let Some(first) = explanation.rules.first_mut().filter(|_| test.cases) {
                by_case(tracer, first, &cases, start, &events);
            }
            explanation
        });
        let points = self.tracer.points();
        let same = |place: &Occurrence, kind: Kind| points.iter().position(|point| point.place == *place && point.kind == kind);
        let covered = covered.iter().filter_map(|(place, kind)| same(place, *kind)).filter(|id| self.counted.contains(id));
        let covered: BTreeSet<usize> = covered.collect();
        let reached = self.definitions(&covered);
        self.covered.extend(covered);
        Ran { outcome, took, cases, reached, prints, explanation }
    }

    /// How many definitions some test made defined, how many there are, and those none did.
    pub fn coverage(&self) -> (usize, usize, Vec<Definition>) {
        let missing = self.counted.difference(&self.covered).copied().collect();
        (self.covered.len(), self.counted.len(), self.definitions(&missing).into_iter().collect())
    }

    /// The text of its files.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Every definition that counts.
    pub fn counted(&self) -> BTreeSet<Definition> {
        self.definitions(&self.counted)
    }

    fn definitions(&self, points: &BTreeSet<usize>) -> BTreeSet<Definition> {
        let points = points.iter().filter_map(|id| self.tracer.points().get(*id));
        points
            .map(|point| Definition { file: point.place.file.clone(), line: point.place.line, rule: point.place.rule.clone() })
            .collect()
    }
}

/// The definitions that held with a value, of the rules a test can lead to: the engine may evaluate more of a package.
fn held(tracer: &Tracer, test: &Test, events: &[Event]) -> Vec<(Occurrence, Kind)> {
    let asked = tracer.node(&test.rule).map(|node| tracer.reachable(node)).unwrap_or_default();
    let points = events.iter().filter(|event| tracer.gave(event)).filter_map(|event| tracer.points().get(event.point));
    points.filter(|point| asked.contains(&point.node)).map(|point| (point.place.clone(), point.kind)).collect()
}

/// The cases there were, by what their rule says and by what its probes saw begin.
fn cases(tracer: &Tracer, test: &Test, value: Option<&Value>, events: &[Event]) -> Vec<(Vec<String>, bool)> {
    let mut cases = BTreeMap::new();
    if let Some(value) = value {
        leaves(value, &mut Vec::new(), &mut cases);
    }
    let own = tracer.node(&test.rule);
    let mine = |event: &&Event| tracer.points().get(event.point).is_some_and(|point| Some(point.node) == own);
    for keys in events.iter().filter(mine).flat_map(|event| event.keys()) {
        cases.entry(keys.iter().flatten().map(word).collect()).or_insert(false);
    }
    cases.into_iter().collect()
}

/// Tells a test's own rule by its cases that failed.
fn by_case(tracer: &Tracer, story: &mut RuleStory, cases: &[(Vec<String>, bool)], own: Option<usize>, events: &[Event]) {
    let failed = |keys: &[Option<Value>]| {
        let words: Vec<String> = keys.iter().flatten().map(word).collect();
        cases.iter().any(|(case, held)| !held && *case == words)
    };
    let points = events.iter().filter_map(|event| Some((event, tracer.points().get(event.point)?)));
    for (event, point) in points.filter(|(_, point)| Some(point.node) == own) {
        let runs = event.keys().into_iter().filter(|keys| failed(keys)).filter_map(|keys| point.case(event, keys));
        let definition =
            story.definitions.iter_mut().find(|definition| definition.line == point.place.line && definition.kind == point.kind);
        if let Some(definition) = definition {
            definition.runs = runs.collect();
        }
    }
}

/// Runs the tests of a set of bundles that may judge only when all of them pass.
///
/// # Errors
/// Each test that failed, with its place; that there are none; that they took too long.
pub(super) fn require(modules: &[Source], data: &Value, patience: Duration) -> Result<(), Report> {
    // Probes go several times as deep as what they look into, and a worker's or a blocking thread's stack is small.
    std::thread::scope(|scope| {
        let running = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || all_pass(modules, data, patience));
        let done = running
            .map_err(|error| error.to_string())
            .and_then(|running| running.join().map_err(|_| "the engine panicked".to_owned()));
        done.unwrap_or_else(|why| Err(Report { findings: vec![told(&why)] }))
    })
}

fn all_pass(modules: &[Source], data: &Value, patience: Duration) -> Result<(), Report> {
    let began = Instant::now();
    let mut suite = Suite::of(modules, data)?;
    let mut findings = Vec::new();
    let tests: Vec<Test> = suite.tests.iter().filter(|test| !test.skipped).cloned().collect();
    if tests.is_empty() {
        findings.push(Finding::whole(
            "policy.tests",
            "the bundles have no tests, and `require` asks for some",
            "write rules that begin with test_",
        ));
    }
    for test in &tests {
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            let hint = "`portcullis test` says which are slow; tests: ignore lets the bundles judge untested";
            findings.push(Finding::whole(
                "policy.tests",
                format!("the tests took longer than {} seconds", patience.as_secs()),
                hint,
            ));
            break;
        }
        suite.tracer.limit(left);
        let message = match suite.run(test).outcome {
            Outcome::Pass | Outcome::Skipped => continue,
            Outcome::Fail => format!("{} does not pass", test.name),
            Outcome::Error(error) => format!("{} fails: {error}", test.name),
        };
        let hint = "`portcullis test` tells why; policy.tests: require lets no bundle judge whose tests do not pass".to_owned();
        findings.push(Finding { file: test.file.clone(), line: test.line, column: 1, message, hint, about: About::Content });
    }
    if findings.is_empty() { Ok(()) } else { Err(Report::sorted(findings)) }
}

fn passed(passed: bool) -> Outcome {
    if passed { Outcome::Pass } else { Outcome::Fail }
}

fn told(why: &str) -> Finding {
    Finding::whole("the tests", why, "")
}

fn word(key: &Value) -> String {
    key.as_string().map_or_else(|_| key.to_string(), |text| text.to_string())
}

fn leaves(value: &Value, keys: &mut Vec<String>, found: &mut BTreeMap<Vec<String>, bool>) {
    match value {
        Value::Object(object) if keys.is_empty() || object.iter_sorted().next().is_some() => {
            for (key, value) in object.iter_sorted() {
                keys.push(word(key));
                leaves(value, keys, found);
                keys.pop();
            }
        }
        other => drop(found.insert(keys.clone(), *other == Value::Bool(true))),
    }
}

/// One bundle of all paths. Several are laid over each other, as the files of one folder.
fn merged(paths: &[impl AsRef<Path>]) -> Result<Bundle, Report> {
    let mut findings = Vec::new();
    let mut bundles = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let bounds = Bounds::default();
        let whole = path.is_dir() || path.to_string_lossy().ends_with(".gz") || !path.exists();
        let read = if whole {
            bundle::read(&path.display().to_string(), path, &bounds, Signatures::Ignore)
        } else {
            bundle::read_file(path, &bounds)
        };
        match read {
            Ok(bundle) => bundles.push(bundle),
            Err(found) => findings.extend(found),
        }
    }
    let mut bundles = bundles.into_iter();
    let Some(mut first) = bundles.next().filter(|_| findings.is_empty()) else { return Err(Report::sorted(findings)) };
    for other in bundles {
        first.roots = vec![String::new()];
        first.modules.extend(other.modules);
        if let Err(path) = bundle::merge(&mut first.data, other.data) {
            findings.push(Finding::whole(
                &other.name,
                format!("data.{path} is already given by another path"),
                "give each value once",
            ));
        }
    }
    if findings.is_empty() { Ok(first) } else { Err(Report::sorted(findings)) }
}
