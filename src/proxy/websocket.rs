//! An admitted request for a WebSocket: shake hands with the upstream, and let a tunnel follow.
//!
//! In: the request as it was judged, in one form for HTTP/1.1 and HTTP/2. Out: the answer that opens the tunnel, or the upstream's other
//! answer, which goes down as any does. What must stay true: the upstream gets a connection and a key of its own, never the client's, and
//! nothing the client sent behind its request is anything before the upstream has agreed.
//!
//! Toward the upstream it is HTTP/1.1 whatever the client speaks: few upstreams take RFC 8441, and a tunnel uses up a connection either way.

pub mod frame;
pub mod handshake;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response};

use self::handshake::{Asked, Ours, Unagreed};
use super::admit::Admitted;
use super::download::Reply;
use super::flow::{Overdue, Stage, Upload};
use super::open::Open;
use super::respond::Stop;
use super::tunnel::{Far, Framing, Tunnel, Words};
use super::{answer_with, strip_hop_by_hop, upstream_request};
use crate::decision::Reason;
use crate::upstream::{Switch, UpstreamError};

/// Sends the request on, and answers it.
pub(super) async fn answer(open: &Rc<Open>, admitted: Admitted, asked: &Asked, last_event: bool) -> Result<Response<Reply>, Stop> {
    let internal = || Stop::denied(Reason::Internal);
    let pinned = admitted.pinned();
    let Admitted { request, response_headers, settings, upstream, host, .. } = admitted;
    let target = settings.upstreams.get(upstream).ok_or_else(internal)?;
    let upstream = pinned.as_ref().unwrap_or(&target.upstream);
    let ours = Ours::new(uuid::Uuid::new_v4().into_bytes()).ok_or_else(internal)?;
    let mut sent = upstream_request(request, Upload::Whole(None), host).ok_or_else(internal)?;
    ours.write(sent.headers_mut());
    let words = Words::default();
    let began = Instant::now();
    let mut sending = pin!(open.worker.pool.switch(upstream, open.exchange(), words.gate(&open.flow), sent));
    let switch = poll_fn(|cx| match sending.as_mut().poll(cx) {
        Poll::Pending => open.flow.poll_overdue(cx).map(|_: Overdue| Err(UpstreamError::ResponseTimeout)),
        ready => ready,
    });
    let switch = switch.await.map_err(Stop::Upstream)?;
    target.metrics.seconds.observe(began.elapsed().as_secs_f64());
    match switch {
        Switch::Answered(answer) => Ok(answer_with(open, answer, None, response_headers, last_event)),
        Switch::Switched { head, io, early } => {
            let agreed = open.read_request(|request| ours.check(&head.headers, &request.headers)).unwrap_or(Err(Unagreed::Upgrade));
            let extended = agreed.map_err(|fault| Stop::Upstream(UpstreamError::Unagreed(fault.to_string())))?;
            let tunnel = Tunnel::new(Rc::clone(open), Far { io, early, words }, Framing::WebSocket { extended });
            Ok(opened(open, head.headers, response_headers, asked, tunnel))
        }
    }
}

/// The answer behind which the tunnel begins.
fn opened(
    open: &Open,
    mut headers: HeaderMap,
    added: Vec<(HeaderName, HeaderValue)>,
    asked: &Asked,
    tunnel: Tunnel,
) -> Response<Reply> {
    strip_hop_by_hop(&mut headers);
    for (name, value) in added {
        // A response whose head is full goes down without the addition; the client's verdict was never in it.
        let _ = headers.try_append(name, value);
    }
    let status = handshake::answer(asked, &mut headers);
    open.story(|story| story.status = Some(status.as_u16()));
    open.flow.set_stage(Stage::Answering);
    let mut response = Response::new(Reply::Tunnel(Some(Box::new(tunnel))));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
