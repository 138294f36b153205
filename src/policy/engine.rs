//! The judge's engine: a checked policy, and one independent copy of it for each worker.
//!
//! In: [`Config`] and entry points, then inputs. Out: values, or why there is none, and which of the two engines said so. What
//! must stay true: undefined, an error, a timeout and a panic are errors and never a value; the VM judges only what
//! [`super::fitness`] lets it, and gives nothing but values; nothing is shared between workers (shared reference counts made two
//! threads slower than one). An evaluation that failed in any way leaves its interpreter to be replaced by a clone of one that
//! never judged, because regorus clears neither the rules it was in nor what `with` had put in place when it stopped (after a
//! panic the next request was seen to fail of "recursion"). No panic hook is set and no message carries values of a request: it
//! is cut before the first quote or bracket.
//!
//! Large data: each evaluation of the interpreter copies every map on the way from `data` to a rule it writes. A bundle with many
//! keys beside its rules loads with a warning; put large data under a name of its own.

use std::any::Any;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{LimitError, PolicyLengthConfig, Value};
use serde_json::{Map, Value as Json};

use super::bundle::Source;
use super::bundle::signature::Signature;
use super::fitness::{self, Fit};
use super::footprint::{Footprint, Occurrence};
use super::machine::{Machine, Said};
use super::mask::{self, Masked};
use super::preflight::Checked;
use super::program::{Program, canonical};
use super::{
    Archives, Config, EngineChoice, Entry, Finding, Report, TestChoice, builtins, guards, preflight, results, samples, suite,
};
use crate::units::Size;

/// Of so many requests the VM judges, one is judged by the interpreter as well.
const TWICE: u32 = 1024;
/// How long the two engines are compared when a policy is loaded.
const COMPARED: Duration = Duration::from_millis(250);

/// A set of bundles that passed every check; gives each worker an engine of its own.
#[derive(Debug)]
pub struct Policy {
    plan: Arc<Plan>,
    entries: Vec<Entry>,
    footprints: Vec<Footprint>,
    revisions: BTreeMap<String, String>,
    signatures: BTreeMap<String, Signature>,
    warnings: Vec<Finding>,
    twice: NonZeroU32,
    reuse: u64,
}

/// What an engine is built from: text, so that no two engines share a reference count in what they evaluate.
#[derive(Debug)]
struct Plan {
    sources: Vec<Source>,
    data: Data,
    rules: Vec<Judged>,
    /// The rule that says what is kept out of the record.
    mask: Option<String>,
    /// The rule that says which decisions are kept out of it whole, and where it stands.
    drop: Option<(String, Occurrence)>,
    time: Duration,
}

/// What stands under `data`.
#[derive(Debug)]
enum Data {
    /// As text, of which each engine makes values of its own.
    Each(String),
    /// One for all of them: copies would cost more memory than their reference counts cost time.
    Shared(Value),
}

impl Data {
    fn value(&self) -> Result<Value, String> {
        match self {
            Self::Each(text) => Value::from_json_str(text).map_err(|error| error.to_string()),
            Self::Shared(value) => Ok(value.clone()),
        }
    }
}

/// Data of more JSON text than this is shared between workers.
const SHARED_FROM: Size = Size::mib(16);

/// One entry point and who judges it.
#[derive(Debug)]
struct Judged {
    rule: String,
    /// What the VM needs to know of it, or why it is not the VM's.
    fit: Result<Fit, String>,
    /// The two engines disagreed about a request; from then on the interpreter judges, on every worker.
    doubted: AtomicBool,
}

/// One of the two engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Vm,
    Interpreter,
}

impl Kind {
    /// The word for records, metrics and operators.
    pub fn code(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Interpreter => "interpreter",
        }
    }
}

/// Who judges an entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    Vm,
    Interpreter {
        /// Why the VM may not: a place in a bundle, and what stands there.
        why: String,
    },
}

