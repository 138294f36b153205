//! One request, one reading: what the policy judges and what the upstream gets.
//!
//! In: a head from hyper, HTTP/1.1 (which `wire` has already read strictly) or HTTP/2 (which nobody has). Out: a [`Request`] in its
//! one form, or the [`Refusal`] that says what in it has two readings.
//! What must stay true: the bytes the policy judged are the bytes the upstream gets, plus the edits a verdict names. So everything
//! downstream of here builds from this `Request` and never from the head again, and normalising it once more changes nothing.
//! Refusing is the rule and repairing the exception: a repair is a guess about what the upstream would have understood.

mod authority;
pub(in crate::proxy) mod headers;
pub mod path;
pub(in crate::proxy) mod query;
#[cfg(test)]
mod tests;
mod tunnel;

use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, Method, Version};

use crate::decision::Refusal;

use self::authority::Authority;
use self::path::Path;
use super::websocket::handshake::{self, Asked};

/// What a listener knows about its requests before it reads one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// What absolute-form targets and `:scheme` must say, and where the default port comes from.
    pub scheme: Scheme,
    pub limits: Limits,
    /// It stands beside an agent: targets name their host, and CONNECT asks for a tunnel.
    pub outbound: bool,
}

/// How large a head may be, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Target, names and values together.
    pub header_bytes: usize,
    /// Fields, `host` and every cookie crumb counted.
    pub headers: usize,
}

/// A request in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    pub scheme: Scheme,
    /// Lower-case, without port or trailing dot; IPv6 addresses in brackets.
    pub host: String,
    /// As given, else the scheme's.
    pub port: u16,
    /// Exactly what is forwarded; `*` for `OPTIONS *`.
    pub path: String,
    /// The path, decoded once; a trailing slash is an empty last segment, and `/` has none.
    pub segments: Vec<String>,
    /// Exactly what is forwarded after the question mark.
    pub raw_query: Option<String>,
    /// Its pairs, decoded, in their order.
    pub query: Vec<(String, String)>,
    /// What is judged and forwarded; without `host`, which `host` and `port` stand for.
    pub headers: HeaderMap,
    pub version: Version,
    pub declared_length: Option<u64>,
    /// It asks for a WebSocket; its method is GET and it names the upgrade, whichever version asks.
    pub websocket: Option<Asked>,
    /// The client reads trailers: `te: trailers`, which is about its connection and stands in no header here.
    pub takes_trailers: bool,
    /// For the record only.
    pub target_as_sent: String,
}

/// Brings a request's head to its one form, and takes its header fields over; a refused head is left as it was.
///
/// # Errors
///
/// The refusal for the first thing in it that has two readings, or that no listener serves.
pub fn normalise(head: &mut Parts, downstream: &Downstream) -> Result<Request, Refusal> {
    if downstream.outbound {
        tunnel::check_form(head)?;
        if head.method == Method::CONNECT && head.extensions.get::<hyper::ext::Protocol>().is_none() {
            return tunnel::normalise(head, downstream);
        }
    }
    let websocket = handshake::asked(head)?;
    let method = if websocket.is_some() { Method::GET } else { checked_method(&head.method)? };
    let target = Target::read(head, &downstream.scheme)?;
    let examined = headers::examine(&head.headers, head.version, target.bytes(), &downstream.limits)?;
    let Authority { host, port } = target.agree_with(examined.host.clone(), &downstream.scheme)?;
    let Path { text, segments } =
        if target.path == "*" { Path { text: "*".to_owned(), segments: Vec::new() } } else { path::normalise(target.path)? };
    let query = target.query.map(query::decode).transpose()?.unwrap_or_default();
    Ok(Request {
        method,
        scheme: downstream.scheme.clone(),
        host,
        port: port.unwrap_or_else(|| default_port(&downstream.scheme)),
        path: text,
        segments,
        raw_query: target.query.map(str::to_owned),
        query,
        version: head.version,
        declared_length: examined.declared_length,
        takes_trailers: examined.takes_trailers,
        target_as_sent: target.as_sent(head),
        headers: {
            let mut headers = examined.strip(std::mem::take(&mut head.headers))?;
            if websocket.is_some() {
                handshake::normalise(&mut headers);
            }
            headers
        },
        websocket,
    })
}

