//! `portcullis audit`: what reads the record.

mod kills;
mod show;
mod told;
mod verify;

use clap::{Args, Subcommand};

use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Tells what happened, in the order it happened.
    Show(show::Arguments),
    /// Finds any line of a record that was changed, cut, moved or inserted.
    Verify(verify::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.act {
        Act::Show(arguments) => show::run(arguments),
        Act::Verify(arguments) => verify::run(arguments),
    }
}
