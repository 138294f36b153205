//! A bundle as it lies on disk: a directory, or a `.tar.gz` read in memory and never unpacked.
//!
//! In: a name, and a path or an archive's bytes. Out: modules, one data document, roots and revision, or every mistake found. What must stay true:
//! what was read is bounded before it is allocated, nothing is read from outside the bundle, and no file is taken twice or
//! half. Not the stock unpack-to-a-directory way: links, devices and `..` have nowhere to point when nothing is written.
//!
//! Sources: OPA management-bundles (file format, roots); threats E5, E6.

mod archive;
mod canonical;
mod directory;
pub mod sign;
pub mod signature;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{About, Finding};
use crate::units::Size;
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

/// `.manifest`; keys we do not know are OPA's to add.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    revision: String,
    #[serde(default = "all_of_data")]
    roots: Vec<String>,
    #[serde(default = "version_one")]
    rego_version: u8,
    #[serde(default)]
    file_rego_versions: Map<String, Value>,
    #[serde(default)]
    wasm: Vec<Value>,
    #[serde(default)]
    metadata: Value,
}

fn all_of_data() -> Vec<String> {
    vec![String::new()]
}

fn version_one() -> u8 {
    1
}

impl Manifest {
    fn bare() -> Self {
        Self {
            revision: String::new(),
            roots: all_of_data(),
            rego_version: 1,
            file_rego_versions: Map::new(),
            wasm: Vec::new(),
            metadata: Value::Null,
        }
    }
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

struct Reader<'a> {
    root: String,
    name: &'a str,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn shown(&self, path: &str) -> String {
        format!("{}/{path}", self.root.trim_end_matches('/'))
    }

    fn find(&mut self, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        let file = self.shown(path);
        self.findings.push(Finding::whole(&file, message, hint));
    }

    /// The files that were verified are the files that are parsed: there is no second reading.
    fn verify_and_understand(self, mut files: Vec<File>, signatures: Signatures<'_>, form: Form) -> Result<Bundle, Vec<Finding>> {
        let name = || self.name.to_owned();
        let signature = signature::check((self.name, &self.root), &files, signatures, form).map_err(|found| {
            let about = |finding| Finding { about: About::Signature(name()), ..finding };
            found.into_iter().map(about).collect::<Vec<_>>()
        })?;
        files.retain(|file| !hidden(&file.path) && !signature::is_signatures(&file.path));
        Ok(Bundle { signature, ..self.understand(files)? })
    }

    fn understand(mut self, mut files: Vec<File>) -> Result<Bundle, Vec<Finding>> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = self.manifest(&files);
        let mut data = Map::new();
        let mut modules = Vec::new();
        for file in &files {
            let (directory, leaf) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
            match leaf {
                "data.json" | "data.yaml" | "data.yml" => self.mount(&mut data, directory, file),
                "patch.json" if directory.is_empty() => {
                    self.find(&file.path, "a delta bundle cannot be loaded on its own", "give a snapshot bundle");
                }
                _ if leaf.ends_with(".rego") => modules.extend(self.module(file, manifest.rego_version == 0)),
                _ => {}
            }
        }
        let roots = self.roots(&manifest.roots);
        self.data_under_roots(&data, &roots);
        if !self.findings.is_empty() {
            return Err(self.findings);
        }
        let revision = if manifest.revision.is_empty() { digest(&files) } else { manifest.revision };
        Ok(Bundle { name: self.name.to_owned(), revision, roots, metadata: manifest.metadata, modules, data, signature: None })
    }

    fn manifest(&mut self, files: &[File]) -> Manifest {
        let Some(file) = files.iter().find(|file| file.path == ".manifest") else {
            return Manifest::bare();
        };
        let manifest: Manifest = match serde_json::from_slice(&file.content) {
            Ok(manifest) => manifest,
            Err(error) => {
                let finding = json_finding(self.shown(".manifest"), &error);
                self.findings.push(finding);
                return Manifest::bare();
            }
        };
        if manifest.rego_version > 1 {
            self.find(".manifest", format!("rego_version {} is not known", manifest.rego_version), "write 0 or 1");
        }
        if !manifest.file_rego_versions.is_empty() {
            self.find(
                ".manifest",
                "file_rego_versions is not supported",
                "one bundle, one version: split the bundle or set rego_version",
            );
        }
        if !manifest.wasm.is_empty() {
            self.find(".manifest", "WebAssembly policies are not supported", "build the bundle with the rego target");
        }
        manifest
    }

    fn module(&mut self, file: &File, v0: bool) -> Option<Source> {
        match std::str::from_utf8(&file.content) {
            Ok(text) => {
                Some(Source { file: self.shown(&file.path), text: text.to_owned(), v0, test: file.path.ends_with("_test.rego") })
            }
            Err(error) => {
                self.find(&file.path, format!("not UTF-8 from byte {}", error.valid_up_to()), "save the file as UTF-8");
                None
            }
        }
    }

    fn mount(&mut self, data: &mut Map<String, Value>, directory: &str, file: &File) {
        let parsed = if file.path.ends_with(".json") {
            serde_json::from_slice(&file.content).map_err(|error| json_finding(self.shown(&file.path), &error))
        } else {
            serde_yaml::from_slice(&file.content).map_err(|error| yaml_finding(self.shown(&file.path), &error))
        };
        let mut value = match parsed {
            Ok(value @ Value::Object(_)) => value,
            Ok(_) => {
                self.find(&file.path, "data must be an object at its top", "wrap it: {\"name\": …}");
                return;
            }
            Err(finding) => {
                self.findings.push(finding);
                return;
            }
        };
        for part in directory.rsplit('/').filter(|part| !part.is_empty()) {
            value = Value::Object(Map::from_iter([(part.to_owned(), value)]));
        }
        if let Value::Object(object) = value
            && let Err(path) = merge(data, object)
        {
            self.find(&file.path, format!("data.{path} is already given by another file"), "give each value once");
        }
    }

    fn roots(&mut self, given: &[String]) -> Vec<String> {
        let roots: Vec<String> = given.iter().map(|root| root.trim_matches('/').to_owned()).collect();
        for (index, root) in roots.iter().enumerate() {
            if let Some(other) = roots.iter().take(index).find(|other| overlap(root, other)) {
                self.find(".manifest", format!("roots `{other}` and `{root}` overlap"), "keep the wider one");
            }
        }
        roots
    }

    fn data_under_roots(&mut self, data: &Map<String, Value>, roots: &[String]) {
        let mut outside = Vec::new();
        for (key, value) in data {
            stray(&mut vec![key.as_str()], value, roots, &mut outside);
        }
        for path in outside {
            self.find(".manifest", format!("data.{path} lies outside the roots {roots:?}"), "add its root, or remove it");
        }
    }
}

