//! The judge's engine: a checked policy, and one independent copy of it for each worker.
//!
//! In: [`Config`] and entry points, then inputs. Out: values, or why there is none. What must stay true: undefined, an error, a
//! timeout and a panic are four errors and never a value; nothing is shared between workers (shared reference counts made two
//! threads slower than one); an evaluation that failed in any way leaves its engine to be replaced by a clone of one that never
//! judged, because regorus clears neither the rules it was in nor what `with` had put in place when it stopped (after a panic
//! the next request was seen to fail of "recursion"). No panic hook is set and no message carries values of a request: it is
//! cut before the first quote or bracket.
//!
//! Large data: each evaluation copies every map on the way from `data` to a rule it writes. A bundle with many keys beside
//! its rules loads with a warning; put large data under a name of its own.

use std::any::Any;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{LimitError, PolicyLengthConfig, Value};

use super::bundle::{self, Bounds, Source};
use super::footprint::Footprint;
use super::{Config, Entry, Finding, Report, preflight};

/// A set of bundles that passed every check; gives each worker an engine of its own.
#[derive(Debug)]
pub struct Policy {
    plan: Arc<Plan>,
    entries: Vec<Entry>,
    footprints: Vec<Footprint>,
    revisions: BTreeMap<String, String>,
    warnings: Vec<Finding>,
}

/// What an engine is built from: text, so that no two engines share a reference count in what they evaluate.
#[derive(Debug)]
struct Plan {
    sources: Vec<Source>,
    data: String,
    rules: Vec<String>,
    time: Duration,
}

impl Policy {
    /// Reads, checks and compiles the configured bundles for these entry points.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn load(config: &Config, entries: &[Entry]) -> Result<Self, Report> {
        let mut findings = Vec::new();
        let mut bundles = Vec::new();
        for (name, source) in &config.bundles {
            match bundle::read(name, &source.path, &Bounds::default()) {
                Ok(bundle) => bundles.push(bundle),
                Err(found) => findings.extend(found),
            }
        }
        if bundles.is_empty() && findings.is_empty() {
            findings.push(Finding::whole("policy.bundles", "there is no bundle", "without a policy everything is denied"));
        }
        if !findings.is_empty() {
            return Err(Report::sorted(findings));
        }
        let checked = preflight::check(&bundles, entries).map_err(Report::sorted)?;
        let footprints = checked.rules.iter().map(|(_, node)| Footprint::of(&checked.program, *node)).collect();
        let revisions = bundles.iter().map(|bundle| (bundle.name.clone(), bundle.revision.clone())).collect();
        let plan = Plan {
            sources: bundles.into_iter().flat_map(|bundle| bundle.modules).filter(|source| !source.test).collect(),
            data: serde_json::Value::Object(checked.data).to_string(),
            rules: checked.rules.into_iter().map(|(rule, _)| rule).collect(),
            time: config.limits.time.0,
        };
        let policy = Self { plan: Arc::new(plan), entries: entries.to_vec(), footprints, revisions, warnings: checked.warnings };
        // Names no scope declares are found by the engine's own compiler, so one engine is built before anybody relies on it.
        policy.engine()?;
        Ok(policy)
    }

    /// A fresh engine for one worker, compiled and warm.
    ///
    /// # Errors
    /// What the engine's compiler refuses; a policy that loaded has passed this once.
    pub fn engine(&self) -> Result<Engine, Report> {
        let plan = Arc::clone(&self.plan);
        let pristine = plan.build()?;
        let mut engine = Engine { plan, pristine, judging: None };
        for entry in 0..engine.plan.rules.len() {
            // Only the state the first evaluation leaves behind is wanted here; on an empty input any answer will do.
            drop(engine.evaluate(entry, Value::new_object()));
        }
        Ok(engine)
    }

    /// What an entry point depends on; an entry that is not there depends on nothing and never judges.
    pub fn footprint(&self, entry: usize) -> &Footprint {
        const NOTHING: &Footprint = &Footprint { paths: BTreeMap::new(), whole: false, clock: false, builtins: BTreeMap::new() };
        self.footprints.get(entry).unwrap_or(NOTHING)
    }

    /// Bundle → revision.
    pub fn revisions(&self) -> &BTreeMap<String, String> {
        &self.revisions
    }

    /// What is no mistake but should be known.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// The entry points, in the order their indexes count.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// An engine with the gate's settings and nothing in it.
