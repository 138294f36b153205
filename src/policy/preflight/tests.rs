//! Policies that must not judge, and why.

use serde_json::json;

use crate::policy::engine::tests::{load, value};

fn said(rego: &str) -> String {
    load(&[("p.rego", rego)], &["a/r"]).map(|_| String::new()).unwrap_or_else(|report| report.to_string())
}

fn body(expression: &str) -> String {
    format!("package a\n\nr := x if {{\n\tx := {expression}\n}}\n")
}

#[test]
fn calls_that_could_take_the_process_down_are_refused() {
    let refused = [
        "http.send({\"url\": \"x\"})",
        "opa.runtime()",
        "net.lookup_ip_addr(\"x\")",
        "rand.intn(\"x\", 3)",
        "trace(\"x\")",
        "graph.reachable_paths(input.g, [\"a\"])",
        "numbers.range(1, input.n)",
        "numbers.range(1, 1000000000000)",
        "numbers.range_step(1, 10, 0)",
        "numbers.range_step(1, 10, input.n)",
        "bits.lsh(1, 4294967295)",
        "bits.lsh(1, input.n)",
        "net.cidr_expand(\"10.0.0.0/8\")",
        "net.cidr_expand(input.n)",
        "sprintf(\"%999999999d\", [1])",
        "sprintf(\"%.99999f\", [1.5])",
        "sprintf(\"%²d\", [1])",
        "sprintf(input.f, [1])",
        "strings.count(\"abc\", \"\")",
        "concat(input.d, input.l)",
        "replace(input.s, \"a\", input.t)",
        "regex.replace(input.s, \"a\", input.t)",
        "strings.replace_n(input.p, input.s)",
        "strings.replace_n({\"a\": input.t}, input.s)",
        "json.marshal_with_options(input, input.o)",
        "startswith(\"x\")",
        "startswith(\"x\", \"y\", x, 1)",
        "nothing.like(\"this\")",
        "start_with(\"x\", \"y\")",
        "data.a.missing(1)",
    ];
    for call in refused {
        let report = said(&body(call));
        assert!(report.contains("p.rego:4:") && report.contains("(in data.a.r)"), "{call}: {report}");
    }
    assert!(said(&body("startwith(\"x\", \"y\")")).contains("did you mean `startswith`?"));
}

#[test]
fn the_same_calls_pass_with_arguments_the_input_cannot_choose() {
    let passed = [
        "numbers.range(0, 20)",
        "numbers.range(0, count(input.l) - 1)",
        "numbers.range_step(0, 100, 5)",
        "bits.lsh(input.n, 4)",
        "net.cidr_expand(\"10.0.0.0/24\")",
        "units.parse_bytes(\"10MiB\")",
        "units.parse(input.n)",
        "sprintf(\"%05d %.2f %s %%\", [1, 1.5, input.s])",
        "strings.count(input.s, \"a\")",
        "concat(\", \", input.l)",
        "concat(data.delimiter, input.l)",
        "replace(input.s, \"a\", \"b\")",
        "replace(\"hello NAME\", \"NAME\", input.s)",
        "replace(data.template, \"NAME\", input.s)",
        "regex.replace(input.s, \"a+\", \"b\")",
        "strings.replace_n({\"a\": \"b\"}, input.s)",
        "strings.replace_n(data.pairs, input.s)",
        "time.now_ns()",
        "print(input)",
    ];
    for call in passed {
        assert_eq!(said(&body(call)), "", "{call}");
    }
}

