//! What reads the record: `audit show`, `evidence` and `replay`, by the real program on the record of a real gate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::*;

/// Reads for everybody; destroying for operators; a header that only some requests have.
const POLICY: &str = r#"package portcullis

decision := {"allowed": count(reasons) == 0, "reasons": reasons}

reasons contains "not_for_you" if {
    input.request.method != "GET"
    input.peer.segments[0] != "operators"
}

reasons contains "frozen" if input.request.headers["x-frozen"][0] == "yes"
"#;

const RESOURCES: &str = "resources:
  - {match: {path: /v1/users/**, methods: [GET]}, type: user, sensitivity: high, effect: read}
  - {match: {path: /v1/users/**}, type: user, sensitivity: high, effect: destroy}
workloads:
  - {spiffe_id: \"spiffe://example.org/agents/*\", owner: data-team, kind: agent}
";

fn portcullis(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis")).args(words).output().unwrap()
}

/// What a command says on stdout, after the exit code it must have.
fn told(code: i32, words: &[&str]) -> String {
    let output = portcullis(words);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn parsed(code: i32, words: &[&str]) -> Value {
    let text = told(code, words);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn bundle(gate: &Gate, name: &str, policy: &str) -> String {
    let folder = gate.path(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("policy.rego"), policy).unwrap();
    folder.display().to_string()
}

fn log(gate: &Gate) -> String {
    gate.path("decisions.jsonl").display().to_string()
}

fn ids(groups: &Value) -> BTreeSet<String> {
    let ids = groups.as_array().unwrap().iter().flat_map(|group| group["decision_ids"].as_array().unwrap());
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// The decision ids of the record whose core is as wanted.
fn those(record: &[Value], wanted: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let decisions = record.iter().filter(|line| line["portcullis"]["kind"] == "decision" && wanted(&line["portcullis"]));
    decisions.map(|line| line["decision_id"].as_str().unwrap().to_owned()).collect()
}

/// A gate whose record holds reads, a denial, an operator's deletion, a stream a kill cut and a refusal by that kill.
async fn busy(audit: &str) -> (Gate, Backend) {
    let backend = Backend::answering(|seen, stream| {
        use std::io::Write as _;
        if seen.target() != "/v1/events" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            stream.write_all(b"d\r\ndata: event\n\n\r\n")?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    let audit = format!("  file: decisions.jsonl\n{audit}");
    let setup = Setup { extra: RESOURCES.to_owned(), audit, ..Setup::policy(POLICY) };
    let mut gate = setup.start(backend.address);
    let mut agent = gate.any(Speaks::Http1, "agents/research").await;
    let mut operator = gate.any(Speaks::Http2, "operators/alice").await;
    assert_eq!(agent.get("/v1/users/7").await.status, 200);
    assert_eq!(agent.get("/v1/users/8?x=1").await.status, 200);
    let refused = Answer::of(within("delete", agent.send(request("DELETE", "/v1/users/7", empty()))).await.unwrap()).await;
    assert_eq!(refused.status, 403);
    let done = Answer::of(within("delete", operator.send(request("DELETE", "/v1/users/7", empty()))).await.unwrap()).await;
    assert_eq!(done.status, 200);
    let mut frozen = request("GET", "/v1/users/9", empty());
    frozen.headers_mut().insert("x-frozen", "yes".parse().unwrap());
    assert_eq!(Answer::of(within("frozen", operator.send(frozen)).await.unwrap()).await.status, 403);
    let mut open = gate.any(Speaks::Http1, "agents/research").await;
    let events = open.open("/v1/events").await;
    tokio::task::block_in_place(|| gate.kill("{\"spiffe_id\": \"spiffe://example.org/agents/research\"}"));
    drop(events);
    let mut again = gate.any(Speaks::Http1, "agents/research").await;
    assert_eq!(again.get("/v1/users/7").await.status, 403);
    drop((agent, operator, open, again));
    gate.stop();
    (gate, backend)
}

fn lines(gate: &Gate) -> Vec<Value> {
    let text = std::fs::read_to_string(gate.path("decisions.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_tells_who_did_what_how_it_ended_and_who_killed_it() {
    let (gate, _backend) = busy("").await;
    let file = log(&gate);
    // A torn line, one of somebody else's, and one of a later version.
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("{\"timestamp\": \"2026-01-01T00:00:00Z\", \"portcullis\": {\"kind\": \"new\"}}\n{\"msg\": \"hi\"}\n{\"torn");
    std::fs::write(&file, text).unwrap();
    let output = portcullis(&["audit", "show", "--identity", "spiffe://example.org/agents/research", &file]);
    let text = String::from_utf8(output.stdout).unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && talk.contains("1 line is no JSON") && talk.contains("1 line is no decision log's"),
        "{talk}"
    );
    for part in [
        "GET gate.test/v1/users/7 (user, high, read)",
        "DELETE gate.test/v1/users/7 (user, high, destroy)\n    policy: not_for_you; rule portcullis/decision of generation 1; 403;",
        "cut: kill; killed by ",
        "(\"test\", kill ",
        "POST /v1/kills → 200 killed: 1 cut",
        "    killed; ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("operators/alice"), "{text}");
    let all = told(0, &["audit", "show", "--json", &file]);
    let events: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decisions = events.iter().filter(|event| event["event"] == "decision").count();
    assert_eq!(decisions, those(&lines(gate_without_tail(&gate)), |_| true).len(), "{all}");
    let cut = events.iter().find(|event| event["ending"] == "cut").unwrap();
    assert_eq!((&cut["killed"]["reason"], &cut["cause"]), (&json!("test"), &json!("kill")), "{cut}");
    assert!(cut["kill"].is_string() && cut["kill"] == cut["killed"]["kill"], "{cut}");
    // One decision, whole; one that is not there.
    let id = events.iter().find(|event| event["verdict"] == "deny").unwrap()["decision_id"].as_str().unwrap();
    let one = told(0, &["audit", "show", "--decision", id, &file]);
    assert!(one.contains("input {") && one.contains("\"not_for_you\"") && one.contains("bundle authz sha256:"), "{one}");
    told(1, &["audit", "show", "--decision", "00000000-0000-4000-8000-000000000000", &file]);
    assert_eq!(told(0, &["audit", "show", "--to", "2020-01-01", &file]), "");
    told(64, &["audit", "show", "--to", "yesterday", &file]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_was_recorded_while_open_is_told_again_when_it_ends() {
    let (gate, _backend) = busy("  durability: written\n").await;
    let file = log(&gate);
    let text = told(0, &["audit", "show", "--identity", "spiffe://example.org/agents/research", &file]);
    assert!(text.contains("GET gate.test/v1/events") && text.contains("open when this was written"), "{text}");
    let ended = text.lines().skip_while(|line| !(line.contains("  ended    ") && line.contains("/v1/events"))).nth(1);
    assert!(ended.is_some_and(|line| line.contains("cut: kill; killed by ") && line.contains("(\"test\", kill ")), "{text}");
    assert!(!text.contains("operators/alice"), "the end of what is not looked at is not told: {text}");
    let period = ["--from", "2020-01-01", "--to", "2100-01-01", "--format", "json"];
    let all = parsed(0, &[&["evidence", &file][..], &period].concat());
    let cut: Vec<&Value> = all["identities"].as_array().unwrap().iter().map(|it| &it["cut_by_kills"]).collect();
    assert_eq!(cut, [&json!(1), &json!(0)], "{all}");
}

/// The record again without what a test wrote behind it.
fn gate_without_tail(gate: &Gate) -> &Gate {
    let file = gate.path("decisions.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| line.contains("\"labels\"")).collect();
    std::fs::write(&file, kept.join("\n") + "\n").unwrap();
    gate
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_finds_exactly_the_decisions_another_bundle_changes() {
    let (gate, _backend) = busy("").await;
    let (file, config) = (log(&gate), gate.path("gate.yaml").display().to_string());
    let record = lines(&gate);
    let word = |core: &Value| core["reason"].is_null() || core["reason"] == "policy";

    // The bundle in force: nothing changes, with and without the configuration, though the policy reads a header most lines lack.
    let same = bundle(&gate, "same", POLICY);
    std::fs::write(gate.path("same/data.json"), "{}").unwrap();
    for more in [&[][..], &["-c", &config]] {
        let now = parsed(0, &[&["replay", &file, "--bundle", &same, "--json"], more].concat());
        let counts = (now["changed"].as_u64(), now["unknown"].as_u64(), now["same"].as_u64());
        assert_eq!(counts, (Some(0), Some(0), Some(those(&record, word).len() as u64)), "{now}");
        assert_eq!(now["skipped"], json!({"killed": 1}));
    }

    // A stricter one: exactly the agent's reads.
    let strict = bundle(
        &gate,
        "strict",
        &format!(
            "{POLICY}\nreasons contains \"no_agents\" if {{\n    input.peer.segments[0] == \"agents\"\n    input.request.method == \"GET\"\n}}\n"
        ),
    );
    let now = parsed(1, &["replay", &file, "--bundle", &strict, "-c", &config, "--json"]);
    let wanted =
        those(&record, |core| word(core) && core["method"] == "GET" && core["peer"] == "spiffe://example.org/agents/research");
    assert!(wanted.len() == 3, "{wanted:?}");
    assert_eq!(ids(&now["changes"]), wanted, "{now}");
    assert_eq!((&now["unknown"], &now["changes"][0]["change"]), (&json!(0), &json!("allow_to_deny")));
    assert_eq!(now["changes"][0]["now"], "policy: no_agents");
    let text = told(1, &["replay", &file, "--bundle", &strict, "-c", &config]);
    assert!(text.contains("3 would change") && text.contains("allow → deny"), "{text}");

    // One that lets more through, and gives another reason where it still denies.
    let lax = bundle(&gate, "lax", &POLICY.replace("\"not_for_you\"", "\"other\"").replace("== \"yes\"", "== \"never\""));
    let now = parsed(1, &["replay", &file, "--bundle", &lax, "-c", &config, "--json"]);
    let kinds: BTreeSet<&str> = now["changes"].as_array().unwrap().iter().map(|group| group["change"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["answer", "deny_to_allow"]), "{now}");
    assert_eq!(ids(&now["changes"]), those(&record, |core| core["reason"] == "policy"));

    // One that reads what the log does not hold: unknown, and never the same.
    let curious =
        bundle(&gate, "curious", &format!("{POLICY}\nreasons contains \"elsewhere\" if input.environment == \"nowhere\"\n"));
    let now = parsed(1, &["replay", &file, "--bundle", &curious, "-c", &config, "--json"]);
    assert_eq!((&now["changed"], &now["same"]), (&json!(0), &json!(0)), "{now}");
    assert_eq!(ids(&now["unknowns"]), those(&record, word));
    assert_eq!(now["unknowns"][0]["lacks"], json!(["input.environment"]));

    // What cannot load, what is no bundle of the configuration, and a log without a decision.
    let broken = bundle(&gate, "broken", "package portcullis\n\ndecision := nowhere.at.all\n");
    told(64, &["replay", &file, "--bundle", &broken]);
    told(64, &["replay", &file, "--bundle", &format!("other={same}"), "-c", &config]);
    let empty = gate.path("empty.jsonl").display().to_string();
    std::fs::write(&empty, "").unwrap();
    told(1, &["replay", &empty, "--bundle", &same]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_masked_hashed_or_told_by_a_clock_is_unknown_to_a_replay() {
    let (gate, _backend) = busy("").await;
    let file = log(&gate);
    let same = bundle(&gate, "same", POLICY);
    std::fs::write(gate.path("same/data.json"), "{}").unwrap();
    let line = lines(&gate).into_iter().find(|line| line["portcullis"]["reason"] == "policy").unwrap();
    let unknown = |change: &dyn Fn(&mut Value), bundle: &str| {
        let mut line = line.clone();
        change(&mut line);
        std::fs::write(&file, format!("{line}\n")).unwrap();
        let now = parsed(1, &["replay", &file, "--bundle", bundle, "--json"]);
        assert_eq!((&now["unknown"], &now["judged"]), (&json!(1), &json!(1)), "{now}");
        now["unknowns"][0]["lacks"].to_string()
    };
    let masked = unknown(&|line| line["masked"] = json!(["/input/request/method"]), &same);
    assert!(masked.contains("input.request.method"), "{masked}");
    let erased = unknown(&|line| line["erased"] = json!(["/input/peer/segments"]), &same);
    assert!(erased.contains("input.peer.segments"), "{erased}");
    let hashed = unknown(&|line| line["input"]["request"]["headers"]["x-frozen"] = json!(["sha256:ba7816bf8f01cfea"]), &same);
    assert!(hashed.contains("a hash stands for it"), "{hashed}");
    let numbered = bundle(&gate, "numbered", POLICY);
    std::fs::write(gate.path("numbered/.manifest"), r#"{"revision": "2026.1"}"#).unwrap();
    let number = |line: &mut Value| line["bundles"]["authz"]["revision"] = json!("2026.1");
    let other = unknown(&number, &numbered);
    assert!(other.contains("input.request.headers.x-frozen"), "a revision of a manifest proves nothing: {other}");
    let trusted = parsed(0, &["replay", &file, "--bundle", &numbered, "--trust-revisions", "--json"]);
    assert_eq!(trusted["same"], 1, "{trusted}");
    let clock = bundle(&gate, "clock", &format!("{POLICY}\nreasons contains \"late\" if time.now_ns() < 0\n"));
    let clock = unknown(&|_| (), &clock);
    assert!(clock.contains("time.now_ns"), "{clock}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_known_to_a_replay_only_where_it_was_recorded() {
    let policy = "package portcullis\n\ndecision := {\"allowed\": input.request.body.role == \"viewer\"}\n";
    for (detail, code) in [("footprint", 1), ("head", 1), ("full", 0)] {
        let backend = Backend::start();
        let audit = format!("  file: decisions.jsonl\n  input: {detail}\n");
        let mut gate = Setup { audit, ..Setup::policy(policy) }.start(backend.address);
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        assert_eq!(client.post("/v1/users", "{\"role\": \"viewer\"}").await.status, 200);
        assert_eq!(client.post("/v1/users", "{\"role\": \"owner\"}").await.status, 403);
        gate.stop();
        let (file, same) = (log(&gate), gate.path("policy").display().to_string());
        let now = parsed(code, &["replay", &file, "--bundle", &same, "--json"]);
        let wanted = if detail == "full" { (0, 2) } else { (2, 0) };
        assert_eq!(
            (&now["unknown"], &now["same"], &now["changed"]),
            (&json!(wanted.0), &json!(wanted.1), &json!(0)),
            "{detail}: {now}"
        );
        // A whole head shows every header, so the absence of one is known whatever the policy of then read.
        let team = bundle(
            &gate,
            "team",
            &format!("{policy}\nx := input.request.headers[\"x-team\"]\n")
                .replace("\"viewer\"}", "\"viewer\", \"reasons\": [y | y := input.request.headers[\"x-team\"][0]]}"),
        );
        let now = parsed(code, &["replay", &file, "--bundle", &team, "--json"]);
        let header = now.to_string().contains("input.request.headers.x-team");
        assert_eq!(header, detail == "footprint", "{detail}: {now}");
    }
}

/// Rows of a CSV as Python's own reader reads them.
fn rows(csv: &str, folder: &Path) -> Vec<Value> {
    let file: PathBuf = folder.join("review.csv");
    std::fs::write(&file, csv).unwrap();
    let script = "import csv, json, sys\nprint(json.dumps(list(csv.DictReader(open(sys.argv[1], newline='')))))";
    let output = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_tells_what_each_identity_did_and_what_it_may_do_and_did_not() {
    let (gate, _backend) = busy("").await;
    let (file, config) = (log(&gate), gate.path("gate.yaml").display().to_string());
    let period = ["--from", "2020-01-01", "--to", "2100-01-01"];
    let agent = "spiffe://example.org/agents/research";

    let all = parsed(0, &[&["evidence", &file, "-c", &config, "--format", "json"][..], &period].concat());
    let of = |name: &str| all["identities"].as_array().unwrap().iter().find(|it| it["identity"] == name).unwrap().clone();
    let (research, alice) = (of(agent), of("spiffe://example.org/operators/alice"));
    assert_eq!(
        (&research["allowed"], &research["denied"], &research["owner"]),
        (&json!(3), &json!(2), &json!("data-team")),
        "{research}"
    );
    assert_eq!((&research["cut_by_kills"], &research["refused_by_kills"]), (&json!(1), &json!(1)), "{research}");
    let kill = &research["kills"][0];
    assert_eq!((&kill["reason"], &kill["struck"]), (&json!("test"), &json!(2)), "what it cut, and what it refused: {research}");
    assert!(kill["id"].is_string() && research["kills"].as_array().unwrap().len() == 1, "{research}");
    assert_eq!(research["denial_reasons"], json!({"killed": 1, "policy": 1, "policy: not_for_you": 1}));
    let reads =
        research["used"].as_array().unwrap().iter().find(|did| did["path"] == "/v1/users/{id}" && did["action"] == "GET").unwrap();
    assert_eq!((&reads["allowed"], &reads["denied"], &reads["sensitivity"]), (&json!(2), &json!(1), &json!("high")), "{reads}");
    // The agent may not destroy; the operator may read both kinds and did neither with success.
    assert_eq!(research["allowed_unused"], json!([]), "{research}");
    let paths: Vec<&Value> = alice["allowed_unused"].as_array().unwrap().iter().map(|did| &did["path"]).collect();
    assert_eq!(paths, [&json!("/v1/events"), &json!("/v1/users/{id}")], "{alice}");
    assert_eq!((&all["checkpoints"]["count"], &all["lacks"]["lost"]), (&json!(1), &json!(0)));
    assert!(all["checkpoints"]["last"]["seq"].is_u64() && all["checkpoints"]["last"]["hash"].is_string(), "{all}");
    assert_eq!(all["policies"][0]["bundle"], "authz");

    // What strangers write is no formula, and what the record lacks is told.
    let mut text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|line| line.contains("\"method\":\"DELETE\"")).unwrap();
    let formula = line.replace("\"path\":\"/v1/users/7\"", r#""path":"=HYPERLINK(\"http://evil\",\"x\")""#);
    assert_ne!(formula, line);
    text = format!(
        "{text}{formula}\n{}\n{}\n",
        r#"{"timestamp": "2026-11-30T00:00:00Z", "portcullis": {"kind": "loss", "lost": 3, "refused": 0, "torn": 0}}"#,
        r#"{"timestamp": "2026-11-30T00:00:00Z", "portcullis": {"kind": "checkpoint", "seq": 7, "hash": "ab"}}"#
    );
    std::fs::write(&file, text).unwrap();
    let csv = told(0, &[&["evidence", &file, "-c", &config][..], &period].concat());
    let rows = rows(&csv, gate.folder.path());
    let row = |what: &str, path: &str| {
        rows.iter().find(|row| row["row"] == what && row["path"] == path).unwrap_or_else(|| panic!("{csv}"))
    };
    assert_eq!(row("used", "'=HYPERLINK(\"http://evil\",\"x\")")["identity"], agent);
    assert_eq!(row("allowed_unused", "/v1/events")["identity"], "spiffe://example.org/operators/alice");
    assert!(row("lacks", "")["detail"].as_str().unwrap().starts_with("lines lost 3"), "{csv}");
    let last = rows.iter().rfind(|row| row["row"] == "checkpoint").unwrap();
    assert_eq!(last["detail"], "last: seq 7, hash ab");

    // Outside of the period there is nothing; a period has two ends in order.
    let none = parsed(0, &["evidence", &file, "--format", "json", "--from", "2020-01-01", "--to", "2020-02-01"]);
    assert_eq!((&none["identities"], &none["asked"]), (&json!([]), &Value::Null));
    told(64, &["evidence", &file, "--from", "2020-01-01"]);
    told(64, &["evidence", &file, "--from", "2020-01-02", "--to", "2020-01-01"]);
}

/// A request of the property: method, target, headers.
type Asked = (String, String, Vec<(String, String)>);

fn requests() -> impl Strategy<Value = Vec<Asked>> {
    let method = prop_oneof![Just("GET"), Just("DELETE"), Just("PUT")].prop_map(str::to_owned);
    let target = "/v1/(users|export)/[a-z0-9]{0,3}(\\?(page|token)=[a-z0-9]{1,4})?";
    let header = (prop_oneof![Just("x-frozen"), Just("x-team"), Just("accept")].prop_map(str::to_owned), "(yes|no|[a-z]{1,5})");
    proptest::collection::vec((method, target, proptest::collection::vec(header, 0..3)), 1..24)
}

#[test]
fn the_policy_in_force_changes_no_decision_whatever_was_asked() {
    // It reads the query, a few headers, a fact that stands only at times, and edits what passes.
    let policy = format!(
        "{POLICY}
reasons contains \"owned\" if input.workload.owner == \"nobody\"

reasons contains \"page\" if input.request.query.page[0] == \"7\"

decision := {{\"allowed\": true, \"headers\": {{\"x-team\": input.request.headers[\"x-team\"][0], \"authorization\": \"Bearer s\"}}}} if {{
    count(reasons) == 0
    input.request.headers[\"x-team\"]
}}
"
    )
    .replace(
        "decision := {\"allowed\": count(reasons) == 0, \"reasons\": reasons}",
        "default decision := false\n\ndecision := {\"allowed\": false, \"reasons\": reasons} if count(reasons) > 0\n\n\
         decision := true if {\n    count(reasons) == 0\n    not input.request.headers[\"x-team\"]\n}",
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(asked in requests())| {
        runtime.block_on(async {
            let backend = Backend::start();
            let mut gate = Setup { extra: RESOURCES.to_owned(), ..Setup::policy(&policy) }.start(backend.address);
            for (place, (method, target, headers)) in asked.iter().enumerate() {
                let who = if place % 2 == 0 { "agents/research" } else { "operators/alice" };
                let mut client = gate.any(Speaks::Http2, who).await;
                let mut request = request(method, target, empty());
                for (name, value) in headers {
                    request.headers_mut().append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
                }
                let _ = Answer::of(within("an answer", client.send(request)).await.unwrap()).await;
            }
            gate.stop();
            let (file, bundle) = (log(&gate), gate.path("policy").display().to_string());
            let now = parsed(0, &["replay", &file, "--bundle", &bundle, "--json"]);
            assert_eq!(now["judged"], json!(asked.len()), "{now}");
        });
    });
}
