//! What README.md says is so: its commands run, its files parse, its tables have the words of the code.
//!
//! In: README.md. Out: a failure that names the sentence that is not true any more. Each command of an `sh` block stands in
//! [`COMMANDS`] with how it is exercised; one that does not is a failure, so nobody can document a command that was never run.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking, and says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::SystemTime;

use portcullis::config::Config;
use portcullis::decision::Refusal;
use portcullis::demo::authority::{Authority, Lifetime};
use portcullis::judge::answer::{self, AnswerError};
use portcullis::judge::facts::FACTS;
use portcullis::policy::{Entry, Policy, ResultShape};
use portcullis::spiffe::{SpiffeId, TrustDomain};
use regorus::Value;

const README: &str = include_str!("../README.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// A series of a rule is there where there is a rule.
const RULE: &str = "anomaly: {rules: [{name: rate, rate: {requests: 6000, within: 1m}, action: score, score: 0.3}]}\n";

/// How a command of the README is exercised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Runs in a copy of what the README shows, and succeeds.
    Succeeds,
    /// Runs there as well, and says no with exit code 1.
    Denies,
    /// The gate of that copy: the commands after it speak to it.
    Serves,
    /// Its arguments are understood; it would take ports that may be taken, or run the tests that run this.
    Understood,
    /// Runs in the repository under the real Helm, without a cluster, and succeeds.
    Rendered,
    /// Somebody else does what it does: the tour and the scrape here, the story in tests/gate, the benches in tests/run.
    Elsewhere,
}
use How::{Denies, Elsewhere, Rendered, Serves, Succeeds, Understood};

const COMMANDS: &[(&str, How)] = &[
    ("cargo run --release -- dev", Understood),
    ("tests/run", Understood),
    ("cargo run --release -- dev --tour", Elsewhere),
    ("portcullis check -c gate.yaml", Succeeds),
    ("portcullis run -c gate.yaml", Serves),
    ("portcullis check -c examples/admin-api/gate.yaml", Succeeds),
    ("portcullis schema", Succeeds),
    ("portcullis check -c examples/envoy-opa/gate.yaml", Succeeds),
    ("portcullis check -c examples/spire/gate.yaml", Succeeds),
    ("portcullis check -c examples/sidecar/gate.yaml", Succeeds),
    ("portcullis check -c examples/bundles/gate.yaml", Succeeds),
    ("portcullis bundle build examples/bundles/prices -o prices.tar.gz --revision r43", Elsewhere),
    ("portcullis bundle sign prices.tar.gz --key release.key --algorithm ES256 --scope production --keyid release", Elsewhere),
    (
        "portcullis bundle verify examples/bundles/prices --key examples/bundles/release.pem --algorithm ES256 --scope production --exclude \"notes/*.md\"",
        Succeeds,
    ),
    ("portcullis bundle inspect examples/bundles/prices", Succeeds),
    ("portcullis test policies/admin-api --coverage-min 90", Succeeds),
    ("portcullis test policies/admin-api --run destroy -v", Succeeds),
    ("portcullis eval -c examples/admin-api/gate.yaml -i request.json --explain", Denies),
    ("portcullis explain 3f2a3f2a-0000-4000-8000-000000000000 -c gate.yaml", Elsewhere),
    ("portcullis check -c examples/combined/gate.yaml", Succeeds),
    ("portcullis policy coverage policies/path-roles", Succeeds),
    ("portcullis audit verify decisions.jsonl --key state/audit-checkpoint.pub.pem", Elsewhere),
    ("portcullis status", Succeeds),
    ("portcullis sessions", Succeeds),
    ("portcullis sessions --spiffe-id spiffe://example.org/agents/research", Succeeds),
    ("portcullis anomaly explain c10a54899044cf54048d5b2a51a8a947", Elsewhere),
    ("portcullis exchanges", Succeeds),
    ("portcullis kill --spiffe-id spiffe://example.org/agents/research --reason \"stolen key\" --ttl 15m --dry-run", Succeeds),
    ("portcullis kill --spiffe-id spiffe://example.org/agents/research --reason \"stolen key\" --ttl 15m", Succeeds),
    ("portcullis kill --upstream service --reason \"maintenance\" --json", Succeeds),
    ("portcullis kills", Succeeds),
    ("portcullis kills lift 7ef6c4dc-0fc1-4a55-99c8-b46601f81e3f", Succeeds),
    ("portcullis policy", Succeeds),
    ("portcullis policy activate --dry-run", Succeeds),
    ("portcullis policy activate", Succeeds),
    ("portcullis policy rollback", Succeeds),
    ("portcullis audit show --identity spiffe://example.org/agents/research decisions.jsonl", Succeeds),
    ("portcullis evidence --from 2026-12-01 --to 2027-01-01 -c gate.yaml --format csv decisions.jsonl", Succeeds),
    ("portcullis replay decisions.jsonl --bundle policy.new -c gate.yaml", Elsewhere),
    ("portcullis policy shadow", Succeeds),
    ("portcullis policy shadow --by-risk", Succeeds),
    ("helm lint --strict charts/portcullis -f charts/portcullis/ci/minimal-values.yaml", Rendered),
    ("helm template gate charts/portcullis -n apps -f charts/portcullis/ci/minimal-values.yaml", Rendered),
    ("helm install gate charts/portcullis -n apps -f charts/portcullis/ci/minimal-values.yaml --dry-run=client", Rendered),
    ("curl -s http://127.0.0.1:9901/metrics", Elsewhere),
    ("tests/parts envoy", Elsewhere),
    ("apt-get install nginx haproxy", Elsewhere),
    ("cargo run --release --manifest-path benches/Cargo.toml --bin run", Elsewhere),
    ("cargo run --release --manifest-path benches/Cargo.toml --bin run -- kill memory --quick", Elsewhere),
];

