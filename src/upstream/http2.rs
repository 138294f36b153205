//! An HTTP/2 connection to an upstream, shared by the exchanges of one worker.
//!
//! In: a stream of bytes, then requests, many at once. Out: response heads, and for each a lease that resets its own stream when it is
//! dropped early. Why h2 and not hyper's client on top of it: hyper hands each request body to a task of its own, which a cut does not
//! reach, cannot give a request back that the upstream says it never looked at, and takes RST_STREAM(CANCEL) for the end of a body.
//! Here an exchange's own task drives its stream; a task is made only for an upload that outlives the response head.

mod download;
mod upload;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::config::Way;
use super::connect::{Proven, Stream};
use super::error::UpstreamError;
use crate::exchange::Exchange;
pub(super) use download::Download;
pub(super) use upload::Replay;
use upload::{End, Upload};

/// Streams on one connection; the upstream may ask for fewer.
const STREAMS: usize = 100;
/// What an upstream may send ahead of a client that does not read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// All streams stalled at once must not stall the connection, or one client's silence would be everybody's.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
/// What h2 may queue toward an upstream that gives no window: as much may still leave after a kill whose worker is busy.
const SEND_BUFFER: usize = 64 * 1024;
const HEADER_LIST: u32 = 64 * 1024;
/// How long a connection with open streams may be quiet before it is asked whether it lives, and how long it may take to say so.
const QUIET_FOR: Duration = Duration::from_secs(15);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// gRPC servers close connections that ask more often while nothing flows.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(310);
/// How long a connection that nobody needs may take to say so.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Connection {
    pub(super) way: Arc<Way>,
    pub(super) proven: Option<Proven>,
    sender: RefCell<SendRequest<Bytes>>,
    open: Cell<usize>,
    life: RefCell<Life>,
    heard: Cell<bool>,
    driver: AbortHandle,
    /// Dropped with the connection; its driver then says goodbye.
    _farewell: oneshot::Sender<()>,
}

/// Signs of life.
struct Life {
    pings: Option<PingPong>,
    /// When something was last heard, or there began to be something to hear.
    heard: Instant,
    asked: Option<Instant>,
    waiting: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("way", &self.way).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Connection {
    /// Speaks HTTP/2 on a stream. The upstream's preface is not waited for.
    pub(super) async fn open(stream: Stream, way: Arc<Way>, proven: Option<Proven>) -> Result<Rc<Self>, UpstreamError> {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(UpstreamError::from_http2)?;
        let life = Life { pings: connection.ping_pong(), heard: Instant::now(), asked: None, waiting: false };
        let (farewell, nobody) = oneshot::channel();
        let driver = tokio::task::spawn_local(drive(connection, nobody)).abort_handle();
        Ok(Rc::new(Self {
            way,
            proven,
            sender: RefCell::new(sender),
            open: Cell::new(0),
            life: RefCell::new(life),
            heard: Cell::new(false),
            driver,
            _farewell: farewell,
        }))
    }

    /// False once the upstream said that it takes no more requests here, or the connection broke.
    pub(super) fn is_usable(&self) -> bool {
        let mut sender = self.sender.borrow_mut();
        // No waker: a place that is pending is looked at again with the next request.
        !matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// A place for one more stream, where there is one.
    pub(super) fn take_place(self: &Rc<Self>) -> Option<Place> {
        let most = self.sender.borrow().current_max_send_streams().min(STREAMS);
        let open = self.open.get();
        (open < most).then(|| {
            if open == 0 {
                self.heard();
            }
            self.open.set(open + 1);
            Place(Rc::clone(self))
        })
    }

    /// Something came from the upstream. When is noted by the next sweep: a clock read for each chunk would be dear.
    fn heard(&self) {
        self.heard.set(true);
    }

    /// Asks a quiet connection whether it lives, and breaks it off when it does not say so.
    pub(super) fn look_after(&self, now: Instant) {
        let mut life = self.life.borrow_mut();
        let Life { pings: Some(pings), heard, asked, waiting } = &mut *life else { return };
        if self.heard.take() || self.is_idle() {
            *heard = now;
        }
        let mut nobody = Context::from_waker(Waker::noop());
        if *waiting && pings.poll_pong(&mut nobody).is_ready() {
            *waiting = false;
        }
        let since = |at: Instant| now.saturating_duration_since(at);
        if *waiting {
            if asked.is_some_and(|asked| since(asked) > ANSWERS_WITHIN) {
                self.driver.abort();
            }
        } else if since(*heard) > QUIET_FOR && asked.is_none_or(|asked| *heard > asked || since(asked) > ASKED_AGAIN_AFTER) {
            *waiting = pings.send_ping(Ping::opaque()).is_ok();
            *asked = Some(now);
        }
    }
}

/// Drives one connection until it ends or nobody needs it; then it says so and closes.
async fn drive(connection: h2::client::Connection<Stream, Bytes>, mut nobody: oneshot::Receiver<()>) {
    let mut connection = pin!(connection);
    let over = poll_fn(|cx| {
        if Pin::new(&mut nobody).poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        // How it ended is told to each of its streams.
        connection.as_mut().poll(cx).map(|_| true)
    });
    if !over.await {
        let _ = timeout(FAREWELL_WITHIN, connection).await;
    }
}

/// One of the streams a connection may carry.
#[derive(Debug)]
pub(super) struct Place(Rc<Connection>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// One stream. Dropping it before both of its directions have ended resets it.
pub(super) struct Lease<B> {
    upload: Rc<Cell<Option<Upload<B>>>>,
    uploader: Option<AbortHandle>,
    _place: Place,
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        self.upload.take();
        if let Some(uploader) = &self.uploader {
            uploader.abort();
        }
    }
}

impl<B> fmt::Debug for Lease<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("place", &self._place).finish_non_exhaustive()
    }
}

