//! The watch over one session: every rule's memory of it, what fired lately and on what evidence, and what policies read of that.
//!
//! In: requests when they are asked, denials, bytes while they flow. Out: the rules that fired, to be acted on by whoever asked. One
//! watch a session behind one lock of its own: the sessions' table is not held while rules are looked at, and bytes find their watch
//! without looking for their session.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Action;
use super::VolumeOf;
use super::memory::{Memory, Now, Why};
use super::rules::{Rule, Rules};
use crate::action::{Effect, Sensitivity};
use crate::exchange::ExchangeId;
use crate::spiffe::SpiffeId;

/// Which way bytes flow.
pub type Direction = VolumeOf;

/// A request as the rules see it: in its one form, and before the policy rewrites it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub peer: &'a SpiffeId,
    pub exchange: ExchangeId,
    pub at: Where<'a>,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub segments: &'a [String],
    pub resource: &'a str,
    pub sensitivity: Sensitivity,
    pub effect: Effect,
}

/// Where something passes.
#[derive(Clone, Copy, Debug)]
pub struct Where<'a> {
    pub listener: &'a str,
    pub route: &'a str,
    /// False on a route that only observes: there rules fire, and do nothing.
    pub enforced: bool,
}

impl Asked<'_> {
    /// The request in a few words.
    pub(super) fn told(&self) -> String {
        short(&format!("{} {}{}", self.method, self.host, self.path))
    }
}

/// A text that is kept: bounded, since whoever calls chooses it.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A request that is evidence.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) exchange: ExchangeId,
    /// In milliseconds since the session's watch began.
    pub(super) at: u64,
    pub(super) action: Arc<str>,
}

/// A rule that fired: what is to be done, and why.
#[derive(Clone, Debug)]
pub struct Fired {
    pub rule: String,
    /// What is to be done; `None` when it was only observed.
    pub action: Option<Action>,
    pub ttl: Option<Duration>,
    pub why: String,
}

/// What came of an event.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub fired: Vec<Fired>,
    /// What policies read of the session is another than before.
    pub changed: bool,
}

/// What policies read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// From 0 to 1, to two decimals.
    pub score: f64,
    /// Rules that fired and still count.
    pub rules: Vec<String>,
    pub learning: bool,
}

/// See the module. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) rules: Arc<Rules>,
    pub(super) began: Instant,
    keys: RandomState,
    pub(super) kept: Box<[Kept]>,
    /// Newest last.
    pub(super) firings: VecDeque<Firing>,
}

/// What is kept of one rule.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    since: Instant,
    pub(super) memory: Memory,
    pub(super) fired: u64,
    /// When it last fired and was not only observed.
    counts_since: Option<Instant>,
}

/// One firing, or several of one rule with no other between them.
#[derive(Clone, Debug)]
pub(super) struct Firing {
    pub(super) rule: String,
    pub(super) action: &'static str,
    pub(super) times: u64,
    pub(super) at: Instant,
    pub(super) exchange: ExchangeId,
    pub(super) request: Option<String>,
    pub(super) why: String,
    pub(super) marks: Vec<Mark>,
}

/// Firings remembered of each session.
const FIRINGS: usize = 8;
/// After this many half-lives a rule that fired counts no more.
const FADED: f64 = 6.0;

