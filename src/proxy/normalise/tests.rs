use http::Uri;
use http::header::HeaderValue;
use proptest::prelude::*;

use super::*;

const DOWNSTREAM: Downstream =
    Downstream { scheme: Scheme::HTTPS, limits: Limits { header_bytes: 4096, headers: 20 }, outbound: false };

/// A head as hyper hands it up. HTTP/2 targets are absolute, as h2 builds them from `:scheme`, `:authority` and `:path`.
fn head(version: Version, method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().version(version).method(method).uri(target.parse::<Uri>().unwrap());
    for &(name, value) in fields {
        request = request.header(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn http1(target: &str, fields: &[(&str, &str)]) -> Result<Request, Refusal> {
    let fields: Vec<_> = [("host", "h.example")].iter().chain(fields).copied().collect();
    normalise(&mut head(Version::HTTP_11, "GET", target, &fields), &DOWNSTREAM)
}

fn http2(path: &str, fields: &[(&str, &str)]) -> Result<Request, Refusal> {
    normalise(&mut head(Version::HTTP_2, "GET", &format!("https://h.example{path}"), fields), &DOWNSTREAM)
}

fn field<'a>(request: &'a Request, name: &str) -> Vec<&'a str> {
    request.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn p1_to_p5_a_path_is_brought_to_its_one_form() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("/", "/", &[]),
        ("/v1/users/7", "/v1/users/7", &["v1", "users", "7"]),
        ("/v1/users/", "/v1/users/", &["v1", "users", ""]),
        ("/a/./b", "/a/b", &["a", "b"]),
        ("/a/../b", "/b", &["b"]),
        ("/a/b/..", "/a/", &["a", ""]),
        ("/a/.", "/a/", &["a", ""]),
        ("/a/..", "/", &[]),
        ("/.", "/", &[]),
        ("/a/%2e%2E/b", "/b", &["b"]),
        ("/a/.%2e/b", "/b", &["b"]),
        ("/a//b", "/a/b", &["a", "b"]),
        ("//a///b//", "/a/b/", &["a", "b", ""]),
        ("/a//../b", "/b", &["b"]),
        ("/.well-known/x", "/.well-known/x", &[".well-known", "x"]),
        ("/...", "/...", &["..."]),
        ("/%41%2d%7E", "/A-~", &["A-~"]),
        ("/a%3ab%c3%a9", "/a%3Ab%C3%A9", &["a:bé"]),
        ("/a%20b", "/a%20b", &["a b"]),
        ("/100%25", "/100%25", &["100%"]),
        ("/100%25zz", "/100%25zz", &["100%zz"]),
        ("/a;x=1/b", "/a;x=1/b", &["a;x=1", "b"]),
        ("/%7Bid%7d", "/%7Bid%7D", &["{id}"]),
        ("/{id}", "/%7Bid%7D", &["{id}"]),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,=", &["a:b@c!$&'()*+,="]),
    ];
    for (sent, forwarded, segments) in cases {
        for request in [http1(sent, &[]), http2(sent, &[])] {
            let request = request.unwrap_or_else(|refusal| panic!("{sent}: {refusal}"));
            assert_eq!(request.path, *forwarded, "{sent}");
            assert_eq!(request.segments, *segments, "{sent}");
            assert_eq!(request.target_as_sent, *sent);
        }
    }
}

