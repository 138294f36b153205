//! What an exchange leaves behind, and what changes under it: an upload that outlives its response, a rehearsal, a swap or a reload
//! in the middle of a request.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};

use crate::harness::*;

/// A body whose pieces the test sends one by one.
fn piecemeal() -> (Boxed, Pieces) {
    let (send, receive) = tokio::sync::mpsc::channel(8);
    (StreamBody::new(crate::cuts::Ticks(receive)).boxed(), Pieces(send))
}

struct Pieces(tokio::sync::mpsc::Sender<Bytes>);

impl Pieces {
    /// Whether anybody took it is the gate's business.
    fn send(&self, piece: &'static str) {
        let _ = self.0.try_send(Bytes::from_static(piece.as_bytes()));
    }
}

/// An upstream that answers before it has the whole request, and reads on; tells when its connection ended and how many lines came.
fn hasty() -> (std::net::SocketAddr, Arc<AtomicUsize>, std::sync::mpsc::Receiver<bool>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lines = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&lines);
    let (over, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        let mut whole = false;
        loop {
            line.clear();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    whole |= line == "0\r\n";
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        let _ = over.send(whole);
    });
    (address, lines, ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_request_goes_up_once_its_response_is_over() {
    for protocol in BOTH {
        let (address, lines, ended) = hasty();
        let gate = Setup::default().start(address);
        let mut client = gate.any(protocol, "agents/good").await;
        let (body, send) = piecemeal();
        send.send("first\r\n");
        let answer = Answer::of(within("the answer", client.send(request("POST", "/", body))).await.unwrap()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{protocol:?}");
        let whole = tokio::task::block_in_place(|| ended.recv_timeout(HANG)).expect("the upstream's connection ends");
        assert!(!whole, "{protocol:?}: the upstream took a broken upload for a whole one");
        let before = lines.load(Ordering::SeqCst);
        send.send("later\r\n");
        assert_eq!(lines.load(Ordering::SeqCst), before, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_tightens_no_lease() {
    let (backend, _) = crate::cuts::ticking();
    let gate = Setup::default().start(backend.address);
    let mut body = gate.any(Speaks::Http2, "agents/good").await.open("/ticks").await.into_body();
    crate::cuts::some_bytes(&mut body, 64 * 1024).await;
    let leased = "package portcullis\n\ndecision := {\"allowed\": true, \"lease\": {\"max_bytes_out\": 1024}}\n";
    std::fs::write(gate.path("policy/policy.rego"), leased).unwrap();
    let (status, answer) = tokio::task::block_in_place(|| gate.control("POST", "/v1/policy/activate", "{\"dry_run\": true}"));
    assert_eq!(status, 200, "{answer}");
    crate::cuts::some_bytes(&mut body, 1024 * 1024).await;
}

const READS_BODY: &str = "package portcullis\n\ndefault decision := false\n\ndecision if input.request.body.ok == true\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_swap_while_a_body_is_read_costs_its_request_nothing() {
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = Arc::new(Setup::policy(READS_BODY).start(backend.address));
        let mut client = gate.any(protocol, "agents/good").await;
        let (body, send) = piecemeal();
        let mut asked = request("POST", "/slow", body);
        asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
        send.send("{\"ok\":");
        let sending = tokio::spawn(async move { Answer::of(client.send(asked).await.unwrap()).await });
        until("the exchange to open", || {
            gate.running().registry().collect(|open| matches!(open.kind, portcullis::exchange::Kind::Exchange(_))).len() == 1
        })
        .await;
        let (status, answer) = tokio::task::block_in_place(|| gate.activate(&format!("{READS_BODY}\n# another\n"), "{}"));
        assert_eq!(status, 200, "{answer}");
        // Every worker takes the new generation when it is asked something.
        for _ in 0..8 {
            assert_eq!(gate.any(protocol, "agents/other").await.post("/", "{\"ok\": true}").await.status, 200);
        }
        send.send("true}");
        drop(send);
        let answer = within("the answer", sending).await.unwrap();
        assert_eq!(answer.status, 200, "{protocol:?}: {}", answer.body);
    }
}

/// Writes other routes into the gate's configuration.
fn route(gate: &Gate, routes: &str) {
    let path = gate.path("gate.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = yaml.split_once("    routes: ").unwrap();
    let after = rest.split_once('\n').unwrap().1;
    std::fs::write(path, format!("{before}    routes: {routes}\n{after}")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_rewritten_into_a_route_whose_policy_reads_bodies_is_judged_with_the_body() {
    let backend = Backend::start();
    let policy = "package portcullis\n\ndecision := {\"allowed\": true, \"rewrite\": {\"path\": \"/strict\"}}\n\n\
                  default strict := true\n\nstrict := false if input.request.body.bad == true\n";
    let mut gate = Setup::policy(policy).start(backend.address);
    let strict = "{name: strict, path_prefix: /strict, upstream: backend, decision: portcullis/strict}";
    route(&gate, &format!("[{strict}, {{name: all, upstream: backend}}]"));
    tokio::task::block_in_place(|| gate.restart());
    let mut client = gate.any(Speaks::Http2, "agents/good").await;
    assert_eq!(client.post("/loose", "{\"bad\": false}").await.status, 200);
    assert_eq!(client.post("/loose", "{\"bad\": true}").await.status, 403);
    let seen = backend.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].target(), seen[0].body.as_slice()), ("/strict", b"{\"bad\": false}".as_slice()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_names_the_bundle_that_judged_not_the_one_in_force_when_it_is_written() {
    let (backend, _) = crate::cuts::ticking();
    let mut gate = Setup::default().start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/good").await;
    let (_, before) = tokio::task::block_in_place(|| gate.control("GET", "/v1/policy", ""));
    let body = client.open("/ticks").await.into_body();
    let (status, answer) = tokio::task::block_in_place(|| gate.activate(&format!("{ALLOW}\n# another\n"), "{}"));
    assert_eq!(status, 200, "{answer}");
    drop(body);
    until("the exchange to end", || {
        gate.running().registry().collect(|open| matches!(open.kind, portcullis::exchange::Kind::Exchange(_))).is_empty()
    })
    .await;
    let line =
        tokio::task::block_in_place(|| gate.record()).into_iter().find(|line| line["portcullis"]["path"] == "/ticks").unwrap();
    assert_eq!(line["portcullis"]["generation"], 1, "{line}");
    let told = line["bundles"]["authz"]["revision"].as_str().unwrap();
    assert!(before.to_string().contains(told), "{told} is not in {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_use_never_idles_out() {
    let backend = Backend::start();
    let gate = Setup { extra: "limits: {idle_timeout: 1s}\n".to_owned(), ..Setup::default() }.start(backend.address);
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/good").await;
        // Time is what is tested here: more than twice the timeout passes, and never as much between two requests.
        for _ in 0..25 {
            assert_eq!(client.get("/").await.status, 200, "{protocol:?}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        within("the idle connection to be closed", async {
            while client.send(request("GET", "/", empty())).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_handshake_ends_after_the_drain_began_does_not_hold_it_up() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let stream = tokio::net::TcpStream::connect(gate.address).await.unwrap();
    until("the connection to be carried", || gate.metric("portcullis_handshakes_open", "") >= 1.0).await;
    let (config, name) = (gate.client("agents/good", b"h2"), rustls::pki_types::ServerName::from(gate.address.ip()));
    let admin = gate.admin;
    let stopping = tokio::task::spawn_blocking(move || gate.stop());
    until("the drain", || admin_status(admin) == Some(503)).await;
    let _late = within("the handshake", tokio_rustls::TlsConnector::from(config).connect(name, stream)).await.unwrap();
    within("the gate to stop", stopping).await.unwrap();
}

fn admin_status(admin: std::net::SocketAddr) -> Option<u16> {
    use std::io::Read;
    let mut socket = std::net::TcpStream::connect(admin).ok()?;
    write!(socket, "GET /readyz HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

fn exchanges(gate: &Gate) -> usize {
    gate.running().registry().collect(|open| matches!(open.kind, portcullis::exchange::Kind::Exchange(_))).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_reaches_a_request_that_waits() {
    let reading = Setup::policy(READS_BODY);
    let answering = Setup::default();
    // A FIFO nobody reads takes no line, and a decision must be durable first.
    let recording = Setup { audit: "  file: fifo\n  durability: written\n  wait: 15s\n".to_owned(), ..Setup::default() };
    for (what, setup) in [("for its body", reading), ("for its response", answering), ("for the record", recording)] {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = if what == "for the record" {
            setup.start_on_fifo(silent.local_addr().unwrap())
        } else {
            setup.start(silent.local_addr().unwrap())
        };
        for protocol in BOTH {
            let mut client = gate.any(protocol, "agents/bad").await;
            let (body, send) = piecemeal();
            let mut asked = request("POST", "/", body);
            asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
            send.send("{");
            let sending = tokio::spawn(async move { Answer::of(client.send(asked).await.unwrap()).await });
            until("the exchange to open", || exchanges(&gate) == 1).await;
            let _asked = (what == "for its response").then(|| tokio::task::block_in_place(|| silent.accept()).unwrap());
            let id = gate.running().registry().collect(|open| matches!(open.kind, portcullis::exchange::Kind::Exchange(_)))[0].id;
            let answer = tokio::task::block_in_place(|| gate.kill(&format!("{{\"exchange\": \"{id}\"}}")));
            assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{what} {protocol:?}: {answer}");
            let answer = within("the answer", sending).await.unwrap();
            assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (403, "killed"), "{what} {protocol:?}");
            assert_eq!(exchanges(&gate), 0, "{what} {protocol:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_whose_body_never_comes_does_not_keep_its_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Backend::start();
    let gate = Setup::policy("package portcullis\n\ndecision := false\n").start(backend.address);
    let mut stream = gate.connect("agents/good", b"http/1.1").await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: gate.test\r\ncontent-length: 1000000\r\n\r\nx").await.unwrap();
    let mut text = Vec::new();
    let _ = within("the connection to close", stream.read_to_end(&mut text)).await;
    assert!(String::from_utf8_lossy(&text).starts_with("HTTP/1.1 403"), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lease_cuts_on_a_route_that_only_observes() {
    let (backend, _) = crate::cuts::ticking();
    let leased = "package portcullis\n\ndecision := {\"allowed\": true, \"lease\": {\"max_bytes_out\": 1024}}\n";
    let mut gate = Setup::policy(leased).start(backend.address);
    route(&gate, "[{name: all, upstream: backend, enforcement: observe}]");
    tokio::task::block_in_place(|| gate.restart());
    let mut body = gate.any(Speaks::Http2, "agents/good").await.open("/ticks").await.into_body();
    let (status, answer) = tokio::task::block_in_place(|| gate.activate(&format!("{leased}\n# another\n"), "{}"));
    assert_eq!((status, &answer["cut"]), (200, &0.into()), "{answer}");
    crate::cuts::some_bytes(&mut body, 1024 * 1024).await;
}
