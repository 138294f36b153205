//! The footprint's one promise, on policies written to break it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::policy::engine::EvaluationError;
use crate::policy::engine::tests::{load, load_interpreted, value};

use super::Footprint;

mod maker;

use maker::{Chance, Maker};

/// Bodies of `package a`, entry `a/r`; each reads its input in a way that is easy to miss.
pub(in crate::policy) const TRICKY: &[&str] = &[
    "r := input.a.b",
    "r := input.a[\"b\"].c",
    "r := input[\"a\"][\"b\"]",
    "r := input.a[input.k]",
    "r := input[input.k]",
    "r := input.l[0]",
    "r := [x | x := input.l[_]]",
    "r := {k | input.a[k]}",
    "r if input.a",
    "r if not input.a.b",
    "r if not input.a.b.c == 1\n",
    "default r := 0\nr := 1 if input.a.b.c > 0",
    "default r := {}\nr := input.a if input.k == \"b\"",
    "r := x if { x := input.a }",
    "r := y if { x := input.a; y := x.b }",
    "r := y if { x := input; y := x.a.b }",
    "r := y if { x = input.a; y = x.b.c }",
    "r := y if { [x, z] := [input.a, input.k]; y := [x.b, z] }",
    "r := f(input.a)\nf(x) := x.b",
    "r := f(input)\nf(x) := x.a.b",
    "r := f(input.k)\nf(\"b\") := input.a.b\nf(\"c\") := input.l",
    "r := f(1)\ndefault f(_) := 7\nf(x) := input.a.b if x == input.n",
    "r := object.get(input, \"k\", \"none\")",
    "r := object.get(input, [\"a\", \"b\"], \"none\")",
    "r := object.get(input.a, [\"b\", \"c\"], \"none\")",
    "r := object.get(input.a, input.k, \"none\")",
    "r := object.get(input, [input.k, \"b\"], \"none\")",
    "r := object.get(object.get(input, \"a\", {}), \"b\", 3)",
    "r := object.get(input, \"a\", {}).b",
    "r := object.keys(input.a)",
    "r := count(input)",
    "r := json.marshal(input.a)",
    "r := {p | walk(input.a, [p, _])}",
    "r := [v | walk(input, [[\"a\", \"b\"], v])]",
    "r if { some x in input.l; x == input.n }",
    "r := {k: v | some k, v in input.a}",
    "r if every x in input.l { x != input.n }",
    "r if \"b\" in object.keys(input.a)",
    "r := q\nq := p\np := input.a.b",
    "r := data.a.q\nq := input.a.b",
    "r := data.a.t[input.k]\nt.a := input.n\nt.b := 1",
    "r := s.b\ns.b := input.a.b\ns.c := input.n",
    "r := t[\"x\"]\nt[k] := input.a.b if k := \"x\"",
    "r contains x if some x in input.l",
    "r[k] := v if some k, v in input.a",
    "r := x if { x := q with input.a as {\"b\": 5} }\nq := [input.a.b, input.n]",
    "r := x if { x := q with input.a.b as 5 }\nq := [input.a, input.n]",
    "r := x if { x := q with input as {\"a\": input.l} }\nq := input.a",
    "r := x if { x := f(input.a) with f as g }\nf(_) := 0\ng(x) := [x.b, input.n]",
    "r := x if { x := q with data.a.p as input.a.b }\np := 1\nq := p",
    "r := 1 if input.a.b\nelse := 2 if input.n\nelse := 3 if input.l",
    "r := input.a.b == input.a.c",
    "r if input.a.b != input.n",
    "r := sprintf(\"%v %v\", [input.a, input.k])",
    "r := [y | some i; x := input.l[i]; y := {\"x\": x, \"k\": input.a[i]}]",
    "r := input.a == {\"b\": {\"c\": 1}}",
    "r := {input.k: input.n}",
    "r := {\"x\": {\"y\": [input.n, {input.k}]}}",
    "r := union({{input.k}, {input.n}})",
    "r := 0 - input.n",
    "import input.a as q\nr := q.b",
    "import input.a\nr := a.b.c",
    "import input as i\nr := i.a.b",
    "import data.a.helper as h\nr := h(2)\nhelper(x) := [x, input.n]",
    "r := x if { x := [q | q := input.a.b][0] }\nq := 9",
    "r := [q, [q | q := 1]]\nq := input.a.b",
    "r := q if { some x in [1]; x == 1 }\nq := input.l",
    "r := [x, y] if { {\"b\": x, \"c\": y} = input.a }",
    "r if { input.a = {\"b\": {\"c\": x}}; x == input.n }",
    "r if { [1, x, _] = input.l; x == 2 }",
];

