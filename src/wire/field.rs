//! One field line, and what a head's fields say together about framing and connection.
//!
//! In: the octets of a line; out: name and value, or the word for what is wrong with it. Facts gather what must not repeat, how the
//! body is framed and whether the connection goes on. Judged strictly from left to right, so that the word for a bad head is the same
//! however its bytes were cut into reads.

use super::octets::{NAME, line_end, run, run_value};
use crate::decision::Refusal;

/// A field line that is whole, CRLF included in `length`.
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) length: usize,
}

impl<'a> Field<'a> {
    /// Reads the field line at the start of `line`; `None` while its end has not come (RFC 9112 section 5).
    ///
    /// # Errors
    ///
    /// The word for the first octet that cannot stand where it stands.
    pub(super) fn read(line: &'a [u8]) -> Result<Option<Self>, Refusal> {
        if let [b' ' | b'\t', ..] = line {
            return Err(Refusal::ObsFold);
        }
        let (name, rest) = line.split_at(run(line, NAME));
        let after = match rest {
            [b':', ..] if name.is_empty() => return Err(Refusal::HeaderName),
            [b':', after @ ..] => after,
            [b'_', ..] => return Err(Refusal::HeaderUnderscore),
            [b' ' | b'\t', ..] => return space_in_name(rest),
            [..] => return line_end(rest, Refusal::HeaderName)?.map_or(Ok(None), |()| Err(Refusal::HeaderName)),
        };
        let (value, rest) = after.split_at(run_value(after));
        let whole = line_end(rest, Refusal::HeaderValue)?;
        Ok(whole.map(|()| Self { name, value: value.trim_ascii(), length: name.len() + 1 + value.len() + 2 }))
    }
}

fn space_in_name<T>(rest: &[u8]) -> Result<Option<T>, Refusal> {
    match rest.iter().find(|octet| !matches!(octet, b' ' | b'\t')) {
        Some(b':') => Err(Refusal::HeaderSpace),
        Some(_) => Err(Refusal::HeaderName),
        None => Ok(None),
    }
}

/// The fields that are looked at; every other one passes as it is.
#[derive(Clone, Copy)]
enum Known {
    Authorization,
    Connection,
    ContentEncoding,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    From,
    Host,
    Http2Settings,
    IfModifiedSince,
    IfRange,
    IfUnmodifiedSince,
    MaxForwards,
    McpSessionId,
    Origin,
    ProxyAuthorization,
    Range,
    Referer,
    Traceparent,
    TransferEncoding,
    Upgrade,
    UserAgent,
}

impl Known {
    /// By length first: most fields are none of these, and their length alone says so.
    fn of(name: &[u8]) -> Option<Self> {
        let candidates: &[(&[u8], Self)] = match name.len() {
            4 => &[(b"host", Self::Host), (b"date", Self::Date), (b"from", Self::From)],
            5 => &[(b"range", Self::Range)],
            6 => &[(b"cookie", Self::Cookie), (b"origin", Self::Origin), (b"expect", Self::Expect)],
            7 => &[(b"referer", Self::Referer), (b"upgrade", Self::Upgrade)],
            8 => &[(b"if-range", Self::IfRange)],
            10 => &[(b"user-agent", Self::UserAgent), (b"connection", Self::Connection)],
            11 => &[(b"traceparent", Self::Traceparent)],
            12 => &[(b"content-type", Self::ContentType), (b"max-forwards", Self::MaxForwards)],
            13 => &[(b"authorization", Self::Authorization)],
            14 => &[
                (b"content-length", Self::ContentLength),
                (b"mcp-session-id", Self::McpSessionId),
                (b"http2-settings", Self::Http2Settings),
            ],
            16 => &[(b"content-encoding", Self::ContentEncoding)],
            17 => &[(b"transfer-encoding", Self::TransferEncoding), (b"if-modified-since", Self::IfModifiedSince)],
            19 => &[(b"proxy-authorization", Self::ProxyAuthorization), (b"if-unmodified-since", Self::IfUnmodifiedSince)],
            _ => return None,
        };
        candidates.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, known)| *known)
    }
}

/// What the request line and the fields read so far say together.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts {
    /// The request is HTTP/1.0: no chunked, no Expect, closed afterwards unless it says otherwise.
    pub(super) old: bool,
    /// The request asks for a tunnel: its target says where, and it has no body (RFC 9110 section 9.3.6).
    pub(super) tunnel: bool,
    seen: u32,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