#[test]
fn p1_to_p5_a_path_with_two_readings_is_refused() {
    let cases = [
        ("/..", Refusal::PathAboveRoot),
        ("/a/../../b", Refusal::PathAboveRoot),
        ("/a/..//../b", Refusal::PathAboveRoot),
        ("/%2e%2e/etc", Refusal::PathAboveRoot),
        ("/a%2Fb", Refusal::PathSlash),
        ("/a%2fb", Refusal::PathSlash),
        ("/a%5Cb", Refusal::PathSlash),
        ("/a%5cb", Refusal::PathSlash),
        ("/a\\b", Refusal::PathSlash),
        ("/;/admin", Refusal::PathParameter),
        ("/a/..;/admin", Refusal::PathParameter),
        ("/a/..;x=1/admin", Refusal::PathParameter),
        ("/a/.;/admin", Refusal::PathParameter),
        ("/a/%2e%2e;/admin", Refusal::PathParameter),
        ("/a/..%3b/admin", Refusal::PathParameter),
        ("/%00", Refusal::PathControl),
        ("/a%0ab", Refusal::PathControl),
        ("/a%0Db", Refusal::PathControl),
        ("/a%1f", Refusal::PathControl),
        ("/a%7f", Refusal::PathControl),
        ("/%c0%ae%c0%ae/admin", Refusal::PathUtf8),
        ("/%c0%af", Refusal::PathUtf8),
        ("/%ff", Refusal::PathUtf8),
        ("/%ed%a0%80", Refusal::PathUtf8),
        ("/é", Refusal::PathUtf8),
        ("/%252e%252e/admin", Refusal::PathDoubleEncoding),
        ("/x/%252e%252e/admin", Refusal::PathDoubleEncoding),
        ("/%252F", Refusal::PathDoubleEncoding),
        ("/%25%32%65", Refusal::PathDoubleEncoding),
        ("/%2525", Refusal::PathDoubleEncoding),
        ("/%", Refusal::PathEscape),
        ("/%2", Refusal::PathEscape),
        ("/%zz", Refusal::PathEscape),
        ("/%2g", Refusal::PathEscape),
        ("/%u002e", Refusal::PathEscape),
        ("/%+1", Refusal::PathEscape),
    ];
    for (sent, refusal) in cases {
        assert_eq!(http1(sent, &[]).unwrap_err(), refusal, "{sent}");
        assert_eq!(http2(sent, &[]).unwrap_err(), refusal, "{sent}");
    }
    // The http crate lets neither through; a policy's rewrite could.
    assert_eq!(path::normalise("/a#b"), Err(Refusal::Fragment));
    assert_eq!(path::normalise("/a?b"), Err(Refusal::TargetForm));
    assert_eq!(path::normalise("/a\r\nb"), Err(Refusal::PathControl));
    assert_eq!(path::normalise("a"), Err(Refusal::TargetForm));
    assert_eq!(path::normalise(""), Err(Refusal::TargetForm));
}

#[test]
fn p6_a_host_has_one_spelling() {
    let cases = [
        ("h.example", "h.example", 443, "h.example"),
        ("H.Example.", "h.example", 443, "h.example"),
        ("h.example:443", "h.example", 443, "h.example"),
        ("h.example.:8443", "h.example", 8443, "h.example:8443"),
        ("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1:80"),
        ("[2001:DB8:0::1]", "[2001:db8::1]", 443, "[2001:db8::1]"),
        ("[::1]:8443", "[::1]", 8443, "[::1]:8443"),
        ("a_b.local", "a_b.local", 443, "a_b.local"),
    ];
    for (sent, host, port, authority) in cases {
        let request = normalise(&mut head(Version::HTTP_11, "GET", "/", &[("host", sent)]), &DOWNSTREAM).unwrap();
        assert_eq!((request.host.as_str(), request.port), (host, port), "{sent}");
        assert_eq!(request.authority(), authority);
        assert!(!request.headers.contains_key("host"));
    }
    let refused = [
        "",
        ".",
        "a..b",
        ".a",
        "a@b",
        "u:p@h.example",
        "a,b",
        "a, b",
        "a b",
        "a%2eb",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "h:",
        "h:0",
        "h:080",
        "h:65536",
        "h:+80",
        "h:80:80",
        "h: 80",
        "::1",
        "[::1",
        "[::1]80",
        "[::1]:",
        "[fe80::1%25eth0]",
        "[h.example]",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0x7f000001",
        "127.0.0.01",
        "1.2.3.4.5",
        "a.0x1",
        "*",
        "\u{e9}.example",
    ];
    for sent in refused {
        let outcome = normalise(&mut head(Version::HTTP_11, "GET", "/", &[("host", sent)]), &DOWNSTREAM);
        let expected = if sent.is_ascii() { Refusal::Host } else { Refusal::HeaderValue };
        assert_eq!(outcome.unwrap_err(), expected, "{sent}");
    }
}

