//! An engine that tells what its probes see, beside one that is as the gate's.
//!
//! In: sources and data; rules and inputs. Out: values by either, and the events of one evaluation. What must stay true: events are
//! kept up to a bound, and what went beyond it is known; one evaluation leaves nothing to the next (each is a fresh clone).

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use regorus::unstable::{Module, Ref};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{LimitError, Value};

use super::Point;
use super::probe::{self, Depth};
use crate::policy::EvaluationError;
use crate::policy::bundle::Source;
use crate::policy::interpreter::{bare, failure};
use crate::policy::preflight;
use crate::policy::program::Program;

/// Events of one evaluation that are kept.
const EVENTS: usize = 50_000;
/// How long an evaluation may take; probes do everything several times.
const TIME: Duration = Duration::from_secs(60);
/// How long all trials of probes may take; what was not tried by then tells nothing.
const TRIALS: Duration = Duration::from_secs(10);
/// How long one trial may take.
const TRIAL: Duration = Duration::from_secs(2);
/// More rules than this are not tried one by one when the engine refuses the probes.
const TRIED: usize = 400;

/// What one probe saw.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Event {
    pub(in crate::policy) point: usize,
    pub(super) arguments: Vec<Value>,
    /// For each prefix its solutions, each with the values asked for.
    pub(super) prefixes: Vec<Vec<Vec<Option<Value>>>>,
    /// The case of a test each of these solutions belongs to, from the first prefix that tells; nothing elsewhere.
    pub(super) cases: Vec<Vec<Vec<Option<Value>>>>,
}

impl Event {
    /// The cases it is about, each once.
    pub(in crate::policy) fn keys(&self) -> Vec<&[Option<Value>]> {
        let all: BTreeSet<&[Option<Value>]> = self.cases.iter().flatten().map(Vec::as_slice).collect();
        all.into_iter().collect()
    }
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    lost: AtomicBool,
}

/// See the module.
pub(in crate::policy) struct Tracer {
    plain: regorus::Engine,
    probed: regorus::Engine,
    program: Program,
    points: Vec<Point>,
    log: Arc<Log>,
}

impl Tracer {
    /// Builds both engines.
    ///
    /// # Errors
    /// What the engine says against the sources as they stand.
    pub(in crate::policy) fn new(sources: &[Source], data: &Value) -> Result<Self, String> {
        Self::built(sources, data, None)
    }

