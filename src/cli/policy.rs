//! `portcullis policy`: what judges, and the change of it.

mod shadow;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::check::entry_text;
use super::client::Remote;
use super::coverage;
use super::failure::Failure;
use super::status::signature;
use super::table::{clean, count, moment};
use crate::control::answers::{ActivateRequest, Activated, PolicyAnswer, PolicyStatus, RollbackRequest};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    act: Option<Act>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Shows the policy in force, and what it depends on.
    Show {
        #[command(flatten)]
        remote: Remote,
    },
    /// Shows where the shadow policy disagrees with the one in force.
    Shadow(shadow::Arguments),
    /// Reads configuration and bundles anew and puts them in force.
    Activate(Activate),
    /// Puts the generation before this one in force again.
    Rollback(Change),
    /// Maps the controls that rules claim in their annotations, as far as tests show them; asks no gate.
    Coverage(coverage::Arguments),
}

#[derive(Debug, Args)]
struct Change {
    /// Says what it would cut, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Activate {
    /// Lets a signed bundle come into force although it is older than what was; may be given several times.
    #[arg(long = "allow-rollback", value_name = "BUNDLE")]
    allow_rollback: Vec<String>,
    #[command(flatten)]
    change: Change,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.act {
        None => show(&arguments.remote),
        Some(Act::Show { remote }) => show(&remote.or(&arguments.remote)),
        Some(Act::Shadow(asked)) => shadow::run(asked, &arguments.remote),
        Some(Act::Coverage(arguments)) => coverage::run(arguments),
        Some(Act::Activate(Activate { allow_rollback, change })) => {
            let request = ActivateRequest { dry_run: change.dry_run, allow_rollback: allow_rollback.clone() };
            order("/v1/policy/activate", &request, change, &arguments.remote)
        }
        Some(Act::Rollback(change)) => {
            order("/v1/policy/rollback", &RollbackRequest { dry_run: change.dry_run }, change, &arguments.remote)
        }
    }
}

fn show(remote: &Remote) -> Result<(), Failure> {
    remote.show(&remote.get("/v1/policy")?, words)
}

fn order(path: &str, request: &impl Serialize, change: &Change, outer: &Remote) -> Result<(), Failure> {
    let remote = change.remote.or(outer);
    let answer = remote.post(path, request)?;
    remote.show(&answer, |done: Activated| {
        let open = count(done.open, "open exchange");
        let mut text = match done.generation {
            Some(generation) => format!("generation {generation} is in force: {} of {open} cut", done.cut),
            None => format!("dry run: {} of {open} would be cut; nothing has changed", done.cut),
        };
        for (bundle, revision) in &done.revisions {
            let older = if done.older.contains(bundle) { ", older than what was in force and let back by name" } else { "" };
            text = format!("{text}\n  {} {}{older}", clean(bundle), clean(revision));
        }
        for note in &done.notes {
            text = format!("{text}\n{}", clean(note));
        }
        text
    })
}

fn words(answer: PolicyAnswer) -> String {
    let mut parts = told(answer.policy, "no policy is in force: everything is denied");
    if let Some(shadow) = answer.shadow {
        parts.push("\nin its shadow, without effect:".to_owned());
        parts.extend(told(shadow, "none could be loaded"));
    }
    parts.join("\n")
}

fn told(policy: PolicyStatus, none: &str) -> Vec<String> {
    let mut parts = vec![match policy.generation {
        0 if policy.loading => "loading".to_owned(),
        0 => none.to_owned(),
        generation => {
            let back = if policy.rolled_back { ", by a rollback" } else { "" };
            format!("generation {generation} since {}{back}", moment(policy.activated_at))
        }
    }];
    let signed = |bundle: &String| policy.signatures.get(bundle).map_or_else(String::new, |it| format!(", {}", signature(it)));
    let revisions =
        policy.revisions.iter().map(|(bundle, revision)| format!("bundle {} {}{}", clean(bundle), clean(revision), signed(bundle)));
    parts.extend(revisions);
    parts.extend(policy.entries.iter().map(|entry| format!("\n{}", entry_text(entry))));
    parts.extend(policy.warnings.iter().flat_map(|warning| warning.lines()).map(|line| format!("warning: {}", clean(line))));
    if let Some(error) = policy.last_error {
        parts.push(format!("\nthe newest bundles are not in force since {}:", moment(error.at)));
        parts.extend(error.report.lines().map(|line| format!("  {}", clean(line))));
    }
    parts
}
