//! A throw-away certificate authority: the SVIDs of `dev` and of the tests.
//!
//! In: a trust domain, SPIFFE IDs, lifetimes. Out: PEM that obeys X509-SVID.md, or, through [`rcgen::CertificateParams`], any
//! certificate that breaks it in exactly one place, which is what the verifier's tests need.
//! The authority's key never leaves this value: an authority that can be saved is one somebody will use.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType, Error,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::OffsetDateTime;

use crate::spiffe::{SpiffeId, TrustDomain};

/// A certificate authority of one trust domain, self-signed or below another one.
pub struct Authority {
    trust_domain: TrustDomain,
    root_pem: String,
    /// What a peer must send after its leaf: every authority below the root, nearest first.
    intermediates_pem: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// From when to when a certificate is valid, in Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    pub not_before: u64,
    pub not_after: u64,
}

/// A certificate with its key, both as PEM.
pub struct Issued {
    /// The leaf, then the intermediates up to the root, without it.
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl Lifetime {
    /// `seconds` from `now` on.
    pub fn starting(now: u64, seconds: u64) -> Self {
        Self { not_before: now, not_after: now.saturating_add(seconds) }
    }

    fn write(self, parameters: &mut CertificateParams) {
        let date = |seconds| i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        parameters.not_before = date(self.not_before).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        parameters.not_after = date(self.not_after).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    }
}

impl Authority {
    /// A new self-signed authority, valid from a day ago for a year.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(trust_domain: &TrustDomain) -> Result<Self, Error> {
        let yesterday = OffsetDateTime::now_utc().unix_timestamp().saturating_sub(86_400);
        let lifetime = Lifetime::starting(u64::try_from(yesterday).unwrap_or_default(), 366 * 86_400);
        Self::self_signed(trust_domain, authority(trust_domain, lifetime)?)
    }

    /// A self-signed authority from parameters made by [`authority`].
    ///
    /// # Errors
    /// When no key can be made or the parameters cannot be encoded.
    pub fn self_signed(trust_domain: &TrustDomain, parameters: CertificateParams) -> Result<Self, Error> {
        let issuer = CertifiedIssuer::self_signed(parameters, key()?)?;
        Ok(Self { trust_domain: trust_domain.clone(), root_pem: issuer.pem(), intermediates_pem: String::new(), issuer })
    }

    /// An authority below this one, from parameters made by [`authority`].
    ///
    /// # Errors
    /// As [`Authority::self_signed`].
    pub fn intermediate(&self, parameters: CertificateParams) -> Result<Self, Error> {
        let issuer = CertifiedIssuer::signed_by(parameters, key()?, &self.issuer)?;
        Ok(Self {
            trust_domain: self.trust_domain.clone(),
            root_pem: self.root_pem.clone(),
            intermediates_pem: format!("{}{}", issuer.pem(), self.intermediates_pem),
            issuer,
        })
    }

    /// The trust domain it speaks for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate: what belongs in the bundle.
    pub fn ca_pem(&self) -> &str {
        &self.root_pem
    }

    /// A correct X.509-SVID for `id`.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn issue(&self, id: &SpiffeId, lifetime: Lifetime) -> Result<Issued, Error> {
        self.sign(&svid(id, lifetime)?)
    }

    /// A correct X.509-SVID for `id` that also names localhost and 127.0.0.1, so that clients that know no SPIFFE accept it.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn issue_local(&self, id: &SpiffeId, lifetime: Lifetime) -> Result<Issued, Error> {
        let mut parameters = svid(id, lifetime)?;
        parameters.subject_alt_names.push(SanType::DnsName("localhost".try_into()?));
        parameters.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        self.sign(&parameters)
    }

    /// Whatever the parameters say, with a fresh key.
    ///
    /// # Errors
    /// When no key can be made or the parameters cannot be encoded.
    pub fn sign(&self, parameters: &CertificateParams) -> Result<Issued, Error> {
        let key = key()?;
        let leaf = parameters.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: format!("{}{}", leaf.pem(), self.intermediates_pem), key_pem: key.serialize_pem() })
    }
}

/// The parameters of a correct X.509-SVID (X509-SVID.md 2 to 4).
///
/// # Errors
/// Never for a valid SPIFFE ID.
pub fn svid(id: &SpiffeId, lifetime: Lifetime) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::default();
    lifetime.write(&mut parameters);
    parameters.distinguished_name = name(None);
    parameters.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

/// The parameters of a signing certificate: the trust domain's own SPIFFE ID, without a path (X509-SVID.md 3.2).
///
/// # Errors
/// Never for a valid trust domain.
pub fn authority(trust_domain: &TrustDomain, lifetime: Lifetime) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::default();
    lifetime.write(&mut parameters);
    // A name of its own for each: path building goes by names, and two authorities of one name hide wrong chains.
    parameters.distinguished_name = name(Some(uuid::Uuid::new_v4().to_string()));
    parameters.subject_alt_names = vec![SanType::URI(trust_domain.id_string().try_into()?)];
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Strict verifiers, such as Python's since 3.13, refuse an intermediate without it.
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

/// A nameConstraints extension that permits URIs of one host only, which rcgen cannot write (RFC 5280 4.2.1.10).
pub fn uri_name_constraint(host: &str) -> CustomExtension {
    let wrap = |tag: u8, content: &[u8]| {
        // One length byte is enough for every host name a test uses; a longer one would be cut, never mis-encoded.
        let content = content.get(..100).unwrap_or(content);
        let mut whole = vec![tag, u8::try_from(content.len()).unwrap_or(0)];
        whole.extend_from_slice(content);
        whole
    };
    let subtree = wrap(0x30, &wrap(0x86, host.as_bytes()));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], wrap(0x30, &wrap(0xa0, &subtree)));
    extension.set_criticality(true);
    extension
}

fn key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn name(common: Option<String>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Portcullis throw-away");
    if let Some(common) = common {
        name.push(DnType::CommonName, common);
    }
    name
}
