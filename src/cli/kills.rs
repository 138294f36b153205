//! `portcullis kills`: the orders that stand, and their lifting.

use clap::{Args, Subcommand};

use super::client::{Remote, escape};
use super::failure::Failure;
use super::table::{ago, moment, table};
use super::talk;
use crate::control::answers::{KillsAnswer, Lifted};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    act: Option<Act>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Lifts a kill; what it cut stays cut.
    Lift {
        /// As `portcullis kills` lists it.
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.act {
        None => arguments.remote.show(&arguments.remote.get("/v1/kills")?, list),
        Some(Act::Lift { id, remote }) => {
            let remote = remote.or(&arguments.remote);
            let answer = remote.delete(&format!("/v1/kills/{}", escape(id)))?;
            let lifted: Lifted = answer.read()?;
            if !lifted.durable {
                talk("warning: this could not be stored; the kill will stand again after a restart (see the gate's log)");
            }
            remote.show(&answer, |lifted: Lifted| format!("lifted: kill {} stands no more", lifted.id))
        }
    }
}

fn list(answer: KillsAnswer) -> String {
    let rows = answer.kills.into_iter().map(|row| {
        let fields = serde_json::to_value(&row.selector).unwrap_or_default();
        let fields = fields.as_object().into_iter().flatten().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        });
        let left = row.seconds_left.map_or_else(|| "until lifted".to_owned(), ago);
        [row.id, fields.collect::<Vec<_>>().join(" "), row.by, moment(row.created), left, row.reason]
    });
    table(["KILL", "SELECTOR", "BY", "SINCE", "STANDS FOR", "REASON"], rows)
}
