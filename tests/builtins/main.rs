//! Our builtins against OPA's own: the same calls, the same answers, by either engine.
//!
//! Each case is a function and its arguments. One run of `opa eval` answers all of them; our VM and our interpreter answer each by
//! itself, as a value, under `not` and inside a comprehension. The real OPA comes from `tests/parts opa`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and says where"
)]

mod cases;
mod certificates;
mod graphql;
mod material;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::process::{Command, Stdio};

use cases::Case;
use portcullis::policy::{Chosen, Config, Engine, EngineChoice, Entry, EvaluationError, Kind, Policy};
use regorus::Value;
use serde_json::{Map, json};

/// Functions that look at the clock where nobody sees a time given, so the interpreter judges with them.
const CLOCKS: [(&str, usize); 3] = [
    ("io.jwt.decode_verify", 2),
    ("crypto.x509.parse_and_verify_certificates", 1),
    ("crypto.x509.parse_and_verify_certificates_with_options", 2),
];
const NAMES: [&str; 3] = ["a", "b", "c"];

fn opa() -> std::path::PathBuf {
    let parts = Command::new("bash").arg("tests/parts").arg("opa").output().expect("tests/parts runs");
    assert!(parts.status.success(), "{}", String::from_utf8_lossy(&parts.stderr));
    std::path::PathBuf::from(String::from_utf8(parts.stdout).unwrap().trim()).join("opa")
}

/// `f(c.a, c.b)`; a key and a time as constraints where there are three arguments.
fn call(function: &str, arity: usize, from: &str) -> String {
    if function == "io.jwt.decode_verify" && arity == 3 {
        return format!("{function}({from}.a, {{\"cert\": {from}.b, \"time\": {from}.c}})");
    }
    let arguments: Vec<String> = NAMES[..arity].iter().map(|name| format!("{from}.{name}")).collect();
    format!("{function}({})", arguments.join(", "))
}

fn functions(cases: &[Case]) -> Vec<(String, usize)> {
    let all: BTreeSet<(String, usize)> = cases.iter().map(|case| (case.function.to_owned(), case.arguments.len())).collect();
    all.into_iter().collect()
}

fn input(case: &Case) -> serde_json::Value {
    let members: Map<String, serde_json::Value> =
        NAMES.iter().zip(&case.arguments).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    json!(members)
}

/// JSON with its long numbers as text, since a key's modulus is beyond what numbers of JSON are read as.
fn read(json: &str) -> Value {
    let (mut written, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    let mut rest = json.chars().peekable();
    while let Some(character) = rest.next() {
        let mut number = String::new();
        if !quoted && character.is_ascii_digit() {
            number.push(character);
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                number.push(digit);
            }
        }
        match number.len() {
            0 => written.push(character),
            1..20 => written += &number,
            _ => written += &format!("\"{number}\""),
        }
        quoted ^= character == '"' && !escaped;
        escaped = quoted && character == '\\' && !escaped;
    }
    Value::from_json_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"))
}

