//! From the configured files to an identity.
//!
//! In: the `identity` part of the configuration with its files, and the time. Out: a whole [`Identity`], or every mistake in it.
//! Bundles are held to more than webpki asks: it takes any certificate as a trust anchor, so a workload's own SVID put into a
//! bundle by mistake would make that workload a CA.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use rustls::sign::{CertifiedKey, SigningKey};

use super::Files;
use super::identity::{Bundle, Bundles, Identity, IdentityError, IdentityWarning, Svid, trust_domain};
use super::refusal::PeerError;
use super::svid::{Leaf, validity};
use super::verifier::{Terms, examine};
use crate::spiffe::TrustDomain;

/// Mistakes and warnings, gathered so that a reader gets all of them at once.
#[derive(Default)]
struct Findings {
    errors: Vec<IdentityError>,
    warnings: Vec<IdentityWarning>,
}

impl Findings {
    fn keep<T>(&mut self, found: Result<T, IdentityError>) -> Option<T> {
        found.map_err(|error| self.errors.push(error)).ok()
    }
}

pub(super) fn identity(own: &str, files: &Files, now: UnixTime) -> Result<Identity, Vec<IdentityError>> {
    let mut findings = Findings::default();
    let own_domain = findings.keep(trust_domain(own));
    let certified_key = pair(files, &mut findings);
    let bundles = bundles(files, now, &mut findings);
    let leaf = match (&own_domain, &certified_key) {
        (Some(own_domain), Some(key)) => {
            let leaf = own_leaf(&files.certificate, &key.cert, own_domain, &bundles, now);
            findings.keep(leaf)
        }
        _ => None,
    };
    match &own_domain {
        Some(domain) if !files.bundles.contains_key(domain.as_str()) => {
            findings.errors.push(IdentityError::NoOwnBundle(domain.clone()));
        }
        _ => {}
    }
    match (leaf, certified_key) {
        (Some(leaf), Some(key)) if findings.errors.is_empty() => {
            let svid = Svid { spiffe_id: leaf.spiffe_id, not_after: leaf.not_after, certified_key: Arc::new(key) };
            Ok(Identity::new(Some(svid), bundles, findings.warnings))
        }
        _ => Err(findings.errors),
    }
}

/// Certificate and key; each is looked at even when the other one is missing.
fn pair(files: &Files, findings: &mut Findings) -> Option<CertifiedKey> {
    let chain = certificates(&files.certificate).and_then(|chain| match chain.is_empty() {
        true => Err(IdentityError::NoCertificate { file: files.certificate.clone() }),
        false => Ok(chain),
    });
    let chain = findings.keep(chain);
    let key = findings.keep(private_key(&files.private_key));
    findings.warnings.extend(readable_key(&files.private_key));
    let pair = CertifiedKey::new(chain?, key?);
    let (key, certificate) = (files.private_key.clone(), files.certificate.clone());
    findings.keep(pair.keys_match().map(|()| pair).map_err(|_| IdentityError::KeyMismatch { key, certificate }))
}

