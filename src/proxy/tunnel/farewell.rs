//! The gate's last words on a WebSocket: a Close to each end that stands between two frames.
//!
//! In: both ends, and what it is closed with. Out: both closed within a second. The rest of a frame is sent only where it was read before;
//! an end in the middle of a frame whose rest has not come gets no Close, because it would read it as payload, and is reset. Nothing
//! passes from one end to the other any more: what still comes is read for the answering Close, and thrown away.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::way::Way;
use super::{Bridge, Words};
use crate::proxy::websocket::frame;

/// How long it may take, from the cut.
const WITHIN: Duration = Duration::from_secs(1);
/// What everybody is told; why stands in the record.
const REASON: &str = "closed by the gate";

/// What is said to one end, and how far that has come.
struct Saying {
    /// `None`: nothing can be said.
    words: Option<Vec<u8>>,
    said: usize,
    flushed: bool,
    answered: bool,
    over: bool,
}

impl Saying {
    /// `toward` leads to the end that is spoken to.
    fn new(toward: &Way, close: Vec<u8>) -> Self {
        let words = toward.rest_of_frame().map(|rest| {
            let mut words = rest.to_vec();
            if !toward.closed() {
                words.extend(close);
            }
            words
        });
        Self { words, said: 0, flushed: false, answered: false, over: false }
    }

    /// Ready when all was said and answered, or can never be. `from` leads away from the end that is spoken to.
    fn poll<E: AsyncRead + AsyncWrite + Unpin>(&mut self, end: &mut E, from: &mut Way, cx: &mut Context<'_>) -> Poll<()> {
        let Some(words) = &self.words else { return Poll::Ready(()) };
        while let Some(left) = words.get(self.said..).filter(|left| !left.is_empty()) {
            match ready!(Pin::new(&mut *end).poll_write(cx, left)) {
                Ok(said) if said > 0 => self.said += said,
                Ok(_) | Err(_) => {
                    self.words = None;
                    return Poll::Ready(());
                }
            }
        }
        if !self.flushed {
            let _ = ready!(Pin::new(&mut *end).poll_flush(cx));
            self.flushed = true;
        }
        if !self.answered {
            ready!(from.poll_close(end, cx));
            self.answered = true;
        }
        if !self.over {
            let _ = ready!(Pin::new(&mut *end).poll_shutdown(cx));
            self.over = true;
        }
        Poll::Ready(())
    }
}

impl<D: AsyncRead + AsyncWrite + Unpin> Bridge<D> {
    /// Says Close to both ends and waits for their answers, for a second; then what did not end well is reset.
    pub(super) async fn say_farewell(mut self, code: u16, words: &Words) {
        let exchange = &self.flow.exchange;
        let since = exchange.cut.order().map_or(Duration::ZERO, |(since, _)| since);
        let [mask @ .., _, _, _, _, _, _, _, _, _, _, _, _] = uuid::Uuid::new_v4().into_bytes();
        let mut to_client = Saying::new(&self.down, frame::close(code, REASON, None));
        let mut to_upstream = Saying::new(&self.up, frame::close(code, REASON, Some(mask)));
        words.0.set(true);
        // Nothing of either end crosses any more.
        exchange.cut.acknowledge();
        let both = poll_fn(|cx| {
            let client = to_client.poll(&mut self.client, &mut self.up, cx);
            let upstream = to_upstream.poll(&mut self.upstream, &mut self.down, cx);
            if client.is_ready() && upstream.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        // An end that does not answer is reset below.
        let _ = timeout(WITHIN.saturating_sub(since), both).await;
        words.0.set(to_upstream.over);
        let Self { flow, client, upstream, .. } = self;
        drop(upstream);
        if !to_client.over {
            flow.end_farewell();
        }
        drop(client);
    }
}
