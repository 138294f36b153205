//! Promise 8: only the gate speaks for the gate. Promise 9: no secret leaves by the side door. And how a gate lives and ends.

use std::io::Write as _;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;

use crate::harness::*;
use crate::threats::get;

type Fields<'a> = [(&'a [u8], &'a [u8])];

fn head2(method: &[u8], path: &[u8], fields: &Fields<'_>) -> Vec<u8> {
    let own: &Fields<'_> = &[(b":method", method), (b":scheme", b"https"), (b":authority", b"gate.test"), (b":path", path)];
    block2(&[own, fields].concat())
}

const SPOOFED: [&str; 32] = [
    "x-spiffe-id",
    "x-spiffe-trust-domain",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-user",
    "x-forwarded-anything",
    "x-forwarded",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "x-ssl-client-cert",
    "x-ssl-client-verify",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-original-url",
    "x-original-method",
    "x-rewrite-url",
    "x-portcullis-task",
    "x-portcullis-session",
    "x-portcullis-decision",
    "txn-token",
    "workload-identity-token",
    "workload-proof-token",
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_says_of_identity_task_or_forwarding_the_upstream_hears_only_the_gate() {
    let spoofed = "spoofed by the client";
    let backend = Backend::start();
    // A policy that could be told something must not be either.
    let policy = "package portcullis\n\ndecision := {\"allowed\": true, \"headers\": {\"x-judged\": json.marshal(input)}}\n";
    let gate = Setup::policy(policy).start(backend.address);
    let issued = gate.issue("agents/research", 600);
    let ours = [
        (
            "x-forwarded-client-cert",
            format!("By=spiffe://example.org/gate;Hash={};URI=spiffe://example.org/agents/research", fingerprint(&issued)),
        ),
        ("x-spiffe-id", "spiffe://example.org/agents/research".to_owned()),
        ("x-forwarded-for", "127.0.0.1".to_owned()),
        ("x-forwarded-host", "gate.test".to_owned()),
        ("x-forwarded-proto", "https".to_owned()),
    ];
    let check = |case: &str| {
        let seen = backend.seen();
        let head = seen.last().unwrap().head.to_ascii_lowercase();
        assert!(!head.contains(spoofed), "{case}: {head}");
        for (name, value) in &ours {
            let lines: Vec<&str> = head.lines().filter(|line| line.starts_with(&format!("{name}:"))).collect();
            assert_eq!(lines, [format!("{name}: {}", value.to_ascii_lowercase())], "{case}");
        }
    };
    for name in SPOOFED {
        for copies in [1, 2] {
            let before = backend.seen().len();
            let fields = format!("{}: {spoofed}\r\n", name.to_ascii_uppercase()).repeat(copies);
            let stream = gate.connect_with(client_config(Some(&issued), b"http/1.1")).await.unwrap();
            let answer = Raw::of(stream, &get("/", &format!("{fields}connection: close\r\n"))).await;
            assert_eq!(answer.status(), 200, "{name}: {}", answer.text());
            check(&format!("{name} {copies} HTTP/1.1"));

            let fields = vec![(name.as_bytes(), spoofed.as_bytes()); copies];
            let mut frames = Frames2::with(gate.connect_with(client_config(Some(&issued), b"h2")).await.unwrap()).await;
            frames.send(&frame2(1, 5, 1, &head2(b"GET", b"/", &fields))).await.unwrap();
            assert_eq!(frames.ended(1).await.body, b"hello", "{name}");
            check(&format!("{name} {copies} HTTP/2"));
            assert_eq!(backend.seen().len(), before + 2);
        }
        // The spelling that some back ends read as the same name is refused.
        if name.contains('-') {
            let answer = gate.raw(&get("/", &format!("{}: {spoofed}\r\n", name.replacen('-', "_", 1)))).await;
            assert_eq!((answer.status(), &answer.problem()["code"]), (400, &"header_underscore".into()), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_tell_the_upstream_nothing() {
    let backend = Backend::start();
    let gate = Setup::default().start(backend.address);
    for name in ["x-spiffe-id", "x-forwarded-for", "authorization", "x-anything"] {
        let sent = format!(
            "POST / HTTP/1.1\r\nhost: gate.test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{name}: spoofed\r\n\r\n"
        );
        let answer = gate.raw(sent.as_bytes()).await;
        assert_eq!(answer.status(), if name == "x-anything" { 200 } else { 400 }, "{name}: {}", answer.text());

        let mut frames = Frames2::open(&gate, "agents/research").await;
        let trailers = block2(&[(name.as_bytes(), b"spoofed")]);
        frames
            .send(&[frame2(1, 4, 1, &head2(b"POST", b"/", &[])), frame2(0, 0, 1, b"ok"), frame2(1, 5, 1, &trailers)].concat())
            .await
            .unwrap();
        assert_eq!(frames.ended(1).await.body, b"hello", "{name}");
    }
    for seen in backend.seen() {
        assert!(!seen.head.contains("spoofed: ") && !seen.head.contains(": spoofed"), "{}", seen.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn not_even_the_policy_speaks_for_the_gate() {
    for name in [
        "x-spiffe-id",
        "X-Forwarded-For",
        "x-forwarded-client-cert",
        "via",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "x-portcullis-task",
        "x_spiffe_id",
    ] {
        for key in [
            "\"headers\": {\"NAME\": \"v\"}",
            "\"request_headers_to_remove\": [\"NAME\"]",
            "\"response_headers_to_add\": {\"NAME\": \"v\"}",
        ] {
            let edit = key.replace("NAME", name);
            let backend = Backend::start();
            let gate =
                Setup::policy(&format!("package portcullis\n\ndecision := {{\"allowed\": true, {edit}}}\n")).start(backend.address);
            let answer = gate.any(Speaks::Http1, "agents/research").await.get("/").await;
            assert_eq!((answer.status, &answer.json()["code"]), (403, &"edit_refused".into()), "{edit}: {}", answer.body);
            assert!(backend.seen().is_empty(), "{edit}");
        }
    }
}

/// What our crate logged since the process began, at its most talkative.
fn log() -> Arc<Mutex<Vec<u8>>> {
    #[derive(Clone)]
    struct Kept(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    Arc::clone(LOG.get_or_init(|| {
        let kept = Kept(Arc::default());
        let lines = Arc::clone(&kept.0);
        let filter = tracing_subscriber::EnvFilter::new("portcullis=trace");
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(move || kept.clone()).init();
        lines
    }))
}

/// Reads everything there is to read, and puts secrets of its own into edits.
const READS_ALL: &str = r#"package portcullis

decision := {"allowed": false, "reasons": ["no"], "body": "denied", "headers": {"x-why": "no"}} if {
	seen
	input.request.path == "/denied"
}

decision := {"allowed": true, "rewrite": {"path": "/rewritten", "body": [{"op": "add", "path": "/secret", "value": "CANARY-edit-body"}]}, "query_parameters_to_set": {"token": ["CANARY-edit-query"]}, "headers": {"authorization": "Bearer CANARY-edit-header", "x-role": "reader"}, "response_headers_to_add": {"set-cookie": "sid=CANARY-edit-cookie"}} if {
	seen
	input.request.path in {"/rewrite", "/rewritten"}
}

# The engine's own message would name both values.
decision := count({key: value | key := "secret"; some value in [input.request.headers.authorization[0], input.request.headers.cookie[0]]}) > 0 if {
	input.request.path == "/error"
}

decision := input.request.headers.authorization if {
	input.request.path == "/type"
}

decision := true if {
	seen
	input.request.path == "/allowed"
}

seen if {
	count(input.request.headers) >= 0
	count(input.request.query) >= 0
	count(json.marshal(input)) > 0
}
"#;

const SECRETS: [(&str, &str); 8] = [
    ("authorization", "Bearer CANARY-authorization"),
    ("cookie", "sid=CANARY-cookie"),
    ("x-api-key", "CANARY-api-key"),
    ("proxy-authorization", "Basic CANARY-proxy"),
    ("x-auth-token", "CANARY-auth-token"),
    ("x-amz-security-token", "CANARY-amz"),
    ("x-vault-token", "CANARY-vault"),
    ("dpop", "CANARY-dpop"),
];
const QUERY: &str = "token=CANARY-q-token&api_key=CANARY-q-key&password=CANARY-q-password&access_token=CANARY-q-access&page=2";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_stands_in_the_record_the_log_or_an_answer() {
    let log = log();
    let reads_nothing = ALLOW.to_owned();
    let envoy = "package envoy.authz\n\nallow if {\n\tcount(json.marshal(input)) > 0\n\tinput.attributes.request.http.method != \"DELETE\"\n}\n";
    for (policy, decision, all, detail) in [
        (READS_ALL.to_owned(), "portcullis/decision", true, "footprint"),
        (READS_ALL.to_owned(), "portcullis/decision", true, "head"),
        (reads_nothing, "portcullis/decision", false, "footprint"),
        (envoy.to_owned(), "envoy/authz/allow", true, "footprint"),
    ] {
        let backend = Backend::start();
        let audit = format!("  file: decisions.jsonl\n  input: {detail}\n");
        let mut gate = Setup { policy, decision: decision.to_owned(), audit, ..Setup::default() }.start(backend.address);
        let key = std::fs::read_to_string(gate.path("svid.key")).unwrap();
        let key: Vec<String> = key.lines().filter(|line| !line.starts_with("---")).map(str::to_owned).collect();
        let mut answers = String::new();
        for path in ["/allowed", "/denied", "/rewrite", "/error", "/type", "/undefined"] {
            for (kind, body) in [
                ("application/json", "{\"password\": \"CANARY-body\"}"),
                ("application/json", "{\"password\": \"CANARY-body-broken\", "),
                ("application/json", "{\"a\": \"CANARY-body-twice\", \"a\": 1}"),
                ("application/x-www-form-urlencoded", "password=CANARY-form&token=CANARY-form-token"),
                ("text/plain", "CANARY-text"),
            ] {
                for protocol in BOTH {
                    let mut client = gate.any(protocol, "agents/research").await;
                    let mut asked = request("POST", &format!("{path}?{QUERY}"), full(body));
                    asked.headers_mut().insert("content-type", kind.parse().unwrap());
                    for (name, value) in SECRETS {
                        asked.headers_mut().append(name, value.parse().unwrap());
                    }
                    if !all {
                        asked.headers_mut().append("x-custom", "CANARY-custom".parse().unwrap());
                    }
                    let answer = Answer::of(within(path, client.send(asked)).await.unwrap()).await;
                    // What a policy adds to an answer is meant for whoever gets it.
                    let head: String =
                        answer.headers.iter().filter(|(name, _)| *name != "set-cookie").map(|line| format!("{line:?}\n")).collect();
                    answers.push_str(&format!("{head}{}\n", answer.body));
                }
            }
        }
        // Refused before anybody read them as anything.
        for bytes in [
            get(&format!("/?{QUERY};x"), "authorization: CANARY-refused\r\n"),
            get(&format!("/a?{QUERY}#b"), "authorization: CANARY-refused\r\n"),
            get(&format!("/%00?{QUERY}"), "cookie: CANARY-refused\r\n"),
            get(&format!("https://user:CANARY-userinfo@gate.test/?{QUERY}"), ""),
            get("/", "authorization: CANARY-fold\r\n CANARY-folded\r\n"),
            get("/", "authorization: CANARY-one\r\nauthorization: CANARY-two\r\n"),
            get("/", "x_token: CANARY-underscore\r\n"),
            get("/", "host: CANARY-host\r\n"),
            format!("GET /?token=CANARY-no-end{}", "x".repeat(9000)).into_bytes(),
            b"GET / HTTP/1.1\r\nauthorization CANARY-no-colon\r\n\r\n".to_vec(),
        ] {
            answers.push_str(&gate.raw(&bytes).await.text());
        }
        // Where they are meant to go they go, or this test would find nothing whatever the gate did.
        let sent: String = backend.seen().iter().map(|seen| seen.head.clone() + &String::from_utf8_lossy(&seen.body)).collect();
        let edits = ["CANARY-edit-header", "CANARY-edit-query", "CANARY-edit-body"];
        for canary in
            ["CANARY-cookie", "CANARY-q-token"].iter().chain(edits.iter().filter(|_| all && decision.starts_with("portcullis")))
        {
            assert!(sent.contains(canary), "{canary}");
        }
        gate.stop();
        let record = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
        let logged = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        assert!(logged.contains("policy in force"), "the log is being read: {logged}");
        assert!(record.lines().count() >= 60, "{}", record.lines().count());
        if all {
            assert!(record.contains("sha256:"), "secrets a policy reads are there as hashes");
        }
        if decision.starts_with("portcullis") && all {
            assert!(record.contains("\"policy_error\"") && record.contains("\"error\":"), "a policy failed on a secret");
        }
        for (place, text) in [("record", &record), ("log", &logged), ("answers", &answers)] {
            let leaks: Vec<&str> = text.lines().filter(|line| line.contains("CANARY")).collect();
            let spot = |line: &&str| line[line.find("CANARY").unwrap().saturating_sub(100)..].chars().take(250).collect::<String>();
            assert!(
                leaks.is_empty(),
                "{decision} {detail}: {} leaks in the {place}: {:#?}",
                leaks.len(),
                leaks.iter().map(spot).collect::<Vec<_>>()
            );
            assert!(!key.iter().any(|line| text.contains(line)), "the key is in the {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_panics_denies_that_request_and_no_other() {
    let policy = "package portcullis\n\ndecision := strings.count(input.request.path, input.request.query.x[0]) >= 0\n";
    let backend = Backend::start();
    let mut gate = Setup::policy(policy).start(backend.address);
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/research").await;
        for _ in 0..3 {
            let panicked = client.get("/a?x=").await;
            assert_eq!((panicked.status, &panicked.json()["code"]), (403, &"policy_panic".into()), "{protocol:?}");
            assert_eq!(client.get("/a?x=a").await.status, 200, "{protocol:?}");
        }
    }
    assert_eq!(backend.seen().len(), 6);
    let decisions = gate.decisions();
    let panics = decisions.iter().filter(|line| line["reason"] == "policy_panic" && line["verdict"] == "deny").count();
    assert_eq!((panics, decisions.len()), (6, 12));
}

/// An upstream that sends events for ever.
fn events() -> std::net::SocketAddr {
    upstream(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            if !head.starts_with("GET /events") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
            while stream.write_all(b"9\r\ndata: x\n\n\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_ends_cuts_what_is_still_open_when_the_drain_is_over_and_its_record_is_whole() {
    let mut gate = Setup { extra: "limits: {drain: 1s}\n".to_owned(), ..Setup::default() }.start(events());
    let mut open = Vec::new();
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/research").await;
        let mut body = client.open("/events").await.into_body();
        within("an event", body.frame()).await.unwrap().unwrap();
        open.push((protocol, tokio::spawn(async move { (body.collect().await.err().map(|error| format!("{error:?}")), client) })));
    }
    let began = Instant::now();
    tokio::task::block_in_place(|| gate.stop());
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    for (protocol, reading) in open {
        let (end, _client) = within("the cut", reading).await.unwrap();
        let end = end.unwrap_or_else(|| panic!("{protocol:?}: a cut is no clean end"));
        assert!(protocol == Speaks::Http1 || end.contains("CANCEL"), "{end}");
    }
    let lines = gate.ended();
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert_eq!(
            (&line["verdict"], &line["ending"], &line["cause"]),
            (&"allow".into(), &"cut".into(), &"shutdown".into()),
            "{line:#}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_gate_ends_operators_and_policies_still_have_their_say() {
    let mut gate = Setup { extra: "limits: {drain: 5m}\n".to_owned(), ..Setup::default() }.start(events());
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    let mut body = client.open("/events").await.into_body();
    within("an event", body.frame()).await.unwrap().unwrap();
    // Without it the gate would be gone with the first stream, and nobody left to be asked.
    let mut kept = client.open("/events/kept").await.into_body();
    within("an event", kept.frame()).await.unwrap().unwrap();
    let ending = gate.end();
    let draining = || gate.admin("/readyz").0 == 503;
    until("the drain to begin", || tokio::task::block_in_place(draining)).await;
    let (status, exchanges) = tokio::task::block_in_place(|| gate.control("GET", "/v1/exchanges", ""));
    assert_eq!((status, exchanges["exchanges"].as_array().map(Vec::len)), (200, Some(2)), "{exchanges}");
    let deny = "package portcullis\n\ndefault decision := false\n\ndecision := true if input.request.path == \"/events/kept\"\n";
    let (status, answer) = tokio::task::block_in_place(|| gate.activate(deny, "{}"));
    assert_eq!((status, &answer["cut"]), (200, &1.into()), "{answer}");
    within("the cut", body.collect()).await.expect_err("a cut is no clean end");
    assert_eq!(
        tokio::task::block_in_place(|| gate.admin("/readyz").0),
        503,
        "a policy in force must not make a gate ready that ends"
    );
    drop((kept, client));
    tokio::task::block_in_place(|| ending.join().unwrap());
    let line = gate.ended().into_iter().find(|line| line["cause"] != serde_json::Value::Null).unwrap();
    assert_eq!((&line["ending"], &line["cause"]), (&"cut".into(), &"policy".into()), "{line:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_ends_lets_go_of_idle_connections_at_once_and_finishes_what_is_open() {
    let mut gate = Setup { extra: "limits: {drain: 15s}\n".to_owned(), ..Setup::default() }.start(events());
    let address = gate.address;
    // Idle: one that has asked before, one that has not, and one on HTTP/2.
    let mut asked = gate.connect("agents/research", b"http/1.1").await;
    tokio::io::AsyncWriteExt::write_all(&mut asked, &get("/", "")).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        assert_ne!(within("the answer", tokio::io::AsyncReadExt::read_buf(&mut asked, &mut answer)).await.unwrap(), 0);
    }
    let mut fresh = gate.connect("agents/research", b"http/1.1").await;
    let mut idle = Frames2::open(&gate, "agents/research").await;
    let mut mute = Frames2::open(&gate, "agents/research").await;
    mute.mute = true;
    let mut busy = Frames2::open(&gate, "agents/research").await;
    busy.send(&frame2(1, 5, 1, &head2(b"GET", b"/events", &[]))).await.unwrap();
    while busy.next().await.unwrap().kind != 0 {}

    let stopping = tokio::task::spawn_blocking(move || {
        gate.stop();
        gate
    });
    let began = Instant::now();
    assert!(Raw::rest(&mut asked).await.bytes.is_empty());
    assert!(Raw::rest(&mut fresh).await.bytes.is_empty());
    assert_eq!(idle.closed().await, Some(0), "GOAWAY without an error");
    assert!(began.elapsed() < Duration::from_secs(2), "idle connections closed after {:?}", began.elapsed());
    mute.closed().await;
    assert!(began.elapsed() < Duration::from_secs(4), "one that answers no PING closed after {:?}", began.elapsed());
    within("nobody to be let in any more", async { while tokio::net::TcpStream::connect(address).await.is_ok() {} }).await;
    // What is open goes on, is told to ask for no more, and ends when it ends.
    let (mut told, mut events) = (false, 0);
    while !told || events < 20 {
        let frame = busy.next().await.expect("the stream goes on");
        told |= frame.kind == 7;
        events += usize::from(frame.kind == 0);
    }
    assert!(!stopping.is_finished(), "a gate does not end before what is open on it");
    busy.send(&frame2(3, 0, 1, &8_u32.to_be_bytes())).await.unwrap();
    busy.closed().await;
    let mut gate = within("the gate to end", stopping).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(12), "ended with what was open, not with the drain");
    let lines = gate.ended();
    assert_eq!(lines.iter().filter(|line| line["path"] == "/events" && line["ending"] == "client_gone").count(), 1, "{lines:#?}");
}
