//! The throw-away CA of a run, and TLS for the load and the floor.
//!
//! In: SPIFFE IDs. Out: PEM files in the run's folder, and rustls configurations made from them. Both ends as the comparison has it:
//! TLS 1.3, P-256, no resumption and no tickets, so that every connection is a full handshake.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

pub const DOMAIN: &str = "example.org";
/// The one host every request names.
pub const HOST: &str = "localhost";

/// The SPIFFE ID of one agent of the reference policy's table.
pub fn agent(number: usize) -> String {
    format!("spiffe://{DOMAIN}/agents/a{number:05}")
}

/// Writes `ca.pem`, and for the gate and each named agent `NAME.pem`, `NAME.key` and `NAME.both.pem`.
pub fn issue(folder: &Path, agents: &[usize]) -> Result<()> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "bench");
    ca.subject_alt_names = vec![SanType::URI(format!("spiffe://{DOMAIN}").try_into()?)];
    (ca.not_before, ca.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2060, 1, 1));
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    std::fs::write(folder.join("ca.pem"), ca.pem())?;
    let gate = ("gate".to_owned(), format!("spiffe://{DOMAIN}/gate"));
    for (name, id) in agents.iter().map(|number| (format!("a{number:05}"), agent(*number))).chain([gate]) {
        let mut leaf = CertificateParams::default();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
        leaf.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        if name == "gate" {
            leaf.subject_alt_names.push(SanType::DnsName(HOST.try_into()?));
        }
        (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2060, 1, 1));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = leaf.signed_by(&key, &ca)?.pem();
        std::fs::write(folder.join(format!("{name}.pem")), &pem)?;
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        std::fs::write(folder.join(format!("{name}.both.pem")), format!("{pem}{}", key.serialize_pem()))?;
    }
    Ok(())
}

fn load(folder: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Arc<RootCertStore>)> {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    Ok((chain, key, Arc::new(roots)))
}

/// TLS 1.3 with AES-128-GCM and X25519, what all proxies here agree on.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

pub fn client(folder: &Path, name: &str, alpn: &[u8]) -> Result<ClientConfig> {
    let (chain, key, roots) = load(folder, name).with_context(|| format!("the certificate of {name}"))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

pub fn server(folder: &Path) -> Result<ServerConfig> {
    let (chain, key, roots) = load(folder, "gate")?;
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
