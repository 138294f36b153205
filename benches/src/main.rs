//! How fast the gate is next to its rivals, in one run on one machine.
//!
//! ```text
//! cargo run --release --manifest-path benches/Cargo.toml --bin run -- [SCENARIO...] [--quick] [--smoke] [--gate PATH]
//!     [--only portcullis,floor,...] [--without websocket|SCENARIO] [--keep]
//! ```
//!
//! In: the names of scenarios; all when none is named. Out: tables in Markdown on stdout, talk on stderr. The gate is built with the
//! profile this was built with, unless `--gate` names one. `--keep` leaves configurations, logs and records where they are. The proxy under test has core 0 for itself, the load and the upstream
//! have core 1. This binary is also each of its own helpers, so that one build builds everything.

mod authorizer;
mod floor;
mod load;
mod policy;
mod proxies;
mod report;
mod rig;
mod scenario;
mod tls;
mod upstream;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::TcpListener;

use crate::load::{Target, exchange, handshakes, hold};
use crate::scenario::{LOADER, OTHER, Run, Scale, VICTIM};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SCENARIOS: [&str; 9] = ["exchange", "handshake", "memory", "kill", "activate", "anomaly", "reload", "slow", "abuse"];
/// Open files of one process that the largest scenario needs.
const FILES: u64 = 65_536;
const TICK: Duration = Duration::from_millis(1000);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = arguments.first().map(String::as_str).unwrap_or_default();
    let done = match role {
        "upstream" | "floor" | "authorizer" | "load" => helper(role, &arguments[1..]),
        _ => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One of the processes a run starts.
fn helper(role: &str, arguments: &[String]) -> Result<()> {
    let argument = |place: usize| arguments.get(place).map(String::as_str).context("an argument is missing");
    let address = |place: usize| anyhow::Ok(argument(place)?.parse::<SocketAddr>()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if role == "load" {
            let target = Target { address: address(0)?, folder: argument(1)?.into() };
            return client(target, &arguments[2..]).await;
        }
        let listener = listen(address(0)?)?;
        match role {
            "upstream" => upstream::serve(listener, Duration::from_millis(argument(1)?.parse()?)).await,
            "floor" => floor::serve(listener, address(1)?, Path::new(argument(2)?)).await,
            _ => authorizer::serve(listener).await,
        }
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

async fn client(target: Target, arguments: &[String]) -> Result<()> {
    let argument = |place: usize| arguments.get(place).map(String::as_str).context("an argument is missing");
    let number = |place: usize| anyhow::Ok(argument(place)?.parse::<usize>()?);
    let milliseconds = |place: usize| anyhow::Ok(Duration::from_millis(argument(place)?.parse()?));
    match argument(0)? {
        "exchange" => {
            let rate = arguments.get(6).map(|rate| rate.parse()).transpose()?;
            exchange::run(exchange::Plan {
                target,
                agent: number(1)?,
                connections: number(2)?,
                streams: number(3)?,
                warm: milliseconds(4)?,
                length: milliseconds(5)?,
                rate,
            })
            .await
        }
        "handshakes" => handshakes::run(target, number(1)?, number(2)?, milliseconds(3)?, milliseconds(4)?).await,
        "hold" => {
            let wanted = arguments[1..].iter().map(|text| hold::parse(text)).collect::<Result<Vec<_>>>()?;
            hold::run(target, wanted).await
        }
        "asks" => load::asks::run(target, number(1)?, &arguments[2..]).await,
        "abuse" => load::abuse::run(target, number(1)?, argument(2)?).await,
        word => bail!("there is no load `{word}`"),
    }
}

/// What the command line asks for.
struct Asked {
    scenarios: Vec<String>,
    quick: bool,
    smoke: bool,
    gate: Option<PathBuf>,
    only: Option<Vec<String>>,
    websocket: bool,
    keep: bool,
}

fn asked(arguments: &[String]) -> Result<Asked> {
    let mut asked =
        Asked { scenarios: Vec::new(), quick: false, smoke: false, gate: None, only: None, websocket: true, keep: false };
    let mut without = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--quick" => asked.quick = true,
            "--keep" => asked.keep = true,
            "--smoke" => asked.smoke = true,
            "--gate" => asked.gate = Some(std::fs::canonicalize(value()?)?),
            "--only" => {
                let only: Vec<String> = value()?.split(',').map(str::to_owned).collect();
                let known = |word: &String| proxies::Kind::ALL.iter().any(|kind| kind.word() == word);
                ensure!(only.iter().all(known), "--only takes of: {}", proxies::Kind::ALL.map(proxies::Kind::word).join(","));
                asked.only = Some(only);
            }
            "--without" => {
                let left_out = value()?;
                match left_out.as_str() {
                    "websocket" => asked.websocket = false,
                    scenario if SCENARIOS.contains(&scenario) => without.push(scenario.to_owned()),
                    _ => bail!("--without takes websocket or a scenario"),
                }
            }
            scenario if SCENARIOS.contains(&scenario) => asked.scenarios.push(scenario.to_owned()),
            other => bail!("`{other}` is no scenario; they are: {}", SCENARIOS.join(" ")),
        }
    }
    if asked.scenarios.is_empty() {
        asked.scenarios = SCENARIOS.map(str::to_owned).to_vec();
    }
    asked.scenarios.retain(|scenario| !without.contains(scenario));
    if asked.smoke {
        asked
            .only
            .get_or_insert_with(|| ["floor", "portcullis", "portcullis-judging", "portcullis-allow"].map(str::to_owned).to_vec());
    }
    Ok(asked)
}

fn measure(arguments: &[String]) -> Result<()> {
    let asked = asked(arguments)?;
    let began = Instant::now();
    let files = raise_files()?;
    let repository = std::fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
    let gate = match &asked.gate {
        Some(gate) => gate.clone(),
        None => build_gate(&repository)?,
    };
    let mut folder = tempfile::tempdir()?;
    folder.disable_cleanup(asked.keep);
    tls::issue(folder.path(), &[LOADER, VICTIM, OTHER])?;
    let (upstream, service) = Run::start_upstream(folder.path(), TICK)?;
    let scale = match (asked.smoke, asked.quick) {
        (true, _) => Scale { rounds: 1, warm: Duration::from_millis(100), length: Duration::from_millis(400), divisor: 100 },
        (_, true) => Scale { rounds: 3, warm: Duration::from_millis(200), length: Duration::from_millis(700), divisor: 1 },
        _ => Scale { rounds: 5, warm: Duration::from_millis(300), length: Duration::from_millis(1500), divisor: 1 },
    };
    let run = Run {
        folder: folder.path().to_owned(),
        repository,
        gate,
        scale,
        websocket: asked.websocket,
        only: asked.only,
        files,
        upstream,
        service,
    };
    machine(&run);
    let mut failed = Vec::new();
    for scenario in &asked.scenarios {
        eprintln!("{scenario} ({} s)", began.elapsed().as_secs());
        let done = match scenario.as_str() {
            "exchange" => scenario::exchange::exchange(&run),
            "handshake" => scenario::exchange::handshake(&run),
            "memory" => scenario::memory::memory(&run),
            "kill" => scenario::streams::kill(&run),
            "activate" => scenario::streams::activate(&run),
            "anomaly" => scenario::streams::anomaly(&run),
            "reload" => scenario::reload::reload(&run),
            "slow" => scenario::slow::slow(&run),
            _ => scenario::abuse::abuse(&run),
        };
        if let Err(error) = done {
            println!("\n### {scenario}\n\nfailed: {error:#}");
            failed.push(scenario.as_str());
        }
    }
    eprintln!("done in {} s", began.elapsed().as_secs());
    if asked.keep {
        eprintln!("kept: {}", run.folder.display());
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Raises the limit of open files, which the helpers inherit; what it is now.
fn raise_files() -> Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = |maximum| Rlimit { current: Some(FILES.min(maximum)), maximum: Some(maximum) };
    let hard = now.maximum.unwrap_or(FILES);
    // Only root may raise the hard limit; everybody else gets what there is.
    if hard >= FILES || setrlimit(Resource::Nofile, wanted(FILES)).is_err() {
        setrlimit(Resource::Nofile, wanted(hard))?;
    }
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(FILES))
}

/// Builds the gate with the profile of this binary, and finds it.
fn build_gate(repository: &Path) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::file_name).and_then(|name| name.to_str()).context("where am I?")?;
    ensure!(matches!(profile, "release" | "dist"), "build the benches with --release or --profile dist, not {profile}");
    eprintln!("building the gate with profile {profile}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--profile", profile, "--bin", "portcullis", "--manifest-path"]);
    let status = command.arg(repository.join("Cargo.toml")).env("CARGO_TARGET_DIR", &target).status()?;
    ensure!(status.success(), "the gate does not build");
    Ok(std::fs::canonicalize(target.join(profile).join("portcullis"))?)
}

fn machine(run: &Run) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let model =
        model.lines().find_map(|line| line.strip_prefix("model name")).map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default().trim();
    println!(
        "Machine: {model}, {cores} cores, {memory}, Linux {}, {} open files",
        read("/proc/sys/kernel/osrelease").trim(),
        run.files
    );
    let profile = run.gate.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    println!(
        "Proxy on core 0; load and upstream on core 1; gate built as {profile}; {} rounds of {:?}",
        run.scale.rounds, run.scale.length
    );
    for version in proxies::versions(&run.place()) {
        println!("- {version}");
    }
    if !run.websocket {
        println!("WebSocket share replaced by event streams.");
    }
}