#[test]
fn p6_target_and_host_field_name_one_authority() {
    use Version as V;
    let refused: &[(V, &str, &[&str], Refusal)] = &[
        (V::HTTP_11, "/", &[], Refusal::HostMissing),
        (V::HTTP_10, "/", &[], Refusal::HostMissing),
        (V::HTTP_11, "/", &["a", "a"], Refusal::HostRepeated),
        (V::HTTP_11, "https://a/", &[], Refusal::HostMissing),
        (V::HTTP_11, "https://a/", &["b"], Refusal::HostMismatch),
        (V::HTTP_11, "https://a:8443/", &["a"], Refusal::HostMismatch),
        (V::HTTP_11, "https://u@a/", &["a"], Refusal::Host),
        (V::HTTP_11, "http://a/", &["a"], Refusal::TargetForm),
        (V::HTTP_11, "ftp://a/", &["a"], Refusal::TargetForm),
        (V::HTTP_11, "a:443", &["a"], Refusal::TargetForm),
        (V::HTTP_11, "*", &["a"], Refusal::TargetForm),
        (V::HTTP_2, "/", &["a"], Refusal::HostMissing),
        (V::HTTP_2, "https://a/", &["b"], Refusal::HostMismatch),
        (V::HTTP_2, "https://a/", &["a", "a"], Refusal::HostRepeated),
        (V::HTTP_2, "https://u@a/", &[], Refusal::Host),
        (V::HTTP_2, "http://a/", &[], Refusal::TargetForm),
        (V::HTTP_2, "https://a?x", &[], Refusal::TargetForm),
        (V::HTTP_3, "https://a/", &[], Refusal::Version),
        (V::HTTP_09, "/", &["a"], Refusal::Version),
    ];
    for (version, target, hosts, refusal) in refused {
        let fields: Vec<_> = hosts.iter().map(|&host| ("host", host)).collect();
        let outcome = normalise(&mut head(*version, "GET", target, &fields), &DOWNSTREAM);
        assert_eq!(outcome.unwrap_err(), *refusal, "{version:?} {target} {hosts:?}");
    }
    let agreed = [
        (V::HTTP_11, "https://A.example/x?y", Some("a.EXAMPLE.:443"), "/x?y"),
        (V::HTTP_11, "https://a.example?y", Some("a.example"), "/?y"),
        (V::HTTP_11, "https://a.example", Some("a.example"), "/"),
        (V::HTTP_2, "https://a.example:443/x", Some("a.example"), "/x"),
        (V::HTTP_2, "https://a.example/x", None, "/x"),
    ];
    for (version, target, host, forwarded) in agreed {
        let fields: Vec<_> = host.iter().map(|&host| ("host", host)).collect();
        let request = normalise(&mut head(version, "GET", target, &fields), &DOWNSTREAM).unwrap();
        assert_eq!((request.authority().as_str(), request.target().as_str()), ("a.example", forwarded), "{target}");
    }
    let absolute = normalise(&mut head(V::HTTP_11, "GET", "https://a.example/x", &[("host", "a.example")]), &DOWNSTREAM).unwrap();
    assert_eq!(absolute.target_as_sent, "https://a.example/x");
}

#[test]
fn p7_a_query_is_forwarded_as_sent_and_decoded_for_judging() {
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&str, Option<&str>, Pairs<'_>)] = &[
        ("/", None, &[]),
        ("/?", Some(""), &[]),
        ("/?a=1&a=2&b", Some("a=1&a=2&b"), &[("a", "1"), ("a", "2"), ("b", "")]),
        ("/?a=x+y%20z%2B", Some("a=x+y%20z%2B"), &[("a", "x y z+")]),
        ("/?a%3db=c%26d", Some("a%3db=c%26d"), &[("a=b", "c&d")]),
        ("/?&&a==b", Some("&&a==b"), &[("a", "=b")]),
        ("/?u=https://x/?y", Some("u=https://x/?y"), &[("u", "https://x/?y")]),
        ("/?a=%09%3b%c3%a9", Some("a=%09%3b%c3%a9"), &[("a", "\t;é")]),
        ("/?%61dmin=1", Some("%61dmin=1"), &[("admin", "1")]),
        ("/?x={y}", Some("x={y}"), &[("x", "{y}")]),
    ];
    for (sent, raw, pairs) in cases {
        let request = http2(sent, &[]).unwrap_or_else(|refusal| panic!("{sent}: {refusal}"));
        assert_eq!(request.raw_query.as_deref(), *raw, "{sent}");
        let found: Vec<_> = request.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, *pairs, "{sent}");
        assert_eq!(request.target(), *sent);
    }
    for sent in ["/?a=1;b=2", "/?a=%", "/?a=%4", "/?a=%zz", "/?%00=1", "/?a=%0d", "/?a=%0A", "/?a=%ff", "/?a=%c0%ae", "/?a=é"] {
        assert_eq!(http1(sent, &[]).unwrap_err(), Refusal::Query, "{sent}");
        assert_eq!(http2(sent, &[]).unwrap_err(), Refusal::Query, "{sent}");
    }
}