/// How the body after a head is framed (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

impl Facts {
    /// Takes one field into account.
    ///
    /// # Errors
    ///
    /// The word for a field that repeats where it must not, contradicts another, or asks for what is not served.
    pub(super) fn note(&mut self, field: &Field<'_>) -> Result<(), Refusal> {
        let Some(known) = Known::of(field.name) else { return Ok(()) };
        let repeated = self.seen & (1 << known as u32) != 0;
        match known {
            Known::Connection => self.connection(field.value)?,
            Known::Upgrade if elements(field.value).any(|token| token.eq_ignore_ascii_case(b"h2c")) => {
                return Err(Refusal::Upgrade);
            }
            Known::Upgrade => {}
            Known::Http2Settings => return Err(Refusal::Upgrade),
            Known::Host if repeated => return Err(Refusal::HostRepeated),
            Known::ContentLength if repeated => return Err(Refusal::ContentLengthRepeated),
            Known::ContentLength if self.chunked => return Err(Refusal::ContentLengthAndTransferEncoding),
            Known::ContentLength => self.length = Some(content_length(field.value).ok_or(Refusal::ContentLength)?),
            Known::TransferEncoding if self.length.is_some() => return Err(Refusal::ContentLengthAndTransferEncoding),
            Known::TransferEncoding if repeated || self.old || !field.value.eq_ignore_ascii_case(b"chunked") => {
                return Err(Refusal::TransferEncoding);
            }
            Known::TransferEncoding => self.chunked = true,
            _ if repeated => return Err(Refusal::HeaderRepeated),
            Known::Expect if self.old || !field.value.eq_ignore_ascii_case(b"100-continue") => return Err(Refusal::Expect),
            _ => {}
        }
        self.seen |= 1 << known as u32;
        Ok(())
    }

    /// An option names a field to remove, so only those that name nothing a policy or a back end reads are let through: a list of the
    /// fields that must stay would miss the next one.
    fn connection(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"http2-settings") {
                return Err(Refusal::Upgrade);
            } else if ![&b"upgrade"[..], b"te", b"trailer"].iter().any(|harmless| option.eq_ignore_ascii_case(harmless)) {
                return Err(Refusal::ConnectionOption);
            }
        }
        Ok(())
    }

    /// How the body is framed, once the head has ended.
    ///
    /// # Errors
    ///
    /// `HostMissing` (RFC 9112 section 3.2), for HTTP/1.0 as well: without a host there is nothing to judge.
    pub(super) const fn framing(&self) -> Result<Framing, Refusal> {
        // An HTTP/1.0 client that asks for a tunnel has said all in its target; Python's did until 3.12.
        if self.seen & (1 << Known::Host as u32) == 0 && !(self.tunnel && self.old) {
            return Err(Refusal::HostMissing);
        }
        if self.tunnel && (self.chunked || matches!(self.length, Some(1..))) {
            return Err(Refusal::ContentLength);
        }
        Ok(match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Length(0),
        })
    }

    /// Whether no further request may follow on this connection (RFC 9112 section 9.3). What comes behind a request to leave HTTP
    /// belongs to whatever it asks for, or to nobody: read as a request it would be one that was smuggled.
    pub(super) const fn last(&self) -> bool {
        let leaves = self.seen & (1 << Known::Upgrade as u32) != 0;
        self.close || leaves || self.tunnel || (self.old && !self.keep_alive)
    }
}

/// The elements of a comma-separated list; empty ones do not count (RFC 9110 section 5.6.1).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|octet| *octet == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// At most 18 digits, so that it can never overflow, here or in a back end that counts in signed 64 bits.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// Whether a field may stand in a trailer section: nothing that frames, routes, authenticates, describes the content, or belongs to
/// the gate (RFC 9110 section 6.5.1).
pub(super) fn may_trail(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 7] = [b"x-forwarded-", b"x-spiffe", b"x-portcullis", b"x-envoy", b"proxy-", b"if-", b"content-"];
    const NAMES: [&[u8]; 10] = [
        b"forwarded",
        b"te",
        b"trailer",
        b"keep-alive",
        b"cache-control",
        b"set-cookie",
        b"tracestate",
        b"x-real-ip",
        b"x-http-method-override",
        b"via",
    ];
    let starts = |prefix: &&[u8]| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    Known::of(name).is_none() && !PREFIXES.iter().any(starts) && !NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}
