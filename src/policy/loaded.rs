//! A policy that was loaded: it passed every check and gives each worker an engine of its own.
//!
//! In: [`Config`] and entry points. Out: a [`Policy`], or everything that is wrong with the bundles at once. What must stay true:
//! what was not read, checked and compiled as a whole is no policy.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regorus::Value;

use super::bundle::Source;
use super::bundle::signature::Signature;
use super::choice::{Chosen, choose};
use super::engine::Engine;
use super::footprint::{Footprint, Occurrence};
use super::plan::{Data, Judged, Plan};
use super::program::{Program, canonical};
use super::{Archives, Config, Entry, Finding, Report, TestChoice, mask, preflight, results, suite};

/// Of so many requests the VM judges, one is judged by the interpreter as well.
const TWICE: u32 = 1024;

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
        choose(&mut plan, &checked, &footprints, config.engine)?;
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
        Engine::new(Arc::clone(&self.plan), self.twice)
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

/// One of the policy's rules about the record, where it has it, and where it stands.
fn rule_at(program: &Program, path: [&str; 3]) -> Option<(String, Occurrence)> {
    let path = path.map(str::to_owned);
    let node = program.nodes.get(program.index_of(&path)?)?;
    Some((canonical(&path), node.place.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::engine::tests::{load, value};

    #[test]
    fn data_that_is_large_is_shared_and_the_report_says_so() {
        let row = |n: usize| format!(r#""k{n}": "{}""#, "v".repeat(1000));
        let table = |rows: usize| format!("{{\"table\": {{{}}}}}", (0..rows).map(row).collect::<Vec<_>>().join(","));
        for (rows, shared) in [(1_000, false), (18_000, true)] {
            let policy = "package a\n\ndefault r := false\n\nr if data.table[input.x]\n";
            let policy = load(&[("p.rego", policy), ("data.json", &table(rows))], &["a/r"]).unwrap();
            assert_eq!(matches!(policy.plan.data, Data::Shared(_)), shared);
            let said: String = policy.warnings().iter().map(ToString::to_string).collect();
            assert_eq!(said.contains("17MiB of JSON; above 16MiB all workers share one copy"), shared, "{said}");
            let mut engine = policy.engine().unwrap();
            let asked = value(&json!({"x": "k77"}));
            assert_eq!(engine.ask(0, asked).answer, Ok(Value::from(true)));
        }
    }
}