impl Request {
    /// What stands in the request line, or in `:path`: path and query.
    pub fn target(&self) -> String {
        match &self.raw_query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Whether it asks for a tunnel: it has a host and a port, and no path.
    pub fn is_tunnel(&self) -> bool {
        self.path.is_empty()
    }

    /// What stands in `host`, or in `:authority`: the host, and the port unless it is the scheme's own. A tunnel has no scheme.
    pub fn authority(&self) -> String {
        if !self.is_tunnel() && self.port == default_port(&self.scheme) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Declares the length of a body that replaces the one that was sent, and forgets what described that one.
    pub fn replace_body(&mut self, length: u64) {
        self.declared_length = Some(length);
        headers::describe_new_body(&mut self.headers, length);
    }
}

struct Target<'a> {
    /// From the target itself; HTTP/1.1 origin-form has none.
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
    http2: bool,
}

impl<'a> Target<'a> {
    /// Takes a target apart by its form (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
    fn read(head: &'a Parts, scheme: &Scheme) -> Result<Self, Refusal> {
        let http2 = match head.version {
            Version::HTTP_2 => true,
            Version::HTTP_10 | Version::HTTP_11 => false,
            _ => return Err(Refusal::Version),
        };
        let uri = &head.uri;
        let authority = uri.authority().map(http::uri::Authority::as_str);
        let path_and_query = uri.path_and_query().ok_or(Refusal::TargetForm)?;
        if authority.is_some() && uri.scheme() != Some(scheme) {
            return Err(Refusal::TargetForm);
        }
        // An absolute-form target may leave the path out, and `http` then reads it as `/`; no other form may.
        let rootless = !path_and_query.as_str().starts_with('/');
        let asterisk = path_and_query.as_str() == "*";
        let excused = (asterisk && head.method == Method::OPTIONS) || (!asterisk && !http2 && authority.is_some());
        if rootless && !excused {
            return Err(Refusal::TargetForm);
        }
        // h2 drops the scheme of a head without `:authority`, so such a head could not be checked; RFC 9113 lets only translators
        // from HTTP/1.1 send one.
        if http2 && authority.is_none() {
            return Err(Refusal::HostMissing);
        }
        Ok(Self { authority, path: uri.path(), query: uri.query(), http2 })
    }

    fn bytes(&self) -> usize {
        self.authority.map_or(0, str::len) + self.path.len() + self.query.map_or(0, str::len)
    }

    /// The one authority that target and Host field both name.
    fn agree_with(&self, field: Option<Authority>, scheme: &Scheme) -> Result<Authority, Refusal> {
        let named = self.authority.map(Authority::read).transpose()?;
        let port = |authority: &Authority| authority.port.unwrap_or_else(|| default_port(scheme));
        match (named, field) {
            (Some(named), Some(field)) if named.host == field.host && port(&named) == port(&field) => Ok(named),
            (Some(_), Some(_)) => Err(Refusal::HostMismatch),
            // Only HTTP/2 may leave the field out: RFC 9112 section 3.2 wants it even beside an absolute-form target.
            (Some(named), None) if self.http2 => Ok(named),
            (None, Some(field)) => Ok(field),
            (Some(_) | None, None) => Err(Refusal::HostMissing),
        }
    }

    fn as_sent(&self, head: &Parts) -> String {
        match head.uri.path_and_query() {
            Some(path_and_query) if self.http2 || self.authority.is_none() => path_and_query.as_str().to_owned(),
            _ => head.uri.to_string(),
        }
    }
}

/// Methods are case-sensitive (RFC 9110 section 9.1); a lower-case one passes a rule about `DELETE` and is `DELETE` to a lenient
/// back end.
fn checked_method(method: &Method) -> Result<Method, Refusal> {
    match *method {
        Method::CONNECT | Method::TRACE => Err(Refusal::MethodRefused),
        _ if method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) => Err(Refusal::Method),
        _ => Ok(method.clone()),
    }
}

fn default_port(scheme: &Scheme) -> u16 {
    if *scheme == Scheme::HTTPS { 443 } else { 80 }
}
