//! Real handshakes, in memory and over loopback, with every right certificate and every wrong one.

use std::fs;
use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, ProtocolVersion, ServerConnection};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::demo::authority::{Authority, Issued, Lifetime, authority, svid, uri_name_constraint};
use crate::spiffe::SpiffeId;

const HOUR: u64 = 3600;

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn now() -> u64 {
    UnixTime::now().as_secs()
}

fn hour() -> Lifetime {
    Lifetime::starting(now() - 5, HOUR)
}

fn agent() -> SpiffeId {
    id("spiffe://example.org/agents/research")
}

/// The files of one identity, on disk.
struct Files {
    directory: TempDir,
    config: Config,
}

impl Files {
    fn new(domain: &str, issued: &Issued, bundles: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).unwrap();
            directory.path().join(name)
        };
        let files = super::Files {
            certificate: write("svid.pem", &issued.certificate_pem),
            private_key: write("svid.key", &issued.key_pem),
            bundles: bundles.iter().map(|(name, pem)| ((*name).to_owned(), write(&format!("{name}.pem"), pem))).collect(),
        };
        own_only(&files.private_key);
        Self { directory, config: Config { trust_domain: domain.to_owned(), source: Source::Files(files) } }
    }

    fn load(&self) -> Identity {
        Identity::load(&self.config, UnixTime::now()).unwrap()
    }

    fn errors(&self) -> Vec<String> {
        let errors = Identity::load(&self.config, UnixTime::now()).unwrap_err();
        errors.iter().map(|error| error.to_string().replace(self.directory.path().to_str().unwrap(), "")).collect()
    }
}

fn own_only(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn gate(authority: &Authority, bundles: &[(&str, &str)]) -> Identity {
    let issued = authority.issue(&id(&format!("{}/gate", authority.trust_domain().id_string())), hour()).unwrap();
    Files::new(authority.trust_domain().as_str(), &issued, bundles).load()
}

/// A gate in example.org that knows only its own bundle.
fn own_gate(authority: &Authority) -> Arc<Holder> {
    Arc::new(Holder::new(gate(authority, &[("example.org", authority.ca_pem())])))
}

fn rules() -> ListenerRules {
    ListenerRules {
        trust_domains: vec![domain("example.org")],
        max_svid_lifetime: Some(Duration::from_secs(24 * HOUR)),
        minimum: MinimumVersion::default(),
        require_certificate: true,
    }
}

/// A client that presents whatever it was issued, in whatever versions, and accepts the gate.
fn client(holder: &Arc<Holder>, issued: Option<&Issued>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = UpstreamVerifier { holder: Arc::clone(holder), expected: None, algorithms };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    if let Some(issued) = issued {
        config.client_auth_cert_resolver = presenting(&issued.certificate_pem, &issued.key_pem);
    }
    config
}

/// Presents a chain unseen: rustls' own builder would refuse to load the worst of them.
fn presenting(certificate_pem: &str, key_pem: &str) -> Arc<SingleCertAndKey> {
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
    Arc::new(CertifiedKey::new(chain, key).into())
}

/// Both ends of a handshake that ran in memory; each side's error as an acceptor would return it.
struct Ends {
    client: Result<ClientConnection, io::Error>,
    server: Result<ServerConnection, io::Error>,
}

fn handshake(client: ClientConfig, server: ServerConfig) -> Ends {
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("gate.internal").unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..8 {
        let mut up = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut up).unwrap();
        }
        let mut unread = up.as_slice();
        while !unread.is_empty() && server_error.is_none() {
            server.read_tls(&mut unread).unwrap();
            server_error = server.process_new_packets().err();
        }
        let mut down = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut down).unwrap();
        }
        let mut unread = down.as_slice();
        while !unread.is_empty() && client_error.is_none() {
            client.read_tls(&mut unread).unwrap();
            client_error = client.process_new_packets().err();
        }
    }
    let failed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    Ends {
        client: client_error.map_or(Ok(client), |error| Err(failed(error))),
        server: server_error.map_or(Ok(server), |error| Err(failed(error))),
    }
}

/// The peer a handshake proved to the gate, or why it was refused.
fn meet(holder: &Arc<Holder>, rules: ListenerRules, issued: &Issued) -> Result<Peer, PeerError> {
    let ends = handshake(client(holder, Some(issued), rustls::ALL_VERSIONS), server_config(Arc::clone(holder), rules).unwrap());
    match ends.server {
        Ok(server) => {
            assert!(!server.is_handshaking());
            Ok(peer(&server).unwrap().unwrap())
        }
        Err(error) => {
            let refusal = PeerError::of(&error).unwrap_or_else(|| panic!("no reason in {error:?}")).clone();
            assert_eq!(reason(&error), refusal.code());
            assert!(ends.client.is_err(), "the client was told");
            Err(refusal)
        }
    }
}