#[test]
fn p8_methods_that_are_not_plain_requests_are_refused() {
    let cases = [
        ("TRACE", "/", Some(Refusal::MethodRefused)),
        ("CONNECT", "h.example:443", Some(Refusal::MethodRefused)),
        ("delete", "/", Some(Refusal::Method)),
        ("Get", "/", Some(Refusal::Method)),
        ("PROPFIND", "/", None),
        ("OPTIONS", "*", None),
        ("OPTIONS", "/", None),
        ("POST", "*", Some(Refusal::TargetForm)),
    ];
    for (method, target, refusal) in cases {
        let outcome = normalise(&mut head(Version::HTTP_11, method, target, &[("host", "h.example")]), &DOWNSTREAM);
        assert_eq!(outcome.err(), refusal, "{method} {target}");
    }
    for name in ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"] {
        assert!(field(&http1("/", &[(name, "DELETE")]).unwrap(), name).is_empty(), "{name}");
    }
}

#[test]
fn h1_fields_that_may_stand_once_do_and_lists_keep_all_values() {
    let singletons =
        ["authorization", "content-type", "content-encoding", "origin", "range", "referer", "user-agent", "mcp-session-id"];
    for name in singletons {
        assert_eq!(http1("/", &[(name, "a"), (name, "a")]).unwrap_err(), Refusal::HeaderRepeated, "{name}");
        assert_eq!(http2("/", &[(name, "a"), (name, "b")]).unwrap_err(), Refusal::HeaderRepeated, "{name}");
        assert_eq!(field(&http1("/", &[(name, "a")]).unwrap(), name), ["a"]);
    }
    let request = http1("/", &[("x-role", "user"), ("x-role", "root"), ("via", "1.1 a"), ("via", "1.1 b")]).unwrap();
    assert_eq!(field(&request, "x-role"), ["user", "root"]);
    assert_eq!(field(&request, "via"), ["1.1 a", "1.1 b"]);
}

#[test]
fn h2_and_h8_values_that_are_not_printable_ascii_are_refused() {
    for value in ["é", "\u{80}", " a", "a ", "\ta", "a\t"] {
        assert_eq!(http1("/", &[("x-a", value)]).unwrap_err(), Refusal::HeaderValue, "{value:?}");
        assert_eq!(http2("/", &[("x-a", value)]).unwrap_err(), Refusal::HeaderValue, "{value:?}");
    }
    assert_eq!(field(&http2("/", &[("x-a", "a\tb c"), ("x-b", "")]).unwrap(), "x-a"), ["a\tb c"]);
    let mut obs_text = head(Version::HTTP_2, "GET", "https://h.example/", &[]);
    obs_text.headers.insert("x-a", HeaderValue::from_bytes(b"a\xff").unwrap());
    assert_eq!(normalise(&mut obs_text, &DOWNSTREAM).unwrap_err(), Refusal::HeaderValue);
}

#[test]
fn h3_names_with_an_underscore_are_refused() {
    for name in ["x_role", "x_forwarded_for", "content_length", "_"] {
        assert_eq!(http1("/", &[(name, "a")]).unwrap_err(), Refusal::HeaderUnderscore, "{name}");
        assert_eq!(http2("/", &[(name, "a")]).unwrap_err(), Refusal::HeaderUnderscore, "{name}");
    }
}