impl Policy {
    /// Reads, checks and compiles the configured bundles for these entry points; none of them is fetched from a service.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn load(config: &Config, entries: &[Entry]) -> Result<Self, Report> {
        Self::load_with(config, entries, &Archives::new())
    }

    /// The same, with what was fetched for the bundles that come from services.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn load_with(config: &Config, entries: &[Entry], archives: &Archives) -> Result<Self, Report> {
        let mut findings = Vec::new();
        let mut bundles = Vec::new();
        for (name, source) in &config.bundles {
            match source.read(name, archives) {
                Ok(mut bundle) => {
                    for module in &mut bundle.modules {
                        if let Some(text) = results::as_equations(module) {
                            module.text = text;
                        }
                    }
                    bundles.push(bundle);
                }
                Err(found) => findings.extend(found),
            }
        }
        if bundles.is_empty() && findings.is_empty() {
            findings.push(Finding::whole("policy.bundles", "there is no bundle", "without a policy everything is denied"));
        }
        if !findings.is_empty() {
            return Err(Report::sorted(findings));
        }
        let mut checked = preflight::check(&bundles, entries).map_err(Report::sorted)?;
        let footprints: Vec<Footprint> = checked.rules.iter().map(|(_, node)| Footprint::of(&checked.program, *node)).collect();
        let revisions = bundles.iter().map(|bundle| (bundle.name.clone(), bundle.revision.clone())).collect();
        let signatures = bundles.iter().filter_map(|bundle| Some((bundle.name.clone(), bundle.signature.clone()?))).collect();
        let judged = |(rule, _): &(String, usize)| Judged {
            rule: rule.clone(),
            fit: Err("it was not looked at".to_owned()),
            doubted: AtomicBool::new(false),
        };
        let tested: Option<Vec<Source>> = (config.tests == TestChoice::Require)
            .then(|| bundles.iter().flat_map(|bundle| bundle.modules.iter().cloned()).collect());
        let mut plan = Plan {
            sources: bundles.into_iter().flat_map(|bundle| bundle.modules).filter(|source| !source.test).collect(),
            data: Data::of(std::mem::take(&mut checked.data), &mut checked.warnings)?,
            rules: checked.rules.iter().map(judged).collect(),
            mask: rule_at(&checked.program, mask::RULE).map(|(rule, _)| rule),
            drop: rule_at(&checked.program, mask::DROP),
            time: config.limits.time.0,
        };
        // Names no scope declares are found by the engine's own compiler, so one engine is built before anybody relies on it.
        plan.choose(&checked, &footprints, config.engine)?;
        if let Some(modules) = tested {
            let unfit = |why: String| Report { findings: vec![Finding::whole("policy.bundles", why, "")] };
            suite::require(&modules, &plan.data.value().map_err(unfit)?, suite::PATIENCE)?;
        }
        let twice = NonZeroU32::new(TWICE).unwrap_or(NonZeroU32::MIN);
        let (entries, warnings, reuse) = (entries.to_vec(), checked.warnings, config.reuse.bytes() as u64);
        Ok(Self { plan: Arc::new(plan), entries, footprints, revisions, signatures, warnings, twice, reuse })
    }

    /// A fresh engine for one worker, compiled and warm.
    ///
    /// # Errors
    /// What the engine's compiler refuses; a policy that loaded has passed this once.
    pub fn engine(&self) -> Result<Engine, Report> {
        let plan = Arc::clone(&self.plan);
        let pristine = plan.build()?;
        let data = pristine.get_data();
        let machines = plan.rules.iter().map(|judged| plan.machine(&data, judged).ok()).collect();
        let interpreter = Interpreter { pristine, judging: None };
        let mut engine = Engine { plan, interpreter, machines, judged: 0, twice: self.twice };
        for entry in 0..engine.plan.rules.len() {
            // Only the state the first evaluation leaves behind is wanted here; on an empty input any answer will do.
            drop(engine.evaluate(entry, Value::new_object()));
        }
        engine.judged = 0;
        Ok(engine)
    }

    /// How many requests of the VM go by for one that is judged twice; 1,024 unless told.
    pub fn judge_twice_every(&mut self, requests: NonZeroU32) {
        self.twice = requests;
    }

    /// Who judges an entry point, as things stand now.
    pub fn chosen(&self, entry: usize) -> Chosen {
        let interpreter = |why: &str| Chosen::Interpreter { why: why.to_owned() };
        match self.plan.rules.get(entry) {
            None => interpreter("there is no such entry point"),
            Some(Judged { fit: Err(why), .. }) => interpreter(why),
            Some(judged) if judged.doubted.load(Ordering::Relaxed) => {
                interpreter("the two engines disagreed about a request; see the log")
            }
            Some(_) => Chosen::Vm,
        }
    }

    /// True when the engines disagreed about a request: what the VM said of this entry point before may be wrong as well.
    pub fn is_doubted(&self, entry: usize) -> bool {
        self.plan.rules.get(entry).is_none_or(|judged| judged.doubted.load(Ordering::Relaxed))
    }

    /// True when the policy has a rule that keeps something out of the record.
    pub fn masks(&self) -> bool {
        self.plan.mask.is_some()
    }

    /// True when the policy has a rule that keeps decisions out of the record.
    pub fn drops(&self) -> bool {
        self.plan.drop.is_some()
    }

    /// That the policy would keep decisions out of the record, and is not asked about it.
    pub fn ignored_drop(&self) -> Option<Finding> {
        let (_, place) = self.plan.drop.as_ref()?;
        let said = "it would keep decisions out of the record, and is not asked: every decision is recorded".to_owned();
        Some(place.finding(said, "`audit: {allow_drop: true}` lets it; the record then tells how many were dropped"))
    }

    /// How many bytes of verdicts each worker may keep.
    pub fn reuse(&self) -> u64 {
        self.reuse
    }

    /// What an entry point depends on; an entry that is not there depends on nothing and never judges.
    pub fn footprint(&self, entry: usize) -> &Footprint {
        const NOTHING: &Footprint = &Footprint { paths: BTreeMap::new(), whole: false, clock: false, builtins: BTreeMap::new() };
        self.footprints.get(entry).unwrap_or(NOTHING)
    }

    /// The rule of an entry point, as the engine names it.
    pub(super) fn rule(&self, entry: usize) -> Option<&str> {
        self.plan.rules.get(entry).map(|judged| judged.rule.as_str())
    }

    /// The text that judges.
    pub(super) fn sources(&self) -> &[Source] {
        &self.plan.sources
    }

    /// The data of all bundles.
    pub(super) fn data(&self) -> Result<Value, String> {
        self.plan.data.value()
    }

    /// Bundle → revision.
    pub fn revisions(&self) -> &BTreeMap<String, String> {
        &self.revisions
    }

    /// Bundle → its verified signature; what is not signed is not here.
    pub fn signatures(&self) -> &BTreeMap<String, Signature> {
        &self.signatures
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
    builtins::extend(&mut engine);
    engine
}