#[test]
fn a_peer_is_known_by_its_svid() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let issued = authority.issue_local(&agent(), hour()).unwrap();
    let peer = meet(&own_gate(&authority), rules(), &issued).unwrap();
    assert_eq!(peer.spiffe_id, agent());
    assert_eq!(peer.lifetime_seconds, HOUR);
    assert!(peer.not_before <= now() && now() < peer.not_after);
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    assert_eq!(*peer.chain, *std::slice::from_ref(&der));
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(peer.serial.trim_start_matches('0'), parsed.tbs_certificate.serial.to_str_radix(16));
    assert_eq!(peer.sha256.len(), 64);
    assert!(!peer.sha256.contains(|c: char| !c.is_ascii_digit() && !('a'..='f').contains(&c)));
}

#[test]
fn every_wrong_leaf_is_refused_with_its_own_reason() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let one_uri = |text: &'static str| move |leaf: &mut CertificateParams| leaf.subject_alt_names = vec![uri(text)];
    let extension = |oid: &[u64], critical: bool, content: &[u8]| {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        extension
    };
    let key_usage = [2, 5, 29, 15];
    let subject_alt_name = [2, 5, 29, 17];
    type Break<'a> = Box<dyn Fn(&mut CertificateParams) + 'a>;
    let table: Vec<(&str, Break<'_>, SvidFault)> = vec![
        ("no SAN at all", Box::new(|leaf| leaf.subject_alt_names.clear()), SvidFault::UriNames(0)),
        (
            "a DNS name only",
            Box::new(|leaf| leaf.subject_alt_names = vec![SanType::DnsName("a.b".try_into().unwrap())]),
            SvidFault::UriNames(0),
        ),
        (
            "two SPIFFE IDs",
            Box::new(|leaf| leaf.subject_alt_names.push(uri("spiffe://example.org/ops/bob"))),
            SvidFault::UriNames(2),
        ),
        (
            "a second URI of another scheme",
            Box::new(|leaf| leaf.subject_alt_names.push(uri("https://example.org"))),
            SvidFault::UriNames(2),
        ),
        ("another scheme", Box::new(one_uri("https://example.org/a")), SvidFault::SpiffeId),
        ("no path", Box::new(one_uri("spiffe://example.org")), SvidFault::NoPath),
        ("a root path", Box::new(one_uri("spiffe://example.org/")), SvidFault::SpiffeId),
        ("an upper-case scheme", Box::new(one_uri("SPIFFE://example.org/a")), SvidFault::SpiffeId),
        ("an upper-case trust domain", Box::new(one_uri("spiffe://Example.org/a")), SvidFault::SpiffeId),
        ("an escape", Box::new(one_uri("spiffe://example.org/%61")), SvidFault::SpiffeId),
        ("a dot segment", Box::new(one_uri("spiffe://example.org/a/../b")), SvidFault::SpiffeId),
        ("a query", Box::new(one_uri("spiffe://example.org/a?b")), SvidFault::SpiffeId),
        ("a port", Box::new(one_uri("spiffe://example.org:443/a")), SvidFault::SpiffeId),
        ("user information", Box::new(one_uri("spiffe://u@example.org/a")), SvidFault::SpiffeId),
        ("a NUL", Box::new(one_uri("spiffe://example.org/a\0.evil.test")), SvidFault::SpiffeId),
        ("a line end", Box::new(one_uri("spiffe://example.org/a\n")), SvidFault::SpiffeId),
        (
            "bytes that are no UTF-8",
            Box::new(|leaf| {
                leaf.subject_alt_names.clear();
                leaf.custom_extensions.push(extension(&subject_alt_name, false, b"\x30\x04\x86\x02\xff\xfe"));
            }),
            SvidFault::SpiffeId,
        ),
        (
            "more than 2048 bytes",
            Box::new(|leaf| leaf.subject_alt_names = vec![uri(&format!("spiffe://example.org/{}", "a".repeat(2048)))]),
            SvidFault::SpiffeId,
        ),
        (
            "no subject and a SAN that is not critical",
            Box::new(|leaf| {
                leaf.distinguished_name = DistinguishedName::new();
                leaf.subject_alt_names.clear();
                leaf.custom_extensions.push(extension(&subject_alt_name, false, b"\x30\x18\x86\x16spiffe://example.org/a"));
            }),
            SvidFault::NamelessNotCritical,
        ),
        ("no basicConstraints", Box::new(|leaf| leaf.is_ca = IsCa::NoCa), SvidFault::NoBasicConstraints),
        ("a CA", Box::new(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), SvidFault::Authority),
        ("no keyUsage", Box::new(|leaf| leaf.key_usages.clear()), SvidFault::NoKeyUsage),
        (
            "a keyUsage that is not critical",
            Box::new(|leaf| {
                leaf.key_usages.clear();
                leaf.custom_extensions.push(extension(&key_usage, false, b"\x03\x02\x07\x80"));
            }),
            SvidFault::KeyUsageNotCritical,
        ),
        (
            "no digitalSignature",
            Box::new(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            SvidFault::NoDigitalSignature,
        ),
        ("keyCertSign", Box::new(|leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)), SvidFault::MaySign),
        ("cRLSign", Box::new(|leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)), SvidFault::MaySign),
        (
            "an extendedKeyUsage without clientAuth",
            Box::new(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            SvidFault::ExtendedKeyUsage,
        ),
        (
            "an extendedKeyUsage without serverAuth",
            Box::new(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            SvidFault::ExtendedKeyUsage,
        ),
        (
            "a repeated extension",
            Box::new(|leaf| leaf.custom_extensions.push(extension(&key_usage, true, b"\x03\x02\x07\x80"))),
            SvidFault::Encoding,
        ),
        (
            "an end before its beginning",
            Box::new(|leaf| std::mem::swap(&mut leaf.not_before, &mut leaf.not_after)),
            SvidFault::Validity,
        ),
    ];
    for (what, spoil, fault) in table {
        let mut leaf = svid(&agent(), hour()).unwrap();
        spoil(&mut leaf);
        let refusal = meet(&holder, rules(), &authority.sign(&leaf).unwrap()).unwrap_err();
        assert_eq!(refusal, PeerError::NotX509Svid(fault), "{what}");
        assert_eq!(refusal.code(), "not_x509_svid");
    }
}

