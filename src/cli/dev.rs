//! `portcullis dev`: everything on one machine.
//!
//! In: whether to tour, and where to leave the files. The work is in `demo`.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Walks through what the gate does, and ends.
    #[arg(long)]
    tour: bool,
    /// Where certificates, policy and configuration are put [default: .portcullis-dev; with --tour, .portcullis-dev/tour]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    crate::demo::run(arguments.tour, arguments.directory).map_err(Failure::new)
}