#[test]
fn h4_connection_names_hop_by_hop_fields_only() {
    for value in
        ["x-forwarded-for", "host", "content-length", "authorization", "close, x-a", "transfer-encoding", "close;x", "clo se"]
    {
        assert_eq!(http1("/", &[("connection", value), ("x-a", "1")]).unwrap_err(), Refusal::ConnectionOption, "{value}");
    }
    let fields = [
        ("connection", "Keep-Alive, Upgrade ,HTTP2-Settings,, TE"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "x"),
        ("proxy-authorization", "x"),
        ("te", "gzip"),
        ("trailer", "x-t"),
        ("transfer-encoding", "chunked"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("expect", "100-continue"),
        ("x-kept", "1"),
    ];
    let request = http1("/", &fields).unwrap();
    assert_eq!(request.headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-kept"]);
}

#[test]
fn f3_a_websocket_has_one_form_whichever_version_asks_for_it() {
    let fields = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "chat"),
    ];
    let one = http1("/v1/terminal?a=1", &fields).unwrap();
    let mut asked = head(Version::HTTP_2, "CONNECT", "https://h.example/v1/terminal?a=1", &[fields[2], fields[4]]);
    asked.extensions.insert(hyper::ext::Protocol::from_static("websocket"));
    let two = normalise(&mut asked, &DOWNSTREAM).unwrap();
    assert_eq!((&one.method, &two.method), (&Method::GET, &Method::GET));
    assert_eq!(one.headers, two.headers);
    assert_eq!((field(&one, "upgrade"), field(&one, "sec-websocket-key")), (vec!["websocket"], vec![]));
    assert!(one.websocket.is_some() && two.websocket.is_some() && one.path == two.path);
    assert_eq!(http1("/", &[("connection", "upgrade"), ("upgrade", "h2c")]).unwrap_err(), Refusal::Upgrade);
    assert_eq!(http1("/", &fields[..3]).unwrap_err(), Refusal::Upgrade);
}

#[test]
fn h5_identity_and_forwarding_fields_from_outside_never_pass() {
    let names = [
        "forwarded",
        "x-forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-client-cert",
        "x-real-ip",
        "x-client-ip",
        "x-spiffe-id",
        "x-portcullis-session",
        "x-envoy-original-path",
        "x-original-url",
        "x-original-uri",
        "x-rewrite-url",
        "x-ssl-client-cert",
        "client-cert",
        "txn-token",
        "workload-identity-token",
        "true-client-ip",
    ];
    for name in names {
        for request in [http1("/", &[(name, "forged"), (name, "twice")]), http2("/", &[(name, "forged")])] {
            assert!(request.unwrap().headers.is_empty(), "{name}");
        }
    }
}

#[test]
fn h8_http2_has_no_connection_specific_fields_and_its_cookies_are_one() {
    let cases = [
        ("connection", "close"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ];
    for (name, value) in cases {
        assert_eq!(http2("/", &[(name, value)]).unwrap_err(), Refusal::ConnectionSpecific, "{name}");
    }
    assert!(http2("/", &[("te", "trailers")]).unwrap().headers.is_empty());
    let crumbs = [("cookie", "a=1"), ("x-a", "b"), ("cookie", "c=2"), ("cookie", "d=3")];
    assert_eq!(field(&http2("/", &crumbs).unwrap(), "cookie"), ["a=1; c=2; d=3"]);
    assert_eq!(http1("/", &crumbs).unwrap_err(), Refusal::HeaderRepeated);
}

#[test]
fn f1_and_f6_lengths_and_expectations_have_one_reading() {
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Fields<'_>, Result<Option<u64>, Refusal>)] = &[
        (&[], Ok(None)),
        (&[("content-length", "0")], Ok(Some(0))),
        (&[("content-length", "27")], Ok(Some(27))),
        (&[("content-length", "")], Err(Refusal::ContentLength)),
        (&[("content-length", "+5")], Err(Refusal::ContentLength)),
        (&[("content-length", "-1")], Err(Refusal::ContentLength)),
        (&[("content-length", "0x10")], Err(Refusal::ContentLength)),
        (&[("content-length", "05")], Err(Refusal::ContentLength)),
        (&[("content-length", "5, 5")], Err(Refusal::ContentLength)),
        (&[("content-length", "18446744073709551616")], Err(Refusal::ContentLength)),
        (&[("content-length", "5"), ("content-length", "5")], Err(Refusal::ContentLengthRepeated)),
        (&[("content-length", "5"), ("transfer-encoding", "chunked")], Err(Refusal::ContentLengthAndTransferEncoding)),
        (&[("expect", "y 100-continue")], Err(Refusal::Expect)),
        (&[("expect", "100-continue, x")], Err(Refusal::Expect)),
        (&[("expect", "100-continue"), ("expect", "100-continue")], Err(Refusal::HeaderRepeated)),
    ];
    for (fields, expected) in cases {
        assert_eq!(http1("/", fields).map(|request| request.declared_length), *expected, "{fields:?}");
    }
}

