//! One HTTP/2 connection: each stream a task of its own that looks at its cut first.
//!
//! How a cut reaches a stream: `Service::call` opens the exchange and leaves its flow in the connection's slot; hyper then hands the
//! stream's future to our executor, which takes the flow and polls `cut, then stream`. A hard cut empties the request body's slot
//! and drops the stream; only when both are gone does h2 discard what it queued and send RST_STREAM(CANCEL), while siblings flow.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinSet;

use super::Entrance;
use super::channel::Channel;
use super::http1::{Tail, TailGuard, head_timeout, health, record_rejection};
use super::line::{Close, Line};
use super::stream::{Stream, Streams};
use crate::decision::{Protocol, Refusal};
use crate::proxy::downstream::Downstream;
use crate::proxy::open::Open;
use crate::proxy::worker::Worker;
use crate::proxy::{respond, serve};
use crate::wire::{Rejection, Wire};

/// What h2 may queue for a stream that its client does not read: as much may still leave after a kill whose worker is busy.
const SEND_BUFFER: usize = 64 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams a client may reset before we accepted them (CVE-2023-44487), and streams we reset for its errors (CVE-2025-8671).
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 128;
/// h2 answers a head over its limit by itself, with nothing but a status. With twice ours we come first, and what HPACK can blow up
/// is still bounded.
const HEADER_LIST_FACTOR: usize = 2;

/// Carries the connection to its end.
pub(super) async fn carry(
    worker: Rc<Worker>,
    entrance: Arc<Entrance>,
    downstream: Rc<Downstream>,
    line: Rc<Line>,
    channel: Channel,
) {
    let limits = &entrance.limits;
    let (wire, monitor) = Wire::http2(channel, entrance.wire_limits());
    line.watch(monitor.clone());
    let streams = Streams::default();
    let service = service_fn({
        let (worker, downstream, line) = (Rc::clone(&worker), Rc::clone(&downstream), Rc::clone(&line));
        let (streams, monitor) = (streams.clone(), monitor.clone());
        move |request| answer(&worker, &downstream, &line, &streams, TailGuard::opened(monitor.clone()), request)
    });
    let connection = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .enable_connect_protocol()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_header_list_size(u32::try_from(limits.header_bytes.bytes().saturating_mul(HEADER_LIST_FACTOR)).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(wire), service);
    let mut connection = pin!(connection);
    let mut draining = false;
    let mut telling = JoinSet::new();
    let mut tell_unopened = |ended| {
        while telling.try_join_next().is_some() {}
        let unopened = monitor.take_unopened(ended);
        if unopened > 0 {
            let (worker, entrance, downstream) = (Rc::clone(&worker), Arc::clone(&entrance), Rc::clone(&downstream));
            telling.spawn_local(async move { record_unopened(&worker, &entrance, &downstream, unopened).await });
        }
    };
    let rejected: Option<Rejection> = poll_fn(|cx| {
        match line.poll_order(cx) {
            Close::Now => return Poll::Ready(None),
            Close::HeadTimeout => return Poll::Ready(Some(head_timeout(&monitor))),
            Close::Gracefully if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Close::Gracefully | Close::AfterOne | Close::Open => {}
        }
        let ended = connection.as_mut().poll(cx).is_ready();
        tell_unopened(ended);
        if ended { Poll::Ready(None) } else { monitor.poll_rejected(cx).map(Some) }
    })
    .await;
    tell_unopened(true);
    if let Some(rejection) = rejected {
        // The connection is dropped as it stands: whoever floods it does not read a GOAWAY.
        let id = uuid::Uuid::new_v4().to_string();
        Box::pin(record_rejection(&worker, &entrance, &downstream, &id, &rejection, Protocol::Http2)).await;
    }
    while telling.join_next().await.is_some() {}
}

/// Records heads that h2 refused by itself. What was in them is not known here.
async fn record_unopened(worker: &Worker, entrance: &Entrance, downstream: &Downstream, heads: u64) {
    for _ in 0..heads {
        let id = uuid::Uuid::new_v4().to_string();
        let rejection = Rejection { refusal: Refusal::Http2Head, bytes_read: 0, method: None, target: None };
        record_rejection(worker, entrance, downstream, &id, &rejection, Protocol::Http2).await;
    }
}

fn answer(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    line: &Rc<Line>,
    streams: &Streams,
    tail: TailGuard,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Tail>, Infallible>> + 'static + use<> {
    let ready = health(worker, downstream, &request);
    let client = hyper::upgrade::on(&mut request);
    let open = ready.is_none().then(|| Open::new(Rc::clone(worker), Rc::clone(downstream), request));
    let stream = open.as_ref().map(|open| Stream::new(Rc::clone(&open.flow)));
    streams.expect(stream.clone());
    let last = (line.order() == Close::AfterOne).then(|| Rc::clone(line));
    async move {
        let mut response = match (open, ready) {
            (Some(open), _) => serve(open).await,
            (None, ready) => respond::health(ready.unwrap_or(false)),
        };
        if let Some(line) = last {
            line.close(Close::Gracefully);
        }
        if let Some((stream, tunnel)) = stream.zip(response.body_mut().take_tunnel()) {
            stream.open(tunnel, client, tail);
            return Ok(Tail::without_guard(response));
        }
        Ok(tail.guard(response))
    }
}
