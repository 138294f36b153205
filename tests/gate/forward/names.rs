//! Tunnels whose first bytes must name their host; and tunnels on proxy connections with mTLS, on HTTP/1.1 and HTTP/2.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{agent, ask, beside, connect_to, end, local, read, refused, start, upstream};
use crate::harness::*;

/// What a TLS client that asks for `name` says first.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same handshake message in records of 100 bytes.
fn fragmented(hello: &[u8]) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    hello[5..].chunks(100).flat_map(record).collect()
}

fn opened(gate: &Gate, port: u16) -> TcpStream {
    let mut client = agent(gate);
    let head = ask(&mut client, &connect_to(&format!("localhost:{port}")));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_asks_for_its_host_goes_on_byte_for_byte() {
    let (address, accepted) = upstream();
    for (sni, first) in [
        ("required", hello("localhost")),
        ("required", fragmented(&hello("LocalHost"))),
        ("required", hello("edge.example.com")),
        ("if_tls", hello("localhost")),
        ("if_tls", hello("127.0.0.1")),
        ("if_tls", b"SSH-2.0-nobody\r\n".to_vec()),
        ("ignore", hello("other.example")),
        ("ignore", vec![22, 3, 1, 0, 0]),
    ] {
        let gate = beside(ALLOW, &format!("{}, sni: {sni}, server_names: [\"*.example.com\"]", local(address)));
        let mut client = opened(&gate, address.port());
        let mut server = accepted.recv_timeout(HANG).unwrap();
        // Cut as a network may cut it.
        for part in first.chunks(first.len() / 3 + 1) {
            client.write_all(part).unwrap();
        }
        client.write_all(b"and more").unwrap();
        assert_eq!(read(&mut server, first.len() + 8), [&first[..], b"and more"].concat(), "{sni}");
        server.write_all(b"back").unwrap();
        assert_eq!(read(&mut client, 4), b"back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_asks_for_another_host_is_cut_before_its_first_byte_went_up() {
    let (address, accepted) = upstream();
    let broken = [&hello("localhost")[..60], &[0xff; 3000]].concat();
    for (sni, first, said) in [
        ("if_tls", hello("evil.example"), "asks for `evil.example`"),
        ("required", hello("evil.example"), "asks for `evil.example`"),
        ("required", fragmented(&hello("evil.example")), "asks for `evil.example`"),
        ("required", hello("127.0.0.1"), "asks for no server name"),
        ("required", b"SSH-2.0-nobody\r\n".to_vec(), "does not begin with TLS"),
        ("if_tls", broken, "cannot be read"),
    ] {
        let mut gate = beside(ALLOW, &format!("{}, sni: {sni}", local(address)));
        let mut client = opened(&gate, address.port());
        let mut server = accepted.recv_timeout(HANG).unwrap();
        client.write_all(&first).unwrap();
        let reset = Err(std::io::ErrorKind::ConnectionReset);
        assert_eq!((end(&mut client), end(&mut server)), (reset, reset), "{sni} {said}: and no byte of it arrived");
        let line = gate.record().remove(0);
        assert_eq!((&line["portcullis"]["cause"], &line["portcullis"]["ending"]), (&"server_name".into(), &"cut".into()), "{line}");
        assert!(line.to_string().contains(said), "{said}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_reads_the_server_name_is_asked_once_it_is_known() {
    let (address, accepted) = upstream();
    let policy = "package portcullis\n\ndecision := object.get(input.destination, \"sni\", \"localhost\") == \"localhost\"\n";
    let gate = beside(policy, &format!("{}, sni: required, server_names: [\"*\"]", local(address)));
    let mut client = opened(&gate, address.port());
    let mut server = accepted.recv_timeout(HANG).unwrap();
    client.write_all(&hello("localhost")).unwrap();
    assert_eq!(read(&mut server, 1), [22]);
    let mut client = opened(&gate, address.port());
    let mut server = accepted.recv_timeout(HANG).unwrap();
    client.write_all(&hello("other.example")).unwrap();
    assert_eq!(end(&mut server), Err(std::io::ErrorKind::ConnectionReset));
    assert!(gate.metric("portcullis_cuts_total", "policy") >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mtls_the_peer_is_who_its_certificate_says_and_tunnels_on_both_protocols() {
    let (address, accepted) = upstream();
    let policy = "package portcullis\n\ndecision := input.peer.spiffe_id == \"spiffe://example.org/agents/research\"\n";
    let gate = start(Setup::policy(policy), "identity: peer", &local(address));
    let raw = gate.connect("agents/research", b"http/1.1").await;
    let (mut reader, mut writer) = tokio::io::split(raw);
    writer.write_all(connect_to(&address.to_string()).as_bytes()).await.unwrap();
    let mut head = vec![0; 19];
    within("the answer", reader.read_exact(&mut head)).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 200 OK\r\nda");
    let mut server = accepted.recv_timeout(HANG).unwrap();
    writer.write_all(b"up").await.unwrap();
    assert_eq!(read(&mut server, 2), b"up");

    for (who, status) in [("agents/research", 200), ("agents/other", 403)] {
        let stream = gate.connect(who, b"h2").await;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let asked = Request::connect(address.to_string()).body(empty()).unwrap();
        let answer = within("the answer", sender.send_request(asked)).await.unwrap();
        assert_eq!(answer.status(), status, "{who}");
        if status != 200 {
            continue;
        }
        let mut client = TokioIo::new(within("the tunnel", hyper::upgrade::on(answer)).await.unwrap());
        let mut server = accepted.recv_timeout(HANG).unwrap();
        client.write_all(b"up").await.unwrap();
        assert_eq!(read(&mut server, 2), b"up");
        server.write_all(b"down").unwrap();
        let mut down = [0; 4];
        within("the bytes", client.read_exact(&mut down)).await.unwrap();
        assert_eq!(&down, b"down");
        // A sibling on the same connection outlives the kill of this one.
        let asked = Request::connect(address.to_string()).body(empty()).unwrap();
        let sibling = within("the answer", sender.send_request(asked)).await.unwrap();
        let mut sibling = TokioIo::new(within("the tunnel", hyper::upgrade::on(sibling)).await.unwrap());
        let mut other = accepted.recv_timeout(HANG).unwrap();
        let (_, open) = gate.control("GET", "/v1/exchanges", "");
        let rows = open["exchanges"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 3, "{open}");
        let eldest =
            rows.iter().filter(|row| row["bytes_out"] == 4).map(|row| row["id"].as_str().unwrap().to_owned()).next().unwrap();
        assert_eq!(gate.kill(&format!("{{\"exchange\": \"{eldest}\"}}"))["cut"], 1);
        assert_eq!(end(&mut server), Err(std::io::ErrorKind::ConnectionReset));
        // hyper tells the end of a reset tunnel as an end; what it is on the wire is asked below.
        let _ = within("the end", client.read(&mut down)).await;
        sibling.write_all(b"still").await.unwrap();
        assert_eq!(read(&mut other, 5), b"still");
        sibling.shutdown().await.unwrap();
    }
    // A plain h2 request is what absolute form is on HTTP/1.1; its scheme must be one that can be seen through.
    let backend = Backend::start();
    let gate = start(Setup::default(), "identity: peer", &local(backend.address));
    for (target, status) in [
        (format!("http://{}/v1?x=1", backend.address), 200),
        (format!("https://{}/v1?x=1", backend.address), 400),
        ("http://localhost:1/".to_owned(), 403),
    ] {
        let stream = gate.connect("agents/research", b"h2").await;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let asked = Request::get(&target).body(empty()).unwrap();
        let answer = Answer::of(within("the answer", sender.send_request(asked)).await.unwrap()).await;
        assert_eq!(answer.status, status, "{target}: {}", answer.body);
    }
    assert_eq!(backend.seen().len(), 1);
    assert!(backend.seen()[0].head.to_ascii_lowercase().contains("via: 2.0 portcullis"), "{}", backend.seen()[0].head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_tunnel_on_http2_is_a_reset_stream() {
    let (address, accepted) = upstream();
    let gate = start(Setup::default(), "identity: peer", &local(address));
    let stream = gate.connect("agents/research", b"h2").await;
    let (client, connection) = within("the handshake", h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut client = within("room", client.ready()).await.unwrap();
    let asked = Request::builder().method("CONNECT").uri(address.to_string()).body(()).unwrap();
    let (answer, mut send) = client.send_request(asked, false).unwrap();
    let mut body = within("the answer", answer).await.unwrap().into_body();
    let mut server = accepted.recv_timeout(HANG).unwrap();
    send.send_data(Bytes::from_static(b"up"), false).unwrap();
    assert_eq!(read(&mut server, 2), b"up");
    assert_eq!(gate.kill("{\"upstream\": \"there\"}")["cut"], 1);
    let error = within("the end", body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    assert_eq!(end(&mut server), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_not_opened_in_front_of_a_service() {
    let backend = Backend::start();
    let gate = Setup::default().start(backend.address);
    let answer = gate.raw(connect_to(&backend.address.to_string()).as_bytes()).await;
    assert_eq!((answer.status(), answer.problem()["code"].clone()), (405, "method_refused".into()));
    let gate = beside(ALLOW, &local(backend.address));
    let to = format!("localhost:{}", backend.address.port());
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n");
    assert_eq!(refused(&gate, &upgrade).0, 400);
}
