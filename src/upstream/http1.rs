//! An HTTP/1.1 connection, lent to one exchange at a time.
//!
//! In: a stream, then requests one after another. Out: response heads. While lent, the connection watches the exchange's cut: it is
//! dropped with a reset and writes nothing from then on, so the upstream learns that its client is gone.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::TE;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::config::Way;
use super::connect::{Proven, Stream};
use super::error::UpstreamError;
use crate::exchange::{Exchange, Side};
use crate::socket::Gate;

/// How long a connection that is still settling its last response is worth waiting for.
const SETTLES_WITHIN: Duration = Duration::from_millis(50);

/// The exchange a connection is lent to, as its socket and its task see it.
#[derive(Clone, Debug, Default)]
pub(super) struct Lent(Rc<RefCell<Option<Arc<Exchange>>>>);

impl Lent {
    fn to(&self, exchange: Option<Arc<Exchange>>) {
        self.0.replace(exchange);
    }

    /// Shut while the exchange it is lent to is cut.
    pub(super) fn gate(&self) -> Gate {
        let lent = self.clone();
        Gate::new(move || lent.is_cut())
    }

    fn is_cut(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|exchange| exchange.cut.cause().is_some())
    }

    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &*self.0.borrow() {
            Some(exchange) => exchange.cut.poll(Side::Upstream, cx).map(|_| ()),
            None => Poll::Pending,
        }
    }
}

/// A connection lent to one exchange. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Lease<B> {
    sender: SendRequest<B>,
    lent: Lent,
    pub(super) way: Arc<Way>,
    pub(super) proven: Option<Proven>,
    driver: AbortHandle,
}

/// Without it a request that is still being sent would be sent on, by nobody's leave: hyper lets an upload outlive its response.
impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        // A cut ends the driver by itself, and nothing is written meanwhile.
        if !self.lent.is_cut() {
            self.driver.abort();
        }
    }
}

/// What became of a request.
pub(super) enum Sent<B> {
    Answered(Response<Incoming>, Lease<B>),
    /// Not a byte of it left; it may be tried on another connection.
    Unsent(Request<B>),
    Failed(UpstreamError),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Speaks HTTP/1.1 on a stream whose gate is `lent`'s.
    pub(super) async fn open(stream: Stream, lent: Lent, way: Arc<Way>, proven: Option<Proven>) -> Result<Self, UpstreamError> {
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(UpstreamError::from_http1)?;
        let driver = tokio::task::spawn_local(drive(connection, lent.clone())).abort_handle();
        Ok(Self { sender, lent, way, proven, driver })
    }

    /// Sends a request, and waits for the response head.
    pub(super) async fn send(mut self, exchange: &Arc<Exchange>, mut request: Request<B>) -> Sent<B> {
        self.lent.to(Some(Arc::clone(exchange)));
        // Trailers are taken here whether or not they were asked for; to ask, `Connection` would have to name the field.
        request.headers_mut().remove(TE);
        match self.sender.try_send_request(request).await {
            Ok(response) => Sent::Answered(response, self),
            Err(mut unsent) => match unsent.take_message() {
                Some(request) => Sent::Unsent(request),
                None => Sent::Failed(UpstreamError::from_http1(unsent.into_error())),
            },
        }
    }

    /// True once the next request may be sent. Not ready: it was closed, or the response before is still being settled by its task.
    pub(super) async fn is_ready(&mut self) -> bool {
        self.sender.is_ready() || matches!(timeout(SETTLES_WITHIN, self.sender.ready()).await, Ok(Ok(())))
    }
}

impl<B> Lease<B> {
    /// Takes it from its exchange; false when it is of no use to another one.
    pub(super) fn take_back(&self) -> bool {
        self.lent.to(None);
        !self.is_closed()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Drives one connection until it ends, the exchange it is lent to is cut, or nobody holds it; then it is dropped. A cut one resets, as
/// soon as everything that waits has had its turn.
async fn drive<B>(connection: http1::Connection<TokioIo<Stream>, B>, lent: Lent)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        if lent.poll_cut(cx).is_ready() {
            return Poll::Ready(());
        }
        // How it ended is told to whoever waits for the response; here nobody is left to tell.
        connection.as_mut().poll(cx).map(|_| ())
    })
    .await;
    if lent.is_cut() {
        // Clients first. Of a thousand exchanges that are cut at once, closing the upstream's sockets took half of the time until the
        // last client had its reset; the gate of this one is shut, so nothing crosses it while the others are served.
        tokio::task::yield_now().await;
    }
}
