//! Tests of explanations, on policies of every form a body can take.

use super::*;
use crate::policy::{Config, Entry};

fn loaded(files: &[(&str, &str)]) -> (tempfile::TempDir, Policy) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let yaml = format!("bundles: {{a: {{path: \"{}\"}}}}\ndecision: p/decision", folder.path().display());
    let config: Config = serde_yaml::from_str(&yaml).unwrap();
    let policy = Policy::load(&config, &[Entry::new("p/decision", None)]).unwrap_or_else(|report| panic!("{report}"));
    (folder, policy)
}

fn explained(text: &str, input: &str) -> Explanation {
    let (_folder, policy) =
        loaded(&[("p.rego", text), ("data.json", "{\"d\": {\"roles\": {\"a\": [\"GET\"], \"b\": [\"PUT\"]}}}")]);
    let explanation = explain(&policy, 0, &Value::from_json_str(input).unwrap());
    assert_eq!(explanation.not_told, None);
    explanation
}

impl Explanation {
    /// The runs of a rule's definition, in reading order.
    fn runs(&self, rule: &str, definition: usize) -> &[Run] {
        let story = self.rules.iter().find(|story| story.rule == rule).unwrap_or_else(|| panic!("{rule} is not told: {self:#?}"));
        &story.definitions[definition].runs
    }

    /// The statement at which the only run of a definition stopped, and what it was told with.
    fn stopped(&self, rule: &str, definition: usize) -> (u32, String, String) {
        match self.runs(rule, definition) {
            [Run { outcome: Outcome::Failed { line, statement, with, .. }, .. }] => {
                let told: Vec<String> = with.iter().flatten().map(written).collect();
                (*line, statement.clone(), told.join("; "))
            }
            other => panic!("{rule}: {other:#?}"),
        }
    }

    fn gave(&self, rule: &str, definition: usize) -> String {
        match self.runs(rule, definition) {
            [Run { outcome: Outcome::Held { gave, .. }, .. }] => gave.iter().flatten().map(written).collect::<Vec<_>>().join("; "),
            other => panic!("{rule}: {other:#?}"),
        }
    }
}

fn written(named: &Named) -> String {
    format!("{}={}", named.name, named.value.as_ref().map_or_else(|| "undefined".to_owned(), ToString::to_string))
}

fn at(line: u32, statement: &str, told: &str) -> (u32, String, String) {
    (line, statement.to_owned(), told.to_owned())
}

#[test]
fn a_body_stops_at_its_first_statement_that_does_not_hold() {
    let told = explained(
        "package p\n\ndefault decision := false\n\ndecision if {\n\tinput.a == 1\n\tsmall\n\tinput.never\n}\n\nsmall if input.b < 10\n",
        r#"{"a": 1, "b": 12}"#,
    );
    assert_eq!(told.stopped("data.p.decision", 0), at(7, "small", "small=undefined"));
    assert_eq!(told.stopped("data.p.small", 0), at(11, "input.b < 10", "input.b=12"));
    assert_eq!((told.rules[0].by_default, &told.rules[0].value), (true, &Some(Value::from(false))));
    assert!(told.not_asked.is_empty());
}

