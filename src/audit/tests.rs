use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::decision::{Basis, Cause, Ending, Enforcement, Phase, Protocol, Reason, Refusal};

/// A record with its writer at work.
struct House {
    audit: Audit,
    writer: JoinHandle<()>,
    metrics: AuditMetrics,
}

fn config(file: &Path) -> Config {
    Config { file: file.to_owned(), wait: Span::millis(100), ..Config::default() }
}

fn open(config: &Config) -> Result<House, AuditError> {
    open_signed(config, None)
}

fn open_signed(config: &Config, signer: Option<Signer>) -> Result<House, AuditError> {
    let metrics = AuditMetrics {
        written: prometheus::IntCounter::new("written", "w").unwrap(),
        lost: prometheus::IntCounter::new("lost", "l").unwrap(),
        refused: prometheus::IntCounter::new("refused", "r").unwrap(),
        dropped: prometheus::IntCounter::new("dropped", "d").unwrap(),
        lag: prometheus::Gauge::new("lag", "l").unwrap(),
    };
    let labels = Labels {
        id: "instance".to_owned(),
        version: "1.2.3".to_owned(),
        environment: "test".to_owned(),
        extra: BTreeMap::from([("region".to_owned(), "north".to_owned())]),
    };
    let (audit, writer) = Audit::open(config, &labels, metrics.clone(), signer)?;
    Ok(House { audit, writer: std::thread::spawn(move || writer.run()), metrics })
}

impl House {
    /// Reserves one line and writes a decision of this id.
    async fn decide(&self, id: &str) -> Result<Ack, Full> {
        Ok(self.audit.reserve(1).await?.write(Line::Decision(&decision(id))))
    }

    async fn close(self) {
        self.audit.close().await.unwrap();
        self.writer.join().unwrap();
    }
}

fn decision(id: &str) -> Record<'_> {
    Record::new(SystemTime::UNIX_EPOCH, id, Core { exchange: Some(id), verdict: Outcome::Allow, ..Core::default() })
}

fn closing(id: &str) -> Closing<'_> {
    Closing {
        at: SystemTime::UNIX_EPOCH,
        decision_id: id,
        exchange: id,
        status: Some(200),
        bytes_in: 1,
        bytes_out: 2,
        duration: Some(Duration::from_millis(1500)),
        ending: Ending::Cut,
        cause: Some(Cause::Kill),
        kill: None,
        generation: Some(7),
        anomaly: &[],
        shadow: None,
    }
}

fn parse(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "a torn end: {text}");
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    lines.filter(|line: &Value| line["portcullis"]["kind"] != "start").collect()
}

fn lines(file: &Path) -> Vec<Value> {
    parse(&std::fs::read_to_string(file).unwrap())
}

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["portcullis"]["kind"] == kind).collect()
}

fn decided(lines: &[Value]) -> Vec<String> {
    let mut ids: Vec<_> = of_kind(lines, "decision").iter().map(|line| line["decision_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{n:05}")).collect()
}

