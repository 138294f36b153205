//! Promise 3: a kill that returned has happened. And the cut of each protocol, as its client and its upstream see it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::harness::*;

const BAD: &str = "{\"spiffe_id\": \"spiffe://example.org/agents/bad\"}";

/// An upstream that answers `/ticks` with numbered lines for ever, and counts what it emitted.
pub fn ticking() -> (Backend, Arc<AtomicU64>) {
    let emitted = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&emitted);
    let backend = Backend::answering(move |seen, stream| {
        if !seen.target().starts_with("/ticks") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            // Counted before it is written: what the client may have got is never more than this.
            let tick = counter.fetch_add(1, Ordering::SeqCst) + 1;
            let line = format!("{tick:>1023}\n");
            write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
        }
    });
    (backend, emitted)
}

/// Reads a body to its end, whatever that is, and returns the last whole tick and how it ended.
pub async fn drain(mut body: Incoming) -> (u64, Result<(), String>) {
    let (mut tail, mut last) = (Vec::new(), 0);
    loop {
        match within("the end of the stream", body.frame()).await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                tail.extend_from_slice(&data);
                while let Some(end) = tail.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = tail.drain(..=end).collect();
                    // The first line may have been read in part before.
                    last = std::str::from_utf8(&line).unwrap().trim().parse().unwrap_or(last);
                }
            }
            Some(Err(error)) => return (last, Err(format!("{error:?}"))),
            None => return (last, Ok(())),
        }
    }
}

pub async fn some_bytes(body: &mut Incoming, bytes: usize) {
    let mut read = 0;
    while read < bytes {
        read += within("a tick", body.frame()).await.unwrap().unwrap().into_data().unwrap().len();
    }
}

