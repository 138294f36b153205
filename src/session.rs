//! Sessions: everything one workload does under one task, and what policies may know of it. Pure; time is an argument.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

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
struct Session {
    spiffe_id: Arc<str>,
    began: Instant,
    touched: Instant,
    open: usize,
    requests: u64,
    denied: u64,
    cut: u64,
    recent: VecDeque<Past>,
}

#[derive(Debug, Default)]
struct Shard {
    sessions: HashMap<String, Session>,
    /// Sessions without an open exchange, by when they were last used: the first is the one to forget.
    idle: BTreeSet<(Instant, String)>,
}

/// All sessions, in shards by id so that workers rarely meet.
#[derive(Debug)]
pub struct Sessions {
    shards: Vec<Mutex<Shard>>,
    config: Config,
    forgotten: AtomicU64,
}

const SHARDS: usize = 16;

impl Sessions {
    pub fn new(config: Config) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), config, forgotten: AtomicU64::new(0) }
    }

    /// Counts one more open exchange, and tells how the session stood before it.
    ///
    /// # Errors
    /// [`TooMany`] when `limit` exchanges are open already.
    pub fn enter(&self, id: &str, spiffe_id: &Arc<str>, now: Instant, limit: usize, recent: bool) -> Result<View, TooMany> {
        let Some(shard) = self.shard(id) else { return Ok(View::default()) };
        let mut shard = lock(shard);
        self.forget(&mut shard, now);
        if !shard.sessions.contains_key(id) {
            shard.sessions.insert(id.to_owned(), Session::new(Arc::clone(spiffe_id), now));
        }
        let Shard { sessions, idle } = &mut *shard;
        let Some(session) = sessions.get_mut(id) else { return Ok(View::default()) };
        if session.open >= limit {
            return Err(TooMany);
        }
        let view = session.view(now, recent);
        if session.open == 0 {
            idle.remove(&(session.touched, id.to_owned()));
        }
        session.open += 1;
        session.requests += 1;
        session.touched = now;
        Ok(view)
    }

    /// Remembers what became of a request.
    pub fn remember(&self, id: &str, past: Past, denied: bool) {
        self.with(id, |session| {
            session.denied += u64::from(denied);
            session.recent.push_front(past);
            session.recent.truncate(self.config.history);
        });
    }

    /// Counts a cut exchange.
    pub fn count_cut(&self, id: &str) {
        self.with(id, |session| session.cut += 1);
    }

    /// One exchange less. A session never idles out while one is open.
    pub fn leave(&self, id: &str, now: Instant) {
        let Some(shard) = self.shard(id) else { return };
        let mut shard = lock(shard);
        let Shard { sessions, idle } = &mut *shard;
        let Some(session) = sessions.get_mut(id) else { return };
        session.open = session.open.saturating_sub(1);
        session.touched = now;
        if session.open == 0 {
            idle.insert((now, id.to_owned()));
        }
    }

    /// Forgets sessions that idled too long. Called by a sweep; [`Sessions::enter`] does it for its own shard as well.
    pub fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            self.forget(&mut lock(shard), now);
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).sessions.len()).sum()
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
            rows.extend(lock(shard).sessions.iter().map(|(id, session)| session.summary(id, now)));
        }
        rows.sort_by(|a, b| (&a.spiffe_id, &a.id).cmp(&(&b.spiffe_id, &b.id)));
        rows
    }

    /// One session with what it did lately, newest first.
    pub fn detail(&self, id: &str, now: Instant) -> Option<(Summary, View)> {
        let shard = lock(self.shard(id)?);
        let session = shard.sessions.get(id)?;
        Some((session.summary(id, now), session.view(now, true)))
    }

    fn with(&self, id: &str, act: impl FnOnce(&mut Session)) {
        if let Some(session) = self.shard(id).map(lock).as_mut().and_then(|shard| shard.sessions.get_mut(id)) {
            act(session);
        }
    }

    fn shard(&self, id: &str) -> Option<&Mutex<Shard>> {
        // Ids are hashes in hex: any byte of them is as good as another hash.
        let place = id.bytes().take(2).fold(0usize, |sum, byte| sum * 16 + usize::from(byte));
        self.shards.get(place % SHARDS)
    }

    fn forget(&self, shard: &mut Shard, now: Instant) {
        let most = (self.config.max / SHARDS).max(1);
        while let Some((touched, id)) = shard.idle.first().cloned() {
            let full = shard.sessions.len() >= most;
            if !full && now.saturating_duration_since(touched) < self.config.idle_timeout.0 {
                break;
            }
            if full {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
            }
            shard.idle.pop_first();
            shard.sessions.remove(&id);
        }
    }
}

