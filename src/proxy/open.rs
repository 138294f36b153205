//! One open exchange: registered first, told to the record last, and everything in between that must end with it.
//!
//! In: a connection and a request. Out: the guard its response holds; dropping the last of it writes the record, gives back what was
//! held, and tells a waiting kill that the exchange is over. What must stay true: registered before anything is judged, and exactly
//! one decision line, and one closing line where that was written early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::body::Incoming;

use super::downstream::Downstream;
use super::flow::{Flow, Overdue, Stage};
use super::normalise::Request;
use super::record;
use super::settings::{Listener, Settings, Target};
use super::worker::Worker;
use crate::audit::{Outcome, Permit, Why};
use crate::decision::{Basis, Ending, Enforcement, Phase, Protocol, Reason, Scope};
use crate::exchange::{Exchange, ExchangeId, Kind, Registered, Selector};
use crate::judge::body::Parsed;
use crate::judge::{Generation, Judgement};
use crate::kill::Order;
use crate::metrics;
use crate::session::{Past, View};
use crate::units::since_epoch;
use crate::verdict::KillOrder;

/// See the module.
#[derive(Debug)]
pub struct Open {
    pub worker: Rc<Worker>,
    pub downstream: Rc<Downstream>,
    pub flow: Rc<Flow>,
    pub id: String,
    pub began: Instant,
    /// Since the Unix epoch.
    pub began_at: Duration,
    registered: Registered,
    place: Cell<usize>,
    _gauge: Option<metrics::Open>,
    permit: RefCell<Option<Permit>>,
    story: RefCell<Story>,
    kept: RefCell<Option<Kept>>,
    in_session: Cell<bool>,
    judged: Cell<Instant>,
    told: Cell<bool>,
}

/// What the record will say.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) settings: Option<Rc<Settings>>,
    pub(super) route: Option<usize>,
    pub(super) request: Option<Rc<Request>>,
    /// What a request asked for that was refused before it had one form.
    pub(super) asked: Option<(String, String)>,
    pub(super) rewritten: bool,
    pub(super) outcome: Option<Outcome>,
    pub(super) why: Option<Why>,
    pub(super) enforcement: Option<Enforcement>,
    pub(super) judgement: Option<Judgement>,
    /// The one that gave the judgement; another may be in force when it is told.
    pub(super) generation: Option<Arc<Generation>>,
    pub(super) record_input: Option<regorus::Value>,
    pub(super) edits: Vec<String>,
    pub(super) fault: Option<String>,
    pub(super) decided_at: Option<SystemTime>,
    pub(super) status: Option<u16>,
    pub(super) ending: Option<Ending>,
}

/// What an admitted exchange is judged by again.
#[derive(Debug)]
pub struct Kept {
    pub request: Rc<Request>,
    pub rewritten: bool,
    pub had_body: bool,
    pub body: KeptBody,
    pub session: View,
}

/// The body of an admitted request.
#[derive(Debug)]
pub enum KeptBody {
    /// No policy read it.
    Unread,
    Whole {
        bytes: Bytes,
        parsed: Parsed,
        retained: u64,
    },
    /// A policy read it, and there was no room to keep it.
    Gone,
}

/// An open exchange, for operators.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub spiffe_id: String,
    pub session: String,
    pub listener: String,
    pub protocol: Protocol,
    pub method: String,
    pub host: String,
    pub path: String,
    pub upstream: Option<String>,
    pub status: Option<u16>,
    pub age: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub generation: u64,
}

/// How long what was cut may take to say so.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

impl Open {
    /// Registers a request that has just come in.
    pub fn new(worker: Rc<Worker>, downstream: Rc<Downstream>, body: Incoming) -> Rc<Self> {
        let id = ExchangeId(uuid::Uuid::new_v4());
        let exchange = Arc::new(Exchange::new(id, Kind::Exchange(downstream.protocol), Arc::clone(&downstream.caller)));
        let registered = worker.services.registry.register(worker.index, Arc::clone(&exchange));
        let flow = Rc::new(Flow::new(exchange, Arc::clone(&worker.services.door), body, Rc::clone(&worker.clock)));
        let gauge = worker.settings().listener(downstream.listener).map(|listener| listener.metrics.exchange(downstream.protocol));
        let now = Instant::now();
        let open = Rc::new(Self {
            flow,
            id: id.to_string(),
            began: now,
            began_at: since_epoch(SystemTime::now()),
            registered,
            place: Cell::new(usize::MAX),
            _gauge: gauge,
            permit: RefCell::new(None),
            story: RefCell::default(),
            kept: RefCell::default(),
            in_session: Cell::new(false),
            judged: Cell::new(now),
            told: Cell::new(false),
            worker,
            downstream,
        });
        open.place.set(open.worker.enlist(&open));
        open.downstream.open.set(open.downstream.open.get() + 1);
        open
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        self.registered.exchange()
    }

