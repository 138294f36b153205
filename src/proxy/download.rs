//! A response on its way down: what the client's connection reads, and the guard that ends the exchange when it is dropped.
//!
//! In: an answer of the gate's own, or the upstream's body with the connection it comes from. Out: frames, counted, stopped at once
//! by a cut. What must stay true: a broken upstream body never ends cleanly, and a connection whose response was not read to the
//! end, or whose request is still being sent, never goes back into the pool.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::farewell::Farewell;
use super::flow::{FlowError, Overdue, Upload};
use super::open::Open;
use super::tunnel::Tunnel;
use crate::decision::Ending;
use crate::metrics;
use crate::upstream::{Answer, Lease};

/// A response body.
#[derive(Debug)]
pub enum Reply {
    /// The gate's own words.
    Own {
        bytes: Option<Bytes>,
        open: Option<Rc<Open>>,
    },
    Download(Box<Download>),
    /// None: what follows is no HTTP any more. Its listener takes the tunnel out.
    Tunnel(Option<Box<Tunnel>>),
}

/// The upstream's body.
#[derive(Debug)]
pub struct Download {
    /// These two first: the last of `open` says that nothing of the exchange is left, and a stream of it must be gone by then.
    lease: Option<Lease<Upload>>,
    body: Answer,
    open: Rc<Open>,
    /// What may be said when it is cut; nothing where its protocol or the configuration knows no last word.
    farewell: Option<Farewell>,
    over: bool,
}

impl Download {
    pub(super) fn new(open: Rc<Open>, body: Answer, lease: Option<Lease<Upload>>, farewell: Option<Farewell>) -> Self {
        let mut download = Self { open, body, lease, farewell, over: false };
        download.note_boundary();
        download
    }

    fn note_boundary(&mut self) {
        self.open.flow.set_may_say_farewell(self.farewell.as_ref().is_some_and(Farewell::may_be_said));
    }

    fn complete(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.open.ended(Ending::Complete);
            if let Some(lease) = self.lease.take().filter(|_| !self.open.flow.uploading()) {
                self.open.worker.pool.give_back(lease);
            }
        }
    }

    fn fail(&mut self, ending: Ending, error: FlowError) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        self.over = true;
        self.lease.take();
        self.open.ended(ending);
        Poll::Ready(Some(Err(error)))
    }

    fn count_upstream_error(&self, kind: metrics::UpstreamError) {
        self.open.count_upstream_error(kind);
    }

    fn last_word(&mut self, word: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        self.over = true;
        self.lease.take();
        Poll::Ready(Some(Ok(word)))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        if let Some(cause) = self.open.exchange().cut.cause() {
            // Its task may not have seen the cut yet: whoever sees it first asks for the last word.
            return match self.farewell.take().filter(|_| self.open.flow.begin_farewell()) {
                Some(farewell) => self.last_word(farewell.frame()),
                None => self.fail(Ending::Cut, FlowError::Cut(cause)),
            };
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    self.open.flow.count_out(bytes.len());
                    if let Some(farewell) = &mut self.farewell {
                        farewell.see(bytes);
                        self.note_boundary();
                    }
                }
                // A chunk that broke the lease does not pass: the bound is what may pass, not what may pass before we look.
                match self.open.exchange().cut.cause() {
                    Some(cause) => self.fail(Ending::Cut, FlowError::Cut(cause)),
                    None => Poll::Ready(Some(Ok(frame))),
                }
            }
            Poll::Ready(Some(Err(error))) => {
                // An HTTP/2 stream whose request the client broke is reset by us, and its response ends with it.
                if self.open.flow.client_failed() {
                    return self.fail(Ending::ClientError, FlowError::Upstream(error));
                }
                self.count_upstream_error(metrics::UpstreamError::Reset);
                self.fail(Ending::UpstreamReset, FlowError::Upstream(error))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => match self.open.flow.poll_overdue(cx) {
                Poll::Ready(Overdue::Idle | Overdue::Response) => {
                    self.count_upstream_error(metrics::UpstreamError::Idle);
                    self.fail(Ending::IdleTimeout, FlowError::Overdue)
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl Reply {
    /// The tunnel that follows this answer, where one does.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match self {
            Self::Tunnel(tunnel) => tunnel.take().map(|tunnel| *tunnel),
            Self::Own { .. } | Self::Download(_) => None,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // hyper stops asking once it has as many bytes as the response declared.
        if !self.over && self.body.is_end_stream() && self.open.exchange().cut.cause().is_none() {
            self.complete();
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = FlowError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        match &mut *self {
            Self::Own { bytes, open } => match bytes.take().filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => {
                    if let Some(open) = open {
                        open.flow.count_out(bytes.len());
                    }
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                None => Poll::Ready(None),
            },
            Self::Tunnel(_) => Poll::Ready(None),
            Self::Download(download) if download.over => Poll::Ready(None),
            Self::Download(download) => download.poll_body(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { bytes, .. } => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Download(download) => download.over || download.body.is_end_stream(),
            Self::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Download(download) => download.body.size_hint(),
            Self::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
