//! One certificate held against the X.509-SVID leaf rules, and the peer it proves once its chain is accepted.
//!
//! In: DER. Out: who it names and for how long, or the rule it breaks. Nothing here looks at signatures: until the verifier has
//! found a chain, what is read is a claim. The rules stand here because rustls-webpki looks at none of them: it ignores keyUsage,
//! takes any number of URI SANs, and does not ask for basicConstraints.

use std::sync::Arc;

use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::refusal::{PeerError, SvidFault};
use crate::spiffe::SpiffeId;

/// SPIFFE-ID.md 2.3: longer ones need not be supported, and ours end up in records and headers.
const LONGEST_SPIFFE_ID: usize = 2048;

/// The context-specific tag of uniformResourceIdentifier in GeneralName (RFC 5280 4.2.1.6).
const URI_TAG: u32 = 6;

/// The workload on the other end of a connection, as its certificate proved it in the handshake.
#[derive(Clone, Debug)]
pub struct Peer {
    pub spiffe_id: SpiffeId,
    /// Lower-case hex, without leading zero bytes.
    pub serial: String,
    /// SHA-256 of the leaf's DER, in lower-case hex.
    pub sha256: String,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    pub lifetime_seconds: u64,
    /// As sent in the handshake, leaf first: enough to ask again when the bundles change.
    pub chain: Arc<[CertificateDer<'static>]>,
}

/// What a certificate says about itself, and that it keeps the leaf rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) spiffe_id: SpiffeId,
    pub(super) serial: String,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

/// The peer of a connection whose handshake is complete; none where it presented no certificate and needed none.
///
/// The certificates rustls keeps are those its verifier, ours, accepted.
///
/// # Errors
/// When the certificate is not an X.509-SVID, which the verifier has ruled out.
pub fn peer(connection: &CommonState) -> Result<Option<Peer>, PeerError> {
    connection.peer_certificates().map(Peer::read).transpose()
}

impl Peer {
    pub(super) fn read(chain: &[CertificateDer<'static>]) -> Result<Self, PeerError> {
        let end = chain.first().ok_or(PeerError::NoCertificate)?;
        let leaf = Leaf::read(end)?;
        Ok(Self {
            spiffe_id: leaf.spiffe_id,
            serial: leaf.serial,
            sha256: hex(&Sha256::digest(end)),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            lifetime_seconds: leaf.not_after.saturating_sub(leaf.not_before),
            chain: chain.into(),
        })
    }
}

impl Leaf {
    /// Reads a certificate and refuses it at the first rule it breaks.
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, SvidFault> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| SvidFault::Encoding)?;
        if !rest.is_empty() {
            return Err(SvidFault::Encoding);
        }
        let spiffe_id = identity(&certificate)?;
        may_not_sign(&certificate)?;
        purpose(&certificate)?;
        let (not_before, not_after) = validity(&certificate);
        if not_after < not_before {
            return Err(SvidFault::Validity);
        }
        Ok(Self { spiffe_id, serial: serial(&certificate), not_before, not_after })
    }
}

/// From when to when a certificate is valid, in Unix seconds; what lies before 1970 counts as 1970.
pub(super) fn validity(certificate: &X509Certificate<'_>) -> (u64, u64) {
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    (seconds(certificate.validity().not_before), seconds(certificate.validity().not_after))
}

/// Exactly one URI SAN, and in it, byte for byte, a SPIFFE ID with a path (X509-SVID.md 2, 5.2).
fn identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidFault> {
    let names = certificate.subject_alternative_name().map_err(|_| SvidFault::Encoding)?.ok_or(SvidFault::UriNames(0))?;
    if certificate.subject().iter().next().is_none() && !names.critical {
        return Err(SvidFault::NamelessNotCritical);
    }
    let is_uri = |name: &&GeneralName<'_>| match name {
        GeneralName::URI(_) => true,
        // Bytes that are no UTF-8 are still a URI SAN, only a broken one.
        GeneralName::Invalid(tag, _) => tag.0 == URI_TAG,
        _ => false,
    };
    let mut uris = names.value.general_names.iter().filter(is_uri);
    match (uris.next(), uris.next()) {
        (Some(GeneralName::URI(text)), None) => spiffe_id(text),
        (Some(_), None) => Err(SvidFault::SpiffeId),
        (first, second) => Err(SvidFault::UriNames(usize::from(first.is_some()) + usize::from(second.is_some()) + uris.count())),
    }
}

/// A SPIFFE ID only as it is written canonically: an identity that was repaired is one nobody registered.
fn spiffe_id(text: &str) -> Result<SpiffeId, SvidFault> {
    if text.len() > LONGEST_SPIFFE_ID || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SvidFault::SpiffeId);
    }
    let id = SpiffeId::new(text).map_err(|_| SvidFault::SpiffeId)?;
    if id.to_string() != text {
        return Err(SvidFault::SpiffeId);
    }
    if id.path().is_empty() {
        return Err(SvidFault::NoPath);
    }
    Ok(id)
}

/// cA=false, written out, and a critical keyUsage that signs handshakes and nothing else (X509-SVID.md 4.1, 4.3).
fn may_not_sign(certificate: &X509Certificate<'_>) -> Result<(), SvidFault> {
    let constraints = certificate.basic_constraints().map_err(|_| SvidFault::Encoding)?.ok_or(SvidFault::NoBasicConstraints)?;
    if constraints.value.ca {
        return Err(SvidFault::Authority);
    }
    let usage = certificate.key_usage().map_err(|_| SvidFault::Encoding)?.ok_or(SvidFault::NoKeyUsage)?;
    if !usage.critical {
        return Err(SvidFault::KeyUsageNotCritical);
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(SvidFault::MaySign);
    }
    if !usage.value.digital_signature() {
        return Err(SvidFault::NoDigitalSignature);
    }
    Ok(())
}

/// An extendedKeyUsage may be absent; one that is there names both ends of a connection (X509-SVID.md 4.4).
fn purpose(certificate: &X509Certificate<'_>) -> Result<(), SvidFault> {
    match certificate.extended_key_usage().map_err(|_| SvidFault::Encoding)? {
        Some(usage) if !(usage.value.client_auth && usage.value.server_auth) => Err(SvidFault::ExtendedKeyUsage),
        _ => Ok(()),
    }
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    let bytes = certificate.raw_serial();
    let zeroes = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len().saturating_sub(1));
    hex(bytes.get(zeroes..).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    // Twenty times quicker than a format a byte, and each handshake does it twice.
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
