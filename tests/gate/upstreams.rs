//! Upstreams over HTTP/2 and TLS: the same promises as over HTTP/1.1, and whom the gate believes to be an upstream.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use portcullis::demo::authority::{Authority, Issued, Lifetime, svid};
use portcullis::spiffe::{SpiffeId, TrustDomain};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::cuts::{drain, some_bytes};
use crate::harness::*;

/// An HTTP/2 upstream on a thread of its own.
#[derive(Clone, Default)]
struct Told {
    /// Connections accepted, and the streams open on each now and at most.
    connections: Arc<Mutex<Vec<(usize, usize)>>>,
    heads: Arc<Mutex<Vec<http::request::Parts>>>,
    emitted: Arc<AtomicU64>,
    last_upload: Arc<AtomicU64>,
    /// Streams that were reset by the gate, by their code.
    resets: Arc<Mutex<Vec<Reason>>>,
    /// Released, `/slow` answers and `/swallow?later` reads.
    go: Arc<Permits>,
    goodbye: Arc<tokio::sync::Notify>,
    /// The certificates clients showed.
    clients: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

struct Permits(tokio::sync::Semaphore);

impl Default for Permits {
    fn default() -> Self {
        Self(tokio::sync::Semaphore::new(0))
    }
}

struct Upstream2 {
    address: SocketAddr,
    told: Told,
}

impl Upstream2 {
    fn start(streams: u32, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let told = Told::default();
        let (sender, receiver) = std::sync::mpsc::channel();
        let own = told.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let (told, tls) = (own.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, streams, told).await,
                            Some(tls) => {
                                let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
                                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
                                told.clients.lock().unwrap().extend(shown);
                                serve(stream, streams, told).await;
                            }
                        }
                    });
                }
            });
        });
        Self { address: receiver.recv().unwrap(), told }
    }

    fn plain() -> Self {
        Self::start(100, None)
    }

    fn gate(&self) -> Gate {
        Setup { upstream: ", protocol: h2".to_owned(), ..Setup::default() }.start(self.address)
    }

    fn connections(&self) -> Vec<(usize, usize)> {
        self.told.connections.lock().unwrap().clone()
    }

    fn open(&self) -> usize {
        self.connections().iter().map(|(open, _)| open).sum()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, streams: u32, told: Told) {
    let place = {
        let mut connections = told.connections.lock().unwrap();
        connections.push((0, 0));
        connections.len() - 1
    };
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.max_concurrent_streams(streams).handshake::<_, Bytes>(stream).await else { return };
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = told.goodbye.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let told = told.clone();
        tokio::spawn(async move {
            {
                let (open, most) = &mut told.connections.lock().unwrap()[place];
                *open += 1;
                *most = (*most).max(*open);
            }
            answer(request, respond, &told).await;
            told.connections.lock().unwrap()[place].0 -= 1;
        });
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, told: &Told) {
    let (head, mut body) = request.into_parts();
    told.heads.lock().unwrap().push(head.clone());
    let ok = || Response::builder().status(200).body(()).unwrap();
    match head.uri.path() {
        "/ticks" => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            loop {
                let tick = told.emitted.fetch_add(1, Ordering::SeqCst) + 1;
                if let Err(reason) = push(&mut sending, Bytes::from(format!("{tick:>1023}\n"))).await {
                    told.resets.lock().unwrap().push(reason);
                    return;
                }
            }
        }
        "/swallow" => {
            if head.uri.query() == Some("later") {
                told.go.0.acquire().await.unwrap().forget();
            }
            let mut line = Vec::new();
            while let Some(data) = body.data().await {
                let Ok(data) = data else {
                    told.resets.lock().unwrap().extend(data.unwrap_err().reason());
                    return;
                };
                body.flow_control().release_capacity(data.len()).unwrap();
                line.extend_from_slice(&data);
                while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                    let tick: Vec<u8> = line.drain(..=end).collect();
                    told.last_upload.store(std::str::from_utf8(&tick).unwrap().trim().parse().unwrap(), Ordering::SeqCst);
                }
            }
        }
        "/slow" => {
            told.go.0.acquire().await.unwrap().forget();
            respond.send_response(ok(), false).unwrap().send_data(Bytes::from_static(b"slow"), true).unwrap();
        }
        "/broken" => {
            let mut sending = respond.send_response(ok(), false).unwrap();
            let _ = push(&mut sending, Bytes::from_static(b"half")).await;
            // A reset takes what is not sent yet with it.
            told.go.0.acquire().await.unwrap().forget();
            sending.send_reset(Reason::CANCEL);
        }
        "/early" => {
            // Answers whole before it has read the request's body, and wants no more of it.
            respond.send_response(ok(), false).unwrap().send_data(Bytes::from_static(b"early"), true).unwrap();
        }
        _ => {
            let mut whole = b"hello".to_vec();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                whole.extend_from_slice(&data);
            }
            let head = Response::builder().header("trailer", "x-last").body(()).unwrap();
            let mut sending = respond.send_response(head, false).unwrap();
            sending.send_data(Bytes::from(whole), false).unwrap();
            sending.send_trailers(http::HeaderMap::from_iter([("x-last".parse().unwrap(), "1".parse().unwrap())])).unwrap();
        }
    }
}