/// Where the runner of the benches reads its options.
const BENCHES: &str = include_str!("../benches/src/main.rs");

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        let Some(named) = line.strip_prefix("```") else { continue };
        assert!(["sh", "text", "yaml", "rego", "json"].contains(&named), "a block of `{named}` is checked by nobody");
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if named == language {
            found.push(body.join("\n") + "\n");
        }
    }
    assert!(!found.is_empty(), "no block of {language}");
    found
}

/// The rows of the table beneath a header row, as cells.
fn table(header: &str) -> Vec<Vec<&'static str>> {
    let rows: Vec<_> = README.lines().skip_while(|line| !line.starts_with(header)).skip(2).collect();
    assert!(!rows.is_empty(), "no table {header}");
    let rows = rows.into_iter().take_while(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

/// A folder as somebody has it who followed the README: its configuration with certificates and a policy, and the examples.
struct Desk {
    folder: tempfile::TempDir,
    gate: Option<Child>,
    admin: String,
    /// What the last kill that printed JSON is called.
    kill: String,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let authority = Authority::new(&TrustDomain::new("example.org").unwrap()).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let issued =
            authority.issue(&SpiffeId::new("spiffe://example.org/gate").unwrap(), Lifetime::starting(now - 60, 3600)).unwrap();
        std::fs::write(at("bundle.pem"), authority.ca_pem()).unwrap();
        std::fs::write(at("svid.pem"), issued.certificate_pem).unwrap();
        std::fs::write(at("svid.key"), issued.key_pem).unwrap();
        std::fs::write(at("gate.yaml"), &blocks("yaml")[0]).unwrap();
        std::fs::write(at("request.json"), blocks("json").into_iter().find(|block| block.starts_with("{\"request\"")).unwrap())
            .unwrap();
        copy(&root().join("policies"), &at("policies"));
        copy(&root().join("policies/admin-api"), &at("policy"));
        copy(&root().join("examples"), &at("examples"));
        Self { folder, gate: None, admin: String::new(), kill: String::new() }
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(words).current_dir(self.folder.path()).env_remove("PORTCULLIS_SOCKET").env_remove("PORTCULLIS_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed.
    fn succeeds(&mut self, line: &str) {
        let mut words = words(line);
        if let Some(id) = words.iter_mut().find(|word| uuid::Uuid::parse_str(word).is_ok()) {
            id.clone_from(&self.kill);
        }
        let output = self.command(&words).output().unwrap();
        assert!(output.status.success(), "{line}: {}", said(&output));
        if words[0] == "kill" && words.contains(&"--json".to_owned()) {
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            self.kill = answer["id"].as_str().unwrap().to_owned();
        }
    }

    /// Starts the gate of the folder, on ports that are free.
    fn serves(&mut self, line: &str) {
        let config = self.folder.path().join("gate.yaml");
        let text = std::fs::read_to_string(&config).unwrap().replace("127.0.0.1:8443", "127.0.0.1:0");
        std::fs::write(config, text + "admin: {address: 127.0.0.1:0}\n" + RULE).unwrap();
        let mut gate = self.command(&words(line)).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut log = BufReader::new(gate.stderr.take().unwrap()).lines().map_while(Result::ok);
        self.gate = Some(gate);
        let mut told = Vec::new();
        let bound = log.by_ref().inspect(|line| told.push(line.clone())).find(|line| line.contains("\"bound\""));
        let Some(bound) = bound else { panic!("{line}: {}", told.join("\n")) };
        let bound: serde_json::Value = serde_json::from_str(&bound).unwrap();
        self.admin = bound["fields"]["admin"].as_str().unwrap().to_owned();
        assert!(log.any(|line| line.contains("\"listening\"")), "{line} never listened");
        std::thread::spawn(move || log.for_each(drop));
    }

    fn scrape(&self) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            let _ = gate.kill();
            let _ = gate.wait();
        }
    }
}

