//! One HTTP/1.1 connection: hyper behind the strict wire, one exchange at a time.
//!
//! What must stay true: before hyper moves a byte, the cut of the exchange it carries is looked at; a hard cut drops hyper and the
//! socket goes down with a reset. A head that `wire` refused is answered here, after the answers before it were flushed.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::channel::Channel;
use super::line::{Close, Line};
use super::{Entrance, LAST_WORDS_WITHIN};
use crate::audit::{Line as RecordLine, Record, readable_target};
use crate::decision::{Protocol, Refusal};
use crate::proxy::download::Reply;
use crate::proxy::downstream::Downstream;
use crate::proxy::flow::FlowError;
use crate::proxy::open::Open;
use crate::proxy::tunnel::Tunnel;
use crate::proxy::worker::Worker;
use crate::proxy::{record, respond, serve};
use crate::wire::{Monitor, Rejection, Wire};

/// hyper never reads with a smaller buffer.
const SMALLEST_BUFFER: usize = 8192;

/// How long a client may go on with a body nobody wants before it takes the answer; nginx' `lingering_timeout`.
const LINGERS: Duration = Duration::from_secs(5);

/// How a connection came to its end.
enum End {
    /// hyper is done with it.
    Done,
    /// What it carried was cut, or it was ordered to end at once.
    Cut,
    Rejected(Rejection),
}

/// Carries the connection to its end.
pub(super) async fn carry(
    worker: Rc<Worker>,
    entrance: Arc<Entrance>,
    downstream: Rc<Downstream>,
    line: Rc<Line>,
    channel: Channel,
) {
    let limits = &entrance.limits;
    let (wire, monitor) = Wire::http1(channel, entrance.wire_limits());
    line.watch(monitor.clone());
    let service = service_fn({
        let (worker, downstream, line, monitor) = (Rc::clone(&worker), Rc::clone(&downstream), Rc::clone(&line), monitor.clone());
        move |request| answer(&worker, &downstream, &line, &monitor, request)
    });
    let mut connection = http1::Builder::new()
        .half_close(false)
        .max_buf_size(limits.header_bytes.bytes().max(SMALLEST_BUFFER))
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(wire), service);
    let mut draining = false;
    let end = poll_fn(|cx| {
        match line.poll_order(cx) {
            Close::Now => return Poll::Ready(End::Cut),
            Close::HeadTimeout => return Poll::Ready(End::Rejected(head_timeout(&monitor))),
            Close::Gracefully if !draining => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Close::Gracefully | Close::AfterOne | Close::Open => {}
        }
        let mut polled = false;
        loop {
            let before = line.current();
            if let Some(flow) = &before
                && flow.poll_hard_cut(cx).is_ready()
            {
                flow.empty();
                return Poll::Ready(End::Cut);
            }
            // A poll of hyper may have opened an exchange; its cut needs this task's waker before we go to sleep.
            if polled && before.as_ref().map(Rc::as_ptr) == line.current().as_ref().map(Rc::as_ptr) {
                break;
            }
            polled = true;
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(End::Done);
            }
        }
        monitor.poll_rejected(cx).map(End::Rejected)
    })
    .await;
    match (end, line.take_tunnel()) {
        (End::Done, Some((tunnel, _tail))) => {
            let parts = connection.into_parts();
            let (tls, held) = parts.io.into_inner().into_upgraded();
            // `wire` lets hyper have nothing behind the head that asked for it.
            Box::pin(carry_tunnel(&line, tunnel, tls, [parts.read_buf, held].concat().into())).await;
        }
        (End::Rejected(rejection), _) => {
            let wire = connection.into_parts().io.into_inner();
            Box::pin(reject(&worker, &entrance, &downstream, wire, rejection)).await;
        }
        // Answered before the request's body had come; what was cut goes down at once.
        (End::Done, _) if (monitor.in_body() || line.left_http()) && !line.is_shut() && line.order() != Close::Now => {
            let mut tls = connection.into_parts().io.into_inner().into_inner();
            let say = async {
                // hyper leaves it to others where the request asked to leave HTTP, whatever the answer was.
                tls.shutdown().await?;
                throw_away(&mut tls).await
            };
            let mut said = Box::pin(tokio::time::timeout(LINGERS, say));
            poll_fn(|cx| if line.poll_order(cx) == Close::Now { Poll::Ready(()) } else { said.as_mut().poll(cx).map(drop) }).await;
        }
        (End::Done | End::Cut, _) => {
            drop(connection);
            // A head behind an exchange that took the connection with it was refused all the same.
            if let Some(rejection) = monitor.take_rejection() {
                let id = uuid::Uuid::new_v4().to_string();
                Box::pin(record_rejection(&worker, &entrance, &downstream, &id, &rejection, Protocol::Http1)).await;
            }
        }
    }
}

/// Carries what follows on a connection that has left HTTP; cut and orders come first as before.
async fn carry_tunnel(line: &Line, tunnel: Tunnel, tls: Channel, early: Bytes) {
    let flow = Rc::clone(tunnel.flow());
    let mut carried = pin!(tunnel.carry(tls, early));
    poll_fn(|cx| {
        if line.poll_order(cx) == Close::Now || flow.poll_hard_cut(cx).is_ready() {
            return Poll::Ready(());
        }
        carried.as_mut().poll(cx)
    })
    .await;
}

