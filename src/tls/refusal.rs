//! Why a peer is refused, and the one word each failed handshake is counted under.
//!
//! In: what the verifier found, or the I/O error the TLS acceptor returned. Out: a sentence for the operator, and a label of a
//! closed set for `portcullis_handshake_errors_total{reason}`. Nothing the peer wrote stands in either: a certificate is unproven
//! text until its chain is, and log lines and labels are where such text does harm.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible};

use crate::spiffe::{SpiffeId, TrustDomain};

/// Why a peer's certificate chain is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the peer presented no certificate; give it an X.509-SVID")]
    NoCertificate,
    #[error("the certificate is not an X.509-SVID: {0}")]
    NotX509Svid(#[from] SvidFault),
    #[error("peers of trust domain {0} may not connect here; name it in the listener's trust_domains if they should")]
    TrustDomain(TrustDomain),
    #[error("there is no bundle for trust domain {0}; add one to identity.source.files.bundles, or federate with it in SPIRE")]
    NoBundle(TrustDomain),
    #[error("the certificate, or a CA above it, is not valid before Unix time {not_before}; check both clocks")]
    NotYetValid { not_before: u64 },
    #[error("the certificate, or a CA above it, expired at Unix time {not_after}; renew it")]
    Expired { not_after: u64 },
    #[error("the certificate lives for {lifetime} s, and max_svid_lifetime is {limit} s; issue shorter ones")]
    Lifetime { lifetime: u64, limit: u64 },
    #[error(
        "a CA in the chain carries name constraints the certificate does not meet, or URI name constraints, which cannot be checked and \
         are therefore refused; issue from a CA without URI name constraints"
    )]
    NameConstraints,
    #[error("no CA in the bundle of trust domain {trust_domain} vouches for the certificate: {why}")]
    Chain { trust_domain: TrustDomain, why: webpki::Error },
    #[error("{0} answered, which is not one of the identities expected there")]
    Unexpected(SpiffeId),
}

/// Which X.509-SVID rule a certificate breaks (X509-SVID.md 2 to 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidFault {
    #[error("it cannot be parsed, or repeats an extension")]
    Encoding,
    #[error("it has {0} URI SANs instead of exactly one")]
    UriNames(usize),
    #[error("its URI SAN is not a canonical SPIFFE ID")]
    SpiffeId,
    #[error("its SPIFFE ID has no path, so it names a trust domain and not a workload")]
    NoPath,
    #[error("its subject is empty and its subjectAltName is not critical")]
    NamelessNotCritical,
    #[error("it has no basicConstraints; cA=false must be written")]
    NoBasicConstraints,
    #[error("it is a CA certificate")]
    Authority,
    #[error("it has no keyUsage")]
    NoKeyUsage,
    #[error("its keyUsage is not critical")]
    KeyUsageNotCritical,
    #[error("its keyUsage lacks digitalSignature")]
    NoDigitalSignature,
    #[error("its keyUsage has keyCertSign or cRLSign")]
    MaySign,
    #[error("its extendedKeyUsage does not contain both clientAuth and serverAuth")]
    ExtendedKeyUsage,
    #[error("it ends before it begins")]
    Validity,
}

impl PeerError {
    /// The word it is counted under.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NotX509Svid(_) => "not_x509_svid",
            Self::TrustDomain(_) => "trust_domain",
            Self::NoBundle(_) => "no_bundle",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::Lifetime { .. } => "lifetime",
            Self::NameConstraints => "name_constraints",
            Self::Chain { .. } => "chain",
            Self::Unexpected(_) => "unexpected",
        }
    }

    /// What path validation against the bundle of `trust_domain` found.
    pub(super) fn from_path(error: webpki::Error, trust_domain: &TrustDomain) -> Self {
        match error {
            webpki::Error::CertExpired { not_after, .. } => Self::Expired { not_after: not_after.as_secs() },
            webpki::Error::CertNotValidYet { not_before, .. } => Self::NotYetValid { not_before: not_before.as_secs() },
            webpki::Error::NameConstraintViolation | webpki::Error::MalformedNameConstraint => Self::NameConstraints,
            why => Self::Chain { trust_domain: trust_domain.clone(), why },
        }
    }

    /// Finds the refusal inside the error a TLS acceptor or connector returned.
    pub fn of(error: &io::Error) -> Option<&Self> {
        match tls_error(error)? {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }
}

impl From<PeerError> for Error {
    /// Wrapped, so that the reason reaches whoever accepts the connection; rustls would flatten it into one of its own.
    fn from(refusal: PeerError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// The label a failed handshake is counted under; one of a closed set, whatever the peer sent.
pub fn reason(error: &io::Error) -> &'static str {
    if let Some(refusal) = PeerError::of(error) {
        return refusal.code();
    }
    match tls_error(error) {
        Some(error) => tls_reason(error),
        None => match error.kind() {
            io::ErrorKind::TimedOut => "timeout",
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => "disconnected",
            _ => "other",
        },
    }
}

/// True when a handshake failed because the peer did not prove to be who was expected.
pub fn doubts_peer(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented))
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn tls_reason(error: &Error) -> &'static str {
    match error {
        Error::NoCertificatesPresented => "no_certificate",
        Error::InvalidCertificate(CertificateError::BadEncoding) => "not_x509_svid",
        // The chain was accepted, but the peer does not hold its key.
        Error::InvalidCertificate(_) => "proof",
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => "not_tls",
        Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "tls_version",
        Error::PeerIncompatible(_) => "incompatible",
        Error::NoApplicationProtocol => "alpn",
        Error::AlertReceived(alert) if doubts_us(*alert) => "refused_by_peer",
        Error::AlertReceived(_) => "alert",
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord
        | Error::DecryptError => "protocol",
        // rustls has no variant for "the certificate resolver had nothing"; ours has nothing once our own SVID has expired.
        Error::General(text) if text == "no server certificate chain resolved" => "own_certificate",
        _ => "other",
    }
}

/// True for the alerts that speak about the certificate we presented.
fn doubts_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_a_handshake_fails_has_its_word() {
        let tls = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        for (error, word) in [
            (tls(PeerError::NameConstraints.into()), "name_constraints"),
            (tls(Error::NoCertificatesPresented), "no_certificate"),
            (tls(CertificateError::BadSignature.into()), "proof"),
            (tls(InvalidMessage::InvalidContentType.into()), "not_tls"),
            (tls(InvalidMessage::InvalidCcs.into()), "protocol"),
            (tls(PeerIncompatible::Tls12NotOfferedOrEnabled.into()), "tls_version"),
            (tls(PeerIncompatible::NoCipherSuitesInCommon.into()), "incompatible"),
            (tls(Error::NoApplicationProtocol), "alpn"),
            (tls(Error::AlertReceived(AlertDescription::UnknownCA)), "refused_by_peer"),
            (tls(Error::AlertReceived(AlertDescription::HandshakeFailure)), "alert"),
            (tls(Error::EncryptError), "other"),
            (io::ErrorKind::TimedOut.into(), "timeout"),
            (io::ErrorKind::UnexpectedEof.into(), "disconnected"),
            (io::ErrorKind::OutOfMemory.into(), "other"),
        ] {
            assert_eq!(reason(&error), word, "{error:?}");
        }
    }
}
