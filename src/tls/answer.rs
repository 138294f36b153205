//! From an answer of the SPIFFE Workload API to an identity.
//!
//! In: an answer, which of its SVIDs is ours, the time. Out: an [`Identity`], perhaps without an SVID, or why the answer is not taken.
//! Each answer is the whole state (SPIFFE_Workload_API.md 5.2): what a former one held and this one lacks has been taken back. So an
//! answer without our SVID is taken, and we have none; one that contradicts itself is not taken, and the last good one stays. The
//! `spiffe` crate looks at less than our peers will, so our SVID is held to the same rules as theirs.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use spiffe::{X509Bundle, X509Context, X509Svid};

use super::identity::{Bundle, Bundles, Identity, IdentityWarning, Svid};
use super::load::anchor;
use super::refusal::PeerError;
use super::verifier::{Terms, examine};
use crate::spiffe::{SpiffeId, TrustDomain};

/// Which of the SVIDs an agent gives us is ours: the first one that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub trust_domain: TrustDomain,
    /// Any of the trust domain when absent.
    pub spiffe_id: Option<SpiffeId>,
    /// The operator's word on the SVID; any when absent.
    pub hint: Option<String>,
}

/// Why an answer is not taken; the identity before it stays.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the key of {0} is of a kind that is not supported; let the SPIFFE agent's server issue ECDSA P-256 keys")]
    Key(SpiffeId),
    #[error("the key given with {0} is not its key; this is a fault of the SPIFFE agent")]
    KeyMismatch(SpiffeId),
    #[error("peers would refuse our own SVID {spiffe_id}: {error}")]
    Refused { spiffe_id: SpiffeId, error: Box<PeerError> },
    #[error(
        "the bundle of our own trust domain {0} holds no CA certificate, or something besides; mend it where the SPIFFE server is"
    )]
    Bundle(TrustDomain),
}

/// Why an answer that is taken leaves us without an SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("the SPIFFE agent gives us SVIDs of {found} only, and identity.trust_domain is {wanted}; change one of them")]
    TrustDomain { found: TrustDomain, wanted: TrustDomain },
    #[error(
        "the SPIFFE agent gives us no SVID that is as identity.source.workload_api names it (spiffe_id, hint); the first it gives is \
         {first}; change the configuration, or the registration entries of this gate"
    )]
    Named { first: SpiffeId },
}

impl Wanted {
    fn choose<'a>(&self, answer: &'a X509Context) -> Result<&'a X509Svid, Missing> {
        let ours = |svid: &&Arc<X509Svid>| *svid.spiffe_id().trust_domain() == self.trust_domain;
        let named = |svid: &&Arc<X509Svid>| {
            self.spiffe_id.as_ref().is_none_or(|wanted| svid.spiffe_id() == wanted)
                && self.hint.as_ref().is_none_or(|hint| svid.hint() == Some(hint))
        };
        let mut all = answer.svids().iter().filter(ours);
        if let Some(chosen) = all.clone().find(named) {
            return Ok(chosen);
        }
        let wanted = || self.trust_domain.clone();
        Err(match (all.next(), answer.default_svid()) {
            (Some(first), _) => Missing::Named { first: first.spiffe_id().clone() },
            (None, Some(first)) => Missing::TrustDomain { found: first.spiffe_id().trust_domain().clone(), wanted: wanted() },
            // The client refuses an answer without any; said all the same, because it is what it would mean.
            (None, None) => Missing::TrustDomain { found: wanted(), wanted: wanted() },
        })
    }
}

/// What an answer gives us, and why no SVID is in it where none is.
///
/// # Errors
/// When the answer contradicts itself.
pub fn given(answer: &X509Context, wanted: &Wanted, now: UnixTime) -> Result<(Identity, Option<Missing>), AnswerError> {
    let mut warnings = Vec::new();
    let bundles = bundles(answer, wanted, &mut warnings)?;
    match wanted.choose(answer) {
        Ok(chosen) => Ok((Identity::new(Some(svid(chosen, &bundles, now)?), bundles, warnings), None)),
        Err(missing) => Ok((Identity::new(None, bundles, warnings), Some(missing))),
    }
}

fn svid(chosen: &X509Svid, bundles: &Bundles, now: UnixTime) -> Result<Svid, AnswerError> {
    let spiffe_id = chosen.spiffe_id().clone();
    let chain: Vec<CertificateDer<'static>> =
        chosen.cert_chain().iter().map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec())).collect();
    let key = PrivatePkcs8KeyDer::from(chosen.private_key().as_bytes()).clone_key();
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key.into());
    let certified_key = CertifiedKey::new(chain, key.map_err(|_| AnswerError::Key(spiffe_id.clone()))?);
    certified_key.keys_match().map_err(|_| AnswerError::KeyMismatch(spiffe_id.clone()))?;
    let refused = |error| AnswerError::Refused { spiffe_id: spiffe_id.clone(), error: Box::new(error) };
    let (end, intermediates) = certified_key.cert.split_first().ok_or_else(|| refused(PeerError::NoCertificate))?;
    let terms = Terms { trust_domains: None, max_lifetime: None };
    let leaf = examine(bundles, &terms, end, intermediates, now).map_err(refused)?;
    Ok(Svid { spiffe_id: leaf.spiffe_id, not_after: leaf.not_after, certified_key: Arc::new(certified_key) })
}

/// The bundle of each trust domain the agent tells us to trust. An empty one withdraws its domain (SPIFFE_Trust_Domain_and_Bundle.md
/// 4.1). A fault in our own bundle refuses the answer; one in a federated bundle refuses that domain alone, because whoever runs the
/// other domain must not be able to stop our own SVID from being renewed.
fn bundles(answer: &X509Context, wanted: &Wanted, warnings: &mut Vec<IdentityWarning>) -> Result<Bundles, AnswerError> {
    let mut bundles = Bundles::default();
    for (domain, given) in answer.bundle_set().iter() {
        let ours = *domain == wanted.trust_domain;
        match bundle(given) {
            Some(bundle) if !bundle.anchors().is_empty() => {
                for (other, known) in &bundles.0 {
                    if known.shares_key(&bundle) {
                        warnings.push(IdentityWarning::SharedAuthority { first: other.clone(), second: domain.clone() });
                    }
                }
                bundles.0.insert(domain.clone(), bundle);
            }
            _ if ours => return Err(AnswerError::Bundle(domain.clone())),
            Some(_) => {}
            None => warnings.push(IdentityWarning::FaultyBundle { trust_domain: domain.clone() }),
        }
    }
    Ok(bundles)
}

/// `None` when something in it is no CA certificate.
fn bundle(given: &X509Bundle) -> Option<Bundle> {
    let mut bundle = Bundle::default();
    for authority in given.authorities() {
        let (anchor, validity) = anchor(&CertificateDer::from(authority.as_bytes()))?;
        bundle.add(anchor, validity);
    }
    Some(bundle)
}

#[cfg(test)]
mod tests;
