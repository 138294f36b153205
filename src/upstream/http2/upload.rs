//! The request body on its way up an HTTP/2 stream.
//!
//! In: a body and the sending half of a stream. Out: DATA frames as the upstream gives window for them, until the body ends or its
//! exchange is cut. What must stay true: whatever ends the stream early resets it, because a dropped stream would first send what is
//! queued; and no more is taken from the body than one frame ahead of what the upstream takes.
//! The first frame is kept until the response begins: a request the upstream says it never looked at can then be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame, SizeHint};

use crate::exchange::{Exchange, Side};

/// What is asked of h2's buffer at once; more would take the connection's window from its siblings.
const RESERVED: usize = 16 * 1024;

/// A body whose first frame can be had twice.
#[derive(Debug)]
pub(in crate::upstream) struct Replay<B> {
    body: B,
    first: First,
}

#[derive(Debug)]
enum First {
    NotTaken,
    Taken(Bytes),
    /// More than one was taken; there is no way back.
    Gone,
    /// To be had again, before the body goes on.
    Again(Bytes),
}

impl<B> Replay<B> {
    pub(in crate::upstream) const fn new(body: B) -> Self {
        Self { body, first: First::NotTaken }
    }

    /// The body from its beginning, where that is still possible.
    pub(super) fn again(self) -> Option<Self> {
        let first = match self.first {
            First::NotTaken => First::NotTaken,
            First::Taken(bytes) | First::Again(bytes) => First::Again(bytes),
            First::Gone => return None,
        };
        Some(Self { first, ..self })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        if let First::Again(bytes) = &self.first {
            let bytes = bytes.clone();
            self.first = First::Taken(bytes.clone());
            return Poll::Ready(Some(Ok(bytes)));
        }
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    // Trailers of a request were judged by nobody; there are none in what the gate forwards.
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.first = match self.first {
                        First::NotTaken => First::Taken(bytes.clone()),
                        First::Taken(_) | First::Gone | First::Again(_) => First::Gone,
                    };
                    return Poll::Ready(Some(Ok(bytes)));
                }
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        !matches!(self.first, First::Again(_)) && self.body.is_end_stream()
    }
}

/// For upstreams that speak HTTP/1.1, whose connections take the same body.
impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.poll_next(cx).map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        Self::is_end_stream(self)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How an upload came to its end.
#[derive(Debug)]
pub(super) enum End<E> {
    /// All of it is with h2.
    Whole,
    /// The upstream wants no more of it, or the connection broke; the response says which.
    Refused,
    Cut,
    Body(E),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Upload<B> {
    stream: SendStream<Bytes>,
    /// None once it was taken back.
    body: Option<Replay<B>>,
    exchange: Arc<Exchange>,
    waiting: Option<Bytes>,
    whole: bool,
    /// Both directions have ended as they should.
    complete: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// `whole` when the request's head already said that there is no body.
    pub(super) const fn new(stream: SendStream<Bytes>, body: Replay<B>, exchange: Arc<Exchange>, whole: bool) -> Self {
        Self { stream, body: Some(body), exchange, waiting: None, whole, complete: false }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End<B::Error>> {
        if self.whole {
            return Poll::Ready(End::Whole);
        }
        if self.exchange.cut.poll(Side::Upstream, cx).is_ready() {
            return Poll::Ready(End::Cut);
        }
        loop {
            // Asked first, so that this task is woken when the upstream resets the stream.
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(End::Refused);
            }
            if let Some(bytes) = self.waiting.take() {
                match self.poll_send(cx, bytes) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(End::Refused),
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            }
            let Some(body) = &mut self.body else { return Poll::Ready(End::Refused) };
            match ready!(body.poll_next(cx)) {
                Some(Ok(bytes)) => {
                    self.stream.reserve_capacity(bytes.len().min(RESERVED));
                    self.waiting = Some(bytes);
                }
                Some(Err(error)) => return Poll::Ready(End::Body(error)),
                None => {
                    self.whole = self.stream.send_data(Bytes::new(), true).is_ok();
                    return Poll::Ready(if self.whole { End::Whole } else { End::Refused });
                }
            }
        }
    }

    /// Sends as much as there is window for; false when the stream takes nothing any more.
    fn poll_send(&mut self, cx: &mut Context<'_>, mut bytes: Bytes) -> Poll<bool> {
        while !bytes.is_empty() {
            let room = match self.stream.capacity() {
                0 => match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(room))) => room,
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(false),
                    Poll::Pending => {
                        self.waiting = Some(bytes);
                        return Poll::Pending;
                    }
                },
                room => room,
            };
            let next = bytes.split_to(room.min(bytes.len()));
            if self.stream.send_data(next, false).is_err() {
                return Poll::Ready(false);
            }
            self.stream.reserve_capacity(bytes.len().min(RESERVED));
        }
        Poll::Ready(true)
    }

    /// True once all of it is with h2.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Gives the body back, from its beginning, to be sent again elsewhere; `None` when too much of it was taken.
    pub(super) fn into_body(mut self) -> Option<Replay<B>> {
        self.body.take().and_then(Replay::again)
    }
}

impl<B> Upload<B> {
    /// The response has ended. Where the request has too, there is nothing left to reset.
    pub(super) const fn response_ended(&mut self) {
        self.complete = self.whole;
    }
}

impl<B> Drop for Upload<B> {
    fn drop(&mut self) {
        if !self.complete {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}
