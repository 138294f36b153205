//! Promise 3 for WebSockets, and what each end sees of a cut: a Close on a frame boundary, or a reset.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;

use super::peer::*;
use crate::harness::*;

const BAD: &str = "{\"spiffe_id\": \"spiffe://example.org/agents/bad\"}";

fn kill(gate: &Gate, selector: &str) -> serde_json::Value {
    tokio::task::block_in_place(|| gate.kill(selector))
}

/// A numbered tick.
fn tick(number: u64) -> Vec<u8> {
    format!("{number:>1023}\n").into_bytes()
}

fn number(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().trim().parse().unwrap()
}

/// Waits until somebody whose reader does not read can emit no more.
async fn stalled(emitted: &AtomicU64) {
    let mut last = u64::MAX;
    within("the sender to stall", async {
        while std::mem::replace(&mut last, emitted.load(Ordering::SeqCst)) != emitted.load(Ordering::SeqCst) || last == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// Emits ticks until it cannot.
async fn emit(mut writer: impl tokio::io::AsyncWrite + Unpin, emitted: Arc<AtomicU64>) {
    loop {
        // Counted before it is written: what the other end may have got is never more than this.
        let next = emitted.fetch_add(1, Ordering::SeqCst) + 1;
        if writer.write_all(&frame(BINARY, &tick(next), true)).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// Reads ticks to the end: the last one, the code of a Close, and the end.
async fn drain(mut reader: Reader, read: Arc<AtomicU64>) -> (u64, Option<u16>, Next) {
    let (mut last, mut code) = (0, None);
    loop {
        match reader.next().await {
            Next::Frame { first: BINARY, payload, .. } => {
                assert_eq!(code, None, "nothing comes behind a Close");
                last = number(&payload);
                read.store(last, Ordering::SeqCst);
            }
            close @ Next::Frame { .. } => code = Some(close.code()),
            end @ Next::End { .. } => return (last, code, end),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_emitted_after_a_kill_returned_arrives_at_either_end() {
    for protocol in BOTH {
        for (client_reads, server_reads) in [(true, true), (false, true), (true, false), (false, false)] {
            let case = format!("{protocol:?}, the client reads: {client_reads}, the upstream reads: {server_reads}");
            let (address, ends) = handing_out();
            let mut gate = Setup::default().start(address);
            let client = Caller::open(&gate, protocol, "/").await;
            let mut server = taken(&ends);
            let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let sending = tokio::spawn(emit(client.writer, Arc::clone(&up)));
            let mut writing = server.stream.try_clone().unwrap();
            let counter = Arc::clone(&down);
            std::thread::spawn(move || {
                loop {
                    let next = counter.fetch_add(1, Ordering::SeqCst) + 1;
                    if writing.write_all(&frame(BINARY, &tick(next), false)).is_err() {
                        return;
                    }
                }
            });
            let (go, may) = std::sync::mpsc::channel();
            let upstream = tokio::task::spawn_blocking(move || {
                if !server_reads {
                    may.recv().unwrap();
                }
                let (mut last, mut code) = (0, None);
                loop {
                    match server.next() {
                        Next::Frame { first: BINARY, payload, .. } => last = number(&payload),
                        close @ Next::Frame { .. } => code = Some(close.code()),
                        end @ Next::End { .. } => return (last, code, end),
                    }
                }
            });
            let mut reader = Some(client.reader);
            let read = Arc::new(AtomicU64::new(0));
            let reading = client_reads.then(|| tokio::spawn(drain(reader.take().unwrap(), Arc::clone(&read))));
            if !client_reads {
                stalled(&down).await;
            }
            if !server_reads {
                stalled(&up).await;
            }
            until("ticks both ways", || up.load(Ordering::SeqCst) > 100 && down.load(Ordering::SeqCst) > 100).await;
            // A reset takes what the client's system holds and nobody has read.
            until("a tick to be read", || !client_reads || read.load(Ordering::SeqCst) > 0).await;
            let answer = kill(&gate, BAD);
            let (most_up, most_down) = (up.load(Ordering::SeqCst), down.load(Ordering::SeqCst));
            assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{case}: {answer}");
            // Who does not read does so only now: whatever the gate would still send had all the time to come.
            if !client_reads {
                until("the exchange to end", || gate.metric("portcullis_exchanges_open", "websocket") == 0.0).await;
            }
            let (last_down, to_client, client_end) = match reading {
                Some(reading) => within("the client's end", reading).await.unwrap(),
                None => within("the client's end", drain(reader.take().unwrap(), Arc::clone(&read))).await,
            };
            let _ = go.send(());
            let (last_up, to_server, server_end) = within("the upstream's end", upstream).await.unwrap();
            assert!(last_down <= most_down && last_down > 0, "{case}: {last_down} of {most_down} arrived at the client");
            assert!(last_up <= most_up && last_up > 0, "{case}: {last_up} of {most_up} arrived at the upstream");
            for (reads, code, end) in [(client_reads, to_client, client_end), (server_reads, to_server, server_end)] {
                // The other end's frames are taken whole in this test, so that one that reads stands between two.
                if reads {
                    assert!(code == Some(1008) || matches!(end, Next::End { within: true, .. }), "{case}: {code:?}, {end:?}");
                }
            }
            sending.abort();
            let line = gate.ended().remove(0);
            assert_eq!((&line["ending"], &line["cause"]), (&"cut".into(), &"kill".into()), "{case}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_closes_both_ends_with_1008_between_two_frames() {
    for protocol in BOTH {
        let (address, ends) = handing_out();
        let mut gate = Setup::default().start(address);
        let mut client = Caller::open(&gate, protocol, "/").await;
        let mut server = taken(&ends);
        client.say(b"up").await;
        assert_eq!(server.next().payload(), b"up");
        assert!(server.say(b"down"));
        assert_eq!(client.next().await.payload(), b"down");
        let dry = tokio::task::block_in_place(|| {
            gate.control("POST", "/v1/kills", &format!("{{\"selector\": {BAD}, \"reason\": \"test\", \"dry_run\": true}}")).1
        });
        assert_eq!((&dry["cut"], &dry["dry_run"]), (&1.into(), &true.into()), "{dry}");
        let answer = kill(&gate, BAD);
        assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{answer}");
        // Sent now, it crosses no more.
        client.send(&frame(TEXT, b"late", true)).await;
        let close = client.next().await;
        assert_eq!(close.code(), 1008);
        assert!(!String::from_utf8_lossy(&close.payload()).contains("policy"), "nothing of why");
        let closing = tokio::task::spawn_blocking(move || (server.next().code(), server.close(1008)));
        let end = client.close(1008).await;
        assert_eq!(end, Next::End { within: false, reset: false }, "{protocol:?}");
        assert_eq!(closing.await.unwrap(), (1008, Next::End { within: false, reset: false }), "{protocol:?}");
        let line = gate.ended().remove(0);
        assert_eq!((&line["ending"], &line["cause"]), (&"cut".into(), &"kill".into()), "{protocol:?}: {line}");
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&(6 + 2).into(), &(2 + 4).into()), "{protocol:?}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_a_close_is_reset_after_a_second() {
    for protocol in BOTH {
        let (address, ends) = handing_out();
        let mut gate = Setup::default().start(address);
        let mut client = Caller::open(&gate, protocol, "/").await;
        let mut server = taken(&ends);
        kill(&gate, BAD);
        assert_eq!(client.next().await.code(), 1008);
        assert_eq!(server.next().code(), 1008);
        assert!(matches!(client.next().await, Next::End { within: false, reset: true }), "{protocol:?}");
        assert!(matches!(tokio::task::block_in_place(|| server.next()), Next::End { within: false, reset: true }), "{protocol:?}");
        if protocol == Speaks::Http2 {
            assert!(client.reader.reason.lock().unwrap().is_some());
        }
        assert_eq!(gate.ended()[0]["cause"], "kill");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_in_the_middle_of_a_frame_is_reset_and_reads_no_close_as_payload() {
    for protocol in BOTH {
        let (address, ends) = handing_out();
        let mut gate = Setup::default().start(address);
        let mut client = Caller::open(&gate, protocol, "/").await;
        let mut server = taken(&ends);
        let whole = frame(BINARY, &vec![b'z'; 100_000], false);
        server.stream.write_all(&whole[..5000]).unwrap();
        server.stream.write_all(&[]).unwrap();
        until("the part to be on its way", || {
            let rows = tokio::task::block_in_place(|| gate.control("GET", "/v1/exchanges", "").1);
            rows.to_string().contains("\"bytes_out\":5000")
        })
        .await;
        kill(&gate, BAD);
        // The rest comes after the kill, and stays outside.
        let _ = server.stream.write_all(&whole[5000..]);
        assert!(matches!(client.next().await, Next::End { within: true, reset: true }), "{protocol:?}");
        assert_eq!(tokio::task::block_in_place(|| server.next()).code(), 1008, "the other way stood between two frames");
        assert_eq!(gate.ended()[0]["cause"], "kill");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_on_the_same_connection_go_on() {
    let address = upstream(|mut stream| {
        let head = read_head(&mut stream.try_clone().unwrap());
        match head {
            Some(head) if field(&head, "upgrade").is_none() => {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"))
            }
            Some(head) => {
                let accept = accept(&field(&head, "sec-websocket-key").unwrap());
                let _ = write!(
                    stream,
                    "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
                );
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut std::io::sink());
            }
            None => {}
        }
    });
    let gate = Setup::default().start(address);
    let mut client = Caller::open(&gate, Speaks::Http2, "/socket").await;
    let rows = tokio::task::block_in_place(|| gate.control("GET", "/v1/exchanges", "").1);
    let id = rows["exchanges"].as_array().or(rows.as_array()).unwrap()[0]["id"].as_str().unwrap().to_owned();
    let mut sibling = client.sibling.take().unwrap();
    kill(&gate, &format!("{{\"exchange\": \"{id}\"}}"));
    assert_eq!(client.next().await.code(), 1008);
    client.close(1008).await;
    for _ in 0..3 {
        let request = http::Request::builder().uri("https://gate.test/plain").body(()).unwrap();
        let (answer, _) = sibling.send_request(request, true).unwrap();
        assert_eq!(within("a sibling", answer).await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_its_mind_and_a_lease_that_ends_close_it_too() {
    let deny = "package portcullis\n\ndecision := false\n";
    let leased = |lease: &str| format!("package portcullis\n\ndecision := {{\"allowed\": true, \"lease\": {lease}}}\n");
    let cases = [
        (ALLOW.to_owned(), "policy"),
        (leased("{\"max_age\": \"1s\"}"), "lease_max_age"),
        (leased("{\"max_bytes_in\": 100}"), "lease_max_bytes_in"),
        (leased("{\"max_bytes_out\": 100}"), "lease_max_bytes_out"),
    ];
    for protocol in BOTH {
        for (policy, cause) in &cases {
            let (address, ends) = handing_out();
            let mut gate = Setup::policy(policy).start(address);
            let mut client = Caller::open(&gate, protocol, "/").await;
            let mut server = taken(&ends);
            client.say(&[b'a'; 50]).await;
            assert_eq!(server.next().payload(), [b'a'; 50]);
            match *cause {
                "policy" => assert_eq!(tokio::task::block_in_place(|| gate.activate(deny, "{}")).0, 200),
                "lease_max_bytes_in" => client.say(&[b'b'; 90]).await,
                "lease_max_bytes_out" => assert!(server.say(&[b'b'; 120])),
                _ => {}
            }
            assert_eq!(client.next().await.code(), 1008, "{protocol:?}, {cause}");
            let closing = tokio::task::spawn_blocking(move || (server.next().code(), server.close(1008)));
            client.close(1008).await;
            assert_eq!(closing.await.unwrap().0, 1008, "{protocol:?}, {cause}");
            let line = gate.ended().remove(0);
            assert_eq!((&line["ending"], &line["cause"]), (&"cut".into(), &(*cause).into()), "{protocol:?}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_goes_down_says_so() {
    for protocol in BOTH {
        let (address, ends) = handing_out();
        let mut gate = Setup { extra: "limits: {drain: 1s}\n".to_owned(), ..Setup::default() }.start(address);
        let mut client = Caller::open(&gate, protocol, "/").await;
        let mut server = taken(&ends);
        let ended = tokio::task::spawn_blocking(move || gate.ended());
        assert_eq!(client.next().await.code(), 1001, "{protocol:?}");
        let closing = tokio::task::spawn_blocking(move || (server.next().code(), server.close(1001)));
        client.close(1001).await;
        assert_eq!(closing.await.unwrap().0, 1001);
        let line = ended.await.unwrap().remove(0);
        assert_eq!((&line["ending"], &line["cause"]), (&"cut".into(), &"shutdown".into()), "{protocol:?}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_beyond_what_an_anomaly_rule_expects_of_the_session_end_the_socket_with_1008() {
    for protocol in BOTH {
        let (address, ends) = handing_out();
        let rules = "{name: flood, volume: {of: bytes_in, window: 300ms, least: 64KiB, warm_up: 2}, action: kill_exchange}";
        let mut gate = Setup { extra: format!("anomaly: {{rules: [{rules}]}}\n"), ..Setup::default() }.start(address);
        let mut client = Caller::open(&gate, protocol, "/v1/terminal").await;
        let server = taken(&ends);
        std::thread::spawn(move || server.echo());
        // Two windows have to be over before the third can be too much.
        within("the baseline", async {
            while !crate::anomaly::explained(&gate, "agents/bad")["rules"][0]["state"].as_str().unwrap().contains("limit") {
                client.say(b"x").await;
                assert!(client.next().await.payload() == b"x");
            }
        })
        .await;
        client.say(&vec![b'x'; 4 << 20]).await;
        assert_eq!(client.next().await.code(), 1008, "{protocol:?}");
        let line = gate.ended().remove(0);
        assert_eq!((&line["cause"], &line["anomaly"]), (&"anomaly".into(), &serde_json::json!(["flood"])), "{protocol:?}: {line}");
    }
}