fn fifo(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_fixed_core_is_in_a_record_that_says_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/er/decisions.jsonl");
    let house = open(&config(&file)).unwrap();
    let _ = house.decide("id").await.unwrap();
    house.close().await;
    let line = &lines(&file)[0];
    assert_eq!(line["labels"], serde_json::json!({"id": "instance", "version": "1.2.3", "environment": "test", "region": "north"}));
    assert_eq!(line["timestamp"], "1970-01-01T00:00:00.000000000Z");
    assert!(line.get("result").is_none(), "an absent result is an undefined one");
    let core = line["portcullis"].as_object().unwrap();
    for key in "kind exchange session peer environment task intent owner action tool resource route listener upstream delegation approval \
                exception break_glass credential basis enforcement verdict reason reasons generation trace_id protocol method host path \
                status bytes_in bytes_out bytes_read duration_seconds ending cause kill phase edits anomaly engine shadow"
        .split_whitespace()
    {
        assert!(core.contains_key(key), "{key}");
    }
    assert_eq!((&core["environment"], &core["verdict"], &core["peer"]), (&"test".into(), &"allow".into(), &Value::Null));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_full_record_reads_as_opa_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let house = open(&config(&file)).unwrap();
    let input = RawValue::from_string("{\n  \"a\": \"x\\ny\",\r\n \"b\": []}".to_owned()).unwrap();
    let result = RawValue::from_string("true".to_owned()).unwrap();
    let bundles = BTreeMap::from([("authz".to_owned(), "r1".to_owned())]);
    let reasons = ["too\nlate".to_owned()];
    let record = Record {
        requested_by: Some("10.0.0.7:36472".parse().unwrap()),
        path: Some("portcullis/decision"),
        input: Some(&input),
        result: Some(&result),
        bundles: Some(&bundles),
        evaluation: Some(Duration::from_nanos(4200)),
        ..Record::new(
            SystemTime::UNIX_EPOCH + Duration::from_nanos(1_764_000_000_000_000_001),
            "d1",
            Core {
                verdict: Outcome::Deny,
                reason: Some(Why::Denied(Reason::Policy)),
                reasons: &reasons,
                resource: Some(Resource { r#type: "user", sensitivity: "high", effect: "destroy" }),
                basis: Some(Basis::Standing),
                enforcement: Some(Enforcement::Enforce),
                protocol: Some(Protocol::Http2),
                phase: Some(Phase::Request),
                duration: Some(Duration::from_millis(250)),
                trace_id: Some("t1"),
                ..Core::default()
            },
        )
    };
    let refused = Record::new(
        SystemTime::UNIX_EPOCH,
        "d2",
        Core { reason: Some(Why::Refused(Refusal::BareLineEnd)), bytes_read: Some(17), ..Core::default() },
    );
    let mut permit = house.audit.reserve(3).await.unwrap();
    for line in [Line::Decision(&record), Line::Closing(&closing("d1")), Line::Decision(&refused)] {
        let _ = permit.write(line);
    }
    house.close().await;
    let lines = lines(&file);
    assert_eq!(lines.len(), 3, "one line each, whatever line ends the input had");
    let first = &lines[0];
    assert_eq!(first["timestamp"], "2025-11-24T16:00:00.000000001Z");
    assert_eq!(first["bundles"], serde_json::json!({"authz": {"revision": "r1"}}));
    assert_eq!(first["input"], serde_json::json!({"a": "x\ny", "b": []}));
    assert_eq!(first["metrics"]["timer_rego_query_eval_ns"], 4200);
    assert_eq!(
        (&first["requested_by"], &first["result"], &first["trace_id"]),
        (&"10.0.0.7:36472".into(), &true.into(), &"t1".into())
    );
    let core = &first["portcullis"];
    assert_eq!((&core["reason"], &core["reasons"][0]), (&"policy".into(), &"too\nlate".into()));
    assert_eq!(
        (&core["resource"]["type"], &core["protocol"], &core["duration_seconds"]),
        (&"user".into(), &"h2".into(), &0.25.into())
    );
    assert_eq!(
        lines[1]["portcullis"],
        serde_json::json!({"kind": "closing", "decision_id": "d1", "exchange": "d1", "status": 200, "bytes_in": 1, "bytes_out": 2,
            "duration_seconds": 1.5, "ending": "cut", "cause": "kill", "kill": null, "generation": 7, "anomaly": [], "shadow": null})
    );
    let core = &lines[2]["portcullis"];
    assert_eq!((&core["verdict"], &core["reason"], &core["bytes_read"]), (&"refused".into(), &"bare_line_end".into(), &17.into()));
}

#[tokio::test]
async fn every_line_of_concurrent_writers_is_there_exactly_once() {
    for durability in [Durability::Queued, Durability::Written, Durability::Synced] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("decisions.jsonl");
        let house = open(&Config { durability, queue: 64, wait: Span::seconds(20), ..config(&file) }).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let audit = house.audit.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        for id in ids(thread * 250..(thread + 1) * 250) {
                            let mut permit = audit.reserve(2).await.unwrap();
                            let ack = permit.write(Line::Decision(&decision(&id)));
                            if thread == 0 && id.ends_with('0') {
                                ack.recorded().await.unwrap();
                            }
                            let _ = permit.write(Line::Closing(&closing(&id)));
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let written = house.metrics.written.clone();
        house.close().await;
        let lines = lines(&file);
        assert_eq!(decided(&lines), ids(0..1000), "{durability:?}");
        assert_eq!(of_kind(&lines, "closing").len(), 1000);
        assert_eq!((lines.len(), written.get()), (2000, 2000));
    }
}

#[tokio::test]
async fn an_acknowledged_line_is_in_the_file() {
    for durability in [Durability::Written, Durability::Synced] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("decisions.jsonl");
        let house = open(&Config { durability, wait: Span::seconds(20), ..config(&file) }).unwrap();
        let began = Instant::now();
        for (number, id) in ids(0..60).iter().enumerate() {
            house.decide(id).await.unwrap().recorded().await.unwrap();
            assert_eq!(decided(&lines(&file)), ids(0..number + 1), "{durability:?}");
        }
        // By tick alone it would be three seconds: a line somebody waits for is written at once.
        assert!(durability == Durability::Synced || began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        house.close().await;
    }
}

#[tokio::test]
async fn a_line_is_written_within_a_tick_though_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let house = open(&config(&file)).unwrap();
    house.decide("a").await.unwrap().recorded().await.unwrap();
    eventually("the line is in the file", || decided(&lines(&file)) == ["a"]).await;
    eventually("nothing lags", || house.audit.lag() == Duration::ZERO).await;
    house.close().await;
}

#[tokio::test]
async fn a_full_disk_refuses_within_wait_and_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("link"), folder.path().join("decisions.jsonl"));
    symlink("/dev/full", &link).unwrap();
    let house = open(&Config { queue: 8, ..config(&link) }).unwrap();
    for id in ids(0..8) {
        house.decide(&id).await.unwrap().recorded().await.unwrap();
    }
    let asked = Instant::now();
    // Which of the two depends on how long ago the first write failed.
    assert!(matches!(house.audit.reserve(1).await.unwrap_err(), Full::Queue(_) | Full::Broken));
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert!(house.audit.lag() >= Duration::from_millis(100) && house.metrics.lag.get() >= 0.1);

    std::fs::remove_file(&link).unwrap();
    symlink(&file, &link).unwrap();
    house.audit.reopen();
    eventually("there is room again", || house.metrics.written.get() >= 8).await;
    let _ = house.decide("00008").await.unwrap();
    house.close().await;
    let lines = lines(&file);
    assert_eq!(decided(&lines), ids(0..9));
    let told: Vec<_> = of_kind(&lines, "loss").iter().map(|line| line["portcullis"].clone()).collect();
    assert_eq!(
        told,
        [serde_json::json!({"kind": "loss", "lost": 0, "refused": 1, "torn": 0, "dropped": 0, "undelivered": 0, "torn_text": []})]
    );
}

