//! Who vouches for a bundle: `.signatures.json`, checked over the very files that are then parsed.
//!
//! In: a bundle's files, and keys of the configuration. Out: whose signature covers them, or why it does not. What must stay true:
//! exactly one token; the key, and what it may be used for, come from the configuration and never from the token; every file is
//! listed with the hash of what will be parsed, and every listed file is there. Nothing of a token is acted on before its
//! signature has been verified, its key's name apart. A signature that nobody was told to verify is refused, as OPA refuses it:
//! whoever signs believes that somebody looks.
//!
//! Left out of OPA's list: MD5, SHA-1 and every hash shorter than 256 bits. Stricter than OPA: a token whose header names another
//! algorithm than its key is for, a file listed twice, and verifiers of other names (`plugin`) are refused.
//!
//! Sources: OPA management-bundles "Signing", `v1/bundle/verify.go`; RFC 7515; threats E5, E6.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256, Sha384, Sha512, Sha512_256};

use super::{File, Form, canonical, hidden};
use crate::policy::Finding;
use crate::policy::builtins::{encoding, keys};
use crate::policy::rollback::moment;
use crate::units::{Secret, since_epoch};

const SIGNATURES: &str = ".signatures.json";
/// How far ahead of this machine's clock a signature may have been made. One that is dated wrongly must not come into force: every later
/// one would be older, and refused.
const AHEAD: Duration = Duration::from_secs(300);

/// One of `keys`: what verifies signatures.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// A public key or certificate in PEM, or the secret of an HMAC.
    pub key: Secret,
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What a signature must be for, where the bundle's own `signing.scope` does not say.
    #[serde(default)]
    pub scope: String,
}

/// How a key signs (RFC 7518 section 3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    HS256,
    HS384,
    HS512,
}

impl Algorithm {
    const ALL: [Self; 12] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::HS256,
        Self::HS384,
        Self::HS512,
    ];

    /// True where one secret both signs and verifies.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|algorithm| algorithm.to_string()).join(", ");
        Self::ALL.into_iter().find(|algorithm| algorithm.to_string() == text).ok_or_else(|| format!("write one of {}", known()))
    }
}

/// `policy.bundles.<name>.signing`: whose signature a bundle must carry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signing {
    /// The one of `keys` that must have signed; any of them when absent, as the signature names it.
    #[serde(default)]
    pub keyid: Option<String>,
    /// What the signature must be for; the key's own scope when absent.
    #[serde(default)]
    pub scope: Option<String>,
    /// Files no signature covers, as globs; they are loaded unverified.
    #[serde(default)]
    pub exclude_files: Vec<String>,
    /// The revision of an older bundle that may come back; one older than what was in force is refused otherwise.
    #[serde(default)]
    pub allow_rollback_to: Option<String>,
    /// `keys`, which stand at the top of the configuration.
    #[serde(skip)]
    pub keys: Arc<BTreeMap<String, Key>>,
}

/// What is made of a bundle's signature.
#[derive(Clone, Copy, Debug)]
pub enum Signatures<'a> {
    /// There must be one, and it must verify.
    Verify(&'a Signing),
    /// There must be none: nothing says how to verify it.
    Refuse,
    /// Nobody is going to trust what is read: it is looked at, or tested.
    Ignore,
}

impl<'a> Signatures<'a> {
    /// What the configuration of a bundle asks for.
    pub fn of(signing: Option<&'a Signing>) -> Self {
        signing.map_or(Self::Refuse, Self::Verify)
    }
}

/// A signature that was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// Its key's name in `keys`.
    pub key: String,
    pub algorithm: Algorithm,
    pub scope: String,
    /// When it was made, in seconds since 1970, where it says so.
    pub issued_at: Option<u64>,
    /// A digest of what it covers: the same for the same files, whoever signed them and when.
    pub content: String,
}

