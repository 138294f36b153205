//! The body of a response, whichever protocol it came by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::error::Fault;
use super::http2::Download;

/// The body of a response.
#[derive(Debug)]
pub struct Answer(Kind);

#[derive(Debug)]
enum Kind {
    Http1(Incoming),
    Http2(Download),
}

impl Answer {
    pub(super) const fn http1(body: Incoming) -> Self {
        Self(Kind::Http1(body))
    }

    pub(super) const fn http2(body: Download) -> Self {
        Self(Kind::Http2(body))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut self.0 {
            Kind::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Fault::Http1),
            Kind::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Fault::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
        }
    }
}