#[tokio::test]
async fn a_file_that_takes_nothing_refuses_in_less_than_a_second_however_long_a_request_may_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("link"), folder.path().join("decisions.jsonl"));
    symlink("/dev/full", &link).unwrap();
    let wait = Span::seconds(60);
    let house = open(&Config { durability: Durability::Written, wait, ..config(&link) }).unwrap();
    let asked = Instant::now();
    assert_eq!(house.decide("first").await.unwrap().recorded().await, Err(Full::Broken));
    assert_eq!(house.decide("second").await.unwrap().recorded().await, Err(Full::Broken));
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    std::fs::remove_file(&link).unwrap();
    symlink(&file, &link).unwrap();
    house.audit.reopen();
    eventually("it is written", || house.metrics.written.get() == 2).await;
    house.decide("third").await.unwrap().recorded().await.unwrap();
    house.close().await;
    assert_eq!(decided(&lines(&file)), ["first", "second", "third"]);
}

#[tokio::test]
async fn under_drop_a_full_record_lets_pass_and_counts_what_it_lost_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("link"), folder.path().join("decisions.jsonl"));
    symlink("/dev/full", &link).unwrap();
    let durability = Durability::Written;
    let house = open(&Config { queue: 8, on_full: OnFull::Drop, durability, ..config(&link) }).unwrap();
    for id in ids(0..20) {
        let mut permit = house.audit.reserve(2).await.unwrap();
        permit.write(Line::Decision(&decision(&id))).recorded().await.unwrap();
        permit.write(Line::Closing(&closing(&id))).recorded().await.unwrap();
    }
    assert_eq!(house.metrics.lost.get(), 32);
    std::fs::remove_file(&link).unwrap();
    symlink(&file, &link).unwrap();
    house.audit.reopen();
    house.close().await;
    let lines = lines(&file);
    assert_eq!(decided(&lines), ids(0..4));
    assert_eq!(of_kind(&lines, "loss")[0]["portcullis"]["lost"], 32);
}

