//! The VM against the interpreter: where it is refused it has to be, and where it judges it says the same.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use regorus::Value;
use serde_json::json;

use super::*;
use crate::policy::engine::tests::{load, load_both, value};
use crate::policy::footprint::tests::{TRICKY, inputs};
use crate::policy::interpreter::bare;
use crate::policy::{Chosen, EvaluationError, Kind};

const DATA: &str = r#"{"l": ["a", "b"], "n": {"x": 1, "y": 2}, "roles": {"ops": ["GET", "PUT"], "dev": []}, "mixed": {"a": [1], "b": "b"},
    "numbers": {"7": "seven"}, "empty": [], "names": {"one": "ops", "two": "dev"}}"#;

fn timer() -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit: Duration::from_secs(1), check_interval: NonZeroU32::new(64).unwrap() }
}

/// What both engines say when nobody asks whether the VM is fit; `None` where the VM does not even compile.
fn unasked(rego: &str, input: &serde_json::Value) -> Option<(Said, Result<Value, String>)> {
    let mut engine = bare();
    engine.add_policy("p.rego".to_owned(), rego.to_owned()).unwrap();
    engine.add_data(Value::from_json_str(DATA).unwrap()).unwrap();
    let fit = Fit { checks: Vec::new(), undefined_is_certain: true, assignments: BTreeMap::new() };
    let source = Source { file: "p.rego".to_owned(), text: rego.to_owned(), v0: false, test: false };
    let mut machine = Machine::new(&[source], engine.get_data(), "data.a.r", &fit, timer()).ok()?;
    let said = machine.ask(&value(input));
    engine.set_input(value(input));
    Some((said, engine.eval_rule("data.a.r".to_owned()).map_err(|error| error.to_string())))
}

fn chosen(rego: &str) -> Chosen {
    load(&[("p.rego", rego), ("data.json", DATA)], &["a/r"]).unwrap_or_else(|report| panic!("{rego}\n{report}")).chosen(0)
}

/// A policy, an input on which the VM would say something else, and part of the reason it is refused.
fn divergences() -> Vec<(&'static str, serde_json::Value, &'static str)> {
    vec![
        ("r if not q == \"bad\"\nq := x if some x in input.l", json!({"l": ["good", "bad"]}), "the last"),
        ("r := x if some x in input.l", json!({"l": ["a", "b"]}), "the last"),
        ("r if not q\nq := 1 if input.a\nq := 2 if input.b", json!({"a": 1, "b": 1}), "two values"),
        ("r if not f(1)\nf(x) := x if input.a\nf(x) := 2 if input.b", json!({"a": 1, "b": 1}), "two values"),
        ("r := {k: v | some k in input.l; some v in input.l}", json!({"l": ["a", "b"]}), "object comprehension"),
        ("r[k] := v if { some k in data.l; some v in input.l }", json!({"l": ["a", "b"]}), "more than one name"),
        ("r := [x.a | some x in input.l]", json!({"l": [{"a": 1}, {}]}), "may be undefined"),
        ("r if not q\nq if { some x in data.mixed; some y in x; y == 5 }", json!({}), "collection"),
        ("r if not q\nq if count(input.l | {1}) > 0", json!({"l": [1]}), "no set"),
        (
            "r if { count([x | some x in data.empty; x == input.a]) == 0; not input.b == 1 }",
            json!({"a": 1, "b": 1}),
            "outside of a comprehension",
        ),
        ("r contains x.a if some x in input.l", json!({"l": [{}, {"a": 1}]}), "may be undefined"),
        ("r if { some x in data.l; count([1 | x == \"b\"]) == 0 }", json!({}), "inside of a loop"),
        ("r := f(1, 2, 3, 4, 5, 6, 7, 8, 9)\nf(a, b, c, d, e, g, h, i, j) := j", json!({}), "8 arguments"),
        ("r := 1 if { some x in input.l; x == 5 } else := 2", json!({"l": [1]}), "before an `else`"),
        ("r := input.a if input.b\nelse := 2", json!({"b": 1}), "undefined"),
    ]
}

