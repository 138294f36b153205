//! What a listener beside an agent is asked: absolute-form requests, and CONNECT.
//!
//! In: a head. Out: for CONNECT the host and port a tunnel is asked for, without path, query or body (RFC 9110 section 9.3.6); for the
//! rest, whether it has the form a proxy is asked in. A path alone is refused and not completed by the Host field: a page in a
//! browser, or a client that was never told of the gate, sends such requests to any address, and a gate that answered them would be
//! an open door to whatever name they come under.

use http::request::Parts;
use http::uri::Scheme;
use http::{Method, Version};

use super::authority::Authority;
use super::{Downstream, Request, headers};
use crate::decision::Refusal;

/// Refuses what no proxy can be asked.
pub(super) fn check_form(head: &Parts) -> Result<(), Refusal> {
    let extended = head.extensions.get::<hyper::ext::Protocol>().is_some();
    if head.method == Method::CONNECT && !extended {
        return Ok(());
    }
    if head.uri.authority().is_none() {
        return Err(Refusal::OriginForm);
    }
    if head.uri.scheme() == Some(&Scheme::HTTPS) { Err(Refusal::AbsoluteHttps) } else { Ok(()) }
}

/// Brings the head of a CONNECT to its one form.
pub(super) fn normalise(head: &mut Parts, downstream: &Downstream) -> Result<Request, Refusal> {
    let uri = &head.uri;
    if uri.scheme().is_some() || uri.path_and_query().is_some() {
        return Err(Refusal::TargetForm);
    }
    let target = uri.authority().ok_or(Refusal::TargetForm)?.as_str().to_owned();
    let examined = headers::examine(&head.headers, head.version, target.len(), &downstream.limits)?;
    let Authority { host, port } = Authority::read(&target)?;
    // There is no port to fall back to: a tunnel has no scheme.
    let port = port.ok_or(Refusal::TargetForm)?;
    match &examined.host {
        Some(field) if field.host != host || field.port.is_some_and(|named| named != port) => return Err(Refusal::HostMismatch),
        // The target says it all; HTTP/1.0 and HTTP/2 do not ask for the field beside it.
        None if head.version == Version::HTTP_11 => return Err(Refusal::HostMissing),
        Some(_) | None => {}
    }
    if examined.declared_length.is_some_and(|length| length > 0) || head.headers.contains_key(http::header::TRANSFER_ENCODING) {
        return Err(Refusal::ContentLength);
    }
    Ok(Request {
        method: Method::CONNECT,
        scheme: downstream.scheme.clone(),
        host,
        port,
        path: String::new(),
        segments: Vec::new(),
        raw_query: None,
        query: Vec::new(),
        version: head.version,
        declared_length: None,
        websocket: None,
        takes_trailers: false,
        target_as_sent: target,
        headers: examined.strip(std::mem::take(&mut head.headers))?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, normalise};
    use super::*;

    const OUTBOUND: Downstream =
        Downstream { scheme: Scheme::HTTP, limits: Limits { header_bytes: 65_536, headers: 100 }, outbound: true };

    fn ask(version: Version, method: &str, target: &str, fields: &[(&str, &str)]) -> Result<Request, Refusal> {
        let mut request = http::Request::builder().version(version).method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        normalise(&mut request.body(()).unwrap().into_parts().0, &OUTBOUND)
    }

    #[test]
    fn a_tunnel_is_asked_for_by_host_and_port_alone() {
        let host = [("host", "api.example.com:443")];
        let request = ask(Version::HTTP_11, "CONNECT", "API.example.com.:443", &host).unwrap();
        assert_eq!((&*request.host, request.port, &*request.path), ("api.example.com", 443, ""));
        assert!(request.is_tunnel() && request.authority() == "api.example.com:443" && request.target() == "");
        let fields = [("host", "api.example.com"), ("proxy-authorization", "Basic eA=="), ("proxy-connection", "keep-alive")];
        let request = ask(Version::HTTP_11, "CONNECT", "api.example.com:80", &fields).unwrap();
        assert!(request.headers.is_empty() && request.authority() == "api.example.com:80");
        assert!(ask(Version::HTTP_10, "CONNECT", "api.example.com:443", &[]).is_ok());
        assert!(ask(Version::HTTP_2, "CONNECT", "[::1]:443", &[]).is_ok());
        let here = "host: api.example.com:443";
        let cases = [
            ("api.example.com", here, Refusal::TargetForm),
            ("api.example.com:443", "accept: a", Refusal::HostMissing),
            ("api.example.com:443", "host: other.example.com:443", Refusal::HostMismatch),
            ("api.example.com:443", "host: api.example.com:80", Refusal::HostMismatch),
            ("user@api.example.com:443", here, Refusal::Host),
            ("http://api.example.com:443/", here, Refusal::TargetForm),
            ("/api", here, Refusal::TargetForm),
            ("127.1:443", "host: 127.1:443", Refusal::Host),
            ("0x7f000001:443", "host: 0x7f000001:443", Refusal::Host),
            ("2130706433:443", "host: 2130706433:443", Refusal::Host),
            ("api.example.com:443", "host: api.example.com:443\ncontent-length: 3", Refusal::ContentLength),
            ("api.example.com:443", "host: api.example.com:443\ntransfer-encoding: chunked", Refusal::ContentLength),
        ];
        for (target, fields, expected) in cases {
            let fields: Vec<(&str, &str)> = fields.lines().filter_map(|line| line.split_once(": ")).collect();
            assert_eq!(ask(Version::HTTP_11, "CONNECT", target, &fields).unwrap_err(), expected, "{target} {fields:?}");
        }
    }

    #[test]
    fn a_proxy_is_asked_with_the_host_in_the_target() {
        let host = [("host", "api.example.com")];
        let fields =
            [("host", "api.example.com"), ("x-spiffe-id", "spiffe://evil"), ("proxy-authorization", "x"), ("via", "1.1 a")];
        let request = ask(Version::HTTP_11, "GET", "http://api.example.com/v1?x=1", &fields).unwrap();
        assert_eq!((&*request.host, request.port, &*request.target()), ("api.example.com", 80, "/v1?x=1"));
        assert_eq!(request.headers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["via"]);
        assert_eq!(
            ask(Version::HTTP_11, "GET", "http://api.example.com:8080", &[("host", "api.example.com:8080")]).unwrap().port,
            8080
        );
        assert!(ask(Version::HTTP_2, "GET", "http://api.example.com/", &[]).is_ok());
        let cases = [
            ("GET", "/v1", Refusal::OriginForm),
            ("OPTIONS", "*", Refusal::OriginForm),
            ("GET", "https://api.example.com/", Refusal::AbsoluteHttps),
            ("GET", "ftp://api.example.com/", Refusal::TargetForm),
            ("GET", "http://other.example.com/", Refusal::HostMismatch),
            ("GET", "http://api.example.com:8080/", Refusal::HostMismatch),
            ("GET", "http://me@api.example.com/", Refusal::Host),
            ("GET", "http://api.example.com/%2e%2e/up", Refusal::PathAboveRoot),
            ("TRACE", "http://api.example.com/", Refusal::MethodRefused),
        ];
        for (method, target, expected) in cases {
            assert_eq!(ask(Version::HTTP_11, method, target, &host).unwrap_err(), expected, "{method} {target}");
        }
    }
}
