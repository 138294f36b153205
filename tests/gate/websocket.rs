//! WebSockets over HTTP/1.1 and HTTP/2: what is judged and forwarded, what is refused, and how they end by themselves.

mod cut;
mod peer;
mod python;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::peer::*;
use crate::harness::*;

/// Allows what has the one form of a WebSocket.
const SOCKETS: &str = "package portcullis\n\ndefault decision := false\n\n\
    decision if {\n\tinput.request.method == \"GET\"\n\tinput.request.path == \"/v1/terminal\"\n\
    \tinput.request.headers.upgrade == [\"websocket\"]\n\tnot input.request.headers[\"sec-websocket-key\"]\n}\n";

#[tokio::test(flavor = "multi_thread")]
async fn frames_go_both_ways_under_an_allow_and_the_record_says_how_many_bytes() {
    for protocol in BOTH {
        let (address, ends) = handing_out();
        let mut gate = Setup::policy(SOCKETS).start(address);
        let mut client = Caller::open(&gate, protocol, "/v1/terminal?room=7").await;
        let server = taken(&ends);
        let head = server.head.clone();
        std::thread::spawn(move || server.echo());
        let (mut sent, mut got) = (0, 0);
        for length in [0, 5, 126, 70_000] {
            let payload = vec![b'x'; length];
            client.say(&payload).await;
            assert!(client.next().await.payload() == payload, "{length}");
            sent += frame(BINARY, &payload, true).len();
            got += frame(BINARY, &payload, false).len();
        }
        let row = tokio::task::block_in_place(|| gate.control("GET", "/v1/exchanges", "").1).to_string();
        assert!(row.contains("\"websocket\"") && row.contains("/v1/terminal"), "{row}");
        assert_eq!(gate.metric("portcullis_exchanges_open", "protocol=\"websocket\""), 1.0);
        assert_eq!(client.close(1000).await.code(), 1000);
        assert!(matches!(client.next().await, Next::End { within: false, reset: false }));

        assert!(head.starts_with("GET /v1/terminal?room=7 HTTP/1.1\r\n"), "{head}");
        assert_ne!(field(&head, "sec-websocket-key").unwrap(), KEY, "the gate has a key of its own");
        assert_eq!(field(&head, "upgrade").as_deref(), Some("websocket"));
        assert_eq!(field(&head, "x-spiffe-id").as_deref(), Some("spiffe://example.org/agents/bad"));
        assert_eq!(client.headers.contains_key("sec-websocket-accept"), protocol == Speaks::Http1);
        let ended = gate.ended();
        assert_eq!(ended.len(), 1, "{ended:#?}");
        let (line, status) = (&ended[0], if protocol == Speaks::Http1 { 101 } else { 200 });
        assert_eq!((&line["verdict"], &line["protocol"], &line["status"]), (&"allow".into(), &"websocket".into(), &status.into()));
        assert_eq!((&line["ending"], &line["cause"]), (&"complete".into(), &serde_json::Value::Null), "{protocol:?}: {line}");
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&(sent + 8).into(), &(got + 4).into()), "{protocol:?}: {line}");
        assert_eq!(line["method"], "GET");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_upgrade_is_an_ordinary_answer_and_the_upstream_saw_nothing() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let address = upstream(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let mut gate = Setup::policy(SOCKETS).start(address);
    // Behind the head comes what a lenient reader would take for a request, and what it would take for a frame.
    let smuggled =
        [ask("/elsewhere", ""), b"GET /v1/terminal HTTP/1.1\r\nhost: gate.test\r\n\r\n".to_vec(), frame(TEXT, b"x", true)];
    let answer = gate.raw(&smuggled.concat()).await;
    assert_eq!((answer.status(), &answer.problem()["code"]), (403, &"policy".into()), "{}", answer.text());
    assert!(answer.clean && answer.text().to_lowercase().contains("connection: close"), "{}", answer.text());

    let mut sender = connect2(&gate, "agents/research").await;
    for (path, status) in [("/elsewhere", 403), ("/v1/terminal/x", 403)] {
        let (answer, _up) = sender.send_request(ask2(path, &[]), false).unwrap();
        let answer = within("the answer", answer).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
            (status, "application/problem+json")
        );
    }
    let mut unserved = ask2("/v1/terminal", &[]);
    unserved.extensions_mut().insert(h2::ext::Protocol::from_static("connect-udp"));
    let (answer, _up) = sender.send_request(unserved, false).unwrap();
    assert_eq!(within("the answer", answer).await.unwrap().status(), 400);
    drop(sender);
    let lines = gate.decisions();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines.iter().all(|line| line["verdict"] != "allow"), "{lines:#?}");
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_ahead_of_the_answer_is_nothing_before_it_and_frames_after_it() {
    for (early, arrives) in
        [(frame(TEXT, b"early", true), true), (b"GET /smuggled HTTP/1.1\r\nhost: gate.test\r\n\r\n".to_vec(), false)]
    {
        let (give, take) = std::sync::mpsc::channel::<Vec<u8>>();
        let give = std::sync::Mutex::new(give);
        let address = upstream(move |mut stream| {
            let head = read_head(&mut stream).unwrap();
            // Whatever went up behind the head would be here by now.
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut before = [0; 64];
            assert!(stream.read(&mut before).is_err(), "bytes before the upgrade was agreed on: {before:?}");
            let accept = accept(&field(&head, "sec-websocket-key").unwrap());
            write!(stream, "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n")
                .unwrap();
            stream.set_read_timeout(Some(HANG)).unwrap();
            let mut after = Vec::new();
            let _ = stream.read_to_end(&mut after);
            give.lock().unwrap().send(after).unwrap();
        });
        let mut gate = Setup::default().start(address);
        let mut stream = gate.connect("agents/bad", b"http/1.1").await;
        stream.write_all(&[ask("/v1/terminal", ""), early.clone()].concat()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("the answer", stream.read_u8()).await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        if arrives {
            stream.shutdown().await.unwrap();
        }
        let after = tokio::task::block_in_place(|| take.recv_timeout(HANG)).unwrap();
        if arrives {
            assert_eq!(after, early);
        } else {
            // What is no frame ends it, and of it the upstream sees the gate's own Close only.
            assert_eq!((after[0], after.len()), (CLOSE, 6 + 2 + "closed by the gate".len()));
        }
        let mut rest = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
        let lines = gate.ended();
        let ending = if arrives { "client_gone" } else { "client_error" };
        assert_eq!(
            (lines.len(), &lines[0]["ending"], &lines[0]["path"]),
            (1, &ending.into(), &"/v1/terminal".into()),
            "{lines:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_shake_hands_opens_nothing() {
    let good = "upgrade: websocket\r\nconnection: upgrade\r\n";
    let rows = [
        ("a wrong accept", format!("{good}sec-websocket-accept: {ACCEPT}\r\n"), false),
        ("no accept", good.to_owned(), false),
        ("another protocol", "upgrade: h2c\r\nconnection: upgrade\r\n".to_owned(), true),
        ("a subprotocol nobody offered", format!("{good}sec-websocket-protocol: other\r\n"), true),
        ("an extension nobody offered", format!("{good}sec-websocket-extensions: x-other\r\n"), true),
    ];
    for (name, fields, accepts) in rows {
        let address = upstream(move |mut stream| {
            let head = read_head(&mut stream).unwrap();
            let key = field(&head, "sec-websocket-key").unwrap();
            let accept = if accepts { format!("sec-websocket-accept: {}\r\n", accept(&key)) } else { String::new() };
            write!(stream, "HTTP/1.1 101 Switching Protocols\r\n{fields}{accept}\r\n").unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty(), "{rest:?}");
        });
        let mut gate = Setup::default().start(address);
        let offers = "sec-websocket-protocol: chat\r\nsec-websocket-extensions: permessage-deflate\r\n";
        let answer = gate.raw(&ask("/", offers)).await;
        assert_eq!((answer.status(), &answer.problem()["code"]), (502, &"upstream_invalid".into()), "{name}: {}", answer.text());
        let mut sender = connect2(&gate, "agents/research").await;
        let fields = [("sec-websocket-protocol", "chat"), ("sec-websocket-extensions", "permessage-deflate")];
        let (answer, _up) = sender.send_request(ask2("/", &fields), false).unwrap();
        assert_eq!(within("the answer", answer).await.unwrap().status(), 502, "{name}");
        drop(sender);
        let lines = gate.ended();
        assert!(lines.len() == 2 && lines.iter().all(|line| line["ending"] == "upstream_invalid"), "{name}: {lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stays_with_http_is_heard() {
    let backend = Backend::answering(|_, stream| {
        stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\nx-why: not here\r\ncontent-length: 5\r\n\r\nsorry")?;
        Ok(true)
    });
    let mut gate = Setup::default().start(backend.address);
    let answer = gate.raw(&ask("/", "")).await;
    assert!(
        answer.status() == 426 && answer.text().contains("x-why: not here") && answer.text().ends_with("sorry"),
        "{}",
        answer.text()
    );
    let mut sender = connect2(&gate, "agents/research").await;
    let (answer, _up) = sender.send_request(ask2("/", &[]), false).unwrap();
    let mut answer = within("the answer", answer).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-why"].to_str().unwrap()), (426, "not here"));
    assert_eq!(within("the body", answer.body_mut().data()).await.unwrap().unwrap(), "sorry");
    drop(sender);
    let lines = gate.ended();
    assert!(lines.iter().all(|line| line["ending"] == "complete" && line["status"] == 426), "{lines:#?}");
    until("the connections to the upstream to end", || backend.connections.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_agreed_on_is_what_both_ends_chose() {
    let fields = "sec-websocket-protocol: v2\r\nsec-websocket-extensions: permessage-deflate; client_no_context_takeover\r\nset-cookie: a=b\r\n";
    for protocol in BOTH {
        let address = upstream(move |stream| {
            let mut server = Server::accept_with(stream, fields).unwrap();
            assert_eq!(field(&server.head, "sec-websocket-protocol").as_deref(), Some("v1, v2"));
            // A reserved bit is the extension's own.
            server.stream.write_all(&frame(0xc1, b"deflated", false)).unwrap();
            assert_eq!(server.next(), Next::Frame { first: 0xc1, masked: true, payload: b"deflated too".to_vec() });
            server.next();
        });
        let gate = Setup::default().start(address);
        let offers =
            [("sec-websocket-protocol", "v1, v2"), ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
        let mut client = Caller::open_with(&gate, protocol, "/", &offers).await;
        assert_eq!(client.headers["sec-websocket-protocol"], "v2");
        assert_eq!(client.headers["sec-websocket-extensions"], "permessage-deflate; client_no_context_takeover");
        assert_eq!(client.headers["set-cookie"], "a=b");
        assert_eq!(client.next().await, Next::Frame { first: 0xc1, masked: false, payload: b"deflated".to_vec() });
        client.send(&frame(0xc1, b"deflated too", true)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_ends_it_for_both_with_1002() {
    let rows = [
        ("unmasked", frame(TEXT, b"x", false), "client_error"),
        ("reserved bit", frame(0xc1, b"x", true), "client_error"),
        ("opcode", frame(0x83, b"x", true), "client_error"),
        ("fragmented ping", frame(0x09, b"x", true), "client_error"),
        ("masked", frame(TEXT, b"x", true), "upstream_invalid"),
        ("opcode", frame(0x8f, b"x", false), "upstream_invalid"),
    ];
    for protocol in BOTH {
        for (name, bytes, ending) in &rows {
            let case = format!("{protocol:?}, {name}, {ending}");
            let (address, ends) = handing_out();
            let mut gate = Setup::default().start(address);
            let mut client = Caller::open(&gate, protocol, "/").await;
            let mut server = taken(&ends);
            // What came before it in the same write still goes on.
            if *ending == "client_error" {
                client.send(&[frame(TEXT, b"good", true), bytes.clone()].concat()).await;
                assert_eq!(server.next().payload(), b"good", "{case}");
            } else {
                server.stream.write_all(&[frame(TEXT, b"good", false), bytes.clone()].concat()).unwrap();
                assert_eq!(client.next().await.payload(), b"good", "{case}");
            }
            assert_eq!(client.next().await.code(), 1002, "{case}");
            let closing = tokio::task::spawn_blocking(move || (server.next().code(), server.close(1002)));
            assert!(matches!(client.close(1002).await, Next::End { within: false, .. }), "{case}");
            assert_eq!(closing.await.unwrap().0, 1002, "{case}");
            let line = gate.ended().remove(0);
            assert_eq!((&line["ending"], &line["cause"]), (&(*ending).into(), &serde_json::Value::Null), "{case}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_vanishes_takes_the_other_end_along_and_the_record_says_who() {
    for protocol in BOTH {
        for client_goes in [true, false] {
            let case = format!("{protocol:?}, the client goes: {client_goes}");
            let (address, ends) = handing_out();
            let mut gate = Setup::default().start(address);
            let mut client = Caller::open(&gate, protocol, "/").await;
            let mut server = taken(&ends);
            client.say(b"hello").await;
            assert_eq!(server.next().payload(), b"hello");
            if client_goes {
                // On HTTP/2 by a reset of the stream alone.
                match client.abort.take() {
                    Some(abort) => abort.send(()).unwrap(),
                    None => client.writer.shutdown().await.unwrap(),
                }
                assert!(matches!(tokio::task::block_in_place(|| server.next()), Next::End { within: false, .. }), "{case}");
            } else {
                server.stream.shutdown(Shutdown::Both).unwrap();
                assert!(matches!(client.next().await, Next::End { within: false, .. }), "{case}");
            }
            drop(client);
            let line = gate.ended().remove(0);
            assert_eq!(line["ending"], if client_goes { "client_gone" } else { "upstream_reset" }, "{case}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_idles_is_told_that_the_gate_goes() {
    for protocol in BOTH {
        let (address, ends) = handing_out();
        let mut gate = Setup { upstream: ", idle_timeout: 1s".to_owned(), ..Setup::default() }.start(address);
        let mut client = Caller::open(&gate, protocol, "/").await;
        let mut server = taken(&ends);
        // A ping is activity as well, and is answered by the other end, never by the gate.
        client.send(&frame(0x89, b"there?", true)).await;
        assert_eq!(server.next(), Next::Frame { first: 0x89, masked: true, payload: b"there?".to_vec() });
        assert_eq!(client.next().await.code(), 1001, "{protocol:?}");
        let closing = tokio::task::spawn_blocking(move || (server.next().code(), server.close(1001)));
        client.close(1001).await;
        assert_eq!(closing.await.unwrap().0, 1001);
        let line = gate.ended().remove(0);
        assert_eq!((&line["ending"], &line["cause"]), (&"idle_timeout".into(), &serde_json::Value::Null), "{protocol:?}: {line}");
    }
}
