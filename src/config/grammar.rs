//! The forms of texts in the configuration: hosts, paths, rules, hours, endpoints.
//!
//! In: a text. Out: what is wrong with it, as the end of a sentence about it, or nothing. What would never match a normalised request
//! (an upper-case host, a path with an empty segment) is wrong here, because a rule that cannot match fails silently.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::spiffe::{SpiffeId, TrustDomain, agent_socket};

/// A host name, `*.` and a host name, or `*`.
pub(super) fn route_host(text: &str) -> Result<(), &'static str> {
    if text == "*" { Ok(()) } else { host_pattern(text) }
}

/// A host name, or `*.` and a host name.
pub(super) fn host_pattern(text: &str) -> Result<(), &'static str> {
    match text.strip_prefix("*.") {
        Some(rest) => name(rest),
        None if text == "*" => Err("takes every host; leave `hosts` out to say so"),
        None => host(text),
    }
}

/// A host name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn host(text: &str) -> Result<(), &'static str> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().map(|_| ()).map_err(|_| "is not an IPv6 address in brackets"),
        None => name(text),
    }
}

/// What stands in a Host field: a host, and a port where there is one; or `preserve`, which is a host name as well.
pub(super) fn authority(text: &str) -> Result<(), &'static str> {
    let is_host = |before: &str| !before.contains(':') || before.ends_with(']');
    let port = text.rsplit_once(':').filter(|(before, port)| is_host(before) && !port.contains('/'));
    let Some((before, port)) = port else { return host(text) };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if !digits || !matches!(port.parse::<u16>(), Ok(1..)) {
        return Err("has a port that is not a number from 1 to 65535");
    }
    host(before)
}

/// A host name of lower-case labels (RFC 1123 section 2.1; `_` besides, which service names in clusters use).
pub(super) fn name(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.contains('*') {
        return Err("has a star where none may stand; only a whole first label may be `*`");
    }
    if text.contains("://") || text.contains('/') {
        return Err("is not a host name; leave out the scheme and the path");
    }
    if text.contains(':') {
        return Err("is not a host name; leave out the port, and write an IPv6 address in brackets");
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("has upper-case letters; hosts are compared in lower case");
    }
    if text.ends_with('.') {
        return Err("ends with a dot; leave it out");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err("is not a host name: labels of letters, digits and `-` with dots between them");
    }
    let last_is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if last_is_number && text.parse::<Ipv4Addr>().is_err() {
        return Err("ends in a number and is not an IPv4 address");
    }
    Ok(())
}

/// `unix:///path`, where a SPIFFE agent answers.
pub(super) fn agent_endpoint(text: &str) -> Result<(), &'static str> {
    agent_socket(text).map(drop)
}

/// A whole SPIFFE ID of a workload, as certificates write it.
pub(super) fn spiffe_id(text: &str) -> Result<(), &'static str> {
    let canonical = |id: &SpiffeId| id.to_string() == text && !id.path().is_empty();
    SpiffeId::new(text).ok().filter(canonical).map(drop).ok_or("is not a SPIFFE ID; write spiffe://example.org/gate")
}

/// `http://host:port` or `https://host:port`.
pub(super) fn endpoint(text: &str) -> Result<(), &'static str> {
    const FORM: &str = "is not of the form http://host:port or https://host:port";
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or(FORM)?;
    if authority.contains('@') {
        return Err("names a user, which an upstream never gets; write scheme://host:port");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("has a path, query or fragment; the request brings those; write scheme://host:port");
    }
    let (host_text, port) = authority.rsplit_once(':').ok_or("has no port; write scheme://host:port")?;
    if !host_text.starts_with('[') && host_text.contains(':') {
        return Err("is an IPv6 address without brackets; write scheme://[::1]:port");
    }
    host(host_text)?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        Ok(_) | Err(_) => Err("has a port that is not a number from 1 to 65535"),
    }
}

/// `http://host:port/path` or `https://host:port/path`; port and path may be missing.
pub(super) fn service_url(text: &str) -> Result<(), &'static str> {
    const FORM: &str = "is not of the form http://host:port/path or https://host:port/path";
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or(FORM)?;
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    if place.contains('@') {
        return Err("names a user; write how the gate proves itself under `credentials`");
    }
    if path.contains(['?', '#']) || place.contains(['?', '#']) {
        return Err("has a query or fragment; what is asked for is joined to it");
    }
    if path.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(FORM);
    }
    authority(place)
}

/// A path that requests are compared with: absolute, without query.
pub(super) fn path(text: &str) -> Result<(), &'static str> {
    let Some(rest) = text.strip_prefix('/') else { return Err("does not start with `/`") };
    if text.contains(['?', '#']) {
        return Err("has a query or a fragment, which is not part of a path");
    }
    if text.chars().any(|c| c.is_control() || c == ' ' || c == '\\') {
        return Err("has a space, a backslash or a control character, which no path has");
    }
    let mut segments = rest.split('/').rev();
    let last = segments.next().unwrap_or_default();
    if segments.any(str::is_empty) {
        return Err("has an empty segment, which no normalised path has");
    }
    if last == "." || last == ".." || rest.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("has a dot segment, which no normalised path has");
    }
    Ok(())
}

/// A path without stars.
pub(super) fn literal_path(text: &str) -> Result<(), &'static str> {
    path(text)?;
    if text.contains('*') { Err("has a star; only `resources` know patterns") } else { Ok(()) }
}