/// The arguments of a command line, as a shell splits one with double quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate().flat_map(|(place, part)| match place % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    parts.skip(1).collect()
}

fn rendered(line: &str) {
    let part = Command::new(root().join("tests/parts")).arg("helm").output().unwrap();
    assert!(part.status.success(), "{}", said(&part));
    let program = Path::new(std::str::from_utf8(&part.stdout).unwrap().trim()).join("helm");
    let output = Command::new(program).args(words(line)).current_dir(root()).env("KUBECONFIG", "/dev/null").output().unwrap();
    assert!(output.status.success(), "{line}: {}", said(&output));
}

fn said(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn commands() -> Vec<String> {
    blocks("sh").iter().flat_map(|block| block.lines()).map(str::to_owned).collect()
}

#[test]
fn every_command_does_what_it_is_there_for() {
    let mut desk = Desk::new();
    for line in commands() {
        let known = COMMANDS.iter().find(|(command, _)| *command == line);
        let Some((_, how)) = known else { panic!("`{line}` stands in the README and is exercised by nobody") };
        match how {
            Succeeds => desk.succeeds(&line),
            Denies => assert_eq!(desk.command(&words(&line)).output().unwrap().status.code(), Some(1), "{line}"),
            Serves => desk.serves(&line),
            Rendered => rendered(&line),
            Elsewhere => {}
            Understood if line == "tests/run" => {
                let mode = std::fs::metadata(root().join(&line)).unwrap().permissions().mode();
                assert_eq!(mode & 0o111, 0o111, "tests/run is not executable");
            }
            Understood => {
                let (_, arguments) = line.split_once(" -- ").unwrap();
                let asked = words(&format!("portcullis {arguments} --help"));
                assert!(desk.command(&asked).output().unwrap().status.success(), "{line}");
            }
        }
    }
    let written: BTreeSet<String> = commands().into_iter().collect();
    for (command, _) in COMMANDS {
        assert!(written.contains(*command), "`{command}` is exercised, and stands in the README no more");
    }
}

#[test]
fn every_option_and_command_named_in_passing_is_there() {
    let help = |words: &[&str]| {
        let output = Command::new(PROGRAM).args(words).arg("--help").output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let all: String = [
        "dev",
        "run",
        "check",
        "schema",
        "status",
        "sessions",
        "exchanges",
        "kill",
        "kills",
        "policy",
        "anomaly",
        "eval",
        "explain",
        "test",
        "audit show",
        "audit verify",
        "bundle build",
        "bundle sign",
        "bundle verify",
        "bundle inspect",
        "policy activate",
        "policy coverage",
        "policy shadow",
        "evidence",
        "replay",
    ]
    .into_iter()
    .map(|command| help(&command.split(' ').collect::<Vec<_>>()))
    .collect();
    for option in quoted(README).into_iter().filter(|word| word.starts_with("--")) {
        let name = option.split(' ').next().unwrap();
        let known = all.contains(&format!("{option} ")) || BENCHES.contains(&format!("\"{name}\""));
        assert!(known, "no command takes {option}");
    }
}

/// What is the same in every tour: its steps and what stands on the left, and the table of the record.
fn shape(transcript: &str) -> Vec<String> {
    transcript.lines().map(|line| line.chars().take(34).collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn the_tour_is_the_one_that_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM).args(["dev", "--tour"]).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let shown = blocks("text").into_iter().find(|block| block.starts_with("A tour of Portcullis.")).unwrap();
    assert_eq!(shape(&String::from_utf8(output.stdout).unwrap()), shape(&shown));
}

#[test]
fn the_explanation_is_the_one_that_is_shown() {
    let desk = Desk::new();
    let line = "portcullis eval -c examples/admin-api/gate.yaml -i request.json --explain";
    let output = desk.command(&words(line)).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let shown = blocks("text").into_iter().find(|block| block.starts_with("verdict")).unwrap();
    // How long it took is another time each time.
    let lines = |text: &str| text.lines().filter(|line| !line.starts_with("time ")).map(str::to_owned).collect::<Vec<_>>();
    let (told, shown) = (lines(&text), lines(&shown));
    assert!(!shown.is_empty() && told.starts_with(&shown), "{text}");
}

#[test]
fn the_configuration_is_the_minimal_example() {
    for block in blocks("yaml") {
        // A block that is no whole configuration is a part to be added to the shortest.
        let whole = if block.contains("\nlisteners:") { block } else { blocks("yaml")[0].clone() + &block };
        Config::parse(&whole, "README.md", &|_| None).unwrap_or_else(|report| panic!("{report}\n{whole}"));
    }
    assert_eq!(blocks("yaml")[0], std::fs::read_to_string(root().join("examples/minimal/gate.yaml")).unwrap());
}

/// The policy section of the minimal example, with its bundle at a path.
fn policy_at(path: &Path) -> portcullis::policy::Config {
    let yaml = blocks("yaml")[0].replace("{path: policy}", &format!("{{path: \"{}\"}}", path.display()));
    Config::parse(&yaml, "README.md", &|_| None).unwrap().policy
}

#[test]
fn the_rego_that_is_shown_compiles() {
    for block in blocks("rego") {
        let folder = tempfile::tempdir().unwrap();
        if !block.contains("package portcullis") {
            std::fs::write(folder.path().join("decision.rego"), "package portcullis\n\ndecision := false\n").unwrap();
        }
        std::fs::write(folder.path().join("policy.rego"), block).unwrap();
        if let Err(report) = Policy::load(&policy_at(folder.path()), &[Entry::new("portcullis/decision", None)]) {
            panic!("{report}");
        }
    }
}

#[test]
fn the_record_has_the_keys_that_are_shown() {
    // The lines the encoder is held to.
    let golden = include_str!("../src/audit/record/golden.jsonl");
    let mut lines = golden.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["portcullis"].take());
    let mut core = lines.find(|line| line["kind"] == "decision").unwrap();
    core.as_object_mut().unwrap().remove("kind");
    for block in blocks("json") {
        let shown: serde_json::Value = serde_json::from_str(&block).unwrap();
        if shown.get("peer").is_some() {
            continue; // An input document.
        }
        let mut keys: BTreeSet<&String> = shown["portcullis"].as_object().unwrap().keys().collect();
        assert!(keys.remove(&"kind".to_owned()));
        assert_eq!(keys, core.as_object().unwrap().keys().collect());
    }
}

#[test]
fn the_metrics_are_those_of_a_scrape_with_their_labels() {
    let mut desk = Desk::new();
    desk.serves("portcullis run -c gate.yaml");
    let text = desk.scrape();
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        let series = text.lines().filter_map(|line| line.strip_prefix(name)).find_map(|rest| {
            let rest = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| rest.strip_prefix(suffix)).unwrap_or(rest);
            rest.starts_with(['{', ' ']).then_some(rest)
        });
        let labels = series.unwrap().strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name);
        found.insert(name, names.filter(|name| *name != "le").collect());
    }
    let shown: BTreeMap<&str, BTreeSet<&str>> = table("| metric | labels |")
        .into_iter()
        .map(|row| (quoted(row[0])[0], row[1].split(", ").filter(|label| !label.is_empty()).collect()))
        .collect();
    assert_eq!(shown, found);
}

