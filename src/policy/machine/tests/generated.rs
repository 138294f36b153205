//! Policies put together at random, with everything in them that either engine is known to trip over.

use proptest::prelude::*;

use super::compared;

fn term(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop::sample::select(vec![
        "input.a",
        "input.a.b",
        "input.a.c",
        "input.l",
        "input.n",
        "input.k",
        "input.l[0]",
        "data.l",
        "data.n.x",
        "data.roles[input.k]",
        "1",
        "2",
        "\"a\"",
        "\"b\"",
        "true",
        "false",
        "null",
        "q",
        "p",
        "s",
        "{\"b\": 1}",
        "[]",
        "input",
        "x",
        "y",
        "data.names[input.k]",
        "input.a[input.k]",
        "input.l[_]",
        "data.roles[_]",
    ])
    .prop_map(str::to_owned)
    .boxed();
    if depth == 0 {
        return leaf;
    }
    let inner = || term(depth - 1);
    prop_oneof![
        6 => leaf,
        1 => inner().prop_map(|a| format!("count({a})")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("object.get({a}, \"b\", {b})")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("[{a}, {b}]")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("{{{a}, {b}}}")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("{{\"u\": {a}, \"v\": {b}}}")),
        1 => inner().prop_map(|a| format!("f({a})")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("g({a}, {b})")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("({a} + {b})")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("[z | some z in {a}; z != {b}]")),
        1 => (inner(), inner()).prop_map(|(a, b)| format!("{{w | w := {a}; w == {b}}}")),
        1 => inner().prop_map(|a| format!("sprintf(\"%v\", [{a}])")),
    ]
    .boxed()
}

fn statement() -> BoxedStrategy<String> {
    let two = || (term(1), term(1));
    prop_oneof![
        4 => two().prop_map(|(a, b)| format!("{a} == {b}")),
        2 => two().prop_map(|(a, b)| format!("{a} != {b}")),
        1 => two().prop_map(|(a, b)| format!("{a} < {b}")),
        2 => two().prop_map(|(a, b)| format!("{a} in {b}")),
        2 => two().prop_map(|(a, b)| format!("not {a} == {b}")),
        1 => two().prop_map(|(a, b)| format!("not {a} in {b}")),
        2 => term(1).prop_map(|a| format!("not {a}")),
        2 => term(1),
        2 => term(1).prop_map(|a| format!("some x in {a}")),
        1 => term(1).prop_map(|a| format!("some y, x in {a}")),
        2 => term(2).prop_map(|a| format!("y := {a}")),
        1 => two().prop_map(|(a, b)| format!("every e in {a} {{ e != {b} }}")),
    ]
    .boxed()
}

/// A body in which each local name is declared once, and the value beside it uses none that is not.
fn body(statements: Vec<String>, value: String) -> (String, String) {
    let mut declared: Vec<&str> = Vec::new();
    let mut kept = Vec::new();
    for statement in statements {
        let names: Vec<&str> = [("x", ["some x in ", "some y, x in "]), ("y", ["y := ", "some y, x in "])]
            .into_iter()
            .filter(|(_, starts)| starts.iter().any(|start| statement.starts_with(start)))
            .map(|(name, _)| name)
            .collect();
        if names.iter().any(|name| declared.contains(name)) {
            continue;
        }
        // What stands on the right of a declaration may use only what was declared before it.
        let right = ["some x in ", "some y, x in ", "y := "].iter().find(|start| statement.starts_with(*start));
        let (left, right) = right.map_or(("", statement.as_str()), |start| statement.split_at(start.len()));
        let unknown: Vec<&str> = ["x", "y"].into_iter().filter(|name| !declared.contains(name)).collect();
        kept.push(format!("{left}{}", without(right, &unknown)));
        declared.extend(names);
    }
    let unknown: Vec<&str> = ["x", "y"].into_iter().filter(|name| !declared.contains(name)).collect();
    (kept.join("; "), without(&value, &unknown))
}

