//! A signed bundle that is older than what was in force does not come back: not by its file, not by a restart, not unseen.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use portcullis::app::App;
use portcullis::config::Config;
use portcullis::policy::bundle::sign::{Contents, Statement};
use portcullis::policy::bundle::signature::Algorithm;
use serde_json::json;

use super::harness::{ALLOW, Gate, HANG, Setup};

const SECRET: &str = "the-secret-of-the-test";
const DENY: &str = "package portcullis\n\ndecision := false\n";

/// Writes a policy and signs it.
fn put(gate: &Gate, rego: &str, revision: &str, issued_at: Option<u64>) {
    // Signed beside, and moved: the gate looks at the folder while it is written.
    let beside = gate.path("beside");
    std::fs::create_dir_all(&beside).unwrap();
    std::fs::write(beside.join("policy.rego"), rego).unwrap();
    std::fs::write(beside.join(".manifest"), json!({"revision": revision}).to_string()).unwrap();
    let mut contents = Contents::open(&beside).unwrap();
    contents.sign(SECRET, Algorithm::HS256, &Statement { issued_at, ..Statement::default() }).unwrap();
    std::fs::write(gate.path("new.tar.gz"), contents.archive().unwrap()).unwrap();
    std::fs::rename(gate.path("new.tar.gz"), gate.path("signed.tar.gz")).unwrap();
}

/// A gate in front of nobody, whose bundle is signed.
fn start(issued_at: Option<u64>) -> Gate {
    let folder = Setup::policy(ALLOW);
    let setup = Setup { extra: "keys: {release: {key: file:secret, algorithm: HS256}}\n".to_owned(), ..folder };
    let mut gate = setup.start(SocketAddr::from(([127, 0, 0, 1], 1)));
    gate.stop();
    std::fs::write(gate.path("secret"), SECRET).unwrap();
    put(&gate, ALLOW, "r1", issued_at);
    configure(&gate, "");
    gate.restart();
    gate
}

fn configure(gate: &Gate, more: &str) {
    let text = std::fs::read_to_string(gate.path("gate.yaml")).unwrap();
    let (before, rest) = text.split_once("  bundles: {").unwrap();
    let (_, after) = rest.split_once('\n').unwrap();
    let bundles = format!("  bundles: {{authz: {{path: signed.tar.gz, signing: {{keyid: release{more}}}}}}}");
    std::fs::write(gate.path("gate.yaml"), format!("{before}{bundles}\n{after}")).unwrap();
}

fn activate(gate: &Gate, body: &str) -> (u16, serde_json::Value) {
    tokio::task::block_in_place(|| gate.control("POST", "/v1/policy/activate", body))
}

fn revision(gate: &Gate) -> String {
    let (_, policy) = tokio::task::block_in_place(|| gate.control("GET", "/v1/policy", ""));
    policy["revisions"]["authz"].as_str().unwrap().to_owned()
}

