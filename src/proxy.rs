//! One exchange, top to bottom.
//!
//! In: a request on a connection whose peer is proven. Out: the response that goes down, and one line in the record. The walk is
//! [`pass`]; whatever stops it becomes an answer in `respond`. Two things are true on every way out: nothing was forwarded before
//! an allow of the active generation, and a cut is seen before anything else.
//!
//! ```text
//! open       registered; kills can find it                       open.rs
//! normalise  one reading, or refused                             normalise/
//! anomaly    counted in; refused where a rule says so               anomaly.rs
//! admit      route → standing kills → judge → rewrite → look again   admit.rs, question.rs
//! send       upstream, decision recorded first where asked       upstream
//! answer     both bodies flow until they end or are cut          flow.rs, download.rs
//! ```

mod admit;
pub mod again;
mod anomaly;
mod connect;
mod counted;
pub mod download;
pub mod downstream;
pub mod edit;
mod farewell;
pub mod flow;
mod grpc;
mod mask;
pub mod normalise;
pub mod open;
pub mod outbound;
mod question;
pub mod record;
pub mod respond;
pub mod route;
pub mod settings;
pub mod shadow;
pub mod tunnel;
pub mod watched;
pub mod websocket;
pub mod worker;

use std::future::{Future, poll_fn};
use std::hash::RandomState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, UPGRADE};
use http::{HeaderMap, Request, Response, Uri};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::anomaly::Watch;
use crate::decision::{Protocol, Reason, Refusal, Transport};
use crate::exchange::Side;
use crate::policy::ResultShape;
use crate::upstream::{self, UpstreamError};
use admit::Admitted;
use download::{Download, Reply};
use farewell::Farewell;
use flow::{Overdue, Stage};
use open::Open;
use respond::Stop;

/// One of a listener's `routes`. The first whose hosts and path prefix match takes the request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    pub name: String,
    /// Exact names, `*.example.org` for any one label, or `*`.
    #[serde(default = "any_host")]
    pub hosts: Vec<String>,
    /// Whole segments: /v1 takes /v1 and /v1/users, not /v10.
    #[serde(default = "root")]
    pub path_prefix: String,
    /// A name of `upstreams`.
    pub upstream: String,
    /// The host the upstream is asked for: a name, with a port where it needs one, or `preserve`: the one the client asked for.
    #[serde(default = "preserve")]
    pub upstream_host: String,
    /// The listener's own when absent.
    #[serde(default)]
    pub enforcement: Option<EnforcementConfig>,
    /// Another rule than `policy.decision`.
    #[serde(default)]
    pub decision: Option<String>,
    #[serde(default)]
    pub result: Option<ResultShape>,
}

/// Whether a denial by policy blocks, or is only recorded. Identity, normalising and kills block either way.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum EnforcementConfig {
    #[default]
    Enforce,
    Observe,
}

/// The upstream is asked for the host the client asked for.
const PRESERVE: &str = "preserve";

fn preserve() -> String {
    PRESERVE.to_owned()
}

fn any_host() -> Vec<String> {
    vec!["*".to_owned()]
}

fn root() -> String {
    "/".to_owned()
}

/// Answers one request. Never fails: whatever goes wrong is a denial.
pub async fn serve(open: Rc<Open>) -> Response<Reply> {
    let grpc = open.protocol == Protocol::Grpc;
    let mut walk = pin!(pass(&open));
    let stopped = poll_fn(|cx| {
        if let Poll::Ready(cause) = open.exchange().cut.poll(Side::Downstream, cx) {
            return Poll::Ready(Err(Stop::Cut(cause)));
        }
        // A panic in one request denies that request only.
        catch_unwind(AssertUnwindSafe(|| walk.as_mut().poll(cx))).unwrap_or(Poll::Ready(Err(Stop::Panic)))
    });
    match stopped.await {
        Ok(response) => response,
        Err(stop) => respond::stop(&open, grpc, blamed(&open, stop)),
    }
}

/// A cut that came while the walk was polled breaks the upstream's side as well, and that is seen first. It is not the upstream's fault.
fn blamed(open: &Open, stop: Stop) -> Stop {
    match (stop, open.exchange().cut.cause()) {
        (Stop::Upstream(_), Some(cause)) => Stop::Cut(cause),
        (stop, _) => stop,
    }
}

/// The walk of a request.
async fn pass(open: &Rc<Open>) -> Result<Response<Reply>, Stop> {
    // Before we know you: room for the record, one reading, a name that is ours, a proven caller.
    let recent = open.worker.reads_recent();
    let settings = open.worker.settings();
    open.story(|story| story.settings = Some(Rc::clone(&settings)));
    let listener = settings.listener(open.downstream.listener).ok_or(Stop::denied(Reason::Internal))?;
    let read = open.read(|head| normalise::normalise(head, &listener.reading));
    let room = open.worker.services.audit.reserve(2).await.map_err(|_| Stop::Refused(Refusal::RecordFull))?;
    open.hold(room);
    let request = read.ok_or(Stop::denied(Reason::Internal))??;
    served_here(open, listener, &request)?;
    if !open.worker.services.identified.load(Ordering::Relaxed) {
        // A connection from before does not outlive who we were: what it is told would no longer be told by anybody proven.
        return Err(Stop::denied(Reason::OwnCertificate));
    }
    let peer = open.downstream.peer.as_ref().ok_or(Refusal::NoIdentity)?;

    // After we know you: the session as it stood before, the rules about it, then the judge.
    let sessions = &open.worker.services.sessions;
    let (id, limit) = (&open.downstream.caller.session, settings.exchanges_per_identity);
    let watch = || Watch::new(&settings.anomaly, &peer.spiffe_id, open.began, RandomState::new());
    let (session, watch) = sessions.enter(id, &peer.name, open.began, (limit, recent), watch).map_err(|_| Refusal::TooMany)?;
    open.joined_session();
    anomaly::asked(open, &settings, watch, &request)?;
    let mut admitted = admit::admit(open, request, &session).await?;
    recorded(open).await?;

    // After an allow: the upstream, and what comes back.
    if admitted.request.is_tunnel() {
        return connect::connect(open, admitted).await;
    }
    let last_event = listener.sse_last_event;
    if let Some(asked) = admitted.request.websocket.take() {
        return websocket::answer(open, admitted, &asked, last_event).await;
    }
    let (answer, lease, added) = send(open, admitted).await?;
    Ok(answer_with(open, answer, Some(lease), added, last_event))
}