#[test]
fn a_leaf_without_subject_or_purposes_is_right() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let mut leaf = svid(&agent(), hour()).unwrap();
    leaf.distinguished_name = DistinguishedName::new(); // rcgen then makes the SAN critical
    leaf.extended_key_usages.clear();
    leaf.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    assert_eq!(meet(&own_gate(&authority), rules(), &authority.sign(&leaf).unwrap()).unwrap().spiffe_id, agent());
}

#[test]
fn time_and_lifetime_are_held_to_the_second() {
    let authority = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&authority);
    let span = |not_before, not_after| Lifetime { not_before, not_after };
    let now = now();
    for (lifetime, code) in [
        (span(now - HOUR, now - 1), Some("expired")),
        (span(now + 2 * 60, now + HOUR), Some("not_yet_valid")),
        (span(now + 20, now + 30), None), // a clock 20 s behind, and a certificate that lives for ten
        (span(now - 5, now + 24 * HOUR), Some("lifetime")),
        (span(now - 5, now - 5 + 24 * HOUR), None),
    ] {
        let met = meet(&holder, rules(), &authority.issue(&agent(), lifetime).unwrap());
        assert_eq!(met.as_ref().err().map(PeerError::code), code, "{lifetime:?}");
    }
    let unlimited = ListenerRules { max_svid_lifetime: None, ..rules() };
    assert!(meet(&holder, unlimited, &authority.issue(&agent(), span(now - 5, now + 300 * 24 * HOUR)).unwrap()).is_ok());
}

