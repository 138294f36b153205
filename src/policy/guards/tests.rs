//! Calls that would take seconds or gigabytes, in both engines, and the same calls with what requests usually hold.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::policy::engine::EvaluationError;
use crate::policy::engine::tests::{load, load_both, value};

/// Calls, each with an input that is too much for it. `many` is a list of as many elements as a body of a MiB has.
const COSTLY: &[&str] = &[
    "concat(\",\", [input.s | some _ in input.many])",
    "sprintf(\"%v\", [[input.many | some _ in input.many]])",
    "json.marshal([input.many | some _ in input.many])",
    "yaml.marshal([input.many | some _ in input.many])",
    "count([1 | walk([input.many | some _ in input.many], [_, _])])",
    "object.union({\"a\": [input.many | some _ in input.many]}, {\"a\": 1})",
    "replace(data.text, \"a\", input.s)",
    "regex.replace(data.text, \"a\", input.s)",
    "strings.replace_n({\"a\": \"aaaaaaaaaa\", \"aa\": \"aaaaaaaaaa\", \"aaa\": \"aaaaaaaaaa\", \"aaaa\": \"aaaaaaaaaa\"}, input.s)",
    "trim(input.s, input.t)",
    "strings.any_prefix_match(input.texts, input.texts)",
    "regex.match(input.s, input.t)",
    "regex.match(sprintf(\"(%s)*\", [input.p]), input.t)",
    "glob.match(input.p, [], input.t)",
    "to_number(input.digits)",
    "units.parse(\"1e99999999\")",
    "object.subset(input.many, input.many)",
    "json.filter(input, input.texts)",
    "regex.find_n(\".*b|a\", input.s, -1)",
    "regex.split(\".*b|a\", input.s)",
    "product([2 | some _ in input.many])",
    "json.unmarshal(input.digits)",
    "{\"allowed\": true, \"reasons\": [input.s | some _ in input.many]}",
    "[input.many | some _ in input.many]",
    "yaml.unmarshal(input.digits)",
];

fn large() -> serde_json::Value {
    json!({
        "s": "a".repeat(500_000), "t": "ab".repeat(250_000), "p": "a?".repeat(300), "digits": "9".repeat(500_000),
        "many": vec![1; 60_000], "texts": (0..30_000).map(|n| format!("k{n}")).collect::<Vec<_>>(),
    })
}

fn usual() -> serde_json::Value {
    json!({"s": "a/b", "t": "b", "p": "a*", "digits": "12.5", "many": [1, 2], "texts": ["a/b", "c"]})
}

#[test]
fn what_would_take_seconds_or_gigabytes_is_a_denial_in_both_engines_and_what_is_usual_is_not() {
    let data = json!({"text": "a".repeat(4000)}).to_string();
    for call in COSTLY {
        let rego = format!("package a\n\nr := x if {{ x := {call} }}\n\ns if not r == 1\n");
        let files = [("p.rego", rego.as_str()), ("data.json", data.as_str())];
        let (auto, alone) = load_both(&files, &["a/r", "a/s"]);
        for policy in [auto, alone] {
            let mut engine = policy.unwrap_or_else(|report| panic!("{report}")).engine().unwrap();
            let large = value(&large());
            for entry in 0..2 {
                let began = Instant::now();
                let said = engine.evaluate(entry, large.clone());
                let failed = |why: &String| why.contains("more than it may work through") || why.contains("larger than 16 MiB");
                let failed = matches!(&said, Err(EvaluationError::Error(why)) if failed(why));
                // The second rule only negates the answer, and an answer that is merely large fails as an answer only.
                let compared = entry == 1 && !call.contains('(') && said == Ok(regorus::Value::from(true));
                assert!(failed || compared || said == Err(EvaluationError::Timeout), "{call}: {said:?}");
                // The engines' own limit is 200 ms; a call that was let through may take some tens of them more.
                assert!(began.elapsed() < Duration::from_secs(4), "{call}: {:?}", began.elapsed());
            }
            let said = engine.evaluate(0, value(&usual()));
            let fails = call.contains("1e99999999");
            assert!(fails || matches!(said, Ok(_) | Err(EvaluationError::Undefined)), "{call}: {said:?}");
        }
    }
}

#[test]
fn a_guarded_builtin_says_what_it_says_without_its_guard() {
    for (call, wanted) in [
        ("concat(\"/\", [\"a\", \"b\"])", json!("a/b")),
        ("concat(\"/\", 1)", json!(null)),
        ("sprintf(\"%s-%d\", [\"a\", 1])", json!("a-1")),
        ("[z | y := [\"a\"]; concat(\"/\", y, z)][0]", json!("a")),
        ("[p | walk({\"a\": [1]}, [p, 1])][0]", json!(["a", 0])),
        ("replace(\"aXa\", \"X\", \"-\")", json!("a-a")),
        ("to_number(\"x\")", json!(null)),
        ("to_number(\"1e3\")", json!(1000)),
        ("units.parse(\"10K\")", json!(10000)),
        ("units.parse_bytes(\"1EiB\")", json!(1_152_921_504_606_846_976_u64)),
        ("trim(\"xax\", \"x\")", json!("a")),
        ("regex.replace(\"aab\", \"a+\", \"c\")", json!("cb")),
        ("regex.match(\"[\", \"a\")", json!(null)),
        ("object.union({\"a\": 1}, {\"b\": 2})", json!({"a": 1, "b": 2})),
        ("glob.match(\"a/*\", [\"/\"], \"a/b\")", json!(true)),
    ] {
        let rego = format!("package a\n\nr := x if {{ x := {call} }}\n");
        let mut engine = load(&[("p.rego", &rego)], &["a/r"]).unwrap().engine().unwrap();
        let said = engine.evaluate(0, value(&json!({})));
        let wanted = if wanted.is_null() { Err(EvaluationError::Undefined) } else { Ok(value(&wanted)) };
        assert_eq!(said, wanted, "{call}");
    }
}
