//! Compiled patterns say what regorus says, on arguments that are right and on those that are not.

use proptest::prelude::*;
use regorus::Value;
use regorus::unstable::BUILTINS;

use super::{contains, glob, matches};

/// What regorus' own builtin says; `None` for undefined and errors.
fn own(name: &str, arguments: &[Value]) -> Option<Value> {
    let mut engine = regorus::Engine::new();
    engine.set_strict_builtin_errors(false);
    let names: Vec<String> = (0..arguments.len()).map(|place| format!("input.x{place}")).collect();
    engine.add_policy("p.rego".to_owned(), format!("package a\nr := {name}({})\n", names.join(", "))).unwrap();
    let mut input = Value::new_object();
    for (place, argument) in arguments.iter().enumerate() {
        input.as_object_mut().unwrap().insert(Value::from(format!("x{place}")), argument.clone());
    }
    engine.set_input(input);
    assert!(BUILTINS.contains_key(name));
    engine.eval_rule("data.a.r".to_owned()).ok().filter(|value| *value != Value::Undefined)
}

/// Twice, so that what was kept is asked as well.
fn same(name: &str, said: impl Fn(&[Value]) -> Option<bool>, arguments: &[Value]) {
    for _ in 0..2 {
        if let Some(said) = said(arguments) {
            assert_eq!(own(name, arguments), Some(Value::from(said)), "{name} {arguments:?}");
        }
    }
}

fn text() -> impl Strategy<Value = Value> {
    prop_oneof!["[a-c/.:*?]{0,8}", "[\\PC]{0,6}"].prop_map(|text| Value::from(text.as_str()))
}

fn delimiters() -> impl Strategy<Value = Value> {
    let some = prop::collection::vec(prop::sample::select(vec!["/", ".", ":", "-", "ab", ""]), 0..4)
        .prop_map(|texts| Value::from(texts.into_iter().map(Value::from).collect::<Vec<_>>()));
    prop_oneof![4 => some, 1 => Just(Value::Null), 1 => Just(Value::from("/"))]
}

proptest! {
    #[test]
    fn globs(pattern in prop_oneof!["[a-c/.:*?\\[\\]{},!\\\\-]{0,8}", "[a-c/]{1,3}(\\*|\\*\\*)[a-c/]{0,3}"], delimiters in delimiters(), text in text()) {
        same("glob.match", glob, &[Value::from(pattern.as_str()), delimiters, text]);
    }

    #[test]
    fn regexes(pattern in "[a-c.*+?^$()|\\[\\]\\\\dw-]{0,8}", text in text()) {
        same("regex.match", matches, &[Value::from(pattern.as_str()), text]);
    }

    #[test]
    fn networks(
        network in "(10\\.[0-9]{1,3}\\.0\\.0/[0-9]{1,2}|fc00::/[0-9]{1,3}|[0-9.:/]{0,9})",
        asked in "(10\\.[0-9]{1,3}\\.0\\.[0-9]|10\\.0\\.0\\.0/[0-9]{1,2}|fc00::[0-9a-f]{0,2}(/128)?|[0-9.:/]{0,9})",
    ) {
        same("net.cidr_contains", contains, &[Value::from(network.as_str()), Value::from(asked.as_str())]);
    }
}

#[test]
fn what_is_plain_is_answered_here_and_what_is_not_is_left_to_regorus() {
    let texts = |texts: &[&str]| texts.iter().map(|text| Value::from(*text)).collect::<Vec<_>>();
    let slash = Value::from(vec![Value::from("/")]);
    assert_eq!(glob(&[Value::from("/v1/*"), slash.clone(), Value::from("/v1/users")]), Some(true));
    assert_eq!(glob(&[Value::from("/v1/*"), slash.clone(), Value::from("/v1/users/7")]), Some(false));
    assert_eq!(glob(&[Value::from("/v1/*"), Value::Null, Value::from("/v1/users/7")]), Some(true));
    assert_eq!(glob(&[Value::from("["), slash.clone(), Value::from("a")]), None);
    assert_eq!(glob(&[Value::from(1u64), slash, Value::from("a")]), None);
    assert_eq!(contains(&texts(&["10.0.0.0/8", "10.1.2.3"])), Some(true));
    assert_eq!(contains(&texts(&["10.0.0.0/8", "x"])), None);
    assert_eq!(contains(&texts(&["10.0.0.0", "10.1.2.3"])), None);
    assert_eq!(matches(&texts(&["^a+$", "aaa"])), Some(true));
    assert_eq!(matches(&texts(&["(", "aaa"])), None);
}

#[test]
fn a_flood_of_patterns_is_forgotten() {
    for number in 0..3 * super::KEPT {
        assert_eq!(
            contains(&[Value::from(format!("10.0.{}.{}/32", number / 256, number % 256)), Value::from("10.9.9.9")]),
            Some(false)
        );
    }
    super::NETWORKS.with_borrow(|kept| assert!(kept.len() <= super::KEPT));
}