#[test]
fn a_bundle_vouches_for_its_own_trust_domain_only() {
    let ours = Authority::new(&domain("example.org")).unwrap();
    let theirs = Authority::new(&domain("partner.test")).unwrap();
    let partner = id("spiffe://partner.test/agents/buyer");
    let holder = Arc::new(Holder::new(gate(&ours, &[("example.org", ours.ca_pem()), ("partner.test", theirs.ca_pem())])));
    let federated = ListenerRules { trust_domains: vec![domain("example.org"), domain("partner.test")], ..rules() };

    assert_eq!(meet(&holder, federated.clone(), &theirs.issue(&partner, hour()).unwrap()).unwrap().spiffe_id, partner);
    assert_eq!(meet(&holder, federated.clone(), &ours.issue(&agent(), hour()).unwrap()).unwrap().spiffe_id, agent());
    for (issuer, name) in [(&theirs, agent()), (&ours, partner.clone())] {
        let refusal = meet(&holder, federated.clone(), &issuer.issue(&name, hour()).unwrap()).unwrap_err();
        assert_eq!(refusal.code(), "chain", "{name}");
    }
    let refusal = meet(&holder, rules(), &theirs.issue(&partner, hour()).unwrap()).unwrap_err();
    assert_eq!(refusal, PeerError::TrustDomain(domain("partner.test")));
    let refusal = meet(&own_gate(&ours), federated, &theirs.issue(&partner, hour()).unwrap()).unwrap_err();
    assert_eq!(refusal, PeerError::NoBundle(domain("partner.test")));
}

#[test]
fn an_intermediate_is_followed_if_it_may_sign_and_only_then() {
    let root = Authority::new(&domain("example.org")).unwrap();
    let holder = own_gate(&root);
    let below = |change: &dyn Fn(&mut CertificateParams)| {
        let mut parameters = authority(root.trust_domain(), hour()).unwrap();
        change(&mut parameters);
        meet(&holder, rules(), &root.intermediate(parameters).unwrap().issue(&agent(), hour()).unwrap())
    };
    let code = |met: Result<Peer, PeerError>| met.unwrap_err().code();

    let peer = below(&|_| {}).unwrap();
    assert_eq!(peer.chain.len(), 2);
    let deep = authority(root.trust_domain(), hour()).unwrap();
    let deep = root.intermediate(deep.clone()).unwrap().intermediate(authority(root.trust_domain(), hour()).unwrap()).unwrap();
    assert_eq!(meet(&holder, rules(), &deep.issue(&agent(), hour()).unwrap()).unwrap().chain.len(), 3);

    assert_eq!(code(below(&|ca| ca.is_ca = IsCa::ExplicitNoCa)), "chain");
    assert_eq!(code(below(&|ca| ca.key_usages = vec![KeyUsagePurpose::DigitalSignature])), "chain");
    assert_eq!(code(below(&|ca| ca.not_after = ca.not_before + Duration::from_secs(1))), "expired");
    assert_eq!(code(below(&|ca| ca.custom_extensions.push(uri_name_constraint("example.org")))), "name_constraints");

    // One look-alike CA more than is looked at, although the right one is among them.
    let mut crowd = deep.issue(&agent(), hour()).unwrap();
    for _ in 0..7 {
        let parameters = authority(root.trust_domain(), hour()).unwrap();
        let other = root.intermediate(parameters).unwrap().issue(&agent(), hour()).unwrap().certificate_pem;
        crowd
            .certificate_pem
            .push_str(other.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap_or_else(|| panic!("{other}")));
    }
    let refusal = meet(&holder, rules(), &crowd).unwrap_err();
    assert!(matches!(refusal, PeerError::Chain { why: webpki::Error::MaximumPathDepthExceeded, .. }), "{refusal}");

    let mut alone = deep.issue(&agent(), hour()).unwrap();
    let leaf_end = alone.certificate_pem.find("-----END CERTIFICATE-----").unwrap() + 25;
    alone.certificate_pem.truncate(leaf_end);
    assert_eq!(code(meet(&holder, rules(), &alone)), "chain");
}

#[test]
fn a_root_with_uri_name_constraints_fails_closed_and_says_so() {
    let plain = Authority::new(&domain("example.org")).unwrap();
    let mut parameters = authority(&domain("example.org"), hour()).unwrap();
    parameters.custom_extensions.push(uri_name_constraint("example.org"));
    let constrained = Authority::self_signed(&domain("example.org"), parameters).unwrap();
    let both = format!("{}{}", plain.ca_pem(), constrained.ca_pem());
    let holder = Arc::new(Holder::new(gate(&plain, &[("example.org", &both)])));
    let refusal = meet(&holder, rules(), &constrained.issue(&agent(), hour()).unwrap()).unwrap_err();
    assert_eq!(refusal, PeerError::NameConstraints);
    assert!(refusal.to_string().contains("URI name constraints"));
}

