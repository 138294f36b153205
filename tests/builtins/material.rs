//! Keys, made anew for each run, in every form a policy may hand them over; and tokens signed with them.

use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

pub(crate) const SECRET: &str = "sécret of the gate";

pub(crate) fn url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// One key pair of a family.
pub(crate) struct Pair {
    /// RSA, EC or OKP.
    pub(crate) pair: KeyPair,
    /// What signs with it, by the name of a JOSE header.
    pub(crate) algorithms: &'static [&'static str],
}

impl Pair {
    pub(crate) fn all() -> Vec<Self> {
        let pair = |algorithm, algorithms| Self { pair: KeyPair::generate_for(algorithm).unwrap(), algorithms };
        vec![
            pair(&PKCS_RSA_SHA256, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
            pair(&PKCS_ECDSA_P256_SHA256, &["ES256"]),
            pair(&PKCS_ECDSA_P384_SHA384, &["ES384"]),
            pair(&PKCS_ECDSA_P521_SHA512, &["ES512"]),
            pair(&PKCS_ED25519, &["EdDSA"]),
        ]
    }

    pub(crate) fn public_pem(&self) -> String {
        self.pair.public_key_pem().trim_end().replace("\r\n", "\n") + "\n"
    }

    pub(crate) fn certificate_pem(&self) -> String {
        let certificate = rcgen::CertificateParams::new(vec!["signer.example.org".to_owned()]).unwrap().self_signed(&self.pair);
        certificate.unwrap().pem().replace("\r\n", "\n")
    }

    /// The public key as a JSON Web Key with these further members.
    pub(crate) fn jwk(&self, more: &Value) -> Value {
        let der = rcgen::PublicKeyData::subject_public_key_info(&self.pair);
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).unwrap();
        let bytes = info.subject_public_key.data.to_vec();
        let mut key = match self.algorithms[0] {
            "RS256" => {
                let x509_parser::public_key::PublicKey::RSA(key) = info.parsed().unwrap() else { panic!("an RSA key") };
                let modulus: Vec<u8> = key.modulus.iter().copied().skip_while(|byte| *byte == 0).collect();
                json!({"kty": "RSA", "n": url(modulus), "e": url(key.exponent)})
            }
            "EdDSA" => json!({"kty": "OKP", "crv": "Ed25519", "x": url(bytes)}),
            name => {
                let curve = match name {
                    "ES256" => "P-256",
                    "ES384" => "P-384",
                    _ => "P-521",
                };
                let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
                json!({"kty": "EC", "crv": curve, "x": url(x), "y": url(y)})
            }
        };
        for (name, value) in more.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    /// The same key with its private part; RSA keys have theirs in more parts than a test needs.
    pub(crate) fn private_jwk(&self) -> Value {
        let der = self.pair.serialize_der();
        let elliptic = |algorithm| {
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, &der).unwrap();
            let private: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().unwrap();
            url(private.as_ref())
        };
        let private = match self.algorithms[0] {
            "ES256" => elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => elliptic(&ECDSA_P521_SHA512_FIXED_SIGNING),
            "EdDSA" => url(Ed25519KeyPair::from_pkcs8(&der).unwrap().seed().unwrap().as_be_bytes().unwrap().as_ref()),
            _ => url("no number of this key"),
        };
        self.jwk(&json!({"d": private}))
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let (der, random) = (self.pair.serialize_der(), SystemRandom::new());
        let rsa = |encoding: &'static dyn aws_lc_rs::signature::RsaEncoding| {
            let pair = RsaKeyPair::from_pkcs8(&der).unwrap();
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        let elliptic =
            |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, &der).unwrap().sign(&random, message).unwrap().as_ref().to_vec();
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => elliptic(&ECDSA_P521_SHA512_FIXED_SIGNING),
            _ => Ed25519KeyPair::from_pkcs8(&der).unwrap().sign(message).as_ref().to_vec(),
        }
    }

    /// A token with this header and payload, signed by this algorithm whatever the header says.
    pub(crate) fn token(&self, algorithm: &str, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", url(header), url(payload));
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", url(signature))
    }
}

/// A token signed with a secret.
pub(crate) fn sealed(algorithm: &str, secret: &str, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", url(header), url(payload));
    let algorithm = match algorithm {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        _ => hmac::HMAC_SHA512,
    };
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", url(tag))
}