impl Data {
    fn of(data: Map<String, Json>, warnings: &mut Vec<Finding>) -> Result<Self, Report> {
        let text = serde_json::Value::Object(data).to_string();
        if text.len() <= SHARED_FROM.bytes() {
            return Ok(Self::Each(text));
        }
        let place = "policy.bundles";
        let unfit = |error: &dyn std::fmt::Display| Report { findings: vec![preflight::placed(place, error)] };
        let said = format!(
            "their data is {} of JSON; above {} all workers share one copy",
            Size::mib(text.len() as u64 >> 20),
            SHARED_FROM
        );
        warnings.push(Finding::whole(place, said, "a verdict that walks much of it is slower with many workers"));
        Value::from_json_str(&text).map(Self::Shared).map_err(|error| unfit(&error))
    }
}

impl Plan {
    fn build(&self) -> Result<regorus::Engine, Report> {
        let one = |finding| Report { findings: vec![finding] };
        let mut engine = bare();
        guards::extend(&mut engine).map_err(|error| one(Finding::whole("policy.bundles", error, "")))?;
        for source in &self.sources {
            engine.set_rego_v0(source.v0);
            let added = engine.add_policy(source.file.clone(), source.text.clone());
            added.map_err(|error| one(preflight::placed(&source.file, &error)))?;
        }
        let unfit = |error: &dyn std::fmt::Display| one(preflight::placed("policy.bundles", error));
        let data = match &self.data {
            Data::Each(text) => Value::from_json_str(text).map_err(|error| unfit(&error))?,
            Data::Shared(data) => data.clone(),
        };
        engine.add_data(data).map_err(|error| unfit(&error))?;
        for judged in &self.rules {
            engine.compile_with_entrypoint(&judged.rule.as_str().into()).map_err(|error| unfit(&error))?;
        }
        for rule in self.mask.iter().chain(self.drop.as_ref().map(|(rule, _)| rule)) {
            engine.compile_with_entrypoint(&rule.as_str().into()).map_err(|error| unfit(&error))?;
        }
        engine.set_execution_timer_config(self.timer());
        engine.set_gather_prints(true);
        Ok(engine)
    }

