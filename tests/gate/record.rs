//! Promise 7: every exchange is in the record, once, however it ended; and what the record does when its file does not.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use portcullis::exchange::{Exchange, ExchangeId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;
use crate::life::{Process, prepared};

/// The same numbers each time; which ones, is printed by a test that fails.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64 (Marsaglia): enough to mix orders and places.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// An upstream that answers as the first segment of the path says.
fn moody() -> Backend {
    Backend::answering(|seen, stream| {
        match seen.target().split('/').nth(1).unwrap() {
            "fault" => return Ok(false),
            "garbage" => {
                stream.write_all(b"I do not speak HTTP\r\n\r\n")?;
                return Ok(false);
            }
            "short" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")?;
                return Ok(false);
            }
            "slow" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")?;
                // Longer than the second after which a decision is told.
                std::thread::sleep(Duration::from_millis(1400));
                stream.write_all(b"1\r\nx\r\n0\r\n\r\n")?;
            }
            "long" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                loop {
                    stream.write_all(b"400\r\n")?;
                    stream.write_all(&[b'x'; 1024])?;
                    stream.write_all(b"\r\n")?;
                }
            }
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?,
        }
        Ok(true)
    })
}

const SOME: &str = "package portcullis\n\ndecision := input.request.segments[0] != \"deny\"\n";

/// Heads that are refused, by `wire` or after it. `ID` is the exchange's.
const BROKEN: &[&str] = &[
    "GET /broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\nno colon\r\n\r\n",
    "GET /broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\n folded: yes\r\n\r\n",
    "GET /broken/ID HTTP/1.1\r\nhost: gate.test\nx: y\r\n\r\n",
    "GET /broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    "GET /broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
    "GET /broken/ID#f HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\n\r\n",
    "GET /broken/ID HTTP/1.1\r\nconnection: close\r\n\r\n",
    "GET /broken/%00/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\n\r\n",
    "GET /../broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\n\r\n",
    "TRACE /broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\n\r\n",
    "GET /broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\nx_y: z\r\n\r\n",
    "GET /broken/ID HTTP/1.1\r\nconnection: close\r\nhost: gate.test\r\nexpect: 200-ok\r\n\r\n",
];

/// One exchange of the walk over HTTP/1.1, and whether its head was whole.
async fn http1_exchange(gate: &Gate, dice: &mut Dice, id: usize) -> bool {
    let get = |kind: &str| format!("GET /{kind}/{id} HTTP/1.1\r\nhost: gate.test\r\n\r\n");
    match dice.roll(11) {
        kind @ 0..=4 => {
            let kind = ["fine", "deny", "fault", "short", "garbage"][kind as usize];
            let mut client = gate.http1("agents/research").await;
            if let Ok(response) = client.send(request("GET", &format!("/{kind}/{id}"), empty())).await {
                let _ = within(kind, response.into_body().collect()).await;
            }
        }
        5 => drop(gate.raw_answer("agents/research", get("fine").as_bytes(), true).await),
        6 => {
            let post = format!("POST /fine/{id} HTTP/1.1\r\nhost: gate.test\r\ncontent-length: 1000\r\n\r\nten bytes.");
            drop(gate.raw_answer("agents/research", post.as_bytes(), true).await);
        }
        7 => {
            let whole = get("fine");
            let part = &whole.as_bytes()[..1 + dice.roll(whole.len() as u64 - 2) as usize];
            drop(gate.raw_answer("agents/research", part, true).await);
            return false;
        }
        8 => {
            let broken = BROKEN[dice.roll(BROKEN.len() as u64) as usize].replace("ID", &id.to_string());
            let ended = dice.roll(2) == 0;
            let answer = gate.raw_answer("agents/research", broken.as_bytes(), ended).await;
            // Who ends its side at once is taken to be gone, and need not be answered.
            let refused = answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5");
            assert!(refused || ended, "{broken:?} {answer:?}");
        }
        9 => {
            // Bad framing behind a good head is one exchange, not two.
            let post = format!(
                "POST /fine/{id} HTTP/1.1\r\nhost: gate.test\r\ntransfer-encoding: chunked\r\n\r\nthis is no chunk\r\n\r\n"
            );
            drop(gate.raw_answer("agents/research", post.as_bytes(), dice.roll(2) == 0).await);
        }
        _ => {
            let mut stream = gate.connect("agents/research", b"http/1.1").await;
            stream.write_all(get("long").as_bytes()).await.unwrap();
            let mut some = vec![0; 1 + dice.roll(10_000) as usize];
            within("some of the response", stream.read_exact(&mut some)).await.unwrap();
        }
    }
    true
}