/// Lists the data paths that no root covers.
fn stray<'a>(path: &mut Vec<&'a str>, value: &'a Value, roots: &[String], outside: &mut Vec<String>) {
    let joined = path.join("/");
    if roots.iter().any(|root| under(&joined, root)) {
        return;
    }
    match value {
        Value::Object(object) if !object.is_empty() && roots.iter().any(|root| under(root, &joined)) => {
            for (key, value) in object {
                path.push(key);
                stray(path, value, roots, outside);
                path.pop();
            }
        }
        _ => outside.push(path.join(".")),
    }
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

fn digest(files: &[File]) -> String {
    let mut digest = Sha256::new();
    for file in files {
        digest.update((file.path.len() as u64).to_le_bytes());
        digest.update(file.path.as_bytes());
        digest.update((file.content.len() as u64).to_le_bytes());
        digest.update(&file.content);
    }
    let hexadecimal: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hexadecimal}")
}

fn json_finding(file: String, error: &serde_json::Error) -> Finding {
    let said = error.to_string();
    let message = said.split(" at line ").next().unwrap_or(&said);
    Finding {
        file,
        line: u32::try_from(error.line()).unwrap_or(0),
        column: u32::try_from(error.column()).unwrap_or(0),
        message: format!("not valid JSON: {message}"),
        hint: String::new(),
        about: About::Content,
    }
}

fn yaml_finding(file: String, error: &serde_yaml::Error) -> Finding {
    let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
    Finding {
        file,
        line: u32::try_from(line).unwrap_or(0),
        column: u32::try_from(column).unwrap_or(0),
        message: format!("not valid YAML: {error}"),
        hint: String::new(),
        about: About::Content,
    }
}

#[cfg(test)]
mod tests;
