//! OPA's own test cases, judged the way the gate judges.
//!
//! In: the cases of the pinned OPA (`tests/parts opa-cases`), and the list of those known to fail. Out: how many pass. What must
//! stay true: every case goes through `Policy::load` and the engine of a worker, so that a case our own checks refuse counts as
//! failed; a case that fails and is not listed fails this test, and so does one that is listed and passes.
//! `PORTCULLIS_WRITE=1 cargo test --test conformance` writes the list anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::allow_attributes, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::policy::{BundleSource, Config, EngineChoice, Entry, EvaluationError, Limits, Policy, TestChoice};
use portcullis::units::{Size, Span};
use serde::Deserialize;
use serde_json::{Value, json};

/// The share of cases that must pass at least, of those that need no network, of the OPA whose language regorus implements. Today's
/// OPA has operators and strings regorus cannot parse; its cases are counted and listed as well, so that nobody forgets. To be raised
/// whenever the list gets shorter: a builtin more is worth a case or fifty.
const BAR: f64 = 94.0;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    note: String,
    query: String,
    #[serde(default)]
    modules: Vec<String>,
    data: Option<Value>,
    input: Option<Value>,
    input_term: Option<String>,
    want_result: Option<Vec<BTreeMap<String, Value>>>,
    want_error: Option<String>,
    want_error_code: Option<String>,
    #[serde(default)]
    sort_bindings: bool,
    #[serde(default)]
    strict_error: bool,
}

/// Why a case fails. What the gate refuses on purpose and its engine answers as OPA does is no failure, and told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// A builtin that is not there, or that the gate lets nobody call.
    Builtin,
    /// It is refused when it is loaded, on purpose or not.
    Refused,
    /// Another answer.
    Answer,
    /// No error where OPA has one.
    Lenient,
    /// An error where OPA has an answer.
    Failed,
    /// The two engines gave two answers.
    Engines,
}

impl Reason {
    fn code(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Refused => "refused",
            Self::Answer => "answer",
            Self::Lenient => "lenient",
            Self::Failed => "failed",
            Self::Engines => "engines",
        }
    }
}

fn folder() -> PathBuf {
    let said = Command::new("tests/parts").arg("opa-cases").current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    PathBuf::from(String::from_utf8(said.stdout).unwrap().trim())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "yaml") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// The rule that answers a case: the one its query names, or one that is written around the query.
fn entry(case: &Case) -> (Entry, Option<String>) {
    let names: Vec<String> = match &case.want_result {
        Some(rows) => rows.first().map(|row| row.keys().cloned().collect()).unwrap_or_else(|| vec!["x".to_owned()]),
        None => vec!["x".to_owned()],
    };
    let named = case.query.trim();
    let said = |name: &String| named.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    let names: Vec<&String> = names.iter().filter(|name| said(name)).collect();
    let object: Vec<String> = names.iter().map(|name| format!("{name:?}: {name}")).collect();
    let some = if names.is_empty() {
        String::new()
    } else {
        format!("\tsome {}\n", names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "))
    };
    let module = format!("package conformance_query\n\nanswer contains {{{}}} if {{\n{some}\t{named}\n}}\n", object.join(", "));
    (Entry::new("conformance_query/answer", None), Some(module))
}

/// The rule a query of the form `data.a.b = x` names.
fn named(case: &Case) -> Option<Entry> {
    let path = case.query.trim().strip_prefix("data.")?.strip_suffix(" = x")?;
    let plain = path.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    plain.then(|| Entry::new(&path.replace('.', "/"), None))
}

enum Answer {
    Rows(Vec<Value>),
    /// The gate does not let it judge, for a reason of its own; this is what the engine alone says.
    Unfit(Box<Self>),
    Error(String),
    Refused(String),
    Split(String),
}

fn ask(case: &Case, home: &Path, entry: &Entry, direct: bool) -> Answer {
    let load = |engine| {
        let config = Config {
            bundles: BTreeMap::from([("cases".to_owned(), BundleSource::at(home.to_owned()))]),
            decision: entry.decision.clone(),
            result: None,
            may_kill: Vec::new(),
            reuse: Size::mib(0),
            shadow: None,
            tests: TestChoice::default(),
            engine,
            limits: Limits { time: Span::millis(5000), ..Limits::default() },
        };
        Policy::load(&config, std::slice::from_ref(entry))
    };
    let policy = match load(EngineChoice::Auto) {
        Ok(policy) => policy,
        Err(report) => return refused(case, home, entry, direct, &report.to_string()),
    };
    let input = input(case);
    let both = policy.engine().unwrap().ask(0, input.clone()).answer;
    let alone = load(EngineChoice::Interpreter).unwrap().engine().unwrap().ask(0, input).answer;
    if both != alone {
        return Answer::Split(format!("{both:?} and {alone:?}"));
    }
    match alone {
        Ok(value) => rows(&value, direct),
        Err(EvaluationError::Undefined) => Answer::Rows(Vec::new()),
        Err(error) => Answer::Error(error.to_string()),
    }
}

/// What the gate says of a policy it does not let judge on purpose: it would be legal, and OPA would run it.
const ON_PURPOSE: &[&str] = &[
    "`with` names the builtin",
    "may not be called",
    "than there is",
    "the input can choose",
    "of the input by another",
    "can ask for gigabytes",
    "512 MiB",
    "more addresses than memory",
    "brackets are open at once",
    "stand at the same path",
];

fn refused(case: &Case, home: &Path, entry: &Entry, direct: bool, report: &str) -> Answer {
    let mut places = report.lines().filter(|line| line.contains(".rego:")).peekable();
    if places.peek().is_none() || !places.all(|line| ON_PURPOSE.iter().any(|part| line.contains(part))) {
        return Answer::Refused(report.to_owned());
    }
    // The engine as the gate sets it up.
    let mut engine = regorus::Engine::new();
    engine.set_strict_builtin_errors(false);
    engine.set_gather_prints(true);
    let mut add = || -> Option<()> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(home).ok()?.map(|file| file.unwrap().path()).collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file).ok()?;
            if file.extension()? == "rego" {
                engine.add_policy(file.display().to_string(), text).ok()?;
            } else {
                engine.add_data(regorus::Value::from_json_str(&text).ok()?).ok()?;
            }
        }
        Some(())
    };
    if add().is_none() {
        return Answer::Refused(report.to_owned());
    }
    engine.set_input(input(case));
    let rule = format!("data.{}", entry.decision.replace('/', "."));
    // What is refused on purpose may panic here.
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.eval_rule(rule)));
    let Ok(said) = said else { return Answer::Refused(report.to_owned()) };
    Answer::Unfit(Box::new(match said {
        Ok(regorus::Value::Undefined) => Answer::Rows(Vec::new()),
        Ok(value) => rows(&value, direct),
        Err(error) => Answer::Error(error.to_string()),
    }))
}

