//! The judges of recorded decisions: one for each rule a log names.
//!
//! In: the new bundles, if any, and perhaps a configuration. Out: for a rule, its judge, what it reads, and what the policies could read that may
//! have judged before. What must stay true: the new policy is loaded by the gate's own code with the configuration's shapes and limits;
//! only time is given more generously, since it measures this machine and not the policy.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::failure::Failure;
use super::judging;
use super::log::Revision;
use super::table::clean;
use crate::judge::Judge;
use crate::policy::{Config, Entry, Footprint, KillScope, Policy};
use crate::units::Span;

/// More rules than this are no gate's.
const MOST: usize = 256;
/// A verdict that takes longer on this machine is an error.
const PATIENCE: Span = Span(Duration::from_secs(2));

/// See the module.
pub(super) struct Courts {
    new: Config,
    /// The configuration's own bundles.
    old: Option<Config>,
    /// Rules as the configuration's routes ask them.
    known: Vec<Entry>,
    trust: bool,
    open: BTreeMap<String, Court>,
    warnings: Vec<String>,
}

/// One rule's judge.
pub(super) struct Court {
    pub(super) entry: Entry,
    pub(super) judge: Judge,
    policy: Arc<Policy>,
    old: Option<Policy>,
}

impl Courts {
    pub(super) fn new(config: Option<&Path>, bundles: &[String], trust: bool) -> Result<Self, Failure> {
        let (mut new, old, known) = match config {
            None => (bare()?, None, Vec::new()),
            Some(path) => {
                let (config, settings) = judging::read(path)?;
                let new = config.policy.clone();
                (new, (!bundles.is_empty()).then_some(config.policy), settings.entries)
            }
        };
        for (place, bundle) in bundles.iter().enumerate() {
            let (name, path) = match bundle.split_once('=').filter(|(name, _)| !name.contains('/')) {
                Some((name, path)) => (name.to_owned(), path),
                None => (only_name(old.as_ref(), place)?, bundle.as_str()),
            };
            if old.as_ref().is_some_and(|old| !old.bundles.contains_key(&name)) {
                let names: Vec<String> = new.bundles.keys().map(|name| clean(name)).collect();
                return Err(Failure::misuse(format!("the configuration has no bundle `{}`", clean(&name)))
                    .hint(format!("there are {}", names.join(", "))));
            }
            let source = serde_json::from_value(json!({"path": path})).map_err(|error| Failure::new(error.to_string()))?;
            new.bundles.insert(name, source);
        }
        new.limits.time = new.limits.time.max(PATIENCE);
        Ok(Self { new, old, known, trust, open: BTreeMap::new(), warnings: Vec::new() })
    }

    /// The court of a rule.
    pub(super) fn of(&mut self, rule: &str) -> Result<&mut Court, Failure> {
        if !self.open.contains_key(rule) {
            let court = self.load(rule)?;
            self.open.insert(rule.to_owned(), court);
        }
        self.open.get_mut(rule).ok_or_else(|| Failure::new("there is nobody to judge"))
    }

    fn load(&mut self, rule: &str) -> Result<Court, Failure> {
        if self.open.len() >= MOST {
            return Err(Failure::new(format!("the log names more than {MOST} rules")).hint("give logs of one gate"));
        }
        let entry = self.known.iter().find(|entry| entry.decision == rule).cloned();
        let entry = entry.unwrap_or_else(|| Entry::new(rule, self.new.result));
        let entries = [entry.clone()];
        let policy = Policy::load(&self.new, &entries)
            .map_err(|report| Failure::misuse(format!("the bundle cannot judge `{}`\n{report}", clean(rule))))?;
        let policy = Arc::new(policy);
        let judge = Judge::alone(&policy, &self.new.may_kill).map_err(|report| Failure::misuse(report.to_string()))?;
        let judge = judge.ok_or_else(|| Failure::new("there is nobody to judge"))?;
        let old = self.old.as_ref().and_then(|old| match Policy::load(old, &entries) {
            Ok(policy) => Some(policy),
            Err(_) => {
                self.warnings.push(format!(
                    "the configuration's own bundles cannot judge `{}`; what they read, and the log lacks, is unknown",
                    clean(rule)
                ));
                None
            }
        });
        Ok(Court { entry, judge, policy, old })
    }

    pub(super) fn may_kill(&self) -> Vec<KillScope> {
        self.new.may_kill.clone()
    }

    pub(super) fn trust(&self) -> bool {
        self.trust
    }

    /// Name → revision of what judges now.
    pub(super) fn revisions(&self) -> BTreeMap<String, String> {
        self.open.values().next().map(|court| court.policy.revisions().clone()).unwrap_or_default()
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Court {
    /// What the new policy can read.
    pub(super) fn footprint(&self) -> &Footprint {
        self.policy.footprint(0)
    }

    /// What the policy of a line could read, where it is at hand.
    pub(super) fn judged_by(&self, bundles: &BTreeMap<String, Revision>, trust: bool) -> Option<&Footprint> {
        [Some(&*self.policy), self.old.as_ref()]
            .into_iter()
            .flatten()
            .find(|policy| is(policy, bundles, trust))
            .map(|it| it.footprint(0))
    }
}

/// True when a policy is the one of these revisions. Names are the configuration's and may be others here.
fn is(policy: &Policy, bundles: &BTreeMap<String, Revision>, trust: bool) -> bool {
    let mut then: Vec<&str> = bundles.values().map(|bundle| bundle.revision.as_str()).collect();
    let mut now: Vec<&str> = policy.revisions().values().map(String::as_str).collect();
    then.sort_unstable();
    now.sort_unstable();
    // A revision a manifest says may have stayed while the policy changed; a digest of the content cannot.
    !then.is_empty() && then == now && (trust || then.iter().all(|revision| revision.starts_with("sha256:")))
}

/// What judges where there is no configuration: kills of every scope are understood, since what they may do is not asked here.
fn bare() -> Result<Config, Failure> {
    serde_json::from_value(json!({"bundles": {}, "may_kill": ["exchange", "session", "identity"]}))
        .map_err(|error| Failure::new(error.to_string()))
}

fn only_name(old: Option<&Config>, place: usize) -> Result<String, Failure> {
    let Some(old) = old else { return Ok(format!("bundle{}", place + 1)) };
    match (old.bundles.len(), old.bundles.keys().next()) {
        (1, Some(name)) => Ok(name.clone()),
        _ => {
            let names: Vec<String> = old.bundles.keys().map(|name| format!("{}=BUNDLE", clean(name))).collect();
            Err(Failure::misuse("the configuration has several bundles; which one is it?")
                .hint(format!("write {}", names.join(" or "))))
        }
    }
}