    /// Builds both engines for one question whose answer the probes changed: with those that do not. The engine has bugs of its own
    /// in what comprehensions may hold, and says so only when it gets there.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub(in crate::policy) fn careful(sources: &[Source], data: &Value, rule: &str, input: &Value) -> Result<Self, String> {
        Self::built(sources, data, Some((rule, input)))
    }

    fn built(sources: &[Source], data: &Value, question: Option<(&str, &Value)>) -> Result<Self, String> {
        let modules: Vec<Ref<Module>> = sources
            .iter()
            .map(|source| preflight::parse(source).map_err(|finding| finding.to_string()))
            .collect::<Result<_, _>>()?;
        let program = Program::new(&modules);
        let log = Arc::new(Log::default());
        let texts: Vec<(String, String, bool)> =
            sources.iter().map(|source| (source.file.clone(), source.text.clone(), source.v0)).collect();
        let plain = engine(&texts, data, None)?;
        let write = |depth: &dyn Fn(usize, usize) -> Depth| {
            let mut points = Vec::new();
            let written = modules.iter().zip(sources).enumerate().map(|(file, (module, source))| {
                let text = probe::write(&program, module, &source.text, source.v0, &mut points, &|rule| depth(file, rule));
                (source.file.clone(), text, source.v0)
            });
            let texts: Vec<_> = written.collect();
            (texts, points)
        };
        let build = |depth: &dyn Fn(usize, usize) -> Depth| {
            let (texts, points) = write(depth);
            engine(&texts, data, Some(&log)).map(|engine| (engine, points))
        };
        let wanted = question.map(|(rule, input)| evaluate(plain.clone(), rule, input).0);
        let answers = |engine: &regorus::Engine| match question.zip(wanted.as_ref()) {
            None => true,
            Some(((rule, input), wanted)) => {
                let mut engine = engine.clone();
                set_limit(&mut engine, TRIAL);
                evaluate(engine, rule, input).0 == *wanted
            }
        };
        let began = Instant::now();
        let built = build(&|_, _| Depth::Full).ok().filter(|(engine, _)| answers(engine));
        let (probed, points) = match built {
            Some(built) => built,
            None => {
                let takes = |file: usize, rule: Option<usize>, wanted: Depth| {
                    if began.elapsed() > TRIALS {
                        return false;
                    }
                    let meant = |f: usize, r: usize| f == file && rule.is_none_or(|rule| r == rule);
                    build(&|f, r| if meant(f, r) { wanted } else { Depth::Nothing }).is_ok_and(|(engine, _)| answers(&engine))
                };
                let depths = tried(&modules, &takes);
                build(&|file, rule| depths.get(file).and_then(|rules| rules.get(rule)).copied().unwrap_or(Depth::Nothing))?
            }
        };
        Ok(Self { plain, probed, program, points, log })
    }

    /// How long an evaluation may take from here on.
    pub(in crate::policy) fn limit(&mut self, limit: Duration) {
        set_limit(&mut self.plain, limit);
        set_limit(&mut self.probed, limit);
    }

    pub(in crate::policy) fn program(&self) -> &Program {
        &self.program
    }

    pub(in crate::policy) fn points(&self) -> &[Point] {
        &self.points
    }

    /// The rule of a canonical path.
    pub(in crate::policy) fn node(&self, rule: &str) -> Option<usize> {
        self.program.nodes.iter().position(|node| crate::policy::program::canonical(&node.path) == rule)
    }

    /// True when there were more events than are kept, in the last evaluation.
    pub(in crate::policy) fn lost(&self) -> bool {
        self.log.lost.load(Ordering::Relaxed)
    }

    /// What the policy as it stands says.
    pub(in crate::policy) fn plain(&self, rule: &str, input: &Value) -> Result<Value, EvaluationError> {
        evaluate(self.plain.clone(), rule, input).0
    }

    /// What a test says, and what it prints.
    pub(in crate::policy) fn printed(&self, rule: &str) -> (Result<Value, EvaluationError>, Vec<String>) {
        evaluate(self.plain.clone(), rule, &Value::Undefined)
    }

    /// True when the definition an event is of held and had a value.
    pub(in crate::policy) fn gave(&self, event: &Event) -> bool {
        let last = self.points.get(event.point).and_then(|point| event.prefixes.get(point.steps.len()));
        last.is_some_and(|solutions| solutions.iter().any(|values| values.iter().all(Option::is_some)))
    }

    /// What the policy says with its probes, and what they saw.
    pub(in crate::policy) fn probed(&self, rule: &str, input: &Value) -> (Result<Value, EvaluationError>, Vec<Event>) {
        self.log.lost.store(false, Ordering::Relaxed);
        self.log.events.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let value = evaluate(self.probed.clone(), rule, input).0;
        let events = std::mem::take(&mut *self.log.events.lock().unwrap_or_else(PoisonError::into_inner));
        (value, events)
    }
}

/// For each rule of each module the most its probes may tell: what the engine takes when they are the only ones, of a whole file
/// (`None`) or of one of its rules.
fn tried(modules: &[Ref<Module>], takes: &dyn Fn(usize, Option<usize>, Depth) -> bool) -> Vec<Vec<Depth>> {
    let mut left = TRIED;
    let mut one = |file: usize, rule: usize| {
        let Some(less) = left.checked_sub(1) else { return Depth::Nothing };
        left = less;
        [Depth::Full, Depth::Whole].into_iter().find(|depth| takes(file, Some(rule), *depth)).unwrap_or(Depth::Nothing)
    };
    let each = modules.iter().map(|module| module.policy.len()).enumerate();
    each.map(|(file, rules)| {
        if takes(file, None, Depth::Full) { vec![Depth::Full; rules] } else { (0..rules).map(|rule| one(file, rule)).collect() }
    })
    .collect()
}

