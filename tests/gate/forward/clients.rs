//! The gate beside an agent as real programs meet it: curl and Python with nothing but HTTP_PROXY and HTTPS_PROXY, and the example in
//! examples/sidecar as it is written.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{beside, local};
use crate::harness::*;

/// An HTTPS server that answers every request alike; its certificate is nobody's.
fn https(gate: &Gate) -> SocketAddr {
    let issued = gate.issue("api", 3600);
    let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || {
                let mut tls = rustls::StreamOwned::new(connection, stream);
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if tls.read(&mut byte).unwrap_or(0) == 0 {
                        return;
                    }
                    read.push(byte[0]);
                }
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret");
                tls.conn.send_close_notify();
                let _ = tls.flush();
            });
        }
    });
    address
}

/// Runs a program that knows its proxy from the environment alone.
fn agent(gate: &Gate, program: &str, arguments: &[&str]) -> Output {
    let proxy = format!("http://{}", gate.address);
    let mut command = Command::new(program);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
        command.env(name, &proxy);
    }
    for name in ["no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}; install it, the tests run it as an agent"))
}

fn out(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const CURL: [&str; 6] = ["-q", "-sS", "-k", "--max-time", "20", "-w"];

fn curl(gate: &Gate, url: &str) -> String {
    out(&agent(gate, "curl", &[&CURL[..], &[" %{http_code} %{http_connect}", url]].concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_needs_nothing_but_its_environment() {
    let backend = Backend::start();
    let gate = beside(ALLOW, &local(backend.address));
    assert_eq!(curl(&gate, &format!("http://{}/v1", backend.address)), "hello 200 000");
    assert!(curl(&gate, "http://localhost:1/").contains("\"no_route\""), "the agent is told");

    let secure = https(&gate);
    let gate = beside(ALLOW, &format!("{}, sni: required", local(secure)));
    assert_eq!(curl(&gate, &format!("https://localhost:{}/", secure.port())), "secret 200 200");
    let denied = curl(&gate, "https://localhost:1/");
    assert!(denied.contains(" 000 403") && denied.contains("403"), "{denied}");
    // An address has no server name, and this entry asks for one.
    assert!(curl(&gate, &format!("https://{secure}/")).contains(" 000 200"));
}

const PYTHON: &str = r#"
import ssl, sys, urllib.request, urllib.error
anybody = ssl.create_default_context()
anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=20, context=anybody if url.startswith("https") else None) as answer:
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
    except urllib.error.URLError as error:
        print("error", error.reason)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn python_needs_nothing_but_its_environment() {
    let backend = Backend::start();
    let gate = beside(ALLOW, &local(backend.address));
    let secure = https(&gate);
    let both = format!(", ports: [{}, {}], cidrs: [127.0.0.0/8], sni: if_tls", backend.address.port(), secure.port());
    let gate = beside(ALLOW, &both);
    let urls = [format!("http://{}/v1", backend.address), format!("https://localhost:{}/", secure.port())];
    let told = out(&agent(&gate, "python3", &["-c", PYTHON, &urls[0], &urls[1], "http://localhost:1/", "https://localhost:1/"]));
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..2], ["200 hello", "200 secret"], "{told}");
    assert!(lines[2].starts_with("403 ") && lines[2].contains("no_route"), "{told}");
    assert!(lines[3].contains("Tunnel connection failed: 403"), "{told}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_example_lets_an_agent_reach_its_api_and_nothing_else() {
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/sidecar");
    let backend = Backend::start();
    let mut gate = Setup::default().start(backend.address);
    gate.stop();
    // As written, but for the ports, which other tests may hold.
    let port = backend.address.port().to_string();
    let yaml = std::fs::read_to_string(example.join("gate.yaml")).unwrap();
    let yaml = yaml
        .replace("127.0.0.1:3128           #", "127.0.0.1:0 #")
        .replace("\"127.0.0.1:9901\"", "\"127.0.0.1:0\"")
        .replace("8080", &port);
    std::fs::write(gate.path("gate.yaml"), yaml).unwrap();
    std::fs::remove_dir_all(gate.path("policy")).unwrap();
    copy(&example.join("policy"), &gate.path("policy"));
    let data = std::fs::read_to_string(gate.path("policy/data.json")).unwrap();
    std::fs::write(gate.path("policy/data.json"), data.replace("8080", &port)).unwrap();
    gate.restart();

    assert_eq!(curl(&gate, &format!("http://localhost:{port}/v1")), "hello 200 000");
    let written = out(&agent(&gate, "curl", &["-q", "-sS", "-d", "x=1", &format!("http://localhost:{port}/v1")]));
    assert!(written.contains("\"policy\""), "{written}");
    for (url, answer) in [
        (format!("http://127.0.0.1:{port}/"), "\"no_route\""),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "\"destination_private\""),
        ("http://10.0.0.1/".to_owned(), "\"destination_private\""),
        ("http://192.0.2.7/".to_owned(), "\"destination_private\""),
        ("http://8.8.8.8/".to_owned(), "\"policy\""),
        (format!("http://{}/", gate.address), "\"no_route\""),
    ] {
        let told = curl(&gate, &url);
        assert!(told.contains(answer) && told.contains(" 403 "), "{url}: {told}");
    }
    for url in ["https://8.8.8.8/", "https://169.254.169.254/", &format!("https://localhost:{}/", gate.admin.port())] {
        let told = curl(&gate, url);
        assert!(told.contains(" 000 403"), "{url}: {told}");
    }
    assert_eq!(backend.seen().len(), 1);
    let decisions = gate.decisions();
    assert!(decisions.iter().any(|line| line["reasons"] == serde_json::json!(["destination_not_granted"])), "{decisions:#?}");
    assert_eq!(decisions.iter().filter(|line| line["verdict"] == "allow").count(), 1);
}
