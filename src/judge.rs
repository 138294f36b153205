//! The judge: facts, input, verdict. The only room that reads policy and state together.
//!
//! In: a case. Out: a judgement, which is a deny whenever anything is unclear: no policy, undefined, error, timeout, panic, a wrong
//! type. Each worker owns one [`Judge`] with an engine of its own, so that nothing of a policy is shared between cores, and no verdict
//! mixes two generations.

pub mod answer;
pub mod bench;
pub mod body;
pub mod case;
pub mod facts;
mod networks;
pub mod reuse;
pub mod shadow;
pub mod unknown;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use regorus::Value;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::decision::{Reason, Reuse};
use crate::exchange::Registry;
use crate::policy::{Engine, Evaluation, EvaluationError, KillScope, Kind, Policy, Report};
use crate::spiffe::{Pattern, SpiffeId};
use crate::verdict::Verdict;
use case::{Case, WorkloadFacts};
use facts::Plan;
use reuse::{Found, Given};

pub use bench::{Bench, Seat};
pub use networks::{AddressLists, Networks};
pub use window::{Day, TimeWindow, minute_of_day};

/// One row of `workloads`: who owns an identity, and what it is. The first matching row counts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRule {
    pub spiffe_id: Pattern,
    pub owner: String,
    /// Such as agent, service, job.
    pub kind: String,
    /// Such as high, low.
    #[serde(default)]
    pub class: Option<String>,
    /// Whom to call, as a URL.
    #[serde(default)]
    pub contact: Option<String>,
}

/// `workloads`: the first row that matches an identity.
pub fn workload<'r>(rules: &'r [WorkloadRule], id: &SpiffeId) -> Option<WorkloadFacts<'r>> {
    rules.iter().find(|rule| rule.spiffe_id.matches(id)).map(|rule| WorkloadFacts {
        owner: &rule.owner,
        kind: &rule.kind,
        class: rule.class.as_deref(),
    })
}

/// One activated set of policy and data, as all workers know it.
#[derive(Debug)]
pub struct Generation {
    pub number: u64,
    pub policy: Arc<Policy>,
    /// One an entry of the policy.
    pub plans: Vec<Plan>,
    may_kill: Vec<KillScope>,
}

/// A worker's judge: one generation, one engine.
pub struct Judge {
    pub generation: Arc<Generation>,
    engine: Engine,
    given: Given,
}

/// What came of one question.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub verdict: Verdict,
    pub generation: u64,
    pub input: Value,
    pub answer: Option<Value>,
    /// What went wrong, for the record and the log; never for the client.
    pub fault: Option<String>,
    /// Who judged.
    pub engine: Kind,
    /// The two engines gave different answers, so the request is denied.
    pub disagreed: bool,
    /// Whether it was judged now, or was the answer to an equal question before.
    pub reuse: Reuse,
    pub took: Duration,
}

impl Judge {
    /// Asks entry point `entry` about a case.
    pub fn judge(&mut self, entry: usize, case: &Case<'_>) -> Judgement {
        let began = Instant::now();
        let input = self.generation.plans.get(entry).map_or_else(Value::new_object, |plan| plan.input(case));
        self.answer(entry, input, began)
    }

    /// A judge outside of a gate, for the commands that ask it about an input document as it stands.
    ///
    /// # Errors
    /// The findings of the compiler.
    pub fn alone(policy: &Arc<Policy>, may_kill: &[KillScope]) -> Result<Option<Self>, Report> {
        let bench = Bench::new(1, Arc::new(Registry::new(1)));
        Ok(bench.candidates(policy, may_kill, 1)?.pop())
    }

    /// Asks entry point `entry` about an input document, whoever made it.
    pub fn judge_document(&mut self, entry: usize, input: Value) -> Judgement {
        self.answer(entry, input, Instant::now())
    }

