//! Beside an agent: absolute-form requests and CONNECT, judged by destination; what may not be reached; tunnels and their cut.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::harness::*;

mod clients;
mod names;

/// A gate as the proxy of an agent that shares its loopback; `entry` is more of its one destination.
pub fn beside(policy: &str, entry: &str) -> Gate {
    start(Setup::policy(policy), "identity: self", entry)
}

pub fn start(setup: Setup, identity: &str, entry: &str) -> Gate {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    setup.start_with(nowhere, |yaml| {
        let destinations =
            format!("    mode: forward\n    {identity}\n    destinations: [{{name: there, hosts: [\"*\"]{entry}}}]\n");
        yaml.replace("    routes: [{name: all, upstream: backend}]\n", &destinations)
    })
}

/// What an entry needs so that a test can reach a port of this machine.
pub fn local(address: SocketAddr) -> String {
    format!(", ports: [{}], cidrs: [127.0.0.0/8]", address.port())
}

/// A connection of the agent's to its proxy.
pub fn agent(gate: &Gate) -> TcpStream {
    let stream = TcpStream::connect(gate.address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a head and reads the answer's.
pub fn ask(stream: &mut TcpStream, head: &str) -> String {
    stream.write_all(head.as_bytes()).unwrap();
    answer_head(stream)
}

pub fn answer_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the answer broke off: {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// The status and problem code of the answer to a head on a connection of its own.
pub fn refused(gate: &Gate, head: &str) -> (u16, String) {
    let mut stream = agent(gate);
    stream.write_all(head.as_bytes()).unwrap();
    let head = answer_head(&mut stream);
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.unwrap_or_else(|| panic!("{head}")).parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), problem["code"].as_str().unwrap().to_owned())
}

pub fn connect_to(host: &str) -> String {
    format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// An upstream that hands over each connection.
pub fn upstream() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(HANG)).unwrap();
            stream.set_nodelay(true).unwrap();
            if sender.send(stream).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

pub fn read(stream: &mut impl Read, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).unwrap();
    read
}

/// How a stream ends.
pub fn end(stream: &mut TcpStream) -> Result<usize, std::io::ErrorKind> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map_err(|error| error.kind())
}

/// A tunnel through the gate, and both its ends.
pub fn tunnel(gate: &Gate, address: SocketAddr, accepted: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let mut client = agent(gate);
    let head = ask(&mut client, &connect_to(&address.to_string()));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.to_ascii_lowercase().contains("content-length"), "{head}");
    (client, accepted.recv_timeout(HANG).unwrap())
}

const FACTS: &str = r#"package portcullis

decision := {"allowed": true, "headers": {"x-facts": json.marshal({
	"destination": input.destination,
	"action": input.action,
	"upstream": input.route.upstream,
	"proof": input.peer.proof,
	"principal": input.source_principal,
	"scheme": object.get(input.request, "scheme", "none"),
	"host": input.request.host,
	"envoy": input.attributes.destination.address.socketAddress,
	"authority": input.attributes.request.http.host,
	"segments": input.request.segments,
})}} if input.action.protocol == "http"

decision := {"allowed": count(wrong) == 0, "reasons": [w | some w in wrong]} if input.action.protocol == "connect"

