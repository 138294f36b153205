//! `portcullis bundle`: bundles built, signed, verified and looked into, as OPA does and for OPA as well.
//!
//! In: a directory or an archive, keys. Out: an archive or a signature file; whose signature covers a bundle, or every reason why
//! none does. What must stay true: what `build` and `sign` write was read back as the gate reads it before anybody is told that it
//! is done, and the same files give the same archive.

mod inspect;

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::failure::Failure;
use super::table::clean;
use super::{data, talk};
use crate::policy::bundle::sign::{Contents, Statement};
use crate::policy::bundle::signature::{Algorithm, Signatures};
use crate::policy::bundle::{self, Bounds, Bundle};
use crate::policy::{Finding, Report};
use crate::units::{Secret, since_epoch};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Packs a directory's Rego, data and manifest into an archive: the same bytes for the same files.
    Build(Build),
    /// Signs a bundle: an archive is written anew, a directory gets a .signatures.json.
    Sign(Sign),
    /// Says whose signature covers a bundle, or why none does (exit code 1).
    Verify(inspect::Verify),
    /// Says what is in a bundle; a signature is shown, and not verified.
    Inspect(inspect::Inspect),
}

#[derive(Debug, Args)]
struct Build {
    directory: PathBuf,
    /// Where the archive goes.
    #[arg(short, long, value_name = "FILE", default_value = "bundle.tar.gz")]
    output: PathBuf,
    /// What this state of the policy is called.
    #[arg(short, long)]
    revision: Option<String>,
    /// A path of `data` the bundle owns; may be given several times.
    #[arg(long = "root", value_name = "PATH")]
    roots: Vec<String>,
}

#[derive(Debug, Args)]
struct Sign {
    bundle: PathBuf,
    /// The private key in PEM, or the file of an HMAC's secret.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// RS, PS, ES or HS with 256, 384 or 512.
    #[arg(long, value_name = "NAME", default_value = "RS256")]
    algorithm: Algorithm,
    /// What the signature is for; a gate that expects another scope refuses it.
    #[arg(long)]
    scope: Option<String>,
    /// The key's name in the `keys` of whoever verifies.
    #[arg(long, value_name = "NAME")]
    keyid: Option<String>,
    /// When it was issued: `now`, seconds since 1970, or `none`. A gate refuses a bundle issued before the one in force.
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = issued_at)]
    iat: IssuedAt,
    /// Where the signed archive goes; the archive itself when absent.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What `--iat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IssuedAt(Option<u64>);

fn issued_at(text: &str) -> Result<IssuedAt, String> {
    match text {
        "now" => Ok(IssuedAt(Some(since_epoch(SystemTime::now()).as_secs()))),
        "none" => Ok(IssuedAt(None)),
        seconds => seconds.parse().map(|at| IssuedAt(Some(at))).map_err(|_| "write now, none, or seconds since 1970".to_owned()),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.act {
        Act::Build(arguments) => build(arguments),
        Act::Sign(arguments) => sign(arguments),
        Act::Verify(arguments) => inspect::verify(arguments),
        Act::Inspect(arguments) => inspect::inspect(arguments),
    }
}

fn build(arguments: &Build) -> Result<(), Failure> {
    let mut contents = Contents::open(&arguments.directory).map_err(mistakes)?;
    if !contents.is_directory() {
        return Err(Failure::misuse(format!("{} is no directory", arguments.directory.display())));
    }
    if contents.signatures().is_some() {
        talk("the directory's signature is left out; sign the archive with `portcullis bundle sign`");
    }
    contents.keep_the_bundle();
    let mut keys = Map::new();
    if let Some(revision) = &arguments.revision {
        keys.insert("revision".to_owned(), revision.clone().into());
    }
    if !arguments.roots.is_empty() {
        keys.insert("roots".to_owned(), arguments.roots.clone().into());
    }
    if !keys.is_empty() {
        contents.set_in_manifest(keys).map_err(Failure::misuse)?;
    }
    let archive = contents.archive().map_err(Failure::new)?;
    let built = read_back(&arguments.output, &archive)?;
    write(&arguments.output, &archive)?;
    talk(&format!("revision {}", clean(&built.revision)));
    data(&arguments.output.display().to_string())
}

fn sign(arguments: &Sign) -> Result<(), Failure> {
    let mut contents = Contents::open(&arguments.bundle).map_err(mistakes)?;
    let secret = Secret::File(arguments.key.clone());
    let key = secret.read().map_err(|error| Failure::misuse(error.to_string()))?;
    if contents.signatures().is_some() {
        talk("the signature there was is replaced");
    }
    let statement = Statement { scope: arguments.scope.clone(), key: arguments.keyid.clone(), issued_at: arguments.iat.0 };
    let file = contents.sign(&key, arguments.algorithm, &statement).map_err(|why| {
        Failure::misuse(format!("{}: {why}", arguments.key.display())).hint("see --algorithm, and give the private key in PEM")
    })?;
    let target = match (&arguments.output, contents.is_directory()) {
        (Some(target), _) => Cow::Borrowed(target),
        (None, true) => Cow::Owned(arguments.bundle.join(".signatures.json")),
        (None, false) => Cow::Borrowed(&arguments.bundle),
    };
    if contents.is_directory() && arguments.output.is_none() {
        write(&target, &file)?;
    } else {
        let archive = contents.archive().map_err(Failure::new)?;
        read_back(&target, &archive)?;
        write(&target, &archive)?;
    }
    let files = contents.names().count().saturating_sub(1);
    talk(&format!("{files} files signed with {}", arguments.algorithm));
    data(&target.display().to_string())
}

/// Reads what is about to be written as the gate will.
fn read_back(shown: &Path, archive: &[u8]) -> Result<Bundle, Failure> {
    let shown = shown.display().to_string();
    bundle::read_archive(&shown, &shown, archive, &Bounds::default(), Signatures::Ignore).map_err(mistakes)
}

/// Writes a file whole or not at all: a gate may be looking at it.
fn write(target: &Path, content: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{} cannot be written: {error}", target.display()));
    let name = target.file_name().ok_or_else(|| Failure::misuse(format!("{} is no file", target.display())))?;
    let beside = target.with_file_name(format!(".{}.new", name.to_string_lossy()));
    let mut file = std::fs::File::create(&beside).map_err(failed)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, target));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        failed(error)
    })
}

fn mistakes(findings: Vec<Finding>) -> Failure {
    Failure::new(format!("the bundle has mistakes\n{}", clean_lines(&Report { findings }.to_string())))
}

fn clean_lines(text: &str) -> String {
    text.lines().map(|line| format!("  {}", clean(line))).collect::<Vec<_>>().join("\n")
}

/// Something for programs.
fn json(value: &Value) -> Result<(), Failure> {
    data(&serde_json::to_string_pretty(value).unwrap_or_default())
}
