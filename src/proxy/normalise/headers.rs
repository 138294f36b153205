//! Header fields: which are refused, which stay at the gate, and which go on.
//!
//! In: the fields as hyper hands them up. Out: what is judged and forwarded, the same map.
//! What must stay true: only the gate speaks for the gate (identity and forwarding fields from outside never pass), and no field is
//! in one view of the request and not in the other. Method override fields are therefore taken off here: a policy that judged `POST`
//! while the upstream obeys `X-HTTP-Method-Override: DELETE` judged another request.
//! `Connection` may name hop-by-hop fields only. Taking off whatever it names, as RFC 9110 section 7.6.1 would have it, lets a
//! client remove fields that a policy or an upstream relies on.

use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Version};

use crate::decision::Refusal;

use super::Limits;
use super::authority::Authority;

/// What a field means to a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Kind {
    Ordinary,
    /// May stand once only: two of them are two requests to two readers.
    Singleton,
    /// One field in HTTP/1.1, any number of crumbs in HTTP/2.
    Cookie,
    /// Kept, and appended to by the gate.
    Via,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Expect,
    /// Ends at the gate, and may not stand in an HTTP/2 head (RFC 9113 section 8.2.2).
    ConnectionSpecific,
    /// Ends at the gate.
    HopByHop,
    /// Identity, forwarding and override fields: the gate's own to set, or nobody's.
    Owned,
}

/// What one look at the fields found, before any of them is touched.
pub(super) struct Examined {
    taken_off: Vec<HeaderName>,
    join_cookies: bool,
    pub(super) host: Option<Authority>,
    pub(super) declared_length: Option<u64>,
    pub(super) takes_trailers: bool,
}

/// Looks at every field once.
///
/// # Errors
///
/// The refusal for the first field that is malformed, ambiguous, or one too many.
pub(super) fn examine(headers: &HeaderMap, version: Version, target_bytes: usize, limits: &Limits) -> Result<Examined, Refusal> {
    let http2 = version == Version::HTTP_2;
    if headers.len() > limits.headers {
        return Err(Refusal::HeadersTooMany);
    }
    if headers.keys_len() < headers.len() {
        refuse_repeated(headers, http2)?;
    }
    let mut found =
        Examined { taken_off: Vec::new(), join_cookies: false, host: None, declared_length: None, takes_trailers: false };
    let mut bytes = target_bytes;
    for (name, value) in headers {
        // As the head will stand in HTTP/1.1, so that what HPACK made small counts in full.
        bytes += name.as_str().len() + value.len() + 2;
        if name.as_str().bytes().any(|byte| byte == b'_') {
            return Err(Refusal::HeaderUnderscore);
        }
        if !is_plain(value) {
            return Err(Refusal::HeaderValue);
        }
        match kind(name.as_str()) {
            Kind::Ordinary | Kind::Singleton | Kind::Via => {}
            Kind::Cookie => found.join_cookies = http2,
            Kind::Host => found.host = Some(Authority::read(text(value)?)?),
            Kind::ContentLength => found.declared_length = Some(length(text(value)?)?),
            Kind::TransferEncoding | Kind::Connection | Kind::ConnectionSpecific if http2 => {
                return Err(Refusal::ConnectionSpecific);
            }
            Kind::Te if http2 && value != "trailers" => return Err(Refusal::ConnectionSpecific),
            Kind::Connection if !text(value)?.split(',').all(is_connection_option) => return Err(Refusal::ConnectionOption),
            Kind::Expect if value != "100-continue" => return Err(Refusal::Expect),
            Kind::Te => {
                let names = |option: &str| option.trim_matches([' ', '\t']).eq_ignore_ascii_case("trailers");
                found.takes_trailers |= text(value)?.split(',').any(names);
                found.taken_off.push(name.clone());
            }
            Kind::TransferEncoding | Kind::Connection | Kind::ConnectionSpecific | Kind::Expect | Kind::HopByHop | Kind::Owned => {
                found.taken_off.push(name.clone())
            }
        }
    }
    if bytes > limits.header_bytes {
        return Err(Refusal::HeadersTooLarge);
    }
    if found.declared_length.is_some() && headers.contains_key(http::header::TRANSFER_ENCODING) {
        return Err(Refusal::ContentLengthAndTransferEncoding);
    }
    Ok(found)
}

impl Examined {
    /// What is judged and forwarded.
    ///
    /// # Errors
    ///
    /// [`Refusal::HeaderValue`] when cookie crumbs cannot be joined, which checked ones always can.
    pub(super) fn strip(&self, mut headers: HeaderMap) -> Result<HeaderMap, Refusal> {
        // The host stands in the request's own field; a second copy could come to differ from it.
        headers.remove(HOST);
        for name in &self.taken_off {
            headers.remove(name);
        }
        if self.join_cookies && headers.get_all(COOKIE).iter().nth(1).is_some() {
            let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
            let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_| Refusal::HeaderValue)?;
            headers.insert(COOKIE, joined);
        }
        Ok(headers)
    }
}

