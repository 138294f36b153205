//! What else a handshake settles: keys, versions, resumption, and whose certificates count now.

use super::*;

#[test]
fn a_key_that_is_not_the_certificates_proves_nothing() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let mine = authority.issue(&agent(), hour()).unwrap();
    let stolen = authority.issue(&id("spiffe://example.org/ops/bob"), hour()).unwrap();
    let mut config = client(&holder, None, rustls::ALL_VERSIONS);
    config.client_auth_cert_resolver = presenting(&stolen.certificate_pem, &mine.key_pem);
    let error = handshake(config, server_config(holder, rules()).unwrap()).server.unwrap_err();
    assert_eq!(reason(&error), "proof");
}

#[test]
fn a_certificate_is_required_unless_the_rules_say_otherwise() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let nobody = || client(&holder, None, rustls::ALL_VERSIONS);
    let error = handshake(nobody(), server_config(Arc::clone(&holder), rules()).unwrap()).server.unwrap_err();
    assert_eq!(reason(&error), "no_certificate");

    let open = ListenerRules { require_certificate: false, ..rules() };
    let server = handshake(nobody(), server_config(Arc::clone(&holder), open.clone()).unwrap()).server.unwrap();
    assert!(peer(&server).unwrap().is_none());
    let wrong = authority.issue(&agent(), Lifetime { not_before: now() - HOUR, not_after: now() - 1 }).unwrap();
    assert_eq!(meet(&holder, open, &wrong).unwrap_err().code(), "expired");
}

#[test]
fn protocol_versions_follow_the_rule_and_alpn_the_client() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let issued = authority.issue(&agent(), hour()).unwrap();
    let old = || client(&holder, Some(&issued), &[&version::TLS12]);
    let error = handshake(old(), server_config(Arc::clone(&holder), rules()).unwrap()).server.unwrap_err();
    assert_eq!(reason(&error), "tls_version");

    let lenient = ListenerRules { minimum: MinimumVersion::Tls12, ..rules() };
    let server = handshake(old(), server_config(Arc::clone(&holder), lenient.clone()).unwrap()).server.unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(peer(&server).unwrap().unwrap().spiffe_id, agent());

    for (offered, chosen) in [(vec!["h2", "http/1.1"], "h2"), (vec!["http/1.1"], "http/1.1"), (vec!["http/1.1", "h2"], "h2")] {
        let mut config = client(&holder, Some(&issued), rustls::ALL_VERSIONS);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let server = handshake(config, server_config(Arc::clone(&holder), lenient.clone()).unwrap()).server.unwrap();
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(server.alpn_protocol(), Some(chosen.as_bytes()));
    }
    let mut config = client(&holder, Some(&issued), rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let error = handshake(config, server_config(holder, rules()).unwrap()).server.unwrap_err();
    assert_eq!(reason(&error), "alpn");
}

