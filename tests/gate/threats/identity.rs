//! Who is let in, by what certificate, for which name, and what happens to those inside when that ends.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt as _;
use portcullis::demo::authority::{self, Authority, Issued, Lifetime};
use portcullis::spiffe::{SpiffeId, TrustDomain};
use tokio::io::AsyncReadExt as _;

use super::get;
use crate::harness::*;

fn domain(name: &str) -> Authority {
    Authority::new(&TrustDomain::new(name).unwrap()).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Connects, asks, and returns what the gate did instead of answering.
async fn refused(gate: &Gate, certificate: Option<&Issued>, alpn: &[u8]) -> Result<String, String> {
    // In TLS 1.3 the client is done before the server has looked at its certificate.
    let mut stream = match gate.connect_with(client_config(certificate, alpn)).await {
        Ok(stream) => stream,
        Err(error) => return Ok(error.to_string()),
    };
    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &get("/", "")).await;
    let mut answer = Vec::new();
    match within("the alert", stream.read_to_end(&mut answer)).await {
        Err(error) if answer.is_empty() => Ok(error.to_string()),
        _ => Err(String::from_utf8_lossy(&answer).into_owned()),
    }
}

fn strangers(ours: &Authority) -> Vec<(&'static str, Option<Issued>)> {
    let research = id("spiffe://example.org/agents/research");
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut parameters = authority::svid(&research, lifetime(600)).unwrap();
        change(&mut parameters);
        Some(ours.sign(&parameters).unwrap())
    };
    let uri = |text: &str| rcgen::SanType::URI(text.to_owned().try_into().unwrap());
    let window = |not_before: u64, not_after: u64| Some(ours.issue(&research, Lifetime { not_before, not_after }).unwrap());
    vec![
        ("another authority of our domain", Some(domain("example.org").issue(&research, lifetime(600)).unwrap())),
        ("another domain", Some(domain("other.org").issue(&id("spiffe://other.org/agents/research"), lifetime(600)).unwrap())),
        (
            "another domain, by our authority",
            with(&|parameters| parameters.subject_alt_names = vec![uri("spiffe://other.org/agents/research")]),
        ),
        ("our domain, by the authority of another", Some(domain("other.org").issue(&research, lifetime(600)).unwrap())),
        ("expired", window(now() - 600, now() - 120)),
        ("not valid yet", window(now() + 600, now() + 1200)),
        ("lives too long", window(now() - 60, now() + 7200)),
        ("two URIs", with(&|parameters| parameters.subject_alt_names.push(uri("spiffe://example.org/agents/admin")))),
        ("no URI", with(&|parameters| parameters.subject_alt_names.clear())),
        ("no path", with(&|parameters| parameters.subject_alt_names = vec![uri("spiffe://example.org")])),
        ("not SPIFFE", with(&|parameters| parameters.subject_alt_names = vec![uri("https://example.org/agents/research")])),
        ("a CA", with(&|parameters| parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained))),
        ("may sign certificates", with(&|parameters| parameters.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_by_a_certificate_that_proves_nothing() {
    for health in [false, true] {
        let backend = Backend::start();
        let listener = format!("    max_svid_lifetime: 1h\n{}", if health { "    health: {path: /healthz}\n" } else { "" });
        let mut gate = Setup { listener, ..Setup::default() }.start(backend.address);
        let mut rows = strangers(&gate.authority);
        if !health {
            rows.push(("none", None));
        }
        for (name, certificate) in &rows {
            for alpn in [&b"http/1.1"[..], b"h2"] {
                let alert = refused(&gate, certificate.as_ref(), alpn).await;
                let alert = alert.unwrap_or_else(|answer| panic!("{name} was let in: {answer}"));
                assert!(alert.contains("alert"), "{name}: {alert}");
            }
        }
        let good = gate.issue("agents/research", 600);
        let let_in = refused(&gate, Some(&good), b"http/1.1");
        let let_in = tokio::time::timeout(Duration::from_millis(300), let_in).await;
        assert!(!matches!(let_in, Ok(Ok(_))), "a good one is let in: {let_in:?}");
        drop(let_in);
        // Nothing but the good one stands in the record: a handshake is not an exchange.
        until("the good one to arrive", || backend.seen().len() == 1).await;
        assert_eq!(gate.decisions().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_certificate_learns_of_the_gates_health_and_nothing_else() {
    let backend = Backend::start();
    let mut gate = Setup { listener: "    health: {path: /healthz}\n".to_owned(), ..Setup::default() }.start(backend.address);
    let ask = async |bytes: Vec<u8>| Raw::of(gate.connect_with(client_config(None, b"http/1.1")).await.unwrap(), &bytes).await;
    let close = "connection: close\r\n";
    for target in ["/healthz", "/healthz?verbose"] {
        let answer = ask(get(target, close)).await;
        assert!(answer.status() == 200 && answer.text().ends_with("ready\n"), "{}", answer.text());
    }
    let others = [
        get("/", close),
        get("/healthz/", close),
        get("/healthz/../v1", close),
        get("//healthz", close),
        get("/v1/users", &format!("{close}x-spiffe-id: spiffe://example.org/admin\r\n")),
        format!("POST /healthz HTTP/1.1\r\nhost: gate.test\r\n{close}\r\n").into_bytes(),
    ];
    for bytes in &others {
        let answer = ask(bytes.clone()).await;
        assert_eq!(
            (answer.status(), &answer.problem()["code"]),
            (403, &"no_identity".into()),
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
    for (path, status) in [(&b"/healthz"[..], 0x88), (b"/v1/users", 0)] {
        let mut frames = Frames2::with(gate.connect_with(client_config(None, b"h2")).await.unwrap()).await;
        let block = block2(&[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"gate.test"), (b":path", path)]);
        frames.send(&frame2(1, 5, 1, &block)).await.unwrap();
        let ended = frames.ended(1).await;
        if status == 0 {
            assert_eq!(ended.json()["code"], "no_identity");
        } else {
            assert_eq!((ended.head[0], ended.body.as_slice()), (status, &b"ready\n"[..]));
        }
    }
    assert!(backend.seen().is_empty());
    let decisions = gate.decisions();
    assert_eq!(decisions.len(), others.len() + 1, "health is no exchange");
    for line in decisions {
        assert_eq!(
            (&line["verdict"], &line["reason"], &line["peer"]),
            (&"refused".into(), &"no_identity".into(), &serde_json::Value::Null)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_name_than_the_connections_is_misdirected() {
    // Names we answer to, server name, host, status.
    let rows = [
        ("", Some("gate.test"), "gate.test", 200),
        ("", Some("gate.test"), "GATE.test.:443", 200),
        ("", Some("gate.test"), "other.test", 421),
        ("", Some("other.test"), "gate.test", 421),
        ("", None, "gate.test", 200),
        ("    server_names: [gate.test, b.test]\n", Some("gate.test"), "gate.test", 200),
        ("    server_names: [gate.test]\n", Some("other.test"), "other.test", 421),
        ("    server_names: [gate.test]\n", Some("gate.test"), "other.test", 421),
        ("    server_names: [gate.test]\n", None, "gate.test", 200),
        ("    server_names: [gate.test]\n", None, "other.test", 421),
    ];
    for (listener, name, host, status) in rows {
        let backend = Backend::start();
        let mut gate = Setup { listener: listener.to_owned(), ..Setup::default() }.start(backend.address);
        let issued = gate.issue("agents/research", 600);
        let case = format!("{listener:?} {name:?} {host}");
        let connect = async |alpn: &[u8]| match name {
            Some(name) => gate.connect_named(client_config(Some(&issued), alpn), name).await.unwrap(),
            None => gate.connect_with(client_config(Some(&issued), alpn)).await.unwrap(),
        };
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = Raw::of(connect(b"http/1.1").await, head.as_bytes()).await;
        assert_eq!(answer.status(), status, "{case}: {}", answer.text());
        let mut frames = Frames2::with(connect(b"h2").await).await;
        let block = block2(&[(b":method", b"GET"), (b":scheme", b"https"), (b":authority", host.as_bytes()), (b":path", b"/")]);
        frames.send(&frame2(1, 5, 1, &block)).await.unwrap();
        let ended = frames.ended(1).await;
        if status == 200 {
            assert_eq!((ended.head.first(), backend.seen().len()), (Some(&0x88), 2), "{case}");
        } else {
            assert_eq!(
                (&ended.json()["code"], &ended.json()["status"], backend.seen().len()),
                (&"misdirected".into(), &421.into(), 0),
                "{case}"
            );
            assert!(gate.decisions().iter().all(|line| line["verdict"] == "refused" && line["reason"] == "misdirected"));
        }
    }
}

/// An upstream that sends a byte now and then, for ever.
fn dripping() -> std::net::SocketAddr {
    upstream(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            if !head.starts_with("GET /stream") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            while stream.write_all(b"1\r\nx\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_certificate_it_was_opened_by() {
    let mut gate = Setup::default().start(dripping());
    let mut watched = Vec::new();
    let ends = now() + 3;
    for (protocol, alpn) in [(Speaks::Http1, &b"http/1.1"[..]), (Speaks::Http2, b"h2")] {
        let config = gate.client_living("agents/brief", alpn, ends - now());
        let stream = hyper_util::rt::TokioIo::new(gate.connect_with(config).await.unwrap());
        watched.push(tokio::spawn(async move {
            let asked = request("GET", "/stream", empty());
            // The sender is kept: a connection that nobody can use any more may be closed for that.
            let (end, _sender) = if protocol == Speaks::Http1 {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                let mut asked = asked;
                *asked.uri_mut() = "/stream".parse().unwrap();
                asked.headers_mut().insert("host", "gate.test".parse().unwrap());
                let body = sender.send_request(asked).await.unwrap().into_body();
                (body.collect().await.err(), Box::new(sender) as Box<dyn std::any::Any + Send>)
            } else {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), stream).await.unwrap();
                tokio::spawn(connection);
                let body = sender.send_request(asked).await.unwrap().into_body();
                (body.collect().await.err(), Box::new(sender) as Box<dyn std::any::Any + Send>)
            };
            (protocol, end, SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
        }));
    }
    let honest = gate.any(Speaks::Http2, "agents/lasting").await.open("/stream").await;
    for watching in watched {
        let (protocol, end, at) = within("the cut", watching).await.unwrap();
        assert!(end.is_some(), "{protocol:?}: a cut is no clean end");
        let late = at.as_secs_f64() - ends as f64;
        assert!((-0.01..1.5).contains(&late), "{protocol:?}: cut {late} s after the certificate's end");
    }
    let mut honest = honest.into_body();
    for _ in 0..3 {
        within("the other to go on", honest.frame()).await.unwrap().unwrap();
    }
    drop(honest);
    let lines = gate.ended();
    let brief: Vec<_> = lines.iter().filter(|line| line["peer"] == "spiffe://example.org/agents/brief").collect();
    assert_eq!(brief.len(), 2);
    for line in brief {
        assert_eq!(
            (&line["verdict"], &line["ending"], &line["cause"]),
            (&"allow".into(), &"cut".into(), &"certificate_expired".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_bundles_that_change_on_disk_hold_for_the_next_handshake_and_end_what_they_no_longer_vouch_for() {
    let mut gate = Setup::default().start(dripping());
    let other = domain("example.org");
    let newcomer = other.issue(&id("spiffe://example.org/agents/newcomer"), lifetime(600)).unwrap();
    let mut open = Vec::new();
    for protocol in BOTH {
        let mut client = gate.any(protocol, "agents/old").await;
        open.push((protocol, client.open("/stream").await.into_body(), client));
    }
    assert!(refused(&gate, Some(&newcomer), b"http/1.1").await.is_ok());

    // Both authorities: the newcomer comes in, those inside do not notice.
    std::fs::write(gate.path("bundle.pem"), format!("{}{}", gate.authority.ca_pem(), other.ca_pem())).unwrap();
    let config = client_config(Some(&newcomer), b"http/1.1");
    let ask = async || {
        let answer = Raw::of(gate.connect_with(Arc::clone(&config)).await.unwrap(), &get("/", "connection: close\r\n")).await;
        !answer.bytes.is_empty() && answer.status() == 200
    };
    within("the new bundle to be used", async { while !ask().await {} }).await;
    for (protocol, body, _) in &mut open {
        for _ in 0..3 {
            within("the stream to go on", body.frame()).await.unwrap_or_else(|| panic!("{protocol:?}")).unwrap();
        }
    }

    // Our own certificate: the next handshake shows it.
    let renewed = other.issue(&id("spiffe://example.org/gate"), lifetime(600)).unwrap();
    std::fs::write(gate.path("svid.pem"), &renewed.certificate_pem).unwrap();
    std::fs::write(gate.path("svid.key"), &renewed.key_pem).unwrap();
    let shown = async || {
        let stream = gate.connect_with(Arc::clone(&config)).await.unwrap();
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let renewed: rustls::pki_types::CertificateDer<'_> =
            rustls::pki_types::pem::PemObject::from_pem_slice(renewed.certificate_pem.as_bytes()).unwrap();
        leaf == renewed
    };
    within("the new certificate to be shown", async { while !shown().await {} }).await;
    for (_, body, _) in &mut open {
        within("the stream to go on", body.frame()).await.unwrap().unwrap();
    }

    // A certificate that is none keeps the last good one.
    std::fs::write(gate.path("svid.pem"), "not a certificate").unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(shown().await);
    std::fs::write(gate.path("svid.pem"), &renewed.certificate_pem).unwrap();

    // The old authority goes, and with it everything it vouched for.
    std::fs::write(gate.path("bundle.pem"), other.ca_pem()).unwrap();
    for (protocol, body, mut client) in open {
        assert!(within("the cut", body.collect()).await.is_err(), "{protocol:?}: a cut is no clean end");
        let again = within("the connection to close", async {
            while client.send(request("GET", "/", empty())).await.is_ok_and(|answer| answer.status() == 200) {}
        });
        again.await;
    }
    assert!(ask().await, "the newcomer stays");
    let lines = gate.ended();
    let streams: Vec<_> = lines.iter().filter(|line| line["path"] == "/stream").collect();
    assert_eq!(streams.len(), 2);
    for line in streams {
        assert_eq!((&line["ending"], &line["cause"]), (&"cut".into(), &"identity_withdrawn".into()), "{line:#}");
    }
}
