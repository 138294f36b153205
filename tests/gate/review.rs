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