#[test]
fn recursion_is_found_however_it_goes() {
    let cycles = [
        "r := f(input.n)\nf(x) := f(x - 1)",
        "r := p\np := q\nq := r",
        "r := f(1)\nf(x) := g(x)\ng(x) := f(x)",
        "r := data.a.r",
        "r := data.a[input.k]",
        "r := data[input.k]",
        "r := count(data)",
        "r := y if { y := f(1) with f as g }\nf(x) := x\ng(x) := f(x)",
        "import data.a.p as h\nr := h\np := r",
        "import data.a\nr := a.r",
        "r := [x | x := p[_]]\np := {q | q := r}",
        "r if every x in [1] { x == p }\np := 1 if r",
        "r := 1 if not p\nelse := 2\np if r == 1",
        "r := x if { x := [r | input.l][0] }",
    ];
    for rego in cycles {
        assert!(said(&format!("package a\n\n{rego}\n")).contains("recursion: data.a."), "{rego}");
    }
    let straight = [
        "r := f(input.user)\nuser := f(input)\nf(user) := user.name",
        "r := x if { x := [p | p := input.l[_]] }\np := r",
        "r := {y | some x in p; y := x}\np := {x | some x in input.l}\nq(x) := [x, r]",
        "r := y if { y := f(1) with f as g }\nf(x) := x\ng(x) := x + 1",
        "r := data.b[input.k]",
    ];
    for rego in straight {
        assert_eq!(said(&format!("package a\n\n{rego}\n")), "", "{rego}");
    }
}

#[test]
fn builtins_cannot_be_smuggled_through_with() {
    for rego in [
        "r := y if { y := f(1, 2) with f as numbers.range }\nf(x, y) := x + y",
        "r := y if { y := count(input.l) with count as f }\nf(x) := 1",
    ] {
        assert!(said(&format!("package a\n\n{rego}\n")).contains("`with` names the builtin"), "{rego}");
    }
}

#[test]
fn the_deepest_policy_that_passes_fits_half_a_stack() {
    let chain = |length: usize| {
        let links: String = (0..length)
            .map(|n| format!("f{n}(x) := [y | some z in [x]; y := f{}(z)][0] if {{\n\tsome k in [1]\n\tk == 1\n}}\n\n", n + 1))
            .collect();
        format!("package a\n\nr := f0(input.n)\n\n{links}f{length}(x) := x\n")
    };
    let longest = (1..200).take_while(|length| said(&chain(*length)).is_empty()).last().unwrap();
    assert!(longest >= 10, "{longest}");
    assert!(said(&chain(longest + 1)).contains("frames deep"));
    let calls = format!("{}{}{}", "abs(".repeat(10), "input.n".to_owned() + &" + 1".repeat(190), ")".repeat(10));
    for rego in [chain(longest), body(&calls)] {
        assert_eq!(said(&rego), "");
        let half = std::thread::Builder::new().stack_size(1 << 20);
        let run = move || load(&[("p.rego", &rego)], &["a/r"]).unwrap().engine().unwrap().evaluate(0, value(&json!({"n": 1})));
        assert!(half.spawn(run).unwrap().join().unwrap().is_ok());
    }
}

