//! What a policy keeps out of the record, as OPA does; and a mask that fails hides all.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use portcullis::config::Config;
use portcullis::policy::{Entry, Policy};
use serde_json::{Map, Value, json};

use crate::harness::*;

const DECISION: &str =
    "package portcullis\n\ndecision := {\"allowed\": true, \"headers\": {\"x-team\": input.request.headers[\"x-team\"][0]}}\n";
const MASK: &str = "package system.log\n\nmask contains one if some one in data.masks[input.input.case]\n";

/// What is masked, a set of masks a case.
fn cases() -> Value {
    json!([
        [],
        ["/input/a/b"],
        ["/input/a", "/input/list/1"],
        ["/input/list/0/x"],
        ["/input/none", "/input/a/none/deeper", "/input/list/9", "/input/case/x"],
        ["/input"],
        ["/result"],
        ["/result/headers"],
        [{"op": "remove", "path": "/input/a/b"}],
        [{"op": "upsert", "path": "/input/a/b", "value": "***"}],
        [{"op": "upsert", "path": "/input/new/deep/er", "value": {"v": [1]}}],
        [{"op": "upsert", "path": "/input/list/1", "value": null}, "/input/a/b"],
        [{"op": "upsert", "path": "/input/list/9", "value": 1}, {"op": "upsert", "path": "/input/case/x", "value": 1}],
        [{"op": "upsert", "path": "/result/allowed", "value": "hidden"}],
        [{"op": "upsert", "path": "/input", "value": {"only": "this"}}],
        [{"op": "upsert", "path": "/result/list/x", "value": 1}, "/nd_builtin_cache/x"]
    ])
}

fn input(case: usize) -> Value {
    let headers = json!({"x-team": ["blue"]});
    json!({"case": case, "a": {"b": "secret", "c": 1}, "list": [{"x": 1, "y": 2}, 2, 3], "request": {"headers": headers}})
}

/// The real OPA as a server that logs its decisions, and what it logs.
struct Opa {
    process: std::process::Child,
    lines: Box<dyn Iterator<Item = String>>,
    socket: std::path::PathBuf,
}

