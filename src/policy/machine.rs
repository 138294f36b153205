//! The bytecode VM for one entry point.
//!
//! In: the policy's text and data, and what [`super::fitness`] found. Out: values, and nothing else for certain: whatever
//! is no value is asked of the interpreter again, so that a reason to deny has one author. Only the time limit ends here, because
//! asking again would double it. What must stay true: after anything but an answer the VM is made anew.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use regorus::Value;
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::vm::VmError;
use regorus::rvm::{Instruction, Program, RegoVM};
use regorus::utils::limits::ExecutionTimerConfig;

use super::bundle::Source;
use super::fitness::{Check, Fit};
use super::{builtins, guards, patterns};

/// What the VM says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Value(Value),
    Undefined,
    Timeout,
    /// The interpreter has to answer.
    Unsure,
}

pub(super) struct Machine {
    vm: RegoVM,
    program: Arc<Program>,
    data: Value,
    timer: ExecutionTimerConfig,
    checks: Vec<Check>,
    undefined_is_certain: bool,
}

impl Machine {
    /// Compiles one rule of a policy.
    ///
    /// # Errors
    /// What the VM's compiler refuses.
    pub(super) fn new(sources: &[Source], data: Value, rule: &str, fit: &Fit, timer: ExecutionTimerConfig) -> Result<Self, String> {
        let said = |error: &dyn std::fmt::Display| super::preflight::placed("", &error.to_string()).message;
        let mut engine = super::interpreter::bare();
        for source in sources {
            engine.set_rego_v0(source.v0);
            let text = fit.assignments.get(&source.file).map_or_else(|| source.text.clone(), |at| with_equals(&source.text, at));
            engine.add_policy(source.file.clone(), text).map_err(|error| said(&error))?;
        }
        let policy = engine.compile_with_entrypoint(&rule.into()).map_err(|error| said(&error))?;
        let compiled = Compiler::compile_from_policy_with_host_await(&policy, &[rule], &builtins::signatures());
        let mut program = compiled.map_err(|error| said(&error))?;
        sound(&program)?;
        let own = Arc::get_mut(&mut program).ok_or_else(|| "the compiler kept its program".to_owned())?;
        builtins::resolve(own)?;
        patterns::install(own);
        guards::install(own);
        lighten(own);
        let vm = started(&program, &data, timer).map_err(|error| error.to_string())?;
        let undefined_is_certain = fit.undefined_is_certain;
        Ok(Self { vm, program, data, timer, checks: fit.checks.clone(), undefined_is_certain })
    }

    pub(super) fn ask(&mut self, input: &Value) -> Said {
        if !self.checks.iter().all(|check| check.passes(input)) {
            return Said::Unsure;
        }
        let vm = &mut self.vm;
        let said = catch_unwind(AssertUnwindSafe(|| {
            vm.set_input(input.clone());
            vm.execute_entry_point_by_index(0)
        }));
        match said {
            Ok(Ok(Value::Undefined)) if self.undefined_is_certain => Said::Undefined,
            Ok(Ok(Value::Undefined)) => Said::Unsure,
            Ok(Ok(value)) if guards::is_too_large(&value) => Said::Unsure,
            Ok(Ok(value)) => Said::Value(value),
            Ok(Err(error)) => {
                self.renew();
                if matches!(error, VmError::TimeLimitExceeded { .. }) { Said::Timeout } else { Said::Unsure }
            }
            Err(_) => {
                self.renew();
                Said::Unsure
            }
        }
    }

    fn renew(&mut self) {
        // The same program and data were accepted before.
        if let Ok(vm) = started(&self.program, &self.data, self.timer) {
            let old = std::mem::replace(&mut self.vm, vm);
            // Dropping what a panic left half done may panic again; nothing must come of that.
            drop(catch_unwind(AssertUnwindSafe(|| drop(old))));
        }
    }
}

/// A text with `=` for `:=` at these places, and every other character where it was.
fn with_equals(text: &str, places: &BTreeSet<usize>) -> String {
    let mut written = text.to_owned();
    for place in places {
        if written.get(*place..*place + 2) == Some(":=") {
            written.replace_range(*place..*place + 2, "= ");
        }
    }
    written
}

/// Refuses what compiles and does not run as it was written; it can only be seen in the instructions.
fn sound(program: &Program) -> Result<(), String> {
    // The compiler cuts every position to 16 bits.
    if program.instructions.len() > usize::from(u16::MAX) || program.literals.len() > usize::from(u16::MAX) {
        return Err("it is longer than the VM's instructions can say".to_owned());
    }
    // A condition of a comprehension that fails outside of a loop leaves the comprehension open; the next one that fails jumps
    // back to its end, and on until the deadline. In which order conditions and loops run, only the compiler knows.
    let mut open = Vec::new();
    for (place, instruction) in program.instructions.iter().enumerate() {
        match instruction {
            Instruction::ComprehensionBegin { .. } => open.push(true),
            Instruction::LoopStart { .. } => open.push(false),
            Instruction::ComprehensionEnd {} | Instruction::LoopNext { .. } => drop(open.pop()),
            Instruction::Guard { .. } | Instruction::AssertEq { .. } if open.last() == Some(&true) => {
                let at = program.instruction_spans.get(place).and_then(Option::as_ref);
                let at = at.map_or_else(String::new, |at| format!("line {}: ", at.line));
                return Err(format!("{at}a comprehension has a condition outside of its loop; start it with `some … in`"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes off what nobody reads: the VM copies what it knows of a rule each time it calls it, also where the rule's value is at hand.
/// The names are for listings, and a list of places without `else` or without patterns to take apart says what an empty one says.
fn lighten(program: &mut Program) {
    for rule in &mut program.rule_infos {
        rule.name = String::new();
        if rule.destructuring_blocks.iter().all(Option::is_none) {
            rule.destructuring_blocks = Vec::new();
        }
        if rule.else_bodies.iter().flatten().all(|is_else| !is_else) {
            rule.else_bodies = Vec::new();
        }
        if let Some(function) = &mut rule.function_info {
            function.param_names = Vec::new();
        }
    }
}

fn started(program: &Arc<Program>, data: &Value, timer: ExecutionTimerConfig) -> Result<RegoVM, VmError> {
    let mut vm = RegoVM::new();
    vm.load_program(Arc::clone(program));
    vm.set_data(data.clone())?;
    vm.set_execution_timer_config(Some(timer));
    // regorus stops at 25,000 instructions, which a legal policy over large data passes; the deadline is the bound.
    vm.set_max_instructions(usize::MAX);
    Ok(vm)
}

#[cfg(test)]
mod tests;