fn refuse_repeated(headers: &HeaderMap, http2: bool) -> Result<(), Refusal> {
    for name in headers.keys().filter(|&name| headers.get_all(name).iter().nth(1).is_some()) {
        match kind(name.as_str()) {
            Kind::Host => return Err(Refusal::HostRepeated),
            Kind::ContentLength => return Err(Refusal::ContentLengthRepeated),
            Kind::Singleton | Kind::Expect => return Err(Refusal::HeaderRepeated),
            Kind::Cookie if !http2 => return Err(Refusal::HeaderRepeated),
            Kind::Cookie
            | Kind::Ordinary
            | Kind::Via
            | Kind::TransferEncoding
            | Kind::Connection
            | Kind::Te
            | Kind::ConnectionSpecific
            | Kind::HopByHop
            | Kind::Owned => {}
        }
    }
    Ok(())
}

/// True when a value is printable ASCII without outer white space, which HTTP/1.1 trims and HTTP/2 delivers.
pub(in crate::proxy) fn is_plain(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let outer = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // One pass without an early way out, so that it compiles to wide comparisons.
    let strange = bytes.iter().fold(false, |strange, &byte| strange | (byte >= 0x7f) | ((byte < 0x20) & (byte != b'\t')));
    !strange && !outer(bytes.first()) && !outer(bytes.last())
}

fn text(value: &HeaderValue) -> Result<&str, Refusal> {
    value.to_str().map_err(|_| Refusal::HeaderValue)
}

/// RFC 9110 section 8.6, without the leading zeros that some read as octal.
fn length(text: &str) -> Result<u64, Refusal> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if canonical { text.parse().map_err(|_| Refusal::ContentLength) } else { Err(Refusal::ContentLength) }
}

fn is_connection_option(option: &str) -> bool {
    const HARMLESS: [&str; 8] = ["", "close", "keep-alive", "te", "trailer", "upgrade", "http2-settings", "proxy-connection"];
    HARMLESS.iter().any(|known| option.trim_matches([' ', '\t']).eq_ignore_ascii_case(known))
}

/// What a field of this name (in lower case) means to a gate.
///
/// By first letter, because this is asked of every field of every request.
pub(in crate::proxy) fn kind(name: &str) -> Kind {
    match name.as_bytes().first() {
        Some(b'x') => kind_of_extension(name),
        Some(b'c') => match name {
            "cookie" => Kind::Cookie,
            "connection" => Kind::Connection,
            "content-length" => Kind::ContentLength,
            "content-type" | "content-encoding" | "content-location" | "content-range" => Kind::Singleton,
            "client-cert" | "client-cert-chain" | "cf-connecting-ip" => Kind::Owned,
            _ => Kind::Ordinary,
        },
        Some(b't') => match name {
            "te" => Kind::Te,
            "trailer" => Kind::HopByHop,
            "transfer-encoding" => Kind::TransferEncoding,
            "txn-token" | "true-client-ip" => Kind::Owned,
            "traceparent" => Kind::Singleton,
            _ => Kind::Ordinary,
        },
        Some(b'h') => match name {
            "host" => Kind::Host,
            "http2-settings" => Kind::HopByHop,
            _ => Kind::Ordinary,
        },
        Some(b'p') => match name {
            "proxy-connection" => Kind::ConnectionSpecific,
            "proxy-authenticate" | "proxy-authorization" => Kind::HopByHop,
            _ => Kind::Ordinary,
        },
        Some(b'k') if name == "keep-alive" => Kind::ConnectionSpecific,
        Some(b'u') => match name {
            "upgrade" => Kind::ConnectionSpecific,
            "user-agent" => Kind::Singleton,
            _ => Kind::Ordinary,
        },
        Some(b'e') if name == "expect" => Kind::Expect,
        Some(b'f') => match name {
            "forwarded" => Kind::Owned,
            "from" => Kind::Singleton,
            _ => Kind::Ordinary,
        },
        // Of a WebSocket's handshake these belong to one connection.
        Some(b's') if matches!(name, "sec-websocket-key" | "sec-websocket-accept") => Kind::Owned,
        Some(b'v') if name == "via" => Kind::Via,
        Some(b'w') if matches!(name, "workload-identity-token" | "workload-proof-token") => Kind::Owned,
        Some(b'a' | b'd' | b'i' | b'l' | b'm' | b'o' | b'r') if is_singleton(name) => Kind::Singleton,
        _ => Kind::Ordinary,
    }
}

fn kind_of_extension(name: &str) -> Kind {
    const PREFIXES: [&str; 6] = ["x-forwarded-", "x-spiffe-", "x-portcullis-", "x-envoy-", "x-original-", "x-ssl-client-"];
    match name {
        "x-forwarded" | "x-real-ip" | "x-client-ip" | "x-cluster-client-ip" | "x-rewrite-url" => Kind::Owned,
        "x-http-method" | "x-http-method-override" | "x-method-override" => Kind::Owned,
        "x-api-key" => Kind::Singleton,
        name if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => Kind::Owned,
        _ => Kind::Ordinary,
    }
}

fn is_singleton(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "date"
            | "dpop"
            | "if-modified-since"
            | "if-range"
            | "if-unmodified-since"
            | "last-event-id"
            | "max-forwards"
            | "mcp-protocol-version"
            | "mcp-session-id"
            | "origin"
            | "range"
            | "referer"
    )
}

/// Writes a body's new length, and takes off what described the old body.
pub(super) fn describe_new_body(headers: &mut HeaderMap, length: u64) {
    for name in ["content-encoding", "content-md5", "digest", "content-digest", "repr-digest"] {
        headers.remove(name);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
}
