//! The same with programs that know nothing of the gate: Python's `websockets` at both ends.

use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::harness::*;

/// A program of ours in Python, which ends with the test.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let root = env!("CARGO_MANIFEST_DIR");
        let part = Command::new(format!("{root}/tests/parts")).arg("python").stderr(Stdio::inherit()).output().unwrap();
        assert!(part.status.success(), "tests/parts python: there is no Python to test with");
        let python = format!("{}/python", String::from_utf8(part.stdout).unwrap().trim());
        let program = format!("{root}/tests/parts.d/websocket.py");
        let mut child = Command::new(python).arg(program).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Its next line.
    fn line(&mut self) -> String {
        self.lines.next().expect("the program goes on").unwrap()
    }

    fn json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server() -> (Program, SocketAddr) {
    let mut server = Program::start(&["serve"]);
    let port: u16 = server.line().parse().unwrap();
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

fn client(gate: &Gate, mode: &str) -> Program {
    let issued = gate.issue("agents/bad", 3600);
    let (certificate, key) = (gate.path("client.pem"), gate.path("client.key"));
    std::fs::write(&certificate, &issued.certificate_pem).unwrap();
    std::fs::write(&key, &issued.key_pem).unwrap();
    let port = gate.address.port().to_string();
    Program::start(&[mode, &port, certificate.to_str().unwrap(), key.to_str().unwrap()])
}

#[test]
fn every_kind_of_message_and_close_arrives_as_it_was_sent() {
    let (mut server, address) = server();
    let mut gate = Setup::default().start(address);
    let mut talking = client(&gate, "talk");
    assert!(talking.child.wait().unwrap().success(), "what it says of it stands above");
    for (path, code) in [("/echo", 4000), ("/echo", 4000), ("/fragments", 1000), ("/close", 4001)] {
        let ended = server.json();
        assert_eq!((&ended["path"], &ended["code"]), (&path.into(), &code.into()), "{ended}");
    }
    let lines = gate.ended();
    assert_eq!(lines.len(), 4);
    for line in lines {
        assert_eq!(
            (&line["ending"], &line["protocol"], &line["status"]),
            (&"complete".into(), &"websocket".into(), &101.into()),
            "{line}"
        );
    }
}

#[test]
fn a_kill_is_a_close_with_1008_to_both() {
    let (mut server, address) = server();
    let mut gate = Setup::default().start(address);
    let mut waiting = client(&gate, "wait");
    assert_eq!(waiting.line(), "open");
    let answer = gate.kill("{\"spiffe_id\": \"spiffe://example.org/agents/bad\"}");
    assert_eq!((&answer["cut"], &answer["pending"]), (&1.into(), &0.into()), "{answer}");
    for end in [waiting.json(), server.json()] {
        assert_eq!((&end["code"], &end["reason"]), (&1008.into(), &"closed by the gate".into()), "{end}");
    }
    assert!(waiting.child.wait().unwrap().success());
    assert_eq!(gate.ended()[0]["cause"], "kill");
}
