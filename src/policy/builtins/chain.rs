//! `crypto.x509.parse_and_verify_certificates`: a chain verified from its leaf, the last one, up to its root, the first.
//!
//! In: certificates, and options: a name, a time, purposes. Out: `[true, chain]` from the leaf to the root, or `[false, []]`. What must
//! stay true: paths, signatures and name constraints are webpki's work, as everywhere in the gate; what it takes for granted of a
//! trust anchor (its dates, that it is a CA, its purposes, its path length) is checked here, because this root is only a claim of
//! whoever wrote the text. A CA is no leaf here, where Go lets it pass; `MaxConstraintComparisons` is read and webpki's bound holds.

use std::time::Duration;

use regorus::Value;
use regorus::value::Object;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{certificate, now, text};

/// Certificates between a leaf and its root; the number of ways to join them up grows fast.
const BETWEEN: usize = 14;

/// A certificate for this purpose, by Go's name, or for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Purpose(&'static str, &'static [u64]);

const ANY: Purpose = Purpose("KeyUsageAny", &[2, 5, 29, 37, 0]);
const SERVER: Purpose = Purpose("KeyUsageServerAuth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]);
const PURPOSES: [Purpose; 14] = [
    ANY,
    SERVER,
    Purpose("KeyUsageClientAuth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    Purpose("KeyUsageCodeSigning", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    Purpose("KeyUsageEmailProtection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    Purpose("KeyUsageIPSECEndSystem", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    Purpose("KeyUsageIPSECTunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    Purpose("KeyUsageIPSECUser", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    Purpose("KeyUsageTimeStamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    Purpose("KeyUsageOCSPSigning", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    Purpose("KeyUsageMicrosoftServerGatedCrypto", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    Purpose("KeyUsageNetscapeServerGatedCrypto", &[2, 16, 840, 1, 113_730, 4, 1]),
    Purpose("KeyUsageMicrosoftCommercialCodeSigning", &[1, 3, 6, 1, 4, 1, 311, 2, 1, 22]),
    Purpose("KeyUsageMicrosoftKernelCodeSigning", &[1, 3, 6, 1, 4, 1, 311, 61, 1, 1]),
];

impl ExtendedKeyUsageValidator for Purpose {
    /// A certificate without purposes serves any.
    fn validate(&self, listed: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut empty = true;
        for purpose in listed {
            empty = false;
            let arcs: Vec<u64> = purpose?.to_decoded_oid().into_iter().filter_map(|arc| u64::try_from(arc).ok()).collect();
            if arcs == self.1 || arcs == ANY.1 {
                return Ok(());
            }
        }
        if empty || *self == ANY { Ok(()) } else { Err(webpki::Error::EmptyEkuExtension) }
    }
}

/// What a chain must be good for.
struct Demand {
    name: String,
    /// Nanoseconds since 1970.
    time: i128,
    /// One of them will do.
    purposes: Vec<Purpose>,
}

/// `crypto.x509.parse_and_verify_certificates(certificates)`
pub(super) fn verify(arguments: &[Value]) -> Option<Value> {
    let [certificates] = arguments else { return None };
    let demand = Demand { name: String::new(), time: present(), purposes: vec![SERVER] };
    Some(answer(text(certificates)?, &demand, true))
}

/// `crypto.x509.parse_and_verify_certificates_with_options(certificates, options)`
pub(super) fn verify_with_options(arguments: &[Value]) -> Option<Value> {
    let [certificates, Value::Object(options)] = arguments else { return None };
    let certificates = text(certificates)?;
    if certificate::read(certificates).is_none() {
        return Some(refused());
    }
    Some(answer(certificates, &Demand::of(options)?, false))
}

fn present() -> i128 {
    i128::try_from(now()).unwrap_or(i128::MAX)
}

fn refused() -> Value {
    vec![Value::from(false), Value::from(Vec::new())].into()
}

fn answer(certificates: &str, demand: &Demand, uri_texts: bool) -> Value {
    let certificates = certificate::read(certificates).unwrap_or_default();
    let shown = verified(&certificates, demand)
        .and_then(|chain| chain.iter().map(|der| certificate::shown(der, uri_texts)).collect::<Option<Vec<_>>>());
    shown.map_or_else(refused, |shown| vec![Value::from(true), Value::from(shown)].into())
}

impl Demand {
    /// Nothing where an option is unknown or of the wrong type.
    fn of(options: &Object) -> Option<Self> {
        let mut demand = Self { name: String::new(), time: 0, purposes: Vec::new() };
        let mut time = None;
        for (name, value) in options.iter() {
            let Some(name) = text(name) else { continue };
            match (name, value) {
                ("DNSName", Value::String(name)) => demand.name = name.trim_matches('"').to_owned(),
                ("CurrentTime", Value::Number(number)) => time = Some(i128::from(number.as_i64()?)),
                ("MaxConstraintComparisons", Value::Number(number)) if number.as_i64().is_some() => {}
                ("KeyUsages", Value::Array(names)) => demand.wanted(names.iter())?,
                ("KeyUsages", Value::Set(names)) => demand.wanted(names.iter())?,
                _ => return None,
            }
        }
        demand.time = time.unwrap_or_else(present);
        if demand.purposes.is_empty() {
            demand.purposes.push(SERVER);
        }
        Some(demand)
    }

    fn wanted<'v>(&mut self, names: impl Iterator<Item = &'v Value>) -> Option<()> {
        for name in names.filter_map(text) {
            let name = name.trim_matches('"');
            let purpose = *PURPOSES.iter().find(|purpose| purpose.0 == name)?;
            // Each is a verification of its own.
            if !self.purposes.contains(&purpose) {
                self.purposes.push(purpose);
            }
        }
        Some(())
    }

    fn in_time(&self, certificate: &X509Certificate<'_>) -> bool {
        let validity = certificate.validity();
        let nanoseconds = |seconds: i64| i128::from(seconds) * 1_000_000_000;
        nanoseconds(validity.not_before.timestamp()) <= self.time && self.time <= nanoseconds(validity.not_after.timestamp())
    }
}

/// The chain from the leaf to the root.
fn verified<'c>(certificates: &'c [Vec<u8>], demand: &Demand) -> Option<Vec<&'c [u8]>> {
    let [root, between @ .., leaf] = certificates else { return None };
    if between.len() > BETWEEN {
        return None;
    }
    let (leaf, root) = (CertificateDer::from(leaf.as_slice()), CertificateDer::from(root.as_slice()));
    let between: Vec<CertificateDer<'_>> = between.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors = [anchor_from_trusted_cert(&root).ok()?];
    let entity = EndEntityCert::try_from(&leaf).ok()?;
    if !demand.name.is_empty() {
        let name = demand.name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&demand.name);
        entity.verify_is_valid_for_subject_name(&ServerName::try_from(name).ok()?).ok()?;
    }
    let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(demand.time / 1_000_000_000).ok()?));
    let used = demand.purposes.iter().find_map(|purpose| {
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let path = entity.verify_for_usage(algorithms, &anchors, &between, time, *purpose, None, None).ok()?;
        let used: Vec<Vec<u8>> = path.intermediate_certificates().map(|one| one.der().to_vec()).collect();
        serves(&root, *purpose).then_some(used)
    })?;
    let place = |der: &Vec<u8>| certificates.iter().find(|one| *one == der).map(Vec::as_slice);
    let used = used.iter().map(place).collect::<Option<Vec<&[u8]>>>()?;
    let (first, last) = (certificates.first()?.as_slice(), certificates.last()?.as_slice());
    let chain: Vec<&[u8]> = std::iter::once(last).chain(used).chain([first]).collect();
    let read = |der: &&'c [u8]| X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate);
    let parsed = chain.iter().map(read).collect::<Option<Vec<_>>>()?;
    (parsed.iter().all(|certificate| demand.in_time(certificate)) && parsed.iter().skip(1).enumerate().all(issues)).then_some(chain)
}

/// True for a CA that may have so many others beneath it.
fn issues((beneath, certificate): (usize, &X509Certificate<'_>)) -> bool {
    let signs = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    let room = |most: Option<u32>| most.is_none_or(|most| usize::try_from(most).is_ok_and(|most| beneath <= most));
    match certificate.basic_constraints() {
        Ok(Some(basic)) => signs && basic.value.ca && room(basic.value.path_len_constraint),
        Ok(None) => signs && certificate.version().0 < 2,
        Err(_) => false,
    }
}

/// webpki looks at no purposes of an anchor.
fn serves(root: &CertificateDer<'_>, purpose: Purpose) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(root) else { return false };
    let mut extensions = certificate.extensions().iter();
    let Some(listed) = extensions.find(|extension| extension.oid.to_id_string() == "2.5.29.37") else { return true };
    let written = |arcs: &[u64]| arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".");
    let serving = [written(purpose.1), written(ANY.1)];
    purpose == ANY
        || certificate::listed_purposes(listed.value)
            .is_some_and(|listed| listed.iter().any(|one| serving.contains(&one.to_id_string())))
}