/// Our own leaf, held to what peers will hold it to.
fn own_leaf(
    file: &Path,
    chain: &[CertificateDer<'static>],
    own_domain: &TrustDomain,
    bundles: &Bundles,
    now: UnixTime,
) -> Result<Leaf, IdentityError> {
    let refused = |error: PeerError| IdentityError::Refused { file: file.to_owned(), error };
    let (end, intermediates) = chain.split_first().ok_or_else(|| refused(PeerError::NoCertificate))?;
    let leaf = Leaf::read(end).map_err(|fault| refused(fault.into()))?;
    let found = leaf.spiffe_id.trust_domain();
    if found != own_domain {
        return Err(IdentityError::OtherTrustDomain { file: file.to_owned(), found: found.clone(), wanted: own_domain.clone() });
    }
    match bundles.get(own_domain) {
        // A missing or broken bundle is reported where it stands; blaming the SVID for it too would mislead.
        None => Ok(leaf),
        Some(_) => examine(bundles, &Terms { trust_domains: None, max_lifetime: None }, end, intermediates, now).map_err(refused),
    }
}

/// Every bundle that could be read.
fn bundles(files: &Files, now: UnixTime, findings: &mut Findings) -> Bundles {
    let mut bundles = Bundles::default();
    for (name, file) in &files.bundles {
        let domain = findings.keep(trust_domain(name));
        let Some(authorities) = findings.keep(certificates(file)) else { continue };
        let Some(domain) = domain else { continue };
        if authorities.is_empty() {
            findings.errors.push(IdentityError::NoAuthority { file: file.clone(), trust_domain: domain });
            continue;
        }
        let bundle = bundle(file, &authorities, now, findings);
        for (other, known) in &bundles.0 {
            if known.shares_key(&bundle) {
                findings.warnings.push(IdentityWarning::SharedAuthority { first: other.clone(), second: domain.clone() });
            }
        }
        bundles.0.insert(domain, bundle);
    }
    bundles
}

fn bundle(file: &Path, authorities: &[CertificateDer<'static>], now: UnixTime, findings: &mut Findings) -> Bundle {
    let mut bundle = Bundle::default();
    for (position, certificate) in (1..).zip(authorities) {
        let Some((anchor, validity)) = anchor(certificate) else {
            findings.errors.push(IdentityError::NotAuthority { file: file.to_owned(), position });
            continue;
        };
        if validity.1 < now.as_secs() {
            findings.warnings.push(IdentityWarning::ExpiredAuthority { file: file.to_owned(), position });
        }
        bundle.add(anchor, validity);
    }
    bundle
}

/// A signing certificate as a trust anchor: cA=true and, where keyUsage is there, keyCertSign (X509-SVID.md 4.1, 4.3).
pub(super) fn anchor(certificate: &CertificateDer<'_>) -> Option<(TrustAnchor<'static>, (u64, u64))> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let is_authority = parsed.basic_constraints().ok()?.is_some_and(|constraints| constraints.value.ca);
    let signs = parsed.key_usage().ok()?.is_none_or(|usage| usage.value.key_cert_sign());
    let anchor = webpki::anchor_from_trusted_cert(certificate).ok()?.to_owned();
    (is_authority && signs).then(|| (anchor, validity(&parsed)))
}

/// The CA certificates of a file, for servers that know no SPIFFE.
///
/// # Errors
/// When the file cannot be read, holds none, or holds one that is not a CA.
pub fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found = certificates(file)?;
    if found.is_empty() {
        return Err(IdentityError::NoRoots { file: file.to_owned() });
    }
    match (1..).zip(&found).find(|(_, certificate)| anchor(certificate).is_none()) {
        Some((position, _)) => Err(IdentityError::NotAuthority { file: file.to_owned(), position }),
        None => Ok(found),
    }
}

/// The CA certificates this machine trusts, for servers in the open: where the system keeps them, or the file SSL_CERT_FILE names.
///
/// # Errors
/// When there are none.
pub fn system_authorities() -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let mut found = rustls_native_certs::load_native_certs().certs;
    // Of a hundred there are always some that are no CA by the letter; they vouch for nobody here.
    found.retain(|certificate| anchor(certificate).is_some());
    if found.is_empty() { Err(IdentityError::NoSystemRoots) } else { Ok(found) }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    // The PEM parser's own words quote the line it stumbled over, and that line can be a key's.
    CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|_: PemError| IdentityError::NotPem { file: file.to_owned() })
}

fn private_key(file: &Path) -> Result<Arc<dyn SigningKey>, IdentityError> {
    let key = PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        PemError::NoItemsFound => IdentityError::NoKey { file: file.to_owned() },
        _ => IdentityError::NotPem { file: file.to_owned() },
    })?;
    let provider = aws_lc_rs::default_provider();
    provider.key_provider.load_private_key(key).map_err(|_| IdentityError::Key { file: file.to_owned() })
}

fn read(file: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(file).map_err(|error| IdentityError::Unreadable { file: file.to_owned(), error })
}

fn readable_key(file: &Path) -> Option<IdentityWarning> {
    let mode = fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| IdentityWarning::ReadableKey { file: file.to_owned(), mode })
}