#[test]
fn a_root_that_has_expired_vouches_for_nobody() {
    let fresh = Authority::new(&domain("example.org")).unwrap();
    let old = authority(&domain("example.org"), Lifetime { not_before: now() - HOUR, not_after: now() - 1 }).unwrap();
    let old = Authority::self_signed(&domain("example.org"), old).unwrap();
    let both = format!("{}{}", fresh.ca_pem(), old.ca_pem());
    let identity = gate(&fresh, &[("example.org", &both)]);
    assert!(matches!(identity.warnings(), [IdentityWarning::ExpiredAuthority { position: 2, .. }]));
    let holder = Arc::new(Holder::new(identity));
    assert_eq!(meet(&holder, rules(), &old.issue(&agent(), hour()).unwrap()).unwrap_err().code(), "expired");
    assert!(meet(&holder, rules(), &fresh.issue(&agent(), hour()).unwrap()).is_ok());
}

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

#[test]
fn every_mistake_in_the_files_is_reported_at_once() {
    let ours = Authority::new(&domain("example.org")).unwrap();
    let theirs = Authority::new(&domain("partner.test")).unwrap();
    let issued = ours.issue(&id("spiffe://example.org/gate"), hour()).unwrap();
    let other = ours.issue(&id("spiffe://example.org/gate"), hour()).unwrap();
    let mixed = Issued { certificate_pem: issued.certificate_pem.clone(), key_pem: other.key_pem };
    let bundle = ours.ca_pem();

    let mut files = Files::new("Example.org", &mixed, &[("B", bundle), ("b.test", ""), ("c.test", &issued.certificate_pem)]);
    let Source::Files(paths) = &mut files.config.source else { panic!("it reads files") };
    paths.bundles.insert("a.test".to_owned(), "/nonexistent/bundle.pem".into());
    let errors = files.errors();
    for (error, words) in errors.iter().zip([
        "`Example.org` is not a trust domain",
        "/svid.key: is not the key of /svid.pem",
        "`B` is not a trust domain",
        "/nonexistent/bundle.pem: cannot be read",
        "/b.test.pem: holds no CA certificate",
        "/c.test.pem: certificate 1 is not a CA",
    ]) {
        assert!(error.starts_with(words), "{error}");
    }
    assert_eq!(errors.len(), 6, "{errors:?}");

    let expired =
        ours.issue(&id("spiffe://example.org/gate"), Lifetime { not_before: now() - HOUR, not_after: now() - 1 }).unwrap();
    let broken = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n".to_owned();
    let cut_off = Issued { certificate_pem: issued.certificate_pem.clone(), key_pem: broken };
    let empty = Issued { certificate_pem: String::new(), key_pem: String::new() };
    for (files, words) in [
        (Files::new("example.org", &issued, &[]), vec!["there is no bundle for our own trust domain example.org"]),
        (
            Files::new("example.org", &issued, &[("example.org", theirs.ca_pem())]),
            vec!["/svid.pem: peers would refuse our own SVID: no CA"],
        ),
        (
            Files::new("example.org", &expired, &[("example.org", bundle)]),
            vec!["/svid.pem: peers would refuse our own SVID: the certificate"],
        ),
        (
            Files::new("partner.test", &issued, &[("partner.test", bundle)]),
            vec!["/svid.pem: is an SVID of trust domain example.org"],
        ),
        (Files::new("example.org", &cut_off, &[("example.org", bundle)]), vec!["/svid.key: is not PEM"]),
        (
            Files::new("example.org", &empty, &[("example.org", bundle)]),
            vec!["/svid.pem: holds no certificate", "/svid.key: holds no private key"],
        ),
    ] {
        let errors = files.errors();
        assert_eq!(errors.len(), words.len(), "{errors:?}");
        assert!(errors.iter().zip(&words).all(|(error, words)| error.starts_with(words)), "{errors:?}");
        assert!(!errors.concat().contains("c2VjcmV0"));
    }
}

#[test]
fn unwise_files_are_warned_about_and_no_key_is_ever_printed() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new(&domain("example.org")).unwrap();
    let issued = authority.issue(&id("spiffe://example.org/gate"), hour()).unwrap();
    let files = Files::new("example.org", &issued, &[("example.org", authority.ca_pem()), ("partner.test", authority.ca_pem())]);
    let key = files.directory.path().join("svid.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let identity = files.load();
    let shared = IdentityWarning::SharedAuthority { first: domain("example.org"), second: domain("partner.test") };
    assert_eq!(identity.warnings(), [IdentityWarning::ReadableKey { file: key, mode: 0o640 }, shared]);
    let printed = format!("{identity:?} {:?}", Holder::new(identity.clone()));
    assert!(printed.contains("spiffe_id") && !printed.contains("key"), "{printed}");
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
