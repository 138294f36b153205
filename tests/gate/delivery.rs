//! Decisions delivered to a service as OPA delivers them, and what becomes of them while it is away.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use portcullis::audit;

use crate::harness::*;

/// How a collector treats what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Take,
    Status(u16),
    /// It reads everything and never answers.
    Silent,
    /// The connection, and no answer.
    Away,
    /// It takes what it is sent and goes away before it says so.
    Forgetful,
}

/// A service that collects decision logs.
#[derive(Clone)]
struct Collector {
    address: SocketAddr,
    /// Of the token it wants.
    folder: Arc<tempfile::TempDir>,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    mood: Mood,
    heads: Vec<String>,
    /// Compressed size, and the lines, of each chunk that was taken.
    chunks: Vec<(usize, Vec<serde_json::Value>)>,
    texts: Vec<String>,
    refused: usize,
}

impl Collector {
    fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State { mood, heads: Vec::new(), chunks: Vec::new(), texts: Vec::new(), refused: 0 };
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("token"), "canary-4711").unwrap();
        let collector =
            Self { address: listener.local_addr().unwrap(), folder, state: Arc::new((Mutex::new(state), Condvar::new())) };
        let serving = collector.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let collector = serving.clone();
                std::thread::spawn(move || drop(collector.serve(&mut stream)));
            }
        });
        collector
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let found = look(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
        found
    }

    fn mood(&self, mood: Mood) {
        self.with(|state| state.mood = mood);
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        self.with(|state| state.chunks.iter().flat_map(|(_, lines)| lines.clone()).collect())
    }

    fn refused(&self) -> usize {
        self.with(|state| state.refused)
    }

    fn serve(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        if self.with(|state| state.mood) == Mood::Away {
            self.with(|state| state.refused += 1);
            return Ok(());
        }
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let mood = self.with(|state| state.mood);
        match mood {
            Mood::Take | Mood::Forgetful => {
                let mut text = String::new();
                flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
                let lines = serde_json::from_str(&text).unwrap();
                self.with(|state| {
                    state.heads.push(head);
                    state.chunks.push((length, lines));
                    state.texts.push(text);
                    state.refused += usize::from(mood == Mood::Forgetful);
                });
                if mood == Mood::Forgetful {
                    return Ok(());
                }
                stream.write_all(b"HTTP/1.1 204 taken\r\n\r\n")
            }
            Mood::Status(status) => {
                self.with(|state| state.refused += 1);
                write!(stream, "HTTP/1.1 {status} no\r\ncontent-length: 0\r\n\r\n")
            }
            Mood::Silent => {
                self.with(|state| state.refused += 1);
                // Until whoever asked gives up.
                stream.read_exact(&mut byte)
            }
            Mood::Away => Ok(()),
        }
    }
}

/// A gate that delivers to `collector`.
fn start(collector: &Collector, logs: &str, policy: &str) -> Gate {
    let token = collector.folder.path().join("token");
    let credentials = format!("{{bearer: {{token: \"file:{}\"}}}}", token.display());
    let services =
        format!("services: {{acme: {{url: \"http://{}/v1\", timeout: 1s, credentials: {credentials}}}}}\n", collector.address);
    let extra = format!("{services}decision_logs: {{service: acme, {logs}}}\n");
    Setup { extra, audit: "  file: decisions.jsonl\n  input: head\n".to_owned(), ..Setup::policy(policy) }
        .start(Backend::start().address)
}

async fn asks(gate: &Gate, count: usize) {
    let mut client = gate.any(Speaks::Http2, "agents/a").await;
    for number in 0..count {
        let status = client.get(&format!("/x/{number}")).await.status;
        assert_eq!(status, 200, "request {number}");
    }
}

fn ids(lines: &[serde_json::Value]) -> Vec<String> {
    lines.iter().map(|line| line["decision_id"].as_str().unwrap().to_owned()).collect()
}

/// The decision lines of the file. The gate is stopped for it.
fn decided(gate: &mut Gate) -> Vec<serde_json::Value> {
    gate.record().into_iter().filter(|line| line["portcullis"]["kind"] == "decision").collect()
}

