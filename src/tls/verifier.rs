//! Is this certificate chain acceptable? Asked in each handshake, and again when the bundles change.
//!
//! In: a chain, the bundles as they are now, the listener's rules, the time. Out: the leaf, or the reason it is refused.
//! Only the bundle of the trust domain the leaf names is looked at: with pooled roots, as in the verifiers rustls brings, a CA of a
//! federated domain could vouch for one of ours. Every question ends in [`examine`]; there is no second, shorter way in.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::ListenerRules;
use super::identity::{Bundle, Bundles, Holder, Identity};
use super::refusal::PeerError;
use super::svid::{Leaf, Peer};
use crate::spiffe::{Pattern, TrustDomain};

/// How far ahead of our clock a certificate may begin. Ends get no such grace.
const SKEW_SECONDS: u64 = 60;

/// More than any real chain has; path building over many look-alike CAs is where the CPU goes (RUSTSEC-2023-0053).
const MOST_INTERMEDIATES: usize = 8;

/// What is asked of a chain beyond the SPIFFE rules.
pub(super) struct Terms<'a> {
    /// Every domain that has a bundle when absent.
    pub(super) trust_domains: Option<&'a [TrustDomain]>,
    pub(super) max_lifetime: Option<Duration>,
}

/// Says whether a peer that was accepted once would be accepted now.
///
/// # Errors
/// The reason it would not.
pub fn admissible(identity: &Identity, rules: &ListenerRules, peer: &Peer, now: UnixTime) -> Result<(), PeerError> {
    let (end, intermediates) = peer.chain.split_first().ok_or(PeerError::NoCertificate)?;
    examine(identity.bundles(), &rules.terms(), end, intermediates, now).map(drop)
}

/// Reads the leaf, and holds it and its chain against every rule.
pub(super) fn examine(
    bundles: &Bundles,
    terms: &Terms<'_>,
    end: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Leaf, PeerError> {
    let leaf = Leaf::read(end)?;
    let trust_domain = leaf.spiffe_id.trust_domain();
    if terms.trust_domains.is_some_and(|accepted| !accepted.contains(trust_domain)) {
        return Err(PeerError::TrustDomain(trust_domain.clone()));
    }
    in_time(&leaf, terms.max_lifetime, now.as_secs())?;
    let bundle = bundles.get(trust_domain).ok_or_else(|| PeerError::NoBundle(trust_domain.clone()))?;
    chained(bundle, end, intermediates, now).map_err(|error| PeerError::from_path(error, trust_domain))?;
    Ok(leaf)
}

fn in_time(leaf: &Leaf, max_lifetime: Option<Duration>, now: u64) -> Result<(), PeerError> {
    if leaf.not_before > now.saturating_add(SKEW_SECONDS) {
        return Err(PeerError::NotYetValid { not_before: leaf.not_before });
    }
    if leaf.not_after < now {
        return Err(PeerError::Expired { not_after: leaf.not_after });
    }
    let lifetime = leaf.not_after.saturating_sub(leaf.not_before);
    match max_lifetime {
        Some(limit) if Duration::from_secs(lifetime) > limit => Err(PeerError::Lifetime { lifetime, limit: limit.as_secs() }),
        _ => Ok(()),
    }
}

/// RFC 5280 path validation against one bundle.
///
/// webpki takes a single time for both ends of each validity. A clock that is a little behind is answered by asking once more as of
/// the moment the certificate begins, never as of a later one: that would shorten the life of certificates that live for seconds.
fn chained(
    bundle: &Bundle,
    end: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), webpki::Error> {
    if intermediates.len() > MOST_INTERMEDIATES {
        return Err(webpki::Error::MaximumPathDepthExceeded);
    }
    let latest = now.as_secs().saturating_add(SKEW_SECONDS);
    match path(bundle, end, intermediates, now, now) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) if not_before.as_secs() <= latest => {
            path(bundle, end, intermediates, now, not_before)
        }
        answer => answer,
    }
}

fn path(
    bundle: &Bundle,
    end: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    as_of: UnixTime,
) -> Result<(), webpki::Error> {
    let signers = |path: &VerifiedPath<'_>| may_sign(bundle, path, now);
    EndEntityCert::try_from(end)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            bundle.anchors(),
            intermediates,
            as_of,
            KeyUsage::client_auth(),
            None,
            Some(&signers),
        )
        .map(drop)
}

/// What webpki leaves out about signers: keyUsage of intermediates, and whether the trust anchor itself is still valid.
fn may_sign(bundle: &Bundle, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| webpki::Error::BadDer)?;
        match certificate.key_usage() {
            Ok(Some(usage)) if usage.value.key_cert_sign() => {}
            // Absent means unrestricted (RFC 5280 4.2.1.3).
            Ok(None) => {}
            _ => return Err(webpki::Error::EndEntityUsedAsCa),
        }
    }
    bundle.in_force(path.anchor(), now, SKEW_SECONDS)
}

/// Accepts the SVIDs of downstream peers; reads the bundles anew at each handshake.
#[derive(Debug)]
pub(super) struct DownstreamVerifier {
    pub(super) holder: Arc<Holder>,
    pub(super) rules: ListenerRules,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for DownstreamVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.rules.require_certificate
    }

    /// Empty: names of CAs tell strangers whom we trust, and SPIFFE clients have one identity to offer.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        examine(self.holder.current().bundles(), &self.rules.terms(), end, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts the SVIDs of servers we connect to. The identity is the name that counts; the host name is not looked at.
#[derive(Debug)]
pub(super) struct UpstreamVerifier {
    pub(super) holder: Arc<Holder>,
    /// Any identity of a domain that has a bundle when absent.
    pub(super) expected: Option<Vec<Pattern>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let terms = Terms { trust_domains: None, max_lifetime: None };
        let leaf = examine(self.holder.current().bundles(), &terms, end, intermediates, now)?;
        match &self.expected {
            Some(expected) if !expected.iter().any(|pattern| pattern.matches(&leaf.spiffe_id)) => {
                Err(PeerError::Unexpected(leaf.spiffe_id).into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