/// One exchange of the walk over HTTP/2.
async fn http2_exchange(gate: &Gate, backend: &Backend, client: &mut Http2, dice: &mut Dice, id: usize) {
    match dice.roll(8) {
        kind @ 0..=4 => {
            let kind = ["fine", "deny", "fault", "short", "garbage"][kind as usize];
            if let Ok(response) = client.send(request("GET", &format!("/{kind}/{id}"), empty())).await {
                let _ = within(kind, response.into_body().collect()).await;
            }
        }
        5 => {
            let response = client.send(request("GET", &format!("/../broken/{id}"), empty())).await.unwrap();
            assert_eq!(response.status(), 400);
        }
        6 => {
            let before: Vec<_> = gate.running().registry().collect(|_| true).iter().map(|exchange| exchange.id).collect();
            let routed =
                |exchange: &Exchange, before: &[ExchangeId]| exchange.upstream().is_some() && !before.contains(&exchange.id);
            let (body, fed) = by_hand();
            let mut sender = client.clone();
            let sending = tokio::spawn(async move { sender.send(request("POST", &format!("/fine/{id}"), fed)).await.map(drop) });
            body.send(Ok(Bytes::from_static(b"begun"))).await.unwrap();
            until("the head to be read", || !gate.running().registry().collect(|exchange| routed(exchange, &before)).is_empty())
                .await;
            match dice.roll(2) {
                0 => body.send(Err(std::io::Error::other("broken off"))).await.unwrap(),
                _ => sending.abort(),
            }
            let _ = within("the upload to end", sending).await;
            drop(body);
        }
        _ => {
            let response = within("the head", client.send(request("GET", &format!("/long/{id}"), empty()))).await.unwrap();
            let mut body = response.into_body();
            within("some of the body", body.frame()).await.unwrap().unwrap();
            assert!(backend.seen().iter().any(|seen| seen.target() == format!("/long/{id}")));
        }
    }
}

/// Id → how many decision and closing lines it has. Each line's exchange is told by its decision line.
fn counted(record: &[Value]) -> BTreeMap<usize, (usize, usize)> {
    let mut counts: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut ids: BTreeMap<String, usize> = BTreeMap::new();
    for line in record.iter().map(|line| &line["portcullis"]).filter(|line| line["kind"] == "decision") {
        let path = line["path"].as_str().unwrap_or_else(|| panic!("a decision without a path: {line}"));
        let id = path.split('#').next().unwrap().rsplit('/').next().unwrap();
        let id = id.parse().unwrap_or_else(|_| panic!("no id in {path}"));
        counts.entry(id).or_default().0 += 1;
        assert!(ids.insert(line["exchange"].as_str().unwrap().to_owned(), id).is_none(), "two exchanges of one name: {line}");
    }
    for line in record.iter().map(|line| &line["portcullis"]).filter(|line| line["kind"] == "closing") {
        let id = ids.get(line["exchange"].as_str().unwrap()).unwrap_or_else(|| panic!("a closing line of nobody: {line}"));
        counts.entry(*id).or_default().1 += 1;
    }
    counts
}