#[test]
fn x3_a_head_is_measured_decoded_with_every_crumb() {
    let twenty: Vec<_> = (0..20).map(|_| ("cookie", "a=1")).collect();
    assert!(http2("/", &twenty).is_ok());
    let more: Vec<_> = (0..21).map(|_| ("cookie", "a=1")).collect();
    assert_eq!(http2("/", &more).unwrap_err(), Refusal::HeadersTooMany);
    let large = "v".repeat(4096);
    assert_eq!(http2("/", &[("x-a", &large)]).unwrap_err(), Refusal::HeadersTooLarge);
    assert_eq!(http2(&format!("/{large}"), &[]).unwrap_err(), Refusal::HeadersTooLarge);
}

#[test]
fn a_refused_head_is_left_for_the_record_and_a_normalised_one_gives_its_fields_away() {
    let mut refused = head(Version::HTTP_11, "GET", "/a%2fb", &[("host", "h"), ("x-a", "1")]);
    assert!(normalise(&mut refused, &DOWNSTREAM).is_err());
    assert_eq!(refused.headers.len(), 2);
    let mut taken = head(Version::HTTP_11, "GET", "/a", &[("host", "h"), ("x-a", "1")]);
    assert!(normalise(&mut taken, &DOWNSTREAM).is_ok());
    assert!(taken.headers.is_empty());
}

#[test]
fn a_replaced_body_takes_its_description_along() {
    let mut request = http1("/", &[("content-length", "5"), ("content-encoding", "gzip"), ("digest", "x"), ("x-a", "1")]).unwrap();
    request.replace_body(7);
    assert_eq!((request.declared_length, field(&request, "content-length")), (Some(7), vec!["7"]));
    assert_eq!(request.headers.len(), 2);
}

/// Pieces that meet in the corners of the grammar far more often than random bytes would.
fn piece() -> impl Strategy<Value = String> {
    let corner = prop::sample::select(vec![
        "/", "//", ".", "..", "%2e", "%2E", "%25", "%2", "%", "%c3%a9", "%C3", "%a9", "%41", "%7b", "{", "|", "\"", ";", "%3b",
        "a", "Z", "~", "%7E", ":", "@", "%20", "+", "%5c", "%2f", "\\", "%00", "32", "65",
    ]);
    prop_oneof![4 => corner.prop_map(str::to_owned), 1 => "[ -~]{0,3}"]
}

proptest! {
    #[test]
    fn normalising_the_normalised_changes_nothing(pieces in prop::collection::vec(piece(), 0..12), query in "[a-z%0-9+=&/?]{0,12}") {
        let sent = format!("/{}?{query}", pieces.concat());
        let Ok(uri) = format!("https://h.example{sent}").parse::<Uri>() else { return Ok(()) };
        let Ok(first) = http2(uri.path_and_query().unwrap().as_str(), &[("x-a", "1")]) else { return Ok(()) };
        let mut again = http2(&first.target(), &[("x-a", "1")]).unwrap();
        again.target_as_sent.clone_from(&first.target_as_sent);
        prop_assert_eq!(&first, &again);
        // What is forwarded decodes, once, to exactly the segments that were judged.
        let decoded: Vec<u8> = first.path.split('/').skip(1).map(|part| decode_once(part.as_bytes())).collect::<Vec<_>>().join(&b'/');
        prop_assert_eq!(decoded, first.segments.join("/").into_bytes());
        prop_assert!(first.segments.iter().all(|s| s != "." && s != ".." && !s.contains(['/', '\\'])));
    }

    #[test]
    fn both_ways_through_the_path_agree(path in "(/[a-zA-Z0-9._~-]{0,3}){1,6}") {
        // `%41` sends the same path the careful way.
        let quick = path::normalise(&format!("/A{path}"));
        let careful = path::normalise(&format!("/%41{path}"));
        prop_assert_eq!(quick, careful);
    }
}

/// Written apart from the code under test, and dumber.
fn decode_once(part: &[u8]) -> Vec<u8> {
    match part {
        [b'%', a, b, rest @ ..] => {
            let hex = String::from_utf8(vec![*a, *b]).unwrap();
            [vec![u8::from_str_radix(&hex, 16).unwrap()], decode_once(rest)].concat()
        }
        [byte, rest @ ..] => [vec![*byte], decode_once(rest)].concat(),
        [] => Vec::new(),
    }
}
