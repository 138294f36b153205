//! Which heads and bodies go on, and which are refused with which word.

use super::*;

/// Whole, octet by octet, and cut in two at every place.
fn every_cut(bytes: &[u8], mut check: impl FnMut(Vec<u8>, Option<Fault>)) {
    let singles: Vec<_> = bytes.chunks(1).collect();
    for pieces in (0..=bytes.len()).map(|at| bytes.split_at(at)).map(|(a, b)| vec![a, b]).chain([singles]) {
        let (released, fault) = follow(&pieces);
        check(released, fault);
    }
}

fn head(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn every_bad_head_is_refused_with_its_own_word_however_it_is_cut() {
    use Refusal::*;
    let long = |n: usize| "x".repeat(n);
    let rows: Vec<(String, Refusal)> = [
        ("GET /a HTTP/1.1\nHost: h\n\n", BareLineEnd),
        ("GET /a HTTP/1.1\r\nHost: h\n\r\n", BareLineEnd),
        ("GET /a HTTP/1.1\r\nHost: h\r\n\n", BareLineEnd),
        ("GET /a HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", BareLineEnd),
        ("GET /a HTTP/1.1\rHost: h\r\n\r\n", BareLineEnd),
        ("GET /a\nHost: h\n\n", BareLineEnd),
        ("\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", LeadingCrlf),
        ("\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", LeadingCrlf),
        (" GET /a HTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
        ("GET\r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a\r\n\r\n", RequestLine),
        ("GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a HTTP/1.1 \r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a http/1.1\r\nHost: h\r\n\r\n", RequestLine),
        ("GET /a \r\nHost: h\r\n\r\n", RequestLine),
        ("G\tET /a HTTP/1.1\r\nHost: h\r\n\r\n", Method),
        ("GE(T /a HTTP/1.1\r\nHost: h\r\n\r\n", Method),
        ("\u{16}\u{3}\u{1}\r\n\r\n", Method),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", MethodRefused),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", MethodRefused),
        ("GET /a HTTP/2.0\r\nHost: h\r\n\r\n", Version),
        ("GET /a HTTP/1.2\r\nHost: h\r\n\r\n", Version),
        ("GET /a HTTP/0.9\r\nHost: h\r\n\r\n", Version),
        ("GET /public#/../admin HTTP/1.1\r\nHost: h\r\n\r\n", Fragment),
        ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a  HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /\u{e9}/x HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a<b> HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET http://[::1/a HTTP/1.1\r\nHost: h\r\n\r\n", TargetForm),
        ("GET /a HTTP/1.1\r\n\r\n", HostMissing),
        ("GET /a HTTP/1.0\r\n\r\n", HostMissing),
        ("GET /a HTTP/1.1\r\nHost: h\r\nhOST: h\r\n\r\n", HostRepeated),
        ("GET /a HTTP/1.1\r\n Host: h\r\n\r\n", ObsFold),
        ("GET /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding),
        ("GET /a HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", Expect),
    ]
    .into_iter()
    .map(|(bytes, word)| (bytes.to_owned(), word))
    .chain(
        [
            ("X: a\r\n b\r\n", ObsFold),
            ("X: a\r\n\tb\r\n", ObsFold),
            ("X_Y: a\r\n", HeaderUnderscore),
            ("X : a\r\n", HeaderSpace),
            ("X \t: a\r\n", HeaderSpace),
            ("X Y: a\r\n", HeaderName),
            (": a\r\n", HeaderName),
            ("X\r\n", HeaderName),
            ("X(: a\r\n", HeaderName),
            ("X\0: a\r\n", HeaderName),
            ("X\u{e9}: a\r\n", HeaderName),
            ("X\n: a\r\n", BareLineEnd),
            ("X: a\0b\r\n", HeaderValue),
            ("X: a\u{7f}b\r\n", HeaderValue),
            ("X: a\u{e9}b\r\n", HeaderValue),
            ("X: a\u{1b}b\r\n", HeaderValue),
            ("Content-Length: +5\r\n", ContentLength),
            ("Content-Length: 5, 5\r\n", ContentLength),
            ("Content-Length: 0x5\r\n", ContentLength),
            ("Content-Length:\r\n", ContentLength),
            ("Content-Length: 9999999999999999999\r\n", ContentLength),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", ContentLengthRepeated),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ContentLengthAndTransferEncoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", ContentLengthAndTransferEncoding),
            ("Content-Length: 5\r\nTransfer-Encoding: x\r\n", ContentLengthAndTransferEncoding),
            ("Transfer-Encoding: gzip, chunked\r\n", TransferEncoding),
            ("Transfer-Encoding: xchunked\r\n", TransferEncoding),
            ("Transfer-Encoding: \"chunked\"\r\n", TransferEncoding),
            ("Transfer-Encoding: identity\r\n", TransferEncoding),
            ("Transfer-Encoding:\r\n", TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", TransferEncoding),
            ("Expect: y 100-continue\r\n", Expect),
            ("Expect: 100-continue, x\r\n", Expect),
            ("Expect:\r\n", Expect),
            ("Expect: 100-continue\r\nExpect: 100-continue\r\n", HeaderRepeated),
            ("Upgrade: h2c\r\n", Upgrade),
            ("Upgrade: websocket, H2C\r\n", Upgrade),
            ("HTTP2-Settings: AAMAAABk\r\n", Upgrade),
            ("Connection: Upgrade, HTTP2-Settings\r\n", Upgrade),
            ("Connection: close, x-forwarded-for\r\n", ConnectionOption),
            ("Connection: authorization\r\n", ConnectionOption),
            ("Connection: host\r\n", ConnectionOption),
            ("Connection: x-any\r\n", ConnectionOption),
            ("Connection: \"close\"\r\n", ConnectionOption),
        ]
        .into_iter()
        .map(|(fields, word)| (head(fields), word)),
    )
    .chain(
        "authorization content-type content-encoding cookie from referer user-agent max-forwards proxy-authorization origin date \
         if-modified-since if-unmodified-since if-range range mcp-session-id traceparent"
            .split_whitespace()
            .map(|name| (head(&format!("{name}: a\r\n{}: a\r\n", name.to_ascii_uppercase())), HeaderRepeated)),
    )
    .chain([
        (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", long(100)), TargetTooLong),
        (format!("GET /{}\r\n", long(500)), TargetTooLong),
        (head(&"x: 1\r\n".repeat(8)), HeadersTooMany),
        (head(&format!("x: {}\r\n", long(600))), HeadersTooLarge),
        (format!("{}\r\n", long(600)), HeadersTooLarge),
        (head(&format!("x: {}\0{}", long(200), long(600))), HeaderValue),
    ])
    .collect();
    for (bytes, word) in rows {
        every_cut(bytes.as_bytes(), |released, fault| {
            assert_eq!(fault, Some(Fault::Head(word)), "{bytes:?}");
            assert!(released.is_empty(), "{bytes:?} let {released:?} go on");
        });
    }
}

#[test]
fn a_bad_body_is_refused_at_its_first_bad_byte() {
    use Refusal::*;
    let start = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (good, bad, word) in [
        ("", ";a\r\n", Chunk),
        ("", "\r\n", Chunk),
        ("", "g\r\n", Chunk),
        ("", "-1\r\n", Chunk),
        ("0", "x5\r\n", Chunk),
        ("5", " \r\nhello\r\n", Chunk),
        ("5", "\nhello\r\n", Chunk),
        ("5\r", "hello\r\n", Chunk),
        ("000000000000005", "5\r\n", Chunk),
        ("5;a=", "\u{7}\r\n", Chunk),
        ("5;a", "\nhello", Chunk),
        ("5\r\nhello", "x", Chunk),
        ("5\r\nhello", "\n", Chunk),
        ("5\r\nhello\r", "0\r\n\r\n", Chunk),
        ("0\r\n", "Content-Length: 5\r\n\r\n", Trailer),
        ("0\r\n", "host: h\r\n\r\n", Trailer),
        ("0\r\n", "x: y\r\nX-Forwarded-For: 1\r\n\r\n", Trailer),
        ("0\r\n", "x-spiffe-id: a\r\n\r\n", Trailer),
        ("0\r\n", "authorization: a\r\n\r\n", Trailer),
        ("0\r\n", "x_y: a\r\n\r\n", Trailer),
        ("0\r\n", "x: a\n\r\n", Trailer),
        ("0\r\n", "x: a\r\n b\r\n\r\n", Trailer),
        ("0\r\n", "\n", Trailer),
    ] {
        every_cut(format!("{start}{good}{bad}").as_bytes(), |released, fault| {
            assert_eq!(String::from_utf8_lossy(&released), format!("{start}{good}"), "{bad:?}");
            assert_eq!(fault, Some(Fault::Body(word)), "{bad:?}");
        });
    }
    for endless in
        [format!("5;{}", "x".repeat(300)), format!("0\r\nx: {}", "x".repeat(700)), format!("0\r\n{}", "x: y\r\n".repeat(9))]
    {
        every_cut(format!("{start}{endless}").as_bytes(), |_, fault| assert!(matches!(fault, Some(Fault::Body(_))), "{endless}"));
    }
}

#[test]
fn what_is_unusual_but_clear_goes_on() {
    for (method, target, fields) in [
        ("OPTIONS", "*", ""),
        ("GET", "http://h/a?b=c", ""),
        ("GET", "HTTPS://h:443/", ""),
        ("get", "//x;y=%2F?a=[{}]|^\\", ""),
        ("M-SEARCH", "/", "X:\r\n"),
        ("GET", "/", "Connection: keep-alive, , TE\r\nTE: trailers\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"),
        ("POST", "/", "Expect: 100-Continue\r\nContent-Length: 000\r\n"),
        ("GET", "/", "Accept: a\r\nAccept: b\r\nX: a\tb  \r\n"),
    ] {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        every_cut(bytes.as_bytes(), |released, fault| {
            assert_eq!((String::from_utf8_lossy(&released).as_ref(), fault), (bytes.as_str(), None));
        });
    }
}

#[test]
fn a_tunnel_is_asked_for_where_it_may_be_and_nothing_behind_goes_on() {
    let within = |connect, head: &str| {
        let bytes = format!("{head}GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
        let octets: Vec<&[u8]> = bytes.as_bytes().chunks(1).collect();
        let whole = follow_within(Limits { connect, ..LIMITS }, &[bytes.as_bytes()]);
        assert_eq!(follow_within(Limits { connect, ..LIMITS }, &octets), whole, "{head}");
        whole
    };
    for head in [
        "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
        "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nContent-Length: 0\r\n\r\n",
        "CONNECT h:443 HTTP/1.0\r\n\r\n",
        "CONNECT h:443 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ] {
        assert_eq!(within(true, head), (head.as_bytes().to_vec(), None), "{head}");
        assert_eq!(within(false, head), (Vec::new(), Some(Fault::Head(Refusal::MethodRefused))), "{head}");
    }
    for (head, refusal) in [
        ("CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("CONNECT /h:443 HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("CONNECT http://h:443/ HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("GET h:443 HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::TargetForm),
        ("CONNECT h:443 HTTP/1.1\r\n\r\n", Refusal::HostMissing),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n", Refusal::ContentLength),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::ContentLength),
        ("TRACE http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", Refusal::MethodRefused),
    ] {
        assert_eq!(within(true, head).1, Some(Fault::Head(refusal)), "{head}");
    }
}

#[test]
fn nothing_goes_on_after_the_message_that_closes_the_connection() {
    for first in [
        "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /a HTTP/1.0\r\nHost: h\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
    ] {
        every_cut(format!("{first}GET /b HTTP/1.1\r\nHost: h\r\n\r\n\n").as_bytes(), |released, fault| {
            assert_eq!((String::from_utf8_lossy(&released).as_ref(), fault), (first, None));
        });
    }
}
