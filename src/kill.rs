//! The one door of cuts: policy activation, lease, timer, certificate expiry, a policy's own `kill` and the operator meet here.
//!
//! In: a kill with its selector, or one exchange and a cause. Out: how many were cut, and whether the kill will survive a restart.
//! What must stay true: publish, scan, then store, then return. The store comes last, on a thread of its own, so that a slow disk
//! never delays a cut; if it fails the kill stands in memory and the answer says `durable: false`. Judges and state never come here.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::decision::Cause;
use crate::exchange::{Exchange, KillId, Kind, Reached, Registry, Selector, StandingKill};
use crate::metrics::Metrics;
use crate::store::{Change, Store, StoreError};
use crate::units::since_epoch;

/// How long a kill waits for workers to say that a cut has happened.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);

/// A kill to be carried out.
#[derive(Clone, Debug)]
pub struct Order {
    pub selector: Selector,
    pub reason: String,
    /// Who gives it: an operator's name, or `policy`.
    pub by: String,
    /// How long it stands; `None`: until lifted.
    pub ttl: Option<Duration>,
}

/// What a kill did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Absent when nothing stays standing: a dry run, or a kill of one exchange.
    pub id: Option<KillId>,
    /// Exchanges cut.
    pub cut: usize,
    /// Of them, those whose worker had not said within a second that it happened.
    pub pending: usize,
    pub connections_closed: usize,
    /// False when it could not be stored and would not survive a restart.
    pub durable: bool,
    pub dry_run: bool,
    /// Said where the selector reaches further than its words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why a kill was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    #[error("the selector is empty, which would be everybody; name at least one field")]
    Empty,
    #[error("ttl must be longer than zero")]
    NoTime,
}

/// See the module.
#[derive(Debug)]
pub struct Door {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    /// `None` only while the door is being dropped.
    storing: Option<mpsc::Sender<Storing>>,
    keeper: Option<JoinHandle<()>>,
}

/// A change of the store, and whom to tell how it went.
type Storing = (Change, Option<oneshot::Sender<bool>>);

/// A kill as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    selector: Selector,
    reason: String,
    by: String,
    created: u64,
    expires: Option<u64>,
}

/// What was struck, before anybody waited.
#[derive(Debug)]
struct Struck {
    id: Option<KillId>,
    exchanges: Vec<Arc<Exchange>>,
    /// Cut by somebody else and not over yet: this kill has not happened before those are.
    falling: Vec<Arc<Exchange>>,
    connections: usize,
    stored: Option<oneshot::Receiver<bool>>,
}