fn input(case: &Case) -> regorus::Value {
    match (&case.input, &case.input_term) {
        (Some(input), _) => regorus::Value::from_json_str(&input.to_string()).unwrap(),
        (None, Some(term)) => {
            let mut engine = regorus::Engine::new();
            let said = engine.eval_query(term.clone(), false).unwrap();
            said.result.first().and_then(|row| row.expressions.first()).unwrap().value.clone()
        }
        (None, None) => regorus::Value::Undefined,
    }
}

fn rows(value: &regorus::Value, direct: bool) -> Answer {
    let json = serde_json::from_str::<Value>(&value.to_json_str().unwrap()).unwrap();
    Answer::Rows(if direct { vec![json!({"x": json})] } else { json.as_array().unwrap().clone() })
}

fn same(wanted: &Value, found: &Value, sorted: bool) -> bool {
    match (wanted, found) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| one == other)
        }
        (Value::Array(one), Value::Array(other)) => {
            let order = |items: &[Value]| {
                let mut items = items.to_vec();
                if sorted {
                    items.sort_by_key(Value::to_string);
                }
                items
            };
            one.len() == other.len() && order(one).iter().zip(&order(other)).all(|(one, other)| same(one, other, sorted))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|found| same(value, found, sorted)))
        }
        _ => wanted == found,
    }
}

/// Who gave OPA's answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passed {
    ByTheGate,
    ByTheEngine,
}

/// What is wrong with the answer to a case.
fn judge(case: &Case) -> Result<Passed, (Reason, String)> {
    let home = tempfile::tempdir().unwrap();
    for (place, module) in case.modules.iter().enumerate() {
        std::fs::write(home.path().join(format!("module{place}.rego")), module).unwrap();
    }
    if let Some(data) = &case.data {
        std::fs::write(home.path().join("data.json"), data.to_string()).unwrap();
    }
    let fails = case.want_error.is_some() || case.want_error_code.is_some();
    let direct = named(case);
    let mut said = match &direct {
        Some(entry) => ask(case, home.path(), entry, true),
        None => Answer::Refused(String::new()),
    };
    // The query names a package, data, or nothing: a rule is written around it.
    if matches!(&said, Answer::Refused(report) if direct.is_none() || report.contains("names a package") || report.contains("no bundle has the rule") || report.contains("is a function"))
    {
        let (entry, module) = entry(case);
        std::fs::write(home.path().join("query.rego"), module.unwrap_or_default()).unwrap();
        said = ask(case, home.path(), &entry, false);
    }
    let (said, outcome) = match said {
        Answer::Unfit(engine) => (*engine, Passed::ByTheEngine),
        said => (said, Passed::ByTheGate),
    };
    let wanted = case.want_result.clone().unwrap_or_default();
    match said {
        Answer::Unfit(_) => Err((Reason::Refused, String::new())),
        Answer::Split(what) => Err((Reason::Engines, what)),
        Answer::Refused(_) | Answer::Error(_) if fails => Ok(outcome),
        Answer::Refused(report) => {
            let missing = report.contains("is neither a builtin") || report.contains("may not be called");
            Err((if missing { Reason::Builtin } else { Reason::Refused }, report))
        }
        Answer::Error(error) => Err((Reason::Failed, error)),
        // What OPA calls an error only when it is strict is undefined in the gate.
        Answer::Rows(rows) if fails && case.strict_error && rows.is_empty() => Ok(outcome),
        Answer::Rows(rows) if fails => Err((Reason::Lenient, format!("{rows:?}"))),
        Answer::Rows(rows) => {
            let wanted = Value::from(wanted.into_iter().map(Value::from_iter).collect::<Vec<_>>());
            let found = Value::from(rows);
            // The rows have no order of their own.
            let rows = |value: &Value| {
                let mut rows = value.as_array().unwrap().clone();
                rows.sort_by_key(Value::to_string);
                Value::from(rows)
            };
            if same(&rows(&wanted), &rows(&found), case.sort_bindings) || same(&wanted, &found, case.sort_bindings) {
                Ok(outcome)
            } else {
                Err((Reason::Answer, format!("wanted {wanted}, found {found}")))
            }
        }
    }
}

