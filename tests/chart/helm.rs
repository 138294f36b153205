//! Helm, and the value sets it is given.
//!
//! In: a set's name. Out: the objects it renders to. The sets are the files of `charts/portcullis/ci` and the chart of a team that has
//! ours as a dependency, so that whoever adds a file there has it tested.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");
/// The chart of a team, with the gate as a sidecar.
pub(crate) const TEAM: &str = "team";
const KINDS: [&str; 3] = ["PodMonitor", "ServiceMonitor", "PrometheusRule"];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of a part, installed by `tests/parts`.
pub(crate) fn part(name: &str) -> PathBuf {
    let output = Command::new(root().join("tests/parts")).arg(name).output().unwrap();
    assert!(output.status.success(), "tests/parts {name}: {}", said(&output));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether what is generated is to be written, and not compared.
pub(crate) fn writing() -> bool {
    std::env::var_os("PORTCULLIS_WRITE").is_some()
}

pub(crate) fn helm(arguments: &[&str]) -> Output {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    let program = HELM.get_or_init(|| part("helm").join("helm"));
    let mut command = Command::new(program);
    // No cluster, even where there is one.
    command.current_dir(root()).env("KUBECONFIG", "/dev/null").args(arguments);
    command.output().unwrap()
}

/// The names of the value sets.
pub(crate) fn sets() -> Vec<String> {
    let files = std::fs::read_dir(root().join("charts/portcullis/ci")).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.map(|name| name.strip_suffix("-values.yaml").unwrap().to_owned()).collect();
    names.sort();
    assert!(names.len() >= 6, "{names:?}");
    names.push(TEAM.to_owned());
    names
}

pub(crate) fn values_file(set: &str) -> String {
    format!("charts/portcullis/ci/{set}-values.yaml")
}

/// The team's chart with ours in it, as `helm dependency build` leaves it.
fn team() -> &'static Path {
    static TEAM: OnceLock<tempfile::TempDir> = OnceLock::new();
    let built = TEAM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for part in ["charts", "examples/kubernetes"] {
            std::fs::create_dir_all(folder.path().join(part).parent().unwrap()).unwrap();
            assert!(Command::new("cp").arg("-r").arg(root().join(part)).arg(folder.path().join(part)).status().unwrap().success());
        }
        let chart = folder.path().join("examples/kubernetes/payroll");
        let built = helm(&["dependency", "build", chart.to_str().unwrap()]);
        assert!(built.status.success(), "{}", said(&built));
        folder
    });
    built.path()
}

/// What Helm is told for a set, after its command.
pub(crate) fn arguments(set: &str) -> Vec<String> {
    let mut arguments = vec!["gate".to_owned()];
    match set {
        TEAM => arguments.push(team().join("examples/kubernetes/payroll").to_str().unwrap().to_owned()),
        set => arguments.extend(["charts/portcullis".to_owned(), "-f".to_owned(), values_file(set)]),
    }
    arguments.extend(["-n", "apps"].map(str::to_owned));
    arguments
}

/// The rendered text of a set, in a cluster that has the Prometheus Operator.
pub(crate) fn text(set: &str) -> String {
    let mut told = arguments(set);
    told.insert(0, "template".to_owned());
    for kind in KINDS {
        told.extend(["--api-versions".to_owned(), format!("monitoring.coreos.com/v1/{kind}")]);
    }
    let output = helm(&told.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{set}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The objects a set renders to.
pub(crate) fn objects(set: &str) -> Vec<Value> {
    documents(&text(set))
}

pub(crate) fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    let documents = serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

pub(crate) fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The one object of a kind whose name has this ending.
pub(crate) fn object<'a>(objects: &'a [Value], of: &str, ending: &str) -> &'a Value {
    let found: Vec<_> = objects.iter().filter(|object| kind(object) == of && name(object).ends_with(ending)).collect();
    assert_eq!(found.len(), 1, "{of} …{ending}");
    found[0]
}