#[tokio::test]
async fn a_decision_the_file_does_not_take_is_not_acknowledged() {
    for durability in [Durability::Written, Durability::Synced] {
        let house = open(&Config { durability, ..config(Path::new("/dev/full")) }).unwrap();
        assert_eq!(house.decide("a").await.unwrap().recorded().await, Err(Full::File(Span::millis(100))));
    }
    let queued = open(&config(Path::new("/dev/full"))).unwrap();
    queued.decide("a").await.unwrap().recorded().await.unwrap();
}

#[tokio::test]
async fn a_fifo_nobody_reads_stops_nothing_but_exchanges_and_recovers_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = fifo(&folder);
    let house = open(&Config { queue: 200, ..config(&path) }).unwrap();
    for id in ids(0..200) {
        house.decide(&id).await.unwrap().recorded().await.unwrap();
    }
    assert_eq!(house.audit.reserve(1).await.unwrap_err(), Full::Queue(Span::millis(100)));
    // A reader that takes small bites: more than a pipe holds is waiting, so writes are partial.
    let reader = std::thread::spawn(move || {
        let mut pipe = File::open(path).unwrap();
        let mut text = Vec::new();
        let mut bite = [0; 1000];
        while let Ok(taken @ 1..) = pipe.read(&mut bite) {
            text.extend_from_slice(&bite[..taken]);
        }
        String::from_utf8(text).unwrap()
    });
    eventually("there is room again", || house.metrics.written.get() >= 200).await;
    let _ = house.decide("00200").await.unwrap();
    house.close().await;
    let lines = parse(&reader.join().unwrap());
    assert_eq!(decided(&lines), ids(0..201));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_line_half_taken_by_a_reader_that_went_away_is_written_whole_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = fifo(&folder);
    let house = open(&config(&path)).unwrap();
    let long = "x".repeat(200_000);
    let record = Record { error: Some(&long), ..decision("long") };
    let mut permit = house.audit.reserve(2).await.unwrap();
    let _ = permit.write(Line::Decision(&record));
    let _ = permit.write(Line::Decision(&decision("short")));
    let first = path.clone();
    let first = std::thread::spawn(move || File::open(first).unwrap().read_exact(&mut [0; 100]).unwrap());
    first.join().unwrap();
    let open_here = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        files.filter(|file| std::fs::read_link(file.as_ref().unwrap().path()).is_ok_and(|to| to == path)).count()
    };
    eventually("the writer has seen its reader go", || open_here() == 0).await;
    let path = path.clone();
    let second = std::thread::spawn(move || {
        let mut text = String::new();
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    house.close().await;
    let lines = parse(&second.join().unwrap());
    assert_eq!(decided(&lines), ["long", "short"]);
}

#[tokio::test]
async fn calls_of_the_control_api_are_recorded_though_exchanges_fill_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("link"), folder.path().join("decisions.jsonl"));
    symlink("/dev/full", &link).unwrap();
    let house = open(&Config { queue: 8, ..config(&link) }).unwrap();
    for id in ids(0..8) {
        let _ = house.decide(&id).await.unwrap();
    }
    let call = ControlCall {
        at: SystemTime::UNIX_EPOCH,
        caller: Some("alice"),
        call: "POST /v1/kills",
        status: 200,
        outcome: "1 cut",
        detail: None,
    };
    for _ in 0..1030 {
        house.audit.control(&call);
    }
    std::fs::remove_file(&link).unwrap();
    symlink(&file, &link).unwrap();
    house.audit.reopen();
    house.close().await;
    let lines = lines(&file);
    let calls = of_kind(&lines, "control");
    assert_eq!((calls.len(), &calls[0]["portcullis"]["caller"]), (1024, &"alice".into()));
    assert_eq!(of_kind(&lines, "loss")[0]["portcullis"]["lost"], 6);
}

#[tokio::test]
async fn what_the_policy_drops_is_counted_to_the_record_and_once_in_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let house = open(&Config { queue: 8, ..config(&file) }).unwrap();
    let told = || of_kind(&lines(&file), "loss").len();
    house.audit.dropped();
    eventually("the first is told at once", || file.exists() && told() == 1).await;
    for id in ids(0..3) {
        house.audit.dropped();
        let _ = house.decide(&id).await.unwrap();
    }
    eventually("the lines are there", || house.metrics.written.get() == 4).await;
    assert_eq!(told(), 1, "a line about each line that is not there would be as many lines");
    // What was lost in earnest does not wait for that.
    let all = house.audit.reserve(8).await.unwrap();
    let _ = house.audit.reserve_at_last().write(Line::Decision(&decision("late")));
    drop(all);
    eventually("a loss is told", || told() == 2).await;
    house.audit.dropped();
    house.close().await;
    let summary = verify(std::slice::from_ref(&file), None, &[]).unwrap();
    assert_eq!((summary.dropped, summary.lost), (5, 1));
    let each: Vec<u64> = of_kind(&lines(&file), "loss").iter().map(|it| it["portcullis"]["dropped"].as_u64().unwrap()).collect();
    assert_eq!(each, [1, 3, 1]);
}