pub(super) fn bare() -> regorus::Engine {
    let mut engine = regorus::Engine::new();
    engine.set_strict_builtin_errors(false);
    // What `print` says may hold anything of a request; it is gathered to keep it off stderr, and dropped.
    engine.set_gather_prints(true);
    engine.set_policy_length_config(PolicyLengthConfig {
        max_col: NonZeroU32::MAX,
        max_file_bytes: NonZeroUsize::MAX,
        max_lines: NonZeroUsize::MAX,
    });
    engine
}

impl Plan {
    fn build(&self) -> Result<regorus::Engine, Report> {
        let one = |finding| Report { findings: vec![finding] };
        let mut engine = bare();
        for source in &self.sources {
            engine.set_rego_v0(source.v0);
            let added = engine.add_policy(source.file.clone(), source.text.clone());
            added.map_err(|error| one(preflight::placed(&source.file, &error)))?;
        }
        let unfit = |error: &dyn std::fmt::Display| one(preflight::placed("policy.bundles", error));
        let data = Value::from_json_str(&self.data).map_err(|error| unfit(&error))?;
        engine.add_data(data).map_err(|error| unfit(&error))?;
        for rule in &self.rules {
            engine.compile_with_entrypoint(&rule.as_str().into()).map_err(|error| unfit(&error))?;
        }
        let check_interval = NonZeroU32::new(64).unwrap_or(NonZeroU32::MIN);
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: self.time, check_interval });
        engine.set_gather_prints(true);
        Ok(engine)
    }
}

/// One worker's own compiled policy.
pub struct Engine {
    plan: Arc<Plan>,
    /// Compiled, and never asked: what judges after a failure is a clone of it.
    pristine: regorus::Engine,
    /// `None` at first and after an evaluation that failed.
    judging: Option<regorus::Engine>,
}

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    #[error("the policy says nothing about this input")]
    Undefined,
    #[error("the policy took longer than its limit")]
    Timeout,
    #[error("the policy engine panicked: {0}")]
    Panic(String),
    #[error("the policy failed: {0}")]
    Error(String),
}

impl Engine {
    /// Judges one input by one entry point.
    ///
    /// # Errors
    /// There is no value: undefined, failed, too slow, or the engine panicked.
    pub fn evaluate(&mut self, entry: usize, input: Value) -> Result<Value, EvaluationError> {
        let Some(rule) = self.plan.rules.get(entry).cloned() else {
            return Err(EvaluationError::Error("there is no such entry point".to_owned()));
        };
        let mut engine = self.judging.take().unwrap_or_else(|| self.pristine.clone());
        let judged = catch_unwind(AssertUnwindSafe(|| {
            engine.set_input(input);
            let value = engine.eval_rule(rule);
            drop(engine.take_prints());
            value
        }));
        match judged {
            Ok(Ok(value)) => {
                self.judging = Some(engine);
                if value == Value::Undefined { Err(EvaluationError::Undefined) } else { Ok(value) }
            }
            Ok(Err(error)) => Err(failure(error.downcast_ref::<LimitError>(), &error.to_string())),
            Err(payload) => {
                // Dropping what a panic left half done may panic again; nothing must come of that.
                drop(catch_unwind(AssertUnwindSafe(|| drop(engine))));
                Err(EvaluationError::Panic(without_values(&panic_text(payload.as_ref()))))
            }
        }
    }
}

/// regorus hands a time limit on as text when it passed through a function, so its words count as well as its type.
fn failure(limit: Option<&LimitError>, said: &str) -> EvaluationError {
    if matches!(limit, Some(LimitError::TimeLimitExceeded { .. })) || said.contains("execution exceeded time limit") {
        return EvaluationError::Timeout;
    }
    let finding = preflight::placed("", &said);
    let message = without_values(&finding.message);
    if finding.line == 0 {
        EvaluationError::Error(message)
    } else {
        EvaluationError::Error(format!("{}:{}:{}: {message}", finding.file, finding.line, finding.column))
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

/// A message up to where values begin: they may be of a request.
fn without_values(message: &str) -> String {
    let end = message.find(['"', '\'', '`', '{', '[', '\n', '<']).unwrap_or(message.len());
    message.get(..end).unwrap_or_default().trim_end_matches([' ', ':']).chars().take(160).collect()
}

#[cfg(test)]
pub(super) mod tests;
