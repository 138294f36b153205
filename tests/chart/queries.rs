//! Every query of the dashboard and of the alerts, asked of a real Prometheus that scraped a real gate with traffic.
//!
//! The gate runs from the configuration the chart renders. Each query must be answered; each of the dashboard with at least one
//! series, so that no panel is empty because a name or a label in it is wrong. The traffic is made for that: something is allowed,
//! denied, refused, cut, something fails in the handshake, upstream, in the policy, and one bundle does not compile.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use portcullis::config::Config;
use portcullis::demo::api::Api;
use portcullis::demo::authority::{Authority, Lifetime};
use portcullis::demo::client::{Ask, Client};
use portcullis::spiffe::{SpiffeId, TrustDomain};
use serde_json::Value;

use crate::alerts::{each_rule, rules};
use crate::helm::{PROGRAM, object, objects, part};
use crate::values::unpack;

/// The longest anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

const POLICY: &str = r#"package portcullis

decision := {"allowed": input.request.method == "GET"} if input.request.path != "/undefined"
"#;

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program that logs JSON lines, and returns what `find` makes of the first line it likes.
fn started<T>(command: &mut Command, find: impl Fn(&Value) -> Option<T>) -> (Running, T) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let running = Running(child);
    let mut told = Vec::new();
    let found = log.by_ref().find_map(|line| {
        let found = serde_json::from_str(&line).ok().and_then(|line| find(&line));
        told.push(line);
        found
    });
    let Some(found) = found else { panic!("{command:?}: {}", told.join("\n")) };
    std::thread::spawn(move || log.for_each(drop));
    (running, found)
}

/// What a GET is answered with; HTTP/1.0, so that it comes in one piece.
fn asked(address: SocketAddr, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {target} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())
}

fn result(prometheus: SocketAddr, query: &str) -> Result<Vec<Value>, String> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let text = asked(prometheus, &format!("/api/v1/query?query={encoded}"));
    let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{query}: {error}: {text}"))?;
    if answer["status"] == "success" {
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    } else {
        Err(format!("{query}: {text}"))
    }
}

