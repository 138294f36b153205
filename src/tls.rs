//! Certificates: our SVID, the bundles peers are checked against, and the TLS configurations made from both.
//!
//! In: the `identity` part of the configuration and a listener's rules. Out: rustls configurations whose verifiers are ours, the
//! [`Peer`] a handshake proved, and the reason where it failed.
//! What must stay true: nothing is resumed and nothing arrives early, because a resumed session would skip the peer's verification;
//! and identities change inside the [`Holder`], never by exchanging a configuration, so that a swap drops no connection.

mod answer;
mod identity;
mod load;
mod refusal;
mod svid;
mod verifier;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

pub use answer::{AnswerError, Missing, Wanted, given};
pub use identity::{Holder, Identity, IdentityError, IdentityWarning, trust_domain};
pub use load::{authorities, system_authorities};
pub use refusal::{PeerError, SvidFault, doubts_peer, reason};
pub use svid::{Peer, peer};
pub use verifier::admissible;

use crate::spiffe::{Pattern, TrustDomain};
use verifier::{DownstreamVerifier, Terms, UpstreamVerifier};

/// `identity`: who we are, and whose certificates we can check.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Our own trust domain, such as example.org.
    pub trust_domain: String,
    pub source: Source,
}

/// Where our SVID and the bundles come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "SourceKeys")]
pub enum Source {
    Files(Files),
    WorkloadApi(WorkloadApi),
}

/// How a [`Source`] is written: one key or the other. Not derived from the enum, because a schema of alternatives cannot say which
/// key of which of them is misspelt.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourceKeys {
    #[serde(default)]
    files: Option<Files>,
    #[serde(default)]
    workload_api: Option<WorkloadApi>,
}

/// The sentence about a source that is none, or two.
pub const ONE_SOURCE: &str = "there must be one source: write either `files` or `workload_api`";

impl TryFrom<SourceKeys> for Source {
    type Error = &'static str;

    fn try_from(keys: SourceKeys) -> Result<Self, &'static str> {
        match (keys.files, keys.workload_api) {
            (Some(files), None) => Ok(Self::Files(files)),
            (None, Some(workload_api)) => Ok(Self::WorkloadApi(workload_api)),
            (Some(_), Some(_)) | (None, None) => Err(ONE_SOURCE),
        }
    }
}

impl JsonSchema for Source {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        SourceKeys::json_schema(generator)
    }
}

/// The SPIFFE Workload API of the agent on this machine, which streams our SVID and the bundles.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadApi {
    /// The agent's socket, such as unix:///run/spire/agent.sock; the variable SPIFFE_ENDPOINT_SOCKET when absent.
    pub endpoint: Option<String>,
    /// Which SVID is ours where the agent gives us several; the first one when absent.
    pub spiffe_id: Option<String>,
    /// The same by the hint its registration entry carries.
    pub hint: Option<String>,
}

/// PEM files, looked at again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Our X.509-SVID, leaf first, then intermediates.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8 or SEC1.
    pub private_key: PathBuf,
    /// Trust domain → file with its CA certificates.
    pub bundles: BTreeMap<String, PathBuf>,
}

/// The oldest TLS version a listener speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
pub enum MinimumVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// What one listener asks of its peers.
#[derive(Clone, Debug)]
pub struct ListenerRules {
    /// Whose peers may connect; each is checked against its own bundle.
    pub trust_domains: Vec<TrustDomain>,
    /// A certificate that lives longer is refused.
    pub max_svid_lifetime: Option<Duration>,
    pub minimum: MinimumVersion,
    /// False only where a health path answers callers without a certificate; one that is presented is verified all the same.
    pub require_certificate: bool,
}

impl ListenerRules {
    fn terms(&self) -> Terms<'_> {
        Terms { trust_domains: Some(&self.trust_domains), max_lifetime: self.max_svid_lifetime }
    }
}

impl MinimumVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static ONLY_TLS13: [&SupportedProtocolVersion; 1] = [&version::TLS13];
        match self {
            Self::Tls12 => rustls::ALL_VERSIONS,
            Self::Tls13 => &ONLY_TLS13,
        }
    }
}

/// The TLS side of a listener: our SVID, the peer's verified, HTTP/2 and HTTP/1.1 by ALPN.
///
/// # Errors
/// When the crypto provider cannot speak the asked versions.
pub fn server_config(holder: Arc<Holder>, rules: ListenerRules) -> Result<ServerConfig, rustls::Error> {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let versions = rules.minimum.versions();
    let verifier = Arc::new(DownstreamVerifier { holder: Arc::clone(&holder), rules, algorithms });
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(holder);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // No way to resume, in any version: no memory, no tickets (the ticketer is rustls' default that makes none), no early data.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.require_ems = true;
    Ok(config)
}

/// The client side: presents our SVID and accepts servers by SPIFFE ID; with `expected` absent, any whose domain has a bundle.
///
/// The host name is not looked at. ALPN offers h2 and http/1.1; a caller that speaks one of them narrows `alpn_protocols`.
///
/// # Errors
/// When the crypto provider cannot speak the asked versions.
pub fn client_config(holder: Arc<Holder>, expected: Option<Vec<Pattern>>) -> Result<ClientConfig, rustls::Error> {
    let provider = aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(UpstreamVerifier { holder: Arc::clone(&holder), expected, algorithms });
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(MinimumVersion::Tls12.versions())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(holder);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The client side toward servers that know no SPIFFE: their host name, vouched for by one of `authorities`. Our SVID is shown where
/// `presents` has it.
///
/// # Errors
/// When an authority cannot be a trust anchor, or the crypto provider cannot speak the asked versions.
pub fn web_client_config(
    authorities: &[CertificateDer<'static>],
    presents: Option<Arc<Holder>>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let building = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(MinimumVersion::Tls12.versions())?
        .with_webpki_verifier(verifier);
    let mut config = match presents {
        Some(holder) => building.with_client_cert_resolver(holder),
        None => building.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
