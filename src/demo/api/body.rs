//! What the demo API answers with: bytes at once, or pieces at a steady pace.
//!
//! A paced body counts itself while it lives, so that a cut that reached the upstream can be seen there.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

/// The body of a response.
#[derive(Debug)]
pub(super) enum Content {
    Whole(Option<Bytes>),
    Paced(Paced),
}

/// Pieces number 1 to `last`, one a tick.
#[derive(Debug)]
pub(super) struct Paced {
    ticks: Interval,
    next: u64,
    last: u64,
    piece: fn(u64) -> Bytes,
    _counted: Counted,
}

/// One of the streams being sent, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(watch::Sender<usize>);

impl Counted {
    pub(super) fn new(streams: &watch::Sender<usize>) -> Self {
        streams.send_modify(|open| *open += 1);
        Self(streams.clone())
    }
}

impl Content {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn paced(every: Duration, last: u64, piece: fn(u64) -> Bytes, streams: &watch::Sender<usize>) -> Self {
        let mut ticks = tokio::time::interval(every);
        // A reader that stalled gets no burst afterwards: the pace is the point.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Paced(Paced { ticks, next: 1, last, piece, _counted: Counted::new(streams) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Paced(paced) => {
                if paced.next > paced.last {
                    return Poll::Ready(None);
                }
                ready!(paced.ticks.poll_tick(cx));
                let piece = (paced.piece)(paced.next);
                paced.next += 1;
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Paced(paced) => paced.next > paced.last,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Paced(_) => SizeHint::default(),
        }
    }
}
