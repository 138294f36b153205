//! Evaluation: values, the four ways to have none, and the shipped policy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::policy::bundle::{self, Bounds, Source};
use crate::policy::interpreter::bare;
use crate::policy::{BundleSource, Chosen, Config, EngineChoice, Entry, Limits, Policy, TestChoice, suite};
use crate::units::{Size, Span};

pub(crate) fn config(path: PathBuf) -> Config {
    Config {
        bundles: BTreeMap::from([("b".to_owned(), BundleSource::at(path))]),
        decision: "a/r".to_owned(),
        result: None,
        may_kill: Vec::new(),
        engine: EngineChoice::Auto,
        tests: TestChoice::Ignore,
        reuse: Size::mib(1),
        shadow: None,
        limits: Limits { time: Span::millis(200), ..Limits::default() },
    }
}

pub(in crate::policy) fn load(files: &[(&str, &str)], decisions: &[&str]) -> Result<Policy, Report> {
    load_both(files, decisions).0
}

/// A bundle judged by the interpreter alone, and not compared with the VM, which takes longer than all else.
pub(in crate::policy) fn load_interpreted(files: &[(&str, &str)], decisions: &[&str]) -> Result<Policy, Report> {
    let home = written(files);
    let entries: Vec<Entry> = decisions.iter().map(|decision| Entry::new(decision, None)).collect();
    Policy::load(&Config { engine: EngineChoice::Interpreter, ..config(home.path().to_owned()) }, &entries)
}

fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(home.path().join(name), content).unwrap();
    }
    home
}

/// The same bundle with the engine that fits, and with the interpreter alone.
pub(in crate::policy) fn load_both(files: &[(&str, &str)], decisions: &[&str]) -> (Result<Policy, Report>, Result<Policy, Report>) {
    let home = written(files);
    let entries: Vec<Entry> = decisions.iter().map(|decision| Entry::new(decision, None)).collect();
    let by = |engine| Policy::load(&Config { engine, ..config(home.path().to_owned()) }, &entries);
    (by(EngineChoice::Auto), by(EngineChoice::Interpreter))
}

pub(in crate::policy) fn value(json: &serde_json::Value) -> Value {
    Value::from_json_str(&json.to_string()).unwrap()
}

fn engine(rego: &str) -> Engine {
    load(&[("p.rego", rego)], &["a/r"]).unwrap().engine().unwrap()
}

#[test]
fn having_no_value_is_never_a_value() {
    let undefined = engine("package a\n\nr if input.x == 1\n").evaluate(0, value(&json!({"x": 2})));
    assert_eq!(undefined, Err(EvaluationError::Undefined));
    let conflict = "package a\n\nr := {\"v\": x} if some x in input.l\n";
    let secret = engine(conflict).evaluate(0, value(&json!({"l": ["canary", "other"]}))).unwrap_err();
    assert!(matches!(&secret, EvaluationError::Error(said) if !said.contains("canary") && said.contains("p.rego:3:")), "{secret}");
    assert!(matches!(engine("package a\n\nr := 1\n").evaluate(7, Value::new_object()), Err(EvaluationError::Error(_))));
    let strings = engine("package a\n\nr := strings.count(\"abc\", input.x)\n").evaluate(0, value(&json!({"x": ""})));
    assert!(matches!(strings, Err(EvaluationError::Panic(_))), "{strings:?}");
}

