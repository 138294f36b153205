//! regorus' interpreter, for one worker.
//!
//! In: a rule's path and an input. Out: its value, or why there is none. What must stay true: undefined, an error, a timeout and a
//! panic are errors and never a value. An evaluation that failed in any way leaves its engine to be replaced by a clone of one that
//! never judged, because regorus clears neither the rules it was in nor what `with` had put in place when it stopped (after a
//! panic the next request was seen to fail of "recursion"). No panic hook is set and no message carries values of a request: it
//! is cut before the first quote or bracket.

use std::any::Any;
use std::num::{NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};

use regorus::{LimitError, PolicyLengthConfig, Value};

use super::engine::EvaluationError;
use super::{builtins, guards, preflight};

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

/// The interpreter of one worker.
pub(super) struct Interpreter {
    /// Compiled, and never asked: what judges after a failure is a clone of it.
    pristine: regorus::Engine,
    /// `None` at first and after an evaluation that failed.
    judging: Option<regorus::Engine>,
}

impl Interpreter {
    /// One that judges by clones of a compiled engine.
    pub(super) fn new(pristine: regorus::Engine) -> Self {
        Self { pristine, judging: None }
    }

    pub(super) fn evaluate(&mut self, rule: &str, input: Value) -> Result<Value, EvaluationError> {
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