impl Opa {
    fn start(gate: &Gate) -> Self {
        let part = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts")).arg("opa").output().unwrap();
        assert!(part.status.success(), "{}", String::from_utf8_lossy(&part.stderr));
        let program = std::path::Path::new(String::from_utf8(part.stdout).unwrap().trim()).join("opa");
        let socket = gate.path("opa.sock");
        let mut process = Command::new(program)
            .args(["run", "--server", "--set", "decision_logs.console=true", "--log-format", "json", "--addr"])
            .arg(format!("unix://{}", socket.display()))
            .arg(gate.path("policy"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Initializing server") || line.contains("Server initialized")), "opa ended");
        Self { process, lines: Box::new(lines), socket }
    }

    /// Has it decide about an input.
    fn decide(&self, input: Value) {
        let began = std::time::Instant::now();
        let mut asking = loop {
            match UnixStream::connect(&self.socket) {
                Ok(asking) => break asking,
                Err(error) => assert!(began.elapsed() < HANG, "{error}"),
            }
        };
        let body = json!({"input": input}).to_string();
        let head =
            "POST /v1/data/portcullis/decision HTTP/1.1\r\nhost: opa\r\nconnection: close\r\ncontent-type: application/json\r\n";
        write!(asking, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        asking.read_to_string(&mut String::new()).unwrap();
    }

    /// The next decision it logs.
    fn logged(&mut self) -> Value {
        let logged = self.lines.find(|line| line.contains("\"Decision Log\"")).unwrap();
        serde_json::from_str(&logged).unwrap()
    }
}

impl Drop for Opa {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A gate's folder with these rules of `system.log`, and the policy in it.
fn with_rules(rules: &str, data: &Value) -> (Gate, Policy) {
    let setup = Setup { data: data.to_string(), ..Setup::policy(DECISION) };
    let mut gate = setup.start(Backend::start().address);
    gate.stop();
    gate.write_bundle("log.rego", rules);
    let config = Config::read(&gate.path("gate.yaml")).unwrap();
    let policy = Policy::load(&config.policy, &[Entry::new("portcullis/decision", None)]).unwrap();
    (gate, policy)
}

#[test]
fn masks_hide_what_they_hide_in_opa() {
    let (gate, policy) = with_rules(MASK, &json!({"masks": cases()}));
    let mut opa = Opa::start(&gate);
    let mut engine = policy.engine().unwrap();
    assert!(policy.masks());
    for case in 0..cases().as_array().unwrap().len() {
        opa.decide(input(case));
        let logged = opa.logged();
        let result = json!({"allowed": true, "headers": {"x-team": "blue"}});
        let ours = engine.mask(Map::new(), Some(input(case)), Some(result)).unwrap();
        let told = |pointers: &Value| -> Vec<String> { serde_json::from_value(pointers.clone()).unwrap_or_default() };
        assert_eq!(ours.input.unwrap_or_default(), logged["input"], "input of case {case}: {logged}");
        assert_eq!(ours.result.unwrap_or_default(), logged["result"], "result of case {case}: {logged}");
        assert_eq!((ours.erased, ours.masked), (told(&logged["erased"]), told(&logged["masked"])), "case {case}: {logged}");
    }
}

#[test]
fn decisions_are_dropped_that_are_dropped_in_opa() {
    let rules = "package system.log\n\ndrop := data.drops[input.input.case]\n\n\
                 drop if {\n    input.input.case == 100\n    input.result.allowed\n    input.path == \"portcullis/decision\"\n}\n\n\
                 drop := 1 / 0 if input.input.case == 101\n";
    let drops = json!([true, false, "true", 1, 0, {}, {"drop": true}, [], [true], null]);
    let (gate, policy) = with_rules(rules, &json!({"drops": drops}));
    let mut opa = Opa::start(&gate);
    let mut engine = policy.engine().unwrap();
    assert!(policy.drops());
    let mut dropped = Vec::new();
    for case in (0..=drops.as_array().unwrap().len()).chain([100, 101]) {
        opa.decide(input(case));
        // What is logged after it, whatever became of it.
        opa.decide(json!({"case": 7, "after": case, "request": {"headers": {"x-team": ["blue"]}}}));
        let logged = opa.logged();
        let theirs = logged["input"]["after"] == case;
        if !theirs {
            assert_eq!(opa.logged()["input"]["after"], case);
        }
        let result = json!({"allowed": true, "headers": {"x-team": "blue"}});
        let event = json!({"path": "portcullis/decision", "input": input(case), "result": result});
        assert_eq!(engine.drops(&event), Ok(theirs), "case {case}: {logged}");
        dropped.extend(theirs.then_some(case));
    }
    assert_eq!(dropped, [0, 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_that_fails_withholds_input_and_result_and_says_so() {
    let working = "package system.log\n\nmask contains \"/input/request/headers/x-team\"\n\n\
                   mask contains \"/input/attributes/request/http/headers/x-team\"\n\n\
                   mask contains {\"op\": \"upsert\", \"path\": \"/result/headers/x-team\", \"value\": \"**\"}\n";
    let failing = "package system.log\n\nmask contains \"/labels\"\n";
    for (mask, fails) in [(working, false), (failing, true)] {
        let backend = Backend::start();
        let audit = "  file: decisions.jsonl\n  input: head\n".to_owned();
        let mut gate = Setup { audit, ..Setup::policy(DECISION) }.start(backend.address);
        gate.stop();
        gate.write_bundle("mask.rego", mask);
        gate.restart();
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        let mut asked = request("GET", "/v1", empty());
        asked.headers_mut().insert("x-team", "canary".parse().unwrap());
        assert_eq!(client.send(asked).await.unwrap().status(), 200);
        drop(client);
        let record = tokio::task::block_in_place(|| gate.record());
        let line = record.iter().find(|line| line["portcullis"]["kind"] == "decision").unwrap();
        assert!(!line.to_string().contains("canary"), "{line}");
        if fails {
            assert!(line.get("input").is_none() && line.get("result").is_none(), "{line}");
            assert!(line["error"].as_str().unwrap().starts_with("input and result are withheld"), "{line}");
        } else {
            assert_eq!(
                line["erased"],
                json!(["/input/attributes/request/http/headers/x-team", "/input/request/headers/x-team"]),
                "{line}"
            );
            assert_eq!((&line["masked"], &line["result"]["headers"]["x-team"]), (&json!(["/result/headers/x-team"]), &json!("**")));
            assert!(line["input"]["peer"]["spiffe_id"].is_string(), "{line}");
        }
    }
}
