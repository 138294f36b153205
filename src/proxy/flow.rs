//! The bytes of one exchange while they flow: both bodies, what has been counted of them, and where a cut stops them.
//!
//! In: the client's body and the upstream's. Out: the same bodies, counted, stopped at once by a cut. What must stay true: the
//! request body lives in a slot that only the flow owns, upstream code holds a handle to it. A cut empties the slot; only then can h2
//! discard what it queued for the stream and reset it, because a body held by a stalled upstream task would keep the stream alive.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::anomaly::Watching;
use crate::anomaly::Direction;
use crate::decision::Cause;
use crate::exchange::{Exchange, Side};
use crate::kill::Door;
use crate::upstream::Fault;
use crate::verdict::Lease;

/// Where an exchange's answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing was answered yet: a cut can still say why.
    Asking,
    /// The answer has begun: only a cut is left.
    Answering,
    /// The answer is the cut's own last word; it may be written although the exchange is cut.
    Farewell,
}

/// Why the upstream is waited for no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    Response,
    Idle,
}

/// See the module.
#[derive(Debug)]
pub struct Flow {
    pub exchange: Arc<Exchange>,
    door: Arc<Door>,
    upload: RefCell<Option<Incoming>>,
    uploading: Cell<bool>,
    /// The client's body was dropped before its end.
    broken: Cell<bool>,
    stage: Cell<Stage>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    lease: Cell<Lease>,
    /// Moved by the sweep's clock: a clock read per chunk would cost more than the chunk.
    active: Cell<Instant>,
    clock: Rc<Cell<Instant>>,
    overdue: Cell<Option<Overdue>>,
    stalled: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
    client_failed: Cell<bool>,
    may_say_farewell: Cell<bool>,
    task: RefCell<Option<Waker>>,
    /// Where there are anomaly rules that look at bytes.
    meter: OnceCell<Rc<Watching>>,
}

impl Flow {
    pub fn new(exchange: Arc<Exchange>, door: Arc<Door>, body: Incoming, clock: Rc<Cell<Instant>>) -> Self {
        let uploading = !body.is_end_stream();
        Self {
            exchange,
            door,
            upload: RefCell::new(uploading.then_some(body)),
            uploading: Cell::new(uploading),
            broken: Cell::new(false),
            stage: Cell::new(Stage::Asking),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            lease: Cell::new(Lease::default()),
            active: Cell::new(clock.get()),
            clock,
            overdue: Cell::new(None),
            stalled: Cell::new(false),
            waiting: RefCell::new(None),
            client_failed: Cell::new(false),
            may_say_farewell: Cell::new(false),
            task: RefCell::new(None),
            meter: OnceCell::new(),
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Whoever was overdue has answered after all.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.set(stage);
        self.overdue.set(None);
    }

    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    pub fn lease(&self) -> Lease {
        self.lease.get()
    }

    /// Tightens the lease; it never loosens. What it allows may have been used up already.
    pub fn tighten(&self, lease: Lease) {
        self.lease.set(self.lease.get().tightened(lease));
        self.check_lease();
    }

    /// True while the client may still send body.
    pub fn uploading(&self) -> bool {
        self.uploading.get()
    }

    /// The client broke its own request body.
    pub fn client_failed(&self) -> bool {
        self.client_failed.get()
    }

    /// How long no byte went either way.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.active.get())
    }

    /// True when nothing must be written any more.
    pub fn is_shut(&self) -> bool {
        self.stalled.get() || (self.stage.get() != Stage::Farewell && self.exchange.cut.cause().is_some())
    }

    /// Whether the response stands where a last word may be said.
    pub fn set_may_say_farewell(&self, may: bool) {
        self.may_say_farewell.set(may);
    }

    /// Asks for a last word of a response that was cut; false when there is none to say, and the cut is a hard one.
    pub fn begin_farewell(&self) -> bool {
        if self.may_say_farewell.replace(false) {
            self.stage.set(Stage::Farewell);
        }
        self.stage.get() == Stage::Farewell
    }