/// Sends when there is window; the code of the reset when the stream was reset.
async fn push(sending: &mut h2::SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Reason> {
    while !bytes.is_empty() {
        sending.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| match sending.poll_reset(cx) {
            std::task::Poll::Ready(reason) => std::task::Poll::Ready(Err(reason.unwrap_or(Reason::INTERNAL_ERROR))),
            std::task::Poll::Pending => {
                sending.poll_capacity(cx).map(|room| room.and_then(Result::ok).ok_or(Reason::INTERNAL_ERROR))
            }
        });
        let room = room.await?;
        sending.send_data(bytes.split_to(room.min(bytes.len())), false).map_err(|_| Reason::INTERNAL_ERROR)?;
    }
    Ok(())
}

fn kill(gate: &Gate, selector: &str) -> serde_json::Value {
    tokio::task::block_in_place(|| gate.kill(selector))
}

/// Waits until a counter stands still.
async fn still(counter: &AtomicU64) {
    let mut last = u64::MAX;
    within("the counter to stand still", async {
        while std::mem::replace(&mut last, counter.load(Ordering::SeqCst)) != counter.load(Ordering::SeqCst) || last == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

const BAD: &str = "{\"spiffe_id\": \"spiffe://example.org/agents/bad\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_http2_is_the_one_that_was_judged() {
    let upstream = Upstream2::plain();
    let mut gate = upstream.gate();
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/research").await;
        let mut asked = request("POST", "/a/b?c=d", full("body"));
        asked.headers_mut().insert("te", "trailers".parse().unwrap());
        let response = within("the answer", client.send(asked)).await.unwrap();
        let whole = within("the body", response.into_body().collect()).await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-last"], "1", "{protocol:?}");
        assert_eq!(whole.to_bytes(), "hellobody");
        assert_eq!(client.get("/x").await.body, "hello");
    }
    let heads = upstream.told.heads.lock().unwrap().clone();
    assert_eq!(heads.len(), 4);
    for head in &heads {
        let authority = head.uri.authority().unwrap().as_str();
        assert_eq!((head.uri.scheme_str(), authority), (Some("http"), "gate.test"), "{head:?}");
        assert_eq!(head.headers["x-spiffe-id"], "spiffe://example.org/agents/research");
        assert!(!head.headers.contains_key("host") && !head.headers.contains_key("connection"), "{head:?}");
        let asked = head.uri.path() == "/a/b";
        assert_eq!(head.headers.get("te").is_some_and(|te| te == "trailers"), asked, "{head:?}");
    }
    assert_eq!(heads[0].uri.path_and_query().unwrap(), "/a/b?c=d");
    assert!(gate.ended().iter().all(|line| line["ending"] == "complete"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_an_http2_upstream_emitted_after_a_kill_returned_arrives() {
    for (protocol, stall) in [(Speaks::Http1, false), (Speaks::Http2, false), (Speaks::Http1, true), (Speaks::Http2, true)] {
        let upstream = Upstream2::plain();
        let mut gate = upstream.gate();
        let mut client = gate.any(protocol, "agents/bad").await;
        let mut body = client.open("/ticks").await.into_body();
        some_bytes(&mut body, 4096).await;
        let case = format!("{protocol:?}, stalled: {stall}");
        let reading = if stall {
            still(&upstream.told.emitted).await;
            None
        } else {
            Some(tokio::spawn(drain(body)))
        };
        let answer = kill(&gate, BAD);
        let at_return = upstream.told.emitted.load(Ordering::SeqCst);
        assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{case}: {answer}");
        if let Some(reading) = reading {
            let (last, end) = reading.await.unwrap();
            end.expect_err(&case);
            assert!(last <= at_return, "{case}: tick {last} arrived, {at_return} were emitted when the kill returned");
        }
        until("the reset to reach the upstream", || upstream.open() == 0).await;
        assert_eq!(*upstream.told.resets.lock().unwrap(), [Reason::CANCEL], "{case}: its own stream, and nothing else");
        let decision = gate.ended().into_iter().find(|line| line["path"] == "/ticks").unwrap();
        assert_eq!((&decision["ending"], &decision["cause"]), (&"cut".into(), &"kill".into()), "{case}");
    }
}

/// A body of ticks, and the number emitted.
fn uploading() -> (Boxed, Arc<AtomicU64>) {
    let emitted = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&emitted);
    let (sender, body) = by_hand();
    tokio::spawn(async move {
        while let Ok(room) = sender.reserve().await {
            let tick = counter.fetch_add(1, Ordering::SeqCst) + 1;
            room.send(Ok(Bytes::from(format!("{tick:>1023}\n"))));
        }
    });
    (body, emitted)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_the_client_emitted_after_a_kill_returned_reaches_an_http2_upstream() {
    for (protocol, reads) in [(Speaks::Http1, true), (Speaks::Http2, true), (Speaks::Http1, false), (Speaks::Http2, false)] {
        let upstream = Upstream2::plain();
        let gate = upstream.gate();
        let mut client = gate.any(protocol, "agents/bad").await;
        let (body, emitted) = uploading();
        let target = if reads { "/swallow" } else { "/swallow?later" };
        let sending = tokio::spawn(async move { client.send(request("POST", target, body)).await });
        if reads {
            until("the upload to arrive", || upstream.told.last_upload.load(Ordering::SeqCst) > 10).await;
        } else {
            still(&emitted).await;
        }
        let answer = kill(&gate, "{\"upstream\": \"backend\"}");
        let at_return = emitted.load(Ordering::SeqCst);
        let case = format!("{protocol:?}, upstream reads: {reads}");
        assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{case}: {answer}");
        upstream.told.go.0.add_permits(1);
        until("the reset to reach the upstream", || upstream.open() == 0).await;
        assert_eq!(*upstream.told.resets.lock().unwrap(), [Reason::CANCEL], "{case}");
        let last = upstream.told.last_upload.load(Ordering::SeqCst);
        assert!(last <= at_return, "{case}: {last} of {at_return}");
        // The response had not begun, so a client that still listens is told why.
        match within("the answer", sending).await.unwrap() {
            Ok(response) => assert_eq!(response.status(), 403, "{case}"),
            Err(error) => assert!(protocol == Speaks::Http1 || !reads, "{case}: {error:?}"),
        }
    }
}

/// More than all buffers on the way hold.
const FAR: usize = 8 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_share_a_connection_and_a_cut_or_a_silent_client_holds_up_its_own_stream_only() {
    let upstream = Upstream2::plain();
    let gate = upstream.gate();
    let mut client = gate.any(Speaks::Http2, "agents/bad").await;
    // As many as the client's own connection has window for.
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(client.open("/ticks").await.into_body());
    }
    still(&upstream.told.emitted).await;
    assert_eq!(client.get("/hello").await.body, "hello");
    let (_, rows) = tokio::task::block_in_place(|| gate.control("GET", "/v1/exchanges", ""));
    let rows = rows.as_array().or_else(|| rows["exchanges"].as_array()).unwrap().clone();
    let id = rows[0]["id"].as_str().unwrap();
    let answer = kill(&gate, &format!("{{\"exchange\": \"{id}\"}}"));
    assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{answer}");
    until("the reset to reach the upstream", || upstream.open() == 1).await;
    let mut flowing = 0;
    for body in &mut silent {
        let mut read = 0;
        while read < FAR {
            match within("the next byte", body.frame()).await {
                Some(Ok(frame)) => read += frame.into_data().map_or(0, |data| data.len()),
                Some(Err(_)) | None => break,
            }
        }
        flowing += usize::from(read >= FAR);
    }
    assert_eq!(flowing, 1, "the other one flows on");
    assert_eq!(upstream.connections().len(), 1, "all of it on one connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_takes_two_streams_a_connection_gets_no_third_and_every_request_is_answered() {
    let upstream = Upstream2::start(2, None);
    let gate = upstream.gate();
    let client = gate.http2("agents/research").await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..7 {
        let mut client = client.clone();
        answers.spawn(async move {
            let response = within("the answer", client.send(request("GET", "/slow", empty()))).await.unwrap();
            Answer::of(response).await.body
        });
    }
    until("all to be with the upstream", || upstream.open() == 7).await;
    assert!(upstream.connections().iter().all(|(_, most)| *most <= 2), "{:?}", upstream.connections());
    upstream.told.go.0.add_permits(7);
    while let Some(body) = answers.join_next().await {
        assert_eq!(body.unwrap(), "slow");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_goodbye_ends_what_it_has_and_gets_nothing_new() {
    let upstream = Upstream2::plain();
    let gate = upstream.gate();
    let client = gate.http2("agents/research").await;
    let mut first = client.clone();
    let slow = tokio::spawn(async move { Answer::of(first.send(request("GET", "/slow", empty())).await.unwrap()).await });
    until("it to be with the upstream", || upstream.open() == 1).await;
    upstream.told.goodbye.notify_one();
    let mut next = client.clone();
    within("the next ones to go elsewhere", async {
        while upstream.connections().len() < 2 {
            let response = next.send(request("GET", "/hello", empty())).await.unwrap();
            assert_eq!(Answer::of(response).await.status, 200, "no request fails for a goodbye");
        }
    })
    .await;
    for _ in 0..5 {
        let response = within("the answer", next.send(request("GET", "/hello", empty()))).await.unwrap();
        assert_eq!(Answer::of(response).await.status, 200);
    }
    assert_eq!(upstream.connections().len(), 2, "one that goes, and one that came");
    upstream.told.go.0.add_permits(1);
    assert_eq!(slow.await.unwrap().body, "slow");
}

/// An HTTP/2 upstream by hand: what it does with the nth request it got, all connections counted together.
fn by_frames(answer: impl Fn(usize, u32, &mut std::net::TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let address = upstream(move |mut stream| {
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() || stream.write_all(&frame2(4, 0, 0, &[])).is_err() {
            return;
        }
        while let Some(frame) = read_frame2(&mut stream) {
            match frame.kind {
                4 if frame.flags & 1 == 0 => stream.write_all(&frame2(4, 1, 0, &[])).unwrap(),
                0 | 1 if frame.flags & 1 != 0 => answer(counted.fetch_add(1, Ordering::SeqCst), frame.stream, &mut stream),
                _ => {}
            }
        }
    });
    (address, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_request_the_upstream_never_looked_at_is_sent_again() {
    let go_away = |last: u32, code: u32| frame2(7, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    let reset = |stream: u32, code: u32| frame2(3, 0, stream, &code.to_be_bytes());
    type Refusal = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>;
    let rows: [(&str, Refusal, u16, usize); 7] = [
        ("GOAWAY before it", Box::new(move |_| go_away(0, 0)), 200, 2),
        ("GOAWAY before it, with an error", Box::new(move |_| go_away(0, 11)), 200, 2),
        ("REFUSED_STREAM", Box::new(move |stream| reset(stream, 7)), 200, 2),
        ("GOAWAY that names it", Box::new(move |stream| go_away(stream, 2)), 502, 1),
        ("INTERNAL_ERROR", Box::new(move |stream| reset(stream, 2)), 502, 1),
        ("CANCEL", Box::new(move |stream| reset(stream, 8)), 502, 1),
        ("nothing", Box::new(|_| Vec::new()), 502, 1),
    ];
    for (name, refusal, status, times) in rows {
        let (address, requests) = by_frames(move |count, stream, socket| {
            if count == 0 {
                socket.write_all(&refusal(stream)).unwrap();
                let closes = !matches!(refusal(stream).get(3), Some(3));
                if closes {
                    socket.shutdown(std::net::Shutdown::Both).unwrap();
                }
                return;
            }
            socket.write_all(&frame2(1, 4 | 1, stream, &block2(&[(b":status", b"200")]))).unwrap();
        });
        for body in [None, Some("{\"a\": 1}")] {
            requests.store(0, Ordering::SeqCst);
            let mut gate = Setup { upstream: ", protocol: h2".to_owned(), ..Setup::default() }.start(address);
            let mut client = gate.any(Speaks::Http2, "agents/research").await;
            let answer = match body {
                None => client.get("/").await,
                Some(body) => client.post("/", body).await,
            };
            assert_eq!((answer.status, requests.load(Ordering::SeqCst)), (status, times), "{name}, {body:?}: {answer:?}");
            let ending = if status == 200 { "complete" } else { "upstream_reset" };
            assert_eq!(gate.ended()[0]["ending"], ending, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_the_upstream_broke_off_never_ends_cleanly() {
    let upstream = Upstream2::plain();
    let mut gate = upstream.gate();
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/research").await;
        let mut body = client.open("/broken").await.into_body();
        some_bytes(&mut body, 4).await;
        upstream.told.go.0.add_permits(1);
        assert!(within("the end", body.collect()).await.is_err(), "{protocol:?}: CANCEL is no end");
    }
    assert!(gate.ended().iter().all(|line| line["ending"] == "upstream_reset"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_the_whole_request_is_passed_on() {
    let upstream = Upstream2::plain();
    let gate = upstream.gate();
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    let (body, _) = uploading();
    let response = within("the answer", client.send(request("POST", "/early", body))).await.unwrap();
    assert_eq!(Answer::of(response).await.body, "early");
    assert_eq!(client.get("/hello").await.body, "hello", "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_name_the_host_its_upstream_is_asked_for_and_the_record_says_what_was_asked() {
    let (upstream, backend) = (Upstream2::plain(), Backend::start());
    for (protocol, address) in [("h2", upstream.address), ("http1", backend.address)] {
        let setup = Setup { upstream: format!(", protocol: {protocol}"), ..Setup::default() };
        let edit = |yaml: String| yaml.replace("upstream: backend", "upstream: backend, upstream_host: \"localhost:3000\"");
        let mut gate = setup.start_with(address, edit);
        assert_eq!(gate.any(Speaks::Http2, "agents/research").await.get("/x").await.status, 200);
        assert_eq!(gate.decisions()[0]["host"], "gate.test");
    }
    assert_eq!(upstream.told.heads.lock().unwrap()[0].uri.authority().unwrap().as_str(), "localhost:3000");
    assert_eq!(backend.seen()[0].header("host"), Some("localhost:3000"));
}

/// The TLS of an upstream that has this certificate, and asks for one of its clients.
pub fn server_tls(issued: &Issued, client_ca: Option<&str>, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A gate that goes to `https://localhost:port` under these terms.
fn secure_gate(address: SocketAddr, authority: Authority, more: &str) -> Gate {
    let setup = Setup { upstream: format!(", {more}"), ..Setup::default() };
    let plain = format!("http://{address}");
    setup.start_under(authority, address, |yaml| yaml.replace(&plain, &format!("https://localhost:{}", address.port())))
}

pub fn domain(name: &str) -> Authority {
    Authority::new(&TrustDomain::new(name).unwrap()).unwrap()
}

pub fn issued(authority: &Authority, id: &str) -> Issued {
    authority.issue(&SpiffeId::new(id).unwrap(), lifetime(3600)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_prove_their_spiffe_ids_and_agree_on_the_protocol() {
    for protocol in ["", ", protocol: auto", ", protocol: h2"] {
        let authority = domain("example.org");
        let tls =
            server_tls(&issued(&authority, "spiffe://example.org/payroll/a"), Some(authority.ca_pem()), &[b"h2", b"http/1.1"]);
        let upstream = Upstream2::start(100, Some(tls));
        let gate = secure_gate(
            upstream.address,
            authority,
            &format!("tls: {{spiffe_ids: [\"spiffe://example.org/payroll/*\"]}}{protocol}"),
        );
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        for _ in 0..3 {
            assert_eq!(client.get("/x").await.body, "hello", "{protocol}");
        }
        let shown = upstream.told.clients.lock().unwrap().clone();
        assert_eq!(shown.len(), 1, "one handshake for all: {protocol}");
        let own = CertificateDer::from_pem_slice(&std::fs::read(gate.path("svid.pem")).unwrap()).unwrap();
        assert_eq!(shown[0], own, "our own SVID");
        assert_eq!(upstream.told.heads.lock().unwrap()[0].uri.scheme_str(), Some("https"));
    }
}

/// An upstream that speaks HTTP/1.1 inside TLS; its handshakes, and the heads it got.
pub fn http1_over_tls(tls: Arc<rustls::ServerConfig>) -> (SocketAddr, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) {
    let (handshakes, heads) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<String>>>::default());
    let (counted, seen) = (Arc::clone(&handshakes), Arc::clone(&heads));
    let address = upstream(move |mut stream| {
        let mut connection = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
        counted.fetch_add(1, Ordering::SeqCst);
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        let (mut head, mut byte) = (Vec::new(), [0]);
        while tls.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                seen.lock().unwrap().push(String::from_utf8(std::mem::take(&mut head)).unwrap());
                tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none").unwrap();
            }
        }
    });
    (address, handshakes, heads)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_chooses_http1_is_spoken_to_in_http1() {
    let authority = domain("example.org");
    let tls = server_tls(&issued(&authority, "spiffe://example.org/payroll"), None, &[b"http/1.1"]);
    let (address, handshakes, _) = http1_over_tls(tls);
    let gate = secure_gate(address, authority, "tls: {spiffe_ids: [\"spiffe://example.org/payroll\"]}");
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for _ in 0..3 {
        assert_eq!(client.get("/x").await.body, "one");
    }
    assert_eq!(handshakes.load(Ordering::SeqCst), 1, "kept, and used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_than_was_expected_gets_no_request() {
    type Certificate = fn(&Authority) -> Issued;
    let rows: [(&str, Certificate); 4] = [
        ("another workload", |ours| issued(ours, "spiffe://example.org/billing")),
        ("another authority's", |_| issued(&domain("example.org"), "spiffe://example.org/payroll")),
        ("expired", |ours| ours.issue(&SpiffeId::new("spiffe://example.org/payroll").unwrap(), past()).unwrap()),
        ("an ordinary certificate of the same authority", |ours| named(ours, "localhost")),
    ];
    for (name, certificate) in rows {
        let authority = domain("example.org");
        let upstream = Upstream2::start(100, Some(server_tls(&certificate(&authority), None, &[b"h2"])));
        refused(name, &upstream, authority, "tls: {spiffe_ids: [\"spiffe://example.org/payroll\"]}").await;
    }
}

async fn refused(name: &str, upstream: &Upstream2, authority: Authority, more: &str) {
    let mut gate = secure_gate(upstream.address, authority, more);
    for protocol in BOTH {
        let answer = gate.any(protocol, "agents/research").await.get("/x").await;
        assert_eq!((answer.status, &answer.json()["code"]), (502, &"upstream_identity".into()), "{name}: {answer:?}");
    }
    let counted = tokio::task::block_in_place(|| gate.metric("portcullis_upstream_errors_total", "kind=\"identity\""));
    assert_eq!(counted, 2.0, "{name}");
    assert!(gate.ended().iter().all(|line| line["ending"] == "upstream_identity"), "{name}");
    assert!(upstream.told.heads.lock().unwrap().is_empty(), "{name}");
}

fn past() -> Lifetime {
    let now = lifetime(0);
    Lifetime { not_before: now.not_before - 3600, not_after: now.not_after - 600 }
}

/// An ordinary certificate, for a name.
pub fn named(authority: &Authority, name: &str) -> Issued {
    let mut parameters = svid(&SpiffeId::new("spiffe://example.org/x").unwrap(), lifetime(3600)).unwrap();
    parameters.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
    authority.sign(&parameters).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_spiffe_id_is_known_by_its_name_and_its_ca_and_shown_nothing() {
    let (web, folder) = (domain("example.org"), tempfile::tempdir().unwrap());
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, web.ca_pem()).unwrap();
    let trusting = |more: &str| format!("tls: {{ca: {}{more}}}", ca.display());
    for (name, more) in [("localhost", ""), ("api.test", ", server_name: api.test")] {
        let optional = server_tls(&named(&web, name), None, &[b"h2"]);
        let upstream = Upstream2::start(100, Some(optional));
        let gate = secure_gate(upstream.address, domain("example.org"), &trusting(more));
        assert_eq!(gate.any(Speaks::Http2, "agents/research").await.get("/x").await.body, "hello", "{name}");
    }
    let elsewhere = Upstream2::start(100, Some(server_tls(&named(&web, "elsewhere.test"), None, &[b"h2"])));
    refused("another name", &elsewhere, domain("example.org"), &trusting("")).await;
    let stranger = Upstream2::start(100, Some(server_tls(&named(&domain("example.org"), "localhost"), None, &[b"h2"])));
    refused("another CA", &stranger, domain("example.org"), &trusting("")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_svid_is_shown_on_a_new_connection_and_the_old_connection_gets_no_more_requests() {
    let authority = domain("example.org");
    let tls = server_tls(&issued(&authority, "spiffe://example.org/payroll"), Some(authority.ca_pem()), &[b"h2"]);
    let upstream = Upstream2::start(100, Some(tls));
    let gate = secure_gate(upstream.address, authority, "tls: {spiffe_ids: [\"spiffe://example.org/payroll\"]}");
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    let mut running = client.open("/ticks").await.into_body();
    some_bytes(&mut running, 4096).await;
    let expiry = || tokio::task::block_in_place(|| gate.metric("portcullis_svid_expiry_timestamp_seconds", ""));
    let before = expiry();
    let next = gate.issue("gate", 7200);
    for (name, text) in [("svid.pem", &next.certificate_pem), ("svid.key", &next.key_pem)] {
        std::fs::write(gate.path(name), text).unwrap();
    }
    until("the gate to have its new SVID", || expiry() > before).await;
    assert_eq!(client.get("/hello").await.body, "hello");
    let shown: BTreeSet<Vec<u8>> = upstream.told.clients.lock().unwrap().iter().map(|shown| shown.to_vec()).collect();
    assert_eq!((shown.len(), upstream.connections().len()), (2, 2), "one with the old, one with the new");
    some_bytes(&mut running, 64 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_on_a_cold_gate_waits_for_one_connection_and_is_told_together_that_there_is_none() {
    let upstream = Upstream2::plain();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let burst = async |gate: &Gate| {
        let client = gate.http2("agents/research").await;
        let mut answers = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut client = client.clone();
            answers.spawn(async move { within("the answer", client.send(request("GET", "/slow", empty()))).await.unwrap() });
        }
        answers
    };
    let gate = upstream.gate();
    let answers = burst(&gate).await;
    until("all to be with the upstream", || upstream.open() == 20).await;
    assert_eq!(upstream.connections().len(), 1);
    upstream.told.go.0.add_permits(20);
    assert!(answers.join_all().await.iter().all(|response| response.status() == 200));
    let gate = Setup { upstream: ", protocol: h2".to_owned(), ..Setup::default() }.start(nobody);
    assert!(burst(&gate).await.join_all().await.iter().all(|response| response.status() == 502));
}
