//! A body read whole before its request is judged.
//!
//! In: a request whose policy reads the body. Out: the body with what it parses to, or what was read of it and the denial that is. What
//! must stay true: no more than the limit and one piece is held, and not a byte that was read is lost.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::super::normalise::Request;
use super::super::open::Open;
use super::super::question::Body;
use super::super::respond::Stop;
use super::super::settings::Settings;
use super::observe::may_be_observed;
use crate::decision::Reason;
use crate::judge::body;

/// How long a body may take that must be read before it can be judged.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Reads the body whole, for a policy that reads it. What cannot be had whole is told with what was read of it: whether that denies
/// is its route's to say.
pub(super) async fn read_body(open: &Open, settings: &Settings, request: &Request) -> Result<Body, Stop> {
    let too_large = || Stop::denied(Reason::BodyTooLarge);
    let mut bytes = BytesMut::new();
    let whole = async {
        if request.declared_length.is_some_and(|length| length > settings.body_limit as u64) {
            return Err(too_large());
        }
        while let Some(next) = poll_fn(|cx| open.flow.poll_upload(cx)).await {
            bytes.extend_from_slice(&next.map_err(|_| Stop::denied(Reason::BodyIncomplete))?);
            if bytes.len() > settings.body_limit {
                return Err(too_large());
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout(BODY_WITHIN, whole).await.unwrap_or(Err(Stop::denied(Reason::BodyTimeout)));
    let bytes = bytes.freeze();
    match read.and_then(|()| parsed(open, settings, request, bytes.clone())) {
        Err(Stop::Denied(reason, _)) if may_be_observed(reason) => Ok(Body::Begun { bytes, reason }),
        read => read,
    }
}

pub(super) fn parsed(open: &Open, settings: &Settings, request: &Request, bytes: Bytes) -> Result<Body, Stop> {
    let field = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    let parsed = body::parse(field(CONTENT_TYPE), field(CONTENT_ENCODING), &bytes, settings.body_depth)
        .map_err(|error| unreadable(open, &error))?;
    Ok(Body::Whole { bytes, parsed })
}

pub(super) fn unreadable(open: &Open, error: &body::BodyError) -> Stop {
    open.story(|story| story.fault = Some(error.to_string()));
    Stop::denied(Reason::BodyUnreadable)
}
