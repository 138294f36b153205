//! What the comparison with OPA (`tests/builtins`) cannot show: where a call ends that would take too much, and what would end OPA.

use regorus::Value;
use serde_json::json;

use super::TooLong;
use crate::policy::engine::tests::value;

const SCHEMA: &str = "type Query { a(x: J): Query b: Query s: String } scalar J";

#[derive(Debug, PartialEq)]
enum Said {
    Valid,
    Invalid,
    Undefined,
    Tree,
    /// Nothing: the evaluation ends.
    TooLong,
}

fn said(answer: Result<Option<Value>, TooLong>) -> Said {
    match answer {
        Ok(Some(Value::Bool(true))) => Said::Valid,
        Ok(Some(Value::Bool(false))) => Said::Invalid,
        Ok(Some(_)) => Said::Tree,
        Ok(None) => Said::Undefined,
        Err(TooLong) => Said::TooLong,
    }
}

fn is_valid(query: &str) -> Said {
    said(super::is_valid(&[query.into(), SCHEMA.into()]))
}

fn schema_is_valid(schema: &str) -> Said {
    said(super::schema_is_valid(&[schema.into()]))
}

#[test]
fn what_nests_too_deep_ends_the_evaluation_and_is_not_invalid() {
    let selections = |depth: usize| format!("{}s{}", "{ a ".repeat(depth) + "{ ", " }".repeat(depth + 1));
    let lists = |depth: usize| format!("{{ a(x: {}{}) {{ s }} }}", "[".repeat(depth), "]".repeat(depth));
    let types = |depth: usize| format!("query ($v: {}Int{}) {{ s }}", "[".repeat(depth), "]".repeat(depth));
    for nested in [selections, lists] {
        assert_eq!(is_valid(&nested(30)), Said::Valid);
    }
    assert_eq!(is_valid(&types(30)), Said::Invalid, "a variable nobody uses");
    for nested in [selections, lists, types] {
        for depth in [60, 100_000] {
            assert_eq!(is_valid(&nested(depth)), Said::TooLong);
            let (query, schema) = (Value::from(nested(depth)), Value::from(SCHEMA));
            assert_eq!(said(super::parse_query(std::slice::from_ref(&query))), Said::TooLong);
            assert_eq!(said(super::parse(&[query.clone(), schema.clone()])), Said::TooLong);
            assert_eq!(said(super::parse_and_verify(&[query, schema])), Said::TooLong);
        }
    }
    let deep = format!("type A {{ a: {}Int{} }}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(schema_is_valid(&deep), Said::TooLong);
    assert_eq!(said(super::parse_schema(&[deep.into()])), Said::TooLong);
}

/// OPA's process overflows its stack on the first and ends.
#[test]
fn fragments_in_a_circle_are_invalid() {
    for query in [
        "{ ...F } fragment F on Query { a { ...F } }",
        "{ ...F } fragment F on Query { s ...G } fragment G on Query { a { ...F } }",
        "{ ...F } fragment F on Query { ...F }",
        "{ s } fragment F on Query { ...G } fragment G on Query { ...F }",
    ] {
        assert_eq!(is_valid(query), Said::Invalid, "{query}");
    }
    let circle = |count: usize| {
        (0..count)
            .fold("{ ...F0 } ".to_owned(), |all, one| all + &format!("fragment F{one} on Query {{ ...F{} }} ", (one + 1) % count))
    };
    assert_eq!(is_valid(&circle(40)), Said::Invalid);
    assert_eq!(is_valid(&circle(2000)), Said::TooLong, "a chain longer than the stack is asked for");
}

/// The comparisons more than double with each level; on twenty OPA would be busy for years.
#[test]
fn fields_that_double_with_each_level_end_the_evaluation() {
    let doubling = |levels: usize| {
        let fragments = (0..levels).map(|one| {
            let next = format!("a {{ a {{ ...F{} }} ...F{} }}", one + 1, one + 1);
            format!("fragment F{one} on Query {{ {next} {next} }} ")
        });
        format!("{{ ...F0 }} {} fragment F{levels} on Query {{ s }}", fragments.collect::<String>())
    };
    assert_eq!(is_valid(&doubling(3)), Said::Valid);
    assert_eq!(is_valid(&doubling(20)), Said::TooLong);
    let many = format!("{{ {} }}", "s ".repeat(10_000));
    assert_eq!(is_valid(&many), Said::TooLong, "each is compared with each");
    let operations = (0..3000).map(|one| format!("query Q{one} {{ ...F }} ")).collect::<String>();
    let fields = (0..3000).map(|one| format!("s{one}: s ")).collect::<String>();
    assert_eq!(is_valid(&format!("{operations} fragment F on Query {{ {fields} }}")), Said::TooLong);
    let long = "#\n".repeat(150_000);
    assert_eq!(is_valid(&long), Said::TooLong);
    let flat = |count| Value::from(format!("{{ {} }}", "s ".repeat(count)));
    assert_eq!(said(super::parse_query(&[flat(10_000)])), Said::Tree);
    assert_eq!(said(super::parse_query(&[flat(200_000)])), Said::TooLong);
}

#[test]
fn a_schema_that_grows_ends_the_evaluation() {
    let chain = |count: usize| {
        (0..count).map(|one| format!("input I{one} {{ a: I{}! }} ", one + 1)).collect::<String>()
            + &format!("input I{count} {{ a: Int }}")
    };
    assert_eq!(schema_is_valid(&chain(50)), Said::Valid);
    assert_eq!(schema_is_valid(&chain(5000)), Said::TooLong);
    let fields = (0..3000).map(|one| format!("f{one}: Int ")).collect::<String>();
    assert_eq!(schema_is_valid(&format!("type A {{ {fields} }}")), Said::Valid);
    let arguments = (0..1500).map(|one| format!("f{one}: Int ")).collect::<String>();
    let shared = format!("interface N {{ a({arguments}): Int }} type A implements N {{ a({arguments}): Int }}");
    assert_eq!(schema_is_valid(&shared), Said::TooLong);
}

/// Trees that are handed in as objects are bounded before anything walks through them.
#[test]
fn trees_are_bounded_too() {
    let ask = |query| said(super::is_valid(&[value(&query), SCHEMA.into()]));
    let nested = |depth: usize| {
        let mut field = json!({"Name": "s"});
        (0..depth).for_each(|_| field = json!({"Name": "a", "SelectionSet": [field]}));
        json!({"Operations": [{"SelectionSet": [field]}]})
    };
    assert_eq!(ask(nested(20)), Said::Valid);
    assert_eq!(ask(nested(59)), Said::TooLong);
    assert_eq!(ask(json!({"Operations": [], "Fields": vec![1; 100_000]})), Said::Valid);
    assert_eq!(ask(json!({"Operations": [], "Fields": vec![1; 300_000]})), Said::TooLong);
    assert_eq!(ask(json!({"Operations": [{"Name": "x".repeat(2 << 20)}]})), Said::TooLong);
    let itself = json!({"Operations": [{"SelectionSet": [{"Name": "a", "Arguments": [{"Name": "x", "Value": {"Kind": 0, "Raw": "v"}}]}],
        "VariableDefinitions": [{"Variable": "v", "Type": {"NamedType": "String"}, "DefaultValue": {"Kind": 0, "Raw": "v"}}]}]});
    assert_eq!(ask(itself), Said::TooLong, "a variable that is its own default");
}
