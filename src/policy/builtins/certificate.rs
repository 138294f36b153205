//! `crypto.x509.parse_certificates`: certificates as OPA shows them, which is how Go's `x509.Certificate` looks in JSON.
//!
//! In: base64 of DER, PEM, or base64 of PEM. Out: one object a certificate, undefined where one cannot be read. What must stay true:
//! every member OPA gives is there under its name, with null for an empty list as Go has it, so that a policy's path into it
//! means the same. Nothing is verified here; see [`super::chain`].

mod extensions;

use std::collections::BTreeMap;

use regorus::Value;
use x509_parser::asn1_rs::{Any, Oid};
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::public_key::PublicKey;

use super::encoding::{self, to_standard};
use super::text;
pub(super) use extensions::listed_purposes;

/// Certificates one text may hold.
const CERTIFICATES: usize = 64;
/// Bytes of the largest number that is written out in decimals, which takes time in proportion to the square of its length.
const NUMBER: usize = 2048;

/// `crypto.x509.parse_certificates(certificates)`
pub(super) fn parse(arguments: &[Value]) -> Option<Value> {
    let [certificates] = arguments else { return None };
    let certificates = read(text(certificates)?)?;
    certificates.iter().map(|der| shown(der, true)).collect::<Option<Vec<_>>>().map(Value::from)
}

/// The certificates in a text, each as DER.
pub(super) fn read(text: &str) -> Option<Vec<Vec<u8>>> {
    const BEGIN: &str = "-----BEGIN";
    let der = if text.starts_with(BEGIN) {
        blocks(text)?
    } else {
        let bytes = encoding::standard(text)?;
        if bytes.starts_with(BEGIN.as_bytes()) { blocks(&String::from_utf8(bytes).ok()?)? } else { bytes }
    };
    let (mut rest, mut certificates) = (der.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).ok()?;
        certificates.push(rest.get(..rest.len().checked_sub(after.len())?)?.to_vec());
        rest = after;
        if certificates.len() > CERTIFICATES {
            return None;
        }
    }
    Some(certificates)
}

/// The bytes of all blocks; whatever follows the last one does not count.
fn blocks(text: &str) -> Option<Vec<u8>> {
    let (mut rest, mut bytes) = (text, Vec::new());
    while let Some(block) = encoding::pem(rest) {
        if block.label != "CERTIFICATE" {
            return None;
        }
        bytes.extend(block.bytes);
        rest = block.rest;
    }
    Some(bytes)
}

/// The members of one certificate, in no order.
struct Members(BTreeMap<Value, Value>);

impl Members {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    fn all(&mut self, names: &[&str], value: &Value) {
        names.iter().for_each(|name| self.put(name, value.clone()));
    }
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    members.into_iter().map(|(name, value)| (Value::from(name), value)).collect::<BTreeMap<_, _>>().into()
}

/// Go writes an empty list as null.
fn list(items: Vec<Value>) -> Value {
    if items.is_empty() { Value::Null } else { items.into() }
}

fn bytes(bytes: &[u8]) -> Value {
    to_standard(bytes).into()
}

fn number(bytes: &[u8]) -> Option<Value> {
    if bytes.len() > NUMBER {
        return None;
    }
    Value::from_numeric_string(&BigUint::from_bytes_be(bytes).to_string()).ok()
}

fn identifier(oid: &Oid<'_>) -> Option<Value> {
    Some(oid.iter()?.map(Value::from).collect::<Vec<_>>().into())
}

/// One certificate; OPA leaves the texts of its URIs out where options were given to verify it.
pub(super) fn shown(der: &[u8], uri_texts: bool) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let inner = &certificate.tbs_certificate;
    let mut members = Members(BTreeMap::new());
    members.put("Raw", bytes(der));
    members.put("RawTBSCertificate", bytes(inner.as_ref()));
    members.put("RawSubjectPublicKeyInfo", bytes(inner.subject_pki.raw));
    members.put("RawSubject", bytes(inner.subject.as_raw()));
    members.put("RawIssuer", bytes(inner.issuer.as_raw()));
    members.put("Signature", bytes(&certificate.signature_value.data));
    members.put("SignatureAlgorithm", signature_algorithm(&certificate));
    let (algorithm, key) = public_key(&certificate)?;
    members.put("PublicKeyAlgorithm", algorithm);
    members.put("PublicKey", key);
    members.put("Version", u64::from(inner.version.0) + 1);
    // A negative number, and a version that does not exist, are refused, as in Go.
    let serial = certificate.raw_serial();
    if serial.first().is_some_and(|first| *first >= 0x80) || inner.version.0 > 2 {
        return None;
    }
    members.put("SerialNumber", number(serial)?);
    members.put("Issuer", name(&inner.issuer)?);
    members.put("Subject", name(&inner.subject)?);
    members.put("NotBefore", moment(inner.validity.not_before.timestamp())?);
    members.put("NotAfter", moment(inner.validity.not_after.timestamp())?);
    extensions::defaults(&mut members, uri_texts);
    let mut unhandled = Vec::new();
    let mut raw = Vec::new();
    for extension in inner.extensions() {
        let id = identifier(&extension.oid)?;
        let known = extensions::read(extension, &mut members, uri_texts)?;
        if extension.critical && !known {
            unhandled.push(id.clone());
        }
        raw.push(object([("Id", id), ("Critical", extension.critical.into()), ("Value", bytes(extension.value))]));
    }
    members.put("UnhandledCriticalExtensions", list(unhandled));
    members.put("Extensions", list(raw));
    Some(members.0.into())
}

