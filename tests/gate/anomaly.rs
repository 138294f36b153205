//! Anomaly rules on the wire: each kind fires and acts, what only observes does not, and what is open falls by what was just asked.

use std::io::Write as _;

use http_body_util::BodyExt as _;
use portcullis::session;

use crate::cuts::{drain, some_bytes, ticking};
use crate::harness::*;

/// What stands in front of what: two resources, and the rules of a test.
fn with(rules: &str) -> Setup {
    let extra = format!(
        "resources:\n\
         - {{match: {{methods: [GET], path: /v1/secrets/**}}, type: secret, sensitivity: high, effect: read}}\n\
         - {{match: {{methods: [GET]}}, type: page, sensitivity: low, effect: read}}\n\
         - {{match: {{methods: [POST]}}, type: page, sensitivity: low, effect: write}}\n\
         anomaly: {{learning: 0s, rules: [{rules}]}}\n"
    );
    Setup { extra, ..Setup::default() }
}

async fn asked(client: &mut Client, method: &str, host: &str, path: &str) -> Answer {
    let mut request = request(method, path, empty());
    *request.uri_mut() = format!("https://{host}{path}").parse().unwrap();
    request.headers_mut().insert("host", host.parse().unwrap());
    if matches!(client, Client::Two(_)) {
        request.headers_mut().remove("host");
    }
    Answer::of(within(path, client.send(request)).await.unwrap()).await
}

/// The statuses and codes of requests, one after the other.
async fn codes(gate: &Gate, protocol: Speaks, requests: &[(&str, &str, &str)]) -> Vec<String> {
    let mut client = gate.any(protocol, "agents/research").await;
    let mut codes = Vec::new();
    for (method, host, path) in requests {
        let answer = asked(&mut client, method, host, path).await;
        codes.push(if answer.status == 200 { "200".to_owned() } else { answer.json()["code"].as_str().unwrap().to_owned() });
    }
    codes
}

pub fn explained(gate: &Gate, path: &str) -> serde_json::Value {
    let id = session::id(&format!("spiffe://example.org/{path}"), None);
    tokio::task::block_in_place(|| gate.control("GET", &format!("/v1/sessions/{id}/anomaly"), "")).1
}