#[test]
fn a_failed_evaluation_leaves_nothing_for_the_next_request() {
    let rego = "package a\n\nr := [x |\n\tx := input.l[_]\n\tcount([1 | input.l[_] == input.n; input.l[_] == input.n; input.l[_] == input.n]) == 0\n\tstrings.count(\"abc\", input.p) < 9\n]\n";
    let mut used = engine(rego);
    let long = json!({"l": vec!["old"; 2000], "n": "none", "p": "a"});
    let start = Instant::now();
    assert_eq!(used.evaluate(0, value(&long)), Err(EvaluationError::Timeout));
    assert!(start.elapsed() < Duration::from_secs(2));
    let next = json!({"l": ["new"], "n": "none", "p": "a"});
    assert_eq!(used.evaluate(0, value(&next)), Ok(value(&json!(["new"]))));
    let panics = json!({"l": ["older"], "n": "none", "p": ""});
    assert!(matches!(used.evaluate(0, value(&panics)), Err(EvaluationError::Panic(_))));
    assert_eq!(used.evaluate(0, value(&next)), Ok(value(&json!(["new"]))));
    // Nor does the data that `with` had put in place for the request that panicked.
    let rego = "package a\n\nr := [x, y] if {\n\tx := q with data.d as input.d\n\ty := p with input.z as 1\n}\n\nq := data.d if strings.count(\"abc\", input.p) < 9\n\np := data.d\n";
    let mut used = load(&[("p.rego", rego), ("data.json", "{\"d\": \"data\"}")], &["a/r"]).unwrap().engine().unwrap();
    assert!(matches!(used.evaluate(0, value(&json!({"d": "old", "p": ""}))), Err(EvaluationError::Panic(_))));
    assert_eq!(used.evaluate(0, value(&json!({"d": "new", "p": "a"}))), Ok(value(&json!(["new", "data"]))));
}

#[test]
fn a_timeout_inside_a_function_is_a_timeout_and_turns_no_negation() {
    let rego =
        "package a\n\nr if not slow(input.l)\n\nslow(l) if {\n\tsome x in l\n\tsome y in l\n\tsome z in l\n\tx + y + z == 1\n}\n";
    let answer = engine(rego).evaluate(0, value(&json!({"l": vec![1; 1000]})));
    assert_eq!(answer, Err(EvaluationError::Timeout));
}

#[test]
fn engines_are_independent_and_can_be_sent() {
    fn sent<T: Send>(_: &T) {}
    fn shared<T: Send + Sync>(_: &T) {}
    let policy =
        load(&[("p.rego", "package a\n\nr := data.t[input.k]\n"), ("data.json", "{\"t\": {\"x\": 1}}")], &["a/r"]).unwrap();
    shared(&policy);
    let engines: Vec<Engine> = (0..2).map(|_| policy.engine().unwrap()).collect();
    sent(&engines);
    let workers = engines.into_iter().map(|mut engine| {
        std::thread::spawn(move || (0..200).all(|_| engine.evaluate(0, value(&json!({"k": "x"}))) == Ok(Value::from(1u64))))
    });
    assert!(workers.collect::<Vec<_>>().into_iter().all(|worker| worker.join().unwrap()));
}

#[test]
fn stock_envoy_policies_and_old_rego_run() {
    let envoy = "package envoy.authz\n\nimport input.attributes.request.http as http_request\n\ndefault allow := false\n\nallow if {\n\thttp_request.method == \"GET\"\n\tglob.match(\"/people/*\", [\"/\"], http_request.path)\n}\n";
    let policy = load(&[("p.rego", envoy)], &["envoy/authz/allow"]).unwrap();
    assert_eq!(policy.entries()[0].shape, crate::policy::ResultShape::Envoy);
    let asks = |method: &str| value(&json!({"attributes": {"request": {"http": {"method": method, "path": "/people/1"}}}}));
    let mut engine = policy.engine().unwrap();
    assert_eq!(engine.evaluate(0, asks("GET")), Ok(Value::from(true)));
    assert_eq!(engine.evaluate(0, asks("PUT")), Ok(Value::from(false)));
    assert!(policy.footprint(0).reads(&["attributes", "request", "http", "path"]));
    assert!(!policy.footprint(0).reads(&["attributes", "source"]));
    let old = "package a\n\nr { input.x == 1 }\n";
    assert!(load(&[("p.rego", old)], &["a/r"]).is_err());
    assert!(load(&[("p.rego", old), (".manifest", "{\"rego_version\": 0}")], &["a/r"]).is_ok());
}

fn shipped() -> Policy {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policies/admin-api");
    let policy = Policy::load(&config(path), &[Entry::new("portcullis/decision", None)]);
    policy.unwrap_or_else(|report| panic!("{report}"))
}

