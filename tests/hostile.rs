//! Policies written to take the gate down.
//!
//! In: policies, and an input as large as a body may be. Out: each one is refused when it is loaded, with its place, or ends as a
//! denial at the deadline. What must stay true: the process that judged it is still there and answers the next question. Each runs
//! in a process of its own with little memory and the stack of a worker, because an abort, an overflow or a failed allocation is
//! what is looked for, and no test could catch those.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::allow_attributes,
    reason = "a test"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis::policy::{BundleSource, Config, EngineChoice, Entry, EvaluationError, Limits, Policy, Report, TestChoice};
use portcullis::units::{Size, Span};
use serde_json::json;

/// What comes of a policy.
#[derive(Clone, Copy)]
enum Ends {
    /// Refused at load; the report says this.
    Refused(&'static str),
    /// No value: the time is up, or it was too much.
    Denied,
    /// It is harmless after all: it gives an answer in good time.
    Answers,
}

use Ends::{Answers, Denied, Refused};

const KIB: u64 = 3 << 20;

/// Name, rules of `package a`, and what comes of them.
fn hostile() -> Vec<(&'static str, String, Ends)> {
    let fixed: &[(&str, &str, Ends)] = &[
        ("recursion", "r := f(input.n)\nf(x) := f(x + 1)", Refused("recursion")),
        ("mutual recursion", "r := f(1)\nf(x) := g(x)\ng(x) := f(x)", Refused("recursion")),
        ("recursion through data", "r := data[input.k].r", Refused("recursion")),
        ("recursion through with", "r := y if { y := f(1) with f as g }\nf(x) := x\ng(x) := f(x)", Refused("recursion")),
        ("a range of the request", "r := numbers.range(1, input.n)", Refused("memory")),
        ("a giant range", "r := count(numbers.range(1, 1000000000000))", Refused("memory")),
        ("a giant range with a step", "r := numbers.range_step(1, 1000000000000, 1)", Refused("memory")),
        ("ranges of ranges", "r := [x | some a in numbers.range(1, 10000); some b in numbers.range(1, 10000); x := a * b]", Denied),
        ("a giant width", "r := sprintf(\"%999999999d\", [1])", Refused("gigabytes")),
        ("a format of the request", "r := sprintf(input.s, [1])", Refused("gigabytes")),
        ("a giant shift", "r := bits.lsh(1, 1000000000)", Refused("512 MiB")),
        ("a network to expand", "r := net.cidr_expand(input.s)", Refused("memory")),
        ("a network call", "r := http.send({\"url\": input.s, \"method\": \"get\"})", Refused("http.send")),
        ("environment variables", "r := opa.runtime()", Refused("opa.runtime")),
        ("paths of a graph", "r := graph.reachable_paths(input.g, [\"a\"])", Refused("stack")),
        (
            "a builtin in a function's place",
            "r := x if { x := f(1, 2) with f as numbers.range }\nf(a, b) := a + b",
            Refused("`with`"),
        ),
        (
            "a function in a builtin's place",
            "r := x if { x := count(input.l) with count as f }\nf(x) := f2(x)\nf2(x) := x",
            Refused("`with`"),
        ),
        (
            "data put in by with",
            "r := x if { x := q with data.b as input.l }\nq := [[a, b, c] | a := data.b[_]; b := data.b[_]; c := data.b[_]]",
            Denied,
        ),
        ("a cross product", "r := count([1 | input.l[_] == input.n; input.l[_] == input.n; input.l[_] == input.n])", Denied),
        (
            "a cross product in a negation",
            "default r := false\nr if not q\nq if { some a in input.l; some b in input.l; some c in input.l; a + b + c == 1 }",
            Denied,
        ),
        (
            "a cross product in every",
            "r if every a in input.l { every b in input.l { every c in input.l { a + b + c < 5 } } }",
            Denied,
        ),
        ("a cross product in a set", "r contains [a, b] if { some a, _ in input.l; some b, _ in input.l }", Denied),
        ("shared lists written out", "r := json.marshal([input.l | some _ in input.l])", Denied),
        ("shared lists walked", "r := count([1 | walk([input.l | some _ in input.l], [_, _])])", Denied),
        ("shared lists formatted", "r := sprintf(\"%v\", [[input.l | some _ in input.l]])", Denied),
        ("a text joined with itself", "r := concat(\"\", [input.s | some _ in input.l])", Denied),
        ("a text replaced by itself", "r := replace(input.s, \"a\", input.s)", Refused("multiplies")),
        ("a text answered again and again", "r := {\"allowed\": true, \"reasons\": [input.s | some _ in input.l]}", Denied),
        ("shared lists as metadata", "r := {\"allowed\": true, \"dynamic_metadata\": [input.l | some _ in input.l]}", Denied),
        ("an exponential regex", "r := regex.match(\"^(a+)+$\", concat(\"\", [input.s, \"!\"]))", Answers),
        ("a giant repeat", "r := regex.match(\"((a{0,1000}){0,1000}){0,1000}\", input.s)", Denied),
        ("a regex of the request", "r := regex.match(input.s, input.s)", Denied),
        ("a regex replaced by itself", "r := regex.replace(\"aaaa\", \"a\", input.s)", Answers),
        ("globs of the request", "r := glob.match(input.stars, [], input.s)", Denied),
        ("giant numbers", "r := x if { a := to_number(input.digits); x := a * a * a * a }", Denied),
        ("an exponent of nothing", "r if input.n == 0e40000000", Refused("exponent")),
        ("an exponent", "r := to_number(\"1e999999999\")", Denied),
        ("a unit with an exponent", "r := units.parse(\"1e999999999\")", Denied),
        ("digits in another base", "r := format_int(to_number(\"1e300\"), 2)", Answers),
        ("a billion laughs", "r := yaml.unmarshal(input.yaml)", Denied),
        ("deep JSON", "r := json.unmarshal(input.brackets)", Denied),
        ("deep YAML", "r := yaml.unmarshal(input.brackets)", Denied),
        ("a number in a text", "r := json.unmarshal(input.digits)", Denied),
        ("an exponent in a text", "r := json.unmarshal(\"[1e999999999]\")", Denied),
        ("a product", "r := product([3 | some _ in input.l])", Denied),
        ("a date out of range", "r := time.add_date(9223372036854775807, 2147483647, 1, 1)", Denied),
        ("a layout of the request", "r := time.parse_ns(input.s, input.s)", Denied),
        ("a body walked", "r := count([1 | walk(input, [p, _]); count(p) > 9])", Answers),
        ("prints", "r if { some a in input.l; some b in input.l; print(a, b, input.s); a == 2 }", Denied),
        ("a text without parts", "r := strings.count(input.s, input.empty)", Denied),
        ("a prefix of each for each", "r := strings.any_prefix_match(input.texts, input.texts)", Denied),
        ("trimmed by a text", "r := trim(input.s, input.digits)", Denied),
    ];
    let mut all: Vec<(&str, String, Ends)> = fixed.iter().map(|(name, rules, ends)| (*name, (*rules).to_owned(), *ends)).collect();
    let doubled = |make: &str| {
        let steps: String = (0..60).fold(String::new(), |mut steps, n| {
            let _ = writeln!(steps, "\tx{} := {}", n + 1, make.replace('@', &format!("x{n}")));
            steps
        });
        steps
    };
    all.extend([
        (
            "a text doubled",
            format!("r := x60 if {{\n\tx0 := input.s\n{}}}", doubled("concat(\"\", [@, @])")),
            Refused("million times"),
        ),
        (
            "an array doubled",
            format!("r := x60 if {{\n\tx0 := input.l\n{}}}", doubled("array.concat(@, @)")),
            Refused("million times"),
        ),
        ("a number squared", format!("r := x60 if {{\n\tx0 := 1e300\n{}}}", doubled("@ * @")), Refused("million times")),
        (
            "an array of itself written out",
            format!("r := json.marshal(x60) if {{\n\tx0 := [1]\n{}}}", doubled("[@, @]")),
            Refused("million times"),
        ),
        (
            "an array of itself walked",
            format!("r := count([1 | walk(x60, [_, _])]) if {{\n\tx0 := [1]\n{}}}", doubled("[@, @]")),
            Refused("million times"),
        ),
        (
            "an array of itself as an answer",
            format!("r := {{\"allowed\": true, \"x\": x60}} if {{\n\tx0 := [1]\n{}}}", doubled("[@, @]")),
            Refused("million times"),
        ),
        (
            "an array of itself compared",
            format!("r if {{\n\tx0 := [input.n]\n{}\tx60 < [x60]\n}}", doubled("[@, @]")),
            Refused("million times"),
        ),
        ("deep brackets", format!("r := {}1{}", "[".repeat(5000), "]".repeat(5000)), Refused("brackets")),
        ("a long sum", format!("r := {}1", "1 + ".repeat(20_000)), Refused("operators")),
        ("many signs", format!("r := {}1", "-".repeat(20_000)), Refused("operators")),
        ("one long line", format!("r := [{}1]", "1, ".repeat(300_000)), Answers),
        (
            "thousands of rules",
            (0..5000).fold("r := x0\n".to_owned(), |mut text, n| {
                let _ = writeln!(text, "x{n} := x{}", n + 1);
                text
            }) + "x5000 := 1",
            Refused("frames deep"),
        ),
        (
            "thousands of definitions",
            (0..5000).fold(String::new(), |mut text, n| {
                let _ = writeln!(text, "r := {n} if input.n == {n}");
                text
            }),
            Answers,
        ),
        (
            "an else without end",
            format!(
                "r := 1 if input.n == 5\n{}",
                (0..5000).fold(String::new(), |mut text, n| {
                    let _ = writeln!(text, "else := {n} if input.n == {n}");
                    text
                })
            ),
            Answers,
        ),
    ]);
    all
}

fn input() -> serde_json::Value {
    let mut yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let _ = writeln!(yaml, "a{n}: &a{n} [{}]", vec![format!("*a{}", n - 1); 9].join(", "));
    }
    json!({
        "n": 1, "k": "a", "s": "a".repeat(200_000), "l": vec![1; 50_000], "digits": "9".repeat(100_000),
        "brackets": "[".repeat(100_000), "yaml": yaml, "empty": "", "stars": "{a,*}".repeat(2000), "g": {"a": ["b"], "b": ["a"]},
        "texts": (0..20_000).map(|n| format!("k{n}")).collect::<Vec<_>>(),
    })
}