/// A request for a name that is not ours, or not the one the connection was opened for, belongs elsewhere (RFC 9110 section 7.4).
fn served_here(open: &Open, listener: &settings::Listener, request: &normalise::Request) -> Result<(), Stop> {
    if listener.is_outbound() {
        // The host is somebody else's, and the server name was the gate's.
        return Ok(());
    }
    // Asked of the host and not of the server name, which a client may leave out.
    let ours = listener.server_names.is_empty() || listener.server_names.contains(&request.host);
    let meant = open.downstream.server_name.as_ref().is_none_or(|name| *name == request.host);
    if ours && meant { Ok(()) } else { Err(Stop::Refused(Refusal::Misdirected)) }
}

/// Waits until the decision is as durable as configured; only then may a byte go up.
async fn recorded(open: &Open) -> Result<(), Stop> {
    let durable_first = open.worker.services.audit.durable_before_forwarding();
    if let Some(ack) = durable_first.then(|| open.tell_decision()).flatten() {
        ack.recorded().await.map_err(|_| Stop::Refused(Refusal::RecordFull))?;
    }
    open.count_passed();
    Ok(())
}

type Answered = (Response<upstream::Answer>, upstream::Lease<flow::Upload>, Vec<(HeaderName, HeaderValue)>);

async fn send(open: &Rc<Open>, admitted: Admitted) -> Result<Answered, Stop> {
    let pinned = admitted.pinned();
    let Admitted { request, upload, response_headers, settings, upstream, host, .. } = admitted;
    let target = settings.upstreams.get(upstream).ok_or(Stop::denied(Reason::Internal))?;
    let upstream = pinned.as_ref().unwrap_or(&target.upstream);
    let request = upstream_request(request, upload, host).ok_or(Stop::denied(Reason::Internal))?;
    let began = Instant::now();
    let mut sending = pin!(open.worker.pool.send(upstream, open.exchange(), request));
    let sent = poll_fn(|cx| match sending.as_mut().poll(cx) {
        Poll::Pending => open.flow.poll_overdue(cx).map(|_: Overdue| Err(UpstreamError::ResponseTimeout)),
        ready => ready,
    });
    let (answer, lease) = sent.await.map_err(Stop::Upstream)?;
    target.metrics.seconds.observe(began.elapsed().as_secs_f64());
    Ok((answer, lease, response_headers))
}

/// The request as the upstream's connection writes it: origin-form, one Host, nothing that was not judged.
fn upstream_request(request: normalise::Request, upload: flow::Upload, host: Option<HeaderValue>) -> Option<Request<flow::Upload>> {
    let mut sent = Request::new(upload);
    *sent.method_mut() = request.method.clone();
    *sent.uri_mut() = Uri::try_from(request.target()).ok()?;
    let host = host.or_else(|| HeaderValue::from_str(&request.authority()).ok())?;
    *sent.headers_mut() = request.headers;
    sent.headers_mut().insert(HOST, host);
    if request.takes_trailers {
        sent.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    Some(sent)
}

fn answer_with(
    open: &Rc<Open>,
    answer: Response<upstream::Answer>,
    lease: Option<upstream::Lease<flow::Upload>>,
    added: Vec<(HeaderName, HeaderValue)>,
    last_event: bool,
) -> Response<Reply> {
    let (mut head, body) = answer.into_parts();
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return respond::stop(open, false, Stop::Upstream(UpstreamError::Switched));
    }
    strip_hop_by_hop(&mut head.headers);
    for (name, value) in added {
        // A response whose head is full goes down without the addition; the client's verdict was never in it.
        let _ = head.headers.try_append(name, value);
    }
    let events = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    open.story(|story| story.status = Some(head.status.as_u16()));
    open.flow.set_stage(Stage::Answering);
    // On HTTP/1.1 trailers reach only who asked for them; half of the callers would take the cut for an end.
    let calls = open.protocol == Protocol::Grpc && open.downstream.transport == Transport::Http2;
    let farewell = if calls { Some(Farewell::messages()) } else { (events && last_event).then(Farewell::events) };
    let mut response = Response::new(Reply::Download(Box::new(Download::new(Rc::clone(open), body, lease, farewell))));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if open.flow.uploading() && open.downstream.transport == Transport::Http1 {
        // The upstream answered before it had the whole body. What is left of it must not be read as the next request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Takes off what belongs to the upstream's connection (RFC 9110 section 7.6.1).
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named.iter().filter(|name| **name != http::header::CONTENT_LENGTH) {
        headers.remove(name);
    }
    // `Trailer` stays: it is not hop-by-hop, and without it hyper sends an HTTP/1.1 client none.
    for name in [CONNECTION, UPGRADE, http::header::TRANSFER_ENCODING, http::header::PROXY_AUTHENTICATE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}
