//! Promise 4: unclear is deny. Every way in which a policy, a body or a caller can be unclear, on both protocols, as the client and
//! the record see it; and that a route that only observes lets denials by policy pass and nothing else.

use bytes::Bytes;

use crate::harness::*;

/// Answers that are no verdict, each under a path of its own. Nothing but `/fine` is an allow.
const UNCLEAR: &str = r#"package portcullis

decision := true if input.request.path == "/fine"
decision := "true" if input.request.path == "/string"
decision := 1 if input.request.path == "/number"
decision := null if input.request.path == "/null"
decision := [true] if input.request.path == "/array"
decision := {true} if input.request.path == "/set"
decision := {} if input.request.path == "/empty"
decision := {"allowed": "true"} if input.request.path == "/text-allowed"
decision := {"allowed": 1} if input.request.path == "/number-allowed"
decision := {"allowed": null} if input.request.path == "/null-allowed"
decision := {"allowed": true, "alowed": true} if input.request.path == "/unknown-key"
decision := {"allowed": true, "hold": {"summary": "x"}} if input.request.path == "/hold"
decision := {"allowed": true, "redact": [{"json": "/a"}]} if input.request.path == "/redact"
decision := {"allowed": true, "credential": "c"} if input.request.path == "/credential"
decision := {"allowed": true, "risk": {"add": 20}} if input.request.path == "/risk"
decision := {"allowed": true, "kill": {"scope": "identity"}} if input.request.path == "/kill-beside-allow"
decision := {"allowed": false, "kill": {"scope": "world"}} if input.request.path == "/kill-unknown-scope"
decision := {"allowed": true, "lease": {"max_agee": "1s"}} if input.request.path == "/lease-key"
decision := {"allowed": true, "lease": {"reassess_every": "10ms"}} if input.request.path == "/lease-often"
decision := {"allowed": true, "headers": ["x"]} if input.request.path == "/headers-type"
decision := {"allowed": true, "headers": {"x": 1}} if input.request.path == "/header-type"
decision := {"allowed": true, "reasons": "no"} if input.request.path == "/reasons-type"

decision := true if input.request.path == "/conflict"
decision := {"allowed": true} if input.request.path == "/conflict"

decision := true if {
	input.request.path == "/division"
	1 / (count(input.request.segments) - 1) > 0
}

decision := true if {
	input.request.path == "/builtin"
	to_number(input.request.path) > 0
}

decision := true if {
	input.request.path == "/panic"
	strings.count(input.request.query.in[0], input.request.query.of[0]) >= 0
}

decision := true if {
	input.request.path == "/slow"
	count([1 | some a in data.many; some b in data.many; some c in data.many; a + b + c < 0]) == 0
}
"#;

const ANSWERS: &[(&str, u16, &str)] = &[
    ("/nothing", 403, "undefined"),
    ("/string", 403, "verdict_type"),
    ("/number", 403, "verdict_type"),
    ("/null", 403, "verdict_type"),
    ("/array", 403, "verdict_type"),
    ("/set", 403, "verdict_type"),
    ("/empty", 403, "verdict_type"),
    ("/text-allowed", 403, "verdict_type"),
    ("/number-allowed", 403, "verdict_type"),
    ("/null-allowed", 403, "verdict_type"),
    ("/unknown-key", 403, "verdict_type"),
    ("/hold", 403, "verdict_type"),
    ("/redact", 403, "verdict_type"),
    ("/credential", 403, "verdict_type"),
    ("/risk", 403, "verdict_type"),
    ("/kill-beside-allow", 403, "verdict_type"),
    ("/kill-unknown-scope", 403, "verdict_type"),
    ("/lease-key", 403, "verdict_type"),
    ("/lease-often", 403, "verdict_type"),
    ("/headers-type", 403, "verdict_type"),
    ("/header-type", 403, "verdict_type"),
    ("/reasons-type", 403, "verdict_type"),
    ("/conflict", 403, "policy_error"),
    ("/division", 403, "undefined"),
    ("/builtin", 403, "undefined"),
    ("/panic?in=abc&of=", 403, "policy_panic"),
    ("/slow", 403, "policy_timeout"),
];

fn many() -> String {
    format!("{{\"many\": {:?}}}", (0..2000).collect::<Vec<_>>())
}

fn quick(yaml: String) -> String {
    let changed = yaml.replace("time: 200ms", "time: 50ms");
    assert_ne!(changed, yaml);
    changed
}

