//! A bundle as it lies on disk: a directory, or a `.tar.gz` read in memory and never unpacked.
//!
//! In: a name, and a path or an archive's bytes. Out: modules, one data document, roots and revision, or every mistake found. What must stay true:
//! what was read is bounded before it is allocated, nothing is read from outside the bundle, and no file is taken twice or
//! half. Not the stock unpack-to-a-directory way: links, devices and `..` have nowhere to point when nothing is written.
//!
//! Sources: OPA management-bundles (file format, roots); threats E5, E6.

mod archive;
mod canonical;
mod content;
mod directory;
pub mod sign;
pub mod signature;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Finding;
use crate::units::Size;
use content::Reader;
use signature::{Signature, Signatures};

/// How much a bundle may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// All files together, uncompressed.
    pub bytes: Size,
    pub files: usize,
    /// Uncompressed bytes a compressed byte may stand for.
    pub ratio: u64,
    /// How deep directories may nest.
    pub depth: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: Size::mib(256), files: 4096, ratio: 200, depth: 32 }
    }
}

/// One bundle, read whole and checked against its own roots (packages are checked by preflight, which parses them).
#[derive(Clone, Debug)]
pub struct Bundle {
    pub name: String,
    /// As the manifest says; a digest of the content where it says nothing.
    pub revision: String,
    /// Trimmed of slashes; `""` is all of `data`.
    pub roots: Vec<String>,
    pub metadata: Value,
    pub modules: Vec<Source>,
    pub data: Map<String, Value>,
    /// Who vouches for it, where that was asked for and verified.
    pub signature: Option<Signature>,
}

/// One Rego file.
#[derive(Clone, Debug)]
pub struct Source {
    /// As it is named in findings.
    pub file: String,
    pub text: String,
    /// Written in Rego v0.
    pub v0: bool,
    /// A `_test.rego` file: it is checked for its syntax and judges nothing.
    pub test: bool,
}

/// A file of a bundle before it is understood.
struct File {
    /// Relative, with `/`, without `.` or `..`.
    path: String,
    content: Vec<u8>,
}

/// How a bundle arrived. Of a directory, names that begin with a dot were never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Archive,
    Directory,
}

/// True for what is not part of a bundle: what lies under a name that begins with a dot.
fn hidden(path: &str) -> bool {
    path != ".manifest" && !signature::is_signatures(path) && path.split('/').any(|part| part.starts_with('.'))
}

/// A token that changes when a bundle on disk changes: paths, sizes, times and inodes, never content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The change token of a bundle's path.
///
/// # Errors
/// The path cannot be read, or holds more than a bundle may.
pub fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let mut digest = Sha256::new();
    directory::each_entry(path, &Bounds::default(), &mut |name, metadata| {
        digest.update(name.as_bytes());
        for number in [metadata.size(), metadata.ino(), metadata.dev(), u64::from(metadata.mode())] {
            digest.update(number.to_le_bytes());
        }
        for time in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
            digest.update(time.to_le_bytes());
        }
    })?;
    Ok(Fingerprint(digest.finalize().into()))
}

/// Reads a bundle whole.
///
/// # Errors
/// Every mistake that can be told without parsing Rego, each with its place.
pub fn read(name: &str, path: &Path, bounds: &Bounds, signatures: Signatures<'_>) -> Result<Bundle, Vec<Finding>> {
    let shown = tidy(path).display().to_string();
    let metadata = std::fs::metadata(path).map_err(|error| {
        vec![Finding::whole(&shown, format!("bundle `{name}` cannot be read: {error}"), "give a directory or a .tar.gz bundle")]
    })?;
    if metadata.is_dir() {
        let files = directory::read(path, bounds)?;
        return Reader { root: shown, name, findings: Vec::new() }.verify_and_understand(files, signatures, Form::Directory);
    }
    read_archive(name, &shown, &archive::load(path, bounds)?, bounds, signatures)
}

/// Reads a bundle from the bytes of a `.tar.gz`; `shown` is what findings call it.
///
/// # Errors
/// As [`read`].
pub fn read_archive(
    name: &str,
    shown: &str,
    archive: &[u8],
    bounds: &Bounds,
    signatures: Signatures<'_>,
) -> Result<Bundle, Vec<Finding>> {
    let files = archive::read(shown, archive, bounds)?;
    Reader { root: shown.to_owned(), name, findings: Vec::new() }.verify_and_understand(files, signatures, Form::Archive)
}

/// A path without the `folder/..` in it, where that names the same place: a folder may be a link.
fn tidy(path: &Path) -> PathBuf {
    let mut short = PathBuf::new();
    for part in path.components() {
        let enters = matches!(short.components().next_back(), Some(Component::Normal(_)));
        if part == Component::ParentDir && enters {
            short.pop();
        } else {
            short.push(part);
        }
    }
    let same = std::fs::canonicalize(&short).ok().zip(std::fs::canonicalize(path).ok()).is_some_and(|(one, other)| one == other);
    if same { short } else { path.to_owned() }
}

/// Reads one file as the only one of a bundle: Rego, or `data.json` and its like.
///
/// # Errors
/// It cannot be read, or is no such file.
pub(super) fn read_file(path: &Path, bounds: &Bounds) -> Result<Bundle, Vec<Finding>> {
    let shown = path.display().to_string();
    let refuse = |message: String| vec![Finding::whole(&shown, message, "give a bundle, a .rego file or a data.json")];
    let leaf = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if !leaf.ends_with(".rego") && !matches!(leaf.as_str(), "data.json" | "data.yaml" | "data.yml") {
        return Err(refuse("this is no file of a bundle".to_owned()));
    }
    let content = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    if content.len() as u64 > bounds.bytes.0 {
        return Err(refuse("it holds more bytes than a bundle may".to_owned()));
    }
    let parent = path.parent().map(|parent| parent.display().to_string()).filter(|parent| !parent.is_empty());
    let root = parent.unwrap_or_else(|| ".".to_owned());
    Reader { root, name: &shown, findings: Vec::new() }.understand(vec![File { path: leaf, content }])
}

/// True when a slash-joined path lies at or beneath a root.
pub(super) fn under(path: &str, root: &str) -> bool {
    root.is_empty() || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// True when one of two roots lies beneath the other.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    under(a, b) || under(b, a)
}

/// Merges objects; a path given twice is handed back, for even two equal values are one too many to change.
pub(super) fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) -> Result<(), String> {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (None, value) => {
                into.insert(key, value);
            }
            (Some(Value::Object(there)), Value::Object(here)) => {
                merge(there, here).map_err(|path| format!("{key}.{path}"))?;
            }
            (Some(_), _) => return Err(key),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
