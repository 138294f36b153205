//! Everything on one machine: `dev` and its tour.
//!
//! In: a directory. Out: a gate in front of a demo API, with throw-away certificates and a policy, or the transcript of a tour through
//! it. What must stay true: the gate is the one `run` builds, from a file `check` accepts; the demo has no door of its own into it.

pub mod api;
pub mod authority;
pub mod client;
pub mod command;
mod configuration;
mod page;
pub mod stage;
pub mod teller;
pub mod tour;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use api::Api;
use client::Client;
use command::Operator;
use page::Places;
use stage::{Ports, Role, Stage};
use teller::Teller;
use tour::Scene;

use crate::app::{Addresses, App};
use crate::config::Config;
use crate::spiffe::SpiffeId;
use crate::units::since_epoch;

/// Where `dev` keeps its files when nobody names a directory; the tour has a folder in it, so that both can run at once.
const DIRECTORY: &str = ".portcullis-dev";
const PORTS: Ports = Ports { gate: 8443, admin: 9901 };
const FREE_PORTS: Ports = Ports { gate: 0, admin: 0 };

/// Runs the demo until it is told to stop, or plays the tour and checks every step of it.
///
/// # Errors
/// What keeps it from standing, with the next step; of the tour, the step that was not as it should be.
pub fn run(tour: bool, directory: Option<PathBuf>) -> Result<(), String> {
    let given = directory.unwrap_or_else(|| if tour { Path::new(DIRECTORY).join("tour") } else { PathBuf::from(DIRECTORY) });
    if tour { play(&given) } else { stand(&given) }
}

fn stand(directory: &Path) -> Result<(), String> {
    // Asked before a file is touched: another demo in the same directory is using them.
    for port in [PORTS.gate, PORTS.admin] {
        free(port)?;
    }
    let api = Api::start().map_err(|error| format!("the demo API cannot be started: {error}"))?;
    let stage = Stage::prepare(directory, PORTS, api.address(), now()).map_err(told)?;
    let app = bind(&stage)?;
    let Addresses { admin, control, .. } = app.addresses().clone();
    let gate = gate(app.addresses())?;
    let program = program()?;
    let places = Places { gate, admin, upstream: api.address(), control: &control, program: &program };
    page::show(&stage, &places, &mut Teller::new(io::stdout())).map_err(told)?;
    app.run().map_err(told)
}

fn play(directory: &Path) -> Result<(), String> {
    let api = Api::start().map_err(|error| format!("the demo API cannot be started: {error}"))?;
    let stage = Stage::prepare(directory, FREE_PORTS, api.address(), now()).map_err(told)?;
    stage.forget().map_err(told)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(told)?;
    let program = program()?;
    let running = bind(&stage)?.start().map_err(told)?;
    let Addresses { admin, control, .. } = running.addresses().clone();
    let mut teller = Teller::new(io::stdout());
    let played = gate(running.addresses()).and_then(|gate| {
        let gate_id = SpiffeId::new(Role::Gate.spiffe_id()).map_err(told)?;
        let client = Client::new(&stage.identity(Role::Research), &gate_id, gate).map_err(told)?;
        let operator = Operator { program, socket: control };
        let scene = Scene { stage: stage.clone(), api, client, operator, gate, admin };
        runtime.block_on(tour::play(&scene, &mut teller)).map_err(told)
    });
    // The client's connections end with its runtime, so that the gate has nothing to wait for.
    drop(runtime);
    let stopped = running.stop().map_err(|error| format!("the gate did not end well: {error}"));
    played.and(stopped)?;
    tour::show_record(&stage.decisions(), &mut teller).map_err(told)?;
    teller.line("").and_then(|()| teller.line("Every step was as it should be.")).map_err(told)
}

fn bind(stage: &Stage) -> Result<App, String> {
    let config = Config::read(&stage.gate_yaml()).map_err(told)?;
    App::bind(config).map_err(told)
}

fn gate(addresses: &Addresses) -> Result<SocketAddr, String> {
    addresses.listeners.first().map(|(_, address)| *address).ok_or_else(|| "the gate listens nowhere".to_owned())
}

/// Says who may be in the way, instead of the error of a gate that was half built.
fn free(port: u16) -> Result<(), String> {
    let tried = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    tried.map(drop).map_err(|error| {
        format!(
            "127.0.0.1:{port} cannot be used: {error}; end what listens there, maybe another `portcullis dev` \
             (`ss -ltnp 'sport = :{port}'` names it), or take the tour, which uses free ports: `portcullis dev --tour`"
        )
    })
}

fn program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("the path of this program cannot be found: {error}"))
}

fn now() -> u64 {
    since_epoch(SystemTime::now()).as_secs()
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_with_the_next_step() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = free(port).unwrap_err();
        assert!(refused.starts_with(&format!("127.0.0.1:{port} cannot be used")) && refused.contains("--tour"), "{refused}");
        drop(taken);
        free(port).unwrap();
    }
}
