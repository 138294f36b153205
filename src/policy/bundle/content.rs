//! What the files of a bundle say: its manifest, its modules and its one data document.
//!
//! In: files. Out: a [`Bundle`], or every mistake in them. What must stay true: no value is given twice, data lies under the roots, and
//! what cannot be understood is a finding with its place.

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::signature::{self, Signatures};
use super::{Bundle, File, Form, Source, hidden, merge, overlap, under};
use crate::policy::{About, Finding};

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

/// Reads the files of one bundle.
pub(super) struct Reader<'a> {
    pub(super) root: String,
    pub(super) name: &'a str,
    pub(super) findings: Vec<Finding>,
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
    pub(super) fn verify_and_understand(
        self,
        mut files: Vec<File>,
        signatures: Signatures<'_>,
        form: Form,
    ) -> Result<Bundle, Vec<Finding>> {
        let name = || self.name.to_owned();
        let signature = signature::check((self.name, &self.root), &files, signatures, form).map_err(|found| {
            let about = |finding| Finding { about: About::Signature(name()), ..finding };
            found.into_iter().map(about).collect::<Vec<_>>()
        })?;
        files.retain(|file| !hidden(&file.path) && !signature::is_signatures(&file.path));
        Ok(Bundle { signature, ..self.understand(files)? })
    }

    pub(super) fn understand(mut self, mut files: Vec<File>) -> Result<Bundle, Vec<Finding>> {
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
