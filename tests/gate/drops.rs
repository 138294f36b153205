//! What a policy drops from the record where the operator lets it, and what stays in it whatever a policy says.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::*;

const POLICY: &str = "package portcullis\n\ndecision := {\"allowed\": allowed}\n\ndefault allowed := true\n\nallowed := false if startswith(input.request.path, \"/denied/\")\n";
/// Drops by the first segment of the path; says what is no order for others, and fails for one.
const DROP: &str = r#"package system.log

drop if startswith(input.input.request.path, "/quiet")

drop if {
    input.path == "portcullis/decision"
    input.result.allowed == false
    input.input.request.path == "/denied/quiet"
}

drop := "true" if input.input.request.path == "/odd"

drop := true if input.input.request.path == "/fails"

drop := false if input.input.request.path == "/fails"
"#;

/// An upstream whose answers take as long as the second segment says.
fn upstream_of_moods() -> Backend {
    Backend::answering(|seen, stream| {
        let mood = seen.target().split('/').nth(2).unwrap_or_default();
        if mood.is_empty() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")?;
        if mood == "slow" {
            // Longer than the second after which a decision is told.
            std::thread::sleep(Duration::from_millis(2300));
            stream.write_all(b"0\r\n\r\n")?;
            return Ok(true);
        }
        loop {
            stream.write_all(b"1\r\nx\r\n")?;
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

fn gate(audit: &str, backend: &Backend) -> Gate {
    let audit = format!("  file: decisions.jsonl\n{audit}");
    let mut gate = Setup { audit, ..Setup::policy(POLICY) }.start(backend.address);
    gate.stop();
    gate.write_bundle("drop.rego", DROP);
    gate.restart();
    gate
}

fn kinds(record: &[Value], kind: &str) -> Vec<Value> {
    record.iter().filter(|line| line["portcullis"]["kind"] == kind).cloned().collect()
}

fn paths(record: &[Value]) -> Vec<String> {
    let mut paths: Vec<_> = kinds(record, "decision").iter().map(|line| line["portcullis"]["path"].to_string()).collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_drops_leaves_no_line_and_is_counted_and_a_cut_stays() {
    for durability in ["queued", "written"] {
        let backend = upstream_of_moods();
        let mut gate = gate(&format!("  allow_drop: true\n  durability: {durability}\n"), &backend);
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        for path in ["/quiet", "/loud", "/odd", "/fails", "/quiet/slow"] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
        for path in ["/denied/quiet", "/denied/loud"] {
            assert_eq!(client.get(path).await.status, 403, "{path}");
        }
        // Refused before a policy was asked.
        let refused = gate.raw_answer("agents/research", b"GET /quiet/../../x HTTP/1.1\r\nhost: h\r\n\r\n", false).await;
        assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
        // Open for long enough to be told, were it not dropped; then cut.
        let open = client.open("/quiet/long").await;
        let of_it = |gate: &Gate| {
            let all = gate.control("GET", "/v1/exchanges", "").1;
            let row = all["exchanges"].as_array().unwrap().iter().find(|row| row["path"] == "/quiet/long").cloned();
            row.filter(|row| row["age_seconds"].as_u64().unwrap() >= 3)
        };
        let mut row = None;
        until("the exchange is old enough", || {
            row = of_it(&gate);
            row.is_some()
        })
        .await;
        let id = row.unwrap()["id"].as_str().unwrap().to_owned();
        assert_eq!(gate.kill(&format!("{{\"exchange\": \"{id}\"}}"))["cut"], 1);
        drop(open);
        // And what a standing kill refuses.
        gate.kill("{\"spiffe_id\": \"spiffe://example.org/agents/killed\"}");
        let mut killed = gate.any(Speaks::Http2, "agents/killed").await;
        assert_eq!(killed.get("/quiet").await.status, 403);
        drop((client, killed));
        assert_eq!(gate.metric("portcullis_audit_records_total", "outcome=\"dropped\""), 3.0, "{durability}");
        let record = tokio::task::block_in_place(|| gate.record());
        let expected =
            ["\"/denied/loud\"", "\"/fails\"", "\"/loud\"", "\"/odd\"", "\"/quiet\"", "\"/quiet/../../x\"", "\"/quiet/long\""];
        assert_eq!(paths(&record), expected, "{durability}");
        let cut = kinds(&record, "decision").into_iter().find(|line| line["portcullis"]["path"] == "/quiet/long").unwrap();
        assert_eq!((&cut["portcullis"]["cause"], &cut["portcullis"]["ending"]), (&"kill".into(), &"cut".into()), "{cut}");
        assert!(cut.get("input").is_none() && cut["error"].as_str().unwrap().contains("until it was cut"), "{cut}");
        let decided = |line: &Value| kinds(&record, "decision").iter().any(|it| it["decision_id"] == line["decision_id"]);
        assert!(kinds(&record, "closing").iter().all(decided), "a closing line of a decision that is not there: {record:?}");
        let dropped: u64 = kinds(&record, "loss").iter().map(|line| line["portcullis"]["dropped"].as_u64().unwrap()).sum();
        assert_eq!(dropped, 3, "{durability}");
        let file = gate.path("decisions.jsonl");
        let told = verified_text(Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["audit", "verify"]).arg(file));
        assert!(told.contains("not in it: 3 decisions that the policy kept out"), "{told}");
    }
}

fn verified_text(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_rule_the_operator_did_not_let_is_not_asked_and_is_told() {
    let backend = upstream_of_moods();
    let mut gate = gate("", &backend);
    let policy = gate.control("GET", "/v1/policy", "").1;
    let warnings = policy["warnings"].to_string();
    assert!(warnings.contains("drop.rego:3:") && warnings.contains("allow_drop: true"), "{policy}");
    let mut client = gate.any(Speaks::Http1, "agents/research").await;
    for path in ["/quiet", "/loud"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    drop(client);
    assert_eq!(gate.metric("portcullis_audit_records_total", "outcome=\"dropped\""), 0.0);
    let record = tokio::task::block_in_place(|| gate.record());
    assert_eq!(paths(&record), ["\"/loud\"", "\"/quiet\""]);
    let checked = verified_text(Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("check").arg("-c").arg(gate.path("gate.yaml")));
    assert!(checked.contains("drop.rego:3:") && checked.contains("`audit: {allow_drop: true}` lets it"), "{checked}");
}
