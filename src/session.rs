//! Sessions: everything one workload does under one task, and what policies may know of it. Pure; time is an argument.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::units::Span;

/// `sessions`: how long and how many are remembered.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A session with no open exchange is forgotten after this.
    pub idle_timeout: Span,
    /// Recent requests remembered of each.
    pub history: usize,
    /// Sessions remembered; beyond it the longest idle one goes first.
    pub max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { idle_timeout: Span::seconds(15 * 60), history: 64, max: 100_000 }
    }
}

/// Recent request of a session, as policies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    pub action: String,
    pub host: String,
    pub verdict: &'static str,
    pub at: Instant,
}

/// What a policy may know of a session, as it stood before the exchange that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub age_seconds: u64,
    pub requests: u64,
    pub denied: u64,
    /// Newest first, with how many seconds ago.
    pub recent: Vec<(Past, u64)>,
}

/// A row for operators.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    pub id: String,
    pub spiffe_id: String,
    pub task: Option<String>,
    pub age_seconds: u64,
    pub idle_seconds: u64,
    pub open: usize,
    pub requests: u64,
    pub denied: u64,
    pub cut: u64,
}

/// Why an exchange may not join its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this identity holds its limit of open exchanges")]
pub struct TooMany;

/// The id of the session of a workload: a hash of its key, so that a killed session cannot come back under another id.
pub fn id(spiffe_id: &str, task: Option<&str>) -> String {
    let mut hash = Sha256::new();
    hash.update(spiffe_id.as_bytes());
    if let Some(task) = task {
        // A NUL cannot stand in a SPIFFE ID, so no identity and task together spell another pair.
        hash.update([0]);
        hash.update(task.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug)]
struct Session<K> {
    spiffe_id: Arc<str>,
    began: Instant,
    touched: Instant,
    open: usize,
    requests: u64,
    denied: u64,
    cut: u64,
    recent: VecDeque<Past>,
    /// It idled out, and is there only for what another room keeps with it.
    asleep: bool,
    kept: K,
}

#[derive(Debug)]
struct Shard<K> {
    sessions: HashMap<String, Session<K>>,
    /// Sessions without an open exchange, by when they were last used: the first is the one to forget.
    idle: BTreeSet<(Instant, String)>,
    /// Those that idled out. They go before any other.
    asleep: BTreeSet<(Instant, String)>,
}

/// All sessions, in shards by id so that workers rarely meet. `K` is what another room keeps with each: this one only holds it, and
/// keeps it for a while longer than the session, so that what was learned of an identity is not unlearned by a coffee break.
#[derive(Debug)]
pub struct Sessions<K> {
    shards: Vec<Mutex<Shard<K>>>,
    config: Config,
    /// How long `K` outlives an idle session, in milliseconds.
    keeps: AtomicU64,
    forgotten: AtomicU64,
}

const SHARDS: usize = 16;

impl<K: Clone> Sessions<K> {
    pub fn new(config: Config) -> Self {
        let shard = || Mutex::new(Shard { sessions: HashMap::new(), idle: BTreeSet::new(), asleep: BTreeSet::new() });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), config, keeps: AtomicU64::new(0), forgotten: AtomicU64::new(0) }
    }

    /// Says how long what is kept with a session outlives it.
    pub fn keep_for(&self, time: Duration) {
        self.keeps.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts one more open exchange, and tells how the session stood before it, with what is kept with it; `keep` makes that of a
    /// session that is new.
    ///
    /// # Errors
    /// [`TooMany`] when `limit` exchanges are open already.
    pub fn enter(
        &self,
        id: &str,
        spiffe_id: &Arc<str>,
        now: Instant,
        (limit, recent): (usize, bool),
        keep: impl FnOnce() -> K,
    ) -> Result<(View, K), TooMany> {
        let Some(shard) = self.shard(id) else { return Ok((View::default(), keep())) };
        let mut shard = lock(shard);
        if shard.sessions.get(id).is_some_and(|session| session.open >= limit) {
            return Err(TooMany);
        }
        // Out of the lines before anybody makes room: the session that enters is not the one to forget.
        let known = shard.wake(id, now, self.config.idle_timeout.0);
        self.forget(&mut shard, now, !known);
        let session = match shard.sessions.entry(id.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(room) => room.insert(Session::new(Arc::clone(spiffe_id), now, keep())),
        };
        let view = session.view(now, recent);
        session.open += 1;
        session.requests += 1;
        session.touched = now;
        Ok((view, session.kept.clone()))
    }

    /// One exchange less, and what became of it. A session never idles out while one is open.
    pub fn leave(&self, id: &str, past: Option<Past>, cut: bool, now: Instant) {
        let Some(shard) = self.shard(id) else { return };
        let mut shard = lock(shard);
        let Shard { sessions, idle, .. } = &mut *shard;
        let Some(session) = sessions.get_mut(id) else { return };
        if let Some(past) = past {
            session.denied += u64::from(past.verdict != "allow");
            session.recent.push_front(past);
            session.recent.truncate(self.config.history);
        }
        session.cut += u64::from(cut);
        session.open = session.open.saturating_sub(1);
        session.touched = now;
        if session.open == 0 {
            idle.insert((now, id.to_owned()));
        }
    }

    /// Forgets sessions that idled too long. Called by a sweep; [`Sessions::enter`] does it for its own shard as well.
    pub fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            self.forget(&mut lock(shard), now, false);
        }
    }

    pub fn len(&self) -> usize {
        let awake = |shard: &Mutex<Shard<K>>| {
            let shard = lock(shard);
            shard.sessions.len() - shard.asleep.len()
        };
        self.shards.iter().map(awake).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions forgotten to make room for others, since the start.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Rows for operators, sorted by SPIFFE ID.
    pub fn summaries(&self, now: Instant) -> Vec<Summary> {
        let mut rows: Vec<Summary> = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let awake = shard.sessions.iter().filter(|(_, session)| !session.asleep);
            rows.extend(awake.map(|(id, session)| session.summary(id, now)));
        }
        rows.sort_by(|a, b| (&a.spiffe_id, &a.id).cmp(&(&b.spiffe_id, &b.id)));
        rows
    }

    /// One session with what it did lately, newest first.
    pub fn detail(&self, id: &str, now: Instant) -> Option<(Summary, View)> {
        let shard = lock(self.shard(id)?);
        let session = shard.sessions.get(id).filter(|session| !session.asleep)?;
        Some((session.summary(id, now), session.view(now, true)))
    }

    /// What is kept with a session, and whose it is; also of one that idled out.
    pub fn kept(&self, id: &str) -> Option<(Arc<str>, K)> {
        let shard = lock(self.shard(id)?);
        let session = shard.sessions.get(id)?;
        Some((Arc::clone(&session.spiffe_id), session.kept.clone()))
    }

    fn shard(&self, id: &str) -> Option<&Mutex<Shard<K>>> {
        // Ids are hashes in hex: any digit of them is as good as another hash.
        let place = id.chars().take(2).fold(0, |sum, digit| sum * 16 + digit.to_digit(16).unwrap_or_default());
        self.shards.get(usize::try_from(place).unwrap_or_default() % SHARDS)
    }

    /// Lets go of what idled too long, and where `room` is asked for of what idles longest until there is some.
    fn forget(&self, shard: &mut Shard<K>, now: Instant, room: bool) {
        let keeps = Duration::from_millis(self.keeps.load(Ordering::Relaxed));
        let past = |touched: Instant, time: Duration| now.saturating_duration_since(touched) >= time;
        while shard.idle.first().is_some_and(|(touched, _)| past(*touched, self.config.idle_timeout.0)) {
            let Some(place) = shard.idle.pop_first() else { break };
            if let Some(session) = shard.sessions.get_mut(&place.1) {
                session.fall_asleep();
                shard.asleep.insert(place);
            }
        }
        while shard.asleep.first().is_some_and(|(touched, _)| past(*touched, self.config.idle_timeout.0.saturating_add(keeps))) {
            let Some((_, id)) = shard.asleep.pop_first() else { break };
            shard.sessions.remove(&id);
        }
        let most = (self.config.max / SHARDS).max(1);
        while room && shard.sessions.len() >= most {
            let Some((_, id)) = shard.asleep.pop_first().or_else(|| {
                self.forgotten.fetch_add(u64::from(!shard.idle.is_empty()), Ordering::Relaxed);
                shard.idle.pop_first()
            }) else {
                break;
            };
            shard.sessions.remove(&id);
        }
    }
}

