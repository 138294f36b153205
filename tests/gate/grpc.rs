//! gRPC through the gate, with a client and a server of another language (grpcio), and cut in the middle of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use portcullis::spiffe::SpiffeId;
use serde_json::Value;

use crate::harness::*;

/// A Python program of the tests, spoken with line by line.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of a real part, installed where it was not there.
fn part(name: &str) -> PathBuf {
    let output = Command::new(root().join("tests/parts")).arg(name).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the part `{name}` cannot be had");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

impl Program {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(part("python").join("python"))
            .arg(root().join("tests/parts.d").join(name))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the program has ended");
        line.trim_end().to_owned()
    }

    /// Gives a command, and reads its answer.
    fn ask(&mut self, command: &str) -> Value {
        self.tell(command);
        self.answer()
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
    }

    fn answer(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.input.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server, the gate in front of it, and a client of the gate.
struct Stage {
    client: Program,
    gate: Gate,
    server: Program,
}

impl Stage {
    fn start(policy: &str) -> Self {
        let mut server = Program::start("grpc_server.py", &[]);
        let port: u16 = server.line().parse().unwrap();
        Self::before(server, SocketAddr::from(([127, 0, 0, 1], port)), policy)
    }

    fn before(server: Program, upstream: SocketAddr, policy: &str) -> Self {
        let setup = Setup { upstream: ", protocol: h2, connect_timeout: 1s".to_owned(), ..Setup::policy(policy) };
        let gate = setup.start(upstream);
        let client = Self::client(&gate, "agents/bad");
        Self { client, gate, server }
    }

    fn client(gate: &Gate, path: &str) -> Program {
        let folder = gate.path(&path.replace('/', "-"));
        std::fs::create_dir(&folder).unwrap();
        let id = SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap();
        let issued = gate.authority.issue(&id, lifetime(3600)).unwrap();
        std::fs::write(folder.join("client.pem"), issued.certificate_pem).unwrap();
        std::fs::write(folder.join("client.key"), issued.key_pem).unwrap();
        std::fs::write(folder.join("bundle.pem"), gate.authority.ca_pem()).unwrap();
        Program::start("grpc_client.py", &[&gate.address.port().to_string(), folder.to_str().unwrap()])
    }

    fn exchange(&self, path: &str) -> String {
        let (_, rows) = self.gate.control("GET", "/v1/exchanges", "");
        let rows = rows.as_array().or_else(|| rows["exchanges"].as_array()).unwrap().clone();
        let row = rows.iter().find(|row| row["path"] == path).unwrap_or_else(|| panic!("{rows:?}"));
        assert_eq!(row["protocol"], "grpc", "{row}");
        row["id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn every_kind_of_call_passes_with_its_metadata_and_trailers() {
    let mut stage = Stage::start(ALLOW);
    let client = &mut stage.client;
    let answer = client.ask("unary /test.Echo/Unary hello");
    assert_eq!((&answer["response"], &answer["code"]), (&"echo hello".into(), &"OK".into()), "{answer}");
    let answer = client.ask("unary /test.Echo/Described");
    assert_eq!(answer["response"], "yes|spiffe://example.org/agents/bad|True", "metadata, identity and deadline: {answer}");
    assert_eq!((&answer["initial"]["x-initial"], &answer["trailing"]["x-trailing"]), (&"1".into(), &"2".into()), "{answer}");
    assert_eq!(answer["initial"]["x-bytes-bin"], "b'\\x00\\xff'", "{answer}");
    let answer = client.ask("unary /test.Echo/Failing");
    assert_eq!((&answer["code"], &answer["details"]), (&"FAILED_PRECONDITION".into(), &"not today".into()), "{answer}");
    assert_eq!(answer["trailing"]["x-why"], "test", "{answer}");
    let answer = client.ask("unary /test.Echo/Nothing");
    assert_eq!(answer["code"], "UNIMPLEMENTED", "a response of nothing but trailers: {answer}");
    let answer = client.ask("counting 100");
    assert_eq!((answer["read"].as_array().unwrap().len(), &answer["code"]), (100, &"OK".into()), "{answer}");
    let answer = client.ask("adding 1 2 3 4");
    assert_eq!((&answer["response"], &answer["code"]), (&"10".into(), &"OK".into()), "{answer}");
    let answer = client.ask("echoing a b c");
    assert_eq!(answer["read"], serde_json::json!(["echo a", "echo b", "echo c"]), "both directions at once: {answer}");
    assert!(stage.gate.ended().iter().all(|line| line["ending"] == "complete"), "{:#?}", stage.gate.ended());
}

#[test]
fn a_deadline_of_the_caller_reaches_the_server_and_ends_its_call() {
    let mut stage = Stage::start(ALLOW);
    let answer = stage.client.ask("unary /test.Echo/Sleeping x 0.5");
    assert_eq!(answer["code"], "DEADLINE_EXCEEDED", "{answer}");
    assert_eq!(stage.server.line(), "sleeping over");
}

#[test]
fn a_policy_knows_a_call_by_its_service_and_method_and_denies_it_in_grpc() {
    let policy = "package portcullis\n\ndefault decision := false\n\n\
                  decision if {\n\tinput.action.protocol == \"grpc\"\n\tinput.action.name == \"test.Echo/Unary\"\n}\n";
    let mut stage = Stage::start(policy);
    assert_eq!(stage.client.ask("unary /test.Echo/Unary hello")["code"], "OK");
    let answer = stage.client.ask("unary /test.Echo/Described");
    assert_eq!((&answer["code"], &answer["details"]), (&"PERMISSION_DENIED".into(), &"policy".into()), "{answer}");
    let decisions = stage.gate.decisions();
    let actions: Vec<&Value> = decisions.iter().map(|line| &line["action"]).collect();
    assert_eq!(actions, ["test.Echo/Unary", "test.Echo/Described"]);
}

#[test]
fn refusals_and_failures_are_told_by_the_status_that_fits() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Program::start("grpc_server.py", &[]);
    let mut stage = Stage::before(server, nobody, ALLOW);
    let answer = stage.client.ask("unary /test.Echo/Unary hello");
    assert_eq!((&answer["code"], &answer["details"]), (&"UNAVAILABLE".into(), &"upstream_connect".into()), "{answer}");
    // An encoded slash has two readings: refused before a policy is asked.
    let answer = stage.client.ask("unary /test.Echo%2fUnary hello");
    assert_eq!(answer["code"], "INVALID_ARGUMENT", "{answer}");
    stage.gate.kill("{\"spiffe_id\": \"spiffe://example.org/agents/bad\"}");
    let answer = stage.client.ask("unary /test.Echo/Unary hello");
    assert_eq!((&answer["code"], &answer["details"]), (&"PERMISSION_DENIED".into(), &"killed".into()), "{answer}");
}

#[test]
fn a_cut_call_ends_in_permission_denied_between_two_messages_and_its_sibling_goes_on() {
    let mut stage = Stage::start(ALLOW);
    let other = "/test.Echo/Counting";
    stage.client.ask("open victim /test.Echo/Ticking");
    let id = stage.exchange("/test.Echo/Ticking");
    stage.client.ask("open sibling /test.Echo/Ticking");
    let answer = stage.gate.kill(&format!("{{\"exchange\": \"{id}\"}}"));
    assert_eq!((&answer["cut"], &answer["pending"], &answer["connections_closed"]), (&1.into(), &0.into(), &0.into()), "{answer}");
    let ended = stage.client.ask("wait victim");
    assert_eq!((&ended["code"], &ended["details"]), (&"PERMISSION_DENIED".into(), &"cut".into()), "{ended}");
    assert_eq!(stage.server.line(), "ticking over victim", "the server's call is cancelled, and no other");
    let sibling = stage.client.ask("more sibling");
    assert_eq!(sibling["over"], false, "{sibling}");
    assert_eq!(stage.client.ask(&format!("counting 3 {other}"))["code"], "OK", "the connection goes on");
    let line = stage.gate.ended().into_iter().find(|line| line["exchange"] == id.as_str()).unwrap();
    assert_eq!((&line["ending"], &line["cause"]), (&"cut".into(), &"kill".into()), "{line:#}");
}

#[test]
fn a_call_that_is_cut_in_the_middle_of_a_message_is_reset() {
    // A message of which the gate never gets the second half, by a server that speaks HTTP/2 by hand.
    let upstream = upstream(|mut stream| {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).unwrap();
        stream.write_all(&frame2(4, 0, 0, &[])).unwrap();
        let head = block2(&[(b":status", b"200"), (b"content-type", b"application/grpc")]);
        let mut started = false;
        while let Some(frame) = read_frame2(&mut stream) {
            match frame.kind {
                4 if frame.flags & 1 == 0 => stream.write_all(&frame2(4, 1, 0, &[])).unwrap(),
                1 if !started => {
                    started = true;
                    let whole = [&[0, 0, 0, 0, 1][..], b"x"].concat();
                    let half = [&[0, 0, 0, 0, 9][..], b"half"].concat();
                    stream.write_all(&frame2(1, 4, frame.stream, &head)).unwrap();
                    stream.write_all(&frame2(0, 0, frame.stream, &[whole.repeat(3), half].concat())).unwrap();
                }
                _ => {}
            }
        }
    });
    let mut stage = Stage::before(Program::start("grpc_server.py", &[]), upstream, ALLOW);
    stage.client.ask("open victim /test.Echo/Ticking");
    let id = stage.exchange("/test.Echo/Ticking");
    stage.gate.kill(&format!("{{\"exchange\": \"{id}\"}}"));
    let ended = stage.client.ask("wait victim");
    assert_eq!((&ended["read"], &ended["code"]), (&3.into(), &"CANCELLED".into()), "{ended}");
}
