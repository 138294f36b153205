//! The registry of everything open, the standing kills, and the cut that ends one exchange.
//!
//! In: an exchange to register, a kill to publish. Out: whether it may pass, and whom a kill reached.
//! What must stay true is the order on both sides. An exchange **registers, is judged, and looks again** ([`Registry::look_again`]);
//! a kill is **published first and scans second** ([`Registry::publish`], [`Registry::cut_matching`]). Whichever comes first, one of
//! them sees the other. `tests/model` runs this very file under a model checker; that is why it knows std and nothing else.
//!
//! Why one mutex a shard and not a lock-free map: a request pays one uncontended lock (15 ns) to get in and one to get out, a kill
//! walks 100,000 entries in well under a millisecond, and the proof stays readable.

mod cut;
mod standing;

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard, atomic::AtomicU64, atomic::Ordering};
use std::net::IpAddr;
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard, atomic::AtomicU64, atomic::Ordering};
use std::time::Instant;

use crate::decision::{Cause, Protocol};

pub use cut::{Cut, Side};
pub use standing::{KillId, Selector, Standing, StandingKill};

/// The name of one exchange; its decision in the record bears the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub uuid::Uuid);

impl std::fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is on the other end of a connection, in the words kills use. Made once a connection, shared by its exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub spiffe_id: String,
    pub trust_domain: String,
    /// SHA-256 of the certificate, in hex.
    pub certificate: String,
    pub address: IpAddr,
    /// The session's id. Where no task is named it is the identity's own.
    pub session: String,
}

/// What is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connection,
    Exchange(Protocol),
}

/// Where an exchange goes.
#[derive(Clone, Debug)]
struct Goal {
    upstream: Arc<str>,
    /// Beside an agent the upstream is an entry of `destinations`, which may name many hosts; a kill may be about one.
    host: Option<Arc<str>>,
}

/// One open exchange, or the connection that carries some.
#[derive(Debug)]
pub struct Exchange {
    pub id: ExchangeId,
    pub kind: Kind,
    pub caller: Arc<Caller>,
    pub cut: Cut,
    /// Known only after routing. A mutex, not a once-cell: a scan that read it too early must be ordered before this write, so that
    /// the write in turn comes before the second look.
    upstream: Mutex<Option<Goal>>,
    generation: AtomicU64,
}

impl Exchange {
    pub fn new(id: ExchangeId, kind: Kind, caller: Arc<Caller>) -> Self {
        Self { id, kind, caller, cut: Cut::new(), upstream: Mutex::new(None), generation: AtomicU64::new(0) }
    }

    /// Names the upstream; must happen before [`Registry::look_again`].
    pub fn set_upstream(&self, upstream: Arc<str>) {
        *lock(&self.upstream) = Some(Goal { upstream, host: None });
    }

    /// Names the upstream and the host, where that says more; must happen before [`Registry::look_again`].
    pub fn set_destination(&self, upstream: Arc<str>, host: Arc<str>) {
        *lock(&self.upstream) = Some(Goal { upstream, host: Some(host) });
    }

    pub fn upstream(&self) -> Option<Arc<str>> {
        lock(&self.upstream).as_ref().map(|goal| Arc::clone(&goal.upstream))
    }

    /// The host it goes to, where the upstream is an entry that may name many.
    pub fn host(&self) -> Option<Arc<str>> {
        lock(&self.upstream).as_ref().and_then(|goal| goal.host.clone())
    }

    /// The generation that judged this exchange last; 0 before any did.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::SeqCst);
    }
}

/// Everything open, everything killed, and the number of the policy in force.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Mutex<slab::Slab<Arc<Exchange>>>]>,
    standing: Standing,
    generation: AtomicU64,
    wakes: AtomicU64,
}

/// What the second look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecondLook {
    /// Admitted: from here on the upstream may see a byte.
    Pass,
    /// A standing kill matches; the exchange has been cut by it.
    Killed(KillId),
    /// It was cut in between.
    Cut(Cause),
    /// Another generation is in force than the one that judged.
    Moved,
}