fn rule(head: &'static str) -> BoxedStrategy<String> {
    let statements = prop::collection::vec(statement(), 1..4);
    let value = prop_oneof![2 => Just(String::new()), 1 => Just("1".to_owned()), 2 => term(1)];
    (value, statements, prop::option::weighted(0.3, (term(1), statement())))
        .prop_map(move |(value, statements, other)| {
            let (body_text, value) = body(statements, value);
            let value = if value.is_empty() { value } else { format!(" := {value}") };
            let other = other
                .map(|(value, statement)| body(vec![statement], value))
                .map(|(body, value)| format!(" else := {value} if {{ {body} }}"))
                .unwrap_or_default();
            format!("{head}{value} if {{ {body_text} }}{other}")
        })
        .boxed()
}

fn set() -> BoxedStrategy<String> {
    (term(1), prop::collection::vec(statement(), 1..3))
        .prop_map(|(key, statements)| {
            let (body, key) = body(statements, key);
            format!("s contains {key} if {{ {body} }}")
        })
        .boxed()
}

fn policy() -> BoxedStrategy<String> {
    let default = |name: &'static str| prop_oneof![Just(String::new()), Just(format!("default {name} := false"))];
    (
        (default("r"), prop::collection::vec(rule("r"), 1..3)),
        (default("q"), prop::collection::vec(rule("q"), 1..3)),
        prop::collection::vec(rule("p"), 1..2),
        prop::collection::vec(set(), 1..3),
        prop::collection::vec(rule("f(v)"), 1..3),
        prop::collection::vec(rule("g(v, u)"), 1..2),
    )
        .prop_map(|((a, r), (b, q), p, s, f, g)| {
            // Each rule may use only those after it: recursion would be refused, and most of what is made with it.
            let less = |rules: Vec<String>, head: usize, gone: &'static [&'static str]| {
                rules.into_iter().map(move |rule| {
                    let (head, rest) = rule.split_at(head);
                    format!("{head}{}", without(rest, gone))
                })
            };
            let mut lines = vec!["package a\n".to_owned(), a, b];
            lines.extend(r);
            lines.extend(less(q, 1, &["q"]));
            lines.extend(less(p, 1, &["q", "p"]));
            lines.extend(less(s, 1, &["q", "p", "s"]));
            lines.extend(less(f, 4, &["q", "p", "s", "f"]).map(|rule| rule.replace("7(", "count(")));
            lines.extend(less(g, 7, &["q", "p", "s", "f"]).map(|rule| {
                let (head, rest) = rule.split_at(7);
                format!("{head}{}", rest.replace("7(", "count(").replace("g(", "object.union("))
            }));
            lines.join("\n")
        })
        .boxed()
}

/// A text with names of its own put in the place of what must not stand there.
fn without(text: &str, names: &[&str]) -> String {
    let (mut out, mut word) = (String::new(), String::new());
    for character in text.chars().chain(['\n']) {
        if character.is_alphanumeric() || character == '_' {
            word.push(character);
            continue;
        }
        let apart = !out.ends_with(['.', '"', '%']);
        out.push_str(if apart && names.contains(&word.as_str()) { "7" } else { &word });
        word.clear();
        out.push(character);
    }
    out.pop();
    out
}

fn cases() -> u32 {
    std::env::var("PORTCULLIS_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

#[test]
fn policies_nobody_wrote_get_one_answer() {
    use proptest::strategy::ValueTree;
    let inputs = super::more_inputs();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut loaded, mut by_vm) = (0, 0);
    for _ in 0..cases() {
        let rego = policy().new_tree(&mut runner).unwrap().current();
        if let Some(judged) = compared(&[("p.rego", &rego), ("data.json", super::DATA)], "a/r", &inputs) {
            loaded += 1;
            by_vm += u32::from(judged > 0);
        }
    }
    assert!(loaded > cases() / 3, "{loaded} of {} loaded", cases());
    assert!(by_vm > cases() / 50, "{by_vm} of {loaded} by the VM");
}
