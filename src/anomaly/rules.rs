//! The rules, compiled: whom each is about, what it looks for, what it does.
//!
//! In: the configuration. Out: one immutable set that all workers share and every session points to, so that what a session remembers
//! can be read without anything else. A rule that is the same after a reload keeps what it remembers; by its print it is known again.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::sequence::Sequence;
use super::{
    Action, BurstConfig, Config, DeniedBurstConfig, EscalationConfig, FanOutConfig, FirstSeenConfig, RateConfig, RuleConfig,
    VolumeConfig, VolumeOf,
};
use crate::spiffe::{Pattern, SpiffeId};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub(super) rules: Vec<Rule>,
    pub(super) holds: Duration,
    pub(super) half_life: Duration,
    /// Which of the rules look at bytes.
    pub(super) meters: Vec<usize>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub action: Action,
    pub ttl: Option<Duration>,
    pub observe: bool,
    pub(super) score: f64,
    pub(super) kind: Kind,
    pub(super) learning: Duration,
    pub(super) print: u64,
    spiffe_ids: Vec<Pattern>,
    listeners: Vec<String>,
    routes: Vec<String>,
}

/// What a rule looks for.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Rate(RateConfig),
    Burst(BurstConfig),
    FirstSeen(FirstSeenConfig),
    Volume(VolumeConfig),
    DeniedBurst(DeniedBurstConfig),
    FanOut(FanOutConfig),
    Escalation(EscalationConfig),
    Sequence(Sequence),
}

impl Rules {
    /// Compiles the rules.
    ///
    /// # Errors
    /// Every rule that is none, each as a sentence that names it.
    pub fn new(config: &Config) -> Result<Self, Vec<String>> {
        let (mut rules, mut mistakes) = (Vec::new(), Vec::new());
        for rule in &config.rules {
            match Rule::new(rule, config) {
                Ok(rule) => rules.push(rule),
                Err(why) => mistakes.push(format!("anomaly rule `{}`: {why}", rule.name)),
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let meters = rules.iter().enumerate().filter(|(_, rule)| rule.meters().is_some()).map(|(place, _)| place).collect();
        Ok(Self { rules, holds: config.holds.0, half_life: config.half_life.0, meters })
    }

    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Every rule, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// True when some rule looks at bytes.
    pub const fn meter(&self) -> bool {
        !self.meters.is_empty()
    }

    /// True when two sets would do the same, so that what is remembered under one is right under the other.
    pub(super) fn same(&self, other: &Self) -> bool {
        let prints = |rules: &Self| rules.rules.iter().map(|rule| rule.print).collect::<Vec<_>>();
        prints(self) == prints(other)
    }
}

impl Rule {
    fn new(config: &RuleConfig, all: &Config) -> Result<Self, String> {
        let mut hasher = DefaultHasher::new();
        // Two rules that are written alike are alike; what a rule takes from beside it is part of how it is written.
        format!("{config:?} {:?}", all.learning).hash(&mut hasher);
        let kind = kind(config)?;
        let learning = match &kind {
            Kind::FirstSeen(first) => first.learning.unwrap_or(all.learning).0,
            Kind::Rate(_)
            | Kind::Burst(_)
            | Kind::Volume(_)
            | Kind::DeniedBurst(_)
            | Kind::FanOut(_)
            | Kind::Escalation(_)
            | Kind::Sequence(_) => Duration::ZERO,
        };
        Ok(Self {
            name: config.name.clone(),
            action: config.action,
            ttl: config.ttl.map(|ttl| ttl.0),
            observe: config.observe,
            score: if config.action == Action::Score { config.score.unwrap_or(1.0).clamp(0.0, 1.0) } else { 0.0 },
            kind,
            learning,
            print: hasher.finish(),
            spiffe_ids: config.spiffe_ids.clone(),
            listeners: config.listeners.clone(),
            routes: config.routes.clone(),
        })
    }

    /// True when the rule is about this identity at all.
    pub(super) fn concerns(&self, peer: &SpiffeId) -> bool {
        self.spiffe_ids.is_empty() || self.spiffe_ids.iter().any(|pattern| pattern.matches(peer))
    }

    /// True when it is about what passes here.
    pub(super) fn covers(&self, listener: &str, route: &str) -> bool {
        let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|known| known == name);
        named(&self.listeners, listener) && named(&self.routes, route)
    }

    /// Which bytes it counts.
    pub(super) const fn meters(&self) -> Option<VolumeOf> {
        match &self.kind {
            Kind::Volume(volume) => Some(volume.of),
            Kind::Rate(_)
            | Kind::Burst(_)
            | Kind::FirstSeen(_)
            | Kind::DeniedBurst(_)
            | Kind::FanOut(_)
            | Kind::Escalation(_)
            | Kind::Sequence(_) => None,
        }
    }

    /// True when it orders a kill that stands.
    pub(super) const fn kills(&self) -> bool {
        matches!(self.action, Action::KillSession | Action::KillIdentity)
    }
}

/// The one kind a rule has; the configuration's check has said so where there is none, or more than one.
fn kind(config: &RuleConfig) -> Result<Kind, String> {
    let mut kinds = Vec::new();
    kinds.extend(config.rate.map(Kind::Rate));
    kinds.extend(config.burst.map(Kind::Burst));
    kinds.extend(config.first_seen.map(Kind::FirstSeen));
    kinds.extend(config.volume.map(Kind::Volume));
    kinds.extend(config.denied_burst.map(Kind::DeniedBurst));
    kinds.extend(config.fan_out.map(Kind::FanOut));
    kinds.extend(config.escalation.map(Kind::Escalation));
    kinds.extend(config.sequence.as_ref().map(Sequence::new).transpose()?.map(Kind::Sequence));
    match (kinds.pop(), kinds.is_empty()) {
        (Some(kind), true) => Ok(kind),
        (Some(_), false) => Err("it has more than one kind; make one rule of each".to_owned()),
        (None, _) => Err("it has no kind; add one, such as `rate`".to_owned()),
    }
}

impl Kind {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Rate(_) => "rate",
            Self::Burst(_) => "burst",
            Self::FirstSeen(_) => "first_seen",
            Self::Volume(_) => "volume",
            Self::DeniedBurst(_) => "denied_burst",
            Self::FanOut(_) => "fan_out",
            Self::Escalation(_) => "escalation",
            Self::Sequence(_) => "sequence",
        }
    }
}
