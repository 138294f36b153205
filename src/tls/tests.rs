//! Real handshakes, in memory and over loopback, with every right certificate and every wrong one.

mod files;
mod handshakes;
mod peers;

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
