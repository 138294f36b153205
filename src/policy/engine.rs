//! The judge's engine: one worker's own copy of a checked policy.
//!
//! In: inputs. Out: values, or why there is none, and which of the two engines said so. What must stay true: undefined, an error, a
//! timeout and a panic are errors and never a value; where the VM says nothing the interpreter is asked, and one in some requests
//! is asked of both: where they differ it is denied, and the interpreter judges from then on, on every worker.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use regorus::Value;
use serde_json::{Map, Value as Json};

use super::Report;
use super::choice::agree;
use super::interpreter::Interpreter;
use super::machine::{Machine, Said};
use super::mask::{self, Masked};
use super::plan::Plan;

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
    /// Compiles a plan, and has each entry point judge once.
    ///
    /// # Errors
    /// What the engine's compiler refuses.
    pub(super) fn new(plan: Arc<Plan>, twice: NonZeroU32) -> Result<Self, Report> {
        let pristine = plan.build()?;
        let data = pristine.get_data();
        let machines = plan.rules.iter().map(|judged| plan.machine(&data, judged).ok()).collect();
        let mut engine = Self { plan, interpreter: Interpreter::new(pristine), machines, judged: 0, twice };
        for entry in 0..engine.plan.rules.len() {
            // Only the state the first evaluation leaves behind is wanted here; on an empty input any answer will do.
            drop(engine.evaluate(entry, Value::new_object()));
        }
        engine.judged = 0;
        Ok(engine)
    }

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

#[cfg(test)]
pub(crate) mod tests;