fn load(rules: &str) -> Result<Policy, Report> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("p.rego"), format!("package a\n\n{rules}\n")).unwrap();
    Policy::load(&config(home.path()), &[Entry::new("a/r", None)])
}

fn config(home: &std::path::Path) -> Config {
    Config {
        bundles: BTreeMap::from([("b".to_owned(), BundleSource::at(home.to_owned()))]),
        decision: "a/r".to_owned(),
        result: None,
        may_kill: Vec::new(),
        reuse: Size::mib(0),
        shadow: None,
        engine: EngineChoice::Auto,
        tests: TestChoice::default(),
        limits: Limits { time: Span::millis(20), ..Limits::default() },
    }
}

/// What a process of its own does: the policy its environment names, and then a harmless one.
fn judge(rules: &str) -> String {
    let mut said = match load(rules) {
        Err(report) => format!("refused {}", report.to_string().replace('\n', " ")),
        Ok(policy) => {
            let mut engine = policy.engine().unwrap();
            let input = regorus::Value::from_json_str(&input().to_string()).unwrap();
            let began = Instant::now();
            match engine.evaluate(0, input) {
                Ok(_) => format!("answered after {} ms", began.elapsed().as_millis()),
                Err(error) => format!("denied after {} ms: {error}", began.elapsed().as_millis()),
            }
        }
    };
    let mut next = load("r if input.x == 1").unwrap().engine().unwrap();
    assert_eq!(next.evaluate(0, regorus::Value::from_json_str("{\"x\": 2}").unwrap()), Err(EvaluationError::Undefined));
    assert_eq!(next.evaluate(0, regorus::Value::from_json_str("{\"x\": 1}").unwrap()), Ok(regorus::Value::from(true)));
    said.push_str(" and goes on");
    said
}