/// What a token says of itself.
#[derive(Debug)]
pub struct Claims {
    pub algorithm: String,
    pub key: Option<String>,
    pub scope: String,
    pub issued_at: Option<u64>,
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct SignaturesFile {
    #[serde(default)]
    signatures: Vec<String>,
    #[serde(default)]
    plugin: String,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    alg: String,
    #[serde(default)]
    kid: String,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Payload {
    files: Vec<Listed>,
    #[serde(default)]
    scope: String,
    iat: Option<serde_json::Number>,
    /// Deprecated by OPA in favour of the header's `kid`.
    #[serde(default)]
    keyid: String,
}

/// One file of a payload.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) hash: String,
    #[serde(default)]
    pub(super) algorithm: String,
}

/// A message and the next step.
type Refusal = (String, String);

fn refusal(message: impl Into<String>, hint: impl Into<String>) -> Refusal {
    (message.into(), hint.into())
}

/// True for the file that holds signatures, wherever it lies.
pub(super) fn is_signatures(path: &str) -> bool {
    path.rsplit('/').next() == Some(SIGNATURES)
}

/// Checks who vouches for these files.
pub(super) fn check(
    (name, root): (&str, &str),
    files: &[File],
    wanted: Signatures<'_>,
    form: Form,
) -> Result<Option<Signature>, Vec<Finding>> {
    let place = |path: &str| format!("{}/{path}", root.trim_end_matches('/'));
    let one = |(message, hint): Refusal| vec![Finding::whole(&place(SIGNATURES), message, hint)];
    let found: Vec<&File> = files.iter().filter(|file| is_signatures(&file.path)).collect();
    let signing = match (wanted, found.is_empty()) {
        (Signatures::Ignore, _) | (Signatures::Refuse, true) => return Ok(None),
        (Signatures::Refuse, false) => {
            return Err(one(refusal(
                "the bundle is signed, and nothing says with which key to verify it",
                format!(
                    "write its public key under `keys` and `signing: {{keyid: …}}` under `policy.bundles.{name}`, or remove \
                     {SIGNATURES}: a signature nobody checks is worse than none"
                ),
            )));
        }
        (Signatures::Verify(_), true) => {
            return Err(one(refusal(
                format!("the bundle is not signed, and `policy.bundles.{name}.signing` asks for a signature"),
                "sign it with `portcullis bundle sign`, or `opa sign`",
            )));
        }
        (Signatures::Verify(signing), false) => signing,
    };
    let [file] = found.as_slice() else {
        return Err(one(refusal("there are several signature files", "one bundle, one .signatures.json at its top")));
    };
    if file.path != SIGNATURES {
        return Err(one(refusal(format!("`{}` does not lie at the top of the bundle", file.path), "move it there")));
    }
    let (claims, key, algorithm) = verified(&file.content, signing).map_err(one)?;
    not_ahead(claims.issued_at, SystemTime::now()).map_err(one)?;
    let excluded = globs(&signing.exclude_files).map_err(one)?;
    let skipped = |path: &str| excluded.is_match(path) || (form == Form::Directory && hidden(path));
    let mut findings = Vec::new();
    let mut listed: BTreeMap<&str, &Listed> = BTreeMap::new();
    for entry in claims.files.iter().filter(|entry| !skipped(&entry.name)) {
        if listed.insert(&entry.name, entry).is_some() {
            findings.push(Finding::whole(&place(&entry.name), "the signature lists it twice", "sign the bundle anew"));
        }
    }
    let content = content(&claims.scope, listed.values().copied());
    for file in files.iter().filter(|file| !is_signatures(&file.path) && !skipped(&file.path)) {
        let outcome = match listed.remove(file.path.as_str()) {
            Some(entry) => matches(entry, file),
            None => {
                Err(refusal("the signature does not cover it", "it was added after signing: remove it, or sign the bundle anew"))
            }
        };
        findings.extend(outcome.err().map(|(message, hint)| Finding::whole(&place(&file.path), message, hint)));
    }
    for missing in listed.into_keys() {
        let (message, hint) = refusal("the signature covers it, and it is not there", "put it back, or sign the bundle anew");
        findings.push(Finding::whole(&place(missing), message, hint));
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    Ok(Some(Signature { key, algorithm, scope: claims.scope, issued_at: claims.issued_at, content }))
}

/// What the signature file says; nothing of it has been verified.
///
/// # Errors
/// It is no signature file, or does not hold exactly one token.
pub fn claimed(content: &[u8]) -> Result<Claims, String> {
    token(content).and_then(|token| Parts::of(&token)?.claims()).map_err(|(message, _)| message)
}

fn token(content: &[u8]) -> Result<String, Refusal> {
    let anew = "sign the bundle anew";
    let file: SignaturesFile =
        serde_json::from_slice(content).map_err(|error| refusal(format!("not a signature file: {error}"), anew))?;
    if !matches!(file.plugin.as_str(), "" | "_default") {
        let hint = "sign it without --signing-plugin";
        return Err(refusal(format!("it asks for the verifier `{}`, and there is none of that name", file.plugin), hint));
    }
    let mut tokens = file.signatures.into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        (None, _) => Err(refusal("it holds no token, and exactly one is expected", anew)),
        (Some(_), Some(_)) => Err(refusal("it holds several tokens, and exactly one is expected", anew)),
    }
}

/// A token, taken apart.
struct Parts<'t> {
    header: Header,
    payload: Vec<u8>,
    signature: Vec<u8>,
    signed: &'t str,
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Result<Self, Refusal> {
        let broken = |what: &str| refusal(format!("the token's {what} cannot be read"), "sign the bundle anew");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| broken("form"))?;
        let (header, payload) = signed.split_once('.').filter(|(_, rest)| !rest.contains('.')).ok_or_else(|| broken("form"))?;
        let decoded = |text: &str, what: &str| encoding::url(text).ok_or_else(|| broken(what));
        Ok(Self {
            header: serde_json::from_slice(&decoded(header, "header")?).map_err(|_| broken("header"))?,
            payload: decoded(payload, "payload")?,
            signature: decoded(signature, "signature")?,
            signed,
        })
    }

    fn claims(&self) -> Result<Claims, Refusal> {
        let broken = |why: String| refusal(format!("the token's payload cannot be read: {why}"), "sign the bundle anew");
        let payload: Payload = serde_json::from_slice(&self.payload).map_err(|error| broken(error.to_string()))?;
        let issued_at = payload.iat.map(|iat| seconds(&iat).ok_or_else(|| broken(format!("`iat` is {iat}")))).transpose()?;
        let key = [&self.header.kid, &payload.keyid].into_iter().find(|id| !id.is_empty()).cloned();
        Ok(Claims { algorithm: self.header.alg.clone(), key, scope: payload.scope, issued_at, files: payload.files })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded before")]
fn seconds(number: &serde_json::Number) -> Option<u64> {
    let float = || number.as_f64().filter(|seconds| (0.0..1e15).contains(seconds)).map(|seconds| seconds as u64);
    number.as_u64().or_else(float)
}

/// The claims of the one token, its key and algorithm, once the signature has been verified and is for the scope it must be for.
fn verified(content: &[u8], signing: &Signing) -> Result<(Claims, String, Algorithm), Refusal> {
    let token = token(content)?;
    let parts = Parts::of(&token)?;
    let claims = parts.claims()?;
    let id = signing
        .keyid
        .clone()
        .or_else(|| claims.key.clone())
        .ok_or_else(|| refusal("the token names no key", "write `signing: {keyid: …}`, or sign the bundle with a key id"))?;
    let configured = signing.keys.get(&id).ok_or_else(|| {
        let known: Vec<&str> = signing.keys.keys().map(String::as_str).collect();
        refusal(format!("there is no key `{id}`"), format!("known under `keys`: {}", known.join(", ")))
    })?;
    if parts.header.crit.is_some() {
        return Err(refusal("the token marks parts as critical that nobody knows here", "sign the bundle anew"));
    }
    let algorithm = configured.algorithm;
    if parts.header.alg != algorithm.to_string() {
        let said = &parts.header.alg;
        let hint = format!("sign it with {algorithm}, or correct `keys.{id}.algorithm`");
        return Err(refusal(format!("the token says `{said}`, and the key `{id}` is for {algorithm}"), hint));
    }
    if !verifies(&id, configured, parts.signed.as_bytes(), &parts.signature)? {
        let hint = "whoever signed it does not hold this key, or the signature was altered";
        return Err(refusal(format!("the signature does not verify with the key `{id}` ({algorithm})"), hint));
    }
    let scope = signing.scope.as_deref().filter(|scope| !scope.is_empty()).unwrap_or(&configured.scope);
    if claims.scope != scope {
        let hint = "a signature counts for the one scope it was made for";
        return Err(refusal(format!("the signature is for the scope `{}`, and `{scope}` is expected", claims.scope), hint));
    }
    Ok((claims, id, algorithm))
}

/// Refuses a signature that was made later than now.
fn not_ahead(issued_at: Option<u64>, now: SystemTime) -> Result<(), Refusal> {
    let now = since_epoch(now).as_secs();
    match issued_at {
        Some(issued_at) if issued_at > now.saturating_add(AHEAD.as_secs()) => Err(refusal(
            format!(
                "it says it was signed at {} (`iat`), {} minutes ahead of this machine's clock",
                moment(issued_at),
                issued_at.saturating_sub(now) / 60
            ),
            "set the clocks right, of whoever signs and of this machine, and sign it anew: were it in force, every later one would be older",
        )),
        _ => Ok(()),
    }
}

/// The code that checks the tokens of policies checks this one.
fn verifies(id: &str, configured: &Key, signed: &[u8], signature: &[u8]) -> Result<bool, Refusal> {
    let place = format!("keys.{id}");
    let text = configured.key.read().map_err(|error| refusal(format!("{place}: {error}"), "correct the key"))?;
    let unfit = || {
        let hint = "give one public key or certificate in PEM, as `openssl pkey -pubout` writes it";
        refusal(format!("{place}: this is no public key"), hint)
    };
    let algorithm = keys::Algorithm::named(&configured.algorithm.to_string()).ok_or_else(unfit)?;
    if configured.algorithm.is_symmetric() {
        if text.starts_with("-----BEGIN") {
            return Err(refusal(format!("{place}: a PEM key is no secret of an HMAC"), "set its `algorithm`, as RS256"));
        }
        return Ok(keys::Key::secret(&text).signed(algorithm, signed, signature));
    }
    let read = keys::read(&text).ok_or_else(unfit)?;
    match read.as_ref() {
        [key] if !key.private => Ok(key.signed(algorithm, signed, signature)),
        _ => Err(unfit()),
    }
}

/// Patterns in which `*` stays within a folder, as in Go's `filepath.Match`.
fn globs(patterns: &[String]) -> Result<GlobSet, Refusal> {
    let wrong = |error: &globset::Error| refusal(format!("exclude_files: {error}"), "write a glob such as `notes/*.md`");
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(GlobBuilder::new(pattern).literal_separator(true).build().map_err(|error| wrong(&error))?);
    }
    set.build().map_err(|error| wrong(&error))
}

