//! What the gate knows of gRPC: which requests speak it, where its messages end, and the status a refusal or a cut is told in.
//!
//! In: heads, and the bytes of messages as they pass. Out: words of "gRPC over HTTP/2". Only the five bytes before each message are
//! read, never the message. What must stay true: a request is taken for gRPC only when it looks like a call in every respect, because
//! a header alone is the client's to write, and the policy is told another action by it.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, Version};

use crate::action::Action;
use crate::decision::{Protocol, Reason, Refusal};

/// The compressed flag and the length that stand before each message.
const PREFIX: usize = 5;

/// A status of a call (gRPC, "Status codes and their use in gRPC").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    InvalidArgument,
    DeadlineExceeded,
    PermissionDenied,
    ResourceExhausted,
    Unimplemented,
    Internal,
    Unavailable,
    Unauthenticated,
}

impl Status {
    const fn number(self) -> &'static str {
        match self {
            Self::InvalidArgument => "3",
            Self::DeadlineExceeded => "4",
            Self::PermissionDenied => "7",
            Self::ResourceExhausted => "8",
            Self::Unimplemented => "12",
            Self::Internal => "13",
            Self::Unavailable => "14",
            Self::Unauthenticated => "16",
        }
    }

    /// What an HTTP status says to a caller. Whatever is wrong behind the gate is `UNAVAILABLE`, late answers included: whether a
    /// deadline has passed is the caller's to say.
    pub(super) const fn of_http(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            403 | 421 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            408 => Self::DeadlineExceeded,
            413 | 429 => Self::ResourceExhausted,
            400 | 414..=417 | 431 => Self::InvalidArgument,
            502..=504 => Self::Unavailable,
            _ => Self::Internal,
        }
    }

    pub(super) const fn of_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoIdentity => Self::Unauthenticated,
            refusal => Self::of_http(refusal.status()),
        }
    }

    pub(super) const fn of_reason(reason: Reason, status: u16) -> Self {
        match reason {
            Reason::Expired => Self::Unauthenticated,
            Reason::Policy | Reason::Killed => Self::PermissionDenied,
            _ => Self::of_http(status),
        }
    }

    /// The fields that tell it, as trailers or as a head that is the whole response.
    pub(super) fn fields(self, code: &str) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from_static(self.number()));
        // Our codes are plain letters; nothing in them needs the message's percent-encoding.
        if let Ok(message) = HeaderValue::from_str(code) {
            fields.insert("grpc-message", message);
        }
        fields
    }

    /// A response that has nothing but a status ("Trailers-Only").
    pub(super) fn response<B>(self, code: &str, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.headers_mut() = self.fields(code);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

/// Whether a head is that of a call. gRPC-Web is not: its status stands in its body, and it is HTTP to us.
pub(super) fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    *method == Method::POST && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// What a request asks to be done: a call where it speaks gRPC over HTTP/2 and names a method of a service, a tunnel where it has no
/// path, else its HTTP method.
pub(super) fn action<'a>(protocol: Protocol, version: Version, method: &'a Method, path: &'a str) -> Action<'a> {
    let called = path.strip_prefix('/').filter(|name| {
        let mut parts = name.split('/');
        let named = |part: Option<&str>| part.is_some_and(|part| !part.is_empty());
        named(parts.next()) && named(parts.next()) && parts.next().is_none()
    });
    match (protocol, version, called) {
        (Protocol::Grpc, Version::HTTP_2, Some(name)) => Action::grpc(name),
        _ if path.is_empty() => Action::tunnel(),
        _ => Action::http(method.as_str()),
    }
}

/// Where a stream of messages stands.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// As much of a prefix as has passed.
    prefix: [u8; PREFIX],
    read: usize,
    /// What is left of the message after it.
    left: u32,
}

impl Messages {
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= u32::try_from(passed).unwrap_or(self.left);
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            let passed = bytes.len().min(PREFIX - self.read);
            for (place, byte) in self.prefix.iter_mut().skip(self.read).zip(bytes.iter().take(passed)) {
                *place = *byte;
            }
            bytes = bytes.get(passed..).unwrap_or_default();
            self.read += passed;
            if self.read == PREFIX {
                let [_, length @ ..] = self.prefix;
                (self.left, self.read) = (u32::from_be_bytes(length), 0);
            }
        }
    }

    pub(super) const fn between(&self) -> bool {
        self.read == 0 && self.left == 0
    }
}

/// The trailers of a call that was cut.
pub(super) fn cut() -> http_body::Frame<Bytes> {
    http_body::Frame::trailers(Status::PermissionDenied.fields("cut"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_prefixes_say_however_they_are_cut_into_pieces() {
        let message = |length: usize| [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), &vec![7; length]].concat();
        let stream = [message(0), message(3), message(300), message(1)].concat();
        let ends = [5, 13, 318, 324];
        for piece in [1, 2, 3, 4, 5, 7, 64, 1000] {
            let (mut messages, mut seen) = (Messages::default(), 0);
            assert!(messages.between());
            for bytes in stream.chunks(piece) {
                messages.see(bytes);
                seen += bytes.len();
                assert_eq!(messages.between(), ends.contains(&seen), "{piece}: {seen}");
            }
        }
        let mut longest = Messages::default();
        longest.see(&[1, 255, 255, 255, 255, 0]);
        assert!(!longest.between());
    }

    #[test]
    fn only_what_looks_like_a_call_in_every_respect_is_one() {
        let head = |kind: &str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap())]);
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert!(is_call(&Method::POST, &head(kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/grpcx", "application/json"] {
            assert!(!is_call(&Method::POST, &head(kind)), "{kind}");
        }
        assert!(!is_call(&Method::DELETE, &head("application/grpc")));
        assert!(!is_call(&Method::POST, &HeaderMap::new()));

        let action = |protocol, version, path| action(protocol, version, &Method::POST, path);
        let call = action(Protocol::Grpc, Version::HTTP_2, "/users.Users/Get");
        assert_eq!((call.protocol, call.name), ("grpc", "users.Users/Get"));
        for (protocol, version, path) in [
            (Protocol::Http2, Version::HTTP_2, "/users.Users/Get"),
            (Protocol::Grpc, Version::HTTP_11, "/users.Users/Get"),
            (Protocol::Grpc, Version::HTTP_2, "/v1/users/7"),
            (Protocol::Grpc, Version::HTTP_2, "/users"),
            (Protocol::Grpc, Version::HTTP_2, "/users/"),
        ] {
            assert_eq!(action(protocol, version, path), Action::http("POST"), "{path}");
        }
    }

    #[test]
    fn every_refusal_and_denial_has_the_status_a_caller_acts_on() {
        let refusal = |refusal| Status::of_refusal(refusal);
        assert_eq!(refusal(Refusal::NoIdentity), Status::Unauthenticated);
        assert_eq!(refusal(Refusal::NoRoute), Status::Unimplemented);
        assert_eq!(refusal(Refusal::TooMany), Status::ResourceExhausted);
        assert_eq!(refusal(Refusal::RecordFull), Status::Unavailable);
        assert_eq!(refusal(Refusal::PathEscape), Status::InvalidArgument);
        // A policy may name another HTTP status; to a caller a denial by policy is a denial.
        assert_eq!(Status::of_reason(Reason::Policy, 404), Status::PermissionDenied);
        assert_eq!(Status::of_reason(Reason::Expired, 403), Status::Unauthenticated);
        assert_eq!(Status::of_reason(Reason::NoPolicy, 503), Status::Unavailable);
        for status in [502, 503, 504] {
            assert_eq!(Status::of_http(status), Status::Unavailable);
        }
    }
}
