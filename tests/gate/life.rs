//! The binary as a process: what it says when it starts, SIGHUP, SIGTERM, and a crash.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use crate::harness::*;

/// `portcullis run` on a folder a [`Gate`] was prepared in.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub address: SocketAddr,
}

impl Process {
    pub fn start(gate: &Gate) -> Self {
        Self::start_by(gate, &mut Command::new(env!("CARGO_BIN_EXE_portcullis")))
    }

    /// One whose files can be told to grow no further; what does not fit is an error to it, and no signal.
    pub fn start_limited(gate: &Gate) -> Self {
        let mut command = Command::new("sh");
        Self::start_by(gate, command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_portcullis")]))
    }

    /// No file grows beyond so many bytes; `unlimited` is as before.
    pub fn limit_files(&self, bytes: &str) {
        let limit = format!("--fsize={bytes}:unlimited");
        assert!(Command::new("prlimit").args(["--pid", &self.child.id().to_string(), &limit]).status().unwrap().success());
    }

    fn start_by(gate: &Gate, command: &mut Command) -> Self {
        let mut child =
            command.args(["run", "-c"]).arg(gate.path("gate.yaml")).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut process = Self { child, lines, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let line = process.says("\"listening\"");
        let log: serde_json::Value = serde_json::from_str(&line).unwrap();
        process.address = log
            .to_string()
            .split("127.0.0.1:")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .parse::<u16>()
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .unwrap();
        process
    }

    /// The next line of the log with `part` in it.
    pub fn says(&mut self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(HANG).unwrap_or_else(|_| panic!("the log never said {part}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap().success());
    }

    pub fn end(mut self) -> i32 {
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || sender.send(self.child.wait().unwrap().code().unwrap_or(-1)));
        ended.recv_timeout(HANG).expect("the process ends")
    }
}

/// A gate's folder without the gate: it runs as a process of its own.
pub fn prepared(backend: &Backend, setup: Setup) -> Gate {
    let mut gate = setup.start(backend.address);
    gate.stop();
    gate
}

async fn get(gate: &mut Gate, process: &Process, path: &str) -> u16 {
    gate.address = process.address;
    gate.any(Speaks::Http2, "agents/research").await.get(path).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_everything_again_and_a_mistake_changes_nothing() {
    let backend = Backend::start();
    let mut gate = prepared(&backend, Setup::default());
    let mut process = Process::start(&gate);
    assert_eq!(get(&mut gate, &process, "/v1/users").await, 200);
    let yaml = std::fs::read_to_string(gate.path("gate.yaml")).unwrap();
    std::fs::write(
        gate.path("gate.yaml"),
        yaml.replace("{name: all, upstream: backend}", "{name: v2, path_prefix: /v2, upstream: backend}"),
    )
    .unwrap();
    process.signal("HUP");
    process.says("open exchanges judged again");
    assert_eq!(get(&mut gate, &process, "/v1/users").await, 404, "its route is gone");
    assert_eq!(get(&mut gate, &process, "/v2/users").await, 200);
    for fixed in ["trust_domains: [example.org]\n    routes:", "max_svid_lifetime: 1h\n    routes:"] {
        std::fs::write(gate.path("gate.yaml"), yaml.replace("routes:", fixed)).unwrap();
        process.signal("HUP");
        let line = process.says("the configuration was refused");
        assert!(line.contains("listeners") && line.contains("restart"), "{line}");
    }
    for bad in [yaml.replace("upstreams", "upstream"), yaml.replace("environment: test", "environment: [test]"), String::new()] {
        std::fs::write(gate.path("gate.yaml"), bad).unwrap();
        process.signal("HUP");
        let line = process.says("the configuration was refused");
        assert!(line.contains("gate.yaml:"), "{line}");
        assert_eq!(get(&mut gate, &process, "/v2/users").await, 200, "the last good one stays");
    }
    process.signal("TERM");
    assert_eq!(process.end(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_brings_a_shadow_policy_and_takes_it_away() {
    let backend = Backend::start();
    let mut gate = prepared(&backend, Setup::default());
    let mut process = Process::start(&gate);
    let yaml = std::fs::read_to_string(gate.path("gate.yaml")).unwrap();
    std::fs::create_dir(gate.path("next")).unwrap();
    std::fs::write(gate.path("next/policy.rego"), "package portcullis\n\ndecision := false\n").unwrap();
    let shadowed = yaml.replace("  limits: {time: 200ms}", "  limits: {time: 200ms}\n  shadow: {bundles: {next: {path: next}}}");
    assert_ne!(shadowed, yaml);
    std::fs::write(gate.path("gate.yaml"), shadowed).unwrap();
    process.signal("HUP");
    process.says("a shadow policy judges, without effect");
    assert_eq!(get(&mut gate, &process, "/").await, 200);
    let shadow = |gate: &Gate| gate.control("GET", "/v1/policy/shadow", "").1;
    within("the shadow to disagree", async {
        while shadow(&gate)["disagreed"] != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    std::fs::write(gate.path("gate.yaml"), yaml).unwrap();
    process.signal("HUP");
    within("the shadow to be withdrawn", async {
        while !shadow(&gate)["shadow"].is_null() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(get(&mut gate, &process, "/").await, 200);
    assert_eq!(shadow(&gate)["compared"], 0, "nobody judges in the shadow any more");
    process.signal("TERM");
    assert_eq!(process.end(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_whose_route_is_gone_after_a_reload_is_cut() {
    let (backend, _) = crate::cuts::ticking();
    let mut gate = prepared(&backend, Setup::default());
    let mut process = Process::start(&gate);
    gate.address = process.address;
    let body = gate.any(Speaks::Http2, "agents/research").await.open("/ticks").await.into_body();
    let yaml = std::fs::read_to_string(gate.path("gate.yaml")).unwrap();
    std::fs::write(
        gate.path("gate.yaml"),
        yaml.replace("{name: all, upstream: backend}", "{name: v2, path_prefix: /v2, upstream: backend}"),
    )
    .unwrap();
    process.signal("HUP");
    assert!(crate::cuts::drain(body).await.1.is_err());
    process.says("open exchanges judged again");
    process.signal("TERM");
    assert_eq!(process.end(), 0);
    let closing = gate.record().into_iter().map(|line| line["portcullis"].clone()).find(|line| line["cause"] == "no_route");
    assert!(closing.is_some(), "the cut's cause is in the record");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_what_is_open_finish_and_takes_nothing_new() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::answering(move |seen, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")?;
        if seen.target() == "/slow" {
            let _ = wait.lock().unwrap().recv();
        }
        stream.write_all(b" last")?;
        Ok(true)
    });
    let mut gate = prepared(&backend, Setup::default());
    let mut process = Process::start(&gate);
    gate.address = process.address;
    for protocol in BOTH {
        assert_eq!(gate.any(protocol, "agents/research").await.get("/").await.status, 200);
    }
    let slow = gate.any(Speaks::Http2, "agents/research").await.open("/slow").await;
    process.signal("TERM");
    process.says("draining");
    until("the port to close", || std::net::TcpStream::connect(process.address).is_err()).await;
    go.send(()).unwrap();
    assert_eq!(Answer::of(slow).await.body, "first last", "what was open finished");
    assert_eq!(process.end(), 0);
    assert_eq!(gate.decisions().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_was_killed_comes_back_with_its_kills() {
    let backend = Backend::start();
    let mut gate = prepared(&backend, Setup::default());
    let process = Process::start(&gate);
    let answer = tokio::task::block_in_place(|| gate.kill("{\"spiffe_id\": \"spiffe://example.org/agents/research\"}"));
    assert_eq!(answer["durable"], true);
    process.signal("KILL");
    process.end();
    let process = Process::start(&gate);
    assert_eq!(get(&mut gate, &process, "/").await, 403, "an agent that crashes the gate does not lift its kill");
    process.signal("TERM");
    assert_eq!(process.end(), 0);
}

#[test]
fn a_configuration_with_mistakes_is_exit_code_64_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gate.yaml");
    std::fs::write(&file, "environmnt: test\n").unwrap();
    for command in ["run", "check"] {
        let mut child =
            Command::new(env!("CARGO_BIN_EXE_portcullis")).args([command, "-c"]).arg(&file).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(64), "{command}");
        assert!(
            told.contains("gate.yaml:1:1: environmnt: unknown key") && told.contains("did you mean `environment`?"),
            "{command}: {told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_made_for_other_routes_is_not_gone_back_to() {
    let backend = Backend::start();
    let policy = "package portcullis\n\ndecision := true\n\nstrict := false\n";
    let mut gate = prepared(&backend, Setup::policy(policy));
    let mut process = Process::start(&gate);
    assert_eq!(get(&mut gate, &process, "/strict").await, 200);
    let yaml = std::fs::read_to_string(gate.path("gate.yaml")).unwrap();
    let strict = "{name: strict, path_prefix: /strict, upstream: backend, decision: portcullis/strict}";
    std::fs::write(gate.path("gate.yaml"), yaml.replace("routes: [", &format!("routes: [{strict}, "))).unwrap();
    process.signal("HUP");
    process.says("open exchanges judged again");
    assert_eq!(get(&mut gate, &process, "/strict").await, 403);
    let (status, answer) = tokio::task::block_in_place(|| gate.control("POST", "/v1/policy/rollback", "{}"));
    assert!(status >= 400, "{status} {answer}");
    assert_eq!(get(&mut gate, &process, "/strict").await, 403, "another rule than the route names was asked");
    assert_eq!(get(&mut gate, &process, "/").await, 200);
}
