//! The keys a signature is checked with: PEM certificates, PEM public keys, and JSON Web Keys (RFC 7517), one or a set.
//!
//! In: the text a policy hands over. Out: the keys in it in their order, or nothing where OPA finds nothing either. What must stay
//! true: one key that cannot be read spoils its set, as in OPA; a key is used for its own family of algorithms only, so that an RSA
//! key never serves as the secret of an HMAC.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::encoding;

/// How a token is signed (RFC 7518 section 3, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Family {
    Hmac,
    Rsa,
    RsaPss,
    Ecdsa,
    EdDsa,
}

/// The length of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Bits {
    B256,
    B384,
    B512,
}

/// A signature algorithm by its two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) struct Algorithm(pub(super) Family, pub(super) Bits);

impl Algorithm {
    /// The algorithm of a JOSE header.
    pub(in crate::policy) fn named(name: &str) -> Option<Self> {
        let family = match name.get(..2)? {
            "HS" => Family::Hmac,
            "RS" => Family::Rsa,
            "PS" => Family::RsaPss,
            "ES" => Family::Ecdsa,
            _ => return (name == "EdDSA").then_some(Self(Family::EdDsa, Bits::B512)),
        };
        let bits = match name.get(2..)? {
            "256" => Bits::B256,
            "384" => Bits::B384,
            "512" => Bits::B512,
            _ => return None,
        };
        Some(Self(family, bits))
    }
}

/// One key, and what its set says about it.
#[derive(Debug)]
pub(in crate::policy) struct Key {
    /// Empty when nothing is said.
    pub(super) alg: String,
    pub(super) kid: String,
    /// It holds a private part. The `verify_…` builtins take public keys only.
    pub(in crate::policy) private: bool,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Elliptic {
        bits: Bits,
        point: Vec<u8>,
    },
    Edwards(Vec<u8>),
    Secret(Vec<u8>),
    /// A legal key of a kind that signs no tokens.
    Other,
}

/// Texts a worker keeps the keys of, and the longest of them.
const KEPT: usize = 32;
const KEPT_BYTES: usize = 64 * 1024;
/// Keys a set may hold, as in OPA.
const KEYS: usize = 1000;

/// Names a key may carry that are no signature algorithm of tokens; OPA passes such a key over.
const ELSEWHERE: &[&str] = &[
    "none",
    "ES256K",
    "Ed25519",
    "RSA1_5",
    "RSA-OAEP",
    "RSA-OAEP-256",
    "RSA-OAEP-384",
    "RSA-OAEP-512",
    "A128KW",
    "A192KW",
    "A256KW",
    "dir",
    "ECDH-ES",
    "ECDH-ES+A128KW",
    "ECDH-ES+A192KW",
    "ECDH-ES+A256KW",
    "A128GCMKW",
    "A192GCMKW",
    "A256GCMKW",
    "PBES2-HS256+A128KW",
    "PBES2-HS384+A192KW",
    "PBES2-HS512+A256KW",
];

impl Key {
    fn new(material: Material) -> Self {
        Self { alg: String::new(), kid: String::new(), private: false, material }
    }

    /// The key of an HMAC.
    pub(in crate::policy) fn secret(secret: &str) -> Self {
        Self::new(Material::Secret(secret.as_bytes().to_vec()))
    }

    /// True when this key made this signature with this algorithm.
    pub(in crate::policy) fn signed(&self, Algorithm(family, bits): Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, family) {
            (Material::Secret(secret), Family::Hmac) => {
                let algorithm = match bits {
                    Bits::B256 => hmac::HMAC_SHA256,
                    Bits::B384 => hmac::HMAC_SHA384,
                    Bits::B512 => hmac::HMAC_SHA512,
                };
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
            }
            (Material::Rsa { modulus, exponent }, Family::Rsa | Family::RsaPss) => {
                let parameters = match (family, bits) {
                    (Family::RsaPss, Bits::B256) => &RSA_PSS_2048_8192_SHA256,
                    (Family::RsaPss, Bits::B384) => &RSA_PSS_2048_8192_SHA384,
                    (Family::RsaPss, Bits::B512) => &RSA_PSS_2048_8192_SHA512,
                    (_, Bits::B256) => &RSA_PKCS1_2048_8192_SHA256,
                    (_, Bits::B384) => &RSA_PKCS1_2048_8192_SHA384,
                    (_, Bits::B512) => &RSA_PKCS1_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
            }
            (Material::Elliptic { bits: curve, point }, Family::Ecdsa) if *curve == bits => {
                UnparsedPublicKey::new(curve.ecdsa(), point).verify(message, signature).is_ok()
            }
            (Material::Edwards(point), Family::EdDsa) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature).is_ok(),
            _ => false,
        }
    }
}

impl Bits {
    fn ecdsa(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::B256 => &ECDSA_P256_SHA256_FIXED,
            Self::B384 => &ECDSA_P384_SHA384_FIXED,
            Self::B512 => &ECDSA_P521_SHA512_FIXED,
        }
    }

    /// Bytes of one coordinate of the curve that goes with this hash.
    fn coordinate(self) -> usize {
        match self {
            Self::B256 => 32,
            Self::B384 => 48,
            Self::B512 => 66,
        }
    }
}