#[tokio::test]
async fn room_is_given_back_by_permits_that_are_dropped_and_a_long_line_takes_more_of_it() {
    let house = open(&Config { queue: 8, ..config(Path::new("/dev/full")) }).unwrap();
    let kept: Vec<_> = [house.audit.reserve(4).await.unwrap(), house.audit.reserve(4).await.unwrap()].into();
    assert!(house.audit.reserve(1).await.is_err());
    drop(kept);
    let mut permit = house.audit.reserve(1).await.unwrap();
    let long = "x".repeat(5 * 4096);
    let _ = permit.write(Line::Decision(&Record { error: Some(&long), ..decision("long") }));
    drop(permit);
    assert!(house.audit.reserve(3).await.is_err());
    assert!(house.audit.reserve(2).await.is_ok());
}

#[tokio::test]
async fn after_a_rotation_lines_go_to_the_new_file_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (file, rotated) = (folder.path().join("decisions.jsonl"), folder.path().join("decisions.1"));
    let house = open(&config(&file)).unwrap();
    for id in ids(0..50) {
        let _ = house.decide(&id).await.unwrap();
    }
    eventually("the first lines are written", || house.metrics.written.get() == 50).await;
    std::fs::rename(&file, &rotated).unwrap();
    house.audit.reopen();
    eventually("the file is opened anew", || file.exists()).await;
    for id in ids(50..100) {
        let _ = house.decide(&id).await.unwrap();
    }
    house.close().await;
    assert_eq!((decided(&lines(&rotated)), decided(&lines(&file))), (ids(0..50), ids(50..100)));
}

#[tokio::test]
async fn a_record_that_was_removed_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let house = open(&Config { durability: Durability::Written, wait: Span::seconds(20), ..config(&file) }).unwrap();
    house.decide("a").await.unwrap().recorded().await.unwrap();
    std::fs::remove_file(&file).unwrap();
    house.decide("b").await.unwrap().recorded().await.unwrap();
    house.close().await;
    assert_eq!(decided(&lines(&file)), ["b"]);
}

#[tokio::test]
async fn a_line_an_earlier_run_left_torn_spoils_no_other_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    std::fs::write(&file, "{\"whole\":1}\n{\"torn").unwrap();
    let house = open(&config(&file)).unwrap();
    let _ = house.decide("a").await.unwrap();
    house.close().await;
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, after) = text.split_at("{\"whole\":1}\n".len());
    assert_eq!(before, "{\"whole\":1}\n");
    let lines = parse(after);
    assert_eq!(decided(&lines), ["a"]);
    let loss = &of_kind(&lines, "loss")[0]["portcullis"];
    assert_eq!((&loss["torn"], &loss["torn_text"]), (&1.into(), &serde_json::json!(["{\"torn"])));
    assert_eq!(verify(&[file], None, &[]).unwrap().unchained, 1);
}

#[tokio::test]
async fn a_gate_that_ends_before_its_record_is_written_says_so_and_counts() {
    let house = open(&config(Path::new("/dev/full"))).unwrap();
    for id in ids(0..3) {
        let _ = house.decide(&id).await.unwrap();
    }
    let mut late = house.audit.reserve(1).await.unwrap();
    assert_eq!(house.audit.close().await, Err(Unwritten));
    house.writer.join().unwrap();
    assert_eq!(house.metrics.lost.get(), 3);
    let _ = late.write(Line::Decision(&decision("late")));
    assert_eq!(house.metrics.lost.get(), 4);
    assert_eq!(house.audit.reserve(1).await.unwrap_err(), Full::Closed);
}

