use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::decision::{Reason, Reuse};
use crate::exchange::Registry;
use crate::judge::{Bench, Judge, Judgement};
use crate::policy::engine::tests::{config, lying};
use crate::policy::{Entry, Policy};
use crate::units::Size;

const POLICY: &str = r#"
    package a
    import rego.v1
    default r := {"allowed": false, "reasons": ["no rule"]}
    r := {"allowed": true, "headers": {"x-seen": sprintf("%v", [input.request.body.n])}} if {
        input.request.method in {"GET", "HEAD"}
        not input.request.headers["x-deny"]
        known
    }
    r := {"allowed": false, "reasons": [input.peer.spiffe_id]} if input.request.method == "DELETE"
    known if input.request.body.n >= 0
    known if startswith(input.peer.spiffe_id, "spiffe://a/")
"#;

fn judge(policy: &str, reuse: Size) -> Judge {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("policy.rego"), policy).unwrap();
    let config = crate::policy::Config { reuse, ..config(home.path().to_owned()) };
    let policy = Policy::load(&config, &[Entry::new("a/r", None)]).unwrap_or_else(|report| panic!("{report}"));
    Bench::new(1, Arc::new(Registry::new(1))).candidates(&Arc::new(policy), &[], 1).unwrap().remove(0)
}

fn ask(judge: &mut Judge, input: &str) -> Judgement {
    judge.answer(0, Value::from_json_str(input).unwrap(), std::time::Instant::now())
}