/// Go's number of how a certificate is signed.
fn signature_algorithm(certificate: &X509Certificate<'_>) -> u64 {
    let algorithm = &certificate.signature_algorithm;
    match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => 3,
        "1.2.840.113549.1.1.11" => 4,
        "1.2.840.113549.1.1.12" => 5,
        "1.2.840.113549.1.1.13" => 6,
        "1.2.840.10040.4.3" => 7,
        "2.16.840.1.101.3.4.3.2" => 8,
        "1.2.840.10045.4.1" => 9,
        "1.2.840.10045.4.3.2" => 10,
        "1.2.840.10045.4.3.3" => 11,
        "1.2.840.10045.4.3.4" => 12,
        "1.2.840.113549.1.1.10" => pss(algorithm.parameters.as_ref()),
        "1.3.101.112" => 16,
        _ => 0,
    }
}

/// RSASSA-PSS by the hash it names first.
fn pss(parameters: Option<&Any<'_>>) -> u64 {
    let hash = |oid: &[u8]| parameters.is_some_and(|all| all.data.windows(oid.len()).take(32).any(|window| window == oid));
    let sha2 = |last: u8| [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last];
    match (hash(&sha2(1)), hash(&sha2(2)), hash(&sha2(3))) {
        (true, _, _) => 13,
        (_, true, _) => 14,
        (_, _, true) => 15,
        _ => 0,
    }
}

/// Go's number of a key's kind, and the key.
fn public_key(certificate: &X509Certificate<'_>) -> Option<(u64, Value)> {
    let info = certificate.public_key();
    let data = info.subject_public_key.data.as_ref();
    Some(match info.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => {
            let PublicKey::RSA(key) = info.parsed().ok()? else { return None };
            (1, object([("N", number(key.modulus)?), ("E", number(key.exponent)?)]))
        }
        "1.2.840.10045.2.1" => {
            let (&[4], point) = data.split_at_checked(1)? else { return None };
            let (x, y) = point.split_at_checked(point.len() / 2)?;
            (3, object([("Curve", Value::new_object()), ("X", number(x)?), ("Y", number(y)?)]))
        }
        "1.3.101.112" => (4, bytes(data)),
        _ => (0, Value::Null),
    })
}

fn moment(seconds: i64) -> Option<Value> {
    let moment = time::OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    Some(moment.format(&time::format_description::well_known::Rfc3339).ok()?.into())
}

/// A distinguished name as Go's `pkix.Name`.
fn name(name: &X509Name<'_>) -> Option<Value> {
    const LISTS: [(&str, &str); 7] = [
        ("2.5.4.6", "Country"),
        ("2.5.4.10", "Organization"),
        ("2.5.4.11", "OrganizationalUnit"),
        ("2.5.4.7", "Locality"),
        ("2.5.4.8", "Province"),
        ("2.5.4.9", "StreetAddress"),
        ("2.5.4.17", "PostalCode"),
    ];
    let (mut names, mut lists) = (Vec::new(), BTreeMap::<&str, Vec<Value>>::new());
    let (mut common, mut serial) = ("", "");
    for attribute in name.iter_attributes() {
        let (id, value) = (attribute.attr_type().to_id_string(), attribute.as_str().ok()?);
        names.push(object([("Type", identifier(attribute.attr_type())?), ("Value", value.into())]));
        match id.as_str() {
            "2.5.4.3" => common = value,
            "2.5.4.5" => serial = value,
            _ => {}
        }
        if let Some((_, list)) = LISTS.iter().find(|(oid, _)| *oid == id) {
            lists.entry(list).or_default().push(value.into());
        }
    }
    let mut members = Members(BTreeMap::new());
    for (_, list_name) in LISTS {
        members.put(list_name, list(lists.remove(list_name).unwrap_or_default()));
    }
    members.put("CommonName", common);
    members.put("SerialNumber", serial);
    members.put("Names", list(names));
    members.put("ExtraNames", Value::Null);
    Some(members.0.into())
}