/// Why there is no response head.
enum Ended {
    Upstream(h2::Error),
    Body(Box<dyn std::error::Error + Send + Sync>),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends the body while the head is waited for.
    fn poll_head(&self, response: &mut ResponseFuture, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Ended>> {
        if let Some(mut upload) = self.upload.take() {
            match upload.poll(cx) {
                Poll::Pending | Poll::Ready(End::Whole | End::Refused) => self.upload.set(Some(upload)),
                // The stream is reset by this; whoever waits is told of the cut itself.
                Poll::Ready(End::Cut) => return Poll::Pending,
                Poll::Ready(End::Body(error)) => return Poll::Ready(Err(Ended::Body(error.into()))),
            }
        }
        Pin::new(response).poll(cx).map_err(Ended::Upstream)
    }

    /// Goes on sending the body although the response has begun: from here on the exchange's own task may wait for its client.
    fn upload_on(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let whole = upload.is_whole();
        self.upload.set(Some(upload));
        if whole {
            return;
        }
        let slot = Rc::clone(&self.upload);
        let rest = poll_fn(move |cx| {
            let Some(mut upload) = slot.take() else { return Poll::Ready(()) };
            let polled = upload.poll(cx);
            match &polled {
                Poll::Pending | Poll::Ready(End::Whole | End::Refused) => slot.set(Some(upload)),
                Poll::Ready(End::Cut | End::Body(_)) => {}
            }
            polled.map(|_| ())
        });
        self.uploader = Some(tokio::task::spawn_local(rest).abort_handle());
    }
}

impl<B> Lease<B> {
    /// The response was read to its end.
    pub(super) fn response_ended(self) {
        if let Some(mut upload) = self.upload.take() {
            upload.response_ended();
        }
    }
}

/// What became of a request.
pub(super) enum Sent<B> {
    Answered(Response<Download>, Lease<B>),
    /// The upstream never looked at it; it may be tried on another connection.
    Unsent(Box<Request<Replay<B>>>),
    Failed(UpstreamError),
}

/// Sends a request on one stream, and waits for the response head.
///
/// Only a request that the upstream did not process comes back: one that never left, or one that it refused with REFUSED_STREAM or
/// with a GOAWAY that names an earlier stream as its last (RFC 9113 section 8.7).
pub(super) async fn send<B>(place: Place, exchange: &Arc<Exchange>, request: Request<Replay<B>>) -> Sent<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let mut sender = place.0.sender.borrow().clone();
    let unsent = |parts, body| Sent::Unsent(Box::new(Request::from_parts(parts, body)));
    if poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
        return unsent(parts, body);
    }
    let Some(head) = head(&parts, &place.0.way) else { return Sent::Failed(UpstreamError::Unsendable) };
    let whole = body.is_end_stream();
    let (mut response, stream) = match sender.send_request(head, whole) {
        Ok(sent) => sent,
        // The connection ended between the two calls.
        Err(error) if error.is_io() || error.is_go_away() => return unsent(parts, body),
        Err(error) => return Sent::Failed(UpstreamError::from_http2(error)),
    };
    let connection = Rc::clone(&place.0);
    let upload = Upload::new(stream, body, Arc::clone(exchange), whole);
    let mut lease = Lease { upload: Rc::new(Cell::new(Some(upload))), uploader: None, _place: place };
    match poll_fn(|cx| lease.poll_head(&mut response, cx)).await {
        Ok(response) => {
            connection.heard();
            lease.upload_on();
            let (head, stream) = response.into_parts();
            let declared = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            Sent::Answered(Response::from_parts(head, Download::new(stream, connection, declared)), lease)
        }
        Err(Ended::Upstream(error)) if never_looked_at(&error) => match lease.upload.take().and_then(Upload::into_body) {
            Some(body) => unsent(parts, body),
            None => Sent::Failed(UpstreamError::from_http2(error)),
        },
        Err(Ended::Upstream(error)) => Sent::Failed(UpstreamError::from_http2(error)),
        Err(Ended::Body(error)) => Sent::Failed(UpstreamError::Body(error)),
    }
}

/// h2 gives a GOAWAY's error to the streams above the last one it names, and to no other.
fn never_looked_at(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)))
}

/// The head as HTTP/2 writes it: `host` is `:authority`.
fn head(parts: &Parts, way: &Way) -> Option<Request<()>> {
    let mut headers = parts.headers.clone();
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if way.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(headers.remove(HOST)?.to_str().ok()?.parse().ok()?);
    uri.path_and_query = Some(parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.uri_mut() = Uri::from_parts(uri).ok()?;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers;
    Some(head)
}