    fn timer(&self) -> ExecutionTimerConfig {
        let check_interval = NonZeroU32::new(64).unwrap_or(NonZeroU32::MIN);
        ExecutionTimerConfig { limit: self.time, check_interval }
    }

    fn machine(&self, data: &Value, judged: &Judged) -> Result<Machine, String> {
        Machine::new(&self.sources, data.clone(), &judged.rule, judged.fit.as_ref().map_err(Clone::clone)?, self.timer())
    }

    /// Says of each entry point who judges it. The VM does where no rule can fail, and where it gave the interpreter's answers.
    fn choose(&mut self, checked: &Checked, footprints: &[Footprint], choice: EngineChoice) -> Result<(), Report> {
        let pristine = self.build()?;
        if choice == EngineChoice::Interpreter {
            self.rules.iter_mut().for_each(|judged| judged.fit = Err("policy.engine says so".to_owned()));
            return Ok(());
        }
        let data = pristine.get_data();
        let mut choices = Vec::new();
        for ((judged, (_, node)), footprint) in self.rules.iter().zip(&checked.rules).zip(footprints) {
            choices.push(match fitness::of(&checked.program, &checked.modules, &data, *node) {
                Err(unfit) => Err(unfit.to_string()),
                Ok(_) if footprint.clock => {
                    Err("it asks for the time or for chance, and the two engines would ask twice".to_owned())
                }
                Ok(fit) => {
                    let inputs = samples::of(footprint, &self.sources, &data, &checked.tests);
                    match Machine::new(&self.sources, data.clone(), &judged.rule, &fit, self.timer()) {
                        Ok(machine) => compared(machine, &pristine, &judged.rule, inputs).map(|()| fit),
                        Err(why) => Err(why),
                    }
                }
            });
        }
        for (judged, fit) in self.rules.iter_mut().zip(choices) {
            judged.fit = fit;
        }
        Ok(())
    }
}

/// Asks both engines about inputs, for a bounded time.
fn compared(mut machine: Machine, pristine: &regorus::Engine, rule: &str, inputs: Vec<Value>) -> Result<(), String> {
    let began = Instant::now();
    let mut interpreter = Interpreter { pristine: pristine.clone(), judging: None };
    for (place, input) in inputs.into_iter().enumerate() {
        if began.elapsed() > COMPARED {
            break;
        }
        let said = machine.ask(&input);
        let answer = interpreter.evaluate(rule, input);
        let late = said == Said::Timeout && answer != Err(EvaluationError::Timeout);
        if late || !agree(&said, &answer) {
            return Err(format!("the two engines gave different answers to sample {place}"));
        }
    }
    Ok(())
}

/// True where the VM says nothing, or what the interpreter says. One that ran out of time has said nothing.
fn agree(said: &Said, answer: &Result<Value, EvaluationError>) -> bool {
    match (said, answer) {
        (Said::Unsure | Said::Timeout, _) | (_, Err(EvaluationError::Timeout)) => true,
        (Said::Undefined, answer) => *answer == Err(EvaluationError::Undefined),
        (Said::Value(value), answer) => answer.as_ref() == Ok(value),
    }
}

/// One worker's own compiled policy.
pub struct Engine {
    plan: Arc<Plan>,
    interpreter: Interpreter,
    /// One an entry point.
    machines: Vec<Option<Machine>>,
    /// By the VM.
    judged: u32,
    twice: NonZeroU32,
}

/// One answer, and whose it is.
#[derive(Debug)]
pub struct Evaluation {
    pub answer: Result<Value, EvaluationError>,
    pub by: Kind,
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
    #[error("the two policy engines gave different answers")]
    Disagreement,
}

impl Engine {
    /// Judges one input by one entry point.
    ///
    /// # Errors
    /// There is no value: undefined, failed, too slow, or the engine panicked.
    pub fn evaluate(&mut self, entry: usize, input: Value) -> Result<Value, EvaluationError> {
        self.ask(entry, input).answer
    }

