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

#[test]
fn masks_hide_what_they_hide_in_opa() {
    let part = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts")).arg("opa").output().unwrap();
    assert!(part.status.success(), "{}", String::from_utf8_lossy(&part.stderr));
    let program = std::path::Path::new(String::from_utf8(part.stdout).unwrap().trim()).join("opa");
    let setup = Setup { data: json!({"masks": cases()}).to_string(), ..Setup::policy(DECISION) };
    let mut gate = setup.start(Backend::start().address);
    gate.stop();
    gate.write_bundle("mask.rego", MASK);
    let socket = gate.path("opa.sock");
    let mut opa = Command::new(program)
        .args(["run", "--server", "--set", "decision_logs.console=true", "--log-format", "json", "--addr"])
        .arg(format!("unix://{}", socket.display()))
        .arg(gate.path("policy"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(opa.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Initializing server") || line.contains("Server initialized")), "opa ended");
    let config = Config::read(&gate.path("gate.yaml")).unwrap();
    let policy = Policy::load(&config.policy, &[Entry::new("portcullis/decision", None)]).unwrap();
    let mut engine = policy.engine().unwrap();
    assert!(policy.masks());
    for case in 0..cases().as_array().unwrap().len() {
        let began = std::time::Instant::now();
        let mut asking = loop {
            match UnixStream::connect(&socket) {
                Ok(asking) => break asking,
                Err(error) => assert!(began.elapsed() < HANG, "{error}"),
            }
        };
        let body = json!({"input": input(case)}).to_string();
        let head =
            "POST /v1/data/portcullis/decision HTTP/1.1\r\nhost: opa\r\nconnection: close\r\ncontent-type: application/json\r\n";
        write!(asking, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        asking.read_to_string(&mut String::new()).unwrap();
        let logged = lines.find(|line| line.contains("\"Decision Log\"")).unwrap();
        let logged: Value = serde_json::from_str(&logged).unwrap();
        let result = json!({"allowed": true, "headers": {"x-team": "blue"}});
        let ours = engine.mask(Map::new(), Some(input(case)), Some(result)).unwrap();
        let told = |pointers: &Value| -> Vec<String> { serde_json::from_value(pointers.clone()).unwrap_or_default() };
        assert_eq!(ours.input.unwrap_or_default(), logged["input"], "input of case {case}: {logged}");
        assert_eq!(ours.result.unwrap_or_default(), logged["result"], "result of case {case}: {logged}");
        assert_eq!((ours.erased, ours.masked), (told(&logged["erased"]), told(&logged["masked"])), "case {case}: {logged}");
    }
    opa.kill().unwrap();
    opa.wait().unwrap();
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
