//! `portcullis bundle verify` and `inspect`: what a bundle says, and whether that is vouched for.
//!
//! In: a bundle, and for `verify` a key. Out: a table or JSON. What must stay true: nothing `inspect` shows has been verified, and
//! it says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::{clean_lines, json, mistakes};
use crate::cli::data;
use crate::cli::failure::Failure;
use crate::cli::table::{clean, count, moment, or_dash, pairs};
use crate::policy::bundle::sign::Contents;
use crate::policy::bundle::signature::{self, Algorithm, Claims, Key, Signature, Signatures, Signing};
use crate::policy::bundle::{self, Bounds, Bundle};
use crate::policy::{Finding, preflight};
use crate::units::Secret;

/// What the one key is called where its name does not matter.
const KEY: &str = "key";

#[derive(Debug, Args)]
pub(super) struct Verify {
    bundle: PathBuf,
    /// The public key in PEM, or the file of an HMAC's secret.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[arg(long, value_name = "NAME", default_value = "RS256")]
    algorithm: Algorithm,
    /// What the signature must be for.
    #[arg(long)]
    scope: Option<String>,
    /// Files that need not be covered, as globs; may be given several times.
    #[arg(long = "exclude", value_name = "GLOB")]
    exclude: Vec<String>,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    bundle: PathBuf,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(arguments: &Verify) -> Result<(), Failure> {
    let key = Key { key: Secret::File(arguments.key.clone()), algorithm: arguments.algorithm, scope: String::new() };
    let signing = Signing {
        keyid: Some(KEY.to_owned()),
        scope: arguments.scope.clone(),
        exclude_files: arguments.exclude.clone(),
        allow_rollback_to: None,
        keys: Arc::new(BTreeMap::from([(KEY.to_owned(), key)])),
    };
    let shown = arguments.bundle.display().to_string();
    let bundle = bundle::read(&shown, &arguments.bundle, &Bounds::default(), Signatures::Verify(&signing)).map_err(mistakes)?;
    let Bundle { revision, signature: Some(Signature { algorithm, scope, issued_at, content, .. }), .. } = bundle else {
        return Err(Failure::new("the bundle was not verified"));
    };
    if arguments.json {
        let verified =
            json!({"revision": revision, "algorithm": algorithm, "scope": scope, "issued_at": issued_at, "content": content});
        return json(&verified);
    }
    data(&pairs([
        ("verified", arguments.key.display().to_string()),
        ("algorithm", algorithm.to_string()),
        ("scope", or_dash(Some(clean(&scope)).filter(|scope| !scope.is_empty()))),
        ("issued", or_dash(issued_at.map(moment))),
        ("revision", clean(&revision)),
        ("content", content),
    ]))
}

pub(super) fn inspect(arguments: &Inspect) -> Result<(), Failure> {
    let contents = Contents::open(&arguments.bundle).map_err(mistakes)?;
    let shown = arguments.bundle.display().to_string();
    let read = bundle::read(&shown, &arguments.bundle, &Bounds::default(), Signatures::Ignore);
    let claims = contents.signatures().map(signature::claimed);
    let (bundle, mut findings) = match read {
        Ok(bundle) => (Some(bundle), Vec::new()),
        Err(findings) => (None, findings),
    };
    let packages = bundle.as_ref().map(|bundle| packages(bundle, &mut findings)).unwrap_or_default();
    let faulty = !findings.is_empty() || matches!(claims, Some(Err(_)));
    let seen = Seen { files: contents.names().collect(), bundle: bundle.as_ref(), packages, claims, findings };
    if arguments.json {
        json(&seen.document())?;
    } else {
        data(&seen.words())?;
    }
    if faulty { Err(Failure::told()) } else { Ok(()) }
}

fn packages(bundle: &Bundle, findings: &mut Vec<Finding>) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    for module in &bundle.modules {
        match preflight::package_of(module) {
            Ok(package) => drop(packages.insert(package)),
            Err(finding) => findings.push(finding),
        }
    }
    packages
}

/// What was seen of a bundle.
struct Seen<'b> {
    files: Vec<&'b str>,
    /// Nothing where it has mistakes.
    bundle: Option<&'b Bundle>,
    packages: BTreeSet<String>,
    claims: Option<Result<Claims, String>>,
    findings: Vec<Finding>,
}

impl Seen<'_> {
    fn data_paths(&self) -> Vec<String> {
        self.bundle.map(|bundle| bundle.data.keys().cloned().collect()).unwrap_or_default()
    }

    fn document(&self) -> Value {
        let signature = match &self.claims {
            None => Value::Null,
            Some(Err(why)) => json!({"error": why}),
            Some(Ok(claims)) => json!({
                "keyid": claims.key, "algorithm": claims.algorithm, "scope": claims.scope, "issued_at": claims.issued_at,
                "verified": false,
            }),
        };
        json!({
            "revision": self.bundle.map(|bundle| &bundle.revision),
            "roots": self.bundle.map(|bundle| &bundle.roots),
            "metadata": self.bundle.map(|bundle| &bundle.metadata),
            "packages": self.packages,
            "data": self.data_paths(),
            "files": self.files,
            "signature": signature,
            "findings": self.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    fn words(&self) -> String {
        let listed = |items: Vec<String>| or_dash(Some(clean(&items.join(", "))).filter(|text| !text.is_empty()));
        let roots = self.bundle.map(|bundle| bundle.roots.iter().map(|root| format!("/{root}")).collect()).unwrap_or_default();
        let signature = match &self.claims {
            None => "none".to_owned(),
            Some(Err(why)) => format!("not readable: {}", clean(why)),
            Some(Ok(claims)) => {
                let said = |name: &str, value: Option<String>| value.map(|value| format!(", {name} {}", clean(&value)));
                let parts = [
                    said("key", claims.key.clone()),
                    said("scope", Some(claims.scope.clone()).filter(|scope| !scope.is_empty())),
                    said("issued", claims.issued_at.map(moment)),
                ];
                format!("{}{} (not verified)", clean(&claims.algorithm), parts.into_iter().flatten().collect::<String>())
            }
        };
        let mut text = pairs([
            ("revision", or_dash(self.bundle.map(|bundle| clean(&bundle.revision)))),
            ("roots", listed(roots)),
            ("packages", listed(self.packages.iter().cloned().collect())),
            ("data", listed(self.data_paths())),
            ("signature", signature),
        ]);
        text = format!("{}\n\n{}", text.trim_end(), count(self.files.len(), "file"));
        for file in &self.files {
            text = format!("{text}\n  {}", clean(file));
        }
        if !self.findings.is_empty() {
            let findings: Vec<String> = self.findings.iter().map(ToString::to_string).collect();
            text = format!("{text}\n\n{}\n{}", count(self.findings.len(), "finding"), clean_lines(&findings.join("\n")));
        }
        text
    }
}