#[test]
fn a_file_that_cannot_be_opened_is_a_start_up_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = open(&config(folder.path())).err().unwrap().to_string();
    assert!(error.contains(folder.path().to_str().unwrap()) && error.contains("audit.file"), "{error}");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = open(&config(&folder.path().join("file/decisions.jsonl"))).err().unwrap();
    assert!(matches!(error, AuditError::Directory { .. }), "{error}");
}

#[tokio::test]
async fn the_chain_goes_on_across_restarts_and_the_files_the_record_puts_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let rotate = Some(Rotate { size: Size::kib(8), keep: 3 });
    let config = Config { durability: Durability::Written, wait: Span::seconds(20), rotate, ..config(&file) };
    for run in 0..3 {
        let house = open(&config).unwrap();
        for id in ids(run * 5..run * 5 + 5) {
            house.decide(&id).await.unwrap().recorded().await.unwrap();
        }
        house.close().await;
    }
    let aged = |age: usize| folder.path().join(format!("decisions.jsonl.{age}"));
    assert!(aged(1).exists() && !aged(4).exists());
    let mut files: Vec<_> = (1..=3).map(aged).filter(|file| file.exists()).collect();
    files.extend(file.exists().then(|| file.clone()));
    let summary = verify(&files, None, &[]).unwrap();
    assert_eq!((summary.last, summary.unchained), (Some(15), 0), "{summary:?}");
    // A start from nothing but what was put aside.
    if file.exists() {
        std::fs::rename(&file, aged(1)).unwrap();
    }
    let house = open(&config).unwrap();
    house.decide("last").await.unwrap().recorded().await.unwrap();
    house.close().await;
    assert_eq!(verify(&[file], None, &[]).unwrap().first, Some(16));
}

#[tokio::test]
async fn lines_have_a_signed_checkpoint_behind_them_and_a_run_ends_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let signer = Signer::open(None, folder.path()).unwrap();
    let mut config = config(&file);
    config.checkpoint.every = Span::millis(1);
    let house = open_signed(&config, Some(signer)).unwrap();
    let checkpoints = || std::fs::read_to_string(&file).unwrap_or_default().matches("\"kind\":\"checkpoint\"").count();
    for (place, id) in ids(0..3).iter().enumerate() {
        let _ = house.decide(id).await.unwrap();
        eventually("there is a checkpoint", || checkpoints() > place).await;
    }
    let before = checkpoints();
    house.close().await;
    assert_eq!(checkpoints(), before, "what has a checkpoint needs no other");
    let key = PublicKey::read(&folder.path().join("audit-checkpoint.pub.pem")).unwrap();
    let summary = verify(std::slice::from_ref(&file), Some(&key), &[]).unwrap();
    assert_eq!(summary.checkpointed.map(|seq| seq + 1), summary.last);
    config.checkpoint.every = Span::seconds(3600);
    let house = open_signed(&config, Some(Signer::open(None, folder.path()).unwrap())).unwrap();
    let _ = house.decide("late").await.unwrap();
    house.close().await;
    assert_eq!(checkpoints(), before + 1, "the end of a run is signed");
    verify(&[file], Some(&key), &[]).unwrap();
}

#[tokio::test]
async fn so_many_lines_have_a_checkpoint_behind_them_however_fast_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let (link, file) = (folder.path().join("link"), folder.path().join("decisions.jsonl"));
    // They wait together, and are written as one.
    symlink("/dev/full", &link).unwrap();
    let mut config = config(&link);
    (config.checkpoint.every, config.checkpoint.lines) = (Span::seconds(3600), 7);
    let house = open_signed(&config, Some(Signer::open(None, folder.path()).unwrap())).unwrap();
    for id in ids(0..30) {
        let _ = house.decide(&id).await.unwrap();
    }
    std::fs::remove_file(&link).unwrap();
    symlink(&file, &link).unwrap();
    house.audit.reopen();
    house.close().await;
    let key = PublicKey::read(&folder.path().join("audit-checkpoint.pub.pem")).unwrap();
    let summary = verify(std::slice::from_ref(&file), Some(&key), &[]).unwrap();
    assert_eq!((summary.checkpoints, summary.checkpointed.map(|seq| seq + 1)), (5, summary.last), "four of 7 lines and the rest");
    let text = std::fs::read_to_string(&file).unwrap();
    let runs: Vec<usize> = text.split("\"kind\":\"checkpoint\"").map(|run| run.matches("\"kind\":\"decision\"").count()).collect();
    assert_eq!(runs, [7, 7, 7, 7, 2, 0]);
}