pub(in crate::policy) fn inputs() -> Vec<Value> {
    let a = [
        json!({"b": {"c": 1}}),
        json!({"b": 2, "c": 2}),
        json!({"b": "b", "d": [1]}),
        json!({"c": {"c": 1}, "b": null}),
        json!("text"),
        json!([{"b": 1}, 2]),
        json!(null),
        json!(false),
        json!({}),
        json!({"b": false}),
    ];
    let others = [
        json!({"k": "b", "n": 1, "l": [1, 2, 3], "z": "noise"}),
        json!({"k": "a", "n": 2, "l": []}),
        json!({"k": "q", "l": "x", "z": {"a": 1}}),
        json!({"n": "text", "l": [{"b": 1}]}),
        json!({}),
    ];
    let mut all: Vec<Value> = others.to_vec();
    for a in &a {
        for other in &others {
            let mut input = other.clone();
            input.as_object_mut().unwrap().insert("a".to_owned(), a.clone());
            all.push(input);
        }
    }
    all
}

/// An input cut down to what a footprint names.
fn projection(input: &Value, footprint: &Footprint) -> Value {
    let mut kept = Value::Object(Map::new());
    for path in footprint.paths.keys() {
        let found = path.iter().try_fold(input, |at, part| at.as_object()?.get(part));
        let Some(found) = found else { continue };
        let mut at = &mut kept;
        for part in path {
            at = at.as_object_mut().unwrap().entry(part.clone()).or_insert_with(|| Value::Object(Map::new()));
        }
        *at = found.clone();
    }
    kept
}

#[test]
fn an_input_cut_down_to_its_footprint_gets_the_same_verdict() {
    let inputs = inputs();
    assert!(TRICKY.len() >= 40);
    for body in TRICKY {
        let rego = format!("package a\n\n{body}\n");
        let policy = load(&[("p.rego", &rego)], &["a/r"]).unwrap_or_else(|report| panic!("{body}\n{report}"));
        let mut engine = policy.engine().unwrap();
        let mut answers = BTreeSet::new();
        for input in &inputs {
            let cut = projection(input, policy.footprint(0));
            let full = engine.evaluate(0, value(input));
            assert_eq!(full, engine.evaluate(0, value(&cut)), "{body}\n{input}\n{cut}");
            answers.insert(format!("{full:?}"));
        }
        assert!(answers.len() > 1, "no input changes the answer of: {body}");
    }
}

#[test]
fn dropping_any_path_of_a_footprint_would_be_noticed() {
    let policy = load(&[("p.rego", "package a\n\nr := [input.a.b, object.get(input, \"k\", 0)]\n")], &["a/r"]).unwrap();
    let mut engine = policy.engine().unwrap();
    let input = json!({"a": {"b": 1}, "k": 2});
    for path in policy.footprint(0).paths.keys() {
        let mut less = policy.footprint(0).clone();
        less.paths.remove(path);
        assert_ne!(engine.evaluate(0, value(&input)), engine.evaluate(0, value(&projection(&input, &less))));
    }
    assert_eq!(engine.evaluate(0, value(&json!({}))), Err(EvaluationError::Undefined));
}

#[test]
fn footprints_are_narrow_where_the_policy_is() {
    let rego = "package a\n\nimport input.request as asked\n\nr := object.get(input, [\"peer\", \"claims\", \"sub\"], \"\") if {\n\tasked.headers[\"x-a\"][0] == \"1\"\n\tasked.method in data.methods\n}\n\nunused := input.secret\n\ntest_r if r with input as {}\n";
    let policy = load(&[("p.rego", rego)], &["a/r"]).unwrap();
    let footprint = policy.footprint(0);
    let paths: Vec<String> = footprint.paths.keys().map(|path| path.join(".")).collect();
    assert_eq!(paths, ["peer.claims.sub", "request.headers.x-a", "request.method"]);
    assert!(footprint.reads(&["request"]) && footprint.reads(&["request", "headers", "x-a", "0"]) && footprint.reads(&[]));
    assert!(!footprint.reads(&["request", "body"]) && !footprint.reads(&["secret"]) && !footprint.whole && !footprint.clock);
    let place = &footprint.paths[&vec!["request".to_owned(), "method".to_owned()]];
    assert_eq!((place.line, place.rule.as_str()), (7, "data.a.r"));
    assert!(footprint.builtins.contains_key("object.get"));
    let clock = load(&[("p.rego", "package a\n\nr := f(1)\nf(x) := time.now_ns() > x\n")], &["a/r"]).unwrap();
    assert!(clock.footprint(0).clock && clock.footprint(0).paths.is_empty());
}

