//! `portcullis run`: the gate, until it is told to stop and has drained.
//!
//! In: a configuration. Out: the log, on stderr. Text for a terminal, JSON for a collector;
//! what is logged is chosen by `PORTCULLIS_LOG` (the syntax of RUST_LOG).

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::failure::Failure;
use crate::app::{App, AppError};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = Config::read(&arguments.config).map_err(|report| {
        Failure::misuse(format!("the configuration has mistakes\n{report}")).hint("`portcullis check -c FILE` tells them too")
    })?;
    log()?;
    let app = App::bind(config).map_err(unfit)?.reloading_from(&arguments.config);
    let addresses = app.addresses();
    tracing::info!(admin = %addresses.admin, control = %addresses.control.display(), "bound");
    app.run().map_err(unfit)
}

fn unfit(error: AppError) -> Failure {
    if error.is_usage() { Failure::misuse(error.to_string()) } else { Failure::new(error.to_string()) }
}

/// Sends the log to stderr; stdout may be the record's.
fn log() -> Result<(), Failure> {
    let wanted = std::env::var("PORTCULLIS_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&wanted)
        .map_err(|error| Failure::misuse(format!("PORTCULLIS_LOG: {error}")).hint("write info, debug, or portcullis=debug,warn"))?;
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    let set = if terminal { builder.try_init() } else { builder.json().try_init() };
    set.map_err(|error| Failure::new(format!("the log cannot be set up: {error}")))
}
