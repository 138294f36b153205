//! Bundles made: files packed into an archive, and a signature put on them that OPA verifies as well.
//!
//! In: a directory or an archive, a private key. Out: an archive, or `.signatures.json`. What must stay true: the same files give
//! the same bytes, whenever and wherever they are packed (sorted names, no times, no owners), so that a build can be repeated and
//! compared; what is written is what the reader of bundles takes.
//!
//! Sources: OPA `v1/bundle/sign.go`; RFC 7515 section 3.1.

use std::io::Write;
use std::path::Path;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value, json};

use super::signature::{self, Algorithm, Listed};
use super::{Bounds, File, Form, archive, canonical, directory, hidden};
use crate::policy::Finding;
use crate::policy::builtins::encoding;

const HASH: &str = "SHA-256";
const MANIFEST: &str = ".manifest";

/// What a signature says besides which files it covers.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    pub scope: Option<String>,
    pub key: Option<String>,
    /// Seconds since 1970.
    pub issued_at: Option<u64>,
}

/// The files of a bundle, before anybody understands them.
pub struct Contents {
    files: Vec<File>,
    form: Form,
}

impl Contents {
    /// Reads a directory or an archive.
    ///
    /// # Errors
    /// It cannot be read, or is no bundle.
    pub fn open(path: &Path) -> Result<Self, Vec<Finding>> {
        let bounds = Bounds::default();
        let shown = path.display().to_string();
        let (files, form) = if path.is_dir() {
            (directory::read(path, &bounds)?, Form::Directory)
        } else {
            (archive::read(&shown, &archive::load(path, &bounds)?, &bounds)?, Form::Archive)
        };
        let mut contents = Self { files, form };
        contents.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(contents)
    }

    pub fn is_directory(&self) -> bool {
        self.form == Form::Directory
    }

    /// The names of what is in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }

    /// The signature file, where there is one.
    pub fn signatures(&self) -> Option<&[u8]> {
        self.files.iter().find(|file| signature::is_signatures(&file.path)).map(|file| file.content.as_slice())
    }

    /// Leaves what a bundle is made of: Rego, data and the manifest.
    pub fn keep_the_bundle(&mut self) {
        self.files.retain(|File { path, .. }| {
            let leaf = path.rsplit('/').next().unwrap_or(path);
            let part = path == MANIFEST || leaf.ends_with(".rego") || matches!(leaf, "data.json" | "data.yaml" | "data.yml");
            part && !hidden(path)
        });
    }

    /// Sets keys of the manifest, and leaves the others as they are.
    ///
    /// # Errors
    /// There is a manifest, and it is no object.
    pub fn set_in_manifest(&mut self, keys: Map<String, Value>) -> Result<(), String> {
        let there = self.files.iter().position(|file| file.path == MANIFEST).map(|place| self.files.remove(place));
        let mut manifest: Map<String, Value> = match &there {
            Some(file) => serde_json::from_slice(&file.content).map_err(|error| format!("{MANIFEST}: {error}"))?,
            None => Map::new(),
        };
        manifest.extend(keys);
        self.put(MANIFEST, Value::Object(manifest).to_string().into_bytes());
        Ok(())
    }

    fn put(&mut self, path: &str, content: Vec<u8>) {
        self.files.retain(|file| file.path != path);
        self.files.push(File { path: path.to_owned(), content });
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Signs every file, in place of any signature there was, and hands back the signature file.
    ///
    /// # Errors
    /// A document that cannot be read, or a key that is none of its algorithm.
    pub fn sign(&mut self, key: &str, algorithm: Algorithm, statement: &Statement) -> Result<Vec<u8>, String> {
        self.files.retain(|file| !signature::is_signatures(&file.path));
        let mut listed = Vec::new();
        for File { path, content } in &self.files {
            let bytes = canonical::bytes(path, content).map_err(|why| format!("{path}: {why}"))?;
            let hash = signature::hash(HASH, &bytes).unwrap_or_default();
            listed.push(Listed { name: path.clone(), hash, algorithm: HASH.to_owned() });
        }
        let mut header = json!({"alg": algorithm, "typ": "JWT"});
        let mut payload = json!({"files": listed});
        let members = [
            (&mut header, "kid", statement.key.clone().map(Value::from)),
            (&mut payload, "scope", statement.scope.clone().map(Value::from)),
        ];
        for (document, name, value) in members {
            set(document, name, value);
        }
        set(&mut payload, "iat", statement.issued_at.map(Value::from));
        let signed = format!("{}.{}", part(&header), part(&payload));
        let made = made(key, algorithm, signed.as_bytes())?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(made));
        let file = format!("{}\n", json!({"signatures": [token]})).into_bytes();
        self.put(".signatures.json", file.clone());
        Ok(file)
    }