/// Waits until an upstream whose client does not read can write no more.
async fn stalled(emitted: &AtomicU64) {
    let mut last = u64::MAX;
    within("the upstream to stall", async {
        while std::mem::replace(&mut last, emitted.load(Ordering::SeqCst)) != emitted.load(Ordering::SeqCst) || last == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
}

fn kill(gate: &Gate, selector: &str) -> serde_json::Value {
    tokio::task::block_in_place(|| gate.kill(selector))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_the_upstream_emitted_after_a_kill_returned_arrives() {
    for (protocol, stall) in [(Speaks::Http1, false), (Speaks::Http2, false), (Speaks::Http1, true), (Speaks::Http2, true)] {
        let (backend, emitted) = ticking();
        let mut gate = Setup::default().start(backend.address);
        let mut client = gate.any(protocol, "agents/bad").await;
        let mut body = client.open("/ticks").await.into_body();
        some_bytes(&mut body, 4096).await;
        let (answer, (last, end), at_return) = if stall {
            stalled(&emitted).await;
            let answer = kill(&gate, BAD);
            let at_return = emitted.load(Ordering::SeqCst);
            (answer, drain(body).await, at_return)
        } else {
            let reading = tokio::spawn(drain(body));
            let answer = kill(&gate, BAD);
            let at_return = emitted.load(Ordering::SeqCst);
            (answer, reading.await.unwrap(), at_return)
        };
        let case = format!("{protocol:?}, stalled: {stall}");
        assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{case}: {answer}");
        let end = end.expect_err(&case);
        assert!(last <= at_return, "{case}: tick {last} arrived, {at_return} were emitted when the kill returned");
        if protocol == Speaks::Http2 {
            assert!(end.contains("CANCEL"), "{case}: {end}");
        }
        until("the abort to reach the upstream", || backend.connections.load(Ordering::SeqCst) == 0).await;
        let decision = gate.decisions().into_iter().find(|line| line["path"] == "/ticks").unwrap();
        assert_eq!(
            (&decision["verdict"], &decision["ending"], &decision["cause"]),
            (&"allow".into(), &"cut".into(), &"kill".into()),
            "{case}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_not_waited_for_longer_than_the_idle_timeout() {
    for protocol in BOTH {
        let (backend, emitted) = ticking();
        let mut gate = Setup { upstream: ", idle_timeout: 1s".to_owned(), ..Setup::default() }.start(backend.address);
        let mut client = gate.any(protocol, "agents/slow").await;
        let mut body = client.open("/ticks").await.into_body();
        some_bytes(&mut body, 4096).await;
        stalled(&emitted).await;
        until("the upstream to be let go of", || backend.connections.load(Ordering::SeqCst) == 0).await;
        drain(body).await.1.expect_err("a body that was not sent whole must not end as if it were");
        // It was open for longer than a second: how it ended stands in its closing line.
        let last = gate.record().pop().unwrap()["portcullis"].clone();
        assert_eq!((&last["ending"], &last["cause"]), (&"idle_timeout".into(), &serde_json::Value::Null), "{protocol:?}: {last}");
    }
}

/// The client's side: a body of ticks, and the number emitted.
fn uploading() -> (Boxed, Arc<AtomicU64>) {
    let emitted = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&emitted);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        loop {
            let Ok(room) = sender.reserve().await else { return };
            let tick = counter.fetch_add(1, Ordering::SeqCst) + 1;
            room.send(Bytes::from(format!("{tick:>1023}\n")));
        }
    });
    (StreamBody::new(Ticks(receiver)).boxed(), emitted)
}

/// The body that comes through a channel.
pub struct Ticks(pub tokio::sync::mpsc::Receiver<Bytes>);

impl futures_core::Stream for Ticks {
    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// An upstream that reads an upload chunk by chunk and keeps the last tick it saw; `reads` says whether it reads at all.
fn swallowing(reads: bool) -> (std::net::SocketAddr, Arc<AtomicU64>, std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    use std::io::BufRead;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let last = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&last);
    let (over, ended) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        if !reads {
            let _ = wait.recv();
        }
        for line in std::io::BufReader::new(stream).lines() {
            match line {
                Ok(line) => {
                    if let Ok(tick) = line.trim().parse::<u64>()
                        && line.len() > 900
                    {
                        seen.store(tick, Ordering::SeqCst);
                    }
                }
                Err(_) => break,
            }
        }
        let _ = over.send(());
    });
    (address, last, ended, go)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_the_client_emitted_after_a_kill_returned_reaches_the_upstream() {
    for (protocol, reads) in [(Speaks::Http1, true), (Speaks::Http2, true), (Speaks::Http1, false), (Speaks::Http2, false)] {
        let (address, last, ended, go) = swallowing(reads);
        let gate = Setup::default().start(address);
        let mut client = gate.any(protocol, "agents/bad").await;
        let (body, emitted) = uploading();
        let sending = tokio::spawn(async move { client.send(request("POST", "/upload", body)).await });
        if reads {
            until("the upload to arrive", || last.load(Ordering::SeqCst) > 10).await;
        } else {
            stalled(&emitted).await;
        }
        // By upstream, so that the connection stays and the answer is read.
        let answer = kill(&gate, "{\"upstream\": \"backend\"}");
        let at_return = emitted.load(Ordering::SeqCst);
        let case = format!("{protocol:?}, upstream reads: {reads}");
        assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{case}: {answer}");
        let _ = go.send(());
        ended.recv_timeout(HANG).expect("the abort reaches the upstream");
        assert!(last.load(Ordering::SeqCst) <= at_return, "{case}: {} of {at_return}", last.load(Ordering::SeqCst));
        // The response had not begun, so a client that still listens is told why.
        match within("the answer", sending).await.unwrap() {
            Ok(response) => assert_eq!(response.status(), 403, "{case}"),
            Err(error) => assert!(protocol == Speaks::Http1 || !reads, "{case}: {error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_one_exchange_leaves_its_siblings_on_the_same_connection_flowing() {
    let (backend, _) = ticking();
    let gate = Setup::default().start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/bad").await;
    let mut victim = client.open("/ticks?victim").await.into_body();
    let mut sibling = client.open("/ticks?sibling").await.into_body();
    some_bytes(&mut victim, 2048).await;
    some_bytes(&mut sibling, 2048).await;
    let (_, rows) = tokio::task::block_in_place(|| gate.control("GET", "/v1/exchanges", ""));
    let rows = rows.as_array().or_else(|| rows["exchanges"].as_array()).unwrap().clone();
    assert_eq!(rows.len(), 2, "{rows:?}");
    // Both have the same path; the older one is the victim, and rows come oldest first.
    let id = rows[0]["id"].as_str().unwrap();
    let answer = kill(&gate, &format!("{{\"exchange\": \"{id}\"}}"));
    assert_eq!((&answer["cut"], &answer["connections_closed"]), (&1.into(), &0.into()), "{answer}");
    let (_, one) = drain_or_flow(&mut victim).await;
    let (_, other) = drain_or_flow(&mut sibling).await;
    assert_ne!(one, other, "exactly one of the two was cut");
    assert_eq!(client.get("/hello").await.status, 200, "nothing stays behind");
}

/// Reads a while: true when the stream ended in an error.
async fn drain_or_flow(body: &mut Incoming) -> (usize, bool) {
    let mut read = 0;
    // More than the client takes ahead of its reader.
    while read < 16 << 20 {
        match within("the next byte", body.frame()).await {
            Some(Ok(frame)) => read += frame.into_data().map_or(0, |data| data.len()),
            Some(Err(_)) | None => return (read, true),
        }
    }
    (read, false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_identity_gets_403_killed_on_a_new_connection_that_then_closes_also_after_a_restart() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let killed = kill(&gate, BAD);
    assert_eq!(killed["durable"], true);
    for restarted in [false, true] {
        for protocol in BOTH {
            let mut client = gate.any(protocol, "agents/bad").await;
            let answer = client.get("/").await;
            assert_eq!(
                (answer.status, answer.json()["code"].as_str().unwrap()),
                (403, "killed"),
                "{protocol:?} restarted: {restarted}"
            );
            within("the connection to close", async { while client.send(request("GET", "/", empty())).await.is_ok() {} }).await;
            assert_eq!(gate.any(protocol, "agents/good").await.get("/").await.status, 200);
        }
        if !restarted {
            tokio::task::block_in_place(|| gate.restart());
        }
    }
    let id = killed["id"].as_str().unwrap();
    let (status, _) = tokio::task::block_in_place(|| gate.control("DELETE", &format!("/v1/kills/{id}"), ""));
    assert!(status < 300, "{status}");
    assert_eq!(gate.any(Speaks::Http2, "agents/bad").await.get("/").await.status, 200, "lifted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_identity_that_says_nothing_does_not_keep_its_connection() {
    use tokio::io::AsyncReadExt;
    let backend = Backend::start();
    let gate =
        Setup { extra: "limits: {header_timeout: 1s, idle_timeout: 10m}\n".to_owned(), ..Setup::default() }.start(backend.address);
    kill(&gate, BAD);
    for alpn in [b"http/1.1".as_slice(), b"h2"] {
        let mut silent = gate.connect("agents/bad", alpn).await;
        let mut heard = Vec::new();
        // However the end comes; what matters is that it does.
        let _ = within("the close", silent.read_to_end(&mut heard)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_thousand_open_exchanges_only_those_that_match_are_woken() {
    let (backend, _) = slow_ticks();
    let gate = Setup { extra: "limits: {per_identity: {exchanges: 4000, connections: 200}}\n".to_owned(), ..Setup::default() }
        .start(backend.address);
    let mut good = Vec::new();
    for connection in 0..20 {
        let mut client = gate.any(Speaks::Http2, &format!("agents/good{connection}")).await;
        for _ in 0..100 {
            good.push(client.open("/ticks").await.into_body());
        }
        std::mem::forget(client);
    }
    let mut bad = gate.any(Speaks::Http2, "agents/bad").await;
    let mut victims = Vec::new();
    for _ in 0..10 {
        victims.push(bad.open("/ticks").await.into_body());
    }
    let answer = kill(&gate, BAD);
    assert_eq!((&answer["cut"], &answer["pending"]), (&10.into(), &0.into()), "{answer}");
    assert_eq!(tokio::task::block_in_place(|| gate.metric("portcullis_cuts_total", "kill")), 10.0);
    assert_eq!(gate.wakes(), 10, "nobody else was woken");
    for mut victim in victims {
        assert!(drain_or_flow(&mut victim).await.1);
    }
    for body in &mut good {
        some_bytes(body, 1).await;
    }
}

/// An upstream that sends a byte a moment, so that thousands of streams cost little.
pub fn slow_ticks() -> (Backend, ()) {
    let backend = Backend::answering(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            stream.write_all(b"1\r\nx\r\n")?;
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    });
    (backend, ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_event_stream_ends_with_a_last_event_where_that_is_configured() {
    for protocol in BOTH {
        for wanted in [false, true] {
            let backend = Backend::answering(|_, stream| {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n10\r\ndata: {\"n\": 1}\n\n\r\n")?;
                // Held open until the gate lets go of it.
                let _ = std::io::Read::read(stream, &mut [0; 1]);
                Ok(false)
            });
            let listener = format!("    sse_last_event: {wanted}\n");
            let gate = Setup { listener, ..Setup::default() }.start(backend.address);
            let mut client = gate.any(protocol, "agents/bad").await;
            let mut body = client.open("/events").await.into_body();
            let first = within("the first event", body.frame()).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first, "data: {\"n\": 1}\n\n");
            let answer = kill(&gate, BAD);
            assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{protocol:?}: {answer}");
            let last = within("the end", body.frame()).await;
            match (wanted, last) {
                (true, Some(Ok(frame))) => {
                    assert_eq!(frame.into_data().unwrap(), "event: portcullis\ndata: {\"code\":\"cut\"}\n\n", "{protocol:?}");
                }
                (false, Some(Err(_))) => {}
                (_, other) => panic!("{protocol:?}, wanted: {wanted}: {other:?}"),
            }
            until("the abort to reach the upstream", || backend.connections.load(Ordering::SeqCst) == 0).await;
        }
    }
}
