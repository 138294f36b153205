//! `portcullis evidence`: for an access review, what each identity did, and what it may do and never did.
//!
//! In: files of the record, a period, and perhaps the configuration. Out: CSV or JSON. What must stay true: counts are of the log and
//! nothing else; what it lacks (lines lost, torn, foreign, no checkpoint) stands in the same document, so that nobody reads it as more
//! than it is. What an identity may do is not read out of the Rego text, which nobody can: the policy is asked, with requests others
//! made.

mod csv;
mod gather;
mod report;
mod unused;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::courts::Courts;
use super::failure::Failure;
use super::log;
use super::period::{Period, stamp};
use super::{data, talk};
use gather::Gathered;
use report::Report;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portcullis evidence --from 2026-10-01 --to 2026-11-01 decisions.jsonl > review.csv
  portcullis evidence --from 2026-10-01 --to 2026-11-01 -c gate.yaml --format json decisions.jsonl decisions.jsonl.1.gz

With -c the policy is asked, for each identity, about each kind of request any identity made in the period (a method and a path in
which ids are {id}): a recorded request with this identity's own facts in place of its maker's. What it would allow and the identity
never did is `allowed_unused`; what cannot be asked, because the record does not tell what the policy reads, is counted as unknown.")]
pub(super) struct Arguments {
    #[command(flatten)]
    period: Period,
    /// Asks the policy of this configuration what was allowed and not used.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Takes an equal revision for the same policy also where the manifest says it, and not a digest of the content.
    #[arg(long, requires = "config")]
    trust_revisions: bool,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Files of the record; .gz as well.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One table for a spreadsheet; the column `row` says what a row is.
    Csv,
    Json,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (Some(from), Some(to)) = (arguments.period.from, arguments.period.to) else {
        return Err(Failure::misuse("evidence is of a period").hint("give --from 2026-10-01 --to 2026-11-01"));
    };
    if from >= to {
        return Err(Failure::misuse(format!("{} is not before {}", stamp(from), stamp(to)))
            .hint("--to is the first moment after the period"));
    }
    let mut courts = match &arguments.config {
        Some(path) => Some(Courts::new(Some(path), &[], arguments.trust_revisions)?),
        None => None,
    };
    let files = log::in_order(&arguments.files)?;
    let mut gathered = Gathered::new(arguments.period);
    let met = log::each(&files, |line| {
        gathered.add(line);
        Ok(())
    })?;
    met.tell();
    let unused = courts.as_mut().map(|courts| unused::ask(courts, &gathered));
    let report = Report { from, to, gathered: &gathered, unused: unused.as_ref(), met: &met };
    for warning in report.warnings() {
        talk(&format!("warning: {warning}"));
    }
    data(&match arguments.format {
        Format::Csv => report.csv(),
        Format::Json => serde_json::to_string_pretty(&report.json()).unwrap_or_default(),
    })
}
