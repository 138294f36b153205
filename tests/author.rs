//! What a policy's author types: `check`, `eval`, `explain`, `test`, each by the real program.
//!
//! In: the shipped examples, bundles of `tests/suites`, and a record the tour leaves. Out: a failure that shows what was printed.
//! Which tests pass is compared with what OPA itself says of the same bundles.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking, and says where")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn portcullis(words: &[&str], input: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(words).current_dir(root()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    // Whoever does not read its input has ended; that is seen below.
    let _ = running.stdin.take().unwrap().write_all(input.as_bytes());
    running.wait_with_output().unwrap()
}

/// What a command prints, when it ends with this exit code.
fn prints(code: i32, words: &[&str], input: &str) -> String {
    let output = portcullis(words, input);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(code: i32, words: &[&str], input: &str) -> Value {
    serde_json::from_str(&prints(code, words, input)).unwrap()
}

fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.contains(line), "`{line}` is not in\n{text}");
    }
}

const GATE: &str = "examples/admin-api/gate.yaml";

fn asks(workload: &str, method: &str, segments: &[&str], effect: &str) -> String {
    let parts: Vec<&str> = workload.split('/').collect();
    json!({
        "peer": {"spiffe_id": format!("spiffe://example.org/{workload}"), "trust_domain": "example.org", "segments": parts},
        "request": {"method": method, "segments": segments},
        "resource": {"sensitivity": "high", "effect": effect},
    })
    .to_string()
}

#[test]
fn check_tells_what_the_policy_reads_calls_and_who_judges() {
    let text = prints(0, &["check", "-c", GATE], "");
    has(&text, &["policy.rego:", "input.request.segments", "engine", "builtins", "count", "0 warnings"]);
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(root().join(GATE)).unwrap();
    let policy = "package portcullis\n\ndecision if input.requst.method == \"GET\"\n\nother if input.peer.spife_id\n\nfound if lower(input.requst.path) == missing.x\n";
    for (policy, code, told) in [
        (policy.replace("found", "# found"), 0, "policy.rego:3:25: nothing ever stands at input.requst; the nearest is `request`"),
        (policy.replace("lower(", "lowr(").replace("GET\"", "GET\" \n\ntwo if nothing_here"), 64, "lowr"),
        (policy.replace("lower(", "lowr(").replace("GET\"", "GET\" \n\ntwo if nothing_here"), 64, "nothing_here"),
    ] {
        std::fs::write(folder.path().join("gate.yaml"), config.replace("../../policies/admin-api", "policy")).unwrap();
        std::fs::create_dir_all(folder.path().join("policy")).unwrap();
        std::fs::write(folder.path().join("policy/policy.rego"), policy).unwrap();
        let output = portcullis(&["check", "-c", folder.path().join("gate.yaml").to_str().unwrap()], "");
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        has(&said(&output), &[told]);
    }
}

#[test]
fn eval_gives_the_gates_verdict_and_its_exit_code() {
    let read = asks("agents/research", "GET", &["v1", "users", "7"], "read");
    let allowed = json_of(0, &["eval", "-c", GATE, "-i", "-", "--json"], &read);
    assert_eq!((&allowed["allowed"], &allowed["answer"]), (&json!(true), &json!({"allowed": true})), "{allowed}");
    let destroy = asks("agents/research", "DELETE", &["v1", "users", "7"], "destroy");
    let denied = json_of(1, &["eval", "-c", GATE, "-i", "-", "--json"], &destroy);
    assert_eq!(denied["reasons"], json!(["destroy_is_for_operators", "not_granted"]), "{denied}");
    assert_eq!((&denied["reason"], &denied["decision"]), (&json!("policy"), &json!("portcullis/decision")));
    let create = asks("agents/research", "POST", &["v1", "users"], "create");
    has(&prints(0, &["eval", "-c", GATE, "-i", "-"], &create), &["verdict   allow", "patches the body: [{", "engine"]);
    // The engine the gate would ask, and the rule a route names.
    has(&prints(0, &["check", "-c", GATE], ""), &[&format!("engine    {}", denied["engine"].as_str().unwrap())]);
    let one = json_of(1, &["eval", "-c", GATE, "-i", "-", "--json", "--entry", "portcullis/granted"], &destroy);
    assert_eq!((&one["reason"], &one["answer"]), (&json!("undefined"), &Value::Null), "{one}");
    prints(64, &["eval", "-c", GATE, "-i", "-", "--route", "nobody"], &read);
}