impl Door {
    /// Opens the door with the kills that stood before the restart.
    ///
    /// # Errors
    /// When they cannot be read: a gate that lost its kills must not start.
    pub fn open(registry: Arc<Registry>, store: Arc<Store>, metrics: Arc<Metrics>) -> Result<Self, DoorError> {
        for (id, bytes) in store.kills()? {
            let unreadable = || DoorError::Kill(id.clone());
            let uuid = id.parse().map_err(|_| unreadable())?;
            let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
            if let Some(kill) = stored.standing(KillId(uuid), SystemTime::now(), Instant::now()) {
                registry.publish(kill);
            }
        }
        metrics.kills_standing.set(i64::try_from(registry.standing().len()).unwrap_or(i64::MAX));
        let (storing, changes) = mpsc::channel();
        let keeper = std::thread::Builder::new().name("kills".to_owned()).spawn(move || keep(&store, &changes));
        Ok(Self { registry, metrics, storing: Some(storing), keeper: Some(keeper.map_err(DoorError::Thread)?) })
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Kills, and waits until what matched has stopped, or a second has passed.
    ///
    /// # Errors
    /// When the order names nobody.
    pub async fn kill(&self, order: Order) -> Result<Outcome, KillError> {
        let note = order.selector.session.is_some().then(|| {
            "a session without a task is all an identity does; it can do nothing more until this kill ends or is lifted".to_owned()
        });
        let struck = self.strike(order)?;
        let pending = pending(struck.exchanges.iter().chain(&struck.falling)).await;
        let durable = match struck.stored {
            Some(stored) => stored.await.unwrap_or(false),
            None => true,
        };
        let (id, cut) = (struck.id, struck.exchanges.len());
        Ok(Outcome { id, cut, pending, connections_closed: struck.connections, durable, dry_run: false, note })
    }

    /// Kills without waiting: for a worker, which cannot wait for itself. Returns the exchanges cut.
    ///
    /// # Errors
    /// When the order names nobody.
    pub fn kill_now(&self, order: Order) -> Result<(Option<KillId>, usize), KillError> {
        self.strike(order).map(|struck| (struck.id, struck.exchanges.len()))
    }

    /// What a kill would reach now.
    ///
    /// # Errors
    /// When the order names nobody.
    pub fn rehearse(&self, order: &Order) -> Result<Outcome, KillError> {
        check(order)?;
        let reached = self.registry.collect(|exchange| order.selector.matches(exchange) && exchange.cut.cause().is_none());
        let connections = reached.iter().filter(|exchange| exchange.kind == Kind::Connection).count();
        Ok(Outcome {
            cut: reached.len() - connections,
            connections_closed: connections,
            dry_run: true,
            durable: true,
            ..Outcome::default()
        })
    }

    /// Cuts one exchange; false when it was over already.
    pub fn cut(&self, exchange: &Exchange, cause: Cause) -> bool {
        let first = self.registry.cut(exchange, cause, None);
        if first {
            self.count(exchange, cause);
        }
        first
    }

    /// Lifts a kill; what it cut stays cut. False when no such kill stands.
    ///
    /// # Errors
    /// When it was lifted but that could not be stored: it would stand again after a restart.
    pub async fn lift(&self, id: KillId) -> Result<bool, NotStored> {
        if self.registry.standing().lift(id).is_none() {
            return Ok(false);
        }
        self.count_standing();
        let (told, stored) = oneshot::channel();
        self.keep(Change { key: id.to_string(), bytes: None }, Some(told));
        if stored.await.unwrap_or(false) { Ok(true) } else { Err(NotStored) }
    }

    /// Takes out the kills whose time is over.
    pub fn sweep(&self, now: Instant) {
        for kill in self.registry.standing().expire(now) {
            self.keep(Change { key: kill.id.to_string(), bytes: None }, None);
        }
        self.count_standing();
    }

    fn strike(&self, order: Order) -> Result<Struck, KillError> {
        check(&order)?;
        // An exchange's id never comes back, so a kill of one exchange would stand for nothing.
        let stands = order.selector.exchange.is_none();
        let id = stands.then(|| KillId(uuid::Uuid::new_v4()));
        let mut stored = None;
        if let Some(id) = id {
            let created = since_epoch(SystemTime::now()).as_secs();
            let expires = order.ttl.map(|ttl| Instant::now() + ttl);
            let kill = StandingKill {
                id,
                selector: order.selector.clone(),
                reason: order.reason.clone(),
                by: order.by.clone(),
                created,
                expires,
            };
            self.registry.publish(kill);
            self.count_standing();
            stored = Some((id, created));
        }
        let Reached { cut, mut falling } = self.registry.cut_matching(&order.selector, Cause::Kill, id);
        let (connections, exchanges): (Vec<_>, Vec<_>) = cut.into_iter().partition(|e| e.kind == Kind::Connection);
        falling.retain(|exchange| exchange.kind != Kind::Connection);
        for exchange in &exchanges {
            self.count(exchange, Cause::Kill);
        }
        let stored = stored.map(|(id, created)| self.store(id, created, order));
        Ok(Struck { id, exchanges, falling, connections: connections.len(), stored })
    }

    fn store(&self, id: KillId, created: u64, order: Order) -> oneshot::Receiver<bool> {
        let expires = order.ttl.map(|ttl| created.saturating_add(ttl.as_secs().max(1)));
        let stored = Stored { selector: order.selector, reason: order.reason, by: order.by, created, expires };
        let (told, heard) = oneshot::channel();
        // A kill that cannot be written down is told as not durable: the sender is dropped, and the receiver hears that.
        if let Ok(bytes) = serde_json::to_vec(&stored) {
            self.keep(Change { key: id.to_string(), bytes: Some(bytes) }, Some(told));
        }
        heard
    }

    fn keep(&self, change: Change, told: Option<oneshot::Sender<bool>>) {
        if let Some(storing) = &self.storing {
            // A keeper that is gone drops `told`, and whoever waits for it hears that nothing was stored.
            let _ = storing.send((change, told));
        }
    }

    fn count(&self, exchange: &Exchange, cause: Cause) {
        if let Kind::Exchange(protocol) = exchange.kind {
            self.metrics.cuts.of(cause).of(protocol).inc();
        }
    }

    fn count_standing(&self) {
        self.metrics.kills_standing.set(i64::try_from(self.registry.standing().len()).unwrap_or(i64::MAX));
    }
}

/// The state is let go of before the door is gone, so that the next gate on it can open it at once.
impl Drop for Door {
    fn drop(&mut self) {
        self.storing.take();
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has told so; there is nothing left to keep.
            let _ = keeper.join();
        }
    }
}