fn matches(listed: &Listed, file: &File) -> Result<(), Refusal> {
    let bytes = canonical::bytes(&file.path, &file.content)
        .map_err(|why| refusal(format!("it cannot be hashed as a document: {why}"), "mend it, and sign the bundle anew"))?;
    let hash = hash(&listed.algorithm, &bytes).ok_or_else(|| {
        let said = if listed.algorithm.is_empty() { "no hash algorithm" } else { listed.algorithm.as_str() };
        refusal(format!("it is signed with {said}"), "sign the bundle with SHA-256 or stronger")
    })?;
    if hash == listed.hash.to_ascii_lowercase() {
        return Ok(());
    }
    Err(refusal("it is not what was signed: its hash differs", "it was changed after signing: restore it, or sign the bundle anew"))
}

/// The hash of these bytes in hexadecimal; nothing for an algorithm that is weak or unknown.
pub(super) fn hash(algorithm: &str, bytes: &[u8]) -> Option<String> {
    Some(match algorithm {
        "SHA-256" => encoding::hex(&Sha256::digest(bytes)),
        "SHA-384" => encoding::hex(&Sha384::digest(bytes)),
        "SHA-512" => encoding::hex(&Sha512::digest(bytes)),
        "SHA-512-256" => encoding::hex(&Sha512_256::digest(bytes)),
        _ => return None,
    })
}

/// A digest of what is covered, of the hashes that were signed: space in a document that nobody signed does not change it.
fn content<'l>(scope: &str, listed: impl Iterator<Item = &'l Listed>) -> String {
    let rows: BTreeSet<String> =
        listed.map(|Listed { name, hash, algorithm }| format!("{name}\0{algorithm}\0{}", hash.to_ascii_lowercase())).collect();
    let mut digest = Sha256::new();
    for text in std::iter::once(scope).chain(rows.iter().map(String::as_str)) {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
    }
    encoding::hex(&digest.finalize())
}