thread_local! {
    /// Policies verify many tokens with few keys, and reading a key costs as much as using it.
    static READ: RefCell<HashMap<String, Rc<[Key]>>> = RefCell::default();
}

/// The keys in a PEM certificate, a PEM public key, a JWK or a JWK set.
pub(in crate::policy) fn read(text: &str) -> Option<Rc<[Key]>> {
    if let Some(keys) = READ.with_borrow(|read| read.get(text).map(Rc::clone)) {
        return Some(keys);
    }
    let keys: Rc<[Key]> = parsed(text)?.into();
    if text.len() <= KEPT_BYTES {
        READ.with_borrow_mut(|read| {
            // A policy may take keys from the request, so what is full is emptied.
            if read.len() >= KEPT {
                read.clear();
            }
            read.insert(text.to_owned(), Rc::clone(&keys));
        });
    }
    Some(keys)
}

fn parsed(text: &str) -> Option<Vec<Key>> {
    if let Some(block) = encoding::pem(text) {
        if !block.rest.is_empty() {
            return None;
        }
        let material = match block.label {
            "CERTIFICATE" => match X509Certificate::from_der(&block.bytes).ok()? {
                ([], certificate) => of_info(certificate.public_key())?,
                _ => return None,
            },
            "PUBLIC KEY" => match SubjectPublicKeyInfo::from_der(&block.bytes).ok()? {
                ([], info) => of_info(&info)?,
                _ => return None,
            },
            _ => return None,
        };
        return Some(vec![Key::new(material)]);
    }
    let Ok(Value::Object(object)) = serde_json::from_str(text) else { return None };
    match object.get("keys") {
        Some(Value::Array(keys)) if keys.len() <= KEYS => {
            let keys: Vec<Option<Key>> = keys.iter().map(|key| of_json(key.as_object()?)).collect::<Option<_>>()?;
            Some(keys.into_iter().flatten().collect())
        }
        Some(_) => None,
        None => Some(of_json(&object)?.into_iter().collect()),
    }
}

/// The key of a certificate.
fn of_info(info: &SubjectPublicKeyInfo<'_>) -> Option<Material> {
    let bytes = info.subject_public_key.data.as_ref();
    match info.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => match info.parsed().ok()? {
            x509_parser::public_key::PublicKey::RSA(key) => Some(rsa(key.modulus, key.exponent)),
            _ => None,
        },
        "1.2.840.10045.2.1" => match info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string().as_str() {
            "1.2.840.10045.3.1.7" => elliptic(Bits::B256, bytes.to_vec()),
            "1.3.132.0.34" => elliptic(Bits::B384, bytes.to_vec()),
            "1.3.132.0.35" => elliptic(Bits::B512, bytes.to_vec()),
            "1.3.132.0.33" => Some(Material::Other),
            _ => None,
        },
        "1.3.101.112" => (bytes.len() == 32).then(|| Material::Edwards(bytes.to_vec())),
        _ => Some(Material::Other),
    }
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Material {
    let trimmed = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    Material::Rsa { modulus: trimmed(modulus), exponent: trimmed(exponent) }
}

/// A point that lies on its curve.
fn elliptic(bits: Bits, point: Vec<u8>) -> Option<Material> {
    let whole = point.first() == Some(&4) && point.len() == bits.coordinate() * 2 + 1;
    let on_curve = || match bits {
        Bits::B256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).is_ok(),
        Bits::B384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point).is_ok(),
        Bits::B512 => ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, &point).is_ok(),
    };
    (whole && on_curve()).then_some(Material::Elliptic { bits, point })
}

/// A JSON Web Key; `Some(None)` for one that is no token's.
fn of_json(key: &Map<String, Value>) -> Option<Option<Key>> {
    let text = |name: &str| match key.get(name) {
        None => Some(""),
        Some(value) => value.as_str(),
    };
    let bytes = |name: &str| encoding::any(key.get(name)?.as_str()?).filter(|bytes| !bytes.is_empty());
    let material = match text("kty")? {
        // Whether its private part is one would have to be checked, as OPA does, and no policy of a gate should hold it.
        "RSA" if key.contains_key("d") => return None,
        "RSA" => rsa(&bytes("n")?, &bytes("e")?),
        "EC" => {
            let bits = match text("crv")? {
                "P-256" => Bits::B256,
                "P-384" => Bits::B384,
                "P-521" => Bits::B512,
                _ => return None,
            };
            let mut point = vec![4];
            for coordinate in [bytes("x")?, bytes("y")?] {
                point.extend(std::iter::repeat_n(0, bits.coordinate().saturating_sub(coordinate.len())));
                point.extend(coordinate);
            }
            elliptic(bits, point)?
        }
        "OKP" => match text("crv")? {
            "Ed25519" => Material::Edwards(bytes("x").filter(|point| point.len() == 32)?),
            "X25519" => Material::Other,
            _ => return None,
        },
        "oct" => Material::Secret(bytes("k")?),
        _ => return None,
    };
    let (alg, kid) = (text("alg")?.to_owned(), text("kid")?.to_owned());
    if !alg.is_empty() && Algorithm::named(&alg).is_none() {
        return ELSEWHERE.contains(&alg.as_str()).then_some(None);
    }
    let private = key.contains_key("d");
    Some(Some(Key { alg, kid, private, material }))
}