/// A closing line stands where, and only where, the decision line was written while the exchange was open.
fn each_is_told_to_its_end(record: &[Value]) {
    for line in record.iter().map(|line| &line["portcullis"]).filter(|line| line["kind"] == "decision") {
        let closings = record
            .iter()
            .filter(|other| other["portcullis"]["kind"] == "closing" && other["portcullis"]["exchange"] == line["exchange"]);
        assert_eq!(closings.count(), usize::from(line["ending"].is_null()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_whole_head_is_in_the_record_exactly_once_however_it_ended() {
    for seed in [0x5eed_0001, 0x0bad_cafe_u64] {
        let mut dice = Dice(seed);
        let backend = moody();
        let mut gate = Setup::policy(SOME).start(backend.address);
        let mut expected = BTreeMap::new();
        let mut client = gate.http2("agents/research").await;
        // Open for longer than a second: one to its end, one left by its client, on each protocol.
        let mut slow = Vec::new();
        for (id, protocol) in [(1, Speaks::Http1), (2, Speaks::Http2), (3, Speaks::Http1), (4, Speaks::Http2)] {
            let mut own = gate.any(protocol, "agents/research").await;
            let body = own.open(&format!("/{}/{id}", if id < 3 { "slow" } else { "long" })).await.into_body();
            expected.insert(id, (1, 1));
            slow.push((own, body));
        }
        for id in 5..120 {
            let whole = if dice.roll(2) == 0 {
                http1_exchange(&gate, &mut dice, id).await
            } else {
                http2_exchange(&gate, &backend, &mut client, &mut dice, id).await;
                true
            };
            if whole {
                expected.insert(id, (1, 0));
            }
        }
        until("the decisions of what is open", || {
            (1..5).all(|id| {
                gate.record_now()
                    .iter()
                    .any(|line| line["portcullis"]["path"].as_str().is_some_and(|path| path.ends_with(&format!("/{id}"))))
            })
        })
        .await;
        drop(slow.split_off(2));
        for (client, body) in slow {
            within("the end of what is slow", body.collect()).await.unwrap();
            drop(client);
        }
        drop(client);
        let record = tokio::task::block_in_place(|| gate.record());
        // The walk itself takes a while: which of its exchanges were open for a second is the record's to say.
        let found = counted(&record);
        let decisions =
            |counts: &BTreeMap<usize, (usize, usize)>| counts.iter().map(|(id, count)| (*id, count.0)).collect::<Vec<_>>();
        assert_eq!(decisions(&found), decisions(&expected), "seed {seed:#x}");
        assert_eq!((1..5).map(|id| found[&id]).collect::<Vec<_>>(), [(1, 1); 4], "seed {seed:#x}");
        each_is_told_to_its_end(&record);
        let ending = |id: usize| {
            let decided = record
                .iter()
                .find(|line| line["portcullis"]["path"].as_str().is_some_and(|path| path.ends_with(&format!("/{id}"))));
            let exchange = &decided.unwrap()["portcullis"]["exchange"];
            let closed =
                record.iter().find(|line| line["portcullis"]["kind"] == "closing" && line["portcullis"]["exchange"] == *exchange);
            closed.unwrap()["portcullis"]["ending"].as_str().unwrap().to_owned()
        };
        assert_eq!([1, 2, 3, 4].map(ending), ["complete", "complete", "client_gone", "client_gone"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_behind_an_exchange_that_took_the_connection_with_it_is_recorded() {
    let backend = moody();
    let mut gate = Setup::policy(SOME).start(backend.address);
    // The upload stalls behind a first exchange that is still open; then the client goes.
    let mut stream = gate.connect("agents/research", b"http/1.1").await;
    stream.write_all(b"GET /long/1 HTTP/1.1\r\nhost: gate.test\r\n\r\nGET /broken/2 HTTP/1.1\r\nno colon\r\n\r\n").await.unwrap();
    let mut some = [0; 4096];
    within("the first answer", stream.read_exact(&mut some)).await.unwrap();
    drop(stream);
    until("the exchange to end", || gate.running().registry().collect(|_| true).is_empty()).await;
    let record = tokio::task::block_in_place(|| gate.record());
    assert_eq!(counted(&record), BTreeMap::from([(1, (1, 0)), (2, (1, 0))]));
}

/// A request as HTTP/2 frames, its fields spelt out (RFC 7541 section 6.2.2), so that a test decides what is sent together.
fn headers_frame(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, 0x5, stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn get_frame(stream: u32, path: &str) -> Vec<u8> {
    headers_frame(stream, &[(":method", "GET"), (":scheme", "https"), (":authority", "gate.test"), (":path", path)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_reset_in_the_breath_that_opened_it_is_recorded() {
    let backend = moody();
    let mut gate = Setup::policy(SOME).start(backend.address);
    let mut stream = gate.connect("agents/research", b"h2").await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for id in 1..=5u32 {
        bytes.extend(get_frame(id * 2 - 1, &format!("/fine/{id}")));
        bytes.extend(frame(3, 0, id * 2 - 1, &8u32.to_be_bytes()));
    }
    bytes.extend(get_frame(11, "/fine/6"));
    stream.write_all(&bytes).await.unwrap();
    until("the last stream to reach the upstream", || backend.seen().iter().any(|seen| seen.target() == "/fine/6")).await;
    drop(stream);
    let record = tokio::task::block_in_place(|| gate.record());
    assert_eq!(counted(&record), (1..=6).map(|id| (id, (1, 0))).collect());
}

/// The fixed core of the contract, and what every line says beside it.
const CORE: &[&str] = &[
    "kind",
    "exchange",
    "session",
    "peer",
    "environment",
    "task",
    "intent",
    "kill",
    "owner",
    "action",
    "anomaly",
    "tool",
    "resource",
    "route",
    "listener",
    "upstream",
    "delegation",
    "approval",
    "exception",
    "break_glass",
    "credential",
    "basis",
    "enforcement",
    "verdict",
    "reason",
    "reasons",
    "generation",
    "trace_id",
    "protocol",
    "method",
    "host",
    "path",
    "status",
    "bytes_in",
    "bytes_out",
    "bytes_read",
    "duration_seconds",
    "ending",
    "cause",
    "phase",
    "edits",
    "engine",
    "shadow",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_fixed_core_is_in_every_decision_line_whatever_the_policy_reads() {
    let extra = "workloads: [{spiffe_id: \"spiffe://example.org/agents/*\", owner: data-team, kind: agent}]\n\
                 resources: [{match: {methods: [GET], path: \"/fine/*\"}, type: thing, sensitivity: high, effect: read}]\n";
    for protocol in BOTH {
        let backend = moody();
        let mut gate = Setup { extra: extra.to_owned(), ..Setup::default() }.start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        client.get("/fine/1?a=b").await;
        client.get("/fault/2").await;
        drop(client.send(request("GET", "/../broken/3", empty())).await.unwrap());
        if protocol == Speaks::Http1 {
            gate.raw_answer("agents/research", b"GET /broken/4 HTTP/1.1\r\nno colon\r\n\r\n", true).await;
        }
        drop(client);
        let decisions = tokio::task::block_in_place(|| gate.decisions());
        assert_eq!(decisions.len(), if protocol == Speaks::Http1 { 4 } else { 3 });
        for line in &decisions {
            let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
            let mut core = CORE.to_vec();
            keys.sort_unstable();
            core.sort_unstable();
            assert_eq!(keys, core, "{line}");
            assert_eq!((&line["environment"], &line["listener"]), (&"test".into(), &"front".into()));
            assert_eq!(line["peer"], "spiffe://example.org/agents/research");
        }
        let allowed = &decisions[0];
        let said = |name: &str| allowed[name].clone();
        assert_eq!(said("resource"), json!({"type": "thing", "sensitivity": "high", "effect": "read"}));
        for (name, value) in [
            ("owner", "data-team"),
            ("action", "GET"),
            ("route", "all"),
            ("upstream", "backend"),
            ("basis", "standing"),
            ("enforcement", "enforce"),
            ("verdict", "allow"),
            ("method", "GET"),
            ("host", "gate.test"),
            ("path", "/fine/1"),
            ("ending", "complete"),
            ("phase", "request"),
        ] {
            assert_eq!(said(name), value, "{name}");
        }
        assert_eq!((said("status"), said("generation"), said("bytes_out")), (200.into(), 1.into(), 5.into()));
        assert!(said("session").is_string() && said("duration_seconds").is_f64());
        assert_eq!((&decisions[1]["verdict"], &decisions[1]["status"]), (&"allow".into(), &502.into()));
        assert_eq!((&decisions[2]["verdict"], &decisions[2]["reason"]), (&"refused".into(), &"path_above_root".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_is_in_the_record_of_a_denial_before_any_policy_was_asked() {
    let backend = Backend::start();
    let routes = |yaml: String| yaml.replace("{name: all, upstream: backend}", "{name: only, path_prefix: /v1, upstream: backend}");
    let policy = "package portcullis\n\ndecision := {\"allowed\": false, \"kill\": {\"scope\": \"session\"}}\n";
    let mut gate = Setup::policy(policy).start_with(backend.address, routes);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    assert_eq!(client.get("/v2/nowhere").await.json()["code"], "no_route");
    assert_eq!(client.get("/v1/first").await.json()["code"], "policy");
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    assert_eq!(client.get("/v1/second").await.json()["code"], "killed");
    let decisions = tokio::task::block_in_place(|| gate.decisions());
    let of = |path: &str| decisions.iter().find(|line| line["path"] == path).unwrap();
    assert_eq!((&of("/v2/nowhere")["host"], &of("/v2/nowhere")["action"]), (&"gate.test".into(), &"GET".into()));
    let killed = of("/v1/second");
    assert_eq!((&killed["reason"], &killed["route"], &killed["upstream"]), (&"killed".into(), &"only".into(), &"backend".into()));
    assert_eq!(killed["host"], "gate.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_recorded_as_durably_as_configured_before_the_upstream_sees_a_byte() {
    for (durability, early) in [("queued", false), ("written", true), ("synced", true)] {
        for protocol in BOTH {
            let (file, found) = (Arc::<OnceLock<PathBuf>>::default(), Arc::<Mutex<Vec<bool>>>::default());
            let (reads, notes) = (Arc::clone(&file), Arc::clone(&found));
            let backend = Backend::answering(move |seen, stream| {
                let text = std::fs::read_to_string(reads.get().unwrap()).unwrap_or_default();
                let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["portcullis"].clone());
                let told = |line: Value| line["path"] == seen.target() && line["kind"] == "decision" && line["verdict"] == "allow";
                notes.lock().unwrap().push(lines.map(told).filter(|told| *told).count() == 1);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?;
                Ok(true)
            });
            let audit = format!("  file: decisions.jsonl\n  durability: {durability}\n");
            let mut gate = Setup { audit, ..Setup::default() }.start(backend.address);
            file.set(gate.path("decisions.jsonl")).unwrap();
            let mut client = gate.any(protocol, "agents/research").await;
            for id in 0..5 {
                assert_eq!(client.get(&format!("/fine/{id}")).await.status, 200);
            }
            drop(client);
            assert_eq!(*found.lock().unwrap(), [early; 5], "{durability} {protocol:?}");
            let record = tokio::task::block_in_place(|| gate.record());
            assert_eq!(counted(&record), (0..5).map(|id| (id, (1, usize::from(early)))).collect(), "{durability} {protocol:?}");
            each_is_told_to_its_end(&record);
        }
    }
}

fn fifo(gate: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    assert!(std::process::Command::new("mkfifo").arg(folder.path().join(gate)).status().unwrap().success());
    folder
}

/// Reads a FIFO to its end on a thread of its own.
fn reader(path: PathBuf) -> std::thread::JoinHandle<Vec<Value>> {
    std::thread::spawn(move || {
        let text = std::fs::read_to_string(path).unwrap();
        spoken(text.lines())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_takes_no_lines_refuses_requests_until_it_takes_them_again() {
    for protocol in BOTH {
        let pipe = fifo("pipe");
        let path = pipe.path().join("pipe");
        let audit = format!("  file: {}\n  queue: 8\n  wait: 200ms\n", path.display());
        let backend = Backend::start();
        let mut gate = Setup { audit, ..Setup::default() }.start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let (mut passed, mut refused) = (Vec::new(), 0);
        for id in 0..12 {
            let began = Instant::now();
            let answer = client.get(&format!("/fine/{id}")).await;
            if answer.status == 200 {
                assert_eq!(refused, 0, "once it is full it is full");
                passed.push(id);
            } else {
                assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (503, "record_full"), "{protocol:?}");
                // The first waits for room; once the file has taken nothing for a while nobody waits for it any more.
                assert!(refused > 0 || began.elapsed() >= Duration::from_millis(200));
                assert!(began.elapsed() < Duration::from_secs(5));
                refused += 1;
            }
        }
        assert!(!passed.is_empty() && refused >= 4, "{passed:?} passed, {refused} refused");
        assert_eq!(backend.seen().len(), passed.len(), "what was refused went nowhere");
        let reading = reader(path);
        within("the record to recover", async {
            while client.get("/fine/99").await.status != 200 {
                refused += 1
            }
        })
        .await;
        drop(client);
        tokio::task::block_in_place(|| gate.stop());
        let record = reading.join().unwrap();
        let told: Vec<usize> = counted(&record).into_keys().collect();
        passed.push(99);
        assert_eq!(told, passed, "{protocol:?}");
        let losses = record.iter().filter(|line| line["portcullis"]["kind"] == "loss");
        let counted: u64 = losses.map(|line| line["portcullis"]["refused"].as_u64().unwrap()).sum();
        assert_eq!(counted, refused, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_each_request_where_decisions_must_be_written_first() {
    for (durability, passes) in [("written", 0), ("synced", 0), ("queued", 3)] {
        let audit = format!("  file: /dev/full\n  durability: {durability}\n  wait: 200ms\n");
        let backend = Backend::start();
        let gate = Setup { audit, ..Setup::default() }.start(backend.address);
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        for _ in 0..3 {
            let answer = client.get("/fine").await;
            if passes == 0 {
                assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (503, "record_full"), "{durability}");
            } else {
                assert_eq!(answer.status, 200, "{durability}: there is room in the queue");
            }
        }
        assert_eq!(backend.seen().len(), passes, "{durability}");
        drop(client);
        tokio::task::block_in_place(|| drop(gate));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "a measurement is printed")]
async fn a_disk_that_is_full_refuses_long_before_a_request_has_waited_and_one_with_space_again_is_used() {
    for durability in ["written", "synced"] {
        let backend = Backend::start();
        let audit = format!("  file: decisions.jsonl\n  durability: {durability}\n  wait: 60s\n");
        let mut gate = prepared(&backend, Setup { audit, ..Setup::default() });
        let process = Process::start_limited(&gate);
        gate.address = process.address;
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        assert_eq!(client.get("/before").await.status, 200);
        // Half a line fits, as it does where a disk ends.
        let size = std::fs::metadata(gate.path("decisions.jsonl")).unwrap().len();
        process.limit_files(&(size + 300).to_string());
        let began = Instant::now();
        let answer = client.get("/full").await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("record_full")), "{durability}");
        let (first, again) = (began.elapsed(), Instant::now());
        assert_eq!(client.get("/still/full").await.status, 503, "{durability}");
        let second = again.elapsed();
        process.limit_files("unlimited");
        let space = Instant::now();
        within("the space to be used", async { while client.get("/after").await.status != 200 {} }).await;
        eprintln!("{durability}: refused after {first:?}, then {second:?}; used again after {:?}", space.elapsed());
        assert_eq!(backend.seen().iter().map(|seen| seen.target().to_owned()).collect::<Vec<_>>(), ["/before", "/after"]);
        process.signal("TERM");
        drop(client);
        assert_eq!(process.end(), 0);
        let record = gate.record_now();
        let told = record.iter().filter(|line| line["portcullis"]["kind"] == "decision").map(|line| &line["portcullis"]["path"]);
        let told: Vec<&str> = told.filter_map(Value::as_str).filter(|path| *path != "/after").collect();
        assert_eq!(told, ["/before", "/full", "/still/full"], "{durability}");
        let verified = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["audit", "verify"])
            .arg(gate.path("decisions.jsonl"))
            .output()
            .unwrap();
        assert!(verified.status.success(), "{durability}: {}", String::from_utf8_lossy(&verified.stdout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_may_lose_lines_lets_requests_pass_and_counts_what_it_lost() {
    let pipe = fifo("pipe");
    let path = pipe.path().join("pipe");
    let audit = format!("  file: {}\n  queue: 8\n  wait: 200ms\n  on_full: drop\n", path.display());
    let backend = Backend::start();
    let mut gate = Setup { audit, ..Setup::default() }.start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for id in 0..30 {
        assert_eq!(client.get(&format!("/fine/{id}")).await.status, 200);
    }
    drop(client);
    let reading = reader(path);
    tokio::task::block_in_place(|| gate.stop());
    let record = reading.join().unwrap();
    let told = record.iter().filter(|line| line["portcullis"]["kind"] == "decision").count() as u64;
    let lost: u64 = record.iter().filter_map(|line| line["portcullis"]["lost"].as_u64()).sum();
    assert!(told > 0 && lost > 0, "{told} told, {lost} lost");
    assert_eq!(told + lost, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_holds_as_much_of_the_input_as_configured_and_no_credential() {
    let reads = "input.request.headers[\"x-team\"][0] == \"blue\"";
    for (detail, body_read) in [("footprint", false), ("head", false), ("full", false), ("full", true), ("head", true)] {
        let policy = format!(
            "package portcullis\n\ndecision := true if {{\n\t{reads}\n\t{}\n}}\n",
            if body_read { "input.request.body.canary" } else { "true" }
        );
        let backend = Backend::start();
        let audit = format!("  file: decisions.jsonl\n  input: {detail}\n");
        let mut gate = Setup { audit, ..Setup::policy(&policy) }.start(backend.address);
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        let mut asked = request("POST", "/v1?token=canary-query&page=2", full("{\"canary\": \"canary-body\"}"));
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-team", "blue"),
            ("authorization", "Bearer canary-header"),
            ("cookie", "a=canary-cookie"),
            ("x-other", "seen"),
        ] {
            asked.headers_mut().insert(name, value.parse().unwrap());
        }
        assert_eq!(client.send(asked).await.unwrap().status(), 200, "{detail} {body_read}");
        drop(client);
        let record = tokio::task::block_in_place(|| gate.record());
        let (input, text) = (&record[0]["input"], record[0].to_string());
        let case = format!("{detail}, body read: {body_read}: {input}");
        assert_eq!(input["request"]["headers"]["x-team"], json!(["blue"]), "{case}");
        assert_eq!(input["request"]["headers"].get("x-other").is_some(), detail != "footprint", "{case}");
        assert_eq!(input["request"].get("path").is_some(), detail != "footprint", "{case}");
        for secret in ["canary-query", "canary-header", "canary-cookie"] {
            assert!(!text.contains(secret), "{secret}: {case}");
        }
        assert_eq!(text.contains("canary-body"), detail == "full" && body_read, "{case}");
        if detail != "footprint" {
            assert!(input["request"]["headers"]["authorization"][0].as_str().unwrap().starts_with("sha256:"), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cause_of_a_cut_stands_in_the_last_line_and_adds_none() {
    let policy = "package portcullis\n\ndecision := {\"allowed\": true, \"lease\": lease[input.request.segments[0]]}\n\n\
                  lease := {\"long\": {\"max_bytes_out\": 10000}, \"slow\": {\"max_age\": \"1s\"}}\n";
    for protocol in BOTH {
        let backend = moody();
        let mut gate = Setup::policy(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let early = client.open("/long/1").await.into_body();
        assert!(within("the cut", early.collect()).await.is_err());
        let mut client = gate.any(protocol, "agents/research").await;
        let late = client.open("/slow/2").await.into_body();
        assert!(within("the cut", late.collect()).await.is_err(), "{protocol:?}");
        drop(client);
        let record = tokio::task::block_in_place(|| gate.record());
        assert_eq!(record.len(), if counted(&record)[&2].1 == 1 { 3 } else { 2 }, "{record:?}");
        each_is_told_to_its_end(&record);
        let last = |id: usize| {
            let decision = record
                .iter()
                .find(|line| line["portcullis"]["path"].as_str().is_some_and(|path| path.ends_with(&format!("/{id}"))));
            let exchange = &decision.unwrap()["portcullis"]["exchange"];
            let last = record.iter().rfind(|line| line["portcullis"]["exchange"] == *exchange).unwrap();
            (last["portcullis"]["ending"].clone(), last["portcullis"]["cause"].clone())
        };
        assert_eq!(last(1), ("cut".into(), "lease_max_bytes_out".into()), "{protocol:?}");
        assert_eq!(last(2), ("cut".into(), "lease_max_age".into()), "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_names_the_bundle_that_judged_also_when_another_is_in_force_by_then() {
    let backend = moody();
    let mut gate = Setup::default().start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    let mut open = Vec::new();
    // One is open whenever the bundle changes, within the second before its line is told.
    gate.write_policy("package portcullis\n\ndecision := input.request.path != \"/old\"\n");
    let mut id = 0;
    while client.get("/old").await.status == 200 {
        id += 1;
        open.push(client.open(&format!("/slow/{id}")).await.into_body());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for body in open {
        let _ = body.collect().await;
    }
    drop(client);
    let record = tokio::task::block_in_place(|| gate.record());
    let mut revisions: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in record.iter().filter(|line| line["portcullis"]["kind"] == "decision") {
        let revision = line["bundles"]["authz"]["revision"].as_str().unwrap().to_owned();
        revisions.entry(line["portcullis"]["generation"].as_u64().unwrap()).or_default().push(revision);
    }
    for named in revisions.values_mut() {
        named.sort_unstable();
        named.dedup();
    }
    let told: Vec<&Vec<String>> = revisions.values().collect();
    assert!(told.len() == 2 && told[0].len() == 1 && told[1].len() == 1 && told[0] != told[1], "{revisions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_that_is_denied_in_the_end_was_never_told_as_an_allow() {
    let policy = "package portcullis\n\n\
                  decision := {\"allowed\": true, \"rewrite\": {\"body\": [{\"op\": \"add\", \"path\": \"/b\", \"value\": 1}]}} if not input.request.rewritten\n\n\
                  decision := false if input.request.rewritten\n";
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup::policy(policy).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let (sender, body) = by_hand();
        let mut asked = request("POST", "/v1", body);
        asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
        sender.send(Ok(Bytes::from_static(b"{\"a\": "))).await.unwrap();
        let sending = tokio::spawn(async move { Answer::of(client.send(asked).await.unwrap()).await });
        // The body comes slower than the second after which a decision is told.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        sender.send(Ok(Bytes::from_static(b"1}"))).await.unwrap();
        drop(sender);
        let answer = within("the answer", sending).await.unwrap();
        assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "policy"), "{protocol:?}");
        assert!(backend.seen().is_empty());
        let record = tokio::task::block_in_place(|| gate.record());
        let said: Vec<_> = record.iter().map(|line| (&line["portcullis"]["kind"], &line["portcullis"]["verdict"])).collect();
        assert_eq!(said, [(&"decision".into(), &"deny".into())], "{protocol:?}");
    }
}