fn counted(gate: &Gate, outcome: &str) -> usize {
    gate.metric("portcullis_delivery_lines_total", &format!("outcome=\"{outcome}\"")) as usize
}

const MASKING: &str = "package portcullis\n\ndecision := input.request.path != \"/x/3\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn decisions_arrive_as_they_are_in_the_file_in_opas_form() {
    let collector = Collector::start(Mood::Take);
    let mask = "package system.log\n\nmask contains \"/input/request/path\" if input.input.request.path == \"/x/2\"\n";
    let mut gate = start(&collector, "reporting: {min_delay: 100ms, max_delay: 200ms, upload_size_limit: 2KiB}", MASKING);
    gate.write_bundle("mask.rego", mask);
    assert_eq!(gate.control("POST", "/v1/policy/activate", "{}").0, 200);
    let mut client = gate.any(Speaks::Http2, "agents/a").await;
    for number in 0..40 {
        let status = client.get(&format!("/x/{number}")).await.status;
        assert_eq!(status, if number == 3 { 403 } else { 200 });
    }
    until("all to arrive", || collector.lines().len() == 40).await;
    let file = decided(&mut gate);
    assert_eq!(collector.lines(), file, "each line, in its order, as the file has it");
    let lines = collector.lines();
    let denied = &lines[3];
    assert_eq!((&denied["result"], &denied["path"]), (&false.into(), &"portcullis/decision".into()));
    assert_eq!(lines[2]["erased"], serde_json::json!(["/input/request/path"]));
    assert!(lines[2]["input"]["request"]["path"].is_null() && !lines[4]["input"]["request"]["path"].is_null(), "{}", lines[2]);
    for field in ["labels", "decision_id", "timestamp", "bundles", "input", "result", "requested_by", "metrics"] {
        assert!(!denied[field].is_null(), "{field} of {denied}");
    }
    collector.with(|state| {
        for head in &state.heads {
            assert!(head.starts_with("post /v1/logs http/1.1\r\n"), "{head}");
            for field in
                ["content-type: application/json\r\n", "content-encoding: gzip\r\n", "authorization: bearer canary-4711\r\n"]
            {
                assert!(head.contains(field), "{head}");
            }
        }
        assert!(state.chunks.len() > 1 && state.chunks.iter().all(|(size, _)| *size <= 2048), "{}", state.chunks.len());
        assert!(!state.texts.concat().contains("canary"));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_whole_record_verifies_where_it_arrives() {
    let collector = Collector::start(Mood::Take);
    let mut gate = start(&collector, "resource: audit/trail, lines: all, reporting: {min_delay: 1h, max_delay: 1h}", ALLOW);
    asks(&gate, 20).await;
    gate.kill("{\"spiffe_id\": \"spiffe://example.org/agents/b\"}");
    // Nothing waits for its hour where the gate ends.
    gate.stop();
    let texts = collector.with(|state| state.texts.concat()).replace("][", ",");
    let file = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    assert_eq!(texts, format!("[{}]", file.trim_end().replace('\n', ",")), "all of it, byte for byte");
    // What whoever collects them writes down.
    let there = gate.path("there.jsonl");
    let lines: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(&texts).unwrap();
    std::fs::write(&there, lines.iter().map(|line| format!("{}\n", line.get())).collect::<String>()).unwrap();
    let summary = audit::verify(&[there], None, &[]).unwrap();
    assert!(summary.records >= 23, "20 decisions, a control call, a start and a checkpoint: {summary:?}");
    assert!(collector.with(|state| state.heads[0].starts_with("post /v1/audit/trail ")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_service_that_is_away_costs_bounded_memory_no_request_and_an_exact_count() {
    for mood in [Mood::Status(503), Mood::Status(401), Mood::Silent, Mood::Away] {
        let collector = Collector::start(mood);
        let logs = "reporting: {min_delay: 100ms, max_delay: 300ms, upload_size_limit: 4KiB, buffer_size_limit: 64KiB}";
        let mut gate = start(&collector, logs, ALLOW);
        asks(&gate, 150).await;
        until("lines to be given up", || counted(&gate, "dropped") > 20 && collector.refused() > 1).await;
        let waiting = gate.metric("portcullis_delivery_waiting_lines", "");
        assert!(waiting * 1000.0 < 64.0 * 1024.0, "{waiting} lines wait");
        let status = gate.control("GET", "/v1/status", "").1;
        let told = &status["delivery"];
        assert_eq!((&told["error"]["code"], &told["last_success"]), (&"decision_log_error".into(), &0.into()), "{mood:?}: {told}");
        if let Mood::Status(code) = mood {
            assert_eq!(told["error"]["http_code"], code);
        }
        collector.mood(Mood::Take);
        until("the rest to be delivered", || counted(&gate, "delivered") + counted(&gate, "dropped") == 150).await;
        asks(&gate, 5).await;
        until("what came after", || counted(&gate, "delivered") + counted(&gate, "dropped") == 155).await;
        let (delivered, dropped) = (counted(&gate, "delivered"), counted(&gate, "dropped"));
        assert!(gate.control("GET", "/v1/status", "").1["delivery"]["error"].is_null());
        let arrived = ids(&collector.lines());
        assert_eq!(arrived.len(), delivered, "{mood:?}");
        let record = gate.record();
        let decisions: Vec<_> = record.iter().filter(|line| line["portcullis"]["kind"] == "decision").cloned().collect();
        let all = ids(&decisions);
        assert_eq!((all.len(), arrived.iter().collect::<BTreeSet<_>>().len()), (155, delivered), "{mood:?}: each once");
        let told: u64 = record.iter().filter_map(|line| line["portcullis"]["undelivered"].as_u64()).sum();
        assert_eq!(told, dropped as u64, "{mood:?}: the record says how many are missing there");
        let newest = &all[all.len() - 20..];
        assert_eq!(&arrived[arrived.len() - 20..], newest, "{mood:?}: the oldest went, and the order stayed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_is_lost_brings_its_lines_twice_and_none_is_missing() {
    let collector = Collector::start(Mood::Forgetful);
    let mut gate = start(&collector, "reporting: {min_delay: 100ms, max_delay: 200ms}", ALLOW);
    asks(&gate, 10).await;
    until("a chunk whose answer is lost", || collector.refused() > 0).await;
    collector.mood(Mood::Take);
    until("it to be delivered", || counted(&gate, "delivered") == 10).await;
    let (arrived, all) = (ids(&collector.lines()), ids(&decided(&mut gate)));
    assert!(arrived.len() > 10);
    assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), all.into_iter().collect::<BTreeSet<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_line_no_chunk_can_hold_is_given_up_alone_and_a_service_that_is_silent_holds_up_no_end() {
    let collector = Collector::start(Mood::Take);
    // A line has the whole head.
    let mut gate = start(&collector, "reporting: {min_delay: 100ms, max_delay: 200ms, upload_size_limit: 2KiB}", ALLOW);
    let mut client = gate.any(Speaks::Http1, "agents/a").await;
    // What does not compress: numbers in base 36 of a sequence nobody sees through.
    let noise: String = (1..4000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31))).collect();
    let mut large = request("GET", "/large", empty());
    large.headers_mut().insert("x-large", noise[..6000].parse().unwrap());
    assert_eq!(Answer::of(client.send(large).await.unwrap()).await.status, 200);
    assert_eq!(client.get("/small").await.status, 200);
    until("one of each", || (counted(&gate, "delivered"), counted(&gate, "dropped")) == (1, 1)).await;
    assert_eq!(collector.lines()[0]["portcullis"]["path"], "/small");

    collector.mood(Mood::Silent);
    assert_eq!(client.get("/late").await.status, 200);
    until("a try", || collector.refused() > 0).await;
    drop(client);
    let ended = tokio::task::spawn_blocking(move || {
        gate.stop();
        gate
    });
    let mut gate = within("the gate to end", ended).await.unwrap();
    let told: u64 = gate.record().iter().filter_map(|line| line["portcullis"]["undelivered"].as_u64()).sum();
    assert_eq!(told, 1, "what is given up after the record's end is told in the log alone");
}
