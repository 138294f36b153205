//! The opening handshake: what a client must ask, and what an upstream must answer (RFC 6455 section 4, RFC 8441 section 5).
//!
//! In: a head that asks to leave HTTP, on HTTP/1.1 or HTTP/2. Out: the request for a WebSocket in one form for both, or a refusal: there
//! is nothing else a client may leave HTTP for. The gate shakes hands twice, once with each end, because on HTTP/2 there is no key, and
//! because an upstream that repeats an answer it keeps must not pass for one that speaks WebSocket.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Version};

use crate::decision::Refusal;

/// What makes an accept of a key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client that asks for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What it must be answered with.
    Http1 {
        accept: HeaderValue,
    },
    Http2,
}

/// Reads whether a head asks to leave HTTP; the only thing it may ask for is a WebSocket.
///
/// # Errors
/// [`Refusal::Upgrade`] for anything else, and for a WebSocket that is not asked for to the letter or has a request body.
pub fn asked(head: &Parts) -> Result<Option<Asked>, Refusal> {
    let headers = &head.headers;
    let extended = head.extensions.get::<hyper::ext::Protocol>();
    let asked = match (extended, headers.contains_key(UPGRADE)) {
        (None, false) => return Ok(None),
        (Some(protocol), false) => {
            (protocol.as_ref() == b"websocket" && head.method == Method::CONNECT && !has_key(headers)).then_some(Asked::Http2)
        }
        (None, true) if head.version == Version::HTTP_11 && head.method == Method::GET => http1(headers),
        // On HTTP/2 the field is refused by its own word.
        (_, true) if head.version == Version::HTTP_2 => return Ok(None),
        (_, true) => None,
    };
    let has_body = headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    let current = only(headers, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    asked.filter(|_| current && !has_body && !headers.contains_key(SEC_WEBSOCKET_ACCEPT)).map(Some).ok_or(Refusal::Upgrade)
}

fn has_key(headers: &HeaderMap) -> bool {
    headers.contains_key(SEC_WEBSOCKET_KEY)
}

fn http1(headers: &HeaderMap) -> Option<Asked> {
    let websocket = only(headers, &UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let key = only(headers, &SEC_WEBSOCKET_KEY)?;
    let nonce = STANDARD.decode(key.as_bytes()).ok()?;
    if !websocket || !names(headers, &CONNECTION, "upgrade") || nonce.len() != 16 {
        return None;
    }
    Some(Asked::Http1 { accept: accept(key)? })
}

/// Puts the request for a WebSocket in the one form that is judged and forwarded: as on HTTP/1.1, without what belongs to one
/// connection.
pub fn normalise(headers: &mut HeaderMap) {
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The gate's own handshake with an upstream.
#[derive(Debug)]
pub struct Ours {
    key: HeaderValue,
}

impl Ours {
    /// # Errors
    /// `None` for a nonce that cannot be written as a field, which every one can.
    pub fn new(nonce: [u8; 16]) -> Option<Self> {
        Some(Self { key: HeaderValue::try_from(STANDARD.encode(nonce)).ok()? })
    }

    /// Asks.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, self.key.clone());
    }

    /// Checks the answer of an upstream that switched; `asked` are the client's fields. Says whether an extension was agreed on.
    ///
    /// # Errors
    /// What of it does not answer what was asked.
    pub fn check(&self, answer: &HeaderMap, asked: &HeaderMap) -> Result<bool, Unagreed> {
        if !only(answer, &UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
            || !names(answer, &CONNECTION, "upgrade")
        {
            return Err(Unagreed::Upgrade);
        }
        if only(answer, &SEC_WEBSOCKET_ACCEPT) != accept(&self.key).as_ref() {
            return Err(Unagreed::Accept);
        }
        let chosen = elements(answer, &SEC_WEBSOCKET_PROTOCOL).collect::<Vec<_>>();
        let offered = |chosen: &&str| elements(asked, &SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == *chosen);
        if chosen.len() > 1 || !chosen.iter().all(offered) || answer.get_all(SEC_WEBSOCKET_PROTOCOL).iter().nth(1).is_some() {
            return Err(Unagreed::Protocol);
        }
        let token = |element: &str| element.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut extensions = elements(answer, &SEC_WEBSOCKET_EXTENSIONS).map(token).peekable();
        let extended = extensions.peek().is_some();
        if extensions.any(|chosen| !elements(asked, &SEC_WEBSOCKET_EXTENSIONS).any(|offered| token(offered) == chosen)) {
            return Err(Unagreed::Extension);
        }
        Ok(extended)
    }
}

/// What of an upstream's handshake does not answer what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unagreed {
    #[error("it does not say that it switches to WebSocket")]
    Upgrade,
    #[error("its Sec-WebSocket-Accept does not belong to the key it was sent")]
    Accept,
    #[error("it chose a subprotocol the client did not offer")]
    Protocol,
    #[error("it chose an extension the client did not offer")]
    Extension,
}

/// The answer to a client, on a head that holds what the upstream chose.
pub fn answer(asked: &Asked, headers: &mut HeaderMap) -> http::StatusCode {
    for name in [CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT] {
        headers.remove(name);
    }
    match asked {
        Asked::Http1 { accept } => {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
            http::StatusCode::SWITCHING_PROTOCOLS
        }
        Asked::Http2 => http::StatusCode::OK,
    }
}

/// What a key must be answered with (RFC 6455 section 4.2.2).
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    // No secret hangs on it: it proves that the answer was made for this request.
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::try_from(STANDARD.encode(hash)).ok()
}

/// The value of a field that stands once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

fn names(headers: &HeaderMap, name: &HeaderName, option: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(option))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields<'a> = &'a [(&'static str, &'a str)];

    /// RFC 6455 section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    const GOOD: Fields<'_> = &[
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    fn head(method: &str, version: Version, fields: Fields<'_>) -> Parts {
        let mut request = http::Request::builder().method(method).version(version).uri("/").body(()).unwrap();
        *request.headers_mut() = map(fields);
        request.into_parts().0
    }

    fn map(fields: Fields<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn without(name: &str) -> Vec<(&'static str, &'static str)> {
        GOOD.iter().copied().filter(|(field, _)| *field != name).collect()
    }

    #[test]
    fn a_websocket_asked_for_to_the_letter_is_answered_by_its_key() {
        let accept = HeaderValue::from_static(ACCEPT);
        let asked = asked(&head("GET", Version::HTTP_11, GOOD)).unwrap();
        assert_eq!(asked, Some(Asked::Http1 { accept: accept.clone() }));
        let mut headers = map(&[("sec-websocket-accept", "the upstream's"), ("sec-websocket-protocol", "chat")]);
        assert_eq!(answer(&asked.unwrap(), &mut headers), 101);
        assert_eq!(
            (headers.get(SEC_WEBSOCKET_ACCEPT), headers.get(UPGRADE).unwrap().as_bytes()),
            (Some(&accept), &b"websocket"[..])
        );
        let mut headers = map(&[("sec-websocket-accept", "the upstream's"), ("sec-websocket-protocol", "chat")]);
        assert_eq!(answer(&Asked::Http2, &mut headers), 200);
        assert_eq!(headers, map(&[("sec-websocket-protocol", "chat")]));
    }

    #[test]
    fn whatever_else_a_client_wants_to_leave_http_for_is_refused() {
        let with = |name, value| [without(name).as_slice(), &[(name, value)]].concat();
        let and = |name, value| [GOOD, &[(name, value)]].concat();
        let cases = [
            with("upgrade", "h2c"),
            with("upgrade", "websocket, h2c"),
            and("upgrade", "websocket"),
            without("connection"),
            with("connection", "keep-alive"),
            without("sec-websocket-version"),
            with("sec-websocket-version", "8"),
            and("sec-websocket-version", "13"),
            without("sec-websocket-key"),
            with("sec-websocket-key", "short"),
            with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZSE="),
            and("sec-websocket-key", KEY),
            and("sec-websocket-accept", ACCEPT),
            and("content-length", "5"),
            and("transfer-encoding", "chunked"),
        ];
        for fields in cases {
            assert_eq!(asked(&head("GET", Version::HTTP_11, &fields)), Err(Refusal::Upgrade), "{fields:?}");
        }
        assert_eq!(asked(&head("POST", Version::HTTP_11, GOOD)), Err(Refusal::Upgrade));
        assert_eq!(asked(&head("GET", Version::HTTP_10, GOOD)), Err(Refusal::Upgrade));
        assert!(asked(&head("GET", Version::HTTP_11, &and("content-length", "0"))).is_ok());
        assert_eq!(asked(&head("GET", Version::HTTP_11, &without("upgrade"))), Ok(None), "a plain request");
    }

    #[test]
    fn http2_asks_by_its_protocol_and_has_no_key() {
        let extended = |protocol: &'static str, method, fields: Fields<'_>| {
            let mut head = head(method, Version::HTTP_2, fields);
            head.extensions.insert(hyper::ext::Protocol::from_static(protocol));
            asked(&head)
        };
        let version: Fields<'_> = &[("sec-websocket-version", "13")];
        assert_eq!(extended("websocket", "CONNECT", version), Ok(Some(Asked::Http2)));
        assert_eq!(extended("connect-udp", "CONNECT", version), Err(Refusal::Upgrade));
        assert_eq!(extended("websocket", "GET", version), Err(Refusal::Upgrade));
        assert_eq!(extended("websocket", "CONNECT", &[]), Err(Refusal::Upgrade));
        assert_eq!(extended("websocket", "CONNECT", &[version[0], ("sec-websocket-key", KEY)]), Err(Refusal::Upgrade));
        assert_eq!(extended("websocket", "CONNECT", &[version[0], ("content-length", "3")]), Err(Refusal::Upgrade));
    }

    #[test]
    fn an_upstream_must_answer_what_was_asked() {
        let ours = Ours { key: HeaderValue::from_static(KEY) };
        let good: Fields<'_> = &[("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", ACCEPT)];
        let asked = map(&[
            ("sec-websocket-protocol", "chat, v2"),
            ("sec-websocket-extensions", "permessage-deflate; server_max_window_bits"),
        ]);
        let check = |fields: Fields<'_>| ours.check(&map(fields), &asked);
        let and = |more: Fields<'static>| [good, more].concat();
        assert_eq!(check(good), Ok(false));
        assert_eq!(check(&and(&[("sec-websocket-protocol", "v2")])), Ok(false));
        assert_eq!(check(&and(&[("sec-websocket-extensions", "Permessage-Deflate; x=1")])), Ok(true));
        assert_eq!(check(&good[1..]), Err(Unagreed::Upgrade));
        assert_eq!(check(&[good[0], good[2]]), Err(Unagreed::Upgrade));
        assert_eq!(check(&good[..2]), Err(Unagreed::Accept));
        assert_eq!(check(&[good[0], good[1], ("sec-websocket-accept", "AAAA")]), Err(Unagreed::Accept));
        assert_eq!(check(&and(&[("sec-websocket-accept", ACCEPT)])), Err(Unagreed::Accept));
        assert_eq!(check(&and(&[("sec-websocket-protocol", "v3")])), Err(Unagreed::Protocol));
        assert_eq!(check(&and(&[("sec-websocket-protocol", "chat, v2")])), Err(Unagreed::Protocol));
        assert_eq!(check(&and(&[("sec-websocket-extensions", "permessage-deflate, other")])), Err(Unagreed::Extension));
        let mut sent = HeaderMap::new();
        Ours::new([7; 16]).unwrap().write(&mut sent);
        assert_eq!(STANDARD.decode(sent.get(SEC_WEBSOCKET_KEY).unwrap()).unwrap(), [7; 16]);
    }
}