fn asks(workload: &str, method: &str, segments: &[&str]) -> serde_json::Value {
    json!({
        "peer": {"spiffe_id": format!("spiffe://example.org/{workload}"), "trust_domain": "example.org",
                 "segments": workload.split('/').collect::<Vec<_>>()},
        "request": {"method": method, "segments": segments},
        "resource": {"sensitivity": "low", "effect": if method == "DELETE" { "destroy" } else { "read" }}
    })
}

#[test]
fn the_shipped_policy_says_what_it_promises() {
    let policy = shipped();
    assert!(policy.warnings().is_empty());
    let mut engine = policy.engine().unwrap();
    let created = json!({"allowed": true, "rewrite": {"body": [{"op": "add", "path": "/role", "value": "viewer"}]}});
    let rows = [
        (asks("agents/research", "GET", &["v1", "users"]), json!({"allowed": true})),
        (asks("agents/research", "GET", &["v1", "users", "7"]), json!({"allowed": true})),
        (asks("agents/research", "GET", &["v1", "export"]), json!({"allowed": true, "lease": {"max_age": "1h"}})),
        (asks("agents/research", "POST", &["v1", "users"]), created),
        (asks("agents/other", "GET", &["v1", "users"]), json!({"allowed": false, "reasons": ["not_granted"]})),
        (asks("ops/console", "DELETE", &["v1", "users", "7"]), json!({"allowed": true})),
        (asks("ops/console", "GET", &["v1", "users"]), json!({"allowed": false, "reasons": ["not_granted"]})),
        (
            asks("agents/research", "DELETE", &["v1", "users", "7"]),
            json!({"allowed": false, "reasons": ["destroy_is_for_operators", "not_granted"]}),
        ),
        (json!({}), json!({"allowed": false, "reasons": ["not_granted"]})),
    ];
    for (input, expected) in rows {
        assert_eq!(engine.evaluate(0, value(&input)), Ok(value(&expected)), "{input}");
    }
    let footprint = policy.footprint(0);
    assert!(footprint.reads(&["request", "body"]) && !footprint.whole && !footprint.clock);
    assert!(!footprint.reads(&["request", "headers"]) && !footprint.reads(&["risk"]));
}

#[test]
fn the_shipped_policy_passes_its_own_tests() {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policies/admin-api");
    let bundle = bundle::read("b", &home, &Bounds::default(), bundle::signature::Signatures::Refuse).unwrap();
    let mut engine = bare();
    for source in &bundle.modules {
        engine.add_policy(source.file.clone(), source.text.clone()).unwrap();
    }
    engine.add_data(value(&serde_json::Value::Object(bundle.data))).unwrap();
    let text = std::fs::read_to_string(home.join("policy_test.rego")).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("test_")?.split(' ').next()).collect();
    assert!(names.len() >= 8);
    for name in names {
        let answer = engine.eval_rule(format!("data.portcullis_test.test_{name}"));
        assert_eq!(answer.unwrap(), Value::from(true), "test_{name}");
    }
}

/// A policy with a VM of another one: what a bug of either engine looks like.
pub(crate) fn lying(every: u32) -> (Policy, Engine) {
    let mut policy = load(&[("p.rego", "package a\n\ndefault r := false\n\nr if input.x == 1\n")], &["a/r"]).unwrap();
    policy.judge_twice_every(NonZeroU32::new(every).unwrap());
    let other = load(&[("p.rego", "package a\n\ndefault r := true\n\nr := false if input.x == 1\n")], &["a/r"]).unwrap();
    let mut engine = policy.engine().unwrap();
    engine.lie(other.engine().unwrap());
    (policy, engine)
}

