//! What a verdict does beside yes and no: edits as the upstream gets them, leases, kills a policy asks for, and the facts it is
//! decided from, on both protocols.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::harness::*;

fn portcullis(rules: &str) -> Setup {
    Setup::policy(&format!("package portcullis\n\n{rules}\n"))
}

async fn send(client: &mut Client, method: &str, path: &str, headers: &[(&str, &str)], body: Boxed) -> Answer {
    let mut asked = request(method, path, body);
    for (name, value) in headers {
        asked.headers_mut().append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    Answer::of(within(path, client.send(asked)).await.unwrap()).await
}

/// The fields of a head in their order, without those that say who speaks to whom.
fn fields(seen: &Seen) -> Vec<String> {
    let gates = ["host:", "via:", "x-forwarded", "x-spiffe-id:"];
    let lines = seen.head.lines().skip(1).filter(|line| !line.is_empty());
    let mut lines: Vec<String> =
        lines.filter(|line| !gates.iter().any(|gate| line.to_ascii_lowercase().starts_with(gate))).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_query_leave_as_the_verdict_edits_them_and_otherwise_as_they_came() {
    let policy = r#"decision := {
	"allowed": true,
	"headers": {"X-Role": "reader", "x-many": ["a", "b"], "x-replaced": "new"},
	"request_headers_to_remove": ["X-Gone", "x-never-there"],
	"response_headers_to_add": {"x-judged": "yes", "x-twice": ["1", "2"]},
	"query_parameters_to_set": {"tenant": "blue", "page": ["1", "2"]},
	"query_parameters_to_remove": ["debug"],
	"reasons": ["edited"],
}"#;
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = portcullis(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let headers =
            [("x-kept", "1"), ("x-kept", "2"), ("x-gone", "x"), ("x-replaced", "old"), ("x-replaced", "older"), ("x-many", "z")];
        let answer = send(&mut client, "GET", "/v1?page=9&a=1&debug=1&tenant=red&a=2", &headers, empty()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["x-judged"], "yes");
        assert_eq!(answer.headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(answer.headers["content-type"], "text/plain", "the upstream's own stay");
        let seen = backend.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].target(), "/v1?a=1&a=2&page=1&page=2&tenant=blue", "{protocol:?}");
        let expected = ["x-kept: 1", "x-kept: 2", "x-many: a", "x-many: b", "x-replaced: new", "x-role: reader"].map(str::to_owned);
        assert_eq!(fields(&seen[0]), expected, "{protocol:?}");
        let decisions = tokio::task::block_in_place(|| gate.decisions());
        assert_eq!(decisions[0]["reasons"], json!(["edited"]));
        let edits = decisions[0]["edits"].as_array().unwrap();
        for edit in
            ["set header x-role", "remove header x-gone", "add response header x-judged", "set query tenant", "remove query debug"]
        {
            assert!(edits.contains(&edit.into()), "{edit}: {edits:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_edit_the_request_leaves_as_it_came() {
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = Setup::default().start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let headers = [("x-one", "a b"), ("content-type", "application/octet-stream"), ("x-two", "1"), ("x-two", "2")];
        let odd = "/v1/%41%2d/x?b=%20+&&a=%3B&c";
        assert_eq!(send(&mut client, "PUT", odd, &headers, full(vec![0, 255, 13, 10])).await.status, 200);
        let seen = &backend.seen()[0];
        assert_eq!(seen.target(), "/v1/A-/x?b=%20+&&a=%3B&c", "{protocol:?}");
        assert_eq!(seen.body, [0, 255, 13, 10]);
        let expected = ["content-length: 4", "content-type: application/octet-stream", "x-one: a b", "x-two: 1", "x-two: 2"];
        assert_eq!(fields(seen), expected.map(str::to_owned), "{protocol:?}");
    }
}

fn envoy(policy: &str) -> Setup {
    Setup { decision: "envoy/authz/allow".to_owned(), ..Setup::policy(policy) }
}

/// As in the documentation of opa-envoy-plugin: a boolean, by method, path and the roles of a user.
const ENVOY_BOOLEAN: &str = r#"package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if {
	is_token_valid
	action_allowed
}

is_token_valid if token.payload.valid

action_allowed if {
	http_request.method == "GET"
	token.payload.role == "guest"
	glob.match("/people/*", ["/"], http_request.path)
}

action_allowed if {
	http_request.method == "POST"
	token.payload.role == "admin"
	glob.match("/people", ["/"], http_request.path)
	lower(input.parsed_body.firstname) != base64url.decode(token.payload.sub)
}

token := {"payload": payload} if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	payload := json.unmarshal(base64url.decode(encoded))
}
"#;

