//! One open exchange: registered first, told to the record last, and everything in between that must end with it.
//!
//! In: a connection and a request. Out: the guard its response holds; dropping the last of it writes the record, gives back what was
//! held, and tells a waiting kill that the exchange is over. What must stay true: registered before anything is judged, and exactly
//! one decision line, and one closing line where that was written early.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Method;
use http::header::{HeaderName, UPGRADE};
use http::request::Parts;
use hyper::body::Incoming;

use super::anomaly::Watching;
use super::downstream::Downstream;
use super::flow::Flow;
use super::grpc;
use super::normalise::Request;
use super::record;
use super::settings::{Listener, Settings};
use super::shadow::{Differs, Second};
use super::worker::Worker;
use crate::audit::{Outcome, Permit, Why, readable_target};
use crate::decision::{Ending, Enforcement, Protocol, Refusal, Transport};
use crate::exchange::{Exchange, ExchangeId, KillId, Kind, Registered};
use crate::judge::body::Parsed;
use crate::judge::{Generation, Judgement};
use crate::metrics;
use crate::session::{Past, View};
use crate::units::since_epoch;

/// See the module.
#[derive(Debug)]
pub struct Open {
    pub worker: Rc<Worker>,
    pub downstream: Rc<Downstream>,
    pub flow: Rc<Flow>,
    pub id: String,
    /// What it asks to speak; the connection below it speaks `downstream.transport`.
    pub protocol: Protocol,
    pub began: Instant,
    /// Since the Unix epoch.
    pub began_at: Duration,
    registered: Registered,
    place: Cell<usize>,
    _gauge: Option<metrics::Open>,
    /// Until it is read: a client may be gone before its request was looked at once.
    head: RefCell<Option<Parts>>,
    permit: RefCell<Option<Permit>>,
    pub(super) story: RefCell<Story>,
    kept: RefCell<Option<Kept>>,
    in_session: Cell<bool>,
    pub(super) watching: OnceCell<Rc<Watching>>,
    pub(super) second: RefCell<Second>,
    judged: Cell<Instant>,
    told: Cell<bool>,
    /// The policy keeps it out of the record, unless it is cut yet.
    dropped: Cell<bool>,
    /// The TLS server name a tunnel began with.
    server_name: RefCell<Option<String>>,
}

/// What stands in the line of an exchange that the policy would have kept out of the record, had it not been cut.
const DROPPED_THEN_CUT: &str = "the policy kept it out of the record until it was cut; its input and result were not kept";

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
    /// The standing kill it was refused for.
    pub(super) killed: Option<KillId>,
    pub(super) enforcement: Option<Enforcement>,
    pub(super) judgement: Option<Judgement>,
    /// The generation that judged; another may be in force when the line is written.
    pub(super) generation: Option<Arc<Generation>>,
    pub(super) record_input: Option<regorus::Value>,
    pub(super) edits: Vec<String>,
    /// Names of the anomaly rules that fired on it.
    pub(super) anomaly: Vec<String>,
    /// What the shadow policy said, until it is in the record.
    pub(super) shadow: Option<Differs>,
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
    /// Beside an agent: where it goes.
    pub addresses: Option<Arc<[SocketAddr]>>,
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