#[test]
fn a_disagreement_denies_and_gives_the_entry_point_to_the_interpreter_on_every_worker() {
    let (policy, mut engine) = lying(1);
    let mut elsewhere = policy.engine().unwrap();
    let asked = || value(&json!({"x": 2}));
    assert_eq!(policy.chosen(0), Chosen::Vm);
    let said = engine.ask(0, asked());
    assert_eq!((said.answer, said.by), (Err(EvaluationError::Disagreement), Kind::Vm));
    for engine in [&mut engine, &mut elsewhere] {
        let said = engine.ask(0, asked());
        assert_eq!((said.answer, said.by), (Ok(Value::from(false)), Kind::Interpreter));
    }
    assert!(matches!(policy.chosen(0), Chosen::Interpreter { why } if why.contains("disagreed")));
    assert_eq!(policy.engine().unwrap().ask(0, asked()).by, Kind::Interpreter);
}

#[test]
fn the_first_request_and_one_in_so_many_are_judged_twice() {
    let (_, mut engine) = lying(3);
    let agreed = || value(&json!({"x": 3}));
    engine.judged = 1;
    for place in 1..6 {
        let said = engine.ask(0, agreed());
        match place {
            1 | 2 => assert_eq!((said.answer, said.by), (Ok(Value::from(true)), Kind::Vm), "{place}"),
            3 => assert_eq!(said.answer, Err(EvaluationError::Disagreement)),
            _ => assert_eq!((said.answer, said.by), (Ok(Value::from(false)), Kind::Interpreter), "{place}"),
        }
    }
    let (_, mut fresh) = lying(1024);
    assert_eq!(fresh.evaluate(0, agreed()), Err(EvaluationError::Disagreement));
}

#[test]
fn the_engine_of_each_entry_point_is_chosen_and_told() {
    let rego = "package a\n\nr if input.x == 1\n\ns := {k: v | some k, v in input.o}\n";
    let files = [("p.rego", rego)];
    let policy = load(&files, &["a/r", "a/s"]).unwrap();
    assert_eq!(policy.chosen(0), Chosen::Vm);
    assert!(matches!(policy.chosen(1), Chosen::Interpreter { why } if why.contains("p.rego:5:6: ")));
    assert!(matches!(policy.chosen(2), Chosen::Interpreter { .. }));
    let (_, interpreted) = load_both(&files, &["a/r", "a/s"]);
    assert!(matches!(interpreted.unwrap().chosen(0), Chosen::Interpreter { why } if why == "policy.engine says so"));
    assert_eq!(shipped().chosen(0), Chosen::Vm);
}

#[test]
fn a_bundle_whose_tests_must_pass_and_do_not_may_not_judge() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("p.rego"), "package portcullis\n\ndecision := input.a == 1\n").unwrap();
    let load = |tests: &str| {
        std::fs::write(home.path().join("p_test.rego"), format!("package portcullis_test\n\nimport data.portcullis\n\n{tests}\n"))
            .unwrap();
        let config = Config { tests: TestChoice::Require, ..config(home.path().to_owned()) };
        Policy::load(&config, &[Entry::new("portcullis/decision", None)]).map(drop).map_err(|report| report.to_string())
    };
    assert_eq!(load("test_a if portcullis.decision with input as {\"a\": 1}\n\ntodo_test_b if false"), Ok(()));
    let said = load("test_a if portcullis.decision with input as {\"a\": 2}\n\ntest_b if true\n\ntest_c if 1 == 2").unwrap_err();
    assert!(said.contains("p_test.rego:5:1: data.portcullis_test.test_a does not pass"), "{said}");
    assert!(said.contains("p_test.rego:9:1: data.portcullis_test.test_c does not pass") && !said.contains("test_b"), "{said}");
    assert!(load("helper := 1").unwrap_err().contains("the bundles have no tests"));
    let text = "package a\n\ntest_slow if count([1 | some a in numbers.range(1, 30000); some b in numbers.range(1, 30000); a * b == 0]) == 1\n";
    let slow = Source { file: "a_test.rego".to_owned(), text: text.to_owned(), v0: false, test: true };
    let began = Instant::now();
    let said = suite::require(&[slow], &Value::new_object(), Duration::from_millis(300)).unwrap_err().to_string();
    assert!(said.contains("a_test.rego:3:1: data.a.test_slow fails: the policy took longer than its limit"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(30), "bounded");
}