#[test]
fn the_input_has_the_facts_of_the_table_and_no_others() {
    let rows = table("| input | what it is |");
    let shown: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(shown, FACTS.iter().map(|fact| fact.path[0]).collect());
    for fact in FACTS.iter().filter(|fact| fact.path.len() == 2 && fact.path[0] != "attributes") {
        let row = rows.iter().find(|row| quoted(row[0])[0] == fact.path[0]).unwrap();
        assert!(quoted(row[1]).contains(&fact.path[1]), "{:?} is not told", fact.path);
    }
}

fn asked(key: &str) -> Result<(), AnswerError> {
    let answer = Value::from_json_str(&format!("{{\"allowed\": false, \"{key}\": null}}")).unwrap();
    answer::read(&answer, ResultShape::Portcullis, &[]).map(|_| ())
}

#[test]
fn the_keys_of_a_verdict_are_known_and_those_of_later_are_not() {
    for key in table("| key | with | effect |").iter().flat_map(|row| quoted(row[0])) {
        assert!(!matches!(asked(key), Err(AnswerError::UnknownKey { .. } | AnswerError::NotYet { .. })), "{key}");
    }
    let limit = README.lines().find(|line| line.starts_with("- The verdict keys ")).unwrap();
    for key in quoted(limit) {
        assert!(matches!(asked(key), Err(AnswerError::NotYet { .. })), "{key}");
    }
    assert!(matches!(asked("unheard_of"), Err(AnswerError::UnknownKey { .. })));
}