    /// Takes out of a record what the policy keeps out of it; `event` is the record without them, for the rule to read.
    ///
    /// # Errors
    /// What is to be kept out is not known: the rule failed, or yields no masks. It is nothing where the rule is undefined.
    pub fn mask(&mut self, mut event: Map<String, Json>, input: Option<Json>, result: Option<Json>) -> Result<Masked, String> {
        let Some(rule) = &self.plan.mask else { return Ok(Masked { input, result, ..Masked::default() }) };
        event.extend(input.clone().map(|input| ("input".to_owned(), input)));
        event.extend(result.clone().map(|result| ("result".to_owned(), result)));
        let event = Value::from_json_str(&Json::Object(event).to_string()).map_err(|error| error.to_string())?;
        match self.interpreter.evaluate(rule, event) {
            Err(EvaluationError::Undefined) => Ok(Masked { input, result, ..Masked::default() }),
            Err(error) => Err(error.to_string()),
            Ok(rules) => mask::apply(serde_json::to_value(rules).map_err(|error| error.to_string())?, input, result),
        }
    }

    /// Whether the policy keeps a decision out of the record; `event` is the record as far as it is known. Nothing but `true` does.
    ///
    /// # Errors
    /// The rule failed, so it has not said so.
    pub fn drops(&mut self, event: &Json) -> Result<bool, String> {
        let Some((rule, _)) = &self.plan.drop else { return Ok(false) };
        let event = Value::from_json_str(&event.to_string()).map_err(|error| error.to_string())?;
        match self.interpreter.evaluate(rule, event) {
            Ok(value) => Ok(value == Value::Bool(true)),
            Err(EvaluationError::Undefined) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Judges with the VM of another policy, as a bug of it would.
    #[cfg(test)]
    pub(crate) fn lie(&mut self, other: Self) {
        self.machines = other.machines;
    }

    /// Judges one input by one entry point, and says which engine did.
    pub fn ask(&mut self, entry: usize, input: Value) -> Evaluation {
        let Some(judged) = self.plan.rules.get(entry) else {
            let why = "there is no such entry point".to_owned();
            return Evaluation { answer: Err(EvaluationError::Error(why)), by: Kind::Interpreter };
        };
        let doubted = judged.doubted.load(Ordering::Relaxed);
        let machine = self.machines.get_mut(entry).and_then(Option::as_mut).filter(|_| !doubted);
        let said = machine.map_or(Said::Unsure, |machine| machine.ask(&input));
        if said == Said::Unsure {
            return Evaluation { answer: self.interpreter.evaluate(&judged.rule, input), by: Kind::Interpreter };
        }
        let twice = self.judged.is_multiple_of(self.twice.get());
        self.judged = self.judged.wrapping_add(1);
        if twice && !agree(&said, &self.interpreter.evaluate(&judged.rule, input)) {
            judged.doubted.store(true, Ordering::Relaxed);
            return Evaluation { answer: Err(EvaluationError::Disagreement), by: Kind::Vm };
        }
        let answer = match said {
            Said::Value(value) => Ok(value),
            Said::Undefined | Said::Unsure => Err(EvaluationError::Undefined),
            Said::Timeout => Err(EvaluationError::Timeout),
        };
        Evaluation { answer, by: Kind::Vm }
    }
}

/// One of the policy's rules about the record, where it has it, and where it stands.
fn rule_at(program: &Program, path: [&str; 3]) -> Option<(String, Occurrence)> {
    let path = path.map(str::to_owned);
    let node = program.nodes.get(program.index_of(&path)?)?;
    Some((canonical(&path), node.place.clone()))
}

/// The interpreter of one worker.
struct Interpreter {
    /// Compiled, and never asked: what judges after a failure is a clone of it.
    pristine: regorus::Engine,
    /// `None` at first and after an evaluation that failed.
    judging: Option<regorus::Engine>,
}

impl Interpreter {
    fn evaluate(&mut self, rule: &str, input: Value) -> Result<Value, EvaluationError> {
        builtins::begin();
        let mut engine = self.judging.take().unwrap_or_else(|| self.pristine.clone());
        let judged = catch_unwind(AssertUnwindSafe(|| {
            engine.set_input(input);
            let value = engine.eval_rule(rule.to_owned());
            drop(engine.take_prints());
            value
        }));
        match judged {
            Ok(Ok(value)) => {
                self.judging = Some(engine);
                match value {
                    Value::Undefined => Err(EvaluationError::Undefined),
                    value if guards::is_too_large(&value) => {
                        Err(EvaluationError::Error("its answer is larger than 16 MiB".to_owned()))
                    }
                    value => Ok(value),
                }
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
pub(super) fn failure(limit: Option<&LimitError>, said: &str) -> EvaluationError {
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
pub(crate) mod tests;
