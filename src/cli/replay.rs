//! `portcullis replay`: recorded decisions, judged by another bundle.
//!
//! In: files of the record and a bundle that is not in force. Out: which decisions would be others, grouped; exit code 1 when there are
//! any. What must stay true: a decision counts as the same only when everything the new policy reads of it is known; what the log lacks,
//! hashes or leaves out makes it unknown, and that is exit code 1 as well, because nobody has shown that it stays. Not a second gate that
//! mirrors traffic: what happened is in the log, and there a year of it is judged in minutes.

mod compare;
mod tally;

use std::path::PathBuf;

use clap::Args;

use super::courts::Courts;
use super::failure::Failure;
use super::log::{self, Body};
use super::{data, talk};
use compare::compare;
use tally::Tally;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portcullis replay decisions.jsonl --bundle policy.new
  portcullis replay decisions.jsonl decisions.jsonl.1.gz -c gate.yaml --bundle authz=policy.new.tar.gz --json

A decision is unknown when the new policy reads what the log does not tell: a path that was not recorded, a credential that was
hashed, a body, the clock. `audit.input: head` records every header, `full` bodies as well. What is absent is known to have been
absent where the policy that judged then is at hand (the new bundle or the configuration's, told by a revision that is a digest) and
read the same path.

Decisions that the policy's drop rule kept out of the record are in no log, and neither is what was lost: both are counted and told.

Exit code: 0 every recorded decision stays, 1 one would change or is unknown or none was found, 64 bundle, log or configuration are not right.")]
pub(super) struct Arguments {
    /// Files of the record; .gz as well.
    #[arg(required = true, value_name = "LOG")]
    files: Vec<PathBuf>,
    /// The bundle that judges, a directory or .tar.gz; with -c in place of the one of this name.
    #[arg(long, required = true, value_name = "[NAME=]BUNDLE")]
    bundle: Vec<String>,
    /// Other bundles, entry points and limits are taken from this configuration.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Takes an equal revision for the same policy also where the manifest says it, and not a digest of the content.
    #[arg(long)]
    trust_revisions: bool,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut courts = Courts::new(arguments.config.as_deref(), &arguments.bundle, arguments.trust_revisions)?;
    let mut tally = Tally::default();
    let met = log::each(&arguments.files, |line| {
        match &line.body {
            Body::Decision(core) => {
                let outcome = compare(&mut courts, line, core)?;
                tally.add(line, core, outcome);
            }
            Body::Loss(losses) => tally.lacks(losses),
            Body::Closing(_) | Body::Control(_) | Body::Checkpoint(_) | Body::Other => {}
        }
        Ok(())
    })?;
    met.tell();
    for warning in courts.warnings() {
        talk(&format!("warning: {warning}"));
    }
    data(&if arguments.json { tally.json(courts.revisions(), &met) } else { tally.text(courts.revisions()) })?;
    if tally.judged() == 0 {
        return Err(Failure::new("no decision in these files asked a policy: nothing was compared")
            .hint("give the files of the record that hold `input` (audit.file and what rotation left)"));
    }
    if tally.all_same() { Ok(()) } else { Err(Failure::told()) }
}