/// What keeps a gate on this folder from standing.
fn refusal(gate: &Gate) -> String {
    let config = Config::read(&gate.path("gate.yaml")).unwrap_or_else(|report| panic!("{report}"));
    App::bind(config).err().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_signed_bundle_is_refused_until_an_operator_names_it() {
    // Told by the time of the signature, and by what happened where it has none.
    for [first, second] in [[Some(1_700_000_000), Some(1_700_000_100)], [None, None]] {
        let mut gate = start(first);
        put(&gate, DENY, "r2", second);
        assert_eq!(activate(&gate, "{}").0, 200);
        put(&gate, ALLOW, "r1", first);
        let (status, answer) = activate(&gate, "{}");
        let report = answer["report"].as_str().unwrap();
        assert_eq!(status, 422, "{answer}");
        assert!(
            report.contains("revision `r1` is older than what was in force") && report.contains("--allow-rollback authz"),
            "{report}"
        );
        assert_eq!(revision(&gate), "r2");
        let counted = gate.metric("portcullis_bundle_failures_total", "code=\"rollback\"");
        assert!(counted >= 1.0);
        // A rehearsal is refused as well; a name nobody has is no permission.
        assert_eq!(activate(&gate, "{\"dry_run\": true}").0, 422);
        let (status, answer) = activate(&gate, "{\"allow_rollback\": [\"other\"]}");
        assert!(status == 422 && answer["report"].as_str().unwrap().contains("no bundle of that name"), "{answer}");
        let (status, answer) = activate(&gate, "{\"allow_rollback\": \"authz\"}");
        assert_eq!((status, &answer["field"]), (422, &json!("allow_rollback")));

        gate.stop();
        assert!(refusal(&gate).contains("revision `r1` is older"), "{}", refusal(&gate));
        put(&gate, DENY, "r2", second);
        gate.restart();
        assert_eq!(revision(&gate), "r2");

        put(&gate, ALLOW, "r1", first);
        let (status, answer) = activate(&gate, "{\"allow_rollback\": [\"authz\"]}");
        assert_eq!((status, &answer["older"]), (200, &json!(["authz"])), "{answer}");
        assert_eq!(revision(&gate), "r1");
        // What an operator let back stands, after a restart as well.
        gate.restart();
        assert_eq!(revision(&gate), "r1");
        let record = gate.record();
        let call = record.iter().map(|line| &line["portcullis"]).find(|line| line["detail"]["older"] == json!(["authz"])).unwrap();
        assert_eq!((&call["call"], &call["detail"]["allow_rollback"]), (&json!("POST /v1/policy/activate"), &json!(["authz"])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_can_name_the_revision_that_may_come_back() {
    let mut gate = start(Some(1_700_000_000));
    put(&gate, DENY, "r2", Some(1_700_000_100));
    assert_eq!(activate(&gate, "{}").0, 200);
    gate.stop();
    put(&gate, ALLOW, "r1", Some(1_700_000_000));
    configure(&gate, ", allow_rollback_to: r0");
    assert!(refusal(&gate).contains("revision `r1` is older"));
    configure(&gate, ", allow_rollback_to: r1");
    gate.restart();
    assert_eq!(revision(&gate), "r1");
    let record = gate.record();
    let told = record.iter().map(|line| &line["portcullis"]).find(|line| line["call"] == "signing.allow_rollback_to").unwrap();
    assert_eq!(told["detail"], json!({"authz": "r1"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_own_rollback_stands_beside_the_file() {
    for [first, second] in [[Some(1_700_000_000), Some(1_700_000_100)], [None, None]] {
        let mut gate = start(first);
        // The gate sees the file by itself, once; activated twice, the policy before this one would be itself.
        put(&gate, DENY, "r2", second);
        let begun = Instant::now();
        while revision(&gate) != "r2" {
            assert!(begun.elapsed() < HANG, "the file was not looked at");
        }
        let (status, answer) = tokio::task::block_in_place(|| gate.control("POST", "/v1/policy/rollback", "{}"));
        assert_eq!(status, 200, "{answer}");
        assert!(answer["notes"].to_string().contains("comes into force with the next change or restart"), "{answer}");
        assert_eq!(revision(&gate), "r1");
        // The file is still the newer one, and a restart reads files.
        gate.restart();
        assert_eq!(revision(&gate), "r2");
        // Its file put back, the older one is what the operator ordered.
        put(&gate, ALLOW, "r1", first);
        assert_eq!(activate(&gate, "{}").0, 200);
        gate.restart();
        assert_eq!(revision(&gate), "r1");
        // A third one ends that.
        let third = second.map(|at| at + 100);
        put(&gate, &format!("{ALLOW}\n# third\n"), "r3", third);
        assert_eq!(activate(&gate, "{}").0, 200);
        put(&gate, ALLOW, "r1", first);
        assert_eq!(activate(&gate, "{}").0, 422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_by_the_right_key_leaves_the_last_good_policy() {
    let mut gate = start(None);
    put(&gate, DENY, "r2", None);
    std::fs::write(gate.path("secret"), "another secret").unwrap();
    let counted = |code: &str| gate.metric("portcullis_bundle_failures_total", &format!("code=\"{code}\""));
    let before = counted("refused");
    let (status, answer) = activate(&gate, "{}");
    assert!(counted("signature") >= 1.0 && counted("refused") == before);
    assert!(status == 422 && answer["report"].as_str().unwrap().contains("does not verify with the key `release`"), "{answer}");
    assert_eq!(revision(&gate), "r1");
    // A secret is nowhere to be seen.
    let (_, status) = tokio::task::block_in_place(|| gate.control("GET", "/v1/status", ""));
    assert!(!status.to_string().contains("secret of"), "{status}");
    gate.stop();
    let check = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["check", "-c"]).arg(gate.path("gate.yaml")).output().unwrap();
    assert_eq!(check.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&check.stderr).contains("whoever signed it does not hold this key"));
}