#[test]
fn eval_tells_of_keys_nobody_reads_and_of_input_that_is_none() {
    let output = portcullis(&["eval", "-c", GATE, "-i", "-"], r#"{"request": {"metod": "GET"}, "peer": {"segment": []}}"#);
    has(&said(&output), &["input.request.metod; the nearest is `method`", "input.peer.segment; the nearest is `segments`"]);
    assert_eq!(output.status.code(), Some(1));
    for (input, told) in [("{\"a\": }", "line 1 column 7"), ("[1]", "an input document is an object"), ("", "EOF")] {
        let output = portcullis(&["eval", "-c", GATE, "-i", "-"], input);
        assert_eq!(output.status.code(), Some(64), "{input}: {}", said(&output));
        has(&said(&output), &[told, "hint: "]);
    }
    assert_eq!(portcullis(&["eval", "-c", GATE, "-i", "nowhere.json"], "").status.code(), Some(64));
}

#[test]
fn eval_explains_where_each_rule_stopped_and_with_which_values() {
    let destroy = asks("agents/research", "DELETE", &["v1", "users", "7"], "destroy");
    let text = prints(1, &["eval", "-c", GATE, "-i", "-", "--explain"], &destroy);
    has(
        &text,
        &[
            "data.portcullis.decision = {\"allowed\":false,\"reasons\":[\"destroy_is_for_operators\",\"not_granted\"]}",
            "count(reasons) == 0",
            "count(reasons) = 2",
            "reasons = {\"destroy_is_for_operators\", \"not_granted\"}",
            "data.portcullis.granted is undefined",
            "operator is undefined",
            "grant.method == input.request.method",
            "grant.method = \"GET\"",
            "input.request.method = \"DELETE\"",
            "input.peer.segments[0] == \"ops\"",
            "input.peer.segments[0] = \"agents\"",
        ],
    );
    assert!(!text.contains("not told"), "{text}");
}

/// Test → what came of it, and of each case.
type Outcomes = BTreeMap<String, (String, BTreeMap<String, bool>)>;

fn by_opa(bundle: &str) -> Outcomes {
    let part = Command::new(root().join("tests/parts")).arg("opa").output().unwrap();
    assert!(part.status.success(), "{}", said(&part));
    let program = Path::new(std::str::from_utf8(&part.stdout).unwrap().trim()).join("opa");
    let output = Command::new(program).args(["test", "--bundle", bundle, "--format", "json"]).current_dir(root()).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{bundle}: {}", said(&output)));
    let each = told.as_array().unwrap().iter().map(|test| {
        let is = |key: &str| test.get(key).is_some_and(|value| *value != json!(false));
        let outcome = [("error", "error"), ("skip", "skipped"), ("fail", "fail")].into_iter().find(|(key, _)| is(key));
        let mut cases = BTreeMap::new();
        leaves(&test["sub_results"], "", &mut cases);
        let name = format!("{}.{}", test["package"].as_str().unwrap(), test["name"].as_str().unwrap());
        (name, (outcome.map_or("pass", |(_, word)| word).to_owned(), cases))
    });
    each.collect()
}

fn leaves(results: &Value, above: &str, found: &mut BTreeMap<String, bool>) {
    for (name, result) in results.as_object().into_iter().flatten() {
        let path = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
        match result.get("sub_results").filter(|inner| inner.as_object().is_some_and(|inner| !inner.is_empty())) {
            Some(inner) => leaves(inner, &path, found),
            None => drop(found.insert(path, result.get("fail") != Some(&json!(true)))),
        }
    }
}

fn by_us(bundle: &str) -> Outcomes {
    let output = portcullis(&["test", bundle, "--json"], "");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{bundle}: {}", said(&output)));
    let each = told["tests"].as_array().unwrap().iter().map(|test| {
        let cases = test["cases"].as_array().unwrap().iter().map(|case| {
            let keys: Vec<&str> = case["case"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            (keys.join("/"), case["passed"] == json!(true))
        });
        (test["name"].as_str().unwrap().to_owned(), (test["outcome"].as_str().unwrap().to_owned(), cases.collect()))
    });
    each.collect()
}

#[test]
fn tests_pass_and_fail_as_under_opa() {
    let mut compared = 0;
    let suites = ["reads", "cases", "odd", "mocks"].map(|name| format!("tests/suites/{name}"));
    let shipped = ["policies/admin-api", "examples/sidecar/policy"].map(str::to_owned);
    for bundle in suites.iter().chain(&shipped) {
        let (ours, theirs) = (by_us(bundle), by_opa(bundle));
        assert_eq!(ours, theirs, "{bundle}");
        compared += ours.len();
    }
    assert!(compared > 60, "{compared}");
}

#[test]
fn a_failing_test_is_told_with_its_place_and_its_values() {
    let text = prints(1, &["test", "tests/suites/reads"], "");
    has(
        &text,
        &[
            "tests/suites/reads/policy_test.rego:11: FAIL: data.app_test.test_fails_plainly (",
            "app.allow with input as {\"method\": \"POST\", \"user\": \"ada\"}",
            "app.allow = false",
            "ERROR: data.app_test.test_conflict",
            "SKIPPED: data.app_test.todo_test_later",
            "not so for user = [[\"eve\"]]",
            "FAIL: 6/17",
        ],
    );
    assert!(!text.contains("test_known_reads"), "what passed is told with -v only: {text}");
    let text = prints(1, &["test", "tests/suites/reads", "-v", "--run", "known_reads|fails_plainly"], "");
    has(
        &text,
        &[
            "PASS: data.app_test.test_known_reads",
            "data.app.allow",
            "input.method == \"GET\"",
            "input.method = \"POST\"",
            "PASS: 1/2",
        ],
    );
    has(&prints(1, &["test", "tests/suites/cases"], ""), &["wrong", "FAIL: 4/10"]);
}

#[test]
fn a_rule_is_covered_when_a_test_makes_it_defined() {
    let told = json_of(0, &["test", "tests/suites/reads", "--json", "--run", "known_reads|test_path"], "");
    let missing: Vec<String> = told["coverage"]["not_covered"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{}:{}", one["rule"].as_str().unwrap(), one["line"]))
        .collect();
    // `path` is a function, `never` is undefined, and of `label` each branch counts by itself.
    let wanted = [
        "data.app.allow:10",
        "data.app.admin:17",
        "data.app.never:21",
        "data.app.label:23",
        "data.app.label:25",
        "data.app.label:27",
    ];
    assert_eq!(missing, wanted);
    assert_eq!((&told["coverage"]["covered"], &told["coverage"]["rules"]), (&json!(3), &json!(9)));
    prints(0, &["test", "policies/admin-api", "--coverage-min", "90"], "");
    let output = portcullis(&["test", "tests/suites/reads", "--run", "test_path", "--coverage-min", "50"], "");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    has(&said(&output), &["not covered: tests/suites/reads/policy.rego:17", "coverage is below the 50 %"]);
}

#[test]
fn what_cannot_be_tested_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(portcullis(&["test", path], "").status.code(), Some(1), "there are no tests");
    let write = |text: &str| std::fs::write(folder.path().join("a_test.rego"), text).unwrap();
    write("package a\n\ntest_x if {\n");
    let output = portcullis(&["test", path], "");
    assert_eq!(output.status.code(), Some(64));
    has(&said(&output), &["a_test.rego:"]);
    write("package a\n\ntest_x if f(1)\n\nf(x) if g(x)\n\ng(x) if f(x)\n");
    let output = portcullis(&["test", path], "");
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    has(&said(&output), &["recursion: data.a.f"]);
    write("package a\n\ntest_x if input.x with input as {\"x\": 1}\n");
    prints(0, &["test", folder.path().join("a_test.rego").to_str().unwrap()], "");
    assert_eq!(portcullis(&["test", "nowhere"], "").status.code(), Some(64));
    assert_eq!(portcullis(&["test"], "").status.code(), Some(64));
}

#[test]
fn watched_tests_run_again_when_a_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a_test.rego");
    std::fs::write(&file, "package a\n\ntest_x if true\n").unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["test", folder.path().to_str().unwrap(), "--watch"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = command.spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "PASS: 1/1"));
    std::fs::write(&file, "package a\n\ntest_x if 1 == 2\n").unwrap();
    assert!(lines.any(|line| line.contains("FAIL: data.a.test_x")));
    running.kill().unwrap();
    running.wait().unwrap();
}