/// A path in which a whole segment may be `*` and the last one `**`.
pub(super) fn path_pattern(text: &str) -> Result<(), &'static str> {
    path(text)?;
    let mut segments = text.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment == "**" && segments.peek().is_some() {
            return Err("has `**` before its end; only the last segment may be `**`");
        }
        if segment.contains('*') && segment != "*" && segment != "**" {
            return Err("has a star inside a segment; a star stands for a whole one");
        }
    }
    Ok(())
}

/// A method as requests write it (RFC 9110 section 9.1): it counts as written, and the registered ones are in upper case.
pub(super) fn method(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        return Err("is not a method");
    }
    if text.contains('*') {
        return Err("is not a method; leave `methods` out to take every one");
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) { Err("has lower-case letters; methods count as written") } else { Ok(()) }
}

/// The path of a rule: `portcullis/decision`.
pub(super) fn decision(text: &str) -> Result<(), &'static str> {
    let segment = |segment: &str| !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if text.split('/').all(segment) {
        Ok(())
    } else {
        Err("is not the path of a rule; write its segments with `/` between them, without `data`: portcullis/decision")
    }
}

/// Minutes since midnight of `08:00`; `24:00` is the end of a day.
pub(super) fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |digits: &str| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
    if !two(hours) || !two(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= 24 * 60).then_some(minute)
}

/// The name of a trust domain. Not `TrustDomain::new` alone: it takes whole SPIFFE IDs, and makes lower case of upper.
pub(super) fn trust_domain(text: &str) -> Result<(), &'static str> {
    match TrustDomain::new(text) {
        Ok(domain) if domain.to_string() == text => Ok(()),
        Ok(_) => Err("is not a trust domain as certificates write it: lower case, without spiffe:// and without a path"),
        Err(_) => Err("is not a trust domain: letters, digits, `.`, `-` and `_`, such as example.org"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: impl Fn(&str) -> Result<(), &'static str>, right: &[&str], wrong: &[&str]) {
        for text in right {
            assert_eq!(form(text), Ok(()), "{text:?}");
        }
        for text in wrong {
            assert!(form(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn hosts_are_names_as_a_normalised_request_has_them() {
        let right = ["localhost", "a.example.org", "payroll_v2.internal", "127.0.0.1", "[::1]"];
        let wrong = [
            "",
            "A.org",
            "a.org.",
            "a.org:80",
            "http://a.org",
            "a/b",
            "a b",
            "-a",
            "a-",
            "a..b",
            "é.org",
            "::1",
            "1.2.3",
            "256.1.1.1",
            "[x]",
        ];
        check(host, &right, &wrong);
        check(host_pattern, &["*.example.org", "a.org"], &["*", "*.", "a.*.org", "*a.org", "*.*.org", "*.[::1]", "*.Example.org"]);
        check(route_host, &["*", "*.example.org"], &["**", "*.*"]);
    }

    #[test]
    fn urls_of_services_have_a_scheme_and_a_host() {
        let wrong = [
            "",
            "a",
            "ftp://a",
            "https://",
            "https://u@a",
            "https://a?x",
            "https://a/?x",
            "https://a/#f",
            "https://a/b c",
            "https://a:0",
        ];
        check(
            service_url,
            &["http://127.0.0.1:9000", "https://bundles.example.org/v1", "https://[::1]:8443", "https://a/"],
            &wrong,
        );
    }

    #[test]
    fn endpoints_are_http_host_and_port() {
        let wrong = [
            "",
            "a:80",
            "https://a",
            "http://a",
            "http://a:0",
            "http://a:65536",
            "http://a:+80",
            "http://a:80/",
            "http://a:80?x",
            "http://u@a:80",
            "http://:80",
            "http://::1:80",
            "HTTP://a:80",
            "http://a:80#f",
            "tcp://a:80",
            "http://a:",
        ];
        check(endpoint, &["http://127.0.0.1:9000", "http://payroll.internal:80", "http://[::1]:9000", "https://a:443"], &wrong);
    }

    #[test]
    fn paths_are_absolute_and_stars_are_whole_segments() {
        check(
            literal_path,
            &["/", "/v1", "/v1/"],
            &["", "v1", "/a?b", "/a#b", "/a//b", "//", "/a/../b", "/a/.", "/a b", "/*", "/a\\b"],
        );
        check(path_pattern, &["/", "/**", "/v1/*", "/*/x/**"], &["v1", "/a*", "/**/a", "/***", "/*b/**", "*"]);
    }

    #[test]
    fn methods_rules_and_trust_domains_are_as_written_on_the_wire() {
        check(method, &["GET", "M-SEARCH"], &["", "get", "G ET", "*", "Get"]);
        check(decision, &["portcullis/decision", "a", "envoy/authz/allow"], &["", "/a", "a/", "a//b", "data.a.b", "a-b", "a/b c"]);
        check(trust_domain, &["example.org", "prod_1"], &["", "Example.org", "spiffe://example.org", "a/b", "a b", "a:1"]);
    }

    #[test]
    fn hours_have_two_digits_each() {
        assert_eq!((minute("00:00"), minute("08:30"), minute("24:00")), (Some(0), Some(510), Some(1440)));
        for text in ["", "8:00", "08:60", "24:01", "99:00", "08:00:00", "0800", "+8:00", "08:0x"] {
            assert_eq!(minute(text), None, "{text}");
        }
    }
}
