//! Bytes both ways, once an exchange has left HTTP: a WebSocket, or whatever a CONNECT tunnel carries.
//!
//! In: the client's end, as its listener hands it over, and the upstream's. Out: the same bytes, counted, one bounded buffer a way, so
//! that who does not read holds up who sends. What must stay true: the cut is looked at before each read and each write, and what was
//! read when it came goes nowhere. A tunnel of opaque bytes has no last word: dropping it resets both ends. One of frames may end with a
//! Close where each end stands between two frames ([`farewell`]).
//!
//! It is one future, polled by the task that carries the connection or stream, so that a cut drops both ends at once.

mod farewell;
mod way;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use self::way::{Broken, Way};
use super::connect::Expected;
use super::flow::{Flow, Overdue, Stage};
use super::open::Open;
use super::websocket::frame::{self, Fault, Frames, Sender};
use crate::decision::{Cause, Ending};
use crate::metrics;
use crate::socket::Gate;
use crate::upstream::Stream;

/// What the bytes of a tunnel mean to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing: each way may end before the other, and a cut is a reset.
    Opaque,
    /// Frames of a WebSocket; `extended` where an extension was agreed on.
    WebSocket { extended: bool },
}

/// The upstream's end of a tunnel.
#[derive(Debug)]
pub struct Far {
    pub io: Stream,
    /// What came behind the head that opened the tunnel.
    pub early: Bytes,
    pub words: Words,
}

/// Whether the gate has something to say to the upstream of an exchange that is cut.
#[derive(Clone, Debug, Default)]
pub struct Words(Rc<Cell<bool>>);

impl Words {
    /// The gate of the upstream's socket: shut by the cut, but for the last words.
    pub fn gate(&self, flow: &Rc<Flow>) -> Gate {
        let (words, flow) = (self.clone(), Rc::clone(flow));
        Gate::new(move || flow.exchange.cut.cause().is_some() && !(words.0.get() && flow.stage() == Stage::Farewell))
    }
}

/// An exchange that has left HTTP, until its listener has the client's end for it.
#[derive(Debug)]
pub struct Tunnel {
    open: Rc<Open>,
    far: Far,
    framing: Framing,
    /// What its first bytes must be.
    expected: Option<Expected>,
}

/// Why the bytes ceased to flow.
#[derive(Debug)]
enum End {
    /// Both ways came to their end, or one did and there is no half of a WebSocket.
    Over,
    Cut(Cause),
    Overdue,
    Client,
    Upstream,
    Fault(Sender, Fault),
}

impl Tunnel {
    pub const fn new(open: Rc<Open>, far: Far, framing: Framing) -> Self {
        Self { open, far, framing, expected: None }
    }

    /// The same, held until its first bytes are what they must be.
    pub(super) fn expecting(self, expected: Expected) -> Self {
        Self { expected: Some(expected), ..self }
    }

    pub fn flow(&self) -> &Rc<Flow> {
        &self.open.flow
    }

    /// Carries the bytes until the tunnel ends; `early` are those of the client that came ahead of the answer.
    ///
    /// # Cancel safety
    /// Dropping the future drops both ends.
    pub async fn carry<D: AsyncRead + AsyncWrite + Unpin>(self, mut client: D, mut early: Bytes) {
        let Self { open, far, framing, expected } = self;
        open.flow.set_stage(Stage::Answering);
        if let Some(expected) = expected {
            let Some(held) = expected.hold(&open, &mut client, early).await else { return };
            early = held;
        }
        let frames = |sender| match framing {
            Framing::Opaque => None,
            Framing::WebSocket { extended } => Some(Frames::new(sender, extended)),
        };
        let mut bridge = Bridge {
            flow: Rc::clone(&open.flow),
            client,
            upstream: far.io,
            up: Way::new(&early, frames(Sender::Client)),
            down: Way::new(&far.early, frames(Sender::Server)),
            halves: framing == Framing::Opaque,
        };
        open.flow.set_may_say_farewell(framing != Framing::Opaque);
        let end = poll_fn(|cx| bridge.poll(cx)).await;
        let complete = bridge.is_complete();
        let client_left = bridge.up.at_end();
        if let Some(code) = code(&end).filter(|_| bridge.may_say()) {
            bridge.say_farewell(code, &far.words).await;
        }
        // Only now: until then its decision line may be told, which must not know of an end that is still to come.
        note(&open, &end, complete, client_left);
    }
}

