//! Why there is no response, or no more of one.
//!
//! In: what resolving, connecting, TLS, HTTP/1.1 and HTTP/2 say. Out: whose fault it was, in a few words that answers, records and
//! metrics are told by. One connection attempt can fail many who wait for it, so that an error of connecting can be told again.

use std::io;

use crate::tls::{self, PeerError};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("resolving the upstream's name: {0}")]
    Resolve(#[source] io::Error),
    #[error("connecting to the upstream: {0}")]
    Connect(#[source] io::Error),
    #[error("the upstream did not accept a connection in time")]
    ConnectTimeout,
    /// Somebody else answered, or somebody who cannot prove to be who was expected.
    #[error("the upstream is not who was expected: {0}")]
    Identity(String),
    #[error("the upstream did not answer in time")]
    ResponseTimeout,
    #[error("the connection to the upstream broke: {0}")]
    Reset(#[source] Fault),
    #[error("the upstream's answer is not HTTP: {0}")]
    Invalid(#[source] Fault),
    #[error("the request body ended in an error: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the request cannot be written in the upstream's protocol")]
    Unsendable,
    #[error("the upstream switched to a protocol nobody asked for")]
    Switched,
    #[error("the upstream did not agree on a WebSocket: {0}")]
    Unagreed(String),
}

/// What a connection says of its end.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl UpstreamError {
    pub(super) fn from_http1(error: hyper::Error) -> Self {
        if error.is_user() || error.is_body_write_aborted() {
            Self::Body(Box::new(error))
        } else if error.is_parse() {
            Self::Invalid(Fault::Http1(error))
        } else {
            Self::Reset(Fault::Http1(error))
        }
    }

    /// An error that h2 found by itself is the upstream's breach of protocol; it blames what we sent on the user.
    pub(super) fn from_http2(error: h2::Error) -> Self {
        if error.is_library() { Self::Invalid(Fault::Http2(error)) } else { Self::Reset(Fault::Http2(error)) }
    }

    pub(super) fn from_handshake(error: io::Error) -> Self {
        match PeerError::of(&error) {
            Some(refusal) => Self::Identity(refusal.to_string()),
            None if tls::doubts_peer(&error) => Self::Identity(error.to_string()),
            None => Self::Connect(error),
        }
    }

    /// The same error of connecting, for another one who waited for the same connection.
    pub(super) fn told_again(&self) -> Self {
        let again = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        match self {
            Self::Resolve(error) => Self::Resolve(again(error)),
            Self::Connect(error) => Self::Connect(again(error)),
            Self::ConnectTimeout => Self::ConnectTimeout,
            Self::Identity(why) => Self::Identity(why.clone()),
            Self::ResponseTimeout
            | Self::Reset(_)
            | Self::Invalid(_)
            | Self::Body(_)
            | Self::Unsendable
            | Self::Switched
            | Self::Unagreed(_) => Self::Connect(io::Error::new(io::ErrorKind::ConnectionAborted, self.to_string())),
        }
    }
}
