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

fn opa(words: &[&str]) -> Output {
    let part = Command::new(root().join("tests/parts")).arg("opa").output().unwrap();
    assert!(part.status.success(), "{}", said(&part));
    let program = Path::new(std::str::from_utf8(&part.stdout).unwrap().trim()).join("opa");
    Command::new(program).args(words).current_dir(root()).output().unwrap()
}

fn by_opa(bundle: &str) -> Outcomes {
    let output = opa(&["test", "--bundle", bundle, "--format", "json"]);
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

const LIBRARY: &[(&str, &str)] = &[
    ("admin-api", "portcullis/decision"),
    ("read-only-agents", "read_only_agents/decision"),
    ("tool-segmentation", "tool_segmentation/decision"),
    ("path-roles", "path_roles/decision"),
    ("environment-isolation", "environment_isolation/decision"),
    ("envoy-migration", "envoy/authz/allow"),
];

#[test]
fn each_policy_of_the_library_is_tested_whole_judged_by_the_vm_and_reads_nothing_unknown() {
    let mut folders: Vec<String> = std::fs::read_dir(root().join("policies"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut listed: Vec<&str> = LIBRARY.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(folders, listed);
    let folder = tempfile::tempdir().unwrap();
    let minimal = std::fs::read_to_string(root().join("examples/minimal/gate.yaml")).unwrap();
    for (name, decision) in LIBRARY {
        let bundle = root().join("policies").join(name);
        prints(0, &["test", bundle.to_str().unwrap(), "--coverage-min", "100"], "");
        let config = folder.path().join("gate.yaml");
        let (before, _) = minimal.split_once("policy:").unwrap();
        let policy = format!("policy:\n  bundles: {{{name}: {{path: {}}}}}\n  decision: {decision}\n", bundle.display());
        std::fs::write(&config, format!("{before}{policy}")).unwrap();
        let told = prints(0, &["check", "-c", config.to_str().unwrap()], "");
        has(&told, &["engine    vm\n", "0 warnings"]);
    }
}

#[test]
fn controls_are_claimed_only_as_far_as_passing_tests_show_them() {
    let claimed = json_of(0, &["policy", "coverage", "policies/path-roles", "policies/environment-isolation", "--json"], "");
    let nhi = &claimed["frameworks"][0];
    assert_eq!(nhi["key"], "owasp_nhi_2025");
    let ids: Vec<&str> = nhi["controls"].as_array().unwrap().iter().map(|control| control["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["NHI5", "NHI8", "NHI9"]);
    assert_eq!(
        nhi["controls"][1]["rules"][1]["tests"][0],
        "data.environment_isolation_test.test_a_resource_that_stands_nowhere_is_in_no_environment"
    );
    assert!(nhi["not_claimed"].as_array().unwrap().contains(&json!("NHI2")));
    // What a policy serves is the same whoever reads its annotations.
    let inspected = opa(&["inspect", "-a", "-f", "json", "policies/path-roles"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let custom = inspected["annotations"].as_array().unwrap().iter().filter(|one| one["annotations"]["custom"].is_object());
    assert_eq!(custom.count(), 2, "{inspected}");

    let folder = tempfile::tempdir().unwrap();
    let policy = std::fs::read_to_string(root().join("policies/path-roles/policy.rego")).unwrap();
    let tests = std::fs::read_to_string(root().join("policies/path-roles/policy_test.rego")).unwrap();
    let data = std::fs::read_to_string(root().join("policies/path-roles/data.json")).unwrap();
    let path = folder.path().to_str().unwrap();
    let lay = |tests: &str| {
        std::fs::write(folder.path().join("policy.rego"), &policy).unwrap();
        std::fs::write(folder.path().join("data.json"), &data).unwrap();
        std::fs::write(folder.path().join("policy_test.rego"), tests).unwrap();
    };
    // Without the one test that reaches it, a rule is claimed by nobody.
    lay(&tests.replace("test_what_no_role_grants", "once_tested"));
    let told = prints(1, &["policy", "coverage", path], "");
    has(&told, &["no test shows ", "Only what a role grants"]);
    assert!(!told.contains("NHI9  NHI Reuse"), "{told}");
    // A test that fails shows nothing.
    lay(&tests.replace("[\"not_granted\"]", "[\"granted\"]"));
    let told = prints(1, &["policy", "coverage", path], "");
    has(&told, &["does not pass: data.path_roles_test.test_what_no_role_grants; nothing is claimed"]);
    assert!(!told.contains("NHI5  "), "{told}");
    lay(&tests);
    std::fs::write(folder.path().join("policy.rego"), policy.replace("NHI9", "NHI99")).unwrap();
    has(&said(&portcullis(&["policy", "coverage", path], "")), &["exit status: 64", "`NHI99` is no control", "did you mean NHI9?"]);
}

#[test]
fn policies_of_the_library_are_combined_and_one_that_is_missing_allows_nothing() {
    let config = "examples/combined/gate.yaml";
    has(&prints(0, &["check", "-c", config], ""), &["3 bundles, 0 warnings"]);
    let asks = |path: &[&str], environment: &str| {
        json!({
            "peer": {"trust_domain": "example.org", "segments": path},
            "request": {"method": "GET", "segments": ["v1", "users"]},
            "resource": {"environment": environment},
        })
        .to_string()
    };
    let eval = |code, config: &str, input: &str| json_of(code, &["eval", "-c", config, "-i", "-", "--json"], input);
    assert_eq!(eval(1, config, &asks(&["prod", "agents"], "production"))["reasons"], json!(["no_role"]));
    assert_eq!(eval(1, config, &asks(&["ops", "console"], "production"))["reasons"], json!(["identity_of_no_environment"]));
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join(config)).unwrap();
    let data = folder.path().join("roles");
    std::fs::create_dir(&data).unwrap();
    for file in [".manifest", "policy.rego"] {
        std::fs::copy(root().join("policies/path-roles").join(file), data.join(file)).unwrap();
    }
    let roles = json!({"path_roles": {
        "roles_of": [{"trust_domain": "example.org", "path": ["prod", "agents"], "roles": ["reader"]}],
        "grants": {"reader": [{"methods": ["GET"], "path": ["v1", "**"]}]},
    }});
    std::fs::write(data.join("data.json"), roles.to_string()).unwrap();
    let text = text
        .replace("../../policies/path-roles", "roles")
        .replace("../../policies/environment-isolation", root().join("policies/environment-isolation").to_str().unwrap())
        .replace("{path: policy}", &format!("{{path: {}}}", root().join("examples/combined/policy").display()));
    let own = folder.path().join("gate.yaml");
    let own = own.to_str().unwrap();
    std::fs::write(own, &text).unwrap();
    assert_eq!(eval(0, own, &asks(&["prod", "agents"], "production"))["allowed"], true);
    assert_eq!(eval(1, own, &asks(&["prod", "agents"], "staging"))["reasons"], json!(["other_environment"]));
    // Without the bundle that isolates environments.
    let without: Vec<&str> = text.lines().filter(|line| !line.contains("environment-isolation:")).collect();
    std::fs::write(own, without.join("\n")).unwrap();
    assert_eq!(eval(1, own, &asks(&["prod", "agents"], "production"))["allowed"], false);
}
