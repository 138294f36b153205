//! What is slow, what floods, what lies about its length: the attacker's connection ends, honest ones do not notice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::get;
use crate::harness::*;

type Fields<'a> = [(&'a [u8], &'a [u8])];

fn head2(method: &[u8], path: &[u8], fields: &Fields<'_>) -> Vec<u8> {
    let own: &Fields<'_> = &[(b":method", method), (b":scheme", b"https"), (b":authority", b"gate.test"), (b":path", path)];
    block2(&[own, fields].concat())
}

fn hasty() -> Setup {
    Setup { extra: "limits: {header_timeout: 1s}\n".to_owned(), ..Setup::default() }
}

fn reasons(gate: &mut Gate) -> Vec<String> {
    gate.decisions().iter().map(|line| line["reason"].as_str().unwrap_or("").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_in_is_given_up_and_recorded() {
    let backend = Backend::start();
    let mut gate = hasty().start(backend.address);
    let (mut read, mut write) = tokio::io::split(gate.connect("agents/research", b"http/1.1").await);
    let began = Instant::now();
    let dripping = tokio::spawn(async move {
        // Every byte comes in time; the head does not.
        for byte in get("/", &"x-a: b\r\n".repeat(100)) {
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = within("the refusal", read.read_to_end(&mut answer)).await;
    let answer = Raw { bytes: answer, clean: true };
    assert_eq!((answer.status(), &answer.problem()["code"]), (408, &"header_timeout".into()));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    dripping.abort();
    assert_eq!(reasons(&mut gate), ["header_timeout"]);
    assert!(backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_does_not_end_is_too_long_as_soon_as_it_is() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let began = Instant::now();
    let mut stream = gate.connect("agents/research", b"http/1.1").await;
    for part in [&b"GET /"[..], &[b'a'; 5000], &[b'a'; 5000]] {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = Raw::rest(&mut stream).await;
    assert_eq!((answer.status(), &answer.problem()["code"]), (414, &"target_too_long".into()));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(reasons(&mut gate), ["target_too_long"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_block_that_does_not_end_closes_its_http2_connection_and_is_recorded() {
    let backend = Backend::start();
    let mut gate = hasty().start(backend.address);
    let mut frames = Frames2::open(&gate, "agents/research").await;
    frames.send(&frame2(1, 1, 1, &head2(b"GET", b"/", &[]))).await.unwrap();
    frames.closed().await;
    assert_eq!(reasons(&mut gate), ["header_timeout"]);
    assert!(backend.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_is_begun_is_not_taken_for_a_slow_head() {
    let backend = Backend::start();
    let mut gate = hasty().start(backend.address);
    let mut one = gate.any(Speaks::Http1, "agents/research").await;
    let mut two = gate.any(Speaks::Http2, "agents/research").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for client in [&mut one, &mut two] {
        assert_eq!(client.get("/").await.status, 200);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(gate.decisions().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_idles_only_when_nothing_is_open_on_it() {
    let backend = Backend::answering(|seen, stream| {
        use std::io::Write as _;
        if seen.target() != "/slow" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n")?;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(100));
            stream.write_all(b"x")?;
        }
        Ok(true)
    });
    let gate = Setup { extra: "limits: {idle_timeout: 1s}\n".to_owned(), ..Setup::default() }.start(backend.address);
    let mut frames = Frames2::open(&gate, "agents/research").await;
    frames.send(&frame2(1, 5, 1, &head2(b"GET", b"/slow", &[]))).await.unwrap();
    assert_eq!(frames.ended(1).await.body.len(), 20);
    frames.send(&frame2(1, 5, 3, &head2(b"GET", b"/quick", &[]))).await.unwrap();
    let quick = frames.ended(3).await;
    assert_eq!((quick.head.first(), quick.go_away), (Some(&0x88), None), "in use for two seconds, and yet sent away: {quick:?}");
    assert_eq!(frames.closed().await, Some(0), "idle for a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_sent_ahead_of_a_bad_one_are_answered_before_it() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    let sent = [get("/1", ""), get("/2", ""), get("/3%00", ""), get("/4", "")].concat();
    let answer = gate.raw(&sent).await;
    let text = answer.text();
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{text}");
    let sent = [get("/5", ""), get("/6", ""), get("/7", "x-a : b\r\n"), get("/8", "")].concat();
    let answer = gate.raw(&sent).await;
    let text = answer.text();
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{text}");
    assert_eq!(backend.seen().iter().map(Seen::target).collect::<Vec<_>>(), ["/1", "/2", "/5", "/6"]);
    assert_eq!(gate.decisions().len(), 6);
}

/// Sends until the gate ends the connection, and serves an honest client meanwhile.
async fn flood(gate: &Gate, begin: &[u8], mut next: impl FnMut(u32) -> Vec<u8>) -> usize {
    let mut honest = gate.any(Speaks::Http2, "agents/honest").await;
    assert_eq!(honest.get("/").await.status, 200);
    let mut frames = Frames2::open(gate, "agents/flood").await;
    frames.send(begin).await.unwrap();
    let (mut read, mut write) = tokio::io::split(frames.stream);
    // A reader, or the gate's own PING and SETTINGS acknowledgements would stall it before it counts to its limit.
    let reading = tokio::spawn(async move {
        let mut thrown = [0; 16 * 1024];
        while matches!(read.read(&mut thrown).await, Ok(1..)) {}
    });
    let mut sent = 0;
    let bounded = async {
        while sent < 200_000 {
            let batch: Vec<u8> = (0..100)
                .flat_map(|_| {
                    sent += 1;
                    next(u32::try_from(sent).unwrap())
                })
                .collect();
            if write.write_all(&batch).await.is_err() || write.flush().await.is_err() || reading.is_finished() {
                return;
            }
        }
    };
    within("the flood to be ended", bounded).await;
    assert!(sent < 200_000, "the flood was let through");
    within("the connection to end", reading).await.unwrap();
    assert_eq!(honest.get("/").await.status, 200, "an honest client noticed");
    assert_eq!(gate.any(Speaks::Http2, "agents/flood").await.get("/").await.status, 200, "only the connection was ended");
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_ends_its_connection_and_no_other() {
    let block = head2(b"GET", b"/", &[]);
    let open = frame2(1, 4, 1, &head2(b"POST", b"/", &[]));
    let continued = frame2(1, 1, 1, &block);
    type Flood = Box<dyn FnMut(u32) -> Vec<u8>>;
    let rows: [(&str, Vec<u8>, Flood, &str); 7] = [
        (
            "X1 rapid reset",
            Vec::new(),
            Box::new({
                let block = block.clone();
                move |n| [frame2(1, 5, 2 * n - 1, &block), frame2(3, 0, 2 * n - 1, &8_u32.to_be_bytes())].concat()
            }),
            "",
        ),
        (
            "X1 made you reset",
            Vec::new(),
            Box::new({
                let block = block.clone();
                // A window update of nothing is a stream error, so the gate resets (CVE-2025-8671).
                move |n| [frame2(1, 5, 2 * n - 1, &block), frame2(8, 0, 2 * n - 1, &[0; 4])].concat()
            }),
            "",
        ),
        ("X2 CONTINUATION", continued, Box::new(|_| frame2(9, 0, 1, &[])), "flood_control_frames"),
        ("X4 PING", Vec::new(), Box::new(|_| frame2(6, 0, 0, &[0; 8])), "flood_control_frames"),
        ("X4 SETTINGS", Vec::new(), Box::new(|_| frame2(4, 0, 0, &[])), "flood_control_frames"),
        ("X4 empty DATA", open, Box::new(|_| frame2(0, 0, 1, &[])), ""),
        ("X4 PRIORITY", Vec::new(), Box::new(|_| frame2(2, 0, 1, &[0, 0, 0, 0, 1])), "flood_control_frames"),
    ];
    for (name, begin, next, code) in rows {
        let backend = Backend::start();
        let mut gate = Setup::default().start(backend.address);
        let sent = flood(&gate, &begin, next).await;
        let decisions = gate.decisions();
        let floods = decisions.iter().filter(|line| line["peer"] == "spiffe://example.org/agents/flood").collect::<Vec<_>>();
        if code.is_empty() {
            // h2 has limits of its own; what it ended by them are exchanges, or heads that never became one.
            assert!(floods.len() > 1 && floods.len() <= sent + 1, "{name}: {} lines for {sent} streams", floods.len());
        } else {
            let refused = floods.iter().filter(|line| line["verdict"] == "refused" && line["reason"] == code).count();
            assert_eq!(refused, 1, "{name}: {floods:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_too_large_for_http2_is_refused_however_small_it_was_made() {
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    // Put into the dynamic table once (0x40), then named by its index (62) again and again.
    let mut block = head2(b"GET", b"/", &[]);
    block.extend([0x40, 3]);
    block.extend(b"x-a");
    block.extend([127, 0x80 + (3000 - 127) as u8 % 128, ((3000 - 127) / 128) as u8]);
    let from = block.len();
    block[from - 2] = u8::try_from((3000 - 127) % 128).unwrap() | 0x80;
    block.extend([b'a'; 3000]);
    let once = block.clone();
    block.extend([0x80 | 62; 29]);
    let mut frames = Frames2::open(&gate, "agents/research").await;
    frames.send(&frame2(1, 5, 1, &block)).await.unwrap();
    let ended = frames.ended(1).await;
    assert_eq!(ended.json()["code"], "headers_too_large", "{ended:?}");
    // The table outlives the refused head, and so does the connection.
    frames
        .send(&frame2(
            1,
            5,
            3,
            &block2(&[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"gate.test"), (b":path", b"/")]),
        ))
        .await
        .unwrap();
    assert_eq!(frames.ended(3).await.head.first(), Some(&0x88));
    // Far beyond: h2 refuses it before it is ever put together.
    let bomb = [once, vec![0x80 | 62; 4000]].concat();
    let mut frames = Frames2::open(&gate, "agents/research").await;
    frames.send(&frame2(1, 5, 1, &bomb)).await.unwrap();
    let ended = frames.ended(1).await;
    assert!(ended.body.is_empty() && ended.head.first() != Some(&0x88), "{ended:?}");
    // And as plain as it is large.
    let mut frames = Frames2::open(&gate, "agents/research").await;
    let large = vec![b'a'; 70_000];
    let block = head2(b"GET", b"/", &[(b"x-a", &large)]);
    let mut parts = block.chunks(16_000);
    let mut sent = frame2(1, 1, 1, parts.next().unwrap());
    parts.for_each(|part| sent.extend(frame2(9, 0, 1, part)));
    let _ = frames.send(&sent).await;
    frames.closed().await;
    assert_eq!(backend.seen().len(), 1);
    let mut seen = reasons(&mut gate);
    seen.sort();
    assert_eq!(seen, ["", "headers_too_large", "headers_too_large", "http2_head"]);
}

/// A body that lies: name, protocol, bytes, and what of its body may have reached the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_as_long_as_it_said_never_becomes_a_request_nor_part_of_another() {
    let long: &Fields<'_> = &[(b"content-length", b"5")];
    let rows: [(&str, Speaks, Vec<u8>); 10] = [
        ("F5 shorter", Speaks::Http2, [frame2(1, 4, 1, &head2(b"POST", b"/lie", long)), frame2(0, 1, 1, b"abc")].concat()),
        ("F5 longer", Speaks::Http2, [frame2(1, 4, 1, &head2(b"POST", b"/lie", long)), frame2(0, 1, 1, b"abcdefgh")].concat()),
        ("F5 longer, in two", Speaks::Http2, [frame2(1, 4, 1, &head2(b"POST", b"/lie", long)), frame2(0, 0, 1, b"abcde"), frame2(0, 1, 1, b"GET /")].concat()),
        ("F5 reset halfway", Speaks::Http2, [frame2(1, 4, 1, &head2(b"POST", b"/lie", long)), frame2(0, 0, 1, b"abc"), frame2(3, 0, 1, &8_u32.to_be_bytes())].concat()),
        ("F5 reset halfway, no length", Speaks::Http2, [frame2(1, 4, 1, &head2(b"POST", b"/lie", &[])), frame2(0, 0, 1, b"abc"), frame2(3, 0, 1, &8_u32.to_be_bytes())].concat()),
        ("F1 shorter", Speaks::Http1, b"POST /lie HTTP/1.1\r\nhost: gate.test\r\ncontent-length: 5\r\n\r\nabc".to_vec()),
        ("F1 no last chunk", Speaks::Http1, b"POST /lie HTTP/1.1\r\nhost: gate.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n".to_vec()),
        ("F1 bad chunk size", Speaks::Http1, b"POST /lie HTTP/1.1\r\nhost: gate.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n-1\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: gate.test\r\n\r\n".to_vec()),
        ("F1 chunk size with a blank", Speaks::Http1, b"POST /lie HTTP/1.1\r\nhost: gate.test\r\ntransfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n".to_vec()),
        ("F1 chunk longer than it said", Speaks::Http1, b"POST /lie HTTP/1.1\r\nhost: gate.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n".to_vec()),
    ];
    for reads_body in [false, true] {
        let (whole, broken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (wholes, brokens) = (Arc::clone(&whole), Arc::clone(&broken));
        // Takes a request only when its body ended as it said.
        let address = upstream(move |mut stream| {
            use std::io::{Read as _, Write as _};
            while let Some(head) = read_head(&mut stream) {
                let mut body = Vec::new();
                if head.contains("transfer-encoding: chunked") {
                    while !body.ends_with(b"0\r\n\r\n") {
                        let mut byte = [0];
                        if !matches!(stream.read(&mut byte), Ok(1)) {
                            brokens.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                        body.push(byte[0]);
                    }
                } else if let Some(at) = head.find("content-length: ") {
                    let length: usize = head[at + 16..].split('\r').next().unwrap().parse().unwrap();
                    body.resize(length, 0);
                    if stream.read_exact(&mut body).is_err() {
                        brokens.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                }
                wholes.lock().unwrap().push(head.split(' ').nth(1).unwrap().to_owned());
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        });
        let policy = "package portcullis\n\ndecision := true if {\n\tinput.parsed_body != 1\n}\n\ndecision := true if {\n\tnot input.parsed_body\n}\n";
        let setup = if reads_body { Setup::policy(policy) } else { Setup::default() };
        let mut gate = setup.start(address);
        for (number, (name, protocol, bytes)) in rows.iter().enumerate() {
            let case = format!("{name}, body read: {reads_body}");
            match protocol {
                Speaks::Http1 => {
                    let mut stream = gate.connect("agents/research", b"http/1.1").await;
                    stream.write_all(bytes).await.unwrap();
                    stream.shutdown().await.unwrap();
                    let text = Raw::rest(&mut stream).await.text();
                    assert!(!text.contains("200 OK"), "{case}: {text}");
                }
                Speaks::Http2 => {
                    let mut frames = Frames2::open(&gate, "agents/research").await;
                    frames.send(bytes).await.unwrap();
                    if name.contains("reset") {
                        // What was sent has been read once a PING behind it is answered.
                        frames.send(&frame2(6, 0, 0, b"whatever")).await.unwrap();
                        while let Some(frame) = frames.next().await {
                            assert!(frame.kind != 1, "{case}: {frame:?}");
                            if (frame.kind, frame.flags) == (6, 1) {
                                break;
                            }
                        }
                    } else {
                        let ended = frames.ended(1).await;
                        assert!(ended.head.first() != Some(&0x88), "{case}: {ended:?}");
                    }
                }
            }
            // An honest request goes its own way, whatever connection to the upstream it gets.
            let mut honest = gate.any(*protocol, "agents/honest").await;
            assert_eq!(honest.get(&format!("/honest/{number}")).await.body, "ok", "{case}");
        }
        let honest: Vec<String> = (0..rows.len()).map(|number| format!("/honest/{number}")).collect();
        assert_eq!(*whole.lock().unwrap(), honest, "body read: {reads_body}");
        let decisions = gate.decisions();
        let lies: Vec<_> = decisions.iter().filter(|line| line["peer"] == "spiffe://example.org/agents/research").collect();
        let told: Vec<_> = lies.iter().map(|line| (&line["protocol"], &line["ending"], &line["reason"])).collect();
        assert_eq!(lies.len(), rows.len(), "body read: {reads_body}: {told:#?}");
        for line in lies {
            // Where h2 reads head and lie at once, it refuses the head.
            let ending = line["ending"].as_str().unwrap();
            assert!(["client_error", "client_gone", "denied"].contains(&ending) || line["reason"] == "http2_head", "{line:#}");
        }
        if reads_body {
            assert_eq!(broken.load(Ordering::SeqCst), 0, "a body that was read first never started toward the upstream");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_to_continue_by_the_gate_and_only_after_an_allow() {
    let policy = "package portcullis\n\ndecision := input.request.path != \"/denied\"\n";
    let backend = Backend::start();
    let gate = Setup::policy(policy).start(backend.address);
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: gate.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    let mut stream = gate.connect("agents/research", b"http/1.1").await;
    stream.write_all(head("/allowed").as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    within("100", stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 15];
    within("200", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    assert_eq!(backend.seen()[0].body, b"hello");
    assert_eq!(backend.seen()[0].header("expect"), None);

    let mut stream = gate.connect("agents/research", b"http/1.1").await;
    stream.write_all(head("/denied").as_bytes()).await.unwrap();
    let answer = Raw::rest(&mut stream).await;
    assert_eq!(answer.status(), 403, "{}", answer.text());
    assert!(!answer.text().contains("100 Continue") && answer.text().contains("connection: close"), "{}", answer.text());
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_upload_is_answered_and_what_is_left_of_it_is_not_a_request() {
    let backend = Backend::start();
    let gate = Setup::policy("package portcullis\n\ndecision := input.request.method == \"GET\"\n").start(backend.address);
    let body = "GET /smuggled HTTP/1.1\r\nhost: gate.test\r\n\r\n";
    let sent = format!("POST / HTTP/1.1\r\nhost: gate.test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let text = gate.raw(sent.as_bytes()).await.text();
    assert!(text.starts_with("HTTP/1.1 403") && text.matches("HTTP/1.1 ").count() == 1, "{text}");

    let mut frames = Frames2::open(&gate, "agents/research").await;
    frames.send(&[frame2(1, 4, 1, &head2(b"POST", b"/", &[])), frame2(0, 0, 1, b"abc")].concat()).await.unwrap();
    assert_eq!(frames.ended(1).await.json()["code"], "policy");
    frames.send(&frame2(1, 5, 3, &head2(b"GET", b"/next", &[]))).await.unwrap();
    assert_eq!(frames.ended(3).await.body, b"hello");
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_ends_with_the_answer_that_came_before_its_end() {
    for protocol in BOTH {
        let gone = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&gone);
        let address = upstream(move |mut stream| {
            use std::io::{Read as _, Write as _};
            if read_head(&mut stream).is_none() {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly");
            let mut thrown = [0; 4096];
            while matches!(stream.read(&mut thrown), Ok(1..)) {}
            flag.store(true, Ordering::SeqCst);
        });
        let mut gate = Setup::default().start(address);
        match protocol {
            Speaks::Http1 => {
                let (mut read, mut write) = tokio::io::split(gate.connect("agents/research", b"http/1.1").await);
                let sending = tokio::spawn(async move {
                    let _ =
                        write.write_all(b"POST /early HTTP/1.1\r\nhost: gate.test\r\ncontent-length: 1000000000000\r\n\r\n").await;
                    while write.write_all(&[b'a'; 1024]).await.is_ok() {}
                });
                let mut answer = Vec::new();
                let _ = within("the early answer", read.read_to_end(&mut answer)).await;
                let text = String::from_utf8(answer).unwrap();
                assert!(text.ends_with("\r\n\r\nearly") && text.contains("\r\nconnection: close"), "{text}");
                within("the upload to be refused", sending).await.unwrap();
            }
            Speaks::Http2 => {
                let mut client = gate.http2("agents/research").await;
                let (sender, receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
                let body = http_body_util::StreamBody::new(Chunks(receiver)).boxed();
                let sending = tokio::spawn(async move { while sender.send(bytes::Bytes::from(vec![b'a'; 1024])).await.is_ok() {} });
                let response = within("the early answer", client.send(request("POST", "/early", body))).await.unwrap();
                assert_eq!(Answer::of(response).await.body, "early");
                within("the upload to be refused", sending).await.unwrap();
                let next = client.send(request("GET", "/next", empty())).await.unwrap();
                assert_eq!(Answer::of(next).await.body, "early", "the connection goes on");
            }
        }
        // Nobody can cut what is not registered any more, so nothing of it may go on.
        until("the upload to stop at the upstream", || gone.load(Ordering::SeqCst)).await;
        let decisions = gate.decisions();
        assert_eq!((&decisions[0]["path"], &decisions[0]["ending"]), (&"/early".into(), &"complete".into()), "{protocol:?}");
    }
}

struct Chunks(tokio::sync::mpsc::Receiver<bytes::Bytes>);

impl futures_core::Stream for Chunks {
    type Item = Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|next| next.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}