/// How the cases of one OPA fare.
struct Fared {
    asked: usize,
    /// The gate refuses it on purpose, and the engine alone gives OPA's answer.
    unfit: usize,
    failed: BTreeMap<String, (Reason, String)>,
}

impl Fared {
    fn share(&self) -> f64 {
        let hundredths = |count: usize| f64::from(u32::try_from(count).unwrap());
        100.0 * hundredths(self.asked - self.failed.len()) / hundredths(self.asked)
    }

    fn tell(&self, version: &str) {
        let passed = self.asked - self.failed.len();
        let (asked, share, unfit) = (self.asked, self.share(), self.unfit);
        eprintln!("OPA {version}: {passed} of {asked} cases pass ({share:.1} %), {unfit} of them by the engine alone; these fail:");
        let mut groups = BTreeMap::<(Reason, &str), usize>::new();
        for (note, (reason, _)) in &self.failed {
            *groups.entry((*reason, note.split('/').next().unwrap_or_default())).or_default() += 1;
        }
        for ((reason, group), count) in &groups {
            eprintln!("{:8} {count:4} {group}", reason.code());
        }
        if std::env::var_os("PORTCULLIS_SHOW").is_some() {
            self.failed.iter().for_each(|(note, (reason, said))| eprintln!("--- {} {note}\n{said}", reason.code()));
        }
    }
}

fn fared(folder: &Path) -> Fared {
    let mut cases: Vec<Case> = Vec::new();
    for file in files(folder) {
        let text = std::fs::read_to_string(&file).unwrap();
        let read: File = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        cases.extend(read.cases);
    }
    // What asks the network for an answer.
    let network = |case: &Case| {
        let calls = |text: &String| ["http.send", "net.lookup_ip_addr"].iter().any(|name| text.contains(name));
        calls(&case.query) || case.modules.iter().any(calls)
    };
    let asked: Vec<&Case> = cases.iter().filter(|case| !network(case)).collect();
    let judged = |half: &[&Case]| half.iter().map(|case| (case.note.replace('\n', " "), judge(case))).collect::<Vec<_>>();
    let all: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = asked.chunks(asked.len().div_ceil(2)).map(|half| scope.spawn(move || judged(half))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let unfit = all.iter().filter(|(_, said)| *said == Ok(Passed::ByTheEngine)).count();
    let failed = all.into_iter().filter_map(|(note, said)| Some((note, said.err()?))).collect();
    Fared { asked: asked.len(), unfit, failed }
}

#[test]
fn opas_own_cases_pass_but_for_those_that_are_listed() {
    let folder = folder();
    let versions = std::fs::read_to_string(folder.join("version")).unwrap();
    let (today, language) = versions.trim().split_once(' ').unwrap();
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/known.txt");
    let mut now = String::new();
    let mut share = 0.0;
    for version in [today, language] {
        let fared = fared(&folder.join(version));
        fared.tell(version);
        for (note, (reason, _)) in &fared.failed {
            let _ = writeln!(now, "{version:8} {:8} {note}", reason.code());
        }
        share = fared.share();
    }
    if std::env::var_os("PORTCULLIS_WRITE").is_some() {
        std::fs::write(&list, &now).unwrap();
    }
    let known = std::fs::read_to_string(&list).unwrap();
    let fresh: Vec<&str> = now.lines().filter(|line| !known.lines().any(|known| known == *line)).collect();
    let mended: Vec<&str> = known.lines().filter(|line| !now.lines().any(|now| now == *line)).collect();
    assert!(fresh.is_empty() && mended.is_empty(), "fail and are not listed: {fresh:#?}\nlisted and pass: {mended:#?}");
    assert!(share >= BAR, "{share}");
}
