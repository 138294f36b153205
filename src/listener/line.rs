//! One connection as the sweep and the kills see it, and the list of them on a worker.
//!
//! In: orders to close (drain, timeouts, an identity that ended), and what the connection carries at the moment. Out: the same, asked
//! by the connection's own task before it moves a byte. There is no timer a connection: one sweep a worker looks at all of them.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustls::pki_types::UnixTime;

use super::http1::TailGuard;
use super::{LAST_WORDS_WITHIN, Limits, unix_now};
use crate::exchange::{Registered, Side};
use crate::proxy::downstream::{self, Downstream};
use crate::proxy::flow::Flow;
use crate::proxy::tunnel::Tunnel;
use crate::tls::{self, Holder, ListenerRules};
use crate::wire::Monitor;

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Close {
    Open,
    /// After the answer to its first request: a killed identity.
    AfterOne,
    /// When nothing is open on it any more; it takes no more requests.
    Gracefully,
    /// Its head did not come in time.
    HeadTimeout,
    Now,
}

/// See the module.
pub(super) struct Line {
    order: Cell<Close>,
    ordered: Cell<Option<Instant>>,
    task: RefCell<Option<Waker>>,
    /// The exchange an HTTP/1.1 connection carries, or carried last.
    current: RefCell<Option<Rc<Flow>>>,
    /// What an HTTP/1.1 connection carries once hyper is done with it.
    tunnel: RefCell<Option<(Tunnel, TailGuard)>>,
    /// Its last request asked to leave HTTP.
    left_http: Cell<bool>,
    monitor: RefCell<Option<Monitor>>,
    holder: Arc<Holder>,
    rules: ListenerRules,
    admitted_by: Cell<u64>,
    known: RefCell<Option<Known>>,
}

struct Known {
    proven: Option<tls::Peer>,
    downstream: Rc<Downstream>,
    registered: Registered,
}

impl Line {
    pub(super) fn new(holder: Arc<Holder>, rules: ListenerRules) -> Self {
        let admitted_by = Cell::new(holder.current().bundle_revision());
        Self {
            order: Cell::new(Close::Open),
            ordered: Cell::new(None),
            task: RefCell::new(None),
            current: RefCell::new(None),
            tunnel: RefCell::new(None),
            left_http: Cell::new(false),
            monitor: RefCell::new(None),
            holder,
            rules,
            admitted_by,
            known: RefCell::new(None),
        }
    }

    pub(super) fn identify(&self, proven: Option<tls::Peer>, downstream: Rc<Downstream>, registered: Registered) {
        self.known.replace(Some(Known { proven, downstream, registered }));
    }

    pub(super) fn watch(&self, monitor: Monitor) {
        self.monitor.replace(Some(monitor));
    }

    /// The exchange whose bytes the connection carries from now on.
    pub(super) fn carry(&self, flow: Rc<Flow>) {
        self.current.replace(Some(flow));
    }

    /// Lets a tunnel follow the answer.
    pub(super) fn open(&self, tunnel: Tunnel, tail: TailGuard) {
        self.tunnel.replace(Some((tunnel, tail)));
    }

    pub(super) fn take_tunnel(&self) -> Option<(Tunnel, TailGuard)> {
        self.tunnel.take()
    }

    pub(super) fn set_left_http(&self, left: bool) {
        self.left_http.set(left);
    }

    /// Whether bytes may lie on the connection that nobody will ever read as HTTP.
    pub(super) fn left_http(&self) -> bool {
        self.left_http.get()
    }

    pub(super) fn current(&self) -> Option<Rc<Flow>> {
        self.current.borrow().clone()
    }

    /// True when the socket must not take another byte.
    pub(super) fn is_shut(&self) -> bool {
        self.current.borrow().as_ref().is_some_and(|flow| flow.is_shut())
    }

    pub(super) fn order(&self) -> Close {
        self.order.get()
    }

    /// Orders an end; a harder one replaces a softer one, never the other way round.
    pub(super) fn close(&self, order: Close) {
        if order > self.order.get() {
            self.order.set(order);
            self.ordered.set(Some(Instant::now()));
            self.wake();
        }
    }

    /// Polled by the connection's task: what is ordered, kills of the whole connection included.
    pub(super) fn poll_order(&self, cx: &mut Context<'_>) -> Close {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        drop(task);
        let killed = self
            .known
            .borrow()
            .as_ref()
            .is_some_and(|known| matches!(known.registered.exchange().cut.poll(Side::Downstream, cx), Poll::Ready(_)));
        if killed && self.order.get() < Close::Gracefully && self.order.get() != Close::AfterOne {
            self.order.set(Close::Gracefully);
            self.ordered.set(Some(Instant::now()));
        }
        self.order.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.task.borrow_mut().take() {
            waker.wake();
        }
    }

    /// True when a kill closed the connection itself, so that it may not linger for what is open on it.
    fn is_killed(&self) -> bool {
        self.known.borrow().as_ref().is_some_and(|known| known.registered.exchange().cut.cause().is_some())
    }

    /// True when nothing is open on it: a client that does not answer a GOAWAY holds up nobody.
    fn is_empty(&self) -> bool {
        self.known.borrow().as_ref().is_some_and(|known| known.downstream.open.get() == 0)
    }

