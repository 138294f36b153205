//! A response body as it comes down an HTTP/2 stream.
//!
//! In: the receiving half of a stream. Out: data, then trailers, then the end; or an error for whatever is not an end. What must stay
//! true: a stream that was reset never ends cleanly, whatever its code. (hyper's own reader takes CANCEL for an end, and what was
//! broken off would go down as whole.)

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

use super::Connection;

/// See the module.
#[derive(Debug)]
pub(in crate::upstream) struct Download {
    stream: RecvStream,
    connection: Rc<Connection>,
    declared: Option<u64>,
    data_over: bool,
}

impl Download {
    pub(super) const fn new(stream: RecvStream, connection: Rc<Connection>, declared: Option<u64>) -> Self {
        Self { stream, connection, declared, data_over: false }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    self.connection.heard();
                    // Given back when it is handed on, so that a client that does not read holds up its own stream only.
                    let _ = self.stream.flow_control().release_capacity(bytes.len());
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_over = true,
            }
        }
        self.connection.heard();
        Poll::Ready(ready!(self.stream.poll_trailers(cx)).transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match (self.stream.is_end_stream(), self.declared) {
            (true, _) => SizeHint::with_exact(0),
            (false, Some(length)) => SizeHint::with_exact(length),
            (false, None) => SizeHint::default(),
        }
    }
}
