//! Who we are and whom we can check: our SVID and the bundles, as one immutable snapshot, and the one place the current one stands.
//!
//! In: the configured files, or an answer of the Workload API. Out: an [`Identity`], or every mistake at once. A snapshot is taken
//! whole or not at all, so a certificate never meets another one's key, and a file that breaks while we run leaves the last good
//! snapshot in force. A snapshot may be without an SVID: before the agent's first answer, and once it has taken ours back.
//! Resolver and verifiers read the [`Holder`] at each handshake: exchanging TLS configurations instead would need every listener to
//! take part, and would forget one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::load;
use super::refusal::PeerError;
use super::svid::Peer;
use super::{Config, Source};
use crate::spiffe::{SpiffeId, TrustDomain};

/// Our SVID and the bundles peers are checked against, at one moment.
#[derive(Clone)]
pub struct Identity {
    pub(super) revision: u64,
    /// The revision in which the bundles last changed.
    pub(super) bundle_revision: u64,
    pub(super) svid: Option<Svid>,
    pub(super) bundles: Bundles,
    pub(super) warnings: Vec<IdentityWarning>,
}

/// Our own X.509-SVID, with its key.
#[derive(Clone)]
pub(super) struct Svid {
    pub(super) spiffe_id: SpiffeId,
    pub(super) not_after: u64,
    pub(super) certified_key: Arc<CertifiedKey>,
}

/// The trust anchors of each trust domain; never pooled.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bundles(pub(super) BTreeMap<TrustDomain, Bundle>);

/// The trust anchors of one trust domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bundle {
    anchors: Vec<TrustAnchor<'static>>,
    /// Not before and not after of each anchor, in the same order: webpki drops them.
    validity: Vec<(u64, u64)>,
}

/// What is wrong with the configured identity; each names the file or key and the next step.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("`{text}` is not a trust domain; write a name in lower case, such as example.org, without spiffe:// and path")]
    TrustDomain { text: String },
    #[error("there is no bundle for our own trust domain {0}; name its file under identity.source.files.bundles")]
    NoOwnBundle(TrustDomain),
    #[error("{}: cannot be read: {error}; check the path and who may read it", file.display())]
    Unreadable { file: PathBuf, error: std::io::Error },
    #[error("{}: is not PEM, or a section in it is cut off; write the file anew", file.display())]
    NotPem { file: PathBuf },
    #[error("{}: holds no certificate; put our X.509-SVID there, leaf first", file.display())]
    NoCertificate { file: PathBuf },
    #[error("{}: holds no private key; put the SVID's key there as PKCS#8 or SEC1 PEM", file.display())]
    NoKey { file: PathBuf },
    #[error("{}: holds a private key of a kind that is not supported; use ECDSA P-256", file.display())]
    Key { file: PathBuf },
    #[error("{}: is not the key of {}; both must come from the same issuance", key.display(), certificate.display())]
    KeyMismatch { key: PathBuf, certificate: PathBuf },
    #[error("{}: is an SVID of trust domain {found}, and identity.trust_domain is {wanted}; change one of them", file.display())]
    OtherTrustDomain { file: PathBuf, found: TrustDomain, wanted: TrustDomain },
    #[error("{}: peers would refuse our own SVID: {error}", file.display())]
    Refused { file: PathBuf, error: PeerError },
    #[error("{}: holds no CA certificate, so no SVID of {trust_domain} could be checked; put the domain's roots there", file.display())]
    NoAuthority { file: PathBuf, trust_domain: TrustDomain },
    #[error("{}: holds no CA certificate; put the roots there that vouch for the server", file.display())]
    NoRoots { file: PathBuf },
    #[error("this machine has no CA certificates of its own; install them (ca-certificates), or name a file with `tls: {{ca: …}}`")]
    NoSystemRoots,
    #[error("{}: certificate {position} is not a CA; a bundle holds CA certificates only, or a workload's key could issue SVIDs", file.display())]
    NotAuthority { file: PathBuf, position: usize },
}

/// What is unwise about the configured identity, but works.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityWarning {
    #[error("{}: others than its owner may read the private key (mode {mode:o}); set mode 0600", file.display())]
    ReadableKey { file: PathBuf, mode: u32 },
    #[error("trust domains {first} and {second} share a CA, so each can vouch for workloads of the other; give each its own")]
    SharedAuthority { first: TrustDomain, second: TrustDomain },
    #[error("{}: certificate {position} has expired and vouches for nobody; remove it", file.display())]
    ExpiredAuthority { file: PathBuf, position: usize },
    #[error(
        "the bundle of the federated trust domain {trust_domain} holds what is not a CA certificate, so its SVIDs are refused; whoever \
         runs that domain must mend its bundle"
    )]
    FaultyBundle { trust_domain: TrustDomain },
}

impl Identity {
    /// Reads the configured files; [`Identity::none`] where there are none, because the Workload API has yet to answer.
    ///
    /// # Errors
    /// Every mistake found, in the order of the configuration.
    pub fn load(config: &Config, now: UnixTime) -> Result<Self, Vec<IdentityError>> {
        match &config.source {
            Source::Files(files) => load::identity(&config.trust_domain, files, now),
            Source::WorkloadApi(_) => Ok(Self::none()),
        }
    }

    /// Nobody: no SVID to present and no bundle to check others by. Where the Workload API has not answered, or has denied us.
    pub fn none() -> Self {
        Self::new(None, Bundles::default(), Vec::new())
    }

    pub(super) fn new(svid: Option<Svid>, bundles: Bundles, warnings: Vec<IdentityWarning>) -> Self {
        Self { revision: 1, bundle_revision: 1, svid, bundles, warnings }
    }