fn observing(yaml: String) -> String {
    let changed = yaml.replace("{name: all, upstream: backend}", "{name: all, upstream: backend, enforcement: observe}");
    assert_ne!(changed, yaml);
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_clear_allow_denies_with_its_own_code() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup { data: many(), ..Setup::policy(UNCLEAR) }.start_with(backend.address, quick);
        let mut client = gate.any(protocol, "agents/research").await;
        for (path, status, code) in ANSWERS {
            let answer = client.get(path).await;
            let said = (answer.status, answer.json()["code"].as_str().unwrap().to_owned());
            assert_eq!(said, (*status, (*code).to_owned()), "{protocol:?} {path}");
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
            assert_eq!(client.get("/fine").await.status, 200, "{protocol:?}: after {path} the engine judges on");
        }
        assert_eq!(backend.seen().len(), ANSWERS.len(), "only what was fine went up");
        let decisions = gate.decisions();
        for (path, _, code) in ANSWERS {
            let path = path.split('?').next().unwrap();
            let line = decisions.iter().find(|line| line["path"] == path).unwrap();
            assert_eq!((&line["verdict"], &line["reason"], &line["ending"]), (&"deny".into(), &(*code).into(), &"denied".into()));
            assert_eq!(line["basis"], serde_json::Value::Null, "a denial rests on nothing");
        }
        assert_eq!(decisions.len(), ANSWERS.len() * 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_stands_in_the_record_and_not_in_the_answer() {
    let backend = Backend::start();
    let mut gate = Setup { data: many(), ..Setup::policy(UNCLEAR) }.start_with(backend.address, quick);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for (path, hint) in [("/unknown-key", "alowed"), ("/hold", "hold"), ("/text-allowed", "boolean")] {
        let answer = client.get(path).await;
        assert!(!answer.body.contains(hint), "{path}: {}", answer.body);
    }
    let record = gate.record();
    for (path, hint) in [("/unknown-key", "alowed"), ("/hold", "hold"), ("/text-allowed", "boolean")] {
        let line = record.iter().find(|line| line["portcullis"]["path"] == path).unwrap();
        assert!(line["error"].as_str().unwrap().contains(hint), "{path}: {line}");
    }
}

const READS_BODY: &str = r#"package portcullis

default decision := false

decision := true if input.request.body.ok

decision := true if {
	input.request.body.slow
	count([1 | some a in input.request.body.many; some b in input.request.body.many; some c in input.request.body.many; a + b + c < 0]) == 0
}
"#;

struct Sent {
    what: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    answer: (u16, &'static str),
}

fn bodies() -> Vec<Sent> {
    const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
    let sent = |what, headers, body: &[u8], status, code| Sent { what, headers, body: body.to_vec(), answer: (status, code) };
    let unreadable = |what, headers, body: &[u8]| sent(what, headers, body, 400, "body_unreadable");
    let numbers: Vec<u32> = (0..3000).collect();
    vec![
        unreadable("broken JSON", JSON, b"{\"ok\": true"),
        unreadable("bytes after the end", JSON, b"{\"ok\": true} {}"),
        unreadable("a key twice", JSON, b"{\"ok\": true, \"ok\": false}"),
        unreadable("a key twice, spelt otherwise", JSON, b"{\"ok\": true, \"\\u006fk\": false}"),
        unreadable("a byte order mark", JSON, b"\xef\xbb\xbf{\"ok\": true}"),
        unreadable("no UTF-8", JSON, b"{\"ok\": true, \"a\": \"\xff\"}"),
        unreadable("a lone surrogate", JSON, b"{\"ok\": true, \"a\": \"\\ud800\"}"),
        unreadable("gzip", &[("content-type", "application/json"), ("content-encoding", "gzip")], b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        unreadable("another charset", &[("content-type", "application/json; charset=utf-16")], b"{\"ok\": true}"),
        unreadable("multipart", &[("content-type", "multipart/form-data; boundary=x")], b"--x--\r\n"),
        unreadable("too deep", JSON, format!("{{\"ok\": true, \"a\": {}{}}}", "[".repeat(70), "]".repeat(70)).as_bytes()),
        sent("JSON under another name", &[("content-type", "text/plain")], b"{\"ok\": true}", 403, "policy"),
        sent("no body", &[], b"", 403, "policy"),
        sent("too slow to judge", JSON, format!("{{\"slow\": true, \"many\": {numbers:?}}}").as_bytes(), 403, "policy_timeout"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_the_policy_reads_and_nobody_can_read_without_doubt_denies() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup::policy(READS_BODY).start_with(backend.address, quick);
        let mut client = gate.any(protocol, "agents/research").await;
        for (place, Sent { what, headers, body, answer }) in bodies().into_iter().enumerate() {
            let mut asked = request("POST", &format!("/{place}"), full(body));
            for (name, value) in headers {
                asked.headers_mut().append(*name, value.parse().unwrap());
            }
            let got = Answer::of(within(what, client.send(asked)).await.unwrap()).await;
            assert_eq!((got.status, got.json()["code"].as_str().unwrap()), answer, "{protocol:?} {what}");
        }
        assert!(backend.seen().is_empty());
        assert_eq!(client.post("/fine", "{\"ok\": true}").await.status, 200);
        assert_eq!(backend.seen()[0].body, b"{\"ok\": true}");
        let decisions = gate.decisions();
        for (place, Sent { what, answer, .. }) in bodies().into_iter().enumerate() {
            let line = decisions.iter().find(|line| line["path"] == format!("/{place}")).unwrap();
            assert_eq!((&line["verdict"], &line["reason"]), (&"deny".into(), &answer.1.into()), "{protocol:?} {what}");
            assert_eq!((&line["route"], &line["host"]), (&"all".into(), &"gate.test".into()), "{what}: what was asked is known");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_the_limit_is_a_denial_declared_or_not() {
    for protocol in BOTH {
        for declared in [true, false] {
            let backend = Backend::start();
            let mut gate = Setup::policy(READS_BODY).start(backend.address);
            let mut client = gate.any(protocol, "agents/research").await;
            let large = Bytes::from(vec![b' '; 1024 * 1024 + 1]);
            let (sender, fed) = by_hand();
            let mut asked = request("POST", "/large", if declared { full(large.clone()) } else { fed });
            asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
            let feeding = tokio::spawn(async move {
                for chunk in large.chunks(64 * 1024) {
                    // Nobody takes the rest of a body that was refused.
                    if sender.send(Ok(Bytes::copy_from_slice(chunk))).await.is_err() {
                        return;
                    }
                }
            });
            let case = format!("{protocol:?}, declared: {declared}");
            let got = Answer::of(within(&case, client.send(asked)).await.unwrap_or_else(|error| panic!("{case}: {error:?}"))).await;
            assert_eq!((got.status, got.json()["code"].as_str().unwrap()), (413, "body_too_large"), "{case}");
            feeding.abort();
            drop(client);
            assert!(backend.seen().is_empty());
            let decisions = gate.decisions();
            assert_eq!((decisions.len(), &decisions[0]["reason"]), (1, &"body_too_large".into()), "{case}");
        }
    }
}

/// More than the sockets between them hold, so the gate must take it for the client to come to its reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_all_of_a_refused_body_before_it_reads_still_gets_its_answer() {
    let backend = Backend::start();
    let gate = Setup::policy(READS_BODY).start(backend.address);
    let size = 24 * 1024 * 1024;
    let head = format!("POST /large HTTP/1.1\r\nhost: gate\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n");
    let bytes = [head.into_bytes(), vec![b' '; size]].concat();
    let answer = within("the answer", gate.raw_answer("agents/research", &bytes, false)).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    assert!(backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_before_it_was_judged_goes_nowhere() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup::policy(READS_BODY).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let (sender, body) = by_hand();
        let mut asked = request("POST", "/half", body);
        asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
        sender.send(Ok(Bytes::from_static(b"{\"ok\": true}"))).await.unwrap();
        let sending = tokio::spawn(async move { client.send(asked).await.map(drop) });
        // It is read as it comes; only then does it break.
        until("the request to be open", || gate.running().registry().collect(|exchange| exchange.upstream().is_some()).len() == 1)
            .await;
        sender.send(Err(std::io::Error::other("broken"))).await.unwrap();
        let _ = within("the client to end", sending).await.unwrap();
        until("the exchange to end", || gate.running().registry().collect(|exchange| exchange.upstream().is_some()).is_empty())
            .await;
        assert!(backend.seen().is_empty(), "{protocol:?}");
        let decisions = gate.decisions();
        assert_eq!(decisions.len(), 1, "{protocol:?}");
        assert_ne!(decisions[0]["verdict"], "allow", "{protocol:?}: {}", decisions[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_head_request_is_answered_without_a_body() {
    for protocol in BOTH {
        let backend = Backend::start();
        let policy =
            "package portcullis\n\ndecision := {\"allowed\": false, \"body\": \"a text\"} if input.request.path == \"/text\"\n";
        let gate = Setup::policy(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        for path in ["/text", "/undefined"] {
            let response = within(path, client.send(request("HEAD", path, empty()))).await.unwrap();
            assert_eq!(response.status(), 403, "{protocol:?}");
            assert_eq!(Answer::of(response).await.body, "", "{protocol:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_with_a_status_that_has_no_body_has_none() {
    let policy = "package portcullis\n\ndecision := {\"allowed\": false, \"http_status\": to_number(input.request.segments[0]), \"body\": \"a text\"}\n";
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = Setup::policy(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        for (path, status, body) in [("/204", 204, ""), ("/304", 304, ""), ("/205", 205, ""), ("/429", 429, "a text")] {
            let answer = client.get(path).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, body), "{protocol:?} {path}");
            assert!(
                !body.is_empty() || answer.headers.get("content-length").is_none_or(|length| length == "0"),
                "{protocol:?} {path}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_observes_lets_denials_by_policy_pass_and_records_them() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup { data: many(), ..Setup::policy(UNCLEAR) }.start_with(backend.address, |yaml| observing(quick(yaml)));
        let mut client = gate.any(protocol, "agents/research").await;
        for (path, ..) in ANSWERS {
            assert_eq!(client.get(path).await.status, 200, "{protocol:?} {path}");
        }
        assert_eq!(client.get("/fine").await.status, 200);
        let refused = client.send(request("GET", "/a/../../b", empty())).await.unwrap();
        assert_eq!(refused.status(), 400, "a request with two readings is refused even here");
        let decisions = gate.decisions();
        for (path, _, code) in ANSWERS {
            let line = decisions.iter().find(|line| line["path"] == path.split('?').next().unwrap()).unwrap();
            let said = (&line["verdict"], &line["reason"], &line["enforcement"], &line["ending"]);
            assert_eq!(said, (&"observe_deny".into(), &(*code).into(), &"observe".into(), &"complete".into()), "{path}");
        }
        assert_eq!(decisions.iter().find(|line| line["path"] == "/fine").unwrap()["verdict"], "allow");
        let last = decisions.last().unwrap();
        assert_eq!((&last["verdict"], &last["reason"]), (&"refused".into(), &"path_above_root".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_asked_for_on_a_route_that_observes_is_not_carried_out() {
    let backend = Backend::start();
    let policy = "package portcullis\n\ndecision := {\"allowed\": false, \"kill\": {\"scope\": \"identity\"}}\n";
    let gate = Setup::policy(policy).start_with(backend.address, observing);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(gate.running().registry().wakes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_identity_is_refused_also_where_a_route_only_observes() {
    for protocol in BOTH {
        let backend = Backend::start();
        let listener = "    health: {path: /healthz}\n".to_owned();
        let mut gate =
            Setup { listener, ..Setup::policy("package portcullis\n\ndecision := false\n") }.start_with(backend.address, observing);
        let stream = gate.connect_with(nobody(protocol)).await.unwrap();
        let mut client = Gate::over(protocol, stream).await;
        assert_eq!(client.get("/healthz").await.status, 200);
        let answer = client.get("/v1").await;
        assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "no_identity"), "{protocol:?}");
        assert!(backend.seen().is_empty());
        let decisions = gate.decisions();
        assert_eq!(
            (decisions.len(), &decisions[0]["verdict"], &decisions[0]["reason"]),
            (1, &"refused".into(), &"no_identity".into())
        );
        assert_eq!(decisions[0]["peer"], serde_json::Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_turns_bad_on_disk_keeps_the_last_good_policy_until_it_is_good_again() {
    let backend = Backend::start();
    let gate = Setup::policy("package portcullis\n\ndecision := input.request.path == \"/old\"\n").start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for bad in ["package portcullis\n\ndecision := (\n", "package elsewhere\n\ndecision := true\n", ""] {
        gate.write_policy(bad);
        // The gate looks four times a second; nothing tells a client that it looked and was not pleased.
        let looked = std::time::Instant::now() + std::time::Duration::from_millis(700);
        while std::time::Instant::now() < looked {
            assert_eq!((client.get("/old").await.status, client.get("/new").await.status), (200, 403), "{bad:?}");
        }
    }
    gate.write_policy("package portcullis\n\ndecision := input.request.path == \"/new\"\n");
    within("the good policy to be in force", async { while client.get("/new").await.status != 200 {} }).await;
    assert_eq!(client.get("/old").await.status, 403);
}

/// A client without a certificate.
fn nobody(protocol: Speaks) -> std::sync::Arc<rustls::ClientConfig> {
    client_config(None, protocol.alpn())
}