impl Session {
    fn new(spiffe_id: Arc<str>, now: Instant) -> Self {
        Self { spiffe_id, began: now, touched: now, open: 0, requests: 0, denied: 0, cut: 0, recent: VecDeque::new() }
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

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sessions(max: usize) -> Sessions {
        Sessions::new(Config { max, history: 2, ..Config::default() })
    }

    fn enter(sessions: &Sessions, name: &str, now: Instant) -> View {
        sessions.enter(&id(name, None), &Arc::from(name), now, 1000, true).unwrap()
    }

    #[test]
    fn a_task_makes_another_session_of_the_same_workload() {
        assert_eq!(id("spiffe://a/b", None), id("spiffe://a/b", None));
        assert_ne!(id("spiffe://a/b", None), id("spiffe://a/b", Some("")));
        assert_ne!(id("spiffe://a/b", Some("1")), id("spiffe://a/b", Some("2")));
        assert_eq!(id("spiffe://a/b", None).len(), 32);
    }

    #[test]
    fn a_view_shows_the_session_as_it_stood_before() {
        let (sessions, start) = (sessions(100), Instant::now());
        assert_eq!(enter(&sessions, "a", start), View::default());
        let past = |action: &str, at| Past { action: action.to_owned(), host: String::new(), verdict: "deny", at };
        for action in ["1", "2", "3"] {
            sessions.remember(&id("a", None), past(action, start), true);
        }
        let view = enter(&sessions, "a", start + Duration::from_secs(5));
        assert_eq!((view.age_seconds, view.requests, view.denied), (5, 1, 3));
        let recent: Vec<_> = view.recent.iter().map(|(past, ago)| (past.action.as_str(), *ago)).collect();
        assert_eq!(recent, [("3", 5), ("2", 5)], "newest first, bounded by the history");
    }

    #[test]
    fn a_session_with_an_open_exchange_never_idles_out() {
        let (sessions, start) = (sessions(100), Instant::now());
        enter(&sessions, "open", start);
        enter(&sessions, "idle", start);
        sessions.leave(&id("idle", None), start);
        sessions.sweep(start + Duration::from_secs(899));
        assert_eq!(sessions.len(), 2);
        sessions.sweep(start + Duration::from_secs(900));
        let left = sessions.summaries(start);
        assert_eq!(left.iter().map(|row| row.spiffe_id.as_str()).collect::<Vec<_>>(), ["open"]);
        assert_eq!(sessions.forgotten(), 0, "idling out is not being forgotten for room");
    }

    #[test]
    fn beyond_the_maximum_the_longest_idle_goes_first_and_is_counted() {
        let (sessions, start) = (sessions(SHARDS), Instant::now());
        for number in 0..200u64 {
            let name = format!("w{number}");
            enter(&sessions, &name, start + Duration::from_secs(number));
            sessions.leave(&id(&name, None), start + Duration::from_secs(number));
        }
        assert!(sessions.len() <= SHARDS, "{}", sessions.len());
        assert_eq!(sessions.forgotten() as usize, 200 - sessions.len());
    }

    #[test]
    fn an_identity_has_a_limit_of_open_exchanges() {
        let (sessions, now) = (sessions(100), Instant::now());
        let (name, key) = (Arc::from("a"), id("a", None));
        assert!(sessions.enter(&key, &name, now, 1, false).is_ok());
        assert_eq!(sessions.enter(&key, &name, now, 1, false), Err(TooMany));
        sessions.leave(&key, now);
        assert!(sessions.enter(&key, &name, now, 1, false).is_ok());
    }
}