/// How a generated policy fared.
enum Tried {
    /// It was refused at load, with these words.
    Refused(String),
    Same {
        answers: usize,
        narrow: bool,
    },
    Different(String),
}

/// Judges inputs whole and cut down, errors included.
fn tried([a, b]: &[String; 2], inputs: &[Value], less: Option<usize>) -> Tried {
    let data = r#"{"plain": {"a": "b", "b": [1, 2], "k": {"b": 1}, "c": "c"}}"#;
    let policy = match load_interpreted(&[("a.rego", a), ("b.rego", b), ("data.json", data)], &["a/r"]) {
        Ok(policy) => policy,
        Err(report) => return Tried::Refused(report.to_string()),
    };
    let mut footprint = policy.footprint(0).clone();
    if let Some(path) = less.and_then(|less| footprint.paths.keys().nth(less % footprint.paths.len().max(1)).cloned()) {
        footprint.paths.remove(&path);
    }
    let mut engine = policy.engine().unwrap();
    let mut answers = BTreeSet::new();
    for input in inputs {
        let cut = projection(input, &footprint);
        let (full, less) = (engine.evaluate(0, value(input)), engine.evaluate(0, value(&cut)));
        if [&full, &less].contains(&&Err(EvaluationError::Timeout)) {
            continue;
        }
        if full != less {
            return Tried::Different(format!("{a}\n{b}\n{input}\n{cut}\nwhole: {full:?}\ncut: {less:?}"));
        }
        answers.insert(format!("{full:?}"));
    }
    Tried::Same { answers: answers.len(), narrow: !footprint.whole }
}

/// A report's first finding without its place and its names.
fn first_words(report: &str) -> String {
    let said = report.lines().next().unwrap_or_default().splitn(4, ':').nth(3).unwrap_or_default();
    said.split('`').step_by(2).collect::<Vec<_>>().join("…").split(" (in").next().unwrap_or_default().to_owned()
}

fn cases() -> usize {
    std::env::var("PORTCULLIS_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

fn made(chance: &mut Chance) -> ([String; 2], Vec<Value>) {
    let policy = Maker::new(chance).policy();
    let inputs = (0..12).map(|_| serde_json::from_str(&Maker::new(chance).input()).unwrap()).collect();
    (policy, inputs)
}

#[test]
fn policies_nobody_wrote_read_nothing_beside_their_footprint() {
    let mut chance = Chance(0x5eed_0001);
    let (mut telling, mut narrow, mut refusals) = (0, 0, std::collections::BTreeMap::<String, usize>::new());
    for _ in 0..cases() {
        let (policy, inputs) = made(&mut chance);
        match tried(&policy, &inputs, None) {
            Tried::Refused(report) => *refusals.entry(first_words(&report)).or_default() += 1,
            Tried::Different(said) => panic!("{said}"),
            Tried::Same { answers, narrow: kept } => {
                telling += usize::from(answers > 1);
                narrow += usize::from(answers > 1 && kept);
            }
        }
    }
    let mut refusals: Vec<_> = refusals.into_iter().map(|(said, count)| (count, said)).collect();
    refusals.sort();
    refusals.reverse();
    refusals.truncate(12);
    assert!(telling > cases() / 5 && narrow > cases() / 100, "{telling} told, {narrow} narrow of {}; {refusals:#?}", cases());
}

#[test]
fn a_footprint_that_lacks_a_path_is_found_out() {
    let mut chance = Chance(0x5eed_0002);
    let found = (0..cases()).filter(|less| {
        let (policy, inputs) = made(&mut chance);
        matches!(tried(&policy, &inputs, Some(*less)), Tried::Different(_))
    });
    assert!(found.take(5).count() == 5);
}
