//! Which of the two engines judges an entry point.
//!
//! In: a checked policy. Out: for each entry point what the VM has to know of it, or why the interpreter judges. What must stay true:
//! the VM judges only what [`super::fitness`] lets it, and only where it gave the interpreter's answers to generated inputs.

use std::time::{Duration, Instant};

use regorus::Value;

use super::engine::EvaluationError;
use super::footprint::Footprint;
use super::interpreter::Interpreter;
use super::machine::{Machine, Said};
use super::plan::Plan;
use super::preflight::Checked;
use super::{EngineChoice, Report, fitness, samples};

/// How long the two engines are compared when a policy is loaded.
const COMPARED: Duration = Duration::from_millis(250);

/// Who judges an entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    Vm,
    Interpreter {
        /// Why the VM may not: a place in a bundle, and what stands there.
        why: String,
    },
}

/// Says of each entry point who judges it. The VM does where no rule can fail, and where it gave the interpreter's answers.
pub(super) fn choose(plan: &mut Plan, checked: &Checked, footprints: &[Footprint], choice: EngineChoice) -> Result<(), Report> {
    let pristine = plan.build()?;
    if choice == EngineChoice::Interpreter {
        plan.rules.iter_mut().for_each(|judged| judged.fit = Err("policy.engine says so".to_owned()));
        return Ok(());
    }
    let data = pristine.get_data();
    let mut choices = Vec::new();
    for ((judged, (_, node)), footprint) in plan.rules.iter().zip(&checked.rules).zip(footprints) {
        choices.push(match fitness::of(&checked.program, &checked.modules, &data, *node) {
            Err(unfit) => Err(unfit.to_string()),
            Ok(_) if footprint.clock => Err("it asks for the time or for chance, and the two engines would ask twice".to_owned()),
            Ok(fit) => {
                let inputs = samples::of(footprint, &plan.sources, &data, &checked.tests);
                match Machine::new(&plan.sources, data.clone(), &judged.rule, &fit, plan.timer()) {
                    Ok(machine) => compared(machine, &pristine, &judged.rule, inputs).map(|()| fit),
                    Err(why) => Err(why),
                }
            }
        });
    }
    for (judged, fit) in plan.rules.iter_mut().zip(choices) {
        judged.fit = fit;
    }
    Ok(())
}

/// Asks both engines about inputs, for a bounded time.
fn compared(mut machine: Machine, pristine: &regorus::Engine, rule: &str, inputs: Vec<Value>) -> Result<(), String> {
    let began = Instant::now();
    let mut interpreter = Interpreter::new(pristine.clone());
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
pub(super) fn agree(said: &Said, answer: &Result<Value, EvaluationError>) -> bool {
    match (said, answer) {
        (Said::Unsure | Said::Timeout, _) | (_, Err(EvaluationError::Timeout)) => true,
        (Said::Undefined, answer) => *answer == Err(EvaluationError::Undefined),
        (Said::Value(value), answer) => answer.as_ref() == Ok(value),
    }
}
