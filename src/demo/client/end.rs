//! How a stream ended, as its client can tell.

use std::io;

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As its sender meant it to.
    Complete,
    /// The gate sent RST_STREAM.
    StreamReset(h2::Reason),
    /// The gate sent a TCP reset.
    ConnectionReset,
    /// A gRPC call ended with this status.
    Status(u32),
    /// A WebSocket was closed with this code.
    Closed(u16),
    Other(String),
}

impl End {
    pub(super) fn of_trailers(trailers: Option<&http::HeaderMap>) -> Self {
        let status = trailers.and_then(|trailers| trailers.get("grpc-status")?.to_str().ok()?.parse().ok());
        status.map_or(Self::Complete, Self::Status)
    }

    pub(super) fn of_http2(error: &h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => Self::StreamReset(reason),
            _ => Self::Other(error.to_string()),
        }
    }

    pub(super) fn of_http1(error: &hyper::Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = source {
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
                return Self::ConnectionReset;
            }
            source = error.source();
        }
        Self::Other(error.to_string())
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Complete => f.write_str("the stream ended properly"),
            Self::StreamReset(reason) => write!(f, "RST_STREAM({})", reason_code(*reason)),
            Self::ConnectionReset => f.write_str("connection reset"),
            Self::Status(status) => write!(f, "grpc-status {status}"),
            Self::Closed(code) => write!(f, "Close {code}"),
            Self::Other(error) => f.write_str(error),
        }
    }
}

/// The error code as RFC 9113 section 7 writes it.
fn reason_code(reason: h2::Reason) -> String {
    match reason {
        h2::Reason::CANCEL => "CANCEL".to_owned(),
        h2::Reason::NO_ERROR => "NO_ERROR".to_owned(),
        other => format!("{:#x}", u32::from(other)),
    }
}
