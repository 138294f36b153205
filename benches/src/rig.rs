//! The processes of a run: started pinned to a core, asked, measured through /proc, ended with the run.
//!
//! What must stay true: the proxy has core 0 for itself, everything that drives it has core 1; whatever was started is ended when its
//! handle is dropped, also when the run fails.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

pub const PROXY_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;
/// How long a program may take until it takes connections.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// A bound for what hangs.
const SAYS_WITHIN: Duration = Duration::from_secs(90);

/// A free port of this machine, for a program that cannot be asked which one it took.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A command that runs on one core.
pub fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// A program that serves until it is dropped.
pub struct Served {
    child: Child,
    log: PathBuf,
}

impl Served {
    /// Starts it and waits until `address` takes connections.
    pub fn start(mut command: Command, log: PathBuf, address: SocketAddr) -> Result<Self> {
        let file = std::fs::File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let mut served = Self { child: child.with_context(|| format!("starting {command:?}"))?, log };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = served.child.try_wait()? {
                bail!("{command:?} ended with {status}: {}", served.said());
            }
            ensure!(began.elapsed() < STARTS_WITHIN, "{command:?} took no connection: {}", served.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(served)
    }

    fn said(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = said.len().saturating_sub(1500);
        said.get(from..).unwrap_or(&said).trim().to_owned()
    }

    /// It and its children: nginx serves from one.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(process) = all.get(next).copied() {
            next += 1;
            let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        all
    }

    /// Nanoseconds on a CPU, of all its threads.
    pub fn on_cpu(&self) -> u64 {
        self.processes().into_iter().map(on_cpu).sum()
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let of = |process: u32| {
            let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
        };
        self.processes().into_iter().filter_map(of).sum()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // A master ends its workers when it is asked to, not when it is killed.
        for process in self.processes().into_iter().skip(1) {
            let _ = Command::new("kill").arg(process.to_string()).stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nanoseconds the threads of a process have been on a CPU.
fn on_cpu(process: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let spent = |thread: std::fs::DirEntry| {
        let told = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        told.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.filter_map(spent).sum()
}

/// The load, a process of its own that talks in lines of JSON.
pub struct Load {
    child: Child,
    orders: Option<ChildStdin>,
    said: Receiver<String>,
    errors: Receiver<String>,
}

impl Load {
    pub fn start(arguments: &[String]) -> Result<Self> {
        let mut command = pinned(LOAD_CORE, &std::env::current_exe()?);
        command.arg("load").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting the load")?;
        let (say, said) = channel();
        let stdout = child.stdout.take().context("no stdout")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    break;
                }
            }
        });
        let (complain, errors) = channel();
        let mut stderr = child.stderr.take().context("no stderr")?;
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            let _ = complain.send(text);
        });
        let orders = child.stdin.take();
        Ok(Self { child, orders, said, errors })
    }

    /// Nanoseconds on a CPU, of all its threads.
    pub fn on_cpu(&self) -> u64 {
        on_cpu(self.child.id())
    }

    pub fn order(&mut self, word: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("the load takes no orders any more")?;
        Ok(writeln!(orders, "{word}")?)
    }

    /// Its next line, which must be this event.
    pub fn expect(&mut self, event: &str) -> Result<Value> {
        let Ok(line) = self.said.recv_timeout(SAYS_WITHIN) else {
            let complaint = self.errors.recv_timeout(Duration::from_millis(200)).unwrap_or_default();
            bail!("the load said nothing for {event}: {}", complaint.trim());
        };
        let value: Value = serde_json::from_str(&line)?;
        ensure!(value["event"] == event, "the load said {line} and not {event}");
        Ok(value)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One call of the gate's control API, over its socket.
pub fn control(socket: &Path, method: &str, path: &str, body: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).context("the control socket")?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-type: application/json\r\n")?;
    write!(stream, "content-length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    ensure!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
    Ok(serde_json::from_str(body)?)
}

/// The gate's metrics, as text.
pub fn metrics(admin: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of all samples of one metric whose labels contain `label`.
pub fn sample(metrics: &str, name: &str, label: &str) -> f64 {
    let values = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