#[test]
fn policies_written_to_take_the_gate_down_are_refused_or_denied_and_the_process_goes_on() {
    if let Ok(name) = std::env::var("PORTCULLIS_HOSTILE") {
        let (_, rules, _) = hostile().into_iter().find(|(known, ..)| *known == name).unwrap();
        // A worker's stack.
        let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(move || judge(&rules));
        println!("SAID {}", worker.unwrap().join().unwrap());
        return;
    }
    let own = std::env::current_exe().unwrap();
    let mut wrong = String::new();
    let all = hostile();
    assert!(all.len() >= 20);
    for (name, _, ends) in all {
        let began = Instant::now();
        let said = Command::new("sh")
            .args(["-c", &format!("ulimit -v {KIB}; exec timeout 60 \"$0\" policies_written --nocapture"), own.to_str().unwrap()])
            .env("PORTCULLIS_HOSTILE", name)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        let line = text.split("SAID ").nth(1).unwrap_or_default().lines().next().unwrap_or_default();
        let fits = match ends {
            Refused(why) => line.starts_with("refused ") && line.contains(why) && line.contains("p.rego:"),
            Denied => line.starts_with("denied "),
            Answers => line.starts_with("answered ") || line.starts_with("denied "),
        };
        let took = began.elapsed();
        if !said.status.success() || !fits || !line.ends_with("and goes on") || took > Duration::from_secs(20) {
            let short: String = line.chars().take(200).collect();
            let error = String::from_utf8_lossy(&said.stderr);
            let error: String = error.lines().filter(|line| !line.starts_with("   ")).take(4).collect::<Vec<_>>().join(" | ");
            let _ = writeln!(wrong, "{name}: {} in {took:?}: {short} {error}", said.status);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The modules of OPA's test cases: each block of a file's `modules`.
fn modules() -> Vec<String> {
    let said = Command::new("tests/parts").arg("opa-cases").current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let mut waiting = vec![std::path::PathBuf::from(String::from_utf8(said.stdout).unwrap().trim())];
    let mut found = Vec::new();
    while let Some(folder) = waiting.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let file: serde_json::Value = serde_yaml::from_str(&text).unwrap();
                for case in file.get("cases").and_then(|cases| cases.as_array()).into_iter().flatten() {
                    let texts = case.get("modules").and_then(|modules| modules.as_array()).into_iter().flatten();
                    found.extend(texts.filter_map(|module| module.as_str()).filter(|text| text.len() < 4000).map(str::to_owned));
                }
            }
        }
    }
    found.sort();
    found
}

