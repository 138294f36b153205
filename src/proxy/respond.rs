//! The only place where a refusal, a denial or a fault becomes an answer.
//!
//! In: why a request does not pass. Out: a response that says so and nothing about the policy's inside. What must stay true: the
//! match is exhaustive, and whatever cannot be told properly is still a denial. RFC 9457 for HTTP, a trailers-only response with
//! `grpc-status` for gRPC (gRPC over HTTP/2, "Responses").

use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode, Version};

use super::download::Reply;
use super::edit;
use super::flow::Stage;
use super::grpc::Status;
use super::open::Open;
use crate::audit::{Outcome, Why};
use crate::decision::{Cause, Ending, Reason, Refusal, Transport};
use crate::metrics;
use crate::upstream::UpstreamError;
use crate::verdict::Denial;

/// Why a request does not pass, or did not come back.
#[derive(Debug)]
pub enum Stop {
    /// Before a policy was asked.
    Refused(Refusal),
    Denied(Reason, Denial),
    Cut(Cause),
    Upstream(UpstreamError),
    Panic,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Stop {
    pub fn denied(reason: Reason) -> Self {
        Self::Denied(reason, Denial::default())
    }
}

/// What an answer says.
struct Told<'a> {
    status: u16,
    /// The same to a gRPC caller.
    call: Status,
    code: &'a str,
    title: &'a str,
}

/// Answers a request that does not pass, and notes in its story why.
pub fn stop(open: &Rc<Open>, grpc: bool, stop: Stop) -> Response<Reply> {
    let mut response = told(open, grpc, stop);
    if has_no_content(open, response.status())
        && let Reply::Own { bytes, .. } = response.body_mut()
    {
        bytes.take();
    }
    response
}

/// hyper leaves a body out where HTTP/1.1 would be broken by it; on HTTP/2 it sends what it is given, and a client then resets the
/// stream instead of reading the denial (RFC 9110 sections 9.3.2, 15.3.5, 15.3.6 and 15.4.5).
fn has_no_content(open: &Open, status: StatusCode) -> bool {
    let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    empty || (open.downstream.transport == Transport::Http2 && open.asks_for_head())
}

fn told(open: &Rc<Open>, grpc: bool, stop: Stop) -> Response<Reply> {
    match stop {
        Stop::Refused(refusal) => refused(open, grpc, refusal),
        Stop::Denied(reason, denial) => denied(open, grpc, reason, &denial),
        Stop::Cut(cause) => cut(open, grpc, cause),
        Stop::Upstream(error) => failed(open, grpc, &error),
        Stop::Panic => {
            open.worker.services.metrics.panics.inc();
            open.ended(Ending::Panic);
            denied(open, grpc, Reason::Internal, &Denial::default())
        }
    }
}

fn refused(open: &Rc<Open>, grpc: bool, refusal: Refusal) -> Response<Reply> {
    open.worker.services.metrics.requests_refused.of(refusal).inc();
    note(open, Outcome::Refused, Why::Refused(refusal));
    open.ended(Ending::Refused);
    let mut told = refusal_told(refusal);
    if refusal == Refusal::NoRoute && open.is_outbound() {
        // In front of a service a name without a route is not there; beside an agent it is not allowed.
        told.status = 403;
    }
    let mut response = problem(open, grpc, &told);
    if refusal.has_two_readings() {
        close(&mut response, open);
    }
    response
}

const fn refusal_told(refusal: Refusal) -> Told<'static> {
    let call = Status::of_refusal(refusal);
    Told { status: refusal.status(), call, code: refusal.code(), title: "The request was refused" }
}

fn denied(open: &Rc<Open>, grpc: bool, reason: Reason, denial: &Denial) -> Response<Reply> {
    note(open, Outcome::Deny, Why::Denied(reason));
    open.count_denied(reason);
    open.suspect_denial(reason);
    open.ended(Ending::Denied);
    let status = denial.status.unwrap_or_else(|| reason.status());
    let told = Told { status, call: Status::of_reason(reason, status), code: reason.code(), title: title(reason) };
    let mut response = problem(open, grpc, &told);
    if grpc {
        return response;
    }
    if let Some(body) = &denial.body {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.body_mut() = own(open, Bytes::copy_from_slice(body.as_bytes()));
    }
    // Headers nobody may set are left out: the client is denied either way, and the fault stands in the record.
    match edit::response_headers(&denial.headers) {
        Ok(fields) => replace(response.headers_mut(), fields),
        Err(error) => open.story(|story| story.fault = Some(error.to_string())),
    }
    response
}

const fn title(reason: Reason) -> &'static str {
    match reason {
        Reason::Policy => "Denied by policy",
        Reason::Anomaly => "An anomaly rule refused the request",
        Reason::Killed => "This identity or what it was doing has been killed",
        Reason::BodyTooLarge | Reason::BodyIncomplete | Reason::BodyTimeout | Reason::BodyUnreadable => {
            "The request body cannot be judged"
        }
        Reason::Expired => "The certificate of the caller has ended",
        Reason::OwnCertificate => "The gate has no certificate of its own that is valid now",
        Reason::PolicyStale => "The gate's policy has not been confirmed for too long",
        Reason::NoPolicy
        | Reason::Undefined
        | Reason::PolicyError
        | Reason::PolicyTimeout
        | Reason::PolicyPanic
        | Reason::VerdictType
        | Reason::Unsettled
        | Reason::RewriteUnstable
        | Reason::EditRefused
        | Reason::Internal => "The gate could not decide, and so denies",
    }
}

