//! `portcullis audit verify`: is a record as it was written?
//!
//! In: the files of a record. Out: what holds, and what was not checked for want of a key; or the first line that is not as it was
//! written, and exit code 1. What must stay true: what it cannot prove is said beside what it proved.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::audit::{Expected, PublicKey, Summary, Unverified, verify};
use crate::cli::data;
use crate::cli::failure::Failure;
use crate::cli::table::clean;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  portcullis audit verify decisions.jsonl decisions.jsonl.1 --key state/audit-checkpoint.pub.pem

Whoever owns the machine can write anew what no checkpoint kept elsewhere speaks of. Keep the record's checkpoint lines
(grep '\"kind\":\"checkpoint\"') on another machine, and name the file of the last one with --expect.")]
pub(super) struct Arguments {
    /// The record; rotated files in any order, also as .gz.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The public key of its checkpoints, in PEM, from where its writer cannot change it.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Checkpoint lines that were kept elsewhere: the record must hold what they speak of. - is stdin.
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// Fails also when the first record is not the beginning of the chain.
    #[arg(long)]
    complete: bool,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let key = arguments.key.as_deref().map(PublicKey::read).transpose().map_err(|error| Failure::misuse(error.to_string()))?;
    let expected = arguments.expect.as_deref().map(expected).transpose()?.unwrap_or_default();
    match verify(&arguments.files, key.as_ref(), &expected) {
        Ok(summary) if arguments.complete && summary.first != Some(0) => {
            let why = "the beginning of the chain is in none of these files: name the older ones too";
            refused(arguments.json, &json!({"ok": false, "summary": summary, "broken": {"why": why}}), why)
        }
        Ok(summary) if arguments.json => data(&pretty(&json!({"ok": true, "summary": summary}))),
        Ok(summary) => data(&told(&summary, !expected.is_empty())),
        Err(Unverified::Broken(broken)) => {
            let id = broken.decision_id.as_deref().map_or_else(|| "-".to_owned(), clean);
            let seq = broken.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
            let (file, line) = (clean(&broken.file.display().to_string()), broken.line);
            let text = format!("broken at {file}:{line}\n  record    {seq}\n  decision  {id}\n  why       {}", broken.why);
            refused(arguments.json, &json!({"ok": false, "broken": broken}), &text)
        }
        Err(error @ Unverified::Unreadable { .. }) => Err(Failure::new(error.to_string())),
    }
}

fn refused(as_json: bool, document: &serde_json::Value, text: &str) -> Result<(), Failure> {
    data(&if as_json { pretty(document) } else { text.to_owned() })?;
    Err(Failure::told())
}

fn pretty(document: &serde_json::Value) -> String {
    serde_json::to_string_pretty(document).unwrap_or_default()
}

fn expected(path: &Path) -> Result<Vec<Expected>, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    read.map_err(|error| Failure::misuse(format!("{} cannot be read: {error}", path.display())))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let found = lines.map(Expected::of).collect::<Option<Vec<_>>>().filter(|found| !found.is_empty());
    found.ok_or_else(|| {
        Failure::misuse(format!("{} holds something else than checkpoint lines", path.display()))
            .hint("take them from the record: grep '\"kind\":\"checkpoint\"' decisions.jsonl")
    })
}

fn told(summary: &Summary, expected: bool) -> String {
    let (Some(first), Some(last), Some(hash)) = (summary.first, summary.last, &summary.hash) else {
        return format!("no record of a chain; {} lines of none, which nothing protects", summary.unchained);
    };
    let mut said =
        vec![format!("whole: records {first} to {last}, none changed, missing, moved or inserted"), format!("head: {hash}")];
    said.push(match (summary.checkpointed, summary.signed) {
        (Some(record), true) => {
            format!(
                "signed: {} checkpoints, the last of record {record}; {} records came after it, itself the first",
                summary.checkpoints,
                last - record
            )
        }
        (Some(record), false) => {
            format!(
                "not signed for all we know: {} checkpoints up to record {record}, not checked without --key",
                summary.checkpoints
            )
        }
        (None, _) => "not signed: there is no checkpoint".to_owned(),
    });
    said.push(if expected {
        "the checkpoints kept elsewhere speak of this record".to_owned()
    } else {
        "not proven: that nothing was cut off the end, or written anew by the owner of the key; see --expect".to_owned()
    });
    said.extend((summary.dropped > 0).then(|| {
        format!(
            "not in it: {} decisions that the policy kept out (`data.system.log.drop`), as `audit.allow_drop` let it",
            summary.dropped
        )
    }));
    said.extend((summary.lost > 0).then(|| format!("not in it: {} lines that were lost, as it says itself", summary.lost)));
    said.extend((first > 0).then(|| format!("not here: the {first} records before the first; see --complete")));
    said.extend((summary.unchained > 0).then(|| format!("not protected: {} lines before the chain begins", summary.unchained)));
    said.extend(
        (summary.torn_bytes > 0)
            .then(|| format!("not whole: {} bytes at the end, a line being written or broken off", summary.torn_bytes)),
    );
    said.join("\n")
}