    /// Counts the snapshots a [`Holder`] has held; 1 for the first.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision in which the bundles last changed: peers admitted since need not be looked at again. Our own SVID changes many
    /// times as often, and no peer is better or worse for it.
    pub fn bundle_revision(&self) -> u64 {
        self.bundle_revision
    }

    /// The SPIFFE ID we present; none without an SVID.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.svid.as_ref().map(|svid| &svid.spiffe_id)
    }

    /// When our SVID expires, in Unix seconds; 0, long ago, without one.
    pub fn not_after(&self) -> u64 {
        self.svid.as_ref().map_or(0, |svid| svid.not_after)
    }

    /// Says whether we have an SVID that has not expired.
    pub fn is_presentable(&self, now: UnixTime) -> bool {
        now.as_secs() <= self.not_after()
    }

    /// Our certificate chain, leaf first; empty without an SVID.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        self.svid.as_ref().map(|svid| svid.certified_key.cert.as_slice()).unwrap_or_default()
    }

    /// Says whether another snapshot would change nothing for anybody.
    pub fn is_same(&self, other: &Self) -> bool {
        self.certificates() == other.certificates() && self.bundles == other.bundles && self.warnings == other.warnings
    }

    /// The trust domains whose SVIDs can be checked.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.bundles.0.keys()
    }

    /// Ourselves as a peer, for callers who stand behind our own identity; `None` from the second our SVID ends in, when whoever was
    /// admitted by it is let go.
    pub fn as_peer(&self, now: UnixTime) -> Option<Peer> {
        Peer::read(self.certificates()).ok().filter(|_| now.as_secs() < self.not_after())
    }

    /// What is unwise about it, for whoever logs.
    pub fn warnings(&self) -> &[IdentityWarning] {
        &self.warnings
    }

    pub(super) fn bundles(&self) -> &Bundles {
        &self.bundles
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand, so that a key never gets into a log through a derived Debug.
        f.debug_struct("Identity")
            .field("revision", &self.revision)
            .field("spiffe_id", &self.spiffe_id())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

impl Bundles {
    pub(super) fn get(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.0.get(trust_domain)
    }
}

impl Bundle {
    pub(super) fn add(&mut self, anchor: TrustAnchor<'static>, validity: (u64, u64)) {
        self.anchors.push(anchor);
        self.validity.push(validity);
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(super) fn shares_key(&self, other: &Self) -> bool {
        let keys = |bundle: &Self| bundle.anchors.iter().map(|anchor| anchor.subject_public_key_info.to_vec()).collect::<Vec<_>>();
        let theirs = keys(other);
        keys(self).iter().any(|key| theirs.contains(key))
    }

    /// Says whether `anchor` is valid now; one of several certificates of the same CA is enough.
    pub(super) fn in_force(&self, anchor: &TrustAnchor<'_>, now: UnixTime, skew: u64) -> Result<(), webpki::Error> {
        let now_seconds = now.as_secs();
        let same = || self.anchors.iter().zip(&self.validity).filter(|(known, _)| *known == anchor).map(|(_, validity)| *validity);
        if same().any(|(not_before, not_after)| not_before <= now_seconds.saturating_add(skew) && now_seconds <= not_after) {
            return Ok(());
        }
        let last = same().map(|(_, not_after)| not_after).max().unwrap_or_default();
        Err(webpki::Error::CertExpired { time: now, not_after: UnixTime::since_unix_epoch(std::time::Duration::from_secs(last)) })
    }
}

/// The current [`Identity`]; shared by every listener, worker and upstream connector.
pub struct Holder {
    current: RwLock<Arc<Identity>>,
}

impl Holder {
    /// Holds the first identity, as revision 1.
    pub fn new(mut identity: Identity) -> Self {
        (identity.revision, identity.bundle_revision) = (1, 1);
        Self { current: RwLock::new(Arc::new(identity)) }
    }

    /// The identity in force.
    pub fn current(&self) -> Arc<Identity> {
        // A poisoned lock still holds a whole snapshot: it is exchanged in one store.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another identity in force for every handshake from now on, and returns it with its revision.
    ///
    /// Open connections stay; whoever holds them asks [`super::admissible`] about each.
    pub fn replace(&self, mut identity: Identity) -> Arc<Identity> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        identity.revision = current.revision.saturating_add(1);
        let same = identity.bundles == current.bundles;
        identity.bundle_revision = if same { current.bundle_revision } else { identity.revision };
        *current = Arc::new(identity);
        Arc::clone(&current)
    }

    /// Our certificate and key, unless they have expired: an outage with a name is better than peers that guess.
    fn presentable(&self) -> Option<Arc<CertifiedKey>> {
        let identity = self.current();
        let svid = identity.svid.as_ref().filter(|_| identity.is_presentable(UnixTime::now()))?;
        Some(Arc::clone(&svid.certified_key))
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Holder").field(&self.current()).finish()
    }
}

impl ResolvesServerCert for Holder {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.presentable()
    }
}

impl ResolvesClientCert for Holder {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.presentable()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A trust domain only as it is written canonically.
///
/// # Errors
/// When the text is not one; `TrustDomain::new` would take upper case and whole SPIFFE IDs.
pub fn trust_domain(text: &str) -> Result<TrustDomain, IdentityError> {
    let wrong = || IdentityError::TrustDomain { text: text.to_owned() };
    TrustDomain::new(text).ok().filter(|domain| domain.as_str() == text).ok_or_else(wrong)
}