impl<K> Shard<K> {
    /// Takes a session that is there out of the lines of those that wait to be forgotten; one that idled out begins anew.
    fn wake(&mut self, id: &str, now: Instant, idle_timeout: Duration) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if session.open == 0 {
            let place = (session.touched, id.to_owned());
            self.idle.remove(&place);
            self.asleep.remove(&place);
            if session.asleep || now.saturating_duration_since(session.touched) >= idle_timeout {
                session.fall_asleep();
                (session.asleep, session.began) = (false, now);
            }
        }
        true
    }
}

impl<K> Session<K> {
    const fn new(spiffe_id: Arc<str>, now: Instant, kept: K) -> Self {
        let recent = VecDeque::new();
        Self { spiffe_id, began: now, touched: now, open: 0, requests: 0, denied: 0, cut: 0, recent, asleep: false, kept }
    }

    /// It is over; only what is kept with it stays.
    fn fall_asleep(&mut self) {
        (self.requests, self.denied, self.cut, self.asleep) = (0, 0, 0, true);
        self.recent = VecDeque::new();
    }

    fn view(&self, now: Instant, recent: bool) -> View {
        let since = |at: Instant| now.saturating_duration_since(at).as_secs();
        let recent = if recent { self.recent.iter().map(|past| (past.clone(), since(past.at))).collect() } else { Vec::new() };
        View { age_seconds: since(self.began), requests: self.requests, denied: self.denied, recent }
    }

    fn summary(&self, id: &str, now: Instant) -> Summary {
        Summary {
            id: id.to_owned(),
            spiffe_id: self.spiffe_id.to_string(),
            task: None,
            age_seconds: now.saturating_duration_since(self.began).as_secs(),
            idle_seconds: if self.open > 0 { 0 } else { now.saturating_duration_since(self.touched).as_secs() },
            open: self.open,
            requests: self.requests,
            denied: self.denied,
            cut: self.cut,
        }
    }
}

fn lock<K>(shard: &Mutex<Shard<K>>) -> MutexGuard<'_, Shard<K>> {
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