#[test]
fn a_body_that_held_tells_its_value_and_what_was_not_asked_is_named() {
    let told = explained(
        "package p\n\ndecision := {\"allowed\": ok}\n\nok := input.a > 0\n\nother if ok\n\nnever if other\n\nthird if never\n",
        r#"{"a": 1}"#,
    );
    assert_eq!(told.gave("data.p.decision", 0), "{\"allowed\": ok}={\"allowed\":true}".to_owned());
    assert_eq!(told.gave("data.p.ok", 0), "input.a > 0=true");
    let told = explained("package p\n\ndecision if {\n\tinput.a\n\tlater\n}\n\nlater if input.b\n", r#"{"b": 1}"#);
    assert_eq!(told.stopped("data.p.decision", 0), at(4, "input.a", "input.a=undefined"));
    // The engine asks for it all the same where its order is another; told or not, it is not lost.
    let named = told.not_asked.iter().any(|unasked| unasked.rule == "data.p.later");
    assert!(named || told.rules.iter().any(|story| story.rule == "data.p.later"));
}

#[test]
fn functions_are_told_by_their_arguments() {
    let told = explained(
        "package p\n\ndecision if matches([\"v1\", \"*\"], input.segments)\n\nmatches(pattern, segments) if {\n\tcount(pattern) == count(segments)\n\tevery index, part in pattern {\n\t\tpart in {\"*\", segments[index]}\n\t}\n}\n",
        r#"{"segments": ["v2", "x"]}"#,
    );
    let (line, statement, values) = told.stopped("data.p.decision", 0);
    assert_eq!((line, statement.as_str()), (3, "matches([\"v1\", \"*\"], input.segments)"));
    assert!(values.contains("input.segments=[\"v2\",\"x\"]"), "{values}");
    let runs = told.runs("data.p.matches", 0);
    assert_eq!(written(&runs[0].arguments[1]), "segments=[\"v2\",\"x\"]");
    let (line, _, values) = told.stopped("data.p.matches", 0);
    assert_eq!(line, 7);
    assert!(values.contains("not so for index, part=[[0,\"v1\"]]"), "{values}");
    let every = told.runs("data.p.matches", 1);
    assert!(matches!(&every[0].outcome, Outcome::Failed { line: 8, .. }), "{every:#?}");
}

#[test]
fn a_loop_stops_where_its_furthest_turn_stopped() {
    let told = explained(
        "package p\n\ndecision if {\n\tsome name, methods in data.d.roles\n\tinput.method in methods\n\tname == input.role\n}\n",
        r#"{"method": "GET", "role": "b"}"#,
    );
    let (line, statement, values) = told.stopped("data.p.decision", 0);
    assert_eq!((line, statement.as_str()), (6, "name == input.role"));
    assert_eq!(values, "name=\"a\"; input.role=\"b\"");
    let told = explained(
        "package p\n\ndecision if {\n\tsome name, methods in data.d.roles\n\tinput.method in methods\n}\n",
        r#"{"method": "POST"}"#,
    );
    match &told.runs("data.p.decision", 0)[0].outcome {
        Outcome::Failed { line: 5, times: 2, with, .. } => assert_eq!(with.len(), 2),
        other => panic!("{other:#?}"),
    }
}

#[test]
fn sets_objects_comprehensions_and_negations_are_told() {
    let text = "package p\n\ndecision := {\"allowed\": count(reasons) == 0}\n\nreasons contains \"early\" if not input.late\n\nreasons contains name if {\n\tsome name in input.names\n\tcount([x | some x in input.names; x == name]) > 1\n}\n\nreasons contains \"limit\" if limits[input.kind] > 3\n\nlimits[kind] := n if some kind, n in input.limits\n";
    let told = explained(text, r#"{"late": true, "names": ["a", "b", "a"], "kind": "k", "limits": {"k": 2}}"#);
    assert_eq!(told.stopped("data.p.reasons", 0), at(5, "not input.late", "input.late=true"));
    assert_eq!(told.gave("data.p.reasons", 1), "name=\"a\"");
    let (_, _, values) = told.stopped("data.p.reasons", 2);
    assert!(values.starts_with("limits[input.kind]=2") && values.contains("input.kind=\"k\""), "{values}");
    assert_eq!(told.gave("data.p.limits", 0), "kind=\"k\"; n=2");
}

#[test]
fn an_else_and_a_second_definition_are_told_each_by_itself() {
    let text = "package p\n\ndecision := \"one\" if {\n\tinput.a == 1\n} else := \"two\" if {\n\tinput.a == 2\n} else := \"three\"\n\nboth if input.x\n\nboth if input.y\n\nend if both\n";
    let told = explained(text, r#"{"a": 2}"#);
    assert_eq!(told.stopped("data.p.decision", 0), at(4, "input.a == 1", "input.a=2"));
    assert_eq!(told.gave("data.p.decision", 1), "\"two\"=\"two\"");
    assert!(told.runs("data.p.decision", 2).is_empty(), "what follows an else that held is not entered");
    let told = explained(text, r#"{"a": 3}"#);
    assert_eq!(told.gave("data.p.decision", 2), "\"three\"=\"three\"");
}

#[test]
fn names_bound_later_and_bare_variables_are_told_as_far_as_they_can_be() {
    let told = explained("package p\n\ndecision if {\n\ti > 0\n\tinput.xs[i] == 2\n}\n", r#"{"xs": [1, 3]}"#);
    let (line, statement, _) = told.stopped("data.p.decision", 0);
    assert_eq!((line, statement.as_str()), (4, "i > 0\n\tinput.xs[i] == 2"), "two statements that are told as one");
    let told = explained("package p\n\ndecision if {\n\tinput.xs[i] == 3\n\ti > 5\n}\n", r#"{"xs": [1, 3]}"#);
    assert_eq!(told.stopped("data.p.decision", 0), at(5, "i > 5", "i=1"));
}

#[test]
fn comments_strings_and_lines_without_braces_stay_what_they_are() {
    let text = "package p\n\n# it's {\ndecision if { # why {\n\tinput.a == \"}\" # not \"\n\tinput.b == `}\n` # end\n} # }\n";
    let told = explained(text, r#"{"a": "}", "b": "x"}"#);
    let (line, _, values) = told.stopped("data.p.decision", 0);
    assert_eq!((line, values.as_str()), (6, "input.b=\"x\""));
}

#[test]
fn objects_of_many_keys_and_empty_sets_are_told_whole() {
    let text = "package p\n\ndecision := {\"allowed\": false, \"reasons\": [r | some r in reasons], \"n\": {\"a\": 1, \"b\": 2}} if {\n\treasons != set()\n}\n\nreasons := set() if {\n\tinput.a == {\"x\": 1, \"y\": 2}\n}\n\nreasons := {1} if input.a == 3\n";
    let told = explained(text, r#"{"a": {"x": 1, "y": 2}}"#);
    let (line, statement, values) = told.stopped("data.p.decision", 0);
    assert_eq!((line, statement.as_str(), values.as_str()), (4, "reasons != set()", "reasons=[]"));
    assert_eq!(told.gave("data.p.reasons", 0), "set()=[]");
    let told = explained(text, r#"{"a": 3}"#);
    assert!(told.gave("data.p.decision", 0).ends_with("={\"allowed\":false,\"n\":{\"a\":1,\"b\":2},\"reasons\":[1]}"));
}

#[test]
fn a_value_that_is_undefined_although_the_body_held_is_told() {
    let told = explained("package p\n\ndecision := input.b if input.a\n", r#"{"a": 1}"#);
    assert_eq!(told.gave("data.p.decision", 0), "input.b=undefined");
    assert_eq!(told.rules[0].value, None);
}

#[test]
fn what_stands_under_with_is_told_as_it_is_under_it() {
    let told = explained("package p\n\ndecision if small with input as {\"n\": 20}\n\nsmall if input.n < 10\n", r#"{"n": 1}"#);
    assert_eq!(told.stopped("data.p.small", 0), at(5, "input.n < 10", "input.n=20"));
}

#[test]
fn functions_with_patterns_defaults_and_raw_strings_are_told() {
    let text = "package p\n\nimport input.request as asked\n\ndecision if kind([\"a\", asked.n], `x\"y`) == 1\n\nkind([first, n], \"z\") := 2 if first == n\n\nkind([first, n], _) := 1 if {\n\tn > 3\n\tnot first == \"b\"\n}\n\nkind(_, `q`) := 3\n\nlist contains {\"n\": n, \"m\": 2} if some n in [1, 2]\n";
    let told = explained(text, r#"{"request": {"n": 2}}"#);
    assert!(told.runs("data.p.kind", 0).is_empty(), "its pattern is another");
    assert_eq!(told.stopped("data.p.kind", 1), at(10, "n > 3", "n=2"));
    let told = explained(text, r#"{"request": {"n": 4}}"#);
    assert_eq!(told.gave("data.p.kind", 1), "1=1");
}

#[test]
fn old_rego_is_told_as_well() {
    let manifest = "{\"rego_version\": 0}";
    let text = "package p\n\ndefault decision = false\n\ndecision {\n\tinput.a == 1\n\tnames[_] == input.b\n}\n\nnames[x] { x := input.xs[_] }\n\ndecision = true { f(input.a) } { input.c }\n\nf(x) { x > 5 }\n";
    let (_folder, policy) = loaded(&[("p.rego", text), (".manifest", manifest)]);
    let told = explain(&policy, 0, &Value::from_json_str(r#"{"a": 1, "b": "z", "xs": ["x"]}"#).unwrap());
    assert_eq!(told.not_told, None);
    assert_eq!(told.stopped("data.p.decision", 0).1, "names[_] == input.b");
    assert_eq!(told.stopped("data.p.decision", 1), at(12, "f(input.a)", "f(input.a)=undefined; input.a=1"));
    assert_eq!(told.stopped("data.p.decision", 2), at(12, "input.c", "input.c=undefined"));
    assert_eq!(told.gave("data.p.names", 0), "x=\"x\"");
}

/// Whatever a body looks like, looking into it changes no answer, and each definition can be looked into.
#[test]
fn no_form_of_a_body_is_refused_or_changed_by_its_probes() {
    for body in [
        "x := [y | some y in input.xs; y > 1]; count(x) > 0",
        "{y | some y in input.xs} == {1, 2}",
        "{k: v | some k, v in input.o} == input.o",
        "some i, x in input.xs; i == x - 1",
        "some i; input.xs[i] == 2; i > 0",
        "[a, b] := input.xs; a < b",
        "{\"k\": v} := input.o; v",
        "[a, _] = input.xs; a == 1",
        "every x in input.xs { x > 0; some y in input.xs; y >= x }",
        "every k, v in input.o { is_string(k); every x in input.xs { x + v > 0 } }",
        "not input.never; not false",
        "not any_big(input.xs)",
        "2 in input.xs; \"k\", 1 in input.o",
        "walk(input.o, [path, value]); count(path) == 1; value == 1",
        "object.get(input, [\"o\", \"k\"], 0) == 1",
        "x := input.o[\"k\"]; y := x + 1; y == 2",
        "input.o.k == 1; input[\"xs\"][0] == 1; data.d.roles[name][_] == \"GET\"; name == \"a\"",
        "(input.xs[0] + 1) * 2 == 4",
        "-1 < input.o.k",
        "print(\"x\", input.xs); true",
        "sprintf(\"%v}{\", [input.o.k]) == \"1}{\"",
        "startswith(`a\\b`, \"a\")",
        "input.o.k == 5 with input.o.k as 6",
        "x := input.xs[_]; x == 2",
        "count({x | x := input.xs[_]} - {1}) == 1",
        "input.xs == [1, 2]; input.o == {\"k\": 1}; {} == {}; set() == set()",
    ] {
        let text = format!(
            "package p\n\ndecision := {{\"r\": r, \"t\": 1}}\n\ndefault r := false\n\nr if {{ {body} }}\n\nany_big(xs) if {{ some x in xs; x > 10 }}\n"
        );
        let told = explained(&text, r#"{"xs": [1, 2], "o": {"k": 1}}"#);
        let story = told.rules.iter().find(|story| story.rule == "data.p.r").unwrap();
        assert!(!story.definitions.iter().any(|definition| definition.not_told), "{body}");
        let held = matches!(story.definitions[0].runs[0].outcome, Outcome::Held { .. });
        assert_eq!(held, story.value == Some(Value::from(true)), "{body}: {story:#?}");
        assert_eq!(held, !body.contains("as 6"), "{body}: {story:#?}");
    }
}

#[test]
fn the_shipped_policies_are_told_whole() {
    for (folder, decision) in [
        ("policies/admin-api", "portcullis/decision"),
        ("examples/sidecar/policy", "portcullis/decision"),
        ("examples/envoy-opa/policy", "envoy/authz/allow"),
    ] {
        let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
        let yaml = format!("bundles: {{a: {{path: \"{}\"}}}}\ndecision: {decision}", path.display());
        let config: Config = serde_yaml::from_str(&yaml).unwrap();
        let policy = Policy::load(&config, &[Entry::new(decision, None)]).unwrap_or_else(|report| panic!("{report}"));
        for input in
            ["{}", r#"{"request": {"method": "DELETE", "segments": ["v1", "users", "7"]}, "resource": {"effect": "destroy"}}"#]
        {
            let told = explain(&policy, 0, &Value::from_json_str(input).unwrap());
            assert_eq!(told.not_told, None, "{folder}");
            assert!(told.rules[0].value.is_some() && told.rules.len() > 1, "{folder}: {told:#?}");
            assert!(told.rules.iter().flat_map(|story| &story.definitions).all(|definition| !definition.not_told), "{folder}");
        }
    }
}