#[test]
fn all_mistakes_come_in_one_report() {
    let report = load(
        &[
            ("p.rego", "package a\n\nr := nope(1)\n\ns := s\n\nt := http.send({})\n"),
            ("q.rego", "package a\n\nu := bits.lsh(1, input.n)\n"),
        ],
        &["a/q", "b/r", "a/f", "a"],
    )
    .unwrap_err();
    let text = report.to_string();
    for part in
        ["p.rego:3:", "recursion: data.a.s → data.a.s", "`http.send`", "q.rego:3:", "`a/q`", "the nearest is", "names a package"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(said("package a\n\nr := \n").contains("p.rego:"));
    for rego in
        ["r if {\n\tx := y\n\tx == 1\n}", "r := y", "r := [x, y] if x = 1", "r if y == 1", "r := [x | x := y.z]", "r if not y"]
    {
        assert!(said(&format!("package a\n\n{rego}\n")).contains("`y`"), "{rego}");
    }
}

#[test]
fn entries_roots_and_data_are_checked_against_each_other() {
    let rule = "package a\n\nr := 1\n";
    let manifest = "{\"roots\": [\"b\"]}";
    assert!(
        load(&[("p.rego", rule), (".manifest", manifest)], &["a/r"]).unwrap_err().to_string().contains("package a lies outside")
    );
    assert!(
        load(&[("p.rego", rule), ("data.json", "{\"a\": {\"r\": 2}}")], &["a/r"]).unwrap_err().to_string().contains("same path")
    );
    assert!(load(&[("p.rego", "package a\n\nr(x) := x\n")], &["a/r"]).unwrap_err().to_string().contains("is a function"));
    assert!(load(&[("p.rego", rule)], &["a/R"]).unwrap_err().to_string().contains("the nearest is `a/r`"));
    let crowd: Vec<String> = (0..2000).map(|n| format!("\"k{n}\": 1")).collect();
    let crowded = load(&[("p.rego", rule), ("data.json", &format!("{{{}}}", crowd.join(",")))], &["a/r"]).unwrap();
    assert!(crowded.warnings()[0].message.contains("2000 keys"));
}

#[test]
fn tests_are_checked_for_syntax_and_never_judge() {
    let tests = "package a\n\nr := 2\n\ntest_r if data.a.r == 1 with rand.intn as 3\n";
    let mut engine = load(&[("p.rego", "package a\n\nr := 1\n"), ("p_test.rego", tests)], &["a/r"]).unwrap().engine().unwrap();
    assert_eq!(engine.evaluate(0, value(&json!({}))), Ok(regorus::Value::from(1u64)));
    assert!(load(&[("p.rego", "package a\n\nr := 1\n"), ("p_test.rego", "package")], &["a/r"]).is_err());
}

#[test]
fn a_decision_that_can_never_be_a_verdict_is_told() {
    let warned = |rego: &str| {
        let policy = load(&[("p.rego", &format!("package a\n\n{rego}\n"))], &["a/r"]).unwrap();
        policy.warnings().iter().map(ToString::to_string).collect::<String>()
    };
    for (rego, gives) in [
        ("r contains \"x\" if input.a", "a set"),
        ("r := \"allow\" if input.a", "a text"),
        ("default r := \"deny\"\nr := [x | some x in input.l]", "a text or an array"),
        ("r := input.n + 1", "a number"),
        ("r := {\"allow\": true} if input.a\nelse := null", "an object without `allowed` or null"),
        ("r := {x | some x in input.l}", "a set"),
    ] {
        let warned = warned(rego);
        assert!(warned.contains("p.rego:3:") && warned.contains(gives) || warned.contains("p.rego:4:"), "{rego}: {warned}");
    }
    for rego in [
        "r if input.a",
        "default r := false\nr := \"x\" if input.a",
        "r := {\"allowed\": input.a}",
        "r := {input.k: true}",
        "r[k] := true if k := input.k",
        "r := f(input.a)\nf(x) := x",
        "r := \"x\" if input.a\nelse if input.b",
        "r := input.a",
        "r := x if { x := input.a }",
    ] {
        assert_eq!(warned(rego), "", "{rego}");
    }
}

#[test]
fn a_value_that_holds_itself_twice_too_often_is_refused_and_long_chains_are_not() {
    let chain = |links: usize, link: &str| {
        let steps: String = (0..links).map(|n| format!("\tx{} := {}\n", n + 1, link.replace('@', &format!("x{n}")))).collect();
        format!("package a\n\nr := x{links} if {{\n\tx0 := input.l\n{steps}}}\n")
    };
    let split = |rules: usize| {
        let rules: String = (0..rules).map(|n| format!("p{n} := [p{}, p{}]\n\n", n + 1, n + 1)).collect();
        format!("package a\n\nr := p0\n\n{rules}p30 := 1\n")
    };
    let functions = |calls: usize| format!("package a\n\nr := {}1{}\n\nf(x) := [x, x]\n", "f(".repeat(calls), ")".repeat(calls));
    for rego in
        [chain(40, "[@, @]"), chain(30, "{\"a\": @, \"b\": [@]}"), chain(30, "array.concat(@, @)"), chain(10, "@ * @"), split(30)]
    {
        assert!(said(&rego).contains("million times over"), "{rego}");
    }
    assert_eq!(said(&functions(10)), "");
    for rego in [
        chain(10, "[@, @]"),
        chain(60, "@ * 3"),
        chain(5, "@ * @"),
        chain(60, "@ + 1"),
        chain(60, "upper(@)"),
        chain(60, "[@]"),
        split(0).replace("p0", "p30"),
    ] {
        assert_eq!(said(&rego), "", "{rego}");
    }
}