/// The folder a tour leaves, with its record.
fn tour() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM).args(["dev", "--tour"]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let left = folder.path().join(".portcullis-dev/tour");
    (folder, left)
}

#[test]
fn a_recorded_decision_is_explained_by_the_policy_as_it_is_now() {
    let (_folder, left) = tour();
    let record = std::fs::read_to_string(left.join("decisions.jsonl")).unwrap();
    let lines: Vec<Value> = record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |method: &str, path: &str| {
        let is = |line: &&Value| {
            line["portcullis"]["kind"] == "decision" && line["portcullis"]["method"] == method && line["portcullis"]["path"] == path
        };
        lines.iter().find(is).unwrap()["decision_id"].as_str().unwrap().to_owned()
    };
    let config = left.join("gate.yaml");
    let explain = |id: &str, more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["explain", id, "-c"]).arg(&config).args(more);
        command.current_dir(left.parent().unwrap().parent().unwrap()).output().unwrap()
    };
    let destroyed = of("DELETE", "/v1/users/7");
    let output = explain(&destroyed, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    has(
        &text,
        &["DELETE", "RECORD", "the same verdict", "destroy_is_for_operators, not_granted", "input.peer.segments[0] = \"agents\""],
    );
    // A body that came up and is not in the record is unknown; a request without one lacks nothing.
    assert!(!text.contains("does not hold"), "{text}");
    let output = explain(&of("POST", "/v1/users"), &[]);
    has(&said(&output), &["the record does not hold input.request.body.role", "not told"]);

    // Another policy, another verdict, and both are said.
    let rego = left.join("policy/policy.rego");
    let policy =
        std::fs::read_to_string(&rego).unwrap().replace("not operator\n", "not operator\n\tinput.environment == \"nowhere\"\n");
    std::fs::write(&rego, policy).unwrap();
    let output = explain(&destroyed, &["--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!((&told["different"], &told["now"]["reasons"]), (&json!(true), &json!(["not_granted"])), "{told}");
    assert_eq!(told["unknown"], json!(["input.environment"]), "the record was made by a policy that did not read it");
    has(
        &said(&explain(&destroyed, &[])),
        &["a different verdict, by bundles of the same revision", "the record does not hold input.environment"],
    );
    let manifest = left.join("policy/.manifest");
    let next = std::fs::read_to_string(&manifest).unwrap().replace("admin-api-1", "admin-api-2");
    std::fs::write(&manifest, next).unwrap();
    has(&said(&explain(&destroyed, &[])), &["a different verdict, by another revision of authz"]);

    // Rotated, compressed and far down in a long file.
    let other = left.join("other.jsonl");
    let filler = "{\"decision_id\": \"x\", \"portcullis\": {\"kind\": \"closing\"}}\n".repeat(50_000);
    std::fs::write(&other, filler + &record).unwrap();
    assert!(explain(&destroyed, &["--log", other.to_str().unwrap()]).status.success());
    std::fs::rename(left.join("decisions.jsonl"), left.join("decisions.jsonl.1")).unwrap();
    std::fs::write(left.join("decisions.jsonl"), "").unwrap();
    assert!(explain(&destroyed, &[]).status.success(), "rotation left it beside");
    let output = explain("00000000-0000-4000-8000-000000000000", &[]);
    assert_eq!(output.status.code(), Some(1));
    has(&said(&output), &["no decision 00000000", "hint: "]);
}