/// As there: an object, on both outcomes.
const ENVOY_OBJECT: &str = r#"package envoy.authz

import input.attributes.request.http as http_request

default allow := {
	"allowed": false,
	"headers": {"x-ext-auth-allow": "no"},
	"body": "Unauthorized Request",
	"http_status": 301,
}

allow := response if {
	http_request.method == "GET"
	response := {
		"allowed": true,
		"headers": {"x-ext-auth-allow": "yes"},
		"response_headers_to_add": {"x-foo": "bar"},
		"request_headers_to_remove": ["one", "two"],
		"query_parameters_to_set": {"source": "opa"},
		"query_parameters_to_remove": ["unsafe"],
		"dynamic_metadata": {"who": "opa"},
		"nobody_reads_this": 1,
	}
}
"#;

fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        encoded.extend((0..=chunk.len()).map(|place| char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63])));
    }
    encoded
}

#[tokio::test(flavor = "multi_thread")]
async fn the_boolean_policy_of_opa_envoy_plugins_documentation_runs_unchanged() {
    let bearer =
        |role: &str, sub: &str| format!("Bearer {}", base64(&json!({"valid": true, "role": role, "sub": base64(sub)}).to_string()));
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = envoy(ENVOY_BOOLEAN).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let (guest, admin) = (bearer("guest", "alice"), bearer("admin", "bob"));
        let json = ("content-type", "application/json");
        for (method, path, token, body, status) in [
            ("GET", "/people/1", &guest, "", 200),
            ("GET", "/people", &guest, "", 403),
            ("POST", "/people", &guest, "{\"firstname\": \"Charlie\"}", 403),
            ("POST", "/people", &admin, "{\"firstname\": \"Charlie\"}", 200),
            ("POST", "/people", &admin, "{\"firstname\": \"Bob\"}", 403),
            ("GET", "/people/1", &"Bearer x".to_owned(), "", 403),
        ] {
            let answer = send(&mut client, method, path, &[("authorization", token), json], full(body.to_owned())).await;
            assert_eq!(answer.status, status, "{protocol:?} {method} {path} {body}");
        }
        let seen = backend.seen();
        assert_eq!(
            seen.iter().map(|seen| seen.body.clone()).collect::<Vec<_>>(),
            [b"".to_vec(), b"{\"firstname\": \"Charlie\"}".to_vec()]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_object_policy_of_opa_envoy_plugins_documentation_runs_unchanged() {
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = envoy(ENVOY_OBJECT).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let answer = send(&mut client, "GET", "/a?unsafe=1&b=2", &[("one", "1"), ("two", "2"), ("three", "3")], empty()).await;
        assert_eq!((answer.status, answer.headers["x-foo"].as_bytes()), (200, &b"bar"[..]), "{protocol:?}");
        let seen = &backend.seen()[0];
        assert_eq!(
            (seen.target(), fields(seen)),
            ("/a?b=2&source=opa", vec!["three: 3".to_owned(), "x-ext-auth-allow: yes".to_owned()])
        );
        let answer = send(&mut client, "DELETE", "/a", &[], empty()).await;
        assert_eq!((answer.status, answer.body.as_str()), (301, "Unauthorized Request"), "{protocol:?}");
        assert_eq!(answer.headers["x-ext-auth-allow"], "no");
        assert_eq!(backend.seen().len(), 1);
    }
}

/// Rewrites, each under a path of its own; the rewritten request is asked about once more.
const REWRITES: &str = r#"
default decision := false

decision := {"allowed": true, "rewrite": {"path": "/v2/path/a%20b"}} if {
	input.request.segments == ["v1", "path"]
	not input.request.rewritten
}

decision := {"allowed": true, "rewrite": {"path": sprintf("%s/again", [input.request.path])}} if input.request.segments[0] == "unstable"

decision := {"allowed": true, "rewrite": {"path": "/forbidden"}} if input.request.path == "/v1/into-denied"

decision := {"allowed": true, "rewrite": {"path": "/v2/../../etc"}} if input.request.path == "/v1/above-root"

decision := {"allowed": true, "rewrite": {"path": "/v1/itself"}} if input.request.path == "/v1/itself"

decision := {"allowed": true, "response_headers_to_add": {"x-rewritten": sprintf("%v", [input.request.rewritten])}} if {
	input.request.segments[0] == "v2"
	input.request.segments[1] == "path"
	input.request.segments[2] == "a b"
}

decision := {"allowed": true, "response_headers_to_add": {"x-first": "1"}, "query_parameters_to_set": {"set": "1"}} if {
	input.request.path == "/v1/query"
	not input.request.query.set
}

decision := {"allowed": true, "response_headers_to_add": {"x-second": "2"}} if {
	input.request.path == "/v1/query"
	input.request.query.set == ["1"]
	input.request.rewritten
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_path_is_a_new_request_and_is_judged_as_one() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = portcullis(REWRITES).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let answer = client.get("/v1/path?q=1").await;
        assert_eq!((answer.status, answer.headers["x-rewritten"].as_bytes()), (200, &b"true"[..]), "{protocol:?}");
        let answer = client.get("/v1/query").await;
        assert_eq!((answer.status, answer.headers["x-second"].as_bytes()), (200, &b"2"[..]), "{protocol:?}");
        assert_eq!(answer.headers["x-first"], "1", "what the first verdict adds is added, like the headers it sets");
        assert_eq!(client.get("/v1/itself").await.status, 200, "a rewrite to what it is already is none");
        for (path, code) in [
            ("/unstable", "rewrite_unstable"),
            ("/v1/into-denied", "policy"),
            ("/v1/above-root", "edit_refused"),
            ("/forbidden", "policy"),
        ] {
            let answer = client.get(path).await;
            assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, code), "{protocol:?} {path}");
        }
        let targets: Vec<String> = backend.seen().iter().map(|seen| seen.target().to_owned()).collect();
        assert_eq!(targets, ["/v2/path/a%20b?q=1", "/v1/query?set=1", "/v1/itself"], "{protocol:?}");
        let decisions = tokio::task::block_in_place(|| gate.decisions());
        assert_eq!(decisions[0]["path"], "/v2/path/a%20b", "the record tells what went up");
        assert!(decisions[0]["edits"].as_array().unwrap().contains(&"rewrite path".into()), "{}", decisions[0]);
        assert_eq!(decisions.len(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_body_leaves_patched_and_framed_anew() {
    let patch = r#"[{"op": "test", "path": "/keep", "value": 1.0}, {"op": "replace", "path": "/a/0", "value": {"x": "é"}},
		{"op": "remove", "path": "/gone"}, {"op": "add", "path": "/new~1key", "value": [null]}]"#;
    for reads in [true, false] {
        let seen = if reads { "input.request.body.keep == 1" } else { "true" };
        let policy = format!(
            "decision := {{\"allowed\": true, \"rewrite\": {{\"body\": {patch}}}}} if {{\n\tnot input.request.rewritten\n\t{seen}\n}}\n\n\
             decision := true if {{\n\tinput.request.rewritten\n\t{}\n}}\n",
            if reads { "input.request.body[\"new/key\"] == [null]" } else { "true" },
        );
        for protocol in BOTH {
            for chunked in [false, true] {
                let case = format!("{protocol:?}, reads: {reads}, chunked: {chunked}");
                let backend = Backend::start();
                let gate = portcullis(&policy).start(backend.address);
                let mut client = gate.any(protocol, "agents/research").await;
                let text = "{\"keep\": 1.0, \"a\": [1, 2], \"gone\": true}";
                let (sender, fed) = by_hand();
                for part in [&text[..7], &text[7..]] {
                    sender.send(Ok(Bytes::copy_from_slice(part.as_bytes()))).await.unwrap();
                }
                drop(sender);
                let body = if chunked { fed } else { full(text) };
                let headers = [("content-type", "application/json"), ("digest", "sha-256=x"), ("etag", "\"y\"")];
                let answer = send(&mut client, "POST", "/v1", &headers, body).await;
                assert_eq!(answer.status, 200, "{case} {}", answer.body);
                let seen = &backend.seen()[0];
                assert_eq!(
                    serde_json::from_slice::<Value>(&seen.body).unwrap(),
                    json!({"keep": 1.0, "a": [{"x": "é"}, 2], "new/key": [null]}),
                    "{case}"
                );
                assert_eq!(seen.header("content-length").unwrap(), seen.body.len().to_string(), "{case}");
                assert_eq!(seen.header("transfer-encoding"), None, "{case}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_of_a_body_that_never_rests_or_does_not_fit_is_denied() {
    let policy = r#"
decision := {"allowed": true, "rewrite": {"body": [{"op": "add", "path": "/n", "value": input.request.body.n + 1}]}} if input.request.path == "/grows"

decision := {"allowed": true, "rewrite": {"body": [{"op": "remove", "path": "/not/there"}]}} if input.request.path == "/misfit"

decision := {"allowed": true, "rewrite": {"body": [{"op": "test", "path": "/n", "value": 2}]}} if input.request.path == "/test"
"#;
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = portcullis(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        for (path, code) in [("/grows", "rewrite_unstable"), ("/misfit", "edit_refused"), ("/test", "edit_refused")] {
            let answer = client.post(path, "{\"n\": 1}").await;
            assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, code), "{protocol:?} {path}");
        }
        let answer = send(&mut client, "POST", "/misfit", &[("content-type", "text/plain")], full("text")).await;
        assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "edit_refused"), "{protocol:?} no JSON");
        assert!(backend.seen().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_what_is_the_gates_own_is_refused_whole() {
    let names = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "expect",
        "x-spiffe-id",
        "x-forwarded-for",
        "x-forwarded-client-cert",
        "forwarded",
        "via",
        "x-http-method-override",
        "under_score",
        "no name",
    ];
    let policy = r#"
name := input.request.query.name[0]

decision := {"allowed": true, "headers": {name: "x"}} if input.request.path == "/set"

decision := {"allowed": true, "request_headers_to_remove": [name]} if input.request.path == "/remove"

decision := {"allowed": true, "response_headers_to_add": {name: "x"}} if input.request.path == "/add"

decision := {"allowed": true, "headers": {"x-a": "a\r\nx-b: b"}} if input.request.path == "/split"

decision := {"allowed": true, "response_headers_to_add": {"x-a": "a\r\nx-b: b"}} if input.request.path == "/split-response"

decision := {"allowed": true, "query_parameters_to_set": {"a": "\r\n"}} if input.request.path == "/split-query"
"#;
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = portcullis(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let mut paths: Vec<String> = ["/split", "/split-response", "/split-query"].map(str::to_owned).to_vec();
        for name in names {
            paths.extend(["set", "remove", "add"].map(|edit| format!("/{edit}?name={}", name.replace(' ', "%20"))));
        }
        for path in paths {
            let answer = client.get(&path).await;
            assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "edit_refused"), "{protocol:?} {path}");
        }
        assert!(backend.seen().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_nobody_reads_streams_and_one_the_policy_reads_waits_for_its_end() {
    for protocol in BOTH {
        for reads in [false, true] {
            let (upstream, bytes) = tap("LAST");
            let rule = if reads { "decision := input.attributes.request.http.body != \"\"" } else { "decision := true" };
            let gate = portcullis(rule).start(upstream);
            let mut client = gate.any(protocol, "agents/research").await;
            let (sender, body) = by_hand();
            sender.send(Ok(Bytes::from_static(b"FIRST"))).await.unwrap();
            let sending = tokio::spawn(async move { Answer::of(client.send(request("POST", "/v1", body)).await.unwrap()).await });
            let has = |part: &str| String::from_utf8_lossy(&bytes.lock().unwrap()).contains(part);
            if reads {
                let arrived = || gate.running().registry().collect(|exchange| exchange.upstream().is_some()).len() == 1;
                until("the head to arrive", arrived).await;
                sender.send(Ok(Bytes::from_static(b"SECOND"))).await.unwrap();
                // Nothing tells that nothing happens; a gate that streams would have had ample time.
                tokio::time::sleep(Duration::from_millis(200)).await;
                assert!(bytes.lock().unwrap().is_empty(), "{protocol:?}: not even the head goes up");
            } else {
                until("the first chunk to arrive", || has("FIRST")).await;
                sender.send(Ok(Bytes::from_static(b"SECOND"))).await.unwrap();
                until("the second chunk to arrive", || has("SECOND")).await;
            }
            sender.send(Ok(Bytes::from_static(b"LAST"))).await.unwrap();
            drop(sender);
            assert_eq!(within("the answer", sending).await.unwrap().status, 200, "{protocol:?} {reads}");
            assert!(has("FIRST") && has("SECOND"));
        }
    }
}

/// An upstream that answers at once, then ticks ten times a second for ever.
fn ticks() -> Backend {
    Backend::answering(|seen, stream| {
        if seen.target().starts_with("/quick") {
            stream.write_all_to_end(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?;
            return Ok(true);
        }
        stream.write_all_to_end(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            stream.write_all_to_end(b"400\r\n")?;
            stream.write_all_to_end(&[b'x'; 1024])?;
            stream.write_all_to_end(b"\r\n")?;
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

trait WriteAll {
    fn write_all_to_end(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

impl WriteAll for std::net::TcpStream {
    fn write_all_to_end(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        std::io::Write::write_all(self, bytes)
    }
}

/// Reads a body to its end; how many bytes came, and whether it ended in an error.
async fn drained(mut body: hyper::body::Incoming) -> (u64, bool) {
    let mut read = 0;
    loop {
        match within("the end of the stream", body.frame()).await {
            Some(Ok(frame)) => read += frame.into_data().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => return (read, true),
            None => return (read, false),
        }
    }
}

fn last_line(record: &[Value]) -> (Value, Value) {
    let last = record.iter().rfind(|line| line["portcullis"].get("ending").is_some()).unwrap();
    (last["portcullis"]["ending"].clone(), last["portcullis"]["cause"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_cut_when_its_lease_ends() {
    for (lease, cause) in [
        ("{\"max_age\": \"1s\"}", "lease_max_age"),
        ("{\"max_bytes_out\": 5000}", "lease_max_bytes_out"),
        ("{\"max_bytes_out\": \"5KiB\", \"max_age\": \"1h\"}", "lease_max_bytes_out"),
    ] {
        for protocol in BOTH {
            let backend = ticks();
            let mut gate = portcullis(&format!("decision := {{\"allowed\": true, \"lease\": {lease}}}")).start(backend.address);
            let mut client = gate.any(protocol, "agents/research").await;
            let began = std::time::Instant::now();
            let (read, broken) = drained(client.open("/ticks").await.into_body()).await;
            let case = format!("{protocol:?} {lease}");
            assert!(broken, "{case}: a cut never looks like an end");
            if cause == "lease_max_age" {
                assert!(began.elapsed() >= Duration::from_secs(1) && read > 0, "{case}");
            } else {
                assert!(read > 0 && read <= 5120, "{case}: {read}");
            }
            if protocol == Speaks::Http2 {
                assert_eq!(Answer::of(client.open("/quick").await).await.body, "hello", "{case}: the connection lives on");
            }
            drop(client);
            let record = tokio::task::block_in_place(|| gate.record());
            let of: Vec<Value> = record.into_iter().filter(|line| line["portcullis"]["path"] != "/quick").collect();
            assert_eq!(last_line(&of), ("cut".into(), cause.into()), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_cut_when_its_lease_ends_and_what_is_over_it_never_arrives() {
    for protocol in BOTH {
        for reads in [false, true] {
            let (upstream, bytes) = tap("never");
            let read = if reads { "input.request.body" } else { "true" };
            let policy = format!("decision := {{\"allowed\": true, \"lease\": {{\"max_bytes_in\": 10}}}} if {read}");
            let mut gate = portcullis(&policy).start(upstream);
            let mut client = gate.any(protocol, "agents/research").await;
            let (sender, body) = by_hand();
            let mut asked = request("POST", "/v1", body);
            asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
            let sending = tokio::spawn(async move { client.send(asked).await });
            sender.send(Ok(Bytes::from_static(b"[12345"))).await.unwrap();
            if !reads {
                until("the first part to arrive", || String::from_utf8_lossy(&bytes.lock().unwrap()).contains("[12345")).await;
            }
            sender.send(Ok(Bytes::from_static(b",6789]"))).await.unwrap();
            drop(sender);
            let case = format!("{protocol:?}, read: {reads}");
            let answer = within("the answer", sending).await.unwrap().unwrap_or_else(|error| panic!("{case}: {error:?}"));
            let answer = Answer::of(answer).await;
            assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "policy"), "{case}");
            let arrived = String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned();
            assert!(!arrived.contains("6789"), "{case}: {arrived}");
            assert!(!reads || arrived.is_empty(), "{case}: {arrived}");
            let record = tokio::task::block_in_place(|| gate.record());
            assert_eq!(last_line(&record), ("cut".into(), "lease_max_bytes_in".into()), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_exchange_is_cut_when_the_answer_changes_with_its_age_its_bytes_or_the_time() {
    for rule in [
        "input.exchange.age_seconds < 2".to_owned(),
        "input.exchange.bytes_out < 10000".to_owned(),
        "input.time.seconds < END".to_owned(),
        "input.phase == \"request\"".to_owned(),
    ] {
        for protocol in BOTH {
            let backend = ticks();
            let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3;
            let rule = rule.replace("END", &end.to_string());
            let policy = format!("decision := {{\"allowed\": true, \"lease\": {{\"reassess_every\": \"1s\"}}}} if {rule}");
            let mut gate = portcullis(&policy).start(backend.address);
            let mut client = gate.any(protocol, "agents/research").await;
            let response = client.open("/ticks").await;
            assert_eq!(response.status(), 200, "{rule}");
            let (read, broken) = drained(response.into_body()).await;
            assert!(read > 0 && broken, "{protocol:?} {rule}");
            drop(client);
            let record = tokio::task::block_in_place(|| gate.record());
            assert_eq!(last_line(&record), ("cut".into(), "policy".into()), "{protocol:?} {rule}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_a_policy_asks_for_denies_the_identity_from_then_on_and_cuts_what_it_has_open() {
    let policy = "default decision := true\n\n\
                  decision := {\"allowed\": false, \"kill\": {\"scope\": input.request.query.scope[0], \"ttl\": \"1h\"}} if input.request.path == \"/trap\"\n";
    for protocol in BOTH {
        for scope in ["identity", "session", "exchange"] {
            let case = format!("{protocol:?} {scope}");
            let backend = ticks();
            let gate = portcullis(policy).start(backend.address);
            let mut other = gate.any(protocol, "agents/good").await;
            let mut streaming = gate.any(protocol, "agents/bad").await;
            let open = streaming.open("/ticks").await.into_body();
            let reading = tokio::spawn(drained(open));
            let answer = gate.any(protocol, "agents/bad").await.get(&format!("/trap?scope={scope}")).await;
            assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "policy"), "{case}");
            let again = gate.any(protocol, "agents/bad").await.get("/quick").await;
            if scope == "exchange" {
                assert_eq!(again.status, 200, "{case}: only that exchange");
                assert!(!reading.is_finished(), "{case}");
                reading.abort();
            } else {
                assert_eq!((again.status, again.json()["code"].as_str().unwrap()), (403, "killed"), "{case}");
                assert!(within("the cut", reading).await.unwrap().1, "{case}");
            }
            assert_eq!(other.get("/quick").await.status, 200, "{case}: nobody else");
            drop(streaming);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_a_scope_that_is_not_lent_is_no_verdict_and_kills_nobody() {
    let backend = Backend::start();
    let policy = "default decision := true\n\ndecision := {\"allowed\": false, \"kill\": {\"scope\": \"identity\"}} if input.request.path == \"/trap\"\n";
    let mut gate = portcullis(policy)
        .start_with(backend.address, |yaml| yaml.replace("may_kill: [exchange, session, identity]", "may_kill: [exchange]"));
    let mut client = gate.any(Speaks::Http2, "agents/bad").await;
    assert_eq!(client.get("/trap").await.json()["code"], "verdict_type");
    assert_eq!(client.get("/").await.status, 200);
    drop(client);
    let record = tokio::task::block_in_place(|| gate.record());
    assert!(record[0]["error"].as_str().unwrap().contains("may_kill"), "{}", record[0]);
}

/// A window on the day that is farthest from today.
fn facts() -> String {
    const WEEK: [&str; 7] = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let far = WEEK[(today as usize + 3) % 7];
    format!(
        "time_windows: {{always: {{days: [mon, tue, wed, thu, fri, sat, sun], from: \"00:00\", to: \"24:00\"}}, never: {{days: [{far}], from: \"00:00\", to: \"24:00\"}}}}\n{FACTS}"
    )
}

const FACTS: &str = "\
address_lists: {home: [127.0.0.0/8], corp: [10.0.0.0/8]}
workloads: [{spiffe_id: \"spiffe://example.org/agents/*\", owner: data-team, kind: agent, class: high}]
resources: [{match: {methods: [POST], path: \"/v1/users/*\"}, type: user, sensitivity: high, effect: destroy}]
";

/// Takes a value out of a document after looking at it.
fn taken(document: &mut Value, pointer: &str, fits: impl Fn(&Value) -> bool) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let object = document.pointer_mut(parent).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("no {parent}"));
    let value = object.remove(key).unwrap_or_else(|| panic!("no {pointer}"));
    assert!(fits(&value), "{pointer}: {value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_is_the_contracts_document_key_by_key() {
    for protocol in BOTH {
        let backend = Backend::start();
        let policy = "decision := {\"allowed\": true, \"response_headers_to_add\": {\"x-input\": json.marshal(input)}}";
        let gate = Setup { extra: facts(), ..portcullis(policy) }.start(backend.address);
        let named = protocol == Speaks::Http2;
        let config = gate.client("agents/research", protocol.alpn());
        let stream =
            if named { gate.connect_named(config, "gate.test").await.unwrap() } else { gate.connect_with(config).await.unwrap() };
        let port = stream.get_ref().0.local_addr().unwrap().port();
        let mut client = Gate::over(protocol, stream).await;
        let headers = [("content-type", "application/json"), ("x-team", "blue"), ("x-team", "green")];
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let answer = send(&mut client, "POST", "/v1/users/a%20b?x=1&y=%2F&x=2", &headers, full("{\"id\": 7}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let mut input: Value = serde_json::from_str(answer.headers["x-input"].to_str().unwrap()).unwrap();

        let text = |value: &Value, length: usize| value.as_str().is_some_and(|text| text.len() == length);
        let now = |value: &Value| value.as_u64().is_some_and(|seconds| (before..before + 30).contains(&seconds));
        taken(&mut input, "/attributes/request/time/seconds", now);
        taken(&mut input, "/attributes/request/time/nanos", |nanos| nanos.as_u64().is_some_and(|nanos| nanos < 1_000_000_000));
        taken(&mut input, "/attributes/request/http/id", |id| text(id, 36));
        taken(&mut input, "/time/seconds", now);
        taken(&mut input, "/session/id", |id| id.as_str().is_some_and(|id| id.len() >= 32));
        taken(&mut input, "/peer/certificate/serial", |serial| serial.as_str().is_some_and(|serial| !serial.is_empty()));
        let hash = input["peer"]["certificate"]["sha256"].as_str().unwrap().to_owned();
        taken(&mut input, "/peer/certificate/sha256", |hash| text(hash, 64));
        assert!(backend.seen()[0].header("x-forwarded-client-cert").unwrap().contains(&hash), "one hash in both places");
        taken(&mut input, "/peer/certificate/not_after", |at| {
            at.as_u64().is_some_and(|at| (before + 3500..before + 3700).contains(&at))
        });

        let research = "spiffe://example.org/agents/research";
        let address = |port: u16| json!({"socketAddress": {"address": "127.0.0.1", "portValue": port}});
        let version = if named { "HTTP/2" } else { "HTTP/1.1" };
        let mut expected = json!({
            "attributes": {
                "source": {"address": address(port), "principal": research},
                "destination": {"address": address(gate.address.port()), "principal": "spiffe://example.org/gate"},
                "request": {"time": {}, "http": {
                    "method": "POST", "path": "/v1/users/a%20b?x=1&y=%2F&x=2", "host": "gate.test", "scheme": "https",
                    "protocol": version, "size": 9, "body": "{\"id\": 7}",
                    "headers": {":authority": "gate.test", ":method": "POST", ":path": "/v1/users/a%20b?x=1&y=%2F&x=2",
                        ":scheme": "https", "content-length": "9", "content-type": "application/json", "x-team": "blue,green"}}},
            },
            "parsed_path": ["v1", "users", "a b"], "parsed_query": {"x": ["1", "2"], "y": ["/"]}, "parsed_body": {"id": 7},
            "truncated_body": false, "source_principal": research, "version": {"ext_authz": "v3", "encoding": "protojson"},
            "phase": "request", "environment": "test",
            "request": {"method": "POST", "scheme": "https", "host": "gate.test", "port": 443, "path": "/v1/users/a%20b",
                "segments": ["v1", "users", "a b"], "query": {"x": ["1", "2"], "y": ["/"]},
                "headers": {"content-length": ["9"], "content-type": ["application/json"], "x-team": ["blue", "green"]},
                "body": {"id": 7}, "size": 9, "protocol": version, "rewritten": false},
            "action": {"protocol": "http", "name": "POST"},
            "resource": {"type": "user", "sensitivity": "high", "effect": "destroy", "environment": "test"},
            "route": {"listener": "front", "name": "all", "upstream": "backend"},
            "connection": {"address": "127.0.0.1", "port": port, "lists": ["home"]},
            "peer": {"spiffe_id": research, "trust_domain": "example.org", "segments": ["agents", "research"], "proof": "mtls",
                "certificate": {"lifetime_seconds": 3660}},
            "workload": {"owner": "data-team", "kind": "agent", "class": "high"},
            "session": {"age_seconds": 0, "requests": 0, "denied": 0, "recent": []},
            "exchange": {"age_seconds": 0, "bytes_in": 0, "bytes_out": 0},
            "time": {"windows": {"always": true, "never": false}},
        });
        if named {
            expected["attributes"]["tlsSession"] = json!({"sni": "gate.test"});
            expected["connection"]["sni"] = "gate.test".into();
        }
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&input[key], value, "{protocol:?} {key}");
        }
        assert_eq!(input, expected, "{protocol:?}: nothing else is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_nothing_to_say_is_absent_from_the_input() {
    let backend = Backend::start();
    let policy = "decision := {\"allowed\": true, \"response_headers_to_add\": {\"x-input\": json.marshal(input)}}";
    let gate = portcullis(policy).start(backend.address);
    let mut client = gate.any(Speaks::Http1, "agents/research").await;
    let answer = client.get("/").await;
    let input: Value = serde_json::from_str(answer.headers["x-input"].to_str().unwrap()).unwrap();
    assert_eq!(input["parsed_path"], json!([""]), "as opa-envoy-plugin has it");
    assert_eq!((&input["request"]["segments"], &input["request"]["query"]), (&json!([]), &json!({})));
    assert_eq!(input["parsed_body"], Value::Null);
    for pointer in [
        "/workload",
        "/request/body",
        "/request/size",
        "/attributes/tlsSession",
        "/attributes/request/http/body",
        "/connection/sni",
    ] {
        assert_eq!(input.pointer(pointer), None, "{pointer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_tells_what_its_workload_did_before() {
    let policy = "default decision := false\n\n\
                  decision := {\"allowed\": true, \"response_headers_to_add\": {\"x-session\": json.marshal(input.session)}} if input.request.segments[0] != \"no\"\n";
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = portcullis(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        assert_eq!(client.get("/first").await.status, 200);
        assert_eq!(client.get("/no").await.status, 403);
        // The session is the workload's, whatever connection it comes by.
        let mut again = gate.any(protocol, "agents/research").await;
        let answer = again.post("/third?q=1", "{}").await;
        let mut session: Value = serde_json::from_str(answer.headers["x-session"].to_str().unwrap()).unwrap();
        taken(&mut session, "/id", |id| id.is_string());
        taken(&mut session, "/age_seconds", |age| age.as_u64().is_some_and(|age| age < 5));
        for past in session["recent"].as_array_mut().unwrap() {
            taken(past, "/seconds_ago", |ago| ago.as_u64().is_some_and(|ago| ago < 5));
        }
        assert_eq!(
            session,
            json!({"requests": 2, "denied": 1, "recent": [
                {"action": "GET /no", "host": "gate.test", "verdict": "deny"},
                {"action": "GET /first", "host": "gate.test", "verdict": "allow"},
            ]}),
            "{protocol:?}"
        );
        let other = gate.any(protocol, "agents/other").await.get("/first").await;
        let session: Value = serde_json::from_str(other.headers["x-session"].to_str().unwrap()).unwrap();
        assert_eq!((&session["requests"], &session["denied"]), (&0.into(), &0.into()), "another workload, another session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_given_again_is_counted_as_such_and_its_fault_as_often_as_it_denies() {
    let backend = Backend::start();
    let policy = "package portcullis\n\nimport rego.v1\n\ndecision := true if input.request.method == \"POST\"\n";
    let gate = Setup::policy(policy).start(backend.address);
    let mut client = gate.any(Speaks::Http1, "agents/research").await;
    for path in ["/one", "/two", "/three"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "undefined"));
    }
    let reuse = |outcome: &str| gate.metric("portcullis_verdict_reuse_total", &format!("outcome=\"{outcome}\""));
    assert_eq!((reuse("judged"), reuse("reused"), reuse("unfit")), (1.0, 2.0, 0.0));
    assert_eq!(gate.metric("portcullis_decision_errors_total", "kind=\"undefined\""), 3.0);
}