/// Why the gate's kills are not known.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the stored kill {0} cannot be read; restore the state from a backup, or move it away and order its kills again")]
    Kill(String),
    #[error("starting the thread that stores kills: {0}")]
    Thread(#[source] std::io::Error),
}

/// A kill was lifted in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kill is lifted, but that could not be stored: it will stand again after a restart")]
pub struct NotStored;

fn check(order: &Order) -> Result<(), KillError> {
    if order.selector.is_empty() {
        return Err(KillError::Empty);
    }
    if order.ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(KillError::NoTime);
    }
    Ok(())
}

/// How many of them are not over after the time a kill waits.
async fn pending<'e>(exchanges: impl Iterator<Item = &'e Arc<Exchange>> + Clone) -> usize {
    let all = async {
        for exchange in exchanges.clone() {
            poll_fn(|cx| exchange.cut.poll_over(cx)).await;
        }
    };
    let _ = tokio::time::timeout(ACKNOWLEDGED_WITHIN, all).await;
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    exchanges.filter(|exchange| exchange.cut.poll_over(&mut cx).is_pending()).count()
}

/// The thread that stores: whatever has gathered is one transaction, so a storm of kills costs a few syncs and not one each.
fn keep(store: &Store, changes: &mpsc::Receiver<Storing>) {
    while let Ok(first) = changes.recv() {
        let (batch, told): (Vec<_>, Vec<_>) = std::iter::once(first).chain(changes.try_iter().take(4095)).unzip();
        let kept = store.change_kills(&batch);
        if let Err(error) = &kept {
            tracing::error!(%error, kills = batch.len(), "kills stand in memory only");
        }
        for told in told.into_iter().flatten() {
            let _ = told.send(kept.is_ok());
        }
    }
}

impl Stored {
    /// `None` when its time was over before the restart.
    fn standing(self, id: KillId, wall: SystemTime, now: Instant) -> Option<StandingKill> {
        let wall = since_epoch(wall).as_secs();
        let expires = match self.expires {
            Some(expires) if expires <= wall => return None,
            Some(expires) => Some(now + Duration::from_secs(expires - wall)),
            None => None,
        };
        let Self { selector, reason, by, created, .. } = self;
        Some(StandingKill { id, selector, reason, by, created, expires })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store;

    fn door(folder: &std::path::Path) -> Door {
        let store = Arc::new(Store::open(&store::Config { directory: folder.to_owned() }).unwrap());
        Door::open(Arc::new(Registry::new(1)), store, Arc::new(Metrics::new("test").unwrap())).unwrap()
    }

    fn order(name: &str, ttl: Option<Duration>) -> Order {
        let selector = Selector { spiffe_id: Some(name.to_owned()), ..Selector::default() };
        Order { selector, reason: "test".to_owned(), by: "alice".to_owned(), ttl }
    }

    #[tokio::test]
    async fn kills_survive_a_restart_and_lifted_and_ended_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let before = door(folder.path());
        let stays = before.kill(order("spiffe://a/stays", None)).await.unwrap();
        assert!(stays.durable);
        let lifted = before.kill(order("spiffe://a/lifted", None)).await.unwrap().id.unwrap();
        assert_eq!(before.lift(lifted).await, Ok(true));
        assert_eq!(before.lift(lifted).await, Ok(false));
        let brief = before.kill(order("spiffe://a/brief", Some(Duration::from_secs(60)))).await.unwrap();
        before.sweep(Instant::now() + Duration::from_secs(61));
        assert_eq!(before.lift(brief.id.unwrap()).await, Ok(false));
        drop(before);
        let left = Store::open(&store::Config { directory: folder.path().to_owned() }).unwrap().kills().unwrap();
        assert_eq!(left.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [stays.id.unwrap().to_string()]);
        let after = door(folder.path());
        assert_eq!(after.registry().standing().all().first().map(|kill| kill.reason.clone()), Some("test".to_owned()));
    }

    #[tokio::test]
    async fn an_order_that_names_nobody_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let door = door(folder.path());
        let everybody = Order { selector: Selector::default(), ..order("", None) };
        assert_eq!(door.kill(everybody.clone()).await, Err(KillError::Empty));
        assert_eq!(door.rehearse(&everybody), Err(KillError::Empty));
        assert_eq!(door.kill(order("a", Some(Duration::ZERO))).await, Err(KillError::NoTime));
    }
}