    /// True when the peer would not be let in any more.
    fn look(&self, now: Instant, limits: &Limits) -> bool {
        let overdue = self.order.get() >= Close::Gracefully
            && self.ordered.get().is_some_and(|at| now.duration_since(at) > LAST_WORDS_WITHIN);
        if overdue && (self.is_killed() || self.identity_ended() || self.is_empty()) {
            self.close(Close::Now);
        }
        // A killed identity that asks nothing is not owed an answer for as long as others may idle.
        let silent = self.order.get() == Close::AfterOne
            && self.is_empty()
            && self.ordered.get().is_some_and(|at| now.duration_since(at) > limits.header_timeout.0);
        if silent {
            self.close(Close::Gracefully);
        }
        if let Some(monitor) = &*self.monitor.borrow() {
            let late = |since: Option<Instant>, bound: Duration| since.is_some_and(|since| now.duration_since(since) > bound);
            if late(monitor.head_begun(), limits.header_timeout.0) {
                self.close(Close::HeadTimeout);
            }
            if late(monitor.idle_since(), limits.idle_timeout.0) {
                self.close(Close::Gracefully);
            }
        }
        let ended = self.identity_ended();
        if ended {
            self.close(Close::Gracefully);
        }
        ended
    }

    /// True when the peer would not be let in any more.
    fn identity_ended(&self) -> bool {
        let known = self.known.borrow();
        let Some(Known { proven: Some(peer), downstream, .. }) = &*known else { return false };
        let now = unix_now();
        if let Some(own) = downstream.peer.as_ref().filter(|peer| peer.own) {
            return self.own_identity_ended(own, now);
        }
        if now.as_secs() >= peer.not_after {
            return true;
        }
        let identity = self.holder.current();
        if identity.bundle_revision() == self.admitted_by.get() {
            return false;
        }
        let admitted = tls::admissible(&identity, &self.rules, peer, now).is_ok();
        if admitted {
            self.admitted_by.set(identity.bundle_revision());
        }
        !admitted
    }

    /// Who stands behind our own identity stands as long as we have it: one that was renewed is the same, one that was taken back is
    /// nobody's.
    fn own_identity_ended(&self, own: &downstream::Peer, now: UnixTime) -> bool {
        let identity = self.holder.current();
        if identity.revision() != self.admitted_by.get() {
            let Some(renewed) = identity.as_peer(now).filter(|peer| peer.spiffe_id == own.spiffe_id) else { return true };
            own.not_after.set(renewed.not_after);
            self.admitted_by.set(identity.revision());
        }
        now.as_secs() >= own.not_after.get()
    }
}

/// How many connections are looked at between two looks at what else waits.
const SLICE: usize = 512;

/// The connections of one worker.
#[derive(Default)]
pub struct Lines {
    lines: RefCell<slab::Slab<Weak<Line>>>,
    limits: Limits,
    draining: Cell<bool>,
}

/// Keeps a connection on the list.
pub(super) struct Listed {
    lines: Rc<Lines>,
    key: usize,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.lines.lines.borrow_mut().try_remove(self.key);
    }
}

impl Lines {
    pub fn new(limits: Limits) -> Self {
        Self { lines: RefCell::default(), limits, draining: Cell::new(false) }
    }

    pub(super) fn enlist(self: &Rc<Self>, line: &Rc<Line>) -> Listed {
        let key = self.lines.borrow_mut().insert(Rc::downgrade(line));
        if self.draining.get() {
            line.close(Close::Gracefully);
        }
        Listed { lines: Rc::clone(self), key }
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.lines.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at every connection: heads and idling that take too long, certificates that ended, roots that went. In slices, since
    /// requests wait meanwhile. Returns the connections whose peer would not be let in any more.
    pub async fn sweep(&self, now: Instant) -> Vec<Rc<Downstream>> {
        let mut ended = Vec::new();
        for (place, line) in self.all().enumerate() {
            if place % SLICE == SLICE - 1 {
                tokio::task::yield_now().await;
            }
            if line.look(now, &self.limits) {
                ended.extend(line.known.borrow().as_ref().map(|known| Rc::clone(&known.downstream)));
            }
        }
        ended
    }

    /// Lets every connection finish what is open on it, and no more; one whose handshake is still going on as well.
    pub fn drain(&self) {
        self.draining.set(true);
        for line in self.all() {
            line.close(Close::Gracefully);
        }
    }

    /// Connections whose peer would not be let in any more; their exchanges are to be cut.
    pub fn ended_identities(&self) -> Vec<Rc<Downstream>> {
        self.all()
            .filter(|line| line.identity_ended())
            .filter_map(|line| line.known.borrow().as_ref().map(|known| Rc::clone(&known.downstream)))
            .collect()
    }

    /// What ends while this is walked is passed over: whoever walks slowly must not keep it.
    fn all(&self) -> impl Iterator<Item = Rc<Line>> + use<> {
        let all: Vec<Weak<Line>> = self.lines.borrow().iter().map(|(_, line)| Weak::clone(line)).collect();
        all.into_iter().filter_map(|line| line.upgrade())
    }
}