const A: (&str, &str, &str) = ("GET", "a.test", "/v1/a");
const B: (&str, &str, &str) = ("GET", "b.test", "/v1/b");
const WRITE: (&str, &str, &str) = ("POST", "a.test", "/v1/a");
const SECRET: (&str, &str, &str) = ("GET", "a.test", "/v1/secrets/7");

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_rule_that_looks_at_requests_refuses_the_one_that_fires() {
    for (kind, requests, last) in [
        ("rate: {requests: 2, within: 10m}", &[A, A, A][..], "anomaly"),
        ("burst: {requests: 2, every: 10m}", &[A, B, A], "anomaly"),
        ("first_seen: {of: host}", &[A, A, B], "anomaly"),
        ("first_seen: {of: method}", &[A, B, WRITE], "anomaly"),
        ("first_seen: {of: resource}", &[A, B, SECRET], "anomaly"),
        ("fan_out: {of: path, distinct: 2, within: 10m}", &[A, B, A, SECRET], "anomaly"),
        ("escalation: {of: effect}", &[A, SECRET, WRITE], "anomaly"),
        ("escalation: {of: sensitivity}", &[A, WRITE, SECRET], "anomaly"),
        (
            "sequence: {within: 10m, steps: [{match: {resources: [secret]}}, {match: {methods: [POST]}}]}",
            &[SECRET, A, WRITE],
            "anomaly",
        ),
        (
            "sequence: {within: 10m, steps: [{match: {resources: [secret]}}, {match: {methods: [POST]}}]}",
            &[WRITE, A, SECRET],
            "200",
        ),
    ] {
        for protocol in BOTH {
            let backend = Backend::start();
            // Without `learning: 0s` a first request has nothing to be compared with.
            let first = if kind.starts_with("first_seen") { 1 } else { 0 };
            let mut gate = with(&format!("{{name: rule-1, {kind}, action: deny}}")).start(backend.address);
            let codes = codes(&gate, protocol, requests).await;
            assert_eq!(codes.last().unwrap(), last, "{kind} {protocol:?}: {codes:?}");
            let before = &codes[first..codes.len() - 1];
            assert!(
                before.iter().all(|code| code == "200") || kind.contains("of: host") || kind.contains("method"),
                "{kind}: {codes:?}"
            );
            let fired = codes.iter().filter(|code| *code == "anomaly").count();
            assert_eq!(gate.metric("portcullis_anomaly_fired_total", "action=\"deny\",rule=\"rule-1\"") as usize, fired, "{kind}");
            let decision = gate.decisions().pop().unwrap();
            if last == "anomaly" {
                let told = (&decision["verdict"], &decision["reason"], &decision["anomaly"]);
                assert_eq!(told, (&"deny".into(), &"anomaly".into(), &serde_json::json!(["rule-1"])), "{kind}");
            }
            assert_eq!(backend.seen().len(), codes.len() - fired, "what is refused reaches nobody");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_observes_counts_and_refuses_nothing() {
    for (rule, listener) in [("observe: true", ""), ("observe: false", "enforcement: observe")] {
        let backend = Backend::start();
        let rules = format!("{{name: rule-1, rate: {{requests: 1, within: 10m}}, action: kill_identity, {rule}}}");
        let edit = |yaml: String| yaml.replace("upstream: backend}]", &format!("upstream: backend, {listener}}}]"));
        let mut gate = with(&rules).start_with(backend.address, edit);
        assert_eq!(codes(&gate, Speaks::Http2, &[A, A, A]).await, ["200", "200", "200"]);
        assert_eq!(gate.metric("portcullis_anomaly_fired_total", "action=\"observe\""), 2.0);
        let told = explained(&gate, "agents/research");
        assert_eq!((&told["fired"][0]["action"], &told["score"]), (&"observe".into(), &0.0.into()), "{told}");
        assert_eq!(gate.decisions()[1]["anomaly"], serde_json::json!(["rule-1"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_still_open_count() {
    for protocol in BOTH {
        let (backend, _) = ticking();
        let gate = with("{name: rule-1, rate: {requests: 3, within: 10m}, action: deny}").start(backend.address);
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut client = gate.any(protocol, "agents/research").await;
            let mut body = client.open("/ticks").await.into_body();
            some_bytes(&mut body, 1).await;
            open.push((client, body));
        }
        let mut client = gate.any(protocol, "agents/research").await;
        assert_eq!(client.get("/ticks").await.json()["code"], "anomaly", "{protocol:?}");
        let mut other = gate.any(protocol, "agents/other").await;
        assert_eq!(other.open("/ticks").await.status(), 200, "another identity is another session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_kill_the_session_and_lifting_the_kill_readmits() {
    let policy = "package portcullis\n\ndecision := {\"allowed\": input.request.path != \"/no\"}\n";
    for protocol in BOTH {
        let backend = Backend::start();
        let rules = "{name: probing, denied_burst: {denials: 3, within: 10m}, action: kill_session, ttl: 1h}";
        let gate = Setup { policy: policy.to_owned(), ..with(rules) }.start(backend.address);
        let no = ("GET", "a.test", "/no");
        assert_eq!(codes(&gate, protocol, &[no, A, no]).await, ["policy", "200", "policy"]);
        let mut client = gate.any(protocol, "agents/research").await;
        assert_eq!(client.get("/no").await.json()["code"], "policy", "the denial says what it is");
        // The kill closed the connection; whoever comes again is refused, however often, and that counts for nothing.
        for _ in 0..5 {
            let mut again = gate.any(protocol, "agents/research").await;
            assert_eq!(again.get("/v1/a").await.json()["code"], "killed");
        }
        let kills = tokio::task::block_in_place(|| gate.control("GET", "/v1/kills", "")).1;
        let kill = &kills["kills"][0];
        assert_eq!((&kill["by"], kills["kills"].as_array().unwrap().len()), (&"anomaly:probing".into(), 1), "{kills}");
        assert!(kill["reason"].as_str().unwrap().starts_with("3 denials within 10m ("), "{kill}");
        let lift = format!("/v1/kills/{}", kill["id"].as_str().unwrap());
        assert_eq!(tokio::task::block_in_place(|| gate.control("DELETE", &lift, "")).0, 200);
        assert_eq!(codes(&gate, protocol, &[A, no, A]).await, ["200", "policy", "200"]);
    }
}

/// A window of bytes that teaches, and one that is beyond it.
fn sized() -> Backend {
    Backend::answering(|seen, stream| {
        let bytes = if seen.target() == "/large" { 16 << 20 } else { 1 << 10 };
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n")?;
        for _ in 0..bytes >> 10 {
            stream.write_all(&[b'x'; 1 << 10])?;
        }
        Ok(true)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_beyond_the_baseline_cut_the_exchange_that_carries_them() {
    for protocol in BOTH {
        let backend = sized();
        let rules = "{name: export, volume: {of: bytes_out, window: 300ms, least: 64KiB, warm_up: 2}, action: kill_exchange}";
        let mut gate = with(rules).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        // The baseline is of windows that are over: ask until two of them are.
        within("the baseline", async {
            loop {
                assert_eq!(client.get("/small").await.status, 200);
                if explained(&gate, "agents/research")["rules"][0]["state"].as_str().unwrap().contains("limit") {
                    break;
                }
            }
        })
        .await;
        let response = client.open("/large").await;
        let broken = within("the cut", response.into_body().collect()).await;
        assert!(broken.is_err(), "{protocol:?}");
        let told = explained(&gate, "agents/research");
        assert!(told["fired"][0]["why"].as_str().unwrap().starts_with("bytes out in 300ms beyond the baseline of"), "{told}");
        let decision = gate.ended().into_iter().find(|line| line["path"] == "/large").unwrap();
        assert_eq!((&decision["ending"], &decision["cause"]), (&"cut".into(), &"anomaly".into()), "{decision}");
        assert_eq!(decision["anomaly"], serde_json::json!(["export"]));
        let bytes = decision["bytes_out"].as_u64().unwrap();
        // What the small ones made normal is some hundreds of KiB a window; the byte itself is looked at in the rule's own tests.
        assert!(bytes < 8 << 20, "{bytes} bytes: before its end, and not at the next tick");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_is_what_the_policy_makes_of_it_for_the_request_that_raised_it_and_for_what_is_open() {
    let policy =
        "package portcullis\n\ndecision := {\"allowed\": score < 0.5}\n\ndefault score := 0\n\nscore := input.anomaly.score\n";
    for protocol in BOTH {
        let (backend, _) = ticking();
        let rules = "{name: burst, rate: {requests: 2, within: 10m}, action: score, score: 0.4}, \
                     {name: spread, fan_out: {of: path, distinct: 2, within: 10m}, action: score, score: 0.3}";
        let mut gate = Setup { policy: policy.to_owned(), ..with(rules) }.start(backend.address);
        // Several connections, so that workers other than the one that is asked carry some of what is open.
        let mut streams = Vec::new();
        let mut bystander = gate.any(protocol, "agents/other").await;
        let mut untouched = bystander.open("/ticks").await.into_body();
        for _ in 0..2 {
            let mut client = gate.any(protocol, "agents/research").await;
            let mut body = client.open("/ticks").await.into_body();
            some_bytes(&mut body, 1).await;
            streams.push((client, body));
        }
        let mut client = gate.any(protocol, "agents/research").await;
        assert_eq!(client.get("/v1/a").await.status, 200, "0.4 is not enough");
        // The rule holds; another path more and both do: 1 - 0.6 * 0.7.
        assert_eq!(client.get("/v1/b").await.json()["code"], "policy");
        for (_, body) in streams {
            drain(body).await.1.expect_err("what was open is judged by the new score");
        }
        some_bytes(&mut untouched, 64 * 1024).await;
        drop((untouched, bystander));
        let told = explained(&gate, "agents/research");
        assert_eq!((&told["score"], &told["holding"]), (&0.58.into(), &serde_json::json!(["burst", "spread"])), "{told}");
        let cut: Vec<_> = gate.ended().into_iter().filter(|line| line["cause"] == "policy").collect();
        assert_eq!(cut.len(), 2, "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_reads_that_a_session_is_still_learned_from() {
    let policy = "package portcullis\n\ndecision := {\"allowed\": true, \"headers\": {\"x-learning\": sprintf(\"%v\", [input.anomaly.learning])}}\n";
    let backend = Backend::start();
    let extra = "anomaly: {rules: [{name: host, first_seen: {of: host}, action: deny}]}\n".to_owned();
    let gate = Setup { policy: policy.to_owned(), extra, ..Setup::default() }.start(backend.address);
    assert_eq!(codes(&gate, Speaks::Http2, &[A, B]).await, ["200", "200"], "what is learned is not refused");
    assert_eq!(backend.seen()[0].header("x-learning"), Some("true"));
    assert!(explained(&gate, "agents/research")["rules"][0]["learning_seconds"].as_u64().unwrap() > 86_000);
}

/// Prints how long it took; the bound is for hangs, since other tests run beside this one.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "a measurement is printed")]
async fn what_a_rule_cuts_is_cut_at_once() {
    let (backend, _) = ticking();
    let rules =
        "{name: chain, sequence: {within: 10m, steps: [{match: {path: /v1/a}}, {match: {path: /v1/b}}]}, action: kill_session}";
    let mut gate = with(rules).start(backend.address);
    let mut took = Vec::new();
    for _ in 0..20 {
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        let body = client.open("/ticks").await.into_body();
        let reading = tokio::spawn(async move {
            let _ = drain(body).await;
            std::time::Instant::now()
        });
        let mut asking = gate.any(Speaks::Http2, "agents/research").await;
        assert_eq!(asking.get("/v1/a").await.status, 200);
        let began = std::time::Instant::now();
        assert_eq!(asking.get("/v1/b").await.json()["code"], "anomaly");
        took.push(reading.await.unwrap().duration_since(began));
        let kills = tokio::task::block_in_place(|| gate.control("GET", "/v1/kills", "")).1;
        let lift = format!("/v1/kills/{}", kills["kills"][0]["id"].as_str().unwrap());
        tokio::task::block_in_place(|| gate.control("DELETE", &lift, ""));
    }
    took.sort();
    assert!(took[10] < std::time::Duration::from_secs(1), "{took:?}");
    eprintln!(
        "from the request that fired to the stream's last byte, as the client saw it: median {:?}, worst {:?}",
        took[10], took[19]
    );
    gate.stop();
}