#[test]
fn no_connection_is_resumed() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let issued = authority.issue(&agent(), hour()).unwrap();
    for versions in [&[&version::TLS13][..], &[&version::TLS12][..]] {
        let lenient = ListenerRules { minimum: MinimumVersion::Tls12, ..rules() };
        let server = server_config(Arc::clone(&holder), lenient).unwrap();
        let client = client(&holder, Some(&issued), versions); // resumes whenever it can
        for _ in 0..2 {
            let ends = handshake(client.clone(), server.clone());
            let (Ok(client), Ok(server)) = (ends.client, ends.server) else { panic!("the handshake failed") };
            assert_ne!(client.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
            assert_ne!(server.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
}

#[test]
fn a_swap_is_seen_by_the_next_handshake_and_by_admissible() {
    let ours = Authority::new(&domain("example.org")).unwrap();
    let theirs = Authority::new(&domain("partner.test")).unwrap();
    let federated = ListenerRules { trust_domains: vec![domain("example.org"), domain("partner.test")], ..rules() };
    let holder = Arc::new(Holder::new(gate(&ours, &[("example.org", ours.ca_pem()), ("partner.test", theirs.ca_pem())])));
    assert_eq!(holder.current().revision(), 1);
    let server = server_config(Arc::clone(&holder), federated.clone()).unwrap();
    let partner = theirs.issue(&id("spiffe://partner.test/agents/buyer"), hour()).unwrap();
    let try_it = || handshake(client(&holder, Some(&partner), rustls::ALL_VERSIONS), server.clone());

    let met = try_it();
    let (Ok(peer), Ok(client)) = (met.server.map(|server| peer(&server).unwrap().unwrap()), met.client) else {
        panic!("the handshake failed")
    };
    let before = holder.current();
    assert_eq!(client.peer_certificates().unwrap(), before.certificates());
    assert_eq!(admissible(&before, &federated, &peer, UnixTime::now()), Ok(()));

    let after = holder.replace(gate(&ours, &[("example.org", ours.ca_pem())]));
    assert_eq!(after.revision(), 2);
    assert_eq!(admissible(&after, &federated, &peer, UnixTime::now()), Err(PeerError::NoBundle(domain("partner.test"))));
    assert_eq!(reason(&try_it().server.unwrap_err()), "no_bundle");

    holder.replace(gate(&ours, &[("example.org", ours.ca_pem()), ("partner.test", theirs.ca_pem())]));
    let client = try_it().client.unwrap();
    assert_eq!(client.peer_certificates().unwrap(), holder.current().certificates());
    assert_ne!(holder.current().certificates(), before.certificates());
    let later = UnixTime::since_unix_epoch(Duration::from_secs(peer.not_after + 1));
    assert_eq!(admissible(&holder.current(), &federated, &peer, later).unwrap_err().code(), "expired");
}

#[test]
fn a_gate_whose_svid_has_expired_refuses_handshakes_and_says_why() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let old =
        authority.issue(&id("spiffe://example.org/gate"), Lifetime { not_before: now() - HOUR, not_after: now() - 60 }).unwrap();
    let files = Files::new("example.org", &old, &[("example.org", authority.ca_pem())]);
    let while_valid = UnixTime::since_unix_epoch(Duration::from_secs(now() - HOUR / 2));
    let holder = Arc::new(Holder::new(Identity::load(&files.config, while_valid).unwrap()));
    let issued = authority.issue(&agent(), hour()).unwrap();
    let ends = handshake(client(&holder, Some(&issued), rustls::ALL_VERSIONS), server_config(holder, rules()).unwrap());
    assert_eq!(reason(&ends.server.unwrap_err()), "own_certificate");
}

#[test]
fn the_client_accepts_a_server_by_its_spiffe_id() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let server = || server_config(Arc::clone(&holder), rules()).unwrap();
    let gate = id("spiffe://example.org/gate");
    let pattern = |text: &str| text.parse::<Pattern>().unwrap();
    for expected in [None, Some(vec![Pattern::from(&agent()), Pattern::from(&gate)]), Some(vec![pattern("spiffe://example.org/*")])]
    {
        let ends = handshake(client_config(Arc::clone(&holder), expected).unwrap(), server());
        assert_eq!(peer(&ends.client.unwrap()).unwrap().unwrap().spiffe_id, gate);
        assert_eq!(peer(&ends.server.unwrap()).unwrap().unwrap().spiffe_id, gate);
    }
    let ends = handshake(client_config(Arc::clone(&holder), Some(vec![Pattern::from(&agent())])).unwrap(), server());
    assert_eq!(PeerError::of(&ends.client.unwrap_err()), Some(&PeerError::Unexpected(gate)));
    assert_eq!(reason(&ends.server.unwrap_err()), "refused_by_peer");
    let stranger = own_gate(&Authority::new(&domain("example.org")).unwrap());
    let ends = handshake(client_config(stranger, None).unwrap(), server());
    assert_eq!(reason(&ends.client.unwrap_err()), "chain");
}

/// What the gate's acceptor says about a client over a real socket.
async fn over_loopback(holder: &Arc<Holder>, client: impl AsyncFnOnce(TcpStream)) -> Result<(), io::Error> {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_config(Arc::clone(holder), rules()).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    tokio::join!(acceptor.accept(accepted), client(stream)).0.map(drop)
}

#[tokio::test]
async fn the_reason_reaches_the_acceptor_over_a_real_socket() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let connect = async |config: ClientConfig, stream| {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let _ = connector.connect(ServerName::try_from("gate.internal").unwrap(), stream).await;
    };
    let config = client_config(Arc::clone(&holder), None).unwrap();
    over_loopback(&holder, async |stream| connect(config, stream).await).await.unwrap();

    let long = authority.issue(&agent(), Lifetime::starting(now() - 5, 48 * HOUR)).unwrap();
    let config = client(&holder, Some(&long), rustls::ALL_VERSIONS);
    let error = over_loopback(&holder, async |stream| connect(config, stream).await).await.unwrap_err();
    assert_eq!(PeerError::of(&error), Some(&PeerError::Lifetime { lifetime: 48 * HOUR, limit: 24 * HOUR }));

    let config = client(&holder, None, rustls::ALL_VERSIONS);
    let error = over_loopback(&holder, async |stream| connect(config, stream).await).await.unwrap_err();
    assert_eq!(reason(&error), "no_certificate");

    for (sent, word) in
        [(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "not_tls"), (b"SSH-2.0-x\r\n", "not_tls"), (b"", "disconnected")]
    {
        let error = over_loopback(&holder, async |mut stream: TcpStream| {
            stream.write_all(sent).await.unwrap();
            stream.shutdown().await.unwrap();
        })
        .await
        .unwrap_err();
        assert_eq!(reason(&error), word, "{error:?}");
    }
}