/// Whom a scan reached.
#[derive(Debug, Default)]
pub struct Reached {
    /// Cut by this scan.
    pub cut: Vec<Arc<Exchange>>,
    /// Cut by somebody else a moment before, and not acknowledged yet: a byte of theirs may still be on its way. A kill promises for
    /// all that it matches, so it waits for these too, whoever was first.
    pub falling: Vec<Arc<Exchange>>,
}

/// Keeps an exchange in the registry; dropping it takes it out and marks its end.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    shard: usize,
    key: usize,
    exchange: Arc<Exchange>,
}

impl Registry {
    /// A registry with one shard a worker.
    pub fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| Mutex::new(slab::Slab::new())).collect(),
            standing: Standing::default(),
            generation: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
        }
    }

    /// Puts an exchange where kills find it. First of all, before anything is judged.
    pub fn register(self: &Arc<Self>, shard: usize, exchange: Arc<Exchange>) -> Registered {
        let shard = shard % self.shards.len();
        let key = self.shards.get(shard).map(|slots| lock(slots).insert(Arc::clone(&exchange))).unwrap_or_default();
        Registered { registry: Arc::clone(self), shard, key, exchange }
    }

    /// Admits an exchange that generation `judged` allowed, unless a kill or an activation got in between.
    pub fn look_again(&self, exchange: &Exchange, judged: u64, now: Instant) -> SecondLook {
        exchange.set_generation(judged);
        if let Err(cause) = exchange.cut.admit() {
            return SecondLook::Cut(cause);
        }
        if let Some(kill) = self.standing.matching(exchange, now) {
            exchange.cut.cut(Cause::Kill, Some(kill));
            return SecondLook::Killed(kill);
        }
        if self.generation.load(Ordering::SeqCst) != judged {
            return SecondLook::Moved;
        }
        SecondLook::Pass
    }

    /// The kills in force.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Makes a kill known to every later look. Must come before [`Registry::cut_matching`].
    pub fn publish(&self, kill: StandingKill) {
        self.standing.publish(kill);
    }

    /// Cuts all that is open and matches, and returns all that is not over yet, so that the caller can wait for each to be
    /// acknowledged.
    pub fn cut_matching(&self, selector: &Selector, cause: Cause, kill: Option<KillId>) -> Reached {
        let mut reached = Reached::default();
        let mut matching = self.collect(|exchange| selector.matches(exchange));
        // What is on a connection goes first, so that it ends in its own way and not in its connection's.
        matching.sort_by_key(|exchange| exchange.kind == Kind::Connection);
        for exchange in matching {
            if self.cut(&exchange, cause, kill) {
                reached.cut.push(exchange);
            } else if !exchange.cut.is_over() {
                reached.falling.push(exchange);
            }
        }
        reached
    }

    /// Cuts one exchange; false when it has ended or was cut before.
    pub fn cut(&self, exchange: &Exchange, cause: Cause, kill: Option<KillId>) -> bool {
        let first = exchange.cut.cut(cause, kill);
        if first && exchange.kind != Kind::Connection {
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }
        first
    }

    /// All that is open and wanted. The locks are not held while the caller acts on it.
    pub fn collect(&self, wanted: impl Fn(&Exchange) -> bool) -> Vec<Arc<Exchange>> {
        let mut found = Vec::new();
        for slots in &self.shards {
            found.extend(lock(slots).iter().filter(|(_, exchange)| wanted(exchange)).map(|(_, exchange)| Arc::clone(exchange)));
        }
        found
    }

    /// How many exchanges were woken to be cut since the start.
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// The generation in force; 0 before the first activation.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Puts a generation in force. Whoever looks again later sees it; whoever looked before is in the registry for a scan.
    pub fn activate(&self, generation: u64) {
        self.generation.store(generation, Ordering::SeqCst);
    }
}

impl Registered {
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(slots) = self.registry.shards.get(self.shard) {
            lock(slots).try_remove(self.key);
        }
        self.exchange.cut.end();
    }
}

/// A poisoned lock is still a lock: the data behind ours is whole after every statement, and a gate that stops judging because one
/// thread panicked would fail everybody.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests;