/// hyper's call for one request. The exchange is opened here, not in the future this returns, which nobody may have polled when a
/// kill comes.
fn answer(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    line: &Rc<Line>,
    monitor: &Monitor,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Tail>, Infallible>> + 'static + use<> {
    // Whatever follows a request to leave HTTP is no request: `wire` lets none through, so the connection ends with a refusal.
    let leaves = request.headers().contains_key(UPGRADE) || request.method() == http::Method::CONNECT;
    line.set_left_http(leaves);
    let close = leaves || line.order() == Close::AfterOne;
    let tail = TailGuard::opened(monitor.clone());
    let ready = health(worker, downstream, &request);
    let open = ready.is_none().then(|| {
        let open = Open::new(Rc::clone(worker), Rc::clone(downstream), request);
        line.carry(Rc::clone(&open.flow));
        open
    });
    let line = Rc::clone(line);
    async move {
        let mut response = match (open, ready) {
            // Boxed: hyper keeps room for this future as long as the connection lives, and most connections idle.
            (Some(open), _) => Box::pin(serve(open)).await,
            (None, ready) => respond::health(ready.unwrap_or(false)),
        };
        if let Some(tunnel) = response.body_mut().take_tunnel() {
            line.open(tunnel, tail);
            return Ok(Tail::without_guard(response));
        }
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(tail.guard(response))
    }
}

/// Whether a load balancer asks for health here, and the answer. Not an exchange: nothing is forwarded, judged or recorded.
pub(super) fn health<B>(worker: &Worker, downstream: &Downstream, request: &Request<B>) -> Option<bool> {
    let settings = worker.settings();
    let listener = settings.listener(downstream.listener)?;
    let path = listener.health.as_deref()?;
    // Beside an agent a path of somebody else's must not be taken for ours.
    let ours = !listener.is_outbound() || request.uri().authority().is_none();
    (ours && request.uri().path() == path && matches!(*request.method(), http::Method::GET | http::Method::HEAD))
        .then(|| worker.services.ready.load(std::sync::atomic::Ordering::Relaxed))
}

/// A response body that tells the wire when it is over.
pub(super) struct Tail {
    reply: Reply,
    _guard: Option<TailGuard>,
}

impl Tail {
    /// The body of an answer that something else outlives, which holds the guard.
    pub(super) fn without_guard(response: Response<Reply>) -> Response<Self> {
        response.map(|reply| Self { reply, _guard: None })
    }
}

/// Counts an exchange with the wire from here until it is dropped.
pub(super) struct TailGuard(Monitor);

impl TailGuard {
    pub(super) fn opened(monitor: Monitor) -> Self {
        monitor.exchange_opened();
        Self(monitor)
    }

    pub(super) fn guard(self, response: Response<Reply>) -> Response<Tail> {
        response.map(|reply| Tail { reply, _guard: Some(self) })
    }
}

impl Drop for TailGuard {
    fn drop(&mut self) {
        self.0.exchange_closed();
    }
}

impl Body for Tail {
    type Data = Bytes;
    type Error = FlowError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        Pin::new(&mut self.reply).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

pub(super) fn head_timeout(monitor: &Monitor) -> Rejection {
    Rejection { refusal: Refusal::HeaderTimeout, bytes_read: monitor.bytes_in(), method: None, target: None }
}

/// Answers and records a head that hyper never saw.
async fn reject(worker: &Worker, entrance: &Entrance, downstream: &Downstream, wire: Wire<Channel>, rejection: Rejection) {
    let id = uuid::Uuid::new_v4().to_string();
    record_rejection(worker, entrance, downstream, &id, &rejection, Protocol::Http1).await;
    let mut tls = wire.into_inner();
    let answer = respond::rejection(rejection.refusal, &id);
    let say = async {
        tls.write_all(&answer).await?;
        tls.shutdown().await?;
        throw_away(&mut tls).await
    };
    // A peer that does not take its refusal has had it all the same; the record says so.
    let _ = tokio::time::timeout(LAST_WORDS_WITHIN, say).await;
}

/// Reads what the peer still sends, for a moment: closing on unread bytes would reset, and the reset would overtake the answer
/// (RFC 9112 section 9.6). A client that writes its whole body before it reads must get through that much to see why it was refused,
/// so the moment ends it, and the bound is for who sends faster than anybody honest.
async fn throw_away(tls: &mut Channel) -> std::io::Result<()> {
    let mut thrown = [0; 4096];
    let mut left: usize = 64 * 1024 * 1024;
    while left > 0 {
        match tls.read(&mut thrown).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

/// Records what was refused before hyper saw it.
pub(super) async fn record_rejection(
    worker: &Worker,
    entrance: &Entrance,
    downstream: &Downstream,
    id: &str,
    rejection: &Rejection,
    protocol: Protocol,
) {
    let services = &worker.services;
    services.metrics.requests_refused.of(rejection.refusal).inc();
    let Ok(mut room) = services.audit.reserve(1).await else { return };
    let refused = record::Rejected {
        refusal: rejection.refusal,
        protocol,
        bytes_read: rejection.bytes_read,
        method: rejection.method.clone(),
        target: rejection.target.as_deref().map(|target| readable_target(target.as_bytes())),
    };
    let peer = downstream.peer.as_ref().map(|peer| &*peer.name);
    let record = Record {
        requested_by: Some(downstream.remote),
        ..Record::new(SystemTime::now(), id, record::rejected(id, &entrance.name, peer, &refused))
    };
    drop(room.write(RecordLine::Decision(&record)));
}
