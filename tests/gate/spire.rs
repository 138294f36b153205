//! The gate on a real SPIRE server and agent: its identity comes, rotates, is away, and is taken back.
//!
//! Whoever asks the agent is known by the path of its program, since everything here may run as one user: the gate is this test, and
//! the client's SVIDs are fetched by `spire-agent` itself. The gate's live for 20 s, and SPIRE renews them after a few.

use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portcullis::demo::authority::Issued;

use crate::harness::*;

/// What SPIRE does by turns it does within this.
const SOON: Duration = Duration::from_secs(60);

const FILES: &str = "files: {certificate: svid.pem, private_key: svid.key, bundles: {example.org: bundle.pem}}";
const GATE: &str = "spiffe://example.org/gate";
const AGENT: &str = "spiffe://example.org/agents/research";

/// A SPIRE server, and an agent that comes and goes.
struct Spire {
    folder: tempfile::TempDir,
    programs: PathBuf,
    server: Child,
    agent: Option<Child>,
}

impl Spire {
    fn start() -> Self {
        let programs = part("spire");
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        // A port that was free a moment ago: the agent is told the number, and the server cannot be asked for it.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = format!(
            r#"
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{at}/server.sock"
  trust_domain = "example.org"
  data_dir = "{at}/server"
  ca_ttl = "1h"
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{at}/server.sqlite3"
    }}
  }}
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "memory" {{
    plugin_data {{}}
  }}
}}
"#
        );
        let agent = format!(
            r#"
agent {{
  data_dir = "{at}/agent"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{at}/agent.sock"
  trust_bundle_path = "{at}/bundle.pem"
  trust_domain = "example.org"
  log_level = "DEBUG"
  experimental {{
    sync_interval = "1s"
  }}
}}
plugins {{
  NodeAttestor "join_token" {{
    plugin_data {{}}
  }}
  KeyManager "disk" {{
    plugin_data {{
      directory = "{at}/agent"
    }}
  }}
  WorkloadAttestor "unix" {{
    plugin_data {{
      discover_workload_path = true
    }}
  }}
}}
"#
        );
        std::fs::write(folder.path().join("server.conf"), server).unwrap();
        std::fs::write(folder.path().join("agent.conf"), agent).unwrap();
        std::fs::create_dir(folder.path().join("agent")).unwrap();
        let server = program(&programs, folder.path(), "spire-server", &["run", "-config", "server.conf"]);
        let spire = Self { folder, programs, server, agent: None };
        blocking_until("the server", || spire.try_server(&["healthcheck"]).status.success());
        std::fs::write(spire.path("bundle.pem"), spire.server(&["bundle", "show"])).unwrap();
        spire
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("agent.sock")
    }

    fn try_server(&self, words: &[&str]) -> Output {
        let socket = self.path("server.sock");
        let mut command = Command::new(self.programs.join("spire-server"));
        command.args(words).arg("-socketPath").arg(socket).stdin(Stdio::null()).output().unwrap()
    }

    /// A command of the server, which must succeed.
    fn server(&self, words: &[&str]) -> String {
        let output = self.try_server(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "spire-server {words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.server(&[words, &["-output", "json"]].concat())).unwrap()
    }

    /// Starts the agent: with a token the first time, with what it remembers afterwards.
    fn start_agent(&mut self) {
        let mut words = vec!["run".to_owned(), "-config".to_owned(), "agent.conf".to_owned()];
        if !self.path("agent/agent-data.json").exists() {
            let token = self.json(&["token", "generate", "-spiffeID", "spiffe://example.org/node"]);
            words.extend(["-joinToken".to_owned(), token["value"].as_str().unwrap().to_owned()]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.agent = Some(program(&self.programs, self.folder.path(), "spire-agent", &words));
    }

    /// Ends the agent as a crash would, its socket left behind.
    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        assert!(std::fs::metadata(self.socket()).unwrap().file_type().is_socket());
    }

    /// Registers whoever runs `program`, and returns the entry's id.
    fn register(&self, id: &str, program: &Path, seconds: u32) -> String {
        let selector = format!("unix:path:{}", program.canonicalize().unwrap().display());
        let ttl = seconds.to_string();
        let parent = "spiffe://example.org/node";
        let words =
            ["entry", "create", "-parentID", parent, "-spiffeID", id, "-selector", &selector, "-x509SVIDTTL", &ttl, "-hint", "x"];
        self.json(&words)["results"][0]["entry"]["id"].as_str().unwrap().to_owned()
    }

    fn register_gate(&self) -> String {
        self.register(GATE, &std::env::current_exe().unwrap(), 20)
    }

    fn register_client(&self) {
        self.register(AGENT, &self.programs.join("spire-agent"), 3600);
    }

    fn fetch(&self) -> Option<Issued> {
        let (to, socket) = (tempfile::tempdir().unwrap(), self.socket());
        let mut command = Command::new(self.programs.join("spire-agent"));
        command.args(["api", "fetch", "x509", "-timeout", "2s", "-write"]).arg(to.path()).arg("-socketPath").arg(socket);
        let fetched = command.stdin(Stdio::null()).output().unwrap();
        let read = |name: &str| std::fs::read_to_string(to.path().join(name)).ok();
        fetched.status.success().then(|| Some(Issued { certificate_pem: read("svid.0.pem")?, key_pem: read("svid.0.key")? }))?
    }

    /// The client's SVID as the agent gives it to `spire-agent`, once it is one that `fits`.
    async fn fetched(&self, fits: impl Fn(&Issued) -> bool) -> Issued {
        let mut found = None;
        eventually("an SVID for the client", async || {
            found = tokio::task::block_in_place(|| self.fetch()).filter(&fits);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// A gate whose identity comes from this agent.
    fn gate(&self, backend: &Backend) -> Gate {
        let agent = format!("workload_api: {{endpoint: \"unix://{}\", spiffe_id: \"{GATE}\"}}", self.socket().display());
        Setup::policy(POLICY).start_with(backend.address, |yaml| {
            assert!(yaml.contains(FILES));
            yaml.replace(FILES, &agent)
        })
    }
}

impl Drop for Spire {
    #[expect(clippy::print_stderr, reason = "what SPIRE said explains a test that failed")]
    fn drop(&mut self) {
        for child in self.agent.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for log in ["spire-server.log", "spire-agent.log"] {
                let text = std::fs::read_to_string(self.path(log)).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(40).collect();
                eprintln!("{log}, its last lines:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

const POLICY: &str = "package portcullis\n\ndecision if input.peer.spiffe_id == \"spiffe://example.org/agents/research\"\n";

/// The folder of a real part; one that cannot be had fails the test.
fn part(name: &str) -> PathBuf {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts");
    let output = Command::new(parts).arg(name).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "tests/parts {name} failed");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn program(programs: &Path, folder: &Path, name: &str, words: &[&str]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(programs.join(name));
    command.args(words).current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn blocking_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for what SPIRE does by turns.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let turns = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, turns).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"));
}

/// An upstream that ticks on `/ticks`, slowly, and says hello elsewhere.
fn slowly_ticking() -> Backend {
    Backend::answering(|seen, stream| {
        if seen.target() != "/ticks" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            stream.write_all(b"5\r\ntick\n\r\n")?;
            std::thread::sleep(Duration::from_millis(50));
        }
    })
}

impl Gate {
    async fn ready(&self) -> (u16, String) {
        tokio::task::block_in_place(|| self.admin("/readyz"))
    }

    async fn becomes_ready(&self) {
        eventually("the gate to be ready", async || self.ready().await.0 == 200).await;
    }

    fn status(&self) -> serde_json::Value {
        tokio::task::block_in_place(|| self.control("GET", "/v1/status", "")).1
    }

    fn fault(&self) -> serde_json::Value {
        self.status()["identity"]["fault"]["kind"].clone()
    }

    fn counted(&self, name: &str, label: &str) -> f64 {
        tokio::task::block_in_place(|| self.metric(name, label))
    }

    /// A client on a connection of its own, and the certificate the gate showed it.
    async fn as_client(&self, issued: &Issued, protocol: Speaks) -> std::io::Result<(Client, Vec<u8>)> {
        let stream = self.connect_with(client_config(Some(issued), protocol.alpn())).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Ok((Self::over(protocol, stream).await, shown))
    }

    async fn would_serve(&self, issued: &Issued) -> bool {
        let Ok((mut client, _)) = self.as_client(issued, Speaks::Http1).await else { return false };
        within("an answer", client.send(request("GET", "/", empty()))).await.is_ok_and(|answer| answer.status() == 200)
    }

    async fn serves(&self, issued: &Issued) {
        let (mut client, _) = self.as_client(issued, Speaks::Http1).await.unwrap();
        assert_eq!(client.get("/").await.status, 200);
    }

    /// A new handshake fails for want of a certificate of the gate's own, and is counted so.
    async fn refuses_handshakes(&self, issued: &Issued) {
        let before = self.counted("portcullis_handshake_errors_total", "own_certificate");
        assert!(self.as_client(issued, Speaks::Http2).await.is_err());
        until("it to be counted", || self.counted("portcullis_handshake_errors_total", "own_certificate") == before + 1.0).await;
    }
}

/// An open stream: still coming, or how it ended.
async fn ticks(body: &mut Incoming) -> Result<(), String> {
    match within("a tick", body.frame()).await {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(format!("{error:?}")),
        None => Err("ended".to_owned()),
    }
}

/// Reads what has come already, so that the next tick is one that came after.
async fn ticks_on(body: &mut Incoming) {
    let since = Instant::now();
    // The upstream emits twenty a second; more than that were waiting until the one that makes us wait.
    loop {
        let asked = Instant::now();
        ticks(body).await.unwrap();
        if asked.elapsed() > Duration::from_millis(20) || since.elapsed() > SOON {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_without_an_agent_lives_refuses_and_becomes_ready_when_one_comes() {
    let backend = slowly_ticking();
    let mut spire = tokio::task::block_in_place(Spire::start);
    let gate = spire.gate(&backend);
    assert_eq!(tokio::task::block_in_place(|| gate.admin("/livez")).0, 200);
    assert_eq!(gate.ready().await, (503, "not ready: the gate has no SVID yet\n".to_owned()));
    eventually("the fault to be told", async || gate.fault() == "unreachable").await;
    assert_eq!(gate.status()["svid"], serde_json::Value::Null);
    assert_eq!(gate.counted("portcullis_svid_expiry_timestamp_seconds", ""), 0.0);
    assert_eq!(gate.counted("portcullis_identity_source_up", ""), 0.0);
    let nobody = gate.issue("agents/research", 3600);
    gate.refuses_handshakes(&nobody).await;

    spire.start_agent();
    eventually("the agent to deny the gate", async || gate.fault() == "denied").await;
    assert_eq!(gate.ready().await, (503, "not ready: the SPIFFE agent gives the gate no SVID\n".to_owned()));
    spire.register_gate();
    spire.register_client();
    gate.becomes_ready().await;
    let client = spire.fetched(|_| true).await;
    gate.serves(&client).await;
    // Whoever is not vouched for by the bundle the agent gives is nobody, as before.
    let Ok((mut stranger, _)) = gate.as_client(&nobody, Speaks::Http1).await else { panic!("TLS 1.3 tells a client afterwards") };
    assert!(within("the refusal", stranger.send(request("GET", "/", empty()))).await.is_err());
    let status = gate.status();
    assert_eq!(status["svid"]["spiffe_id"], GATE, "{status:#}");
    assert_eq!(status["identity"]["source"], "workload_api");
    assert_eq!(status["identity"]["trust_domains"], serde_json::json!(["example.org"]));
    assert_eq!(status["identity"]["fault"], serde_json::Value::Null);
    assert!(gate.counted("portcullis_svid_expiry_timestamp_seconds", "") > 0.0);
    assert_eq!(gate.counted("portcullis_identity_source_up", ""), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn svid_and_roots_rotate_and_only_who_was_vouched_for_by_a_root_that_is_gone_is_cut() {
    let backend = slowly_ticking();
    let mut spire = tokio::task::block_in_place(Spire::start);
    spire.start_agent();
    spire.register_gate();
    spire.register_client();
    let mut gate = spire.gate(&backend);
    gate.becomes_ready().await;
    let old = spire.fetched(|_| true).await;
    let (mut one, shown) = gate.as_client(&old, Speaks::Http1).await.unwrap();
    let (mut two, _) = gate.as_client(&old, Speaks::Http2).await.unwrap();
    let (mut one, mut two) = (one.open("/ticks").await.into_body(), two.open("/ticks").await.into_body());

    // Our own SVID, some times over.
    let mut before = shown;
    for _ in 0..2 {
        eventually("another certificate of the gate", async || {
            let (_, now) = gate.as_client(&old, Speaks::Http1).await.unwrap();
            std::mem::replace(&mut before, now.clone()) != now
        })
        .await;
        ticks_on(&mut one).await;
        ticks_on(&mut two).await;
    }

    // Another root comes. Both vouch now, and nobody is cut although SPIRE gives nothing while it replaces what the first one signed.
    let authority = |answer: &serde_json::Value, which: &str| answer[which]["authority_id"].as_str().unwrap().to_owned();
    let prepared = spire.json(&["localauthority", "x509", "prepare"]);
    let (next, former) =
        (authority(&prepared, "prepared_authority"), authority(&spire.json(&["localauthority", "x509", "show"]), "active"));
    spire.server(&["localauthority", "x509", "activate", "-authorityID", &next]);
    spire.server(&["localauthority", "x509", "taint", "-authorityID", &former]);
    let new = spire.fetched(|issued| issued.certificate_pem != old.certificate_pem).await;
    // The agent tells the client of the new root, denies the gate for a moment, and tells it as well.
    eventually("the gate to know the new root", async || gate.would_serve(&new).await).await;
    let (mut three, _) = gate.as_client(&new, Speaks::Http2).await.unwrap();
    let mut three = three.open("/ticks").await.into_body();
    ticks_on(&mut one).await;
    ticks_on(&mut two).await;
    assert_eq!(gate.counted("portcullis_cuts_total", ""), 0.0);

    // The first one goes, and with it whoever only it vouched for.
    spire.server(&["localauthority", "x509", "revoke", "-authorityID", &former]);
    eventually("the cuts", async || gate.counted("portcullis_cuts_total", "identity_withdrawn") == 2.0).await;
    let end = async |mut body: Incoming| loop {
        if let Err(end) = ticks(&mut body).await {
            return end;
        }
    };
    let (one, two) = (end(one).await, end(two).await);
    assert!(one != "ended" && two.contains("CANCEL"), "{one} {two}");
    ticks_on(&mut three).await;
    gate.serves(&new).await;
    let Ok((mut client, _)) = gate.as_client(&old, Speaks::Http1).await else { panic!("TLS 1.3 tells a client afterwards") };
    assert!(within("the refusal", client.send(request("GET", "/", empty()))).await.is_err());
    drop(three);
    assert_eq!(gate.decisions().iter().filter(|line| line["verdict"] != "allow").count(), 0, "nobody was denied meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_away_is_survived_until_our_svid_expires() {
    let backend = slowly_ticking();
    let mut spire = tokio::task::block_in_place(Spire::start);
    spire.start_agent();
    spire.register_gate();
    spire.register_client();
    let gate = spire.gate(&backend);
    gate.becomes_ready().await;
    let client = spire.fetched(|_| true).await;
    let (mut kept, shown) = gate.as_client(&client, Speaks::Http2).await.unwrap();
    let mut body = kept.open("/ticks").await.into_body();

    // A short while: nobody notices, but for `status` and the metric.
    spire.kill_agent();
    eventually("the outage to be told", async || gate.fault() == "unreachable").await;
    assert_eq!(gate.counted("portcullis_identity_source_up", ""), 0.0);
    gate.serves(&client).await;
    assert_eq!(gate.ready().await.0, 200);
    spire.start_agent();
    eventually("the gate to hear the agent again", async || gate.fault().is_null()).await;
    eventually("another certificate of the gate", async || gate.as_client(&client, Speaks::Http1).await.unwrap().1 != shown).await;
    ticks_on(&mut body).await;

    // For longer than our SVID lives: whoever is in stays, and nobody and nothing comes in any more.
    spire.kill_agent();
    eventually("our SVID to expire", async || gate.ready().await.0 == 503).await;
    assert_eq!(gate.ready().await.1, "not ready: the gate's SVID has expired\n");
    gate.refuses_handshakes(&client).await;
    let answer = kept.get("/").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("own_certificate")));
    ticks_on(&mut body).await;
    assert_eq!(gate.counted("portcullis_cuts_total", ""), 0.0);

    // And on the same connection, as soon as the agent is back.
    spire.start_agent();
    gate.becomes_ready().await;
    assert_eq!(kept.get("/").await.status, 200);
    gate.serves(&client).await;
    ticks_on(&mut body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_deleted_takes_the_gates_identity_and_what_rested_on_it() {
    let backend = slowly_ticking();
    let mut spire = tokio::task::block_in_place(Spire::start);
    spire.start_agent();
    let entry = spire.register_gate();
    spire.register_client();
    let gate = spire.gate(&backend);
    gate.becomes_ready().await;
    let client = spire.fetched(|_| true).await;
    let (mut kept, _) = gate.as_client(&client, Speaks::Http2).await.unwrap();
    let mut body = kept.open("/ticks").await.into_body();
    ticks_on(&mut body).await;

    spire.server(&["entry", "delete", "-entryID", &entry]);
    eventually("the withdrawal", async || gate.ready().await.0 == 503).await;
    assert_eq!(gate.ready().await.1, "not ready: the SPIFFE agent gives the gate no SVID\n");
    let end = loop {
        if let Err(end) = ticks(&mut body).await {
            break end;
        }
    };
    assert!(end.contains("CANCEL"), "{end}");
    assert_eq!(gate.counted("portcullis_cuts_total", "identity_withdrawn"), 1.0);
    assert_eq!(gate.counted("portcullis_svid_expiry_timestamp_seconds", ""), 0.0);
    gate.refuses_handshakes(&client).await;
    let status = gate.status();
    assert_eq!((&status["svid"], &status["identity"]["fault"]["kind"]), (&serde_json::Value::Null, &"denied".into()), "{status:#}");

    spire.register_gate();
    gate.becomes_ready().await;
    gate.serves(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_from_files_that_expires_is_missed_the_same_way() {
    let backend = slowly_ticking();
    let gate = Setup::default().start(backend.address);
    let client = gate.issue("agents/research", 3600);
    let (mut kept, _) = gate.as_client(&client, Speaks::Http2).await.unwrap();
    let mut body = kept.open("/ticks").await.into_body();
    let renew = |seconds: u64| {
        let issued = gate.issue("gate", seconds);
        std::fs::write(gate.path("svid.key"), &issued.key_pem).unwrap();
        std::fs::write(gate.path("svid.pem"), &issued.certificate_pem).unwrap();
    };
    renew(6);
    eventually("our SVID to expire", async || gate.ready().await.0 == 503).await;
    assert_eq!(gate.ready().await.1, "not ready: the gate's SVID has expired\n");
    gate.refuses_handshakes(&client).await;
    let answer = kept.get("/").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("own_certificate")));
    ticks_on(&mut body).await;

    // What cannot be read changes nothing, and is told.
    std::fs::write(gate.path("svid.pem"), "nothing").unwrap();
    eventually("the fault to be told", async || gate.fault() == "refused").await;
    assert_eq!(gate.counted("portcullis_identity_source_up", ""), 0.0);
    renew(3600);
    gate.becomes_ready().await;
    assert_eq!(kept.get("/").await.status, 200);
    assert!(gate.fault().is_null());
    assert_eq!(gate.counted("portcullis_identity_source_up", ""), 1.0);
}