    pub(super) fn hold(&self, permit: Permit) {
        self.permit.replace(Some(permit));
    }

    pub(super) fn story<T>(&self, write: impl FnOnce(&mut Story) -> T) -> T {
        write(&mut self.story.borrow_mut())
    }

    /// Notes how it ended; the first to say so is right, later signs are consequences.
    pub(super) fn ended(&self, ending: Ending) {
        self.story.borrow_mut().ending.get_or_insert(ending);
    }

    pub(super) fn joined_session(&self) {
        self.in_session.set(true);
    }

    /// Keeps what an admitted exchange is judged by again.
    pub(super) fn keep(&self, kept: Kept) {
        self.kept.replace(Some(kept));
    }

    /// What it was admitted with; `None` before that.
    pub fn kept<T>(&self, read: impl FnOnce(&Kept) -> T) -> Option<T> {
        self.kept.borrow().as_ref().map(read)
    }

    /// When it was last judged.
    pub fn judged(&self) -> Instant {
        self.judged.get()
    }

    pub fn set_judged(&self, at: Instant) {
        self.judged.set(at);
    }

    pub(super) fn count_upstream_error(&self, kind: metrics::UpstreamError) {
        self.with_target(|target| target.metrics.errors.of(kind).inc());
    }

    pub(super) fn with_target(&self, count: impl FnOnce(&Target)) {
        let story = self.story.borrow();
        let settings = story.settings.as_deref();
        let route = settings.zip(story.route).and_then(|(settings, place)| settings.route_at(self.downstream.listener, place));
        if let Some(target) = settings.zip(route).and_then(|(settings, route)| settings.upstreams.get(route.upstream)) {
            count(target);
        }
    }

    pub(super) fn count_denied(&self, reason: Reason) {
        self.with_listener(|listener, mode| listener.metrics.denied(mode, Basis::Standing, reason));
    }

    /// Counts a request that went on: allowed, or only observed.
    pub(super) fn count_passed(&self) {
        let why = self.story.borrow().why;
        self.with_listener(|listener, mode| match why {
            Some(Why::Denied(reason)) => listener.metrics.observed(Basis::Standing, reason),
            Some(Why::Refused(_)) | None => listener.metrics.allowed(mode, Basis::Standing),
        });
    }

    pub(super) fn count_judgement(&self, phase: Phase, judgement: &Judgement) {
        let metrics = &self.worker.services.metrics;
        metrics.decision_seconds.of(phase).of(metrics::Engine::Interpreter).observe(judgement.took.as_secs_f64());
        metrics.ignored_verdict_keys.inc_by(judgement.verdict.ignored_keys as u64);
        if let Some(reason) = judgement.verdict.reason.filter(|reason| *reason != Reason::Policy) {
            metrics.decision_errors.of(reason).inc();
        }
    }

    fn with_listener(&self, count: impl FnOnce(&Listener, Enforcement)) {
        let story = self.story.borrow();
        if let Some(listener) = self.worker.settings().listener(self.downstream.listener) {
            count(listener, story.enforcement.unwrap_or(Enforcement::Enforce));
        }
    }

    /// How often it is judged again: as the configuration says, or more often where its lease asks for that.
    pub fn reassess_every(&self) -> Duration {
        let configured = self.worker.settings().reassess_every;
        self.flow.lease().reassess_every.map_or(configured, |asked| asked.min(configured))
    }

    /// Tells an exchange whose upstream took too long: for its response once the request is up, or for any byte once it began.
    pub fn look_at_upstream(&self, now: Instant) {
        self.with_target(|target| {
            let idle = self.flow.idle(now);
            match self.flow.stage() {
                Stage::Asking if !self.flow.uploading() && idle > target.upstream.response_timeout => {
                    self.flow.set_overdue(Overdue::Response);
                }
                Stage::Asking | Stage::Answering if idle > target.upstream.idle_timeout => self.flow.set_overdue(Overdue::Idle),
                Stage::Asking | Stage::Answering | Stage::Farewell => {}
            }
        });
    }