impl Watch {
    /// Begins to watch a session.
    pub fn new(rules: &Arc<Rules>, peer: &SpiffeId, now: Instant, keys: RandomState) -> Self {
        let kept = rules.rules.iter().map(|rule| Kept::new(rule, peer, now)).collect();
        let state = State { rules: Arc::clone(rules), began: now, keys, kept, firings: VecDeque::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Counts a request that is asked.
    pub fn asked(&self, rules: &Arc<Rules>, asked: &Asked<'_>, now: Instant) -> Found {
        let mut state = self.lock();
        if !Arc::ptr_eq(&state.rules, rules) {
            state.follow(rules, asked.peer, now);
        }
        let about = (asked.at, asked.exchange);
        state.each(
            about,
            now,
            || Some(asked.told()),
            |rule, kept, at, keys| {
                let learning = kept.is_learning(rule, now);
                kept.memory.asked(rule, asked, at, learning, keys)
            },
        )
    }

    /// Counts a denial.
    pub fn denied(&self, place: Where<'_>, exchange: ExchangeId, now: Instant) -> Found {
        self.lock().each((place, exchange), now, || None, |rule, kept, at, _| kept.memory.denied(rule, at))
    }

    /// Counts bytes that are about to pass.
    pub fn moved(&self, place: Where<'_>, exchange: ExchangeId, way: Direction, bytes: u64, now: Instant) -> Found {
        self.lock().each(
            (place, exchange),
            now,
            || None,
            |rule, kept, at, _| match rule.meters() {
                Some(of) if of == way => kept.memory.moved(rule, bytes, at),
                Some(_) | None => None,
            },
        )
    }

    /// What policies read now.
    pub fn reading(&self, now: Instant) -> Reading {
        self.lock().reading(now)
    }

    /// Bytes this session's watch holds, all told.
    pub fn size(&self) -> usize {
        let state = self.lock();
        let firing = |firing: &Firing| {
            let texts = firing.rule.len() + firing.why.len() + firing.request.as_ref().map_or(0, String::len);
            texts + firing.marks.iter().map(|mark| size_of::<Mark>() + mark.action.len()).sum::<usize>()
        };
        size_of::<Mutex<State>>()
            + state.kept.iter().map(|kept| size_of::<Kept>() + kept.memory.heap()).sum::<usize>()
            + state.firings.capacity() * size_of::<Firing>()
            + state.firings.iter().map(firing).sum::<usize>()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Goes over to other rules. A rule that is the same keeps what it remembers.
    fn follow(&mut self, rules: &Arc<Rules>, peer: &SpiffeId, now: Instant) {
        if !self.rules.same(rules) {
            let before = std::mem::take(&mut self.kept);
            let known = |rule: &Rule| self.rules.rules.iter().position(|old| old.print == rule.print);
            let kept = |rule: &Rule| known(rule).and_then(|place| before.get(place)).cloned();
            self.kept = rules.rules.iter().map(|rule| kept(rule).unwrap_or_else(|| Kept::new(rule, peer, now))).collect();
        }
        self.rules = Arc::clone(rules);
    }

    /// Shows an event to every rule that covers where it happened.
    fn each(
        &mut self,
        (place, exchange): (Where<'_>, ExchangeId),
        now: Instant,
        request: impl Fn() -> Option<String>,
        mut take: impl FnMut(&Rule, &mut Kept, Now, &RandomState) -> Option<Why>,
    ) -> Found {
        let (at, mut found) = (self.at(now), Found::default());
        for (rule, kept) in self.rules.rules.iter().zip(&mut self.kept) {
            if matches!(kept.memory, Memory::Elsewhere) || !rule.covers(place.listener, place.route) {
                continue;
            }
            let Some(why) = take(rule, kept, at, &self.keys) else { continue };
            let acts = place.enforced && !rule.observe;
            kept.fired += 1;
            if acts {
                found.changed |= kept.share(&self.rules, now) < 1.0;
                kept.counts_since = Some(now);
                if rule.kills() {
                    kept.memory.start_anew();
                }
            }
            let action = if acts { rule.action.code() } else { "observe" };
            let text = why.text.clone();
            let firing = Firing {
                rule: rule.name.clone(),
                action,
                times: 1,
                at: now,
                exchange,
                request: request(),
                why: why.text,
                marks: why.marks,
            };
            remember(&mut self.firings, firing);
            found.fired.push(Fired { rule: rule.name.clone(), action: acts.then_some(rule.action), ttl: rule.ttl, why: text });
        }
        found
    }

    pub(super) fn at(&self, now: Instant) -> Now {
        let since = now.saturating_duration_since(self.began);
        Now {
            millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            nanos: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn reading(&self, now: Instant) -> Reading {
        let mut reading = Reading::default();
        let mut calm = 1.0;
        for (rule, kept) in self.rules.rules.iter().zip(&self.kept) {
            reading.learning |= kept.is_learning(rule, now);
            let share = kept.share(&self.rules, now);
            if share > 0.0 {
                calm *= 1.0 - rule.score * share;
                reading.rules.push(rule.name.clone());
            }
        }
        // Two decimals: what no policy compares must not make two equal verdicts differ.
        reading.score = ((1.0 - calm) * 100.0).round() / 100.0;
        reading
    }
}

/// A storm of one rule is one firing that happened often: it must not push the others out.
fn remember(firings: &mut VecDeque<Firing>, firing: Firing) {
    if let Some(last) = firings.back_mut().filter(|last| last.rule == firing.rule && last.action == firing.action) {
        *last = Firing { times: last.times + 1, ..firing };
        return;
    }
    if firings.len() == FIRINGS {
        firings.pop_front();
    }
    firings.push_back(firing);
}

impl Kept {
    fn new(rule: &Rule, peer: &SpiffeId, now: Instant) -> Self {
        let memory = if rule.concerns(peer) { Memory::new(rule) } else { Memory::Elsewhere };
        Self { since: now, memory, fired: 0, counts_since: None }
    }

    fn is_learning(&self, rule: &Rule, now: Instant) -> bool {
        self.learns_for(rule, now).is_some()
    }

    /// How long it will still learn.
    pub(super) fn learns_for(&self, rule: &Rule, now: Instant) -> Option<Duration> {
        let left = rule.learning.saturating_sub(now.saturating_duration_since(self.since));
        (!left.is_zero() && !matches!(self.memory, Memory::Elsewhere)).then_some(left)
    }

    /// How much of its score counts: all while it holds, then half of it each half-life, and nothing in the end.
    pub(super) fn share(&self, rules: &Rules, now: Instant) -> f64 {
        let Some(since) = self.counts_since else { return 0.0 };
        let past = now.saturating_duration_since(since).saturating_sub(rules.holds);
        let half_lives = past.as_secs_f64() / rules.half_life.as_secs_f64().max(0.001);
        if half_lives >= FADED { 0.0 } else { 0.5_f64.powf(half_lives) }
    }
}
