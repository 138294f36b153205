//! What the wire knows, for the listener and the proxy to look at while hyper owns the wire.
//!
//! In: what the reader and writer saw, and when an exchange opened and closed; out: counters, how long a head or an idle connection
//! has been waited for, and one rejection. The rejection of an HTTP/1.1 head waits for every exchange before it: each released head
//! was opened and closed, and hyper has flushed since, so that taking the connection back loses no byte of an answer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::Rejection;
use crate::decision::Refusal;

/// The view of one connection's wire; clones see the same wire.
#[derive(Clone)]
pub struct Monitor {
    shared: Rc<Shared>,
}

struct Shared {
    /// Streams do not wait for each other: a rejection ends them all.
    multiplexed: bool,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    heads: Cell<u64>,
    opened: Cell<u64>,
    closed: Cell<u64>,
    /// Exchanges closed when hyper last had flushed everything.
    flushed: Cell<u64>,
    in_body: Cell<bool>,
    in_head: Cell<bool>,
    /// Heads that were told to never become an exchange.
    unopened: Cell<u64>,
    /// What must be written first keeps the reader from heads that have come.
    blocked: Cell<bool>,
    head_since: Cell<Instant>,
    quiet_since: Cell<Instant>,
    rejection: RefCell<Option<Rejection>>,
    body_refusal: Cell<Option<Refusal>>,
    waiting: RefCell<Option<Waker>>,
}

/// What the reader knows after each step.
pub(super) struct Progress {
    pub(super) heads: u64,
    pub(super) in_body: bool,
    pub(super) in_head: bool,
}

impl Monitor {
    pub(super) fn new(multiplexed: bool, now: Instant) -> Self {
        let shared = Shared {
            multiplexed,
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            heads: Cell::new(0),
            opened: Cell::new(0),
            closed: Cell::new(0),
            flushed: Cell::new(0),
            in_body: Cell::new(false),
            in_head: Cell::new(false),
            unopened: Cell::new(0),
            blocked: Cell::new(false),
            head_since: Cell::new(now),
            quiet_since: Cell::new(now),
            rejection: RefCell::new(None),
            body_refusal: Cell::new(None),
            waiting: RefCell::new(None),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Says that hyper handed a request over; once for each.
    pub fn exchange_opened(&self) {
        self.shared.opened.set(self.shared.opened.get() + 1);
    }

    /// Says that a response has been handed to hyper to its end; once for each request.
    pub fn exchange_closed(&self) {
        self.shared.closed.set(self.shared.closed.get() + 1);
        self.rest();
        // The connection's task flushes when it runs, and then the rejection can fire.
        if self.shared.rejection.borrow().is_some() {
            self.wake();
        }
    }

    /// Yields the rejection, once, and only when no exchange before it still has bytes to send.
    pub fn poll_rejected(&self, cx: &mut Context<'_>) -> Poll<Rejection> {
        if self.may_reject()
            && let Some(rejection) = self.shared.rejection.borrow_mut().take()
        {
            return Poll::Ready(rejection);
        }
        let mut waiting = self.shared.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The rejection that no answer can follow any more, because the connection is over.
    pub fn take_rejection(&self) -> Option<Rejection> {
        self.shared.rejection.borrow_mut().take()
    }

    /// Why the body of the exchange that is open was refused, if it was; hyper then reports a body error.
    pub fn body_refusal(&self) -> Option<Refusal> {
        self.shared.body_refusal.get()
    }

    /// Whether a body has begun and not ended.
    pub fn in_body(&self) -> bool {
        self.shared.in_body.get()
    }

    /// Bytes read from the peer.
    pub fn bytes_in(&self) -> u64 {
        self.shared.bytes_in.get()
    }

    /// Bytes sent to the peer.
    pub fn bytes_out(&self) -> u64 {
        self.shared.bytes_out.get()
    }

    /// Since when a head has been begun and not completed. A head sent ahead does not count while the exchange before it is open: its
    /// connection is in use anyway, and a timeout would take the answer with it.
    pub fn head_begun(&self) -> Option<Instant> {
        let since = self.shared.head_since.get();
        let ahead = !self.shared.multiplexed && !self.quiet();
        let since = if self.shared.multiplexed { since } else { since.max(self.shared.quiet_since.get()) };
        (self.shared.in_head.get() && !ahead).then_some(since)
    }

    /// Since when no head has begun and no message is in flight.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.quiet() && !self.shared.in_head.get()).then(|| self.shared.quiet_since.get())
    }

    /// Heads released so far; on HTTP/2 the streams opened.
    pub fn heads(&self) -> u64 {
        self.shared.heads.get()
    }

    /// How many HTTP/2 heads came whole since the last call and were not handed over: h2 refused them by itself. To be asked when
    /// hyper has polled and waits, for then it has taken everything that came; `ended` says that it will take no more.
    pub fn take_unopened(&self, ended: bool) -> u64 {
        let shared = &self.shared;
        if shared.blocked.get() && !ended {
            return 0;
        }
        let whole = shared.heads.get().saturating_sub(u64::from(shared.in_head.get()));
        let unopened = whole.saturating_sub(shared.opened.get() + shared.unopened.get());
        shared.unopened.set(shared.unopened.get() + unopened);
        unopened
    }

    fn quiet(&self) -> bool {
        let begun = if self.shared.multiplexed { self.shared.opened.get() } else { self.shared.heads.get() };
        begun == self.shared.closed.get() && !self.shared.in_body.get()
    }

    fn rest(&self) {
        if self.quiet() {
            self.shared.quiet_since.set(Instant::now());
        }
    }

    fn may_reject(&self) -> bool {
        let closed = self.shared.closed.get();
        self.shared.multiplexed || (self.shared.heads.get() == closed && self.shared.flushed.get() == closed)
    }

    fn wake(&self) {
        if let Some(waker) = self.shared.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn received(&self, bytes: usize) {
        self.shared.bytes_in.set(self.shared.bytes_in.get() + bytes as u64);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.shared.bytes_out.set(self.shared.bytes_out.get() + bytes as u64);
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.shared.blocked.set(blocked);
    }

    /// Everything hyper had to write has left.
    pub(super) fn flushed(&self) {
        let closed = self.shared.closed.get();
        if self.shared.flushed.replace(closed) != closed && self.shared.rejection.borrow().is_some() {
            self.wake();
        }
    }

    /// The clock is read only when a head is begun without being completed, or a body ends after its exchange.
    pub(super) fn progress(&self, progress: &Progress) {
        let shared = &self.shared;
        shared.heads.set(progress.heads);
        if shared.in_body.replace(progress.in_body) && !progress.in_body {
            self.rest();
        }
        if !shared.in_head.replace(progress.in_head) && progress.in_head {
            shared.head_since.set(Instant::now());
        }
    }

    pub(super) fn reject(&self, rejection: Rejection) {
        let in_head = self.shared.in_head.replace(false);
        if self.shared.multiplexed && in_head {
            // A block that was being read has no end any more; the rejection tells of it.
            self.shared.heads.set(self.shared.heads.get().saturating_sub(1));
        }
        *self.shared.rejection.borrow_mut() = Some(rejection);
        self.wake();
    }

    pub(super) fn refuse_body(&self, refusal: Refusal) {
        self.shared.body_refusal.set(Some(refusal));
    }
}