/// Chance that is the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

/// The words and marks of a text.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if word(first) { rest.find(|c| !word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (piece, after) = rest.split_at(length);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A text with some pieces gone, doubled, moved, or taken from another.
fn mutated(chance: &mut Chance, texts: &[String]) -> String {
    let pick = |chance: &mut Chance| pieces(&texts[chance.below(texts.len())]);
    let mut text = pick(chance);
    let other = pick(chance);
    for _ in 0..1 + chance.below(4) {
        let (at, from) = (chance.below(text.len()), chance.below(other.len()));
        let length = 1 + chance.below(8);
        let end = (at + length).min(text.len());
        match chance.below(5) {
            0 => drop(text.drain(at..end)),
            1 => text = [&text[..at], &other[from..(from + length).min(other.len())], &text[at..]].concat(),
            2 => text = [&text[..end], &text[at..end], &text[at..end], &text[end..]].concat(),
            3 => {
                let with = chance.below(text.len());
                text.swap(at, with);
            }
            _ => {
                text[at] = ["[", "{", "(", "-", "input", "data", "with", "not", "999999999999999999999", "\"%*d\"", "\u{0}"]
                    [chance.below(11)]
            }
        }
        if text.is_empty() {
            return String::new();
        }
    }
    text.concat()
}

/// Loads a text with each rule it seems to have, and asks each that loads.
fn asked(text: &str) -> usize {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("p.rego"), text).unwrap();
    let package = text.lines().find_map(|line| line.trim().strip_prefix("package ")).unwrap_or("a").trim().replace('.', "/");
    let mut names: Vec<&str> =
        text.lines().filter_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').next()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !matches!(*name, "" | "package" | "import" | "default" | "else"));
    let mut loaded = 0;
    for name in names.into_iter().take(3) {
        let entry = Entry::new(&format!("{package}/{name}"), None);
        let Ok(policy) = Policy::load(&config(home.path()), &[entry]) else { continue };
        loaded += 1;
        let mut engine = policy.engine().unwrap();
        for input in ["{}", "{\"a\": {\"b\": [1, \"x\"]}, \"x\": \"y\", \"l\": [1, 2, {\"k\": null}]}", "[1]"] {
            drop(engine.ask(0, regorus::Value::from_json_str(input).unwrap()));
        }
    }
    loaded
}

#[test]
fn policies_of_opa_with_a_word_too_many_leave_the_process_standing() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual);
    let texts = modules();
    let mut chance = Chance(number("PORTCULLIS_SEED", 0x5eed_0003));
    let (mut loaded, mut slowest) = (0, Duration::ZERO);
    for _ in 0..number("PORTCULLIS_CASES", 400) {
        let text = mutated(&mut chance, &texts);
        // An abort leaves the text it came from behind.
        if let Some(last) = std::env::var_os("PORTCULLIS_LAST") {
            std::fs::write(last, &text).unwrap();
        }
        let began = Instant::now();
        let worker = std::thread::Builder::new().stack_size(2 << 20).spawn({
            let text = text.clone();
            move || asked(&text)
        });
        loaded += worker.unwrap().join().unwrap_or_else(|_| panic!("a panic came through:\n{text}"));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}:\n{text}", began.elapsed());
        slowest = slowest.max(began.elapsed());
    }
    assert!(loaded > 10, "{loaded} loaded");
    println!("{loaded} loaded, the slowest took {slowest:?}");
}