    /// A last word may take a second, then what was cut is cut hard.
    pub fn end_late_farewell(&self) {
        let late = self.exchange().cut.order().is_some_and(|(since, _)| since > LAST_WORDS_WITHIN);
        if late && self.flow.stage() == Stage::Farewell {
            self.flow.end_farewell();
        }
    }

    /// Carries out a kill the policy asked for with a denial.
    pub fn carry_out(&self, kill: KillOrder) {
        let caller = &self.downstream.caller;
        let selector = match kill.scope {
            // The denial itself ends this exchange, and its id never comes back.
            Scope::Exchange => return,
            Scope::Session => Selector { session: Some(caller.session.clone()), ..Selector::default() },
            Scope::Identity => Selector { spiffe_id: Some(caller.spiffe_id.clone()), ..Selector::default() },
        };
        let reason = format!("asked for by the policy in {}", self.id);
        if let Err(error) = self.worker.services.door.kill_now(Order { selector, reason, by: "policy".to_owned(), ttl: kill.ttl }) {
            tracing::error!(exchange = %self.id, %error, "a kill the policy asked for was refused");
        }
    }

    /// A row for operators; `None` before the request was read.
    pub fn row(&self) -> Option<Row> {
        let story = self.story.borrow();
        let request = story.request.as_deref()?;
        let settings = story.settings.as_deref()?;
        Some(Row {
            id: self.id.clone(),
            spiffe_id: self.downstream.caller.spiffe_id.clone(),
            session: self.downstream.caller.session.clone(),
            listener: settings.listener(self.downstream.listener)?.name.clone(),
            protocol: self.downstream.protocol,
            method: request.method.to_string(),
            host: request.host.clone(),
            path: request.path.clone(),
            upstream: self.exchange().upstream().map(|name| name.to_string()),
            status: story.status,
            age: self.began.elapsed(),
            bytes_in: self.flow.bytes_in(),
            bytes_out: self.flow.bytes_out(),
            generation: self.exchange().generation(),
        })
    }

    /// Writes the decision line, if it is not written yet, and returns how to wait for it.
    pub fn tell_decision(&self) -> Option<crate::audit::Ack> {
        if self.told.get() || self.story.borrow().outcome.is_none() {
            return None;
        }
        let mut permit = self.permit.borrow_mut();
        let permit = permit.as_mut()?;
        self.told.set(true);
        Some(record::decision(self, &self.story.borrow(), permit))
    }

    /// Writes its last line: the decision line, or the closing line where that one was written early.
    fn tell_end(&self) {
        let mut permit = self.permit.borrow_mut();
        let Some(permit) = permit.as_mut() else { return };
        let mut story = self.story.borrow_mut();
        if self.exchange().cut.cause().is_some() && story.ending != Some(Ending::Denied) {
            story.ending = Some(Ending::Cut);
        } else if std::thread::panicking() {
            story.ending.get_or_insert(Ending::Panic);
        } else {
            story.ending.get_or_insert(Ending::ClientGone);
        }
        // Nobody waits for these: an exchange that is over has no byte left that could wait.
        if self.told.replace(true) {
            drop(record::closing(self, &story, permit));
        } else {
            drop(record::decision(self, &story, permit));
        }
    }

    fn leave_session(&self) {
        let id = &self.downstream.caller.session;
        let sessions = &self.worker.services.sessions;
        let story = self.story.borrow();
        if let (Some(request), Some(outcome)) = (&story.request, story.outcome) {
            let verdict = match outcome {
                Outcome::Allow => "allow",
                Outcome::Deny | Outcome::Refused => "deny",
                Outcome::ObserveDeny => "observe_deny",
            };
            let action = format!("{} {}", request.method, request.path);
            let past = Past { action, host: request.host.clone(), verdict, at: self.began };
            sessions.remember(id, past, outcome != Outcome::Allow);
        }
        if self.exchange().cut.cause().is_some() {
            sessions.count_cut(id);
        }
        sessions.leave(id, self.worker.clock.get());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.strike_off(self.place.get());
        // What is left of the request belongs to nobody: no kill would find it any more.
        self.flow.empty();
        self.downstream.open.set(self.downstream.open.get().saturating_sub(1));
        self.tell_end();
        if self.in_session.get() {
            self.leave_session();
        }
        if let Some(Kept { body: KeptBody::Whole { retained, .. }, .. }) = self.kept.get_mut() {
            self.worker.release(*retained);
        }
        if let (Some(cause), Some((since, _))) = (self.exchange().cut.cause(), self.exchange().cut.order()) {
            self.worker.services.metrics.cut_seconds.of(cause).observe(since.as_secs_f64());
        }
    }
}
