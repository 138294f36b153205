//! threats.md against the gate: what is refused, what is forwarded and how, and what breaks below it.
//!
//! Rows are real bytes over real TLS. A refused row has its status and its word, nothing of it reaches the upstream, its connection
//! ends, and it has one line in the record. A row that is not refused reaches the upstream as its one normal form and nothing else:
//! what was judged, the gate's own fields, no more (promise 5).

mod identity;
mod streams;
mod upstreams;

use crate::harness::*;

pub fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: gate.test\r\n{fields}\r\n").into_bytes()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /p HTTP/1.1\r\nhost: gate.test\r\n{fields}\r\n{body}").into_bytes()
}

fn bytes(text: &[u8]) -> Vec<u8> {
    text.to_vec()
}

/// Name, bytes, status, code.
type Refused = (&'static str, Vec<u8>, u16, &'static str);

fn refused_over_http1() -> Vec<Refused> {
    let long = "a".repeat(9000);
    let large = format!("x-large: {}\r\n", "a".repeat(70_000));
    let many: String = (0..101).map(|number| format!("x-{number}: 1\r\n")).collect();
    vec![
        ("P1 above the root", get("/a/../../b", ""), 400, "path_above_root"),
        ("P1 above the root, encoded", get("/%2e%2e/b", ""), 400, "path_above_root"),
        ("P1 above the root, half encoded", get("/.%2E/b", ""), 400, "path_above_root"),
        ("P2 encoded slash", get("/a%2Fb", ""), 400, "path_encoded_slash"),
        ("P2 encoded slash, lower case", get("/a%2fb", ""), 400, "path_encoded_slash"),
        ("P2 encoded backslash", get("/a%5Cb", ""), 400, "path_encoded_slash"),
        ("P2 backslash", get("/a\\b", ""), 400, "path_encoded_slash"),
        ("P3 parameter on dots", get("/a/..;/b", ""), 400, "path_parameter"),
        ("P3 parameter on a dot", get("/.;x=1/b", ""), 400, "path_parameter"),
        ("P3 parameter on nothing", get("/;/admin", ""), 400, "path_parameter"),
        ("P3 encoded parameter on dots", get("/..%3B/b", ""), 400, "path_parameter"),
        ("P4 fragment", get("/a#b", ""), 400, "fragment"),
        ("P4 fragment in the query", get("/a?b#c", ""), 400, "fragment"),
        ("P5 double encoding", get("/%252e%252e/admin", ""), 400, "path_double_encoding"),
        ("P5 double encoded slash", get("/a%252fb", ""), 400, "path_double_encoding"),
        ("P5 overlong dot", get("/%c0%ae%c0%ae/", ""), 400, "path_utf8"),
        ("P5 NUL", get("/a%00b", ""), 400, "path_control_byte"),
        ("P5 line feed", get("/a%0ab", ""), 400, "path_control_byte"),
        ("P5 DEL", get("/a%7fb", ""), 400, "path_control_byte"),
        ("P5 bad escape", get("/a%zz", ""), 400, "path_escape"),
        ("P5 cut escape", get("/a%4", ""), 400, "path_escape"),
        ("P5 raw bytes", bytes(b"GET /\xc3\xa9 HTTP/1.1\r\nhost: gate.test\r\n\r\n"), 400, "target_form"),
        ("P5 space in the target", get("/a b", ""), 400, "target_form"),
        ("P6 two hosts", get("/", "host: other.test\r\n"), 400, "host_repeated"),
        ("P6 the same host twice", get("/", "host: gate.test\r\n"), 400, "host_repeated"),
        ("P6 no host", bytes(b"GET / HTTP/1.1\r\n\r\n"), 400, "host_missing"),
        ("P6 no host, 1.0", bytes(b"GET / HTTP/1.0\r\n\r\n"), 400, "host_missing"),
        ("P6 empty host", bytes(b"GET / HTTP/1.1\r\nhost:\r\n\r\n"), 400, "host"),
        ("P6 userinfo", bytes(b"GET / HTTP/1.1\r\nhost: a@gate.test\r\n\r\n"), 400, "host"),
        ("P6 comma", bytes(b"GET / HTTP/1.1\r\nhost: gate.test,other\r\n\r\n"), 400, "host"),
        ("P6 two dots", bytes(b"GET / HTTP/1.1\r\nhost: gate.test..\r\n\r\n"), 400, "host"),
        ("P6 hexadecimal address", bytes(b"GET / HTTP/1.1\r\nhost: 0x7f.1\r\n\r\n"), 400, "host"),
        ("P6 bad port", bytes(b"GET / HTTP/1.1\r\nhost: gate.test:+443\r\n\r\n"), 400, "host"),
        ("P6 host in the target differs", get("https://other.test/", ""), 400, "host_mismatch"),
        ("P6 port in the target differs", get("https://gate.test:444/", ""), 400, "host_mismatch"),
        ("P6 userinfo in the target", get("https://a@gate.test/", ""), 400, "host"),
        ("P6 other scheme", get("http://gate.test/", ""), 400, "target_form"),
        ("P6 file scheme", get("file:///etc/passwd", ""), 400, "target_form"),
        ("P7 semicolon", get("/?a=1;b=2", ""), 400, "query"),
        ("P7 bad escape", get("/?a=%zz", ""), 400, "query"),
        ("P7 NUL", get("/?a=%00", ""), 400, "query"),
        ("P7 line feed", get("/?a=%0a", ""), 400, "query"),
        ("P8 lower case", bytes(b"get / HTTP/1.1\r\nhost: gate.test\r\n\r\n"), 400, "method"),
        ("P8 no token", bytes(b"G(T / HTTP/1.1\r\nhost: gate.test\r\n\r\n"), 400, "method"),
        ("P8 TRACE", bytes(b"TRACE / HTTP/1.1\r\nhost: gate.test\r\n\r\n"), 405, "method_refused"),
        ("P8 CONNECT", bytes(b"CONNECT gate.test:443 HTTP/1.1\r\nhost: gate.test:443\r\n\r\n"), 405, "method_refused"),
        ("P8 asterisk", bytes(b"GET * HTTP/1.1\r\nhost: gate.test\r\n\r\n"), 400, "target_form"),
        ("H1 two authorizations", get("/", "authorization: a\r\nauthorization: b\r\n"), 400, "header_repeated"),
        ("H1 two content types", get("/", "content-type: a/b\r\ncontent-type: a/c\r\n"), 400, "header_repeated"),
        ("H2 obs-text", bytes(b"GET / HTTP/1.1\r\nhost: gate.test\r\nx-a: \xff\r\n\r\n"), 400, "header_value"),
        ("H3 underscore", get("/", "x_role: admin\r\n"), 400, "header_underscore"),
        ("H3 underscore in one of ours", get("/", "x_spiffe_id: a\r\n"), 400, "header_underscore"),
        ("H4 takes off an identity field", get("/", "connection: x-forwarded-for\r\n"), 400, "connection_option"),
        ("H4 takes off a credential", get("/", "connection: close, authorization\r\n"), 400, "connection_option"),
        ("H6 NUL", bytes(b"GET / HTTP/1.1\r\nhost: gate.test\r\nx-a: a\0b\r\n\r\n"), 400, "header_value"),
        ("H6 no name", get("/", ": a\r\n"), 400, "header_name"),
        ("H6 no colon", get("/", "x-a\r\n"), 400, "header_name"),
        ("H6 space before the colon", get("/", "x-a : b\r\n"), 400, "header_space_before_colon"),
        ("H6 space in a name", get("/", "x a: b\r\n"), 400, "header_name"),
        ("H7 obs-fold", get("/", "x-a: b\r\n c\r\n"), 400, "obs_fold"),
        ("H7 space before the first field", bytes(b"GET / HTTP/1.1\r\n host: gate.test\r\n\r\n"), 400, "obs_fold"),
        ("H7 bare LF", bytes(b"GET / HTTP/1.1\nhost: gate.test\n\n"), 400, "bare_line_end"),
        ("H7 bare LF in the fields", bytes(b"GET / HTTP/1.1\r\nhost: gate.test\nx-a: b\r\n\r\n"), 400, "bare_line_end"),
        ("H7 bare CR", bytes(b"GET / HTTP/1.1\r\nhost: gate.test\r\nx-a: b\rc\r\n\r\n"), 400, "bare_line_end"),
        ("H7 leading CRLF", bytes(b"\r\nGET / HTTP/1.1\r\nhost: gate.test\r\n\r\n"), 400, "leading_crlf"),
        (
            "F1 length and chunked",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            400,
            "content_length_and_transfer_encoding",
        ),
        (
            "F1 chunked and length",
            post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
            400,
            "content_length_and_transfer_encoding",
        ),
        ("F1 two lengths", post("content-length: 5\r\ncontent-length: 6\r\n", "hello"), 400, "content_length_repeated"),
        ("F1 the same length twice", post("content-length: 5\r\ncontent-length: 5\r\n", "hello"), 400, "content_length_repeated"),
        ("F1 a list of lengths", post("content-length: 5, 5\r\n", "hello"), 400, "content_length"),
        ("F1 a signed length", post("content-length: +5\r\n", "hello"), 400, "content_length"),
        ("F1 a hexadecimal length", post("content-length: 0x5\r\n", "hello"), 400, "content_length"),
        ("F1 a length with a zero before it", post("content-length: 05\r\n", "hello"), 400, "content_length"),
        ("F1 an empty length", post("content-length:\r\n", "hello"), 400, "content_length"),
        ("F1 another coding", post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501, "transfer_encoding"),
        ("F1 chunked twice", post("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"), 501, "transfer_encoding"),
        (
            "F1 chunked and identity",
            post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", "0\r\n\r\n"),
            501,
            "transfer_encoding",
        ),
        ("F1 chunked with a strange blank", post("transfer-encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400, "header_value"),
        (
            "F1 chunked in 1.0",
            bytes(b"POST / HTTP/1.0\r\nhost: gate.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            501,
            "transfer_encoding",
        ),
        ("F4 h2c", get("/", "connection: upgrade\r\nupgrade: h2c\r\n"), 400, "upgrade"),
        ("F4 h2c in a list", get("/", "connection: upgrade\r\nupgrade: websocket, h2c\r\n"), 400, "upgrade"),
        ("F3 an upgrade nobody serves", get("/", "connection: upgrade\r\nupgrade: tls/1.3\r\n"), 400, "upgrade"),
        ("F3 a websocket without a key", get("/", "connection: upgrade\r\nupgrade: websocket\r\n"), 400, "upgrade"),
        ("F4 settings", get("/", "http2-settings: AAA\r\n"), 400, "upgrade"),
        ("F6 another expectation", get("/", "expect: y 100-continue\r\n"), 417, "expect"),
        ("F6 two expectations", get("/", "expect: 100-continue, 100-continue\r\n"), 417, "expect"),
        ("X3 one large field", get("/", &large), 431, "headers_too_large"),
        ("X3 many fields", get("/", &many), 431, "headers_too_many"),
        ("X3 a long target", get(&format!("/{long}"), ""), 414, "target_too_long"),
        ("version 1.2", bytes(b"GET / HTTP/1.2\r\nhost: gate.test\r\n\r\n"), 505, "version"),
        ("version 2.0", bytes(b"GET / HTTP/2.0\r\nhost: gate.test\r\n\r\n"), 505, "version"),
        ("version 0.9", bytes(b"GET /\r\n\r\n"), 400, "request_line"),
        ("not HTTP", bytes(b"\x16\x03\x01\x00\x05hello\r\n\r\n"), 400, "method"),
        ("the preface of HTTP/2", bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400, "target_form"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_over_http1_has_its_word_reaches_nobody_and_stands_once_in_the_record() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let rows = refused_over_http1();
    let mut ids = Vec::new();
    let mut wrong = Vec::new();
    for (name, bytes, status, code) in &rows {
        // A second request behind it must never be taken for one: a refused head has no known end.
        let behind = get("/smuggled", "");
        let answer = gate.raw(&[bytes.as_slice(), &behind].concat()).await;
        let text = answer.text();
        let (head, _) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        if answer.bytes.is_empty() || text.matches("HTTP/1.1 ").count() != 1 {
            wrong.push(format!("{name}: {text:?}"));
            continue;
        }
        let problem = answer.problem();
        if (answer.status(), problem["code"].as_str()) != (*status, Some(code)) {
            wrong.push(format!("{name}: {} {}", answer.status(), problem["code"]));
        }
        if !head.to_ascii_lowercase().contains("\r\nconnection: close") || !answer.clean {
            wrong.push(format!("{name}: not closed: {head}"));
        }
        ids.push((name, problem["decision_id"].as_str().unwrap().to_owned(), code));
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
    let decisions = gate.decisions();
    for (name, id, code) in ids {
        let lines: Vec<_> = decisions.iter().filter(|line| line["exchange"] == *id).collect();
        let one =
            lines.len() == 1 && lines[0]["verdict"] == "refused" && lines[0]["reason"] == *code && lines[0]["ending"] == "refused";
        if !one || lines[0]["peer"] != "spiffe://example.org/agents/research" {
            wrong.push(format!("{name}: record {lines:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(decisions.len(), rows.len());
}

/// What is forwarded, in its one form.
#[derive(Clone, Default)]
struct Passed {
    name: &'static str,
    method: &'static str,
    target: &'static str,
    host: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
    up_target: &'static str,
    up_host: &'static str,
    up_fields: &'static [(&'static str, &'static str)],
}

const PASSED: Passed = Passed {
    name: "",
    method: "GET",
    target: "/",
    host: "gate.test",
    fields: &[],
    body: "",
    up_target: "/",
    up_host: "gate.test",
    up_fields: &[],
};

/// What both protocols can say.
fn passed() -> Vec<Passed> {
    let path = |name, target, up_target| Passed { name, target, up_target, ..PASSED };
    let host = |name, host, up_host| Passed { name, host, up_host, ..PASSED };
    let fields = |name, fields, up_fields| Passed { name, fields, up_fields, ..PASSED };
    vec![
        path("P1 dots", "/a/./b/../c", "/a/c"),
        path("P1 encoded dots", "/a/%2e/b/%2E%2e/c", "/a/c"),
        path("P1 dots at the end", "/a/b/..", "/a/"),
        path("P1 more dots are a name", "/a/.../b", "/a/.../b"),
        path("P2 two slashes", "//a//b", "/a/b"),
        path("P2 a slash at the end stays", "/a/b/", "/a/b/"),
        path("P3 parameters of a name", "/a;x=1/b", "/a;x=1/b"),
        path("P3 encoded semicolon", "/a%3bb", "/a%3Bb"),
        path("P5 unreserved bytes are decoded", "/%61dm%69n/%7Eme", "/admin/~me"),
        path("P5 hex is upper case", "/%e2%82%ac", "/%E2%82%AC"),
        path("P5 asterisk in a name", "/a*b", "/a*b"),
        path("P5 braces", "/{id}", "/%7Bid%7D"),
        path("P5 a percent sign alone", "/100%25", "/100%25"),
        path("P7 the query as it was sent", "/a?x=1&x=2&y=%20+%2F&=&z", "/a?x=1&x=2&y=%20+%2F&=&z"),
        path("P7 a query that looks like a path", "/a?b=/../c//d", "/a?b=/../c//d"),
        path("P7 an empty query", "/a?", "/a?"),
        host("P6 upper case", "GATE.Test", "gate.test"),
        host("P6 a dot at the end", "gate.test.", "gate.test"),
        host("P6 the scheme's port", "gate.test:443", "gate.test"),
        host("P6 another port", "gate.test:8443", "gate.test:8443"),
        host("P6 an address", "127.0.0.1:1", "127.0.0.1:1"),
        host("P6 a long address", "[0:0:0:0:0:0:0:1]", "[::1]"),
        Passed { name: "P8 another method", method: "PURGE", ..PASSED },
        fields(
            "P8 override",
            &[("x-http-method-override", "DELETE"), ("x-http-method", "DELETE"), ("x-method-override", "PUT")],
            &[],
        ),
        fields("P8 rewriting fields", &[("x-original-url", "/admin"), ("x-rewrite-url", "/admin")], &[]),
        fields("H1 two values", &[("x-role", "user"), ("x-role", "root")], &[("x-role", "user"), ("x-role", "root")]),
        fields("H1 a list", &[("x-role", "user,root")], &[("x-role", "user,root")]),
        fields("H1 an empty value", &[("x-role", "")], &[("x-role", "")]),
        fields("H5 via is kept", &[("via", "1.1 edge")], &[("via", "1.1 edge")]),
        fields("F6 expect ends here", &[("expect", "100-continue")], &[]),
        fields("TE ends here", &[("te", "trailers")], &[]),
        fields("proxy credentials end here", &[("proxy-authorization", "Basic eDp5")], &[]),
        Passed {
            name: "F1 a body",
            method: "POST",
            fields: &[("content-type", "text/plain")],
            body: "hello",
            up_fields: &[("content-type", "text/plain"), ("content-length", "5")],
            ..PASSED
        },
    ]
}

/// The head as the upstream must get it, sorted: what was judged, and the gate's own fields.
fn expected(row: &Passed, spiffe: &str, hash: &str, via: &str) -> Vec<String> {
    let mut lines = vec![
        format!("host: {}", row.up_host),
        format!("x-forwarded-client-cert: By=spiffe://example.org/gate;Hash={hash};URI={spiffe}"),
        format!("x-spiffe-id: {spiffe}"),
        "x-forwarded-for: 127.0.0.1".to_owned(),
        format!("x-forwarded-host: {}", row.up_host),
        "x-forwarded-proto: https".to_owned(),
        format!("via: {via} portcullis"),
    ];
    lines.extend(row.up_fields.iter().map(|(name, value)| format!("{name}: {value}")));
    lines.sort();
    lines.insert(0, format!("{} {} HTTP/1.1", row.method, row.up_target));
    lines
}

fn arrived(seen: &Seen) -> Vec<String> {
    let mut lines = seen.head.trim_end().split("\r\n").map(str::to_owned);
    let first = lines.next().unwrap();
    let mut rest: Vec<String> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            format!("{}: {}", name.to_ascii_lowercase(), value.trim())
        })
        .collect();
    rest.sort();
    rest.insert(0, first);
    rest
}

const RESEARCH: &str = "spiffe://example.org/agents/research";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_refused_arrives_as_it_was_judged_with_the_gates_own_fields_and_no_others() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let issued = gate.issue("agents/research", 3600);
    let hash = fingerprint(&issued);
    let mut wrong = Vec::new();
    let check = |wrong: &mut Vec<String>, case: String, row: &Passed, via: &str, from: usize| {
        let seen = backend.seen();
        let [one] = &seen[from..] else { return wrong.push(format!("{case}: {} arrived", seen.len() - from)) };
        let (is, should) = (arrived(one), expected(row, RESEARCH, &hash, via));
        if is != should || one.body != row.body.as_bytes() {
            wrong.push(format!("{case}:\n  is     {is:?}\n  should {should:?} {:?}", String::from_utf8_lossy(&one.body)));
        }
    };
    let (one, two) = (client_config(Some(&issued), b"http/1.1"), client_config(Some(&issued), b"h2"));
    let rows = passed();
    for row in &rows {
        let before = backend.seen().len();
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", row.method, row.target, row.host);
        row.fields.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if !row.body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", row.body.len()));
        }
        let stream = gate.connect_with(std::sync::Arc::clone(&one)).await.unwrap();
        let answer = Raw::of(stream, format!("{head}\r\n{}", row.body).as_bytes()).await;
        assert!(answer.text().contains("200 OK"), "{}: {}", row.name, answer.text());
        check(&mut wrong, format!("{} over HTTP/1.1", row.name), row, "1.1", before);

        let before = backend.seen().len();
        let length = row.body.len().to_string();
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", row.method.as_bytes()),
            (b":scheme", b"https"),
            (b":authority", row.host.as_bytes()),
            (b":path", row.target.as_bytes()),
        ];
        fields.extend(row.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        if !row.body.is_empty() {
            fields.push((b"content-length", length.as_bytes()));
        }
        let mut frames = Frames2::with(gate.connect_with(std::sync::Arc::clone(&two)).await.unwrap()).await;
        frames.send(&frame2(1, if row.body.is_empty() { 5 } else { 4 }, 1, &block2(&fields))).await.unwrap();
        if !row.body.is_empty() {
            frames.send(&frame2(0, 1, 1, row.body.as_bytes())).await.unwrap();
        }
        let ended = frames.ended(1).await;
        if ended.head.first() != Some(&0x88) || ended.body != b"hello" {
            wrong.push(format!("{}: {ended:?}", row.name));
            continue;
        }
        check(&mut wrong, format!("{} over HTTP/2", row.name), row, "2.0", before);
    }
    let decisions = gate.decisions();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(decisions.len(), 2 * rows.len());
    for row in &rows {
        let path = row.up_target.split('?').next().unwrap();
        let of = |line: &&serde_json::Value| {
            (&line["method"], &line["path"], &line["verdict"], &line["ending"])
                == (&row.method.into(), &path.into(), &"allow".into(), &"complete".into())
        };
        assert!(decisions.iter().filter(of).count() >= 2, "{}: {decisions:#?}", row.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_http1_can_say_arrives_in_its_one_form() {
    let with = |row: Passed, bytes: &[u8]| (row, bytes.to_vec());
    let chunked = Passed { method: "POST", up_fields: &[("transfer-encoding", "chunked")], body: "hello", ..PASSED };
    let rows = [
        with(Passed { name: "P6 absolute form", up_target: "/a?b", ..PASSED }, b"GET https://GATE.test/./a?b HTTP/1.1\r\nhost: gate.test:443\r\nconnection: close\r\n\r\n"),
        with(Passed { name: "P6 absolute form without a path", ..PASSED }, b"GET https://gate.test HTTP/1.1\r\nhost: gate.test\r\nconnection: close\r\n\r\n"),
        with(Passed { name: "P8 OPTIONS *", method: "OPTIONS", up_target: "*", ..PASSED }, b"OPTIONS * HTTP/1.1\r\nhost: gate.test\r\nconnection: close\r\n\r\n"),
        with(Passed { name: "H4 options that name nothing", ..PASSED }, b"GET / HTTP/1.1\r\nhost: gate.test\r\nconnection: close, TE, trailer\r\nte: trailers\r\ntrailer: x\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\n\r\n"),
        with(Passed { name: "F1 chunked", ..chunked }, b"POST / HTTP/1.1\r\nhost: gate.test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        with(Passed { name: "F1 chunk extensions and trailers end here", ..chunked }, b"POST / HTTP/1.1\r\nhost: gate.test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-checksum: 1\r\n\r\n"),
        with(Passed { name: "H7 tabs and blanks around a value", up_fields: &[("x-a", "b\tc")], ..PASSED }, b"GET / HTTP/1.1\r\nhost:\tgate.test \r\nconnection: close\r\nx-a:  \t b\tc \t\r\n\r\n"),
        with(Passed { name: "HTTP/1.0", ..PASSED }, b"GET / HTTP/1.0\r\nhost: gate.test\r\n\r\n"),
    ];
    let backend = Backend::start();
    let gate = Setup::default().start(backend.address);
    let issued = gate.issue("agents/research", 3600);
    let config = client_config(Some(&issued), b"http/1.1");
    for (row, bytes) in &rows {
        let before = backend.seen().len();
        let answer = Raw::of(gate.connect_with(std::sync::Arc::clone(&config)).await.unwrap(), bytes).await;
        assert!(answer.text().contains("200 OK"), "{}: {}", row.name, answer.text());
        let seen = backend.seen();
        let via = if row.name == "HTTP/1.0" { "1.0" } else { "1.1" };
        assert_eq!(arrived(&seen[before]), expected(row, RESEARCH, &fingerprint(&issued), via), "{}", row.name);
        assert_eq!(seen[before].body, row.body.as_bytes(), "{}", row.name);
        assert_eq!(seen.len(), before + 1, "{}", row.name);
    }
}

/// How an HTTP/2 head is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// In the gate's own words.
    Gate(&'static str),
    /// h2 resets the stream, before anybody else saw the head.
    H2,
}

type Row2 = (&'static str, Vec<(Vec<u8>, Vec<u8>)>, By);

fn refused_over_http2() -> Vec<Row2> {
    type Fields<'a> = &'a [(&'a [u8], &'a [u8])];
    let own = |fields: Fields<'_>| fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>();
    let head = |path: &[u8], fields: Fields<'_>| {
        own(&[&[(&b":method"[..], &b"GET"[..]), (b":scheme", b"https"), (b":authority", b"gate.test"), (b":path", path)], fields]
            .concat())
    };
    let at = |authority: &[u8]| own(&[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", authority), (b":path", b"/")]);
    let of = |method: &[u8]| own(&[(b":method", method), (b":scheme", b"https"), (b":authority", b"gate.test"), (b":path", b"/")]);
    let many: Vec<(Vec<u8>, Vec<u8>)> = (0..101).map(|number| (format!("x-{number}").into_bytes(), b"1".to_vec())).collect();
    vec![
        ("P1 above the root", head(b"/a/../../b", &[]), By::Gate("path_above_root")),
        ("P1 above the root, encoded", head(b"/%2e%2e/b", &[]), By::Gate("path_above_root")),
        ("P2 encoded slash", head(b"/a%2fb", &[]), By::Gate("path_encoded_slash")),
        ("P2 backslash", head(b"/a\\b", &[]), By::Gate("path_encoded_slash")),
        ("P3 parameter on dots", head(b"/a/..;/b", &[]), By::Gate("path_parameter")),
        ("P5 double encoding", head(b"/%252e%252e/admin", &[]), By::Gate("path_double_encoding")),
        ("P5 overlong dot", head(b"/%c0%ae/", &[]), By::Gate("path_utf8")),
        ("P5 NUL", head(b"/a%00", &[]), By::Gate("path_control_byte")),
        ("P5 bad escape", head(b"/a%zz", &[]), By::Gate("path_escape")),
        ("P5 raw bytes", head(b"/\xc3\xa9", &[]), By::Gate("path_utf8")),
        ("P6 another host field", head(b"/", &[(b"host", b"other.test")]), By::Gate("host_mismatch")),
        ("P6 two host fields", head(b"/", &[(b"host", b"gate.test"), (b"host", b"gate.test")]), By::Gate("host_repeated")),
        (
            "P6 no authority",
            own(&[(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b"host", b"gate.test")]),
            By::Gate("host_missing"),
        ),
        ("P6 userinfo", at(b"a@gate.test"), By::Gate("host")),
        ("P6 comma", at(b"gate.test,other"), By::Gate("host")),
        ("P6 two dots", at(b"gate.test.."), By::Gate("host")),
        ("P6 hexadecimal address", at(b"0x7f.1"), By::Gate("host")),
        ("P6 space", at(b"gate test"), By::H2),
        ("P6 empty authority", at(b""), By::H2),
        (
            "P6 other scheme",
            own(&[(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"gate.test"), (b":path", b"/")]),
            By::Gate("target_form"),
        ),
        ("P7 semicolon", head(b"/?a;b", &[]), By::Gate("query")),
        ("P7 bad escape", head(b"/?a=%zz", &[]), By::Gate("query")),
        ("P8 lower case", of(b"get"), By::Gate("method")),
        ("P8 TRACE", of(b"TRACE"), By::Gate("method_refused")),
        ("P8 CONNECT", own(&[(b":method", b"CONNECT"), (b":authority", b"gate.test:443")]), By::Gate("method_refused")),
        ("P8 CONNECT with a path", of(b"CONNECT"), By::H2),
        (
            "P8 CONNECT with a protocol",
            own(&[
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"https"),
                (b":authority", b"gate.test"),
                (b":path", b"/"),
            ]),
            By::Gate("upgrade"),
        ),
        ("P8 asterisk", head(b"*", &[]), By::Gate("target_form")),
        ("P8 no path", own(&[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"gate.test")]), By::H2),
        ("P8 empty path", head(b"", &[]), By::H2),
        ("P8 a path without a slash", head(b"a", &[]), By::H2),
        ("P8 no method", own(&[(b":scheme", b"https"), (b":authority", b"gate.test"), (b":path", b"/")]), By::H2),
        ("H1 two authorizations", head(b"/", &[(b"authorization", b"a"), (b"authorization", b"b")]), By::Gate("header_repeated")),
        ("H2 obs-text", head(b"/", &[(b"x-a", b"\xff")]), By::Gate("header_value")),
        ("H2 blank at the end of a value", head(b"/", &[(b"x-a", b"b ")]), By::Gate("header_value")),
        ("H3 underscore", head(b"/", &[(b"x_role", b"admin")]), By::Gate("header_underscore")),
        ("H6 NUL", head(b"/", &[(b"x-a", b"b\0")]), By::H2),
        ("H8 CR LF in a value", head(b"/", &[(b"x-a", b"b\r\nx-b: c")]), By::H2),
        ("H8 space in the path", head(b"/ HTTP/1.1", &[]), By::H2),
        ("H8 CR LF in the path", head(b"/\r\nx: y", &[]), By::H2),
        ("H8 CR LF in the method", of(b"GET / HTTP/1.1\r\n"), By::H2),
        ("H8 upper case in a name", head(b"/", &[(b"X-A", b"b")]), By::H2),
        ("H8 empty name", head(b"/", &[(b"", b"b")]), By::H2),
        ("H8 colon in a name", head(b"/", &[(b"a:b", b"c")]), By::H2),
        ("H8 connection", head(b"/", &[(b"connection", b"close")]), By::H2),
        ("H8 keep-alive", head(b"/", &[(b"keep-alive", b"1")]), By::H2),
        ("H8 proxy-connection", head(b"/", &[(b"proxy-connection", b"close")]), By::H2),
        ("H8 transfer-encoding", head(b"/", &[(b"transfer-encoding", b"chunked")]), By::H2),
        ("H8 upgrade", head(b"/", &[(b"upgrade", b"h2c")]), By::H2),
        ("H8 te", head(b"/", &[(b"te", b"gzip")]), By::H2),
        ("H8 a pseudo-header after a field", head(b"/", &[(b"x-a", b"b"), (b":path", b"/c")]), By::H2),
        ("H8 a pseudo-header twice", head(b"/", &[(b":path", b"/c")]), By::H2),
        ("H8 an unknown pseudo-header", head(b"/", &[(b":x", b"c")]), By::H2),
        ("H8 a response's pseudo-header", head(b"/", &[(b":status", b"200")]), By::H2),
        ("F5 a length without a body", head(b"/", &[(b"content-length", b"5")]), By::H2),
        (
            "F5 two lengths",
            head(b"/", &[(b"content-length", b"0"), (b"content-length", b"0")]),
            By::Gate("content_length_repeated"),
        ),
        ("F5 two different lengths", head(b"/", &[(b"content-length", b"0"), (b"content-length", b"5")]), By::H2),
        ("F5 a list of lengths", head(b"/", &[(b"content-length", b"0, 0")]), By::H2),
        ("F5 a length with a zero before it", head(b"/", &[(b"content-length", b"00")]), By::Gate("content_length")),
        ("F6 another expectation", head(b"/", &[(b"expect", b"y 100-continue")]), By::Gate("expect")),
        ("X3 many fields", [head(b"/", &[]), many].concat(), By::Gate("headers_too_many")),
        (
            "X3 many crumbs",
            [head(b"/", &[]), vec![(b"cookie".to_vec(), b"a=b".to_vec()); 101]].concat(),
            By::Gate("headers_too_many"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_over_http2_has_its_word_reaches_nobody_and_stands_once_in_the_record() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let (rows, mut wrong, mut ids, mut resets) = (refused_over_http2(), Vec::new(), Vec::new(), 0);
    for (name, fields, by) in &rows {
        let fields: Vec<(&[u8], &[u8])> = fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
        let mut frames = Frames2::open(&gate, "agents/research").await;
        frames.send(&frame2(1, 5, 1, &block2(&fields))).await.unwrap();
        let ended = frames.ended(1).await;
        match by {
            By::Gate(code) if !ended.body.is_empty() && ended.json()["code"] == *code => {
                ids.push((name, ended.json()["decision_id"].as_str().unwrap().to_owned(), *code));
            }
            By::H2 if ended.reset.is_some_and(|code| code == 1) || ended.go_away == Some(1) => resets += 1,
            By::Gate(_) | By::H2 => wrong.push(format!("{name}: {by:?}, but {ended:?} {}", String::from_utf8_lossy(&ended.body))),
        }
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
    let decisions = gate.decisions();
    for (name, id, code) in ids {
        let lines: Vec<_> = decisions.iter().filter(|line| line["exchange"] == *id).collect();
        if lines.len() != 1 || lines[0]["verdict"] != "refused" || lines[0]["reason"] != *code {
            wrong.push(format!("{name}: record {lines:?}"));
        }
    }
    let by_h2 = decisions.iter().filter(|line| line["reason"] == "http2_head" && line["verdict"] == "refused").count();
    if (by_h2, decisions.len()) != (resets, rows.len()) {
        wrong.push(format!("{by_h2} of {resets} in the record, {} lines for {}", decisions.len(), rows.len()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
