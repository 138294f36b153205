//! What a worker's engines are built from: the text of a checked policy, and its data.
//!
//! In: sources and data. Out: compiled engines. What must stay true: no two of them share a reference count in what they evaluate
//! (shared ones made two threads slower than one), except in data so large that copies would cost more memory than that costs time.
//!
//! Large data: each evaluation of the interpreter copies every map on the way from `data` to a rule it writes. A bundle with many
//! keys beside its rules loads with a warning; put large data under a name of its own.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use regorus::Value;
use regorus::utils::limits::ExecutionTimerConfig;
use serde_json::{Map, Value as Json};

use super::bundle::Source;
use super::fitness::Fit;
use super::footprint::Occurrence;
use super::interpreter::bare;
use super::machine::Machine;
use super::{Finding, Report, guards, preflight};
use crate::units::Size;

/// Data of more JSON text than this is shared between workers.
const SHARED_FROM: Size = Size::mib(16);

/// What an engine is built from: text, so that no two engines share a reference count in what they evaluate.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sources: Vec<Source>,
    pub(super) data: Data,
    pub(super) rules: Vec<Judged>,
    /// The rule that says what is kept out of the record.
    pub(super) mask: Option<String>,
    /// The rule that says which decisions are kept out of it whole, and where it stands.
    pub(super) drop: Option<(String, Occurrence)>,
    pub(super) time: Duration,
}

/// What stands under `data`.
#[derive(Debug)]
pub(super) enum Data {
    /// As text, of which each engine makes values of its own.
    Each(String),
    /// One for all of them: copies would cost more memory than their reference counts cost time.
    Shared(Value),
}

/// One entry point and who judges it.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) rule: String,
    /// What the VM needs to know of it, or why it is not the VM's.
    pub(super) fit: Result<Fit, String>,
    /// The two engines disagreed about a request; from then on the interpreter judges, on every worker.
    pub(super) doubted: AtomicBool,
}

impl Data {
    pub(super) fn value(&self) -> Result<Value, String> {
        match self {
            Self::Each(text) => Value::from_json_str(text).map_err(|error| error.to_string()),
            Self::Shared(value) => Ok(value.clone()),
        }
    }

    pub(super) fn of(data: Map<String, Json>, warnings: &mut Vec<Finding>) -> Result<Self, Report> {
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
    pub(super) fn build(&self) -> Result<regorus::Engine, Report> {
        let one = |finding| Report { findings: vec![finding] };
        let mut engine = bare();
        guards::extend(&mut engine).map_err(|error| one(Finding::whole("policy.bundles", error, "")))?;
        for source in &self.sources {
            engine.set_rego_v0(source.v0);
            let added = engine.add_policy(source.file.clone(), source.text.clone());
            added.map_err(|error| one(preflight::placed(&source.file, &error)))?;
        }
        let unfit = |error: &dyn std::fmt::Display| one(preflight::placed("policy.bundles", error));
        let data = self.data.value().map_err(|error| unfit(&error))?;
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

    pub(super) fn timer(&self) -> ExecutionTimerConfig {
        let check_interval = NonZeroU32::new(64).unwrap_or(NonZeroU32::MIN);
        ExecutionTimerConfig { limit: self.time, check_interval }
    }

    pub(super) fn machine(&self, data: &Value, judged: &Judged) -> Result<Machine, String> {
        Machine::new(&self.sources, data.clone(), &judged.rule, judged.fit.as_ref().map_err(Clone::clone)?, self.timer())
    }
}
