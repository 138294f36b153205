//! What one worker works with, and what all of them share.
//!
//! Everything a request touches belongs to its worker alone: judge, settings, upstream pool, the list of what is open. What is
//! shared is written to (record, metrics), counted (sessions), or read by kills (the registry).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use regorus::Value;
use tokio::sync::Notify;

use super::flow::Upload;
use super::open::Open;
use super::settings::Settings;
use super::shadow::Desk;
use crate::anomaly::Watch;
use crate::audit::Audit;
use crate::destination::Resolver;
use crate::exchange::Registry;
use crate::judge::case::Case;
use crate::judge::shadow::Shadow;
use crate::judge::{Generation, Judge, Judgement, Seat};
use crate::kill::Door;
use crate::metrics::Metrics;
use crate::session::Sessions;
use crate::tls::Holder;
use crate::upstream::Pool;

/// What all workers share.
#[derive(Debug)]
pub struct Services {
    pub registry: Arc<Registry>,
    pub door: Arc<Door>,
    pub sessions: Arc<Sessions<Watch>>,
    /// Who we are, to upstreams.
    pub holder: Arc<Holder>,
    pub audit: Audit,
    pub metrics: Arc<Metrics>,
    pub settings: Mutex<Published>,
    /// Bytes of bodies kept for open exchanges.
    pub retained: AtomicU64,
    /// One a worker.
    pub stirred: Vec<Stirred>,
    /// The gate answers: a policy is in force and nobody drains it.
    pub ready: AtomicBool,
    /// A bundle in force was not confirmed by its service for too long: nothing is admitted.
    pub stale: AtomicBool,
    /// The sockets of the gate itself, once they are bound: nobody is forwarded to them.
    pub own: OnceLock<Vec<SocketAddr>>,
    /// The gate has an SVID of its own that is valid; set by the control thread, within a second.
    pub identified: AtomicBool,
    /// A second policy, and what came of comparing it with the one in force.
    pub shadow: Arc<Shadow>,
    /// Where judges of old generations go to be freed; data of 50 MB must not be freed between two requests.
    pub retired: Mutex<Sender<Judge>>,
}

/// Sessions of which policies read something else than before: what is open of them on one worker is to be judged again.
#[derive(Debug, Default)]
pub struct Stirred {
    sessions: Mutex<BTreeSet<String>>,
    told: Notify,
}

impl Stirred {
    /// The sessions, once there are any.
    pub async fn next(&self) -> BTreeSet<String> {
        self.told.notified().await;
        std::mem::take(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The settings in force, and those before them: until its own judge has gone, a worker may be asked about a generation before.
#[derive(Debug)]
pub struct Published {
    current: Arc<Settings>,
    /// The first generation that judges by them.
    since: u64,
    previous: Arc<Settings>,
}

impl Published {
    pub fn new(settings: Settings) -> Self {
        let current = Arc::new(settings);
        Self { previous: Arc::clone(&current), current, since: 0 }
    }
}

impl Services {
    /// The sockets of the gate itself.
    pub fn own(&self) -> &[SocketAddr] {
        self.own.get().map_or(&[], Vec::as_slice)
    }

    /// The newest settings.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.published().current)
    }

    /// Has what is open of a session judged again, on every worker.
    pub(super) fn stir(&self, session: &str) {
        for stirred in &self.stirred {
            stirred.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(session.to_owned());
            stirred.told.notify_one();
        }
    }

    /// The settings a generation judges by. Its policy counts entry points as they do, and no others.
    fn settings_of(&self, generation: u64) -> Arc<Settings> {
        let published = self.published();
        Arc::clone(if generation >= published.since { &published.current } else { &published.previous })
    }

    /// Publishes settings; must come before the generation that is the first to judge by them is put in force.
    pub fn publish_settings(&self, settings: Settings, since: u64) {
        let mut published = self.published();
        let previous = Arc::clone(&published.current);
        *published = Published { current: Arc::new(settings), since, previous };
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self, judges: impl IntoIterator<Item = Judge>) {
        for judge in judges {
            // Without a reaper (the gate is going down) it is freed here, which costs time and nothing else.
            let _ = self.retired.lock().unwrap_or_else(PoisonError::into_inner).send(judge);
        }
    }
}

/// See the module.
pub struct Worker {
    pub services: Arc<Services>,
    /// Its shard of the registry.
    pub index: usize,
    seat: Arc<Seat>,
    judge: RefCell<Option<Judge>>,
    shadow: RefCell<Option<Judge>>,
    pub(super) desk: Desk,
    settings: RefCell<Rc<Settings>>,
    pub pool: Pool<Upload>,
    pub resolver: Resolver,
    /// Moved by the sweep, read by whoever needs no better than its tick.
    pub clock: Rc<Cell<Instant>>,
    open: RefCell<slab::Slab<Weak<Open>>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("index", &self.index).finish_non_exhaustive()
    }
}

/// No policy is in force, or not yet for this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoJudge;

impl Worker {
    pub fn new(services: Arc<Services>, index: usize, seat: Arc<Seat>) -> Self {
        let settings = Rc::new(services.settings().apart());
        let pool = Pool::new(Arc::clone(&services.holder));
        Self {
            services,
            index,
            seat,
            judge: RefCell::new(None),
            shadow: RefCell::new(None),
            desk: Desk::default(),
            settings: RefCell::new(settings),
            pool,
            resolver: Resolver::default(),
            clock: Rc::new(Cell::new(Instant::now())),
            open: RefCell::new(slab::Slab::new()),
        }
    }