    /// Ends a farewell that takes too long; what was cut is then cut hard.
    pub fn end_farewell(&self) {
        self.may_say_farewell.set(false);
        self.stage.set(Stage::Answering);
        if let Some(waker) = self.task.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready once a cut must end this exchange without another word, or its client has stopped reading for too long. Polled by the
    /// task that carries its bytes, before anything else.
    pub fn poll_hard_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stalled.get() {
            return Poll::Ready(());
        }
        let cut = self.exchange.cut.poll(Side::Downstream, cx).is_ready();
        if cut && self.stage.get() == Stage::Answering && !self.begin_farewell() {
            return Poll::Ready(());
        }
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Drops the client's body; what is left of it will not come. Half of a cut: the other half is dropping what answers.
    pub fn empty(&self) {
        self.uploading.set(false);
        if self.upload.borrow_mut().take().is_some() {
            self.broken.set(true);
        }
    }

    /// Whoever was told that nothing moves did not come to hear it: under back-pressure hyper asks for no body. Ends the exchange.
    pub fn end_stalled(&self) {
        self.stalled.set(true);
        if let Some(waker) = self.task.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The client stopped reading, and was not waited for any longer.
    pub fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    pub fn is_overdue(&self) -> bool {
        self.overdue.get().is_some()
    }

    /// Tells whoever waits for the upstream that it took too long.
    pub fn set_overdue(&self, why: Overdue) {
        self.overdue.set(Some(why));
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready once the upstream took too long.
    pub fn poll_overdue(&self, cx: &mut Context<'_>) -> Poll<Overdue> {
        if let Some(why) = self.overdue.get() {
            return Poll::Ready(why);
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The next frame of the client's body, without its trailers: nobody judged them.
    pub fn poll_upload(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, FlowError>>> {
        loop {
            if let Some(cause) = self.exchange.cut.cause() {
                return Poll::Ready(Some(Err(FlowError::Cut(cause))));
            }
            let mut slot = self.upload.borrow_mut();
            let Some(body) = slot.as_mut() else {
                // What was dropped before its end must not look like a body that ended.
                return Poll::Ready(self.broken.get().then_some(Err(FlowError::Over)));
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    slot.take();
                    self.uploading.set(false);
                    self.active.set(self.clock.get());
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.client_failed.set(true);
                    return Poll::Ready(Some(Err(FlowError::Client(error))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    drop(slot);
                    if let Ok(bytes) = frame.into_data() {
                        self.count(Direction::BytesIn, bytes.len());
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }

    /// Counts bytes from the client that are no request body.
    pub fn count_in(&self, bytes: usize) {
        self.count(Direction::BytesIn, bytes);
    }

    /// Counts bytes toward the client.
    pub fn count_out(&self, bytes: usize) {
        self.count(Direction::BytesOut, bytes);
    }

    /// Shows every byte that passes to anomaly rules as well.
    pub(super) fn set_meter(&self, watching: Rc<Watching>) {
        // Set twice it would be the same.
        let _ = self.meter.set(watching);
    }

    fn count(&self, way: Direction, bytes: usize) {
        let counter = match way {
            Direction::BytesIn => &self.bytes_in,
            Direction::BytesOut => &self.bytes_out,
        };
        counter.set(counter.get() + bytes as u64);
        self.active.set(self.clock.get());
        self.overdue.set(None);
        self.check_lease();
        if let Some(watching) = self.meter.get() {
            watching.moved(way, bytes as u64, self.clock.get());
        }
    }

    fn check_lease(&self) {
        let lease = self.lease.get();
        let over = |bound: Option<u64>, bytes: u64| bound.is_some_and(|bound| bytes > bound);
        if over(lease.max_bytes_in, self.bytes_in.get()) {
            self.door.cut(&self.exchange, Cause::LeaseBytesIn);
        } else if over(lease.max_bytes_out, self.bytes_out.get()) {
            self.door.cut(&self.exchange, Cause::LeaseBytesOut);
        }
    }

    fn upload_hint(&self) -> SizeHint {
        self.upload.borrow().as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The request body on its way up.
#[derive(Debug)]
pub enum Upload {
    /// Read before it was judged, or rewritten since.
    Whole(Option<Bytes>),
    /// What was read of it, and then the rest as it comes.
    Begun(Option<Bytes>, Rc<Flow>),
    Streamed(Rc<Flow>),
}

impl Body for Upload {
    type Data = Bytes;
    type Error = FlowError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes)))),
            Self::Begun(bytes, flow) => match bytes.take().filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => flow.poll_upload(cx).map(|next| next.map(|bytes| bytes.map(Frame::data))),
            },
            Self::Streamed(flow) => flow.poll_upload(cx).map(|next| next.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Begun(bytes, flow) => bytes.as_ref().is_none_or(Bytes::is_empty) && !flow.uploading() && !flow.broken.get(),
            Self::Streamed(flow) => !flow.uploading() && !flow.broken.get(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Begun(bytes, flow) => {
                let (read, rest) = (bytes.as_ref().map_or(0, |bytes| bytes.len() as u64), flow.upload_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
                    hint.set_upper(upper);
                }
                hint
            }
            Self::Streamed(flow) => flow.upload_hint(),
        }
    }
}

/// Why a body ended before its end.
#[derive(Debug)]
pub enum FlowError {
    Cut(Cause),
    Client(hyper::Error),
    Upstream(Fault),
    Overdue,
    /// The exchange ended while its request body was still coming.
    Over,
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(cause) => write!(f, "the exchange was cut: {cause}"),
            Self::Client(error) => write!(f, "the client's body ended in an error: {error}"),
            Self::Upstream(error) => write!(f, "the upstream's body ended in an error: {error}"),
            Self::Overdue => f.write_str("no byte went either way for too long"),
            Self::Over => f.write_str("the exchange ended before its request body did"),
        }
    }
}

impl std::error::Error for FlowError {
    /// h2 looks along the sources for the code of its RST_STREAM; without one a cut would read as an internal error.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Cut(_) => Some(CANCEL_ERROR.get_or_init(|| h2::Error::from(h2::Reason::CANCEL))),
            Self::Client(_) | Self::Upstream(_) | Self::Overdue | Self::Over => None,
        }
    }
}

static CANCEL_ERROR: std::sync::OnceLock<h2::Error> = std::sync::OnceLock::new();