/// The answer to a request that was cut before its response began.
fn cut(open: &Rc<Open>, grpc: bool, cause: Cause) -> Response<Reply> {
    let reason = match cause {
        Cause::Kill | Cause::Shutdown | Cause::IdentityWithdrawn => Reason::Killed,
        Cause::Anomaly => Reason::Anomaly,
        Cause::PolicyStale => Reason::PolicyStale,
        Cause::CertificateExpired => Reason::Expired,
        Cause::Policy
        | Cause::NoRoute
        | Cause::BodyGone
        | Cause::LeaseAge
        | Cause::LeaseBytesIn
        | Cause::LeaseBytesOut
        | Cause::ServerName => Reason::Policy,
    };
    if open.story(|story| story.outcome.is_none()) {
        note(open, Outcome::Deny, Why::Denied(reason));
        open.count_denied(reason);
    }
    open.ended(Ending::Cut);
    let call = Status::of_reason(reason, 403);
    problem(open, grpc, &Told { status: 403, call, code: reason.code(), title: title(reason) })
}

fn failed(open: &Rc<Open>, grpc: bool, error: &UpstreamError) -> Response<Reply> {
    let (status, ending, kind) = match error {
        UpstreamError::Resolve(_) | UpstreamError::Connect(_) => (502, Ending::UpstreamConnect, metrics::UpstreamError::Connect),
        UpstreamError::ConnectTimeout => (504, Ending::UpstreamConnect, metrics::UpstreamError::Connect),
        UpstreamError::ResponseTimeout => (504, Ending::UpstreamTimeout, metrics::UpstreamError::Timeout),
        UpstreamError::Reset(_) | UpstreamError::Body(_) => (502, Ending::UpstreamReset, metrics::UpstreamError::Reset),
        UpstreamError::Identity(_) => (502, Ending::UpstreamIdentity, metrics::UpstreamError::Identity),
        UpstreamError::Invalid(_) | UpstreamError::Unsendable | UpstreamError::Switched | UpstreamError::Unagreed(_) => {
            (502, Ending::UpstreamInvalid, metrics::UpstreamError::Invalid)
        }
    };
    if open.flow.client_failed() {
        open.ended(Ending::ClientError);
        let call = Status::of_http(400);
        return problem(open, grpc, &Told { status: 400, call, code: "body_incomplete", title: "The request body broke off" });
    }
    open.count_upstream_error(kind);
    open.ended(ending);
    open.story(|story| story.fault = Some(error.to_string()));
    let told = Told { status, call: Status::of_http(status), code: ending.code(), title: "The upstream did not answer" };
    problem(open, grpc, &told)
}

fn note(open: &Open, outcome: Outcome, why: Why) {
    open.story(|story| {
        story.outcome = Some(outcome);
        story.why = Some(why);
        story.decided_at.get_or_insert_with(SystemTime::now);
    });
}

fn own(open: &Rc<Open>, bytes: Bytes) -> Reply {
    Reply::Own { bytes: Some(bytes), open: Some(Rc::clone(open)) }
}

fn problem(open: &Rc<Open>, grpc: bool, told: &Told<'_>) -> Response<Reply> {
    let mut response =
        if grpc { told.call.response(told.code, Reply::Own { bytes: None, open: None }) } else { problem_json(told, &open.id) };
    open.story(|story| story.status = Some(response.status().as_u16()));
    if let Reply::Own { open: slot, .. } = response.body_mut() {
        *slot = Some(Rc::clone(open));
    }
    // An exchange that was cut may still say so: these are the only bytes its socket lets through.
    if open.exchange().cut.cause().is_some() {
        open.flow.set_stage(Stage::Farewell);
        open.flow.empty();
        close(&mut response, open);
    }
    // A body that was announced and not read makes the connection's next bytes unreadable; hyper drains a little, and closes else.
    if open.flow.uploading() {
        close(&mut response, open);
    }
    response
}

/// `application/problem+json` (RFC 9457), without anything about the policy's inside.
fn problem_json(told: &Told<'_>, id: &str) -> Response<Reply> {
    let body = serde_json::json!({
        "type": "about:blank", "title": told.title, "status": told.status, "code": told.code, "decision_id": id,
    });
    let mut response = Response::new(Reply::Own { bytes: Some(Bytes::from(body.to_string())), open: None });
    *response.status_mut() = StatusCode::from_u16(told.status).unwrap_or(StatusCode::FORBIDDEN);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn replace(headers: &mut HeaderMap, fields: Vec<(http::HeaderName, HeaderValue)>) {
    for (name, _) in &fields {
        headers.remove(name);
    }
    for (name, value) in fields {
        // A map that is full takes no more; a denial without one of its headers is still the denial.
        let _ = headers.try_append(name, value);
    }
}

fn close(response: &mut Response<Reply>, open: &Open) {
    if open.downstream.transport == Transport::Http1 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The answer to a head that was refused before hyper saw it, as it stands on an HTTP/1.1 connection.
pub fn rejection(refusal: Refusal, id: &str) -> Bytes {
    let told = refusal_told(refusal);
    let response = problem_json(&told, id);
    let Reply::Own { bytes, .. } = response.body() else { return Bytes::new() };
    let body = bytes.as_deref().unwrap_or_default();
    let status = response.status();
    let head = format!(
        "{:?} {} {}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        Version::HTTP_11,
        status.as_u16(),
        status.canonical_reason().unwrap_or("Refused"),
        body.len(),
    );
    Bytes::from([head.as_bytes(), body].concat())
}

/// Whether the gate is ready, for load balancers.
pub fn health(ready: bool) -> Response<Reply> {
    let text: &'static [u8] = if ready { b"ready\n" } else { b"not ready\n" };
    let mut response = Response::new(Reply::Own { bytes: Some(Bytes::from_static(text)), open: None });
    *response.status_mut() = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
