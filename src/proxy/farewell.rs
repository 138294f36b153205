//! The last word of a response that was cut, and where in it that word may stand.
//!
//! In: the bytes of a response as they go down. Out: whether what has passed ends a message, and the frame that ends the response
//! politely there. Anywhere else there is none, and the cut is a hard one: half a message must not look like a whole one.

use bytes::Bytes;
use http_body::Frame;

use super::grpc;

/// The last event of a server-sent event stream, where the configuration wants one.
const LAST_EVENT: &[u8] = b"event: portcullis\ndata: {\"code\":\"cut\"}\n\n";

/// What a response is made of, as far as its last word goes.
#[derive(Debug)]
pub(super) enum Farewell {
    /// Server-sent events. A blank line ends one (HTML Living Standard, section 9.2.5).
    Events { tail: [u8; 2] },
    /// Messages of a gRPC call, which ends in trailers.
    Messages(grpc::Messages),
}

impl Farewell {
    /// Before the first event is between events as well.
    pub(super) const fn events() -> Self {
        Self::Events { tail: *b"\n\n" }
    }

    pub(super) fn messages() -> Self {
        Self::Messages(grpc::Messages::default())
    }

    pub(super) fn see(&mut self, bytes: &[u8]) {
        match (self, bytes) {
            (Self::Events { tail }, [.., before, last]) => *tail = [*before, *last],
            (Self::Events { tail }, [last]) => *tail = [tail[1], *last],
            (Self::Events { .. }, []) => {}
            (Self::Messages(messages), bytes) => messages.see(bytes),
        }
    }

    pub(super) fn may_be_said(&self) -> bool {
        match self {
            Self::Events { tail } => tail == b"\n\n",
            Self::Messages(messages) => messages.between(),
        }
    }

    pub(super) fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Events { .. } => Frame::data(Bytes::from_static(LAST_EVENT)),
            Self::Messages(_) => grpc::cut(),
        }
    }
}
