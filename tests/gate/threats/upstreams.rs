//! What goes wrong behind the gate: a client never takes a broken answer for a whole one, and never waits for ever.

use std::io::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;

use crate::harness::*;

/// Sends one answer to each request, then closes.
fn saying(answer: impl Into<Vec<u8>>) -> std::net::SocketAddr {
    let answer = answer.into();
    upstream(move |mut stream| {
        if read_head(&mut stream).is_some() {
            let _ = stream.write_all(&answer);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_never_ends_cleanly() {
    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for (name, answer) in [
        ("no byte", whole.clone()),
        ("one byte", [whole.clone(), b"x".to_vec()].concat()),
        ("all but one", [whole, vec![b'x'; 99]].concat()),
        ("no chunk", chunked.clone()),
        ("half a chunk", [chunked.clone(), b"64\r\nxxxx".to_vec()].concat()),
        ("no last chunk", [chunked.clone(), b"4\r\nxxxx\r\n".to_vec()].concat()),
        ("half a last chunk", [chunked, b"4\r\nxxxx\r\n0\r\n".to_vec()].concat()),
    ] {
        let address = saying(answer);
        let mut gate = Setup::default().start(address);
        for protocol in BOTH {
            let mut client = gate.any(protocol, "agents/research").await;
            // What broke off at once may take the head with it.
            if let Ok(response) = within("the answer", client.send(request("GET", "/", empty()))).await {
                assert_eq!(response.status(), 200, "{name} {protocol:?}");
                assert!(within("the end", response.into_body().collect()).await.is_err(), "{name} {protocol:?} ended cleanly");
            }
        }
        // By hand, because a client library may find its own reasons.
        let text = gate.raw(b"GET / HTTP/1.1\r\nhost: gate.test\r\n\r\n").await.text();
        assert!(!text.ends_with("0\r\n\r\n"), "{name}: {text}");
        for line in gate.ended() {
            assert_eq!((&line["verdict"], &line["ending"]), (&"allow".into(), &"upstream_reset".into()), "{name}: {line:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_a_bad_gateway_and_one_that_waits_a_late_one() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = upstream(|mut stream| {
        let _ = read_head(&mut stream);
        std::thread::sleep(HANG);
    });
    let switching = saying("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let rows = [
        ("refuses the connection", closed, 502, "upstream_connect"),
        ("closes", saying(""), 502, "upstream_reset"),
        ("closes in its head", saying("HTTP/1.1 200 OK\r\ncontent-le"), 502, "upstream_reset"),
        ("garbage", saying("hello world, this is not HTTP\r\n\r\n"), 502, "upstream_invalid"),
        ("a bad length", saying("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), 502, "upstream_invalid"),
        ("two lengths", saying("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"), 502, "upstream_invalid"),
        ("a CR in a value", saying("HTTP/1.1 200 OK\r\nx-a: b\rc\r\n\r\n"), 502, "upstream_invalid"),
        ("switches", switching, 502, "upstream_invalid"),
        ("says nothing", silent, 504, "upstream_timeout"),
    ];
    for (name, address, status, code) in rows {
        let mut gate = Setup { upstream: ", response_timeout: 1s".to_owned(), ..Setup::default() }.start(address);
        for protocol in BOTH {
            let began = Instant::now();
            let answer = gate.any(protocol, "agents/research").await.get("/").await;
            assert_eq!((answer.status, &answer.json()["code"]), (status, &code.into()), "{name} {protocol:?}");
            assert!(!answer.body.contains("hello"), "{name}: {}", answer.body);
            if status == 504 {
                let took = began.elapsed();
                assert!(took > Duration::from_millis(800) && took < Duration::from_secs(3), "{name}: {took:?}");
            }
        }
        for line in gate.ended() {
            assert_eq!((&line["verdict"], &line["ending"]), (&"allow".into(), &code.into()), "{name}: {line:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_ended_as_a_broken_one() {
    let address = upstream(|mut stream| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx");
        std::thread::sleep(HANG);
    });
    let mut gate = Setup { upstream: ", idle_timeout: 1s".to_owned(), ..Setup::default() }.start(address);
    for protocol in BOTH {
        let body = gate.any(protocol, "agents/research").await.open("/").await.into_body();
        assert!(within("the end", body.collect()).await.is_err(), "{protocol:?}");
    }
    assert!(gate.ended().iter().all(|line| line["ending"] == "idle_timeout"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    let backend = Backend::answering(|seen, stream| {
        let answer: &[u8] = match (seen.head.split(' ').next().unwrap(), seen.target()) {
            ("HEAD", _) => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\netag: \"a\"\r\n\r\n",
            (_, "/204") => b"HTTP/1.1 204 No Content\r\n\r\n",
            (_, "/304") => b"HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n",
            (_, "/103") => b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        stream.write_all(answer)?;
        Ok(true)
    });
    let mut gate = Setup::default().start(backend.address);
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/research").await;
        let head = within("HEAD", client.send(request("HEAD", "/head", empty()))).await.unwrap();
        assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"1000".parse().unwrap()), "{protocol:?}");
        assert!(Answer::of(head).await.body.is_empty());
        for (path, status, body) in [("/204", 204, ""), ("/304", 304, ""), ("/103", 200, "ok"), ("/200", 200, "ok")] {
            let answer = client.get(path).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, body), "{protocol:?} {path}");
        }
    }
    let connections = backend.connections.load(std::sync::atomic::Ordering::SeqCst);
    assert!(connections <= 2, "each left its connection in order: {connections} for two clients");
    let decisions = gate.ended();
    assert_eq!(decisions.len(), 10);
    assert!(decisions.iter().all(|line| line["ending"] == "complete"), "{decisions:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_reach_the_client_that_wants_them() {
    let backend = Backend::answering(|_, stream| {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n2\r\nok\r\n0\r\nx-checksum: 7\r\n\r\n",
        )?;
        Ok(true)
    });
    let gate = Setup::default().start(backend.address);
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/research").await;
        let mut asked = request("GET", "/", empty());
        asked.headers_mut().insert("te", "trailers".parse().unwrap());
        let body = within("the answer", client.send(asked)).await.unwrap().into_body();
        let whole = within("the body", body.collect()).await.unwrap();
        assert_eq!(whole.trailers().and_then(|trailers| trailers.get("x-checksum")), Some(&"7".parse().unwrap()), "{protocol:?}");
        assert_eq!(whole.to_bytes(), "ok");
    }
    // Who did not ask gets none (RFC 9110 section 6.5.1).
    let text = gate.raw(b"GET / HTTP/1.1\r\nhost: gate.test\r\nconnection: close\r\n\r\n").await.text();
    assert!(text.ends_with("0\r\n\r\n") && !text.contains("x-checksum: 7"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_upstreams_connection_stays_there() {
    let backend = Backend::answering(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nx-end: 1\r\n\r\nok")?;
        Ok(true)
    });
    let gate = Setup::default().start(backend.address);
    for protocol in BOTH {
        let answer = gate.any(protocol, "agents/research").await.get("/").await;
        let mut names: Vec<&str> = answer.headers.keys().map(|name| name.as_str()).filter(|name| *name != "date").collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "x-end"], "{protocol:?}");
    }
}