#[test]
fn each_condition_keeps_the_vm_from_saying_something_else() {
    for (rules, input, why) in divergences() {
        let rego = format!("package a\n\n{rules}\n");
        match chosen(&rego) {
            Chosen::Vm => panic!("the VM may judge\n{rego}"),
            Chosen::Interpreter { why: said } => assert!(said.contains(why) && said.contains("p.rego:"), "{rego}{said}"),
        }
        if let Some((vm, interpreter)) = unasked(&rego, &input) {
            let same = match &vm {
                Said::Value(value) => interpreter.as_ref() == Ok(value),
                Said::Undefined => interpreter == Ok(Value::Undefined),
                Said::Timeout | Said::Unsure => false,
            };
            assert!(!same, "the condition is not needed for\n{rego}{vm:?}");
        }
    }
}

#[test]
fn an_input_of_another_type_than_the_policy_needs_goes_to_the_interpreter() {
    for (rules, input) in [
        ("r if not q\nq if { some x in input.l; x == 1 }", json!({"l": "text"})),
        ("r := data.numbers[input.k]", json!({"k": 7})),
        ("r if not q\nq if input.n + 1 > 5", json!({"n": "text"})),
    ] {
        let rego = format!("package a\n\n{rules}\n");
        assert_eq!(chosen(&rego), Chosen::Vm, "{rego}");
        let files = [("p.rego", rego.as_str()), ("data.json", DATA)];
        assert_eq!(compared(&files, "a/r", std::slice::from_ref(&input)), Some(0), "{rego}");
        assert!(compared(&files, "a/r", &[json!({"l": [1], "k": "7", "n": 1})]) == Some(1), "{rego}");
        let (vm, interpreter) = unasked(&rego, &input).unwrap();
        assert!(!matches!(vm, Said::Value(value) if interpreter == Ok(value.clone())), "the check is not needed for\n{rego}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    for (rules, why) in [
        ("r := time.now_ns()", "the time"),
        ("r if { x := 1; print(x) }", "different ways"),
        ("r := [p | walk(input.a, [p, _])]", ""),
        ("r := x if { x := q with input.a as 1 }\nq := input.a", "`with`"),
        ("r if { some i; input.l[i] == 1 }", "without `in`"),
        ("r if { x = input.a; x == 1 }", "`=`"),
        ("r if { [x, _] := input.l; x == 1 }", "pattern"),
        ("r if not input.l[_] == 1", "iterates"),
        ("r if every x in input.l { some y in [1]; y == x }", "inside of `every`"),
        ("r if -input.n == 1", ""),
        ("r := input.n / 2", "division"),
        ("r if count({w | w := input.a; w == 1}) == 0", "outside of its loop"),
        ("r := split(input.s, \"/\")[0]", "picked from an expression"),
        ("r := data.a.q\nq.b := 1\nq.c := 2", ""),
        ("r := data.a[input.k]\nq := 1", ""),
        ("default f(_) := 1\nr := f(input.a)", ""),
        ("import input.a as q\nr := q.b if q := 1", ""),
    ] {
        let rego = format!("package a\n\n{rules}\n");
        let Ok(policy) = load(&[("p.rego", &rego), ("data.json", DATA)], &["a/r"]) else { continue };
        match policy.chosen(0) {
            Chosen::Vm => panic!("the VM may judge\n{rego}"),
            Chosen::Interpreter { why: said } => assert!(said.contains(why), "{rego}{said}"),
        }
    }
}

/// What policies are made of; most of it the VM may judge.
const IDIOMS: &[&str] = &[
    "default r := false\nr if input.a.b == \"b\"",
    "default r := {\"allowed\": false}\nr := {\"allowed\": true} if input.n == 1",
    "r := {\"allowed\": ok, \"reasons\": reasons}\ndefault ok := false\nok if count(reasons) == 0\nreasons contains \"n\" if not input.n == 1\nreasons contains \"k\" if not input.k in {\"a\", \"b\"}",
    "r := {\"allowed\": false, \"reasons\": sort([x | some x in reasons])} if count(reasons) > 0\nr := {\"allowed\": true} if count(reasons) == 0\nreasons contains x if some x in input.l\nreasons contains \"k\" if input.k == \"b\"",
    "r := 1 if input.n == 1\nr := 2 if input.k == \"b\"",
    "default r := 3\nr := 1 if input.n == 1\nr := 2 if input.k == \"b\"",
    "r := 1 if input.n == 1\nelse := 2 if input.k == \"b\"\nelse := 3",
    "r := \"x\" if input.n == 1\nelse if input.k == \"b\"",
    "r if { some x in input.l; x == input.n }",
    "r if { some k, v in input.a; k == \"b\"; v == input.k }",
    "r if { some role in data.roles[input.k]; role == \"GET\" }",
    "r if { some role, methods in data.roles; some method in methods; method == input.m; role == input.k }",
    "r if { some name in data.names; some method in data.roles[name]; method == input.m }",
    "r if input.l[_] == input.n",
    "r if { x := input.l[_]; y := input.l[_]; x == y; x == input.n }",
    "r if startswith(input.k, \"a\")",
    "r if not startswith(input.k, \"a\")",
    "r if not startswith(input.l, \"a\")",
    "r if glob.match(input.k, [\"/\"], input.m)",
    "r if not glob.match(\"*\", [\"/\"], input.k)",
    "r if net.cidr_contains(\"10.0.0.0/8\", input.k)",
    "r if not net.cidr_contains(input.k, \"10.1.2.3\")",
    "r if { some c in [\"10.0.0.0/8\", \"fc00::/7\"]; net.cidr_contains(c, input.k) }",
    "r if regex.match(\"^[a-z]+$\", input.k)",
    "r if not regex.match(input.k, \"b\")",
    "r if every x in input.l { x > 0 }",
    "r if not q\nq if every x in input.l { x > 0 }",
    "r if every i, x in input.l { data.l[i] == x }",
    "r := f(input.n)\nf(x) if x > 1\nf(x) if x < 1",
    "r if not f(input.n)\nf(x) if x > 1\nf(x) if x == 0",
    "r := f(input.k, input.l)\nf(k, l) := \"in\" if k in l\nelse := \"out\"",
    "r := object.get(input, [\"a\", \"b\"], \"none\")",
    "r := object.union({\"a\": 1}, input.a)",
    "r := count({x | some x in input.l; x > 1})",
    "r := [x | some x in input.l; not x == 1]",
    "r := {x | x := input.l[_]; x != input.n}",
    "r := [[x, y] | some x in input.l; some y in input.l; x != y]",
    "r := count(input.l) + 1",
    "r if input.n - 1 < 1",
    "r if not input.n * 2 == 4",
    "r := concat(\"/\", [\"a\", input.k])",
    "r := sprintf(\"%v-%v\", [input.k, input.n])",
    "reason contains sprintf(\"%v\", [input.k]) if input.n == 1\nr := reason",
    "r := input.l[0]",
    "r := input.a.b.c.d.e",
    "r := data.n[input.k]",
    "import input.a as asked\nr := asked.b",
    "import data.roles\nr := roles[input.k]",
    "r if input.k in data.l",
    "r if not input.k in data.l",
    "r := (input.k in input.q) == false",
    "r if { x := input.a; x.b == \"b\" }",
    "r := {\"x\": input.a.b, \"y\": [input.k, {\"z\": input.n}]}",
    "r := {input.k, input.n}",
    "r if { input.k; not input.n }",
    "r if input.a == {\"b\": {\"c\": 1}}",
    "r if { some x in split(input.k, \"/\"); x == \"b\" }",
    "r := lower(trim(input.k, \" \"))",
    "r if { not q; not p }\nq if input.k == \"b\"\np if some x in data.l\n",
    "r if { count([x | some x in data.l]) == 2; input.n == 1 }",
    "r if { input.m == \"GET\"\n input.n <= 1\n not input.z }",
    "default q := \"high\"\nq := input.k\nr if q == \"high\"",
    "r := to_number(input.k)",
    "r if semver.is_valid(input.k)",
    "r := json.marshal(input.a)",
    "r if { x := input.a.c; not x.b == 1 }",
    "r if { x := data.n[input.k]; y := x; not y == 2 }",
    "r if { some z in input.l; x := z.b; not x == 2 }",
    "r if { _ := input.a.b; not input.n == 1 }",
    "r := y if { x := {\"b\": input.a.b}; y := x.b }",
];

fn more_inputs() -> Vec<serde_json::Value> {
    let mut all = inputs();
    for (k, m) in [
        ("a", "GET"),
        ("b/c", "PUT"),
        ("10.1.2.3", "b/c"),
        ("10.0.0.0/8", "x"),
        ("one", "*"),
        ("ops", "GET"),
        ("fd00::1", ""),
        ("[", "\0"),
    ] {
        all.push(json!({"k": k, "m": m, "n": 0, "l": [1, "b", {}], "a": {"b": "b"}}));
        all.push(json!({"k": k, "m": m, "n": 1, "l": {"x": 1}, "q": [k]}));
    }
    all.push(json!({"k": 7, "m": [], "n": 1e300, "l": "text", "a": []}));
    all.push(json!({"k": null, "n": null, "l": null, "a": null}));
    all
}

/// Compares both engines on each input, and says how many inputs the VM judged.
fn compared(files: &[(&str, &str)], entry: &str, inputs: &[serde_json::Value]) -> Option<usize> {
    let (policy, interpreted) = load_both(files, &[entry]);
    let mut policy = policy.ok()?;
    policy.judge_twice_every(NonZeroU32::MAX);
    let mut engine = policy.engine().unwrap();
    let mut alone = interpreted.unwrap().engine().unwrap();
    let mut judged = 0;
    for input in inputs {
        let said = engine.ask(0, value(input));
        let answer = alone.evaluate(0, value(input));
        // On a busy machine the interpreter alone may run out of time.
        if said.by == Kind::Interpreter && [&said.answer, &answer].contains(&&Err(EvaluationError::Timeout)) {
            continue;
        }
        assert_eq!(said.answer, answer, "{files:?}\n{input}\nby {:?}", said.by);
        judged += usize::from(said.by == Kind::Vm);
    }
    Some(judged)
}

#[test]
fn where_the_vm_judges_it_says_what_the_interpreter_says() {
    let inputs = more_inputs();
    let mut by_vm = 0;
    for rules in IDIOMS.iter().chain(TRICKY) {
        let rego = format!("package a\n\n{rules}\n");
        by_vm += usize::from(compared(&[("p.rego", &rego), ("data.json", DATA)], "a/r", &inputs).unwrap_or(0) > 0);
    }
    assert!(by_vm >= 60, "the VM judged only {by_vm} policies");
}

#[test]
fn the_idioms_are_the_vms() {
    let refused: Vec<String> = IDIOMS
        .iter()
        .filter_map(|rules| match chosen(&format!("package a\n\n{rules}\n")) {
            Chosen::Vm => None,
            Chosen::Interpreter { why } => Some(format!("{rules}\n    {why}")),
        })
        .collect();
    assert!(refused.len() <= 3, "{}", refused.join("\n"));
}

mod generated;

#[test]
fn a_panic_and_a_time_limit_leave_a_vm_that_judges_on() {
    let rego = "package a\n\ndefault r := false\nr if strings.count(input.x, input.y) > 0\nr if { some a in input.l; some b in input.l; some c in input.l; a == b; b == c; c == 7 }\n";
    let mut engine = load(&[("p.rego", rego)], &["a/r"]).unwrap().engine().unwrap();
    let said = engine.ask(0, value(&json!({"x": "abc", "y": ""})));
    assert!(matches!(said.answer, Err(EvaluationError::Panic(_))), "{said:?}");
    let slow = engine.ask(0, value(&json!({"l": vec![1; 3000]})));
    assert_eq!((slow.answer, slow.by), (Err(EvaluationError::Timeout), Kind::Vm));
    let after = engine.ask(0, value(&json!({"x": "abc", "y": "b"})));
    assert_eq!((after.answer, after.by), (Ok(Value::from(true)), Kind::Vm));
}

#[test]
fn a_policy_longer_than_the_vms_usual_fuel_is_judged() {
    let rego = "package a\n\nr := count([x | some x in input.l; x > 1; x < 9])\n";
    let mut engine = load(&[("p.rego", rego)], &["a/r"]).unwrap().engine().unwrap();
    let said = engine.ask(0, value(&json!({"l": (0..20_000).map(|n| n % 10).collect::<Vec<_>>()})));
    assert_eq!((said.answer, said.by), (Ok(Value::from(14_000u64)), Kind::Vm));
}
