//! The README says nothing that is not run here: its commands, its configuration, its policy, its metrics, its transcript.

use std::path::Path;
use std::process::{Command, Output};

use portcullis::config::Config;
use portcullis::metrics::Metrics;
use portcullis::policy::{Entry, Policy};

use crate::harness::*;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The code blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let of = |block: &str| block.split_once("\n```").map(|(code, _)| code.to_owned()).unwrap();
    text.split(&format!("```{language}\n")).skip(1).map(of).collect()
}

fn run(arguments: &[&str], folder: &Path, socket: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(folder)
        .env("PORTCULLIS_SOCKET", socket)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_readme_does_what_it_says() {
    let backend = Backend::start();
    let gate = Setup::default().start(backend.address);
    assert_eq!(gate.any(Speaks::Http2, "agents/research").await.get("/").await.status, 200);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines: Vec<String> = blocks("sh").iter().flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(lines.len() > 15, "{lines:?}");
    for line in &lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            // The tour is run below, and `dev` is what it stands on.
            ["cargo", "run", "--release", "--", "dev"] | ["cargo", "run", "--release", "--", "dev", "--tour"] => {}
            ["tests/run"] => assert!(root.join("tests/run").is_file()),
            // How `run` lives and ends is tested beside this, on the very binary.
            ["portcullis", "run", "-c", "gate.yaml"] => {}
            ["curl", "-s", address] => {
                let path = address.strip_prefix("http://127.0.0.1:9901").unwrap();
                assert_eq!(tokio::task::block_in_place(|| gate.admin(path)).0, 200, "{line}");
            }
            ["portcullis", ..] => {
                let arguments = quoted(line);
                let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
                let output = tokio::task::block_in_place(|| run(&arguments, gate.folder.path(), &gate.path("control.sock")));
                assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
                assert!(!output.stdout.is_empty(), "{line} says nothing");
            }
            _ => panic!("the README has a command that no test knows: {line}"),
        }
    }
    assert_eq!(gate.any(Speaks::Http2, "agents/research").await.get("/").await.status, 403, "the README's kill stands");
}

/// The words of a command line; `"` keeps some together.
fn quoted(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[test]
fn the_configuration_and_the_policy_of_the_readme_are_read() {
    let example = include_str!("../../examples/minimal/gate.yaml");
    let yaml = blocks("yaml");
    assert_eq!(yaml.len(), 1);
    assert_eq!(yaml[0].trim(), example.trim(), "the README shows examples/minimal/gate.yaml");
    Config::parse(&yaml[0], "README.md", &|_| None).unwrap_or_else(|report| panic!("{report}"));
    for rego in blocks("rego") {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("policy.rego"), rego).unwrap();
        let text = format!("bundles: {{authz: {{path: {}}}}}\n", folder.path().display());
        let config = serde_yaml::from_str(&text).unwrap();
        Policy::load(&config, &[Entry::new("portcullis/decision", None)]).unwrap_or_else(|report| panic!("{report}"));
    }
}

#[test]
fn the_examples_load_with_their_policies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for name in ["admin-api", "envoy-opa"] {
        let config = Config::read(&root.join(name).join("gate.yaml")).unwrap_or_else(|report| panic!("{report}"));
        let settings = portcullis::proxy::settings::Settings::new(&config.parts(), &Metrics::new("test").unwrap()).unwrap();
        Policy::load(&config.policy, &settings.entries).unwrap_or_else(|report| panic!("{name}: {report}"));
    }
}

#[test]
fn every_metric_the_readme_names_exists_and_none_is_left_out() {
    let metrics = Metrics::new("test").unwrap();
    drop((metrics.listener("l"), metrics.upstream("u"), metrics.bundle("b")));
    metrics.bundle("b").last_success.set(1.0);
    let scraped = metrics.encode();
    let exist: std::collections::BTreeSet<&str> =
        scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let text = readme();
    let named: std::collections::BTreeSet<&str> = text.split('`').filter(|word| word.starts_with("portcullis_")).collect();
    assert_eq!(named.difference(&exist).collect::<Vec<_>>(), Vec::<&&str>::new(), "named and not there");
    let unnamed: Vec<_> = exist.difference(&named).filter(|name| !INTERNAL.contains(name)).collect();
    assert!(unnamed.is_empty(), "there and not named: {unnamed:?}");
}

/// For whoever looks into a gate, not for dashboards.
const INTERNAL: [&str; 2] = ["portcullis_handshakes_open", "portcullis_ignored_verdict_keys_total"];

#[test]
fn every_test_the_readme_names_exists() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gate");
    let mut code = String::new();
    for entry in std::fs::read_dir(tests).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            code.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    let text = readme();
    let names: Vec<&str> =
        text.split('`').filter(|word| word.len() > 30 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names.iter().filter(|name| !name.starts_with("portcullis_")) {
        assert!(code.contains(&format!("fn {name}(")), "{name}");
    }
}

#[test]
fn the_tour_exits_0_and_the_readme_shows_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["dev", "--tour"], folder.path(), Path::new("unused"));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let transcript = blocks("text").into_iter().find(|block| block.starts_with("A tour of Portcullis")).expect("the transcript");
    let (told, shown): (Vec<String>, Vec<String>) =
        (told.trim_end().lines().map(bare).collect(), transcript.lines().map(bare).collect());
    assert_eq!(told, shown, "paste what `dev --tour` says into the README");
}

/// A line without what differs from run to run: numbers, ids, and where the binary lies.
fn bare(line: &str) -> String {
    let line = match line.split_once("portcullis k") {
        Some((before, rest)) => format!(
            "{}portcullis k{rest}",
            before.split("  ").map(|part| if part.contains('/') { "" } else { part }).collect::<Vec<_>>().join("  ")
        ),
        None => line.to_owned(),
    };
    let word = |word: &str| match word {
        id if id.len() > 30 && id.contains('-') && !id.contains('{') => "ID".to_owned(),
        // An id inside of something longer is letters and digits by chance.
        long if long.len() > 30 && long.contains('-') => long.replace(|c: char| c.is_ascii_hexdigit(), "0"),
        other => other.replace(|c: char| c.is_ascii_digit(), "0"),
    };
    let words: Vec<String> = line.split(' ').map(word).collect();
    let mut bare = words.join(" ");
    while bare.contains("00") {
        bare = bare.replace("00", "0");
    }
    bare.trim_end().to_owned()
}