    /// The generation in force with the settings it judges by; takes the next judge from the seat where there is one.
    ///
    /// # Errors
    /// When no policy is in force.
    pub fn generation(&self) -> Result<(Arc<Generation>, Rc<Settings>), NoJudge> {
        let active = self.services.registry.generation();
        let mut judge = self.judge.borrow_mut();
        if judge.as_ref().is_none_or(|judge| judge.generation.number != active) {
            let (next, passed) = self.seat.take(active);
            self.services.retire(passed);
            if let Some(next) = next {
                self.settings.replace(Rc::new(self.services.settings_of(next.generation.number).apart()));
                self.services.retire(judge.replace(next));
            }
        }
        let generation = judge.as_ref().map(|judge| Arc::clone(&judge.generation)).ok_or(NoJudge)?;
        Ok((generation, self.settings()))
    }

    pub fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Asks this worker's judge. `None` when there is none.
    pub fn judge(&self, entry: usize, case: &Case<'_>) -> Option<Judgement> {
        self.judge.borrow_mut().as_mut().map(|judge| judge.judge(entry, case))
    }

    /// True when the policy in force, or its shadow, reads what a session did lately.
    pub(super) fn reads_recent(&self) -> bool {
        let reads = |generation: &Generation| generation.plans.iter().any(|plan| plan.reads_recent);
        self.generation().is_ok_and(|(generation, _)| reads(&generation))
            || self.shadow_generation().is_some_and(|generation| reads(&generation))
    }

    /// The shadow's generation; takes the next judge from its seat where there is one. `None` while nobody judges in the shadow.
    pub(super) fn shadow_generation(&self) -> Option<Arc<Generation>> {
        let bench = &self.services.shadow.bench;
        let active = bench.generation();
        let mut judge = self.shadow.borrow_mut();
        if active == 0 {
            self.services.retire(judge.take());
        } else if judge.as_ref().is_none_or(|judge| judge.generation.number != active) {
            let (next, passed) = bench.seats().get(self.index)?.take(active);
            self.services.retire(passed);
            if let Some(next) = next {
                self.services.retire(judge.replace(next));
            }
        }
        judge.as_ref().map(|judge| Arc::clone(&judge.generation))
    }

    /// Asks the shadow about an input document made for one of its generations; `None` when another one judges by now.
    pub(super) fn ask_shadow(&self, generation: u64, entry: usize, input: Value) -> Option<Judgement> {
        let mut judge = self.shadow.borrow_mut();
        let judge = judge.as_mut().filter(|judge| judge.generation.number == generation)?;
        Some(judge.judge_document(entry, input))
    }

    /// Does something with this worker's judge; `None` when there is none, or it is at work.
    pub(super) fn with_judge<T>(&self, action: impl FnOnce(&mut Judge) -> T) -> Option<T> {
        self.judge.try_borrow_mut().ok()?.as_mut().map(action)
    }

    pub(super) fn enlist(&self, open: &Rc<Open>) -> usize {
        self.open.borrow_mut().insert(Rc::downgrade(open))
    }

    pub(super) fn strike_off(&self, key: usize) {
        self.open.borrow_mut().try_remove(key);
    }

    /// Everything open on this worker. What ends while this is walked is passed over: whoever walks slowly must not keep it open.
    pub fn open(&self) -> impl Iterator<Item = Rc<Open>> + use<> {
        let all: Vec<Weak<Open>> = self.open.borrow().iter().map(|(_, open)| Weak::clone(open)).collect();
        all.into_iter().filter_map(|open| open.upgrade())
    }

    /// Takes room for a body that is to be kept; false when there is none.
    pub(super) fn retain(&self, bytes: u64, most: u64) -> bool {
        let take = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= most);
        self.services.retained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn release(&self, bytes: u64) {
        self.services.retained.fetch_sub(bytes, Ordering::Relaxed);
    }
}