/// A value as it reads once it was written as JSON: sets are lists, and long numbers text as above.
fn plain(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().into(),
        Value::Set(items) => items.iter_sorted().map(plain).collect::<Vec<_>>().into(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<BTreeMap<_, _>>().into()
        }
        Value::Number(number) => match number.format_decimal() {
            long if long.len() >= 20 => long.into(),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

/// Where two values differ first.
fn difference(path: &str, wanted: Option<&Value>, said: Option<&Value>) -> String {
    match (wanted, said) {
        (Some(Value::Array(one)), Some(Value::Array(other))) if one.len() == other.len() => {
            let place = (0..one.len()).find(|place| one.get(*place) != other.get(*place)).unwrap_or(0);
            difference(&format!("{path}/{place}"), one.get(place), other.get(place))
        }
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let name = one.keys().chain(other.keys()).find(|name| one.get(name) != other.get(name)).unwrap();
            difference(&format!("{path}/{name}"), one.get(name), other.get(name))
        }
        _ => format!("at {path:?}: OPA {wanted:?}, ours {said:?}"),
    }
}

/// What OPA says of each case; a case it has no value for is not in the map.
fn asked_of_opa(cases: &[Case]) -> BTreeMap<usize, Value> {
    let home = tempfile::tempdir().unwrap();
    let mut rego = "package t\n\nresults[i] := r if { some i, c in input.cases; r := answer(c) }\n".to_owned();
    for (function, arity) in functions(cases) {
        let condition = format!("c.f == \"{function}\"; count(c.arguments) == {arity}");
        rego += &format!("answer(c) := {} if {{ {condition} }}\n", call(&function, arity, "c.arguments"));
    }
    let listed: Vec<serde_json::Value> = cases.iter().map(|case| json!({"f": case.function, "arguments": input(case)})).collect();
    std::fs::write(home.path().join("p.rego"), rego).unwrap();
    std::fs::write(home.path().join("input.json"), json!({"cases": listed}).to_string()).unwrap();
    let run = Command::new(opa())
        .args(["eval", "--format", "raw", "-d", "p.rego", "-i", "input.json", "data.t.results"])
        .current_dir(home.path())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let answers = read(&String::from_utf8(run.stdout).unwrap());
    let place = |key: &Value| key.as_string().unwrap().parse().unwrap();
    answers.as_object().unwrap().iter().map(|(key, value)| (place(key), value.clone())).collect()
}

/// The bundle in a folder, with time enough for a comprehension over all cases.
fn configured(folder: &std::path::Path, engine: EngineChoice) -> Config {
    let written = json!({"bundles": {"t": {"path": folder}}, "limits": {"time": "20s"}});
    Config { engine, ..serde_json::from_value(written).unwrap() }
}

/// Both engines with three rules a function: its value, its negation, and a comprehension over many.
struct Ours {
    places: BTreeMap<(String, usize), usize>,
    engines: [Engine; 2],
}

impl Ours {
    fn new(cases: &[Case]) -> Self {
        let functions = functions(cases);
        let mut rego = "package t\n\n".to_owned();
        let mut entries = Vec::new();
        for (place, (function, arity)) in functions.iter().enumerate() {
            rego += &format!("value{place} := {}\n", call(function, *arity, "input"));
            rego += &format!("none{place} if not {}\n", call(function, *arity, "input"));
            rego += &format!("each{place} := [x | some c in input.l; x := {}]\n", call(function, *arity, "c"));
            entries.extend(["value", "none", "each"].map(|rule| Entry::new(&format!("t/{rule}{place}"), None)));
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("p.rego"), &rego).unwrap();
        let config = |engine| configured(home.path(), engine);
        let load = |choice| {
            let mut policy = Policy::load(&config(choice), &entries).unwrap_or_else(|report| panic!("{report}"));
            policy.judge_twice_every(NonZeroU32::MAX);
            policy
        };
        let (chosen, interpreted) = (load(EngineChoice::Auto), load(EngineChoice::Interpreter));
        for (place, (function, arity)) in functions.iter().enumerate() {
            let clock = CLOCKS.contains(&(function.as_str(), *arity));
            for entry in place * 3..place * 3 + 3 {
                let vm = chosen.chosen(entry) == Chosen::Vm;
                assert!(vm != clock, "{function}: {:?}", chosen.chosen(entry));
                assert_eq!(chosen.footprint(entry).clock, !vm, "{function}");
            }
        }
        let places = functions.into_iter().enumerate().map(|(place, function)| (function, place * 3)).collect();
        Self { places, engines: [chosen.engine().unwrap(), interpreted.engine().unwrap()] }
    }

    /// What both engines say by one rule; `None` for undefined.
    fn ask(&mut self, (function, arity): (&str, usize), rule: usize, input: &serde_json::Value) -> [Option<Value>; 2] {
        let entry = self.places[&(function.to_owned(), arity)] + rule;
        let mut said = Vec::new();
        for (place, engine) in self.engines.iter_mut().enumerate() {
            let evaluation = engine.ask(entry, Value::from_json_str(&input.to_string()).unwrap());
            if place == 0 && rule == 0 && !CLOCKS.contains(&(function, arity)) && evaluation.answer.is_ok() {
                assert_eq!(evaluation.by, Kind::Vm, "{function} {input}");
            }
            said.push(match evaluation.answer {
                // Sets become lists and numbers text, as in what OPA prints.
                Ok(value) => Some(plain(&value)),
                Err(EvaluationError::Undefined) => None,
                Err(error) => panic!("{function} {input}: {error}"),
            });
        }
        said.try_into().unwrap()
    }
}

/// Every case by OPA and by both of our engines.
fn compare(cases: &[Case], least: usize) {
    assert!(cases.len() >= least, "{} cases", cases.len());
    let expected = asked_of_opa(cases);
    let mut ours = Ours::new(cases);
    let mut wrong = Vec::new();
    for (place, case) in cases.iter().enumerate() {
        let (input, of) = (input(case), (case.function, case.arguments.len()));
        let wanted = expected.get(&place);
        for (said, engine) in ours.ask(of, 0, &input).into_iter().zip(["vm", "interpreter"]) {
            if said.as_ref() != wanted {
                let input: String = input.to_string().chars().take(300).collect();
                wrong.push(format!("{} by the {engine}\n  {input}\n  {}", case.function, difference("", wanted, said.as_ref())));
            }
        }
        let negated = wanted.is_none_or(|value| *value == Value::Bool(false)).then_some(Value::Bool(true));
        for said in ours.ask(of, 1, &input) {
            if said != negated {
                wrong.push(format!("not {}\n  {input}\n  OPA  {negated:?}\n  ours {said:?}", case.function));
            }
        }
    }
    for (function, arity) in functions(cases) {
        let mine = |case: &Case| case.function == function && case.arguments.len() == arity;
        let of: Vec<usize> = (0..cases.len()).filter(|place| mine(&cases[*place])).collect();
        let input = json!({"l": of.iter().map(|place| input(&cases[*place])).collect::<Vec<_>>()});
        let wanted: Vec<Value> = of.iter().filter_map(|place| expected.get(place).cloned()).collect();
        for said in ours.ask((&function, arity), 2, &input) {
            if said != Some(Value::from(wanted.clone())) {
                wrong.push(format!("a comprehension of {function} differs"));
            }
        }
    }
    let defined = expected.len();
    assert!(defined * 10 >= cases.len(), "only {defined} of {} cases have a value", cases.len());
    let shown: Vec<&String> = wrong.iter().take(12).collect();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), shown.iter().map(|line| line.as_str()).collect::<Vec<_>>().join("\n"));
}

