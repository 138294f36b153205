//! Sequences: requests in an order, within a time, with other requests between them.
//!
//! In: the requests of one session, one by one. Out: the one that completes the sequence, with those before it. What must stay true:
//! it finds a sequence exactly where there is one, and keeps one partial match a step, whatever comes. One is enough: of two partial
//! matches that have come equally far, whatever completes the one that began earlier completes the later one too, and has longer time
//! for it; and what may not stand in between ends both. So the later one replaces the earlier. A test compares this with trying all.

use std::sync::Arc;

use super::{MatchConfig, SequenceConfig, StepConfig};
use crate::action::{Effect, HostPattern, PathPattern, Sensitivity};

use super::watch::{Asked, Mark};

/// A compiled sequence.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    /// In milliseconds.
    within: u64,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    matches: Matcher,
    not: Option<Matcher>,
    without: Option<Matcher>,
}

#[derive(Clone, Debug)]
struct Matcher {
    hosts: Vec<HostPattern>,
    path: Option<PathPattern>,
    methods: Vec<String>,
    resources: Vec<String>,
    sensitivities: Vec<Sensitivity>,
    effects: Vec<Effect>,
}

impl Matcher {
    fn new(config: &MatchConfig) -> Result<Self, String> {
        let hosts = config.hosts.iter().map(|host| host.parse::<HostPattern>().map_err(|error| error.to_string()));
        Ok(Self {
            hosts: hosts.collect::<Result<_, _>>()?,
            path: config.path.as_deref().map(str::parse).transpose()?,
            methods: config.methods.clone(),
            resources: config.resources.clone(),
            sensitivities: config.sensitivities.clone(),
            effects: config.effects.clone(),
        })
    }

    fn takes(&self, asked: &Asked<'_>) -> bool {
        fn any<T>(wanted: &[T], is: impl Fn(&T) -> bool) -> bool {
            wanted.is_empty() || wanted.iter().any(is)
        }
        any(&self.methods, |method| method == asked.method)
            && any(&self.hosts, |host| host.matches(asked.host))
            && self.path.as_ref().is_none_or(|path| path.matches(asked.segments))
            && any(&self.resources, |resource| resource == asked.resource)
            && any(&self.sensitivities, |sensitivity| *sensitivity == asked.sensitivity)
            && any(&self.effects, |effect| *effect == asked.effect)
    }
}

impl Step {
    fn new(config: &StepConfig) -> Result<Self, String> {
        let matcher = |config: &Option<MatchConfig>| config.as_ref().map(Matcher::new).transpose();
        Ok(Self { matches: Matcher::new(&config.r#match)?, not: matcher(&config.not)?, without: matcher(&config.without)? })
    }

    fn takes(&self, asked: &Asked<'_>) -> bool {
        self.matches.takes(asked) && !self.not.as_ref().is_some_and(|not| not.takes(asked))
    }

    fn is_broken_by(&self, asked: &Asked<'_>) -> bool {
        self.without.as_ref().is_some_and(|without| without.takes(asked))
    }
}

impl Sequence {
    /// Compiles the steps.
    ///
    /// # Errors
    /// The pattern that is none.
    pub(super) fn new(config: &SequenceConfig) -> Result<Self, String> {
        let within = u64::try_from(config.within.0.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { within, steps: config.steps.iter().map(Step::new).collect::<Result<_, _>>()? })
    }

    pub(super) const fn steps(&self) -> usize {
        self.steps.len()
    }
}

/// How far a session has come: for each step but the last, the latest partial match that ends with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    partial: Vec<Partial>,
}

/// The requests that matched so far, oldest first; empty where there is none.
type Partial = Vec<Mark>;

impl Progress {
    /// Takes one request; the whole match when it completes one. `mark` is made at most once.
    pub(super) fn take(
        &mut self,
        sequence: &Sequence,
        asked: &Asked<'_>,
        now: u64,
        mark: impl FnOnce() -> Arc<str>,
    ) -> Option<Vec<Mark>> {
        let mut made = None;
        let mut mark = Some(mark);
        let mut marked = || {
            if let Some(mark) = mark.take() {
                made = Some(Mark { exchange: asked.exchange, at: now, action: mark() });
            }
            made.clone()
        };
        let mut whole = None;
        // From the last step to the first, so that one request is never two steps.
        for (place, step) in sequence.steps.iter().enumerate().rev() {
            let before = place.checked_sub(1);
            let so_far = match before {
                None => Some(Vec::new()),
                Some(before) => self.partial.get(before).filter(|partial| fresh(partial, now, sequence.within)).cloned(),
            };
            if let Some(mut so_far) = so_far.filter(|_| step.takes(asked)) {
                so_far.reserve_exact(1);
                so_far.extend(marked());
                if place + 1 == sequence.steps.len() {
                    whole = Some(so_far);
                } else {
                    self.keep(place, so_far, sequence.steps.len());
                }
            }
            // Between two steps is after the one and before the other: this request may have been the other.
            if step.is_broken_by(asked)
                && let Some(partial) = before.and_then(|before| self.partial.get_mut(before))
            {
                partial.clear();
            }
        }
        whole
    }

    /// The partial match that has come furthest.
    pub(super) fn furthest(&self, now: u64, within: &Sequence) -> &[Mark] {
        let alive = self.partial.iter().rev().find(|partial| fresh(partial, now, within.within));
        alive.map_or(&[], Vec::as_slice)
    }

    pub(super) fn heap(&self) -> usize {
        let marks = self.partial.iter().map(|partial| partial.capacity() * size_of::<Mark>()).sum::<usize>();
        let texts = self.partial.iter().flatten().map(|mark| mark.action.len() + 16).sum::<usize>();
        self.partial.capacity() * size_of::<Partial>() + marks + texts
    }

    fn keep(&mut self, place: usize, partial: Partial, steps: usize) {
        if self.partial.is_empty() {
            self.partial = vec![Vec::new(); steps - 1];
        }
        if let Some(slot) = self.partial.get_mut(place) {
            let later = slot.first().is_none_or(|first| partial.first().is_some_and(|new| new.at >= first.at));
            if later {
                *slot = partial;
            }
        }
    }
}

fn fresh(partial: &[Mark], now: u64, within: u64) -> bool {
    partial.first().is_some_and(|first| now.saturating_sub(first.at) <= within)
}

#[cfg(test)]
mod tests;