/// The queries of the dashboard, as Grafana would ask them.
fn dashboard() -> Vec<String> {
    let rendered = objects("full");
    let map = object(&rendered, "ConfigMap", "-dashboard")["data"].as_object().unwrap();
    let dashboard: Value = serde_json::from_str(map.values().next().unwrap().as_str().unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let filled = |text: &str| text.replace("$__rate_interval", "5m").replace("$release", "gate").replace("$namespace", "apps");
    targets.map(|target| filled(target["expr"].as_str().unwrap())).collect()
}

/// A gate of the chart's configuration with a second route whose upstream is not there, and an SVID for it and its caller.
struct House {
    folder: tempfile::TempDir,
    _gate: Running,
    gate: SocketAddr,
    admin: SocketAddr,
}

impl House {
    fn new(upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let text = unpack(&objects("minimal"), folder.path());
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = text
            .replace("0.0.0.0:8443", "127.0.0.1:0")
            .replace("0.0.0.0:9901", "127.0.0.1:0")
            .replace("http://payroll.apps.svc.cluster.local:8080", &format!("http://{upstream}"));
        let mut config: Value = serde_yaml::from_str(&text).unwrap();
        config["upstreams"]["gone"] = serde_json::json!({"endpoint": format!("http://{nobody}")});
        let routes = config["listeners"][0]["routes"].as_array_mut().unwrap();
        routes.insert(0, serde_json::json!({"name": "gone", "path_prefix": "/gone", "upstream": "gone"}));
        config["audit"]["file"] = Value::from(at("decisions.jsonl").to_str().unwrap());
        std::fs::write(at("gate.yaml"), serde_yaml::to_string(&config).unwrap()).unwrap();
        let authority = Authority::new(&TrustDomain::new("example.org").unwrap()).unwrap();
        std::fs::create_dir_all(at("identity")).unwrap();
        std::fs::create_dir_all(at("bundles")).unwrap();
        std::fs::write(at("bundles/example.org.pem"), authority.ca_pem()).unwrap();
        for (name, id) in [("tls", "gate"), ("agent", "agents/research")] {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let id = SpiffeId::new(format!("spiffe://example.org/{id}")).unwrap();
            let issued = authority.issue(&id, Lifetime::starting(now - 60, 3600)).unwrap();
            std::fs::write(at(&format!("identity/{name}.crt")), issued.certificate_pem).unwrap();
            std::fs::write(at(&format!("identity/{name}.key")), issued.key_pem).unwrap();
        }
        let text = std::fs::read_to_string(at("gate.yaml")).unwrap();
        std::fs::write(at("agent.yaml"), text.replace("identity/tls.", "identity/agent.")).unwrap();
        policy(folder.path(), POLICY);
        let mut command = Command::new(PROGRAM);
        command.args(["run", "-c"]).arg(at("gate.yaml")).env_remove("PORTCULLIS_LOG");
        let (running, admin) = started(&mut command, |line| line["fields"]["admin"].as_str()?.parse().ok());
        let socket = at("control.sock");
        let mut house = Self { folder, _gate: running, gate: admin, admin };
        let ready = Instant::now();
        while asked(admin, "/readyz") != "ready\n" {
            assert!(ready.elapsed() < PATIENCE, "the gate is not ready");
        }
        let status = Command::new(PROGRAM).args(["status", "--json"]).env("PORTCULLIS_SOCKET", socket).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        house.gate = status["listeners"][0]["address"].as_str().unwrap().parse().unwrap();
        house
    }

    /// Something of everything that is counted.
    async fn traffic(&self) {
        let ask = |method: Method, path: &'static str| Ask { method, path, body: "" };
        let config = Config::read(&self.folder.path().join("agent.yaml")).unwrap();
        let client = Client::new(&config.identity, &SpiffeId::new("spiffe://example.org/gate").unwrap(), self.gate).unwrap();
        for (method, path, status) in [
            (Method::GET, "/v1/users", 200),
            (Method::POST, "/v1/users", 403),
            (Method::GET, "/undefined", 403),
            (Method::GET, "/v1/a%2Fb", 400),
            (Method::GET, "/gone", 502),
        ] {
            assert_eq!(client.ask(&ask(method, path)).await.unwrap().status, status, "{path}");
        }
        let mut stream = client.open_http1(&ask(Method::GET, "/v1/events")).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        let mut kill = Command::new(PROGRAM);
        kill.args(["kill", "--spiffe-id", "spiffe://example.org/agents/research", "--reason", "test", "--ttl", "1s"]);
        assert!(
            kill.env("PORTCULLIS_SOCKET", self.folder.path().join("control.sock"))
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        while stream.next().await.is_ok_and(|piece| piece.is_ok()) {}
        let mut stranger = TcpStream::connect(self.gate).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = stranger.read(&mut [0; 64]);
    }
}

/// Changes the policy as the kubelet does: another folder behind the link.
fn policy(folder: &Path, text: &str) {
    let bundle = folder.join("policy/authz");
    std::fs::create_dir_all(bundle.join("..new")).unwrap();
    std::fs::write(bundle.join("..new/policy.rego"), text).unwrap();
    std::fs::write(bundle.join("..new/data.json"), "{}").unwrap();
    let _ = std::fs::remove_dir_all(bundle.join("..2026_11_24"));
    std::os::unix::fs::symlink("..new", bundle.join("..data_tmp")).unwrap();
    std::fs::rename(bundle.join("..data_tmp"), bundle.join("..data")).unwrap();
}

fn prometheus(folder: &Path, admin: SocketAddr) -> (Running, SocketAddr) {
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: gate\n    static_configs:\n      \
         - {{targets: [\"{admin}\"], labels: {{namespace: apps, pod: gate-0}}}}\n"
    );
    std::fs::write(folder.join("prometheus.yaml"), config).unwrap();
    let mut command = Command::new(part("prometheus").join("prometheus"));
    command.current_dir(folder).args(["--config.file=prometheus.yaml", "--storage.tsdb.path=series", "--log.format=json"]);
    command.arg("--web.listen-address=127.0.0.1:0");
    let (running, address) = started(&mut command, |line| {
        let listens = line["msg"] == "Listening on";
        listens.then(|| line["address"].as_str()?.parse().ok())?
    });
    (running, address)
}

#[tokio::test]
async fn every_query_of_dashboard_and_alerts_is_answered_by_a_prometheus_that_scraped_a_gate() {
    let api = Api::start().unwrap();
    let house = House::new(api.address());
    let (_prometheus, address) = prometheus(house.folder.path(), house.admin);
    let began = Instant::now();
    let scraped = |name: &str| !result(address, name).unwrap_or_default().is_empty();
    while !scraped("portcullis_build_info") {
        assert!(began.elapsed() < PATIENCE, "nothing was scraped");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    house.traffic().await;
    policy(house.folder.path(), "package portcullis\n\ndecision := {");

    let queries = dashboard();
    assert!(queries.len() > 20, "{queries:#?}");
    loop {
        let empty: Vec<&String> = queries.iter().filter(|query| result(address, query).unwrap().is_empty()).collect();
        if empty.is_empty() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "nothing answers {empty:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // An alert is silent here, so each of its series is asked for by itself.
    let rules = rules();
    for rule in each_rule(&rules) {
        let expression = rule["expr"].as_str().unwrap();
        result(address, expression).unwrap();
        for name in
            expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("portcullis_"))
        {
            assert!(scraped(name), "{}: no gate has {name}", rule["alert"]);
        }
    }
}