#[test]
fn tokens_are_decoded_and_verified_as_opa_does() {
    compare(&cases::tokens(), 1000);
}

#[test]
fn constraints_hold_and_fail_as_in_opa() {
    compare(&cases::constraints(), 300);
}

#[test]
fn certificates_are_shown_as_opa_shows_them() {
    compare(&certificates::certificates(), 200);
}

#[test]
fn chains_verify_where_they_do_in_opa() {
    compare(&certificates::chains(), 100);
}

#[test]
fn hashes_and_codes_are_those_of_opa() {
    compare(&cases::digests(), 100);
}

#[test]
fn networks_contain_meet_and_merge_as_in_opa() {
    compare(&cases::networks(), 1000);
}

#[test]
fn lists_are_flattened_and_texts_split_as_in_opa() {
    compare(&cases::lists(), 50);
}

#[test]
fn uris_are_taken_apart_and_refused_as_in_opa() {
    compare(&cases::uris(), 1000);
}

#[test]
fn graphql_is_read_and_judged_as_in_opa() {
    let cases = graphql::graphql();
    assert!(cases.len() > 3000, "{} cases", cases.len());
    // Each call reads a schema, and a comprehension makes all of them within one evaluation.
    cases.chunks(400).for_each(|some| compare(some, 1));
}

/// A bundle of one rule that calls a builtin; what loading it says.
fn loaded(call: &str) -> Result<Policy, String> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("p.rego"), format!("package t\n\nr := {call}\n")).unwrap();
    let config = configured(home.path(), EngineChoice::Auto);
    Policy::load(&config, &[Entry::new("t/r", None)]).map_err(|report| report.to_string())
}

#[test]
fn every_builtin_of_opa_is_there_or_is_refused_by_name_with_the_next_step() {
    let run = Command::new(opa()).args(["capabilities", "--current"]).output().unwrap();
    let capabilities: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let (mut here, mut refused, mut nameless) = (0, 0, Vec::new());
    for builtin in capabilities["builtins"].as_array().unwrap() {
        let name = builtin["name"].as_str().unwrap();
        if builtin.get("infix").is_some() || name.starts_with("internal.") || name == "print" {
            continue;
        }
        let arity = builtin["decl"]["args"].as_array().map_or(0, Vec::len);
        let arguments: Vec<String> = NAMES.iter().chain(&["d", "e"]).take(arity).map(|name| format!("input.{name}")).collect();
        match loaded(&format!("{name}({})", arguments.join(", "))) {
            Ok(_) => here += 1,
            Err(report) => {
                refused += 1;
                if !report.contains("p.rego:3:") || !report.contains(&format!("`{name}` ")) || !report.contains("hint: ") {
                    nameless.push(report);
                }
            }
        }
    }
    assert!(nameless.is_empty(), "{}", nameless.join("\n"));
    assert!(here > 120 && refused > 40, "{here} here, {refused} refused");
}

#[test]
fn a_time_written_out_leaves_the_clock_alone() {
    for (call, clock) in [
        ("io.jwt.decode_verify(input.t, {\"secret\": \"s\", \"time\": 1000000000 * input.time.seconds})", false),
        ("io.jwt.decode_verify(input.t, {\"secret\": \"s\"})", true),
        ("io.jwt.decode_verify(input.t, input.c)", true),
        ("crypto.x509.parse_and_verify_certificates(input.t)", true),
        ("crypto.x509.parse_and_verify_certificates_with_options(input.t, {\"CurrentTime\": 1})", false),
        ("crypto.x509.parse_and_verify_certificates_with_options(input.t, {\"DNSName\": \"a\"})", true),
    ] {
        let policy = loaded(call).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(policy.footprint(0).clock, clock, "{call}");
    }
    // With the time in its place the VM judges it too.
    let call = "io.jwt.decode_verify(input.t, {\"secret\": \"s\", \"time\": input.now})";
    assert_eq!(loaded(call).unwrap_or_else(|report| panic!("{report}")).chosen(0), Chosen::Vm);
}