#[test]
fn what_is_refused_is_refused_in_these_words() {
    let known: BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
    for word in table("| part | refused | brought to one form |").iter().flat_map(|row| quoted(row[1])) {
        assert!(known.contains(word), "{word} is no refusal");
    }
}

fn sources(folder: PathBuf, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut text = String::new();
    sources(root().join("src"), &mut text);
    sources(root().join("tests"), &mut text);
    for row in table("| promise | shown by |") {
        for name in quoted(row[1]) {
            assert!(text.contains(&format!("fn {name}(")), "there is no test {name}");
        }
    }
    for row in table("| what | measured | how to repeat |") {
        for part in quoted(row[2]).into_iter().filter_map(|command| command.strip_prefix("cargo test --test gate ")) {
            assert!(text.contains(&format!("fn {part}")), "no test begins with {part}");
        }
    }
}

#[test]
fn every_file_that_is_named_is_there() {
    let folders = ["charts/", "examples/", "policies/", "src/", "tests/"];
    let files = ["Dockerfile", "LICENSE"];
    let named = quoted(README).into_iter().filter(|word| folders.iter().any(|folder| word.starts_with(folder)));
    for path in named.chain(files) {
        assert!(root().join(path).exists(), "{path}");
    }
}

#[test]
fn a_policy_written_for_envoy_judges_as_it_stands() {
    let config = Config::read(&root().join("examples/envoy-opa/gate.yaml")).unwrap();
    let policy = Policy::load(&config.policy, &[Entry::new(&config.policy.decision, config.policy.result)]).unwrap();
    let mut engine = policy.engine().unwrap();
    for (workload, method, path, allowed) in [
        ("agents/research", "GET", "people", true),
        ("agents/research", "POST", "people", false),
        ("ops/console", "POST", "people", true),
        ("ops/console", "DELETE", "people", false),
        ("agents/unknown", "GET", "people", false),
        ("agents/unknown", "GET", "health", true),
    ] {
        let input = serde_json::json!({
            "attributes": {
                "source": {"principal": format!("spiffe://example.org/{workload}")},
                "request": {"http": {"method": method}},
            },
            "parsed_path": [path],
        });
        let answer = engine.evaluate(0, Value::from_json_str(&input.to_string()).unwrap()).unwrap();
        let verdict = answer::read(&answer, ResultShape::Envoy, &[]).unwrap();
        assert_eq!(verdict.allowed, allowed, "{workload} {method} {path}");
    }
}