/// Inputs that are often equal in what the policy reads, and differ in all else.
fn inputs() -> impl Strategy<Value = Vec<String>> {
    let method = prop::sample::select(vec![r#""GET""#, r#""HEAD""#, r#""DELETE""#, "null", "7"]);
    let headers = prop::sample::select(vec!["{}", r#"{"x-deny": null}"#, r#"{"x-deny": ["1"]}"#, r#"{"x-deny": false}"#, "[]"]);
    let body =
        prop::sample::select(vec!["null", "{}", r#"{"n": 1}"#, r#"{"n": 1.0}"#, r#"{"n": -1}"#, r#"{"n": "1"}"#, r#"{"n": null}"#]);
    let peer = prop::sample::select(vec![r#""spiffe://a/x""#, r#""spiffe://b/x""#, "null"]);
    let input =
        (method, headers, body, peer, any::<u64>(), any::<bool>()).prop_map(|(method, headers, body, peer, other, absent)| {
            let body = if absent { String::new() } else { format!(r#""body": {body},"#) };
            format!(
                r#"{{"request": {{"method": {method}, {body} "headers": {headers}, "path": "/{other}"}},
                "peer": {{"spiffe_id": {peer}}}, "exchange": {{"bytes_in": {other}}}}}"#
            )
        });
    prop::collection::vec(input, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_verdict_is_the_same_whether_it_was_given_before_or_not(inputs in inputs()) {
        let (mut with, mut without) = (judge(POLICY, Size::mib(1)), judge(POLICY, Size(0)));
        for input in &inputs {
            let (given, judged) = (ask(&mut with, input), ask(&mut without, input));
            prop_assert_eq!(judged.reuse, Reuse::Unfit);
            prop_assert_eq!(format!("{:?}", given.verdict), format!("{:?}", judged.verdict), "{}", input);
            prop_assert_eq!(&given.answer, &judged.answer, "{}", input);
            prop_assert_eq!(&given.input, &judged.input, "the record tells of this request");
        }
    }
}

#[test]
fn only_what_the_policy_reads_makes_another_question() {
    let mut judge = judge(POLICY, Size::mib(1));
    let mut reuse = |input: &str| ask(&mut judge, input).reuse;
    let request = |rest: &str, other: u32| {
        format!(
            r#"{{"request": {{"method": "GET", "path": "/{other}", {rest}}}, "peer": {{"spiffe_id": "spiffe://a/x", "proof": {other}}}}}"#
        )
    };
    let asked = [
        r#""headers": {}"#,
        r#""headers": {"x-deny": null}"#,
        r#""headers": {}, "body": {"n": 1}"#,
        r#""headers": {}, "body": {"n": 1.0}"#,
    ];
    for rest in asked {
        assert_eq!(reuse(&request(rest, 1)), Reuse::Judged, "{rest}");
        assert_eq!(reuse(&request(rest, 2)), Reuse::Reused, "{rest}");
    }
}

#[test]
fn a_policy_that_asks_the_clock_or_reads_what_is_never_equal_is_judged_each_time() {
    let policies = [
        ("r if time.now_ns() > 0", "time.now_ns"),
        ("r if uuid.rfc4122(\"x\") != input.request.path", "uuid.rfc4122"),
        ("r if input.attributes.request.http.id != \"\"", "input.attributes.request.http.id"),
        ("r if count(input) > 0", "input.attributes.request.http.id"),
    ];
    for (rule, why) in policies {
        let mut judge = judge(&format!("package a\nimport rego.v1\ndefault r := false\n{rule}"), Size::mib(1));
        let input = r#"{"request": {"path": "/"}, "attributes": {"request": {"http": {"id": "1"}}}}"#;
        assert_eq!([ask(&mut judge, input).reuse, ask(&mut judge, input).reuse], [Reuse::Unfit; 2], "{rule}");
        let said = never(judge.generation.policy.footprint(0)).unwrap();
        assert!(said.contains(why) && said.contains("policy.rego:4"), "{said}");
    }
}

#[test]
fn what_went_wrong_is_judged_again() {
    let conflict = "package a\nimport rego.v1\nr := true if input.request.path\nr := false if input.request.method";
    let mut judge = judge(conflict, Size::mib(1));
    let both = r#"{"request": {"path": "/", "method": "GET"}}"#;
    for _ in 0..2 {
        let judgement = ask(&mut judge, both);
        assert_eq!((judgement.verdict.reason, judgement.reuse), (Some(Reason::PolicyError), Reuse::Judged));
    }
    let neither = r#"{"request": {}}"#;
    assert_eq!(ask(&mut judge, neither).verdict.reason, Some(Reason::Undefined));
    assert_eq!(ask(&mut judge, neither).reuse, Reuse::Reused, "undefined is an answer");
}

#[test]
fn what_the_vm_said_before_the_engines_disagreed_is_not_said_again() {
    let (policy, engine) = lying(2);
    let mut judge = Bench::new(1, Arc::new(Registry::new(1))).candidates(&Arc::new(policy), &[], 1).unwrap().remove(0);
    judge.engine = engine;
    let kept = r#"{"x": 5}"#;
    assert!(matches!(judge.given.find(0, &Value::from_json_str(kept).unwrap()), Found::Nothing));
    judge.given.keep(&Verdict { allowed: true, ..Verdict::default() }, Some(&Value::from(true)), Kind::Vm);
    let reused = ask(&mut judge, kept);
    assert_eq!((reused.reuse, reused.verdict.allowed), (Reuse::Reused, true));
    assert!(ask(&mut judge, r#"{"x": 2}"#).disagreed);
    let again = ask(&mut judge, kept);
    assert_eq!((again.engine, again.verdict.allowed, again.reuse), (Kind::Interpreter, false, Reuse::Judged));
}

#[test]
fn the_memory_is_bounded_and_what_is_used_stays() {
    let footprint = Footprint {
        paths: [(vec!["n".to_owned()], Footprint::everything().paths[&Vec::new()].clone())].into(),
        ..Footprint::default()
    };
    let most = 64 * 1024;
    let mut given = Given::new(std::iter::once(&footprint), most);
    let input = |n: u64| Value::from_json_str(&format!(r#"{{"n": {n}}}"#)).unwrap();
    let mut longest = 0;
    for n in 0..10_000 {
        assert!(matches!(given.find(0, &input(n)), Found::Nothing));
        given.keep(&Verdict::deny(Reason::Policy), Some(&input(n)), Kind::Vm);
        assert!(n == 0 || matches!(given.find(0, &input(0)), Found::Kept(_)), "used each time, gone after {n}");
        assert!(given.held <= most && given.order.len() == given.map.len());
        longest = longest.max(given.map.len());
    }
    assert!((64..=128).contains(&longest), "{longest}");
    let distinct: BTreeSet<_> = given.order.iter().collect();
    assert_eq!((distinct.len(), given.held), (given.map.len(), given.map.values().map(|kept| kept.bytes).sum()));
    let large = Value::from("x".repeat(8 * 1024));
    assert!(matches!(given.find(0, &input(77)), Found::Nothing));
    given.keep(&Verdict::deny(Reason::Policy), Some(&large), Kind::Vm);
    assert!(matches!(given.find(0, &input(77)), Found::Nothing), "one may not drive out all others");
}

#[test]
fn where_questions_seldom_repeat_looking_them_up_is_given_up_for_ever_longer() {
    let footprint = Footprint {
        paths: [(vec!["n".to_owned()], Footprint::everything().paths[&Vec::new()].clone())].into(),
        ..Footprint::default()
    };
    let mut given = Given::new(std::iter::once(&footprint), 1 << 20);
    let mut looked = |question: &mut dyn FnMut(u32) -> u32, times: u32| {
        let ask = |n: u32| {
            let found = given.find(0, &Value::from_json_str(&format!(r#"{{"n": {n}}}"#)).unwrap());
            if matches!(found, Found::Nothing) {
                given.keep(&Verdict::deny(Reason::Policy), None, Kind::Vm);
                return true;
            }
            matches!(found, Found::Kept(_))
        };
        (0..times).map(question).map(ask).filter(|looked| *looked).count()
    };
    let mut next = 1000;
    let mut never_again = |_| {
        next += 1;
        next
    };
    let many = looked(&mut never_again, 400_000);
    assert!((4 * 1024..12 * 1024).contains(&many), "{many} of 400,000 were looked up");
    // It is tried again in the end, and then it pays.
    let mut often = |n| n % 10;
    let rest = 2 * LONGEST_REST;
    looked(&mut often, rest);
    assert_eq!(looked(&mut often, 10_000), 10_000);
}