impl Open {
    /// Registers a request that has just come in.
    pub fn new(worker: Rc<Worker>, downstream: Rc<Downstream>, request: http::Request<Incoming>) -> Rc<Self> {
        let (head, body) = request.into_parts();
        let protocol = spoken(downstream.transport, &head);
        let id = ExchangeId(uuid::Uuid::new_v4());
        let exchange = Arc::new(Exchange::new(id, Kind::Exchange(protocol), Arc::clone(&downstream.caller)));
        let registered = worker.services.registry.register(worker.index, Arc::clone(&exchange));
        let flow = Rc::new(Flow::new(exchange, Arc::clone(&worker.services.door), body, Rc::clone(&worker.clock)));
        let gauge = worker.settings().listener(downstream.listener).map(|listener| listener.metrics.exchange(protocol));
        let now = Instant::now();
        let open = Rc::new(Self {
            flow,
            id: id.to_string(),
            protocol,
            began: now,
            began_at: since_epoch(SystemTime::now()),
            registered,
            place: Cell::new(usize::MAX),
            _gauge: gauge,
            head: RefCell::new(Some(head)),
            permit: RefCell::new(None),
            story: RefCell::default(),
            kept: RefCell::default(),
            in_session: Cell::new(false),
            watching: OnceCell::new(),
            second: RefCell::default(),
            judged: Cell::new(now),
            told: Cell::new(false),
            dropped: Cell::new(false),
            server_name: RefCell::default(),
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

    /// Whether its listener stands beside an agent.
    pub(super) fn is_outbound(&self) -> bool {
        self.worker.settings().listener(self.downstream.listener).is_some_and(Listener::is_outbound)
    }

    /// The TLS server name a tunnel began with, once that is known.
    pub(super) fn server_name(&self) -> Option<String> {
        self.server_name.borrow().clone()
    }

    pub(super) fn set_server_name(&self, name: Option<String>) {
        self.server_name.replace(name);
    }

    /// True when the client wants no body.
    pub(super) fn asks_for_head(&self) -> bool {
        let story = self.story.borrow();
        let read = story.request.as_ref().is_some_and(|request| request.method == Method::HEAD);
        let refused = story.asked.as_ref().is_some_and(|(method, _)| method == Method::HEAD.as_str());
        read || refused || self.head.borrow().as_ref().is_some_and(|head| head.method == Method::HEAD)
    }

    /// Reads the head, once, and notes what it asks for whether or not it has one form; `None` when it was read before.
    pub(super) fn read<E>(&self, read: impl FnOnce(&mut Parts) -> Result<Request, E>) -> Option<Result<Rc<Request>, E>> {
        let mut head = self.head.take()?;
        let request = read(&mut head).map(Rc::new);
        self.story(|story| match &request {
            Ok(request) => story.request = Some(Rc::clone(request)),
            Err(_) => story.asked = Some(asked(&head)),
        });
        Some(request)
    }

    /// The request as it came, in its one form; `None` before it was read.
    pub(super) fn read_request<T>(&self, read: impl FnOnce(&Request) -> T) -> Option<T> {
        self.story.borrow().request.as_deref().map(read)
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

    /// Writes the decision line, if it is not written yet, and returns how to wait for it; nothing where the policy keeps it out.
    pub fn tell_decision(&self) -> Option<crate::audit::Ack> {
        // Between two verdicts of a rewrite there is an outcome that is not the last one.
        let mut story = self.story.borrow_mut();
        let decided = story.outcome.is_some() && (self.exchange().cut.is_admitted() || story.ending.is_some());
        if self.told.get() || !decided {
            return None;
        }
        let mut permit = self.permit.borrow_mut();
        let permit = permit.as_mut()?;
        self.told.set(true);
        story.anomaly = self.anomalies();
        let ack = record::decision(self, &story, permit);
        self.dropped.set(ack.is_none());
        // An exchange may stay open for days; what its closing line does not repeat need not.
        story.record_input = None;
        story.shadow = None;
        if let Some(judgement) = &mut story.judgement {
            judgement.input = regorus::Value::Undefined;
            judgement.answer = None;
        }
        ack
    }

    /// Writes its last line: the decision line, or the closing line where that one was written early.
    fn tell_end(&self) {
        if !std::thread::panicking() {
            self.hear_second();
        }
        let mut story = self.story.borrow_mut();
        let mut permit = self.permit.borrow_mut();
        if permit.is_none() && story.why == Some(Why::Refused(Refusal::RecordFull)) {
            // Counted to the record by the reservation that found no room.
            return;
        }
        let permit = permit.get_or_insert_with(|| self.worker.services.audit.reserve_at_last());
        if let Some(unread) = self.head.take() {
            story.asked = Some(asked(&unread));
            story.settings.get_or_insert_with(|| self.worker.settings());
        }
        if self.exchange().cut.cause().is_some() && story.ending != Some(Ending::Denied) {
            story.ending = Some(Ending::Cut);
        } else if self.flow.is_stalled() {
            story.ending.get_or_insert(Ending::IdleTimeout);
        } else if std::thread::panicking() {
            story.ending.get_or_insert(Ending::Panic);
        } else {
            story.ending.get_or_insert(Ending::ClientGone);
        }
        story.anomaly = self.anomalies();
        // Nobody waits for these: an exchange that is over has no byte left that could wait.
        let told = self.told.replace(true);
        if told && !self.dropped.get() {
            drop(record::closing(self, &story, permit));
            return;
        }
        if told && self.exchange().cut.cause().is_none() {
            self.worker.services.audit.dropped();
            return;
        }
        if told {
            story.fault.get_or_insert_with(|| DROPPED_THEN_CUT.to_owned());
        }
        if record::decision(self, &story, permit).is_none() {
            self.worker.services.audit.dropped();
        }
    }

    fn leave_session(&self) {
        let id = &self.downstream.caller.session;
        let sessions = &self.worker.services.sessions;
        let story = self.story.borrow();
        let past = story.request.as_ref().zip(story.outcome).map(|(request, outcome)| {
            let verdict = match outcome {
                Outcome::Allow => "allow",
                Outcome::Deny | Outcome::Refused => "deny",
                Outcome::ObserveDeny => "observe_deny",
            };
            // A tunnel has no path; what it does is where it goes.
            let action = if request.is_tunnel() {
                format!("{} {}", request.method, request.authority())
            } else {
                format!("{} {}", request.method, request.path)
            };
            Past { action, host: request.host.clone(), verdict, at: self.began }
        });
        sessions.leave(id, past, self.exchange().cut.cause().is_some(), self.worker.clock.get());
    }
}

/// What a request asks to speak. By its head alone, before anything is judged: it decides how a refusal is worded and how a cut
/// looks, never whether one comes.
fn spoken(transport: Transport, head: &Parts) -> Protocol {
    let is =
        |name: HeaderName, value: &[u8]| head.headers.get(name).is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(value));
    let extended = head.extensions.get::<hyper::ext::Protocol>();
    if extended.is_some_and(|protocol| protocol.as_ref() == b"websocket") || is(UPGRADE, b"websocket") {
        Protocol::WebSocket
    } else if head.method == Method::CONNECT {
        Protocol::Tunnel
    } else if grpc::is_call(&head.method, &head.headers) {
        Protocol::Grpc
    } else {
        transport.into()
    }
}

/// What a head asks for that nobody read, or that has no one form.
fn asked(head: &Parts) -> (String, String) {
    (head.method.to_string(), readable_target(head.uri.to_string().as_bytes()))
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.strike_off(self.place.get());
        // What is left of the request belongs to nobody, and no kill would find it any more. The connection still knows the flow,
        // and hyper would wait for whoever holds the body to read it.
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