    /// The archive of these files: the same bytes for the same files.
    ///
    /// # Errors
    /// A name no archive can hold.
    pub fn archive(&self) -> Result<Vec<u8>, String> {
        let broken = |error: std::io::Error| error.to_string();
        let mut tar = tar::Builder::new(Vec::new());
        for File { path, content } in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            tar.append_data(&mut header, path, content.as_slice()).map_err(broken)?;
        }
        let tar = tar.into_inner().map_err(broken)?;
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&tar).map_err(broken)?;
        gzip.finish().map_err(broken)
    }
}

fn set(document: &mut Value, name: &str, value: Option<Value>) {
    if let (Value::Object(object), Some(value)) = (document, value) {
        object.insert(name.to_owned(), value);
    }
}

fn part(document: &Value) -> String {
    URL_SAFE_NO_PAD.encode(document.to_string())
}

/// A signature by a private key in PEM, or by the secret of an HMAC.
fn made(key: &str, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, String> {
    let by_rsa = |encoding: &'static dyn RsaEncoding| rsa(key, encoding, message);
    let by_curve = |curve: &'static EcdsaSigningAlgorithm| ecdsa(key, curve, message);
    let by_secret = |hash| Ok(hmac::sign(&hmac::Key::new(hash, key.as_bytes()), message).as_ref().to_vec());
    if algorithm.is_symmetric() && key.starts_with("-----BEGIN") {
        return Err(format!("a PEM key is no secret for {algorithm}; name its own algorithm"));
    }
    match algorithm {
        Algorithm::RS256 => by_rsa(&RSA_PKCS1_SHA256),
        Algorithm::RS384 => by_rsa(&RSA_PKCS1_SHA384),
        Algorithm::RS512 => by_rsa(&RSA_PKCS1_SHA512),
        Algorithm::PS256 => by_rsa(&RSA_PSS_SHA256),
        Algorithm::PS384 => by_rsa(&RSA_PSS_SHA384),
        Algorithm::PS512 => by_rsa(&RSA_PSS_SHA512),
        Algorithm::ES256 => by_curve(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => by_curve(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::ES512 => by_curve(&ECDSA_P521_SHA512_FIXED_SIGNING),
        Algorithm::HS256 => by_secret(hmac::HMAC_SHA256),
        Algorithm::HS384 => by_secret(hmac::HMAC_SHA384),
        Algorithm::HS512 => by_secret(hmac::HMAC_SHA512),
    }
}

fn rsa(key: &str, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Result<Vec<u8>, String> {
    let block = encoding::pem(key).ok_or("the key is not PEM")?;
    let pair = match block.label {
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&block.bytes),
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&block.bytes),
        other => return Err(format!("the key is a {other}, and an RSA private key is needed")),
    };
    let pair = pair.map_err(|error| format!("the key is no RSA key of 2,048 bits or more: {error}"))?;
    let mut made = vec![0; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), message, &mut made).map_err(|_| "the key does not sign")?;
    Ok(made)
}

fn ecdsa(key: &str, curve: &'static EcdsaSigningAlgorithm, message: &[u8]) -> Result<Vec<u8>, String> {
    // `openssl ecparam -genkey` puts a block of parameters before the key.
    let key = key.find("-----BEGIN EC PRIVATE KEY").and_then(|start| key.get(start..)).unwrap_or(key);
    let block = encoding::pem(key).ok_or("the key is not PEM")?;
    let pair = match block.label {
        "EC PRIVATE KEY" => EcdsaKeyPair::from_private_key_der(curve, &block.bytes),
        "PRIVATE KEY" => EcdsaKeyPair::from_pkcs8(curve, &block.bytes),
        other => return Err(format!("the key is a {other}, and an EC private key is needed")),
    };
    let pair = pair.map_err(|error| format!("the key is no key of this algorithm's curve: {error}"))?;
    Ok(pair.sign(&SystemRandom::new(), message).map_err(|_| "the key does not sign")?.as_ref().to_vec())
}