    /// Takes out of a record what the policy keeps out of it.
    ///
    /// # Errors
    /// It is not known what that is.
    pub fn mask(
        &mut self,
        event: serde_json::Map<String, serde_json::Value>,
        input: Option<serde_json::Value>,
        result: Option<serde_json::Value>,
    ) -> Result<crate::policy::Masked, String> {
        self.engine.mask(event, input, result)
    }

    /// Whether the policy keeps a decision out of the record.
    ///
    /// # Errors
    /// It has not said so: its rule failed.
    pub fn drops(&mut self, event: &serde_json::Value) -> Result<bool, String> {
        self.engine.drops(event)
    }

    /// Asks about an input document; in an equal question lies an equal answer.
    fn answer(&mut self, entry: usize, input: Value, began: Instant) -> Judgement {
        let generation = self.generation.number;
        let doubted = || self.generation.policy.is_doubted(entry);
        let (reuse, keeps) = match self.given.find(entry, &input) {
            Found::Kept(kept) if kept.engine == Kind::Interpreter || !doubted() => {
                let (verdict, answer, engine) = (kept.verdict.clone(), kept.answer.clone(), kept.engine);
                let (reuse, took) = (Reuse::Reused, began.elapsed());
                return Judgement { verdict, generation, input, answer, fault: None, engine, disagreed: false, reuse, took };
            }
            Found::Kept(_) | Found::Nothing => (Reuse::Judged, true),
            Found::Resting => (Reuse::Judged, false),
            Found::Never => (Reuse::Unfit, false),
        };
        let Evaluation { answer, by: engine } = self.engine.ask(entry, input.clone());
        let disagreed = answer == Err(EvaluationError::Disagreement);
        let (verdict, answer, fault) = self.read(entry, answer);
        // A fault is this question's alone: one that came too late on a busy machine must not answer for ten thousand others.
        if keeps && fault.is_none() {
            self.given.keep(&verdict, answer.as_ref(), engine);
        }
        Judgement { verdict, generation, input, answer, fault, engine, disagreed, reuse, took: began.elapsed() }
    }

    fn read(&self, entry: usize, answer: Result<Value, EvaluationError>) -> (Verdict, Option<Value>, Option<String>) {
        let Some(shape) = self.generation.policy.entries().get(entry).map(|entry| entry.shape) else {
            return (Verdict::deny(Reason::NoPolicy), None, Some("the policy has no such entry point".to_owned()));
        };
        match answer {
            Ok(answer) => match answer::read(&answer, shape, &self.generation.may_kill) {
                Ok(verdict) => (verdict, Some(answer), None),
                Err(error) => (Verdict::deny(Reason::VerdictType), Some(answer), Some(error.to_string())),
            },
            Err(EvaluationError::Undefined) => (Verdict::deny(Reason::Undefined), None, None),
            Err(EvaluationError::Timeout) => (Verdict::deny(Reason::PolicyTimeout), None, Some("the time limit".to_owned())),
            Err(EvaluationError::Panic(what)) => (Verdict::deny(Reason::PolicyPanic), None, Some(what)),
            Err(error @ EvaluationError::Disagreement) => (Verdict::deny(Reason::PolicyError), None, Some(error.to_string())),
            Err(EvaluationError::Error(what)) => (Verdict::deny(Reason::PolicyError), None, Some(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_engines_that_disagree_deny_the_request_and_the_interpreter_goes_on() {
        let (policy, engine) = crate::policy::engine::tests::lying(1);
        let bench = Bench::new(1, Arc::new(Registry::new(1)));
        let mut judge = bench.candidates(&Arc::new(policy), &[], 1).unwrap().remove(0);
        judge.engine = engine;
        let mut ask = || {
            let Evaluation { answer, by } = judge.engine.ask(0, Value::new_object());
            let (verdict, ..) = judge.read(0, answer);
            (verdict.reason, by)
        };
        assert_eq!(ask(), (Some(Reason::PolicyError), Kind::Vm));
        assert_eq!(ask(), (Some(Reason::Policy), Kind::Interpreter));
    }
}