fn engine(texts: &[(String, String, bool)], data: &Value, log: Option<&Arc<Log>>) -> Result<regorus::Engine, String> {
    let said = |error: &dyn std::fmt::Display| preflight::placed("", error).to_string();
    let mut engine = bare();
    if let Some(log) = log {
        let log = Arc::clone(log);
        let seen = move |given: Vec<Value>| {
            let mut events = log.events.lock().unwrap_or_else(PoisonError::into_inner);
            match event(&given) {
                Some(event) if events.len() < EVENTS => events.push(event),
                Some(_) | None => log.lost.store(true, Ordering::Relaxed),
            }
            Ok(Value::Bool(true))
        };
        engine.add_extension(probe::SEEN.to_owned(), 2, Box::new(seen)).map_err(|error| said(&error))?;
    }
    for (file, text, v0) in texts {
        engine.set_rego_v0(*v0);
        engine.add_policy(file.clone(), text.clone()).map_err(|error| said(&error))?;
    }
    engine.add_data(data.clone()).map_err(|error| said(&error))?;
    set_limit(&mut engine, TIME);
    // The engine analyses its modules when it is first asked anything.
    engine.eval_query("true".to_owned(), false).map_err(|error| said(&error))?;
    Ok(engine)
}

fn set_limit(engine: &mut regorus::Engine, limit: Duration) {
    if let Some(check_interval) = NonZeroU32::new(64) {
        engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval });
    }
}

fn event(given: &[Value]) -> Option<Event> {
    let [id, told] = given else { return None };
    let point = usize::try_from(id.as_u64().ok()?).ok()?;
    let told = told.as_array().ok()?;
    let arguments = told.first()?.as_array().ok()?.to_vec();
    let solution = |values: &Value| -> Option<Vec<Option<Value>>> {
        let values = values.as_array().ok()?;
        Some(values.iter().map(|caught| caught.as_array().ok().and_then(|caught| caught.first().cloned())).collect())
    };
    let solutions = |prefix: &Value| -> Option<Vec<Vec<Option<Value>>>> { prefix.as_array().ok()?.iter().map(solution).collect() };
    let all = |prefixes: &Value| -> Option<Vec<_>> { prefixes.as_array().ok()?.iter().map(solutions).collect() };
    let (prefixes, cases) = (all(told.get(1)?)?, all(told.get(2)?)?);
    Some(Event { point, arguments, prefixes, cases })
}

/// One evaluation by an engine that is thrown away, and what it printed.
fn evaluate(mut engine: regorus::Engine, rule: &str, input: &Value) -> (Result<Value, EvaluationError>, Vec<String>) {
    let judged = catch_unwind(AssertUnwindSafe(|| {
        engine.set_input(input.clone());
        // A rule with keys is none the engine knows by its name alone.
        let value = match engine.eval_rule(rule.to_owned()) {
            Err(error) if error.to_string().contains("not a valid rule path") => {
                let first = |results: regorus::QueryResults| results.result.into_iter().next()?.expressions.into_iter().next();
                let results = engine.eval_query(rule.to_owned(), false);
                results.map(|results| first(results).map_or(Value::Undefined, |expression| expression.value))
            }
            other => other,
        };
        (value, engine.take_prints().unwrap_or_default())
    }));
    match judged {
        Ok((Ok(Value::Undefined), prints)) => (Err(EvaluationError::Undefined), prints),
        Ok((Ok(value), prints)) => (Ok(value), prints),
        Ok((Err(error), prints)) => (Err(failure(error.downcast_ref::<LimitError>(), &error.to_string())), prints),
        Err(_) => {
            // Dropping what a panic left half done may panic again; nothing must come of that.
            drop(catch_unwind(AssertUnwindSafe(|| drop(engine))));
            (Err(EvaluationError::Panic("see above".to_owned())), Vec::new())
        }
    }
}