/// What the record says of an end.
fn note(open: &Open, end: &End, complete: bool, client_left: bool) {
    match end {
        End::Over if complete => open.ended(Ending::Complete),
        End::Over if client_left => open.ended(Ending::ClientGone),
        End::Over | End::Upstream => {
            open.count_upstream_error(metrics::UpstreamError::Reset);
            open.ended(Ending::UpstreamReset);
        }
        End::Cut(_) => open.ended(Ending::Cut),
        End::Overdue => {
            open.count_upstream_error(metrics::UpstreamError::Idle);
            open.ended(Ending::IdleTimeout);
        }
        End::Client => open.ended(Ending::ClientGone),
        End::Fault(sender, fault) => {
            open.story(|story| story.fault = Some(format!("WebSocket: {fault}")));
            match sender {
                Sender::Client => open.ended(Ending::ClientError),
                Sender::Server => {
                    open.count_upstream_error(metrics::UpstreamError::Invalid);
                    open.ended(Ending::UpstreamInvalid);
                }
            }
        }
    }
}

/// What a WebSocket is closed with that ends like this; `None` where nobody is left to be told.
const fn code(end: &End) -> Option<u16> {
    match end {
        End::Over | End::Client | End::Upstream => None,
        End::Cut(Cause::Shutdown) | End::Overdue => Some(frame::GOING_AWAY),
        End::Cut(_) => Some(frame::POLICY_VIOLATION),
        End::Fault(..) => Some(frame::PROTOCOL_ERROR),
    }
}

/// Both ends and both ways between them.
struct Bridge<D> {
    flow: Rc<Flow>,
    client: D,
    upstream: Stream,
    up: Way,
    down: Way,
    /// One way may go on when the other has ended.
    halves: bool,
}

impl<D: AsyncRead + AsyncWrite + Unpin> Bridge<D> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Self { flow, client, upstream, up, down, halves } = self;
        if let Some(cause) = flow.exchange.cut.cause() {
            return Poll::Ready(End::Cut(cause));
        }
        let up = up.poll(client, upstream, &flow.exchange.cut, |bytes| flow.count_in(bytes), cx);
        let down = down.poll(upstream, client, &flow.exchange.cut, |bytes| flow.count_out(bytes), cx);
        // What flowed may have broken the lease.
        if let Some(cause) = flow.exchange.cut.cause() {
            return Poll::Ready(End::Cut(cause));
        }
        match (up, down) {
            (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Target))) => Poll::Ready(End::Client),
            (Poll::Ready(Err(Broken::Target)), _) | (_, Poll::Ready(Err(Broken::Source))) => Poll::Ready(End::Upstream),
            (Poll::Ready(Err(Broken::Fault(fault))), _) => Poll::Ready(End::Fault(Sender::Client, fault)),
            (_, Poll::Ready(Err(Broken::Fault(fault)))) => Poll::Ready(End::Fault(Sender::Server, fault)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Over),
            (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) if !*halves => Poll::Ready(End::Over),
            _ => flow.poll_overdue(cx).map(|_: Overdue| End::Overdue),
        }
    }
}

impl<D> Bridge<D> {
    /// Whether the gate may still speak: it does not where bytes are opaque, nor where a cut has become a hard one.
    fn may_say(&self) -> bool {
        !self.halves && self.flow.begin_farewell()
    }

    /// Both ways ended by their own leave: each at its end, or with a Close.
    const fn is_complete(&self) -> bool {
        if self.halves { self.up.at_end() && self.down.at_end() } else { self.up.closed() && self.down.closed() }
    }
}