wrong contains "path" if input.request.path != ""
wrong contains "method" if input.request.method != "CONNECT"
wrong contains "scheme" if input.request.scheme
wrong contains "private" if not input.destination.private
wrong contains "addresses" if input.destination.addresses != ["127.0.0.1"]
wrong contains "authority" if input.attributes.request.http.host != sprintf("%s:%d", [input.destination.host, input.destination.port])
wrong contains "action" if input.action.name != "CONNECT"
wrong contains "sni" if input.destination.sni
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_form_request_is_judged_by_destination_and_forwarded_as_it_was_judged() {
    let backend = Backend::start();
    let mut gate = beside(FACTS, &local(backend.address));
    let port = backend.address.port();
    let head = format!(
        "GET http://LOCALHOST.:{port}/v1/./users?x=1 HTTP/1.1\r\nHost: localhost:{port}\r\nProxy-Authorization: Basic eA==\r\n\
         Proxy-Connection: keep-alive\r\nX-Spiffe-Id: spiffe://evil/x\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n\
         Via: 1.1 before\r\nAccept: */*\r\n\r\n"
    );
    let mut client = agent(&gate);
    for _ in 0..2 {
        let answer = ask(&mut client, &head);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(read(&mut client, 5), b"hello");
    }
    let seen = backend.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].target(), "/v1/users?x=1");
    let facts: serde_json::Value = serde_json::from_str(seen[0].header("x-facts").unwrap()).unwrap();
    let expected = serde_json::json!({
        "destination": {"host": "localhost", "port": port, "addresses": ["127.0.0.1"], "private": true},
        "action": {"protocol": "http", "name": "GET"}, "upstream": "there", "proof": "self",
        "principal": "spiffe://example.org/gate", "scheme": "http", "host": "localhost",
        "envoy": {"address": "127.0.0.1", "portValue": port}, "authority": format!("localhost:{port}"), "segments": ["v1", "users"],
    });
    assert_eq!(facts, expected);
    // Who is calling is nobody's business out there, and what the agent said of it neither.
    let mut names: Vec<String> =
        seen[0].head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase())).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "host", "via", "via", "x-facts"]);
    assert_eq!(seen[0].header("host").unwrap(), format!("localhost:{port}"));
    assert!(seen[0].head.contains("1.1 before") && seen[0].head.contains("1.1 portcullis"), "{}", seen[0].head);
    drop(client);
    let decision = gate.decisions().pop().unwrap();
    for (key, value) in [
        ("verdict", "allow"),
        ("upstream", "there"),
        ("host", "localhost"),
        ("path", "/v1/users"),
        ("peer", "spiffe://example.org/gate"),
        ("protocol", "http/1.1"),
    ] {
        assert_eq!(decision[key], value, "{key}: {decision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_websocket_goes_to_a_judged_address_as_any_other() {
    let backend = Backend::start();
    let gate = beside(ALLOW, &local(backend.address));
    let to = format!("localhost:{}", backend.address.port());
    let fields =
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut client = agent(&gate);
    // This upstream does not agree, and its answer goes down.
    let answer = ask(&mut client, &format!("GET http://{to}/chat HTTP/1.1\r\nHost: {to}\r\n{fields}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let seen = backend.seen();
    assert_eq!((seen[0].target(), seen[0].header("host"), seen[0].header("upgrade")), ("/chat", Some(&*to), Some("websocket")));
    assert_eq!(seen[0].header("x-spiffe-id"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_proxy_may_be_asked_is_refused_and_recorded() {
    let backend = Backend::start();
    let mut gate = beside(ALLOW, &local(backend.address));
    let here = format!("localhost:{}", backend.address.port());
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: {here}\r\n{fields}\r\n");
    let connect = |target: &str, fields: &str| format!("CONNECT {target} HTTP/1.1\r\n{fields}\r\n");
    let cases = [
        (get("/", ""), 400, "origin_form"),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400, "origin_form"),
        (get(&format!("https://{here}/"), ""), 400, "absolute_https"),
        (get("http://localhost:1/", ""), 400, "host_mismatch"),
        (get(&format!("http://me@{here}/"), ""), 400, "host"),
        (get(&format!("http://{here}/%2e%2e/%2e%2e/x"), ""), 400, "path_above_root"),
        (get(&format!("http://{here}/"), &"Via: 1.1 portcullis\r\n".repeat(5)), 508, "loop"),
        (
            get(&format!("http://{here}/"), "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"),
            400,
            "content_length_and_transfer_encoding",
        ),
        (connect(&here, ""), 400, "host_missing"),
        (connect(&here, "Host: other:443\r\n"), 400, "host_mismatch"),
        (connect("localhost", "Host: localhost\r\n"), 400, "target_form"),
        (connect(&format!("http://{here}/"), "Host: x\r\n"), 400, "target_form"),
        (connect(&here, &format!("Host: {here}\r\nContent-Length: 2\r\n")), 400, "content_length"),
        (connect(&here, &format!("Host: {here}\r\nTransfer-Encoding: chunked\r\n")), 400, "content_length"),
        (connect("localhost:1", "Host: localhost:1\r\n"), 403, "no_route"),
        ("GET http://localhost:1/ HTTP/1.1\r\nHost: localhost:1\r\n\r\n".to_owned(), 403, "no_route"),
        (format!("TRACE http://{here}/ HTTP/1.1\r\nHost: {here}\r\n\r\n"), 405, "method_refused"),
    ];
    for (head, status, code) in &cases {
        assert_eq!(refused(&gate, head), (*status, (*code).to_owned()), "{head}");
    }
    assert_eq!((backend.seen().len(), backend.connections.load(Ordering::SeqCst)), (0, 0));
    let recorded: Vec<String> = gate.decisions().iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
    assert_eq!(recorded, cases.map(|(_, _, code)| code));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_not_public_is_reached_unless_its_entry_says_so() {
    let backend = Backend::start();
    let port = backend.address.port();
    for entry in [
        format!(", ports: [{port}]"),
        format!(", ports: [{port}], allow_private: true"),
        format!(", ports: [{port}], cidrs: [10.0.0.0/8]"),
    ] {
        let mut gate = beside(ALLOW, &entry);
        let mut hosts: Vec<&str> = vec![
            "127.0.0.1",
            "localhost",
            "127.7.7.7",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "169.254.169.254",
            "[fe80::1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "224.0.0.1",
            "255.255.255.255",
        ];
        if !entry.contains("allow_private") {
            hosts.extend(["192.168.1.1", "172.16.0.1", "100.64.0.1", "[fd00::1]"]);
        }
        for host in &hosts {
            let to = format!("{host}:{port}");
            assert_eq!(refused(&gate, &connect_to(&to)), (403, "destination_private".to_owned()), "{entry} {to}");
            let get = format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n");
            assert_eq!(refused(&gate, &get), (403, "destination_private".to_owned()), "{entry} {to}");
        }
        // Spellings of an address that are names to one reader and numbers to another are nobody's host.
        for host in ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1.."] {
            assert_eq!(refused(&gate, &connect_to(&format!("{host}:{port}"))).1, "host", "{host}");
        }
        assert_eq!(
            refused(&gate, &connect_to(&format!("no-such-name.invalid:{port}"))),
            (502, "destination_unresolved".to_owned())
        );
        assert!(gate.metric("portcullis_requests_refused_total", "destination_private") >= 28.0);
        assert_eq!(gate.decisions().len(), 2 * hosts.len() + 6);
    }
    assert_eq!((backend.seen().len(), backend.connections.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_does_not_call_itself() {
    // Ports that were free a moment ago: the entry must name them before the gate stands on them.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let [listener, admin] = [free(), free()].map(|listener| listener.local_addr().unwrap().port());
    let entry = format!(", ports: [{listener}, {admin}], cidrs: [\"0.0.0.0/0\", \"::/0\"]");
    let gate = Setup::default().start_with(SocketAddr::from(([127, 0, 0, 1], 9)), |yaml| {
        let to = format!("    mode: forward\n    identity: self\n    destinations: [{{name: there, hosts: [\"*\"]{entry}}}]\n");
        yaml.replace("    routes: [{name: all, upstream: backend}]\n", &to)
            .replace("    address: 127.0.0.1:0\n", &format!("    address: 127.0.0.1:{listener}\n"))
            .replace("admin: {address: 127.0.0.1:0}", &format!("admin: {{address: 0.0.0.0:{admin}}}"))
    });
    for (host, port) in [
        ("127.0.0.1", listener),
        ("localhost", listener),
        ("0.0.0.0", listener),
        ("[::ffff:127.0.0.1]", listener),
        ("127.0.0.1", admin),
        ("127.8.8.8", admin),
    ] {
        assert_eq!(refused(&gate, &connect_to(&format!("{host}:{port}"))), (508, "loop".to_owned()), "{host}:{port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_carries_what_either_side_says_and_ends_when_both_have() {
    let (address, accepted) = upstream();
    let mut gate = beside(FACTS, &local(address));
    let (mut client, mut server) = tunnel(&gate, address, &accepted);
    let payload: Vec<u8> = (0..200_000_u32).map(|byte| byte as u8).collect();
    for _ in 0..2 {
        let sent = payload.clone();
        let mut writer = client.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        assert_eq!(read(&mut server, payload.len()), payload);
        writing.join().unwrap();
        let sent = payload.clone();
        let mut writer = server.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        assert_eq!(read(&mut client, payload.len()), payload);
        writing.join().unwrap();
    }
    let (_, exchanges) = gate.control("GET", "/v1/exchanges", "");
    let row = &exchanges["exchanges"][0];
    assert_eq!(
        (&row["protocol"], &row["method"], &row["upstream"]),
        (&"tunnel".into(), &"CONNECT".into(), &"there".into()),
        "{exchanges}"
    );
    // One half may end before the other.
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end(&mut server), Ok(0));
    server.write_all(b"last").unwrap();
    drop(server);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"last");
    let decision = gate.record().pop().unwrap()["portcullis"].clone();
    assert_eq!((&decision["ending"], &decision["status"]), (&"complete".into(), &200.into()), "{decision}");
    assert_eq!((&decision["bytes_in"], &decision["bytes_out"]), (&400_000.into(), &400_004.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_ahead_of_the_answer_go_up_once_and_a_denied_tunnel_connects_nothing() {
    let (address, accepted) = upstream();
    let policy = "package portcullis\n\ndecision := {\"allowed\": object.get(input.request.headers, \"x-no\", null) == null}\n";
    let mut gate = beside(policy, &local(address));
    for version in ["1.1", "1.0"] {
        let mut client = agent(&gate);
        // HTTP/1.0 names its host in the target alone.
        let host = if version == "1.1" { format!("Host: {address}\r\n") } else { String::new() };
        let head = ask(&mut client, &format!("CONNECT {address} HTTP/{version}\r\n{host}\r\nGET /early HTTP/1.1\r\n"));
        assert!(head.contains(" 200 "), "{head}");
        let mut server = accepted.recv_timeout(HANG).unwrap();
        client.write_all(b"later").unwrap();
        assert_eq!(read(&mut server, 26), b"GET /early HTTP/1.1\r\nlater", "{version}");
    }
    // What lies behind a denied CONNECT is no request, and nothing is connected for it.
    let mut client = agent(&gate);
    let smuggled = format!("GET http://{address}/smuggled HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let head = ask(&mut client, &format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nX-No: 1\r\n\r\n{smuggled}"));
    assert!(head.starts_with("HTTP/1.1 403") && head.to_ascii_lowercase().contains("connection: close"), "{head}");
    let _ = end(&mut client);
    assert!(accepted.try_recv().is_err(), "nothing was connected");
    let decisions = gate.decisions();
    assert_eq!(decisions.len(), 3);
    assert_eq!(
        (&decisions[2]["verdict"], &decisions[2]["method"], &decisions[2]["protocol"]),
        (&"deny".into(), &"CONNECT".into(), &"tunnel".into())
    );
    assert_eq!((&decisions[2]["action"], &decisions[2]["host"]), (&"CONNECT".into(), &"127.0.0.1".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_does_not_answer_is_told_as_such() {
    let closed = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let mut gate = beside(ALLOW, &local(closed));
    assert_eq!(refused(&gate, &connect_to(&closed.to_string())), (502, "upstream_connect".to_owned()));
    assert!(gate.metric("portcullis_upstream_errors_total", "there") >= 1.0);
    assert_eq!(gate.decisions()[0]["ending"], "upstream_connect");
}

/// Writes numbered ticks until that fails, and says how.
fn tick(mut stream: TcpStream) -> (Arc<AtomicU64>, std::thread::JoinHandle<std::io::ErrorKind>) {
    let emitted = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&emitted);
    let writing = std::thread::spawn(move || {
        loop {
            // Counted before it is written: what may have arrived is never more than this.
            let tick = counter.fetch_add(1, Ordering::SeqCst) + 1;
            if let Err(error) = stream.write_all(format!("{tick:>1023}\n").as_bytes()) {
                return error.kind();
            }
        }
    });
    (emitted, writing)
}

/// Reads ticks to the end, and returns the last and how it ended.
fn ticks(stream: TcpStream) -> std::thread::JoinHandle<(u64, std::io::Result<()>)> {
    std::thread::spawn(move || {
        let (mut last, mut stream) = (0, stream);
        loop {
            let mut line = [0; 1024];
            match stream.read_exact(&mut line) {
                Ok(()) => last = std::str::from_utf8(&line).unwrap().trim().parse().unwrap(),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return (last, Ok(())),
                Err(error) => return (last, Err(error)),
            }
        }
    })
}

fn stands_still(counters: &[&AtomicU64]) {
    let sum = || counters.iter().map(|counter| counter.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let mut last = Vec::new();
    let began = std::time::Instant::now();
    while last != sum() || last.contains(&0) {
        assert!(began.elapsed() < HANG, "the senders did not stall");
        last = sum();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_of_either_side_crosses_a_tunnel_after_a_kill_returned_and_both_ends_are_reset() {
    for stall in [false, true] {
        let (address, accepted) = upstream();
        let mut gate = beside(ALLOW, &local(address));
        let (client, server) = tunnel(&gate, address, &accepted);
        let ((up, client_writes), (down, server_writes)) = (tick(client.try_clone().unwrap()), tick(server.try_clone().unwrap()));
        let reading = |stream: &TcpStream| ticks(stream.try_clone().unwrap());
        let readers = if stall {
            stands_still(&[&up, &down]);
            None
        } else {
            let readers = (reading(&server), reading(&client));
            until("ticks to flow", || up.load(Ordering::SeqCst) > 100 && down.load(Ordering::SeqCst) > 100).await;
            Some(readers)
        };
        // By the host, which is what an operator knows of a destination.
        let answer = gate.kill("{\"upstream\": \"127.0.0.1\"}");
        let at_return = (up.load(Ordering::SeqCst), down.load(Ordering::SeqCst));
        assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{answer}");
        let readers = readers.unwrap_or_else(|| (reading(&server), reading(&client)));
        let ((at_server, server_end), (at_client, client_end)) = (readers.0.join().unwrap(), readers.1.join().unwrap());
        assert!(at_server <= at_return.0 && at_client <= at_return.1, "stalled: {stall}: {at_server} {at_client} of {at_return:?}");
        for (side, end, writes) in [("server", server_end, server_writes), ("client", client_end, client_writes)] {
            // A socket tells of its reset once, to whoever asks first.
            let told = [end.err().map(|error| error.kind()), Some(writes.join().unwrap())];
            assert!(told.contains(&Some(std::io::ErrorKind::ConnectionReset)), "{side}, stalled: {stall}: {told:?}");
        }
        // It stands: by the host, and by the name of the entry.
        assert_eq!(refused(&gate, &connect_to(&address.to_string())), (403, "killed".to_owned()));
        let decision = gate.decisions().remove(0);
        assert_eq!((&decision["ending"], &decision["cause"]), (&"cut".into(), &"kill".into()), "{decision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_by_the_entrys_name_and_by_identity_reaches_tunnels() {
    for selector in ["{\"upstream\": \"there\"}", "{\"spiffe_id\": \"spiffe://example.org/gate\"}"] {
        let (address, accepted) = upstream();
        let gate = beside(ALLOW, &local(address));
        let (mut client, mut server) = tunnel(&gate, address, &accepted);
        assert_eq!(gate.kill(selector)["cut"], 1, "{selector}");
        assert_eq!(
            (end(&mut client), end(&mut server)),
            (Err(std::io::ErrorKind::ConnectionReset), Err(std::io::ErrorKind::ConnectionReset))
        );
        assert_eq!(refused(&gate, &connect_to(&address.to_string())).1, "killed", "{selector}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_a_lease_like_every_allow() {
    let (address, accepted) = upstream();
    let gate = beside(ALLOW, &local(address));
    let (mut client, mut server) = tunnel(&gate, address, &accepted);
    let (status, answer) = gate.activate("package portcullis\n\ndecision := false\n", "{}");
    assert_eq!((status, &answer["cut"]), (200, &1.into()), "{answer}");
    assert_eq!(
        (end(&mut client), end(&mut server)),
        (Err(std::io::ErrorKind::ConnectionReset), Err(std::io::ErrorKind::ConnectionReset))
    );

    let lease = "package portcullis\n\ndecision := {\"allowed\": true, \"lease\": {\"max_bytes_in\": 1000}}\n";
    assert_eq!(gate.activate(lease, "{}").0, 200);
    let (mut client, mut server) = tunnel(&gate, address, &accepted);
    client.write_all(&[b'x'; 1000]).unwrap();
    assert_eq!(read(&mut server, 1000).len(), 1000);
    client.write_all(b"y").unwrap();
    assert_eq!(
        (end(&mut client), end(&mut server)),
        (Err(std::io::ErrorKind::ConnectionReset), Err(std::io::ErrorKind::ConnectionReset))
    );

    let brief = "package portcullis\n\ndecision := {\"allowed\": true, \"lease\": {\"max_age\": \"1s\"}}\n";
    assert_eq!(gate.activate(brief, "{}").0, 200);
    let (mut client, _server) = tunnel(&gate, address, &accepted);
    assert_eq!(end(&mut client), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_may_no_longer_be_reached_ends_what_goes_there() {
    let (address, accepted) = upstream();
    let mut gate = beside(ALLOW, &local(address));
    gate.stop();
    let mut process = crate::life::Process::start(&gate);
    gate.address = process.address;
    let (mut client, _server) = tunnel(&gate, address, &accepted);
    let text = std::fs::read_to_string(gate.path("gate.yaml")).unwrap();
    std::fs::write(gate.path("gate.yaml"), text.replace("cidrs: [127.0.0.0/8]", "cidrs: [10.0.0.0/8]")).unwrap();
    process.signal("HUP");
    assert_eq!(end(&mut client), Err(std::io::ErrorKind::ConnectionReset));
    process.says("open exchanges judged again");
    assert_eq!(refused(&gate, &connect_to(&address.to_string())), (403, "destination_private".to_owned()));
    process.signal("TERM");
    assert_eq!(process.end(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_our_own_svid_ends_nobody_is_anybody_any_more() {
    let (address, accepted) = upstream();
    let mut gate = beside(ALLOW, &local(address));
    gate.stop();
    let issued = gate.authority.issue(&"spiffe://example.org/gate".parse().unwrap(), lifetime(3)).unwrap();
    std::fs::write(gate.path("svid.pem"), &issued.certificate_pem).unwrap();
    std::fs::write(gate.path("svid.key"), &issued.key_pem).unwrap();
    gate.restart();
    let (mut client, _server) = tunnel(&gate, address, &accepted);
    assert_eq!(end(&mut client), Err(std::io::ErrorKind::ConnectionReset));
    // At first nobody is proven any more; within a second the gate knows that this is its own fault.
    let (status, code) = refused(&gate, &connect_to(&address.to_string()));
    assert!([(403, "no_identity"), (503, "own_certificate")].contains(&(status, code.as_str())), "{status} {code}");
    until("the gate to notice", || refused(&gate, &connect_to(&address.to_string())).1 == "own_certificate").await;
    let record = gate.record();
    assert!(record.iter().any(|line| line["portcullis"]["cause"] == "certificate_expired"), "{record:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_svid_of_ours_ends_no_tunnel() {
    let (address, accepted) = upstream();
    let mut gate = beside(ALLOW, &local(address));
    gate.stop();
    let issue = |gate: &Gate, seconds| {
        let issued = gate.authority.issue(&"spiffe://example.org/gate".parse().unwrap(), lifetime(seconds)).unwrap();
        std::fs::write(gate.path("svid.key"), &issued.key_pem).unwrap();
        std::fs::write(gate.path("svid.pem"), &issued.certificate_pem).unwrap();
    };
    issue(&gate, 4);
    gate.restart();
    let old_ends = lifetime(4).not_after;
    let (mut client, mut server) = tunnel(&gate, address, &accepted);
    issue(&gate, 3600);
    until("the old SVID to be over", || lifetime(0).not_after > old_ends + 1).await;
    client.write_all(b"still here").unwrap();
    assert_eq!(read(&mut server, 10), b"still here");
}
