//! Checkpoints: the record's own word, signed, for how far it had come.
//!
//! In: a key (Ed25519, PKCS #8 in PEM), a record's number and hash. Out: a signature over both, and the public half for whoever checks
//! it. What must stay true: the private key is written once, mode 0600, and never shown.
//! A signature does not stop the owner of the machine, who holds the key: what he rewrites shows against a checkpoint that was taken
//! elsewhere before. Not a key derived from the gate's SVID: that one is renewed within hours, a record is read after years.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::chain::hash;

/// The `SubjectPublicKeyInfo` of Ed25519 before its 32 bytes (RFC 8410 section 4).
const SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The key where the configuration names none.
const PRIVATE: &str = "audit-checkpoint.pem";

/// Why checkpoints cannot be signed or checked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the key of the record's checkpoints {path} cannot be read: {reason}; audit.checkpoint.key wants PKCS #8 in PEM: \
             openssl genpkey -algorithm ed25519"
    )]
    Private { path: PathBuf, reason: String },
    #[error(
        "the key of the record's checkpoints cannot be kept as {path}: {source}; make its directory, writable for the gate's user, or set audit.checkpoint.key"
    )]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "the public key {path} cannot be read: {reason}; wanted is an Ed25519 key in PEM, such as audit-checkpoint.pub.pem in the gate's state.directory"
    )]
    Public { path: PathBuf, reason: String },
}

/// Signs checkpoints.
#[derive(Debug)]
pub struct Signer {
    key: Ed25519KeyPair,
}

impl Signer {
    /// Reads the configured key, or the one under `directory`; it is made where there is none, and its public half beside it
    /// (`NAME.pub.pem`, for `audit verify --key`).
    ///
    /// # Errors
    ///
    /// When there is no usable key, or a new one cannot be kept.
    pub fn open(configured: Option<&Path>, directory: &Path) -> Result<Self, KeyError> {
        let path = configured.map_or_else(|| directory.join(PRIVATE), Path::to_owned);
        let public = path.with_extension("pub.pem");
        if !path.exists() {
            make(&path)?;
            tracing::info!(key = %path.display(), public = %public.display(), "a key for the record's checkpoints was made");
        }
        let signer = Self::read(&path)?;
        let text = pem("PUBLIC KEY", &signer.spki());
        if std::fs::read_to_string(&public).ok().as_deref() != Some(&text)
            && let Err(error) = std::fs::write(&public, text)
        {
            // A key that is mounted has a folder nobody writes to, and its owner has the public half.
            tracing::warn!(public = %public.display(), %error, "the public half of the checkpoints' key was not written; openssl pkey -pubout says it");
        }
        Ok(signer)
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |reason: String| KeyError::Private { path: path.to_owned(), reason };
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| failed(error.to_string()))?;
        let key = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| failed(error.to_string()))?;
        Ok(Self { key })
    }

    fn spki(&self) -> Vec<u8> {
        [SPKI, self.key.public_key().as_ref()].concat()
    }

    /// The public half, as base64 of its `SubjectPublicKeyInfo`.
    pub(super) fn public(&self) -> String {
        STANDARD.encode(self.spki())
    }

    /// The name of the key: the first half of the SHA-256 of its public half.
    pub(super) fn id(&self) -> String {
        id(&self.spki())
    }

    pub(super) fn sign(&self, seq: u64, hash: &str) -> String {
        STANDARD.encode(self.key.sign(statement(seq, hash).as_bytes()).as_ref())
    }
}

/// Checks checkpoints.
#[derive(Clone, Debug)]
pub struct PublicKey {
    bytes: Vec<u8>,
    pub id: String,
}

impl PublicKey {
    /// Reads the public half of a key.
    ///
    /// # Errors
    ///
    /// When the file holds no Ed25519 public key in PEM.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |reason: String| KeyError::Public { path: path.to_owned(), reason };
        let der = SubjectPublicKeyInfoDer::from_pem_file(path).map_err(|error| failed(error.to_string()))?;
        let bytes = der.strip_prefix(SPKI).filter(|bytes| bytes.len() == 32);
        let bytes = bytes.ok_or_else(|| failed("it is no Ed25519 key".to_owned()))?.to_vec();
        Ok(Self { bytes, id: id(&der) })
    }

    /// True when `signature` is this key's over the record of this number and hash.
    pub(super) fn signed(&self, seq: u64, hash: &str, signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(statement(seq, hash).as_bytes(), &signature).is_ok()
    }
}

/// What is signed.
fn statement(seq: u64, hash: &str) -> String {
    format!("portcullis audit checkpoint 1\nseq {seq}\nhash {hash}\n")
}

fn id(spki: &[u8]) -> String {
    hash(spki).chars().take(32).collect()
}

fn make(path: &Path) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let unmade = |error: &dyn std::fmt::Display| failed(io::Error::other(error.to_string()));
    let key = Ed25519KeyPair::generate().map_err(|error| unmade(&error))?;
    let der = key.to_pkcs8v1().map_err(|error| unmade(&error))?;
    // Written whole under another name first: a crash between leaves no half of a key.
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(failed)?;
    file.write_all(pem("PRIVATE KEY", der.as_ref()).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_kept_secret_and_checks_what_it_signed() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::open(None, folder.path()).unwrap();
        let again = Signer::open(None, folder.path()).unwrap();
        assert_eq!(signer.id(), again.id());
        let mode = std::fs::metadata(folder.path().join(PRIVATE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let public = PublicKey::read(&folder.path().join("audit-checkpoint.pub.pem")).unwrap();
        assert_eq!(public.id, signer.id());
        let signature = again.sign(7, "abc");
        assert!(public.signed(7, "abc", &signature));
        assert!(!public.signed(8, "abc", &signature) && !public.signed(7, "abd", &signature) && !public.signed(7, "abc", "AAAA"));
        let configured = Signer::open(Some(&folder.path().join(PRIVATE)), Path::new("/nowhere")).unwrap();
        assert_eq!(configured.id(), signer.id());
        assert!(Signer::open(Some(&folder.path().join("audit-checkpoint.pub.pem")), folder.path()).is_err());
    }
}
