use std::path::Path;
use std::time::UNIX_EPOCH;

use super::json::Json as _;
use super::*;

/// Every kind of line, one poor and one rich where there is more to say, and what is hard to write.
fn samples() -> String {
    let labels = Labels {
        id: "cbfbce00-895f-4d3a-b3d3-9da89c37c94a".to_owned(),
        version: "1.2.3".to_owned(),
        environment: "test".to_owned(),
        extra: BTreeMap::from([("region".to_owned(), "north \"of\" here".to_owned())]),
    };
    let labels = serde_json::value::to_raw_value(&labels).unwrap();
    let (mut all, mut buffer) = (Vec::new(), b"left of the line before".to_vec());
    let mut line = |line: Line<'_>| {
        encode_line(&mut buffer, &labels, "test", line).unwrap();
        all.extend_from_slice(&buffer);
    };
    let input = RawValue::from_string("{\n  \"a\": \"x\\ny\",\r\n \"b\": []}".to_owned()).unwrap();
    let result = RawValue::from_string("{\"allowed\":true}".to_owned()).unwrap();
    let words = [HARD.to_owned(), "plain".to_owned()];
    let bundles = BTreeMap::from([("authz".to_owned(), "r\"1".to_owned()), ("more\n".to_owned(), String::new())]);
    let revisions = BTreeMap::from([("authz".to_owned(), "r2".to_owned()), (HARD.to_owned(), HARD.to_owned())]);
    let shadow =
        ShadowLine { verdict: Opinion::Deny, reason: Some(Reason::Policy), reasons: &words, generation: 3, revisions: &revisions };
    line(Line::Decision(&Record::new(UNIX_EPOCH, "poor", Core::default())));
    line(Line::Decision(&rich(&input, &result, &words, &bundles, shadow.clone())));
    let hard = Core { environment: Some(HARD), intent: Some(HARD), method: Some("GET"), path: Some(HARD), ..Core::default() };
    let record = Record { error: Some(HARD), path: Some(HARD), ..Record::new(at(1_764_000_000, 1), HARD, hard) };
    line(Line::Decision(&record));
    for (seconds, nanos) in [(1_764_000_000, 999_999_999), (1_763_999_999, 5), (4_102_444_800, 120_000_000), (951_782_400, 0)] {
        let duration = Some(Duration::new(seconds % 1000, nanos));
        let core = Core { duration, reason: Some(Why::Refused(Refusal::BareLineEnd)), bytes_read: Some(17), ..Core::default() };
        line(Line::Decision(&Record::new(at(seconds, nanos), "d", core)));
    }
    line(Line::Decision(&Record::new(UNIX_EPOCH - Duration::from_millis(1500), "before", Core::default())));
    for requested_by in ["[2001:db8::1]:443", "[::ffff:10.0.0.7]:65535", "0.0.0.0:0", "255.255.255.255:8080", "[fe80::1%3]:1"] {
        let requested_by = Some(requested_by.parse().unwrap());
        line(Line::Decision(&Record { requested_by, ..Record::new(UNIX_EPOCH, "d", Core::default()) }));
    }
    let closing = Closing {
        at: at(1_764_000_000, 123_456_789),
        decision_id: "c1",
        exchange: "c1",
        status: None,
        bytes_in: 0,
        bytes_out: u64::MAX,
        duration: None,
        ending: Ending::Complete,
        cause: None,
        kill: None,
        generation: None,
        anomaly: &[],
        shadow: None,
    };
    line(Line::Closing(&closing));
    line(Line::Closing(&Closing {
        status: Some(503),
        duration: Some(Duration::from_micros(1_500_001)),
        cause: Some(Cause::Kill),
        kill: Some(uuid::Uuid::from_u128(0x319b_0bd0_0003_4584_957a_5855_11f1_4aff)),
        generation: Some(7),
        anomaly: &words,
        shadow: Some(ShadowLine { reason: None, reasons: &[], revisions: &BTreeMap::new(), ..shadow }),
        ..closing
    }));
    let call = ControlCall { at: UNIX_EPOCH, caller: None, call: "POST /v1/kills", status: 200, outcome: HARD, detail: None };
    for call in [call.clone(), ControlCall { caller: Some(HARD), detail: Some(&input), ..call }] {
        encode_call(&mut buffer, &labels, &call).unwrap();
        all.extend_from_slice(&buffer);
    }
    String::from_utf8(all).unwrap()
}

const HARD: &str = "quote \" back \\ slash / nul \0 bell \u{7} line\nend\r tab\t del \u{7f} nel \u{85} \u{2028}\u{2029} ü 𝄞";

fn at(seconds: u64, nanos: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, nanos)
}

fn rich<'a>(
    input: &'a dyn Document,
    result: &'a dyn Document,
    words: &'a [String],
    bundles: &'a BTreeMap<String, String>,
    shadow: ShadowLine<'a>,
) -> Record<'a> {
    let core = Core {
        exchange: Some("0190a0a0-0000-7000-8000-000000000001"),
        session: Some("c10a54899044cf54048d5b2a51a8a947"),
        peer: Some("spiffe://example.org/agents/a7777"),
        environment: Some("production"),
        task: Some("task"),
        intent: Some("intent"),
        owner: Some("owner"),
        action: Some("action"),
        tool: Some("tool"),
        resource: Some(Resource { r#type: "report", sensitivity: "high", effect: "write" }),
        route: Some("route"),
        listener: Some("listener"),
        upstream: Some("upstream"),
        delegation: Some("delegation"),
        approval: Some("approval"),
        exception: Some("exception"),
        break_glass: Some("break_glass"),
        credential: Some("credential"),
        basis: Some(Basis::Standing),
        enforcement: Some(Enforcement::Observe),
        verdict: Outcome::ObserveDeny,
        reason: Some(Why::Denied(Reason::Policy)),
        reasons: words,
        generation: Some(u64::MAX),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
        protocol: Some(Protocol::Http1),
        method: Some("POST"),
        host: Some("payroll.internal"),
        path: Some("/v1/reports/2026/q3"),
        status: Some(65535),
        bytes_in: 1024,
        bytes_out: 18_446_744_073_709_551_615,
        bytes_read: Some(0),
        duration: Some(Duration::from_nanos(900_123)),
        ending: Some(Ending::Cut),
        cause: Some(Cause::LeaseAge),
        kill: None,
        phase: Some(Phase::Request),
        edits: words,
        anomaly: words,
        engine: Some("vm"),
        shadow: Some(shadow),
    };
    Record {
        requested_by: Some("10.0.0.7:36472".parse().unwrap()),
        path: Some("portcullis/decision"),
        input: Some(input),
        result: Some(result),
        erased: words,
        masked: words,
        bundles: Some(bundles),
        evaluation: Some(Duration::from_nanos(4200)),
        error: Some("an error"),
        ..Record::new(at(1_764_000_000, 1), "0190a0a0-0000-7000-8000-000000000001", core)
    }
}

/// The golden lines were written by serde's derived code, field by field. `PORTCULLIS_WRITE=1 cargo test --lib audit::record`
/// writes them anew, where a line is to change.
#[test]
fn lines_are_written_as_they_always_were() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/record/golden.jsonl");
    let written = samples();
    if std::env::var_os("PORTCULLIS_WRITE").is_some() {
        std::fs::write(&golden, &written).unwrap();
    }
    let wanted = std::fs::read_to_string(&golden).unwrap();
    for (number, (line, wanted)) in written.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(line, wanted, "line {number}");
    }
    assert_eq!(written.lines().count(), wanted.lines().count());
}

#[test]
fn the_writers_own_lines_say_their_kind_first() {
    let labels = RawValue::from_string("{}".to_owned()).unwrap();
    let losses = Losses { lost: 1, refused: 2, torn: 3, undelivered: 4, dropped: 5 };
    let mut line = Vec::new();
    encode_own(&mut line, &labels, "loss", &Loss { losses, torn_text: &[HARD.to_owned()] }).unwrap();
    let text = String::from_utf8(line).unwrap();
    assert_eq!(text.find('\n'), Some(text.len() - 1), "one line: {text}");
    let portcullis = text.split_once("\"portcullis\":").unwrap().1.strip_suffix("}\n").unwrap();
    let torn = serde_json::to_string(HARD).unwrap();
    assert_eq!(
        portcullis,
        format!(r#"{{"kind":"loss","lost":1,"refused":2,"torn":3,"dropped":5,"undelivered":4,"torn_text":[{torn}]}}"#)
    );
    assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn strings_are_escaped_as_serde_escapes_them_wherever_it_is_needed() {
    let signs = ('\0'..='\u{ff}').chain(['\u{2028}', '\u{2029}', '\u{ffff}', '𝄞']);
    for (sign, length) in signs.flat_map(|sign| (0..20).map(move |length| (sign, length))) {
        for place in 0..=length {
            let text = format!("{}{sign}{}", "a".repeat(place), "z".repeat(length - place));
            let mut out = Vec::new();
            text.as_str().write(&mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }
}

#[test]
fn a_timestamp_is_of_its_own_second_whichever_was_written_before() {
    for (at, wanted) in [
        (at(1_764_000_000, 0), "2025-11-24T16:00:00.000000000Z"),
        (at(1_764_000_000, 999_999_999), "2025-11-24T16:00:00.999999999Z"),
        (at(1_764_000_001, 10), "2025-11-24T16:00:01.000000010Z"),
        (at(1_764_000_000, 1), "2025-11-24T16:00:00.000000001Z"),
        (at(253_402_300_799, 0), "9999-12-31T23:59:59.000000000Z"),
        (UNIX_EPOCH - Duration::from_nanos(1), "1969-12-31T23:59:59.999999999Z"),
    ] {
        let mut out = Vec::new();
        at.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("\"{wanted}\""));
    }
    assert!(at(253_402_300_800, 0).write(&mut Vec::new()).is_err(), "a line nobody can date is counted as lost");
}

#[test]
fn what_cannot_be_written_is_left_out_and_spoils_nothing() {
    #[derive(Debug)]
    struct Broken;
    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            serde::ser::SerializeMap::serialize_entry(&mut map, "half", "written")?;
            Err(serde::ser::Error::custom("no more"))
        }
    }
    let labels = RawValue::from_string("{}".to_owned()).unwrap();
    let record = Record { input: Some(&Broken), result: Some(&true), ..Record::new(UNIX_EPOCH, "d", Core::default()) };
    let mut line = Vec::new();
    encode_line(&mut line, &labels, "test", Line::Decision(&record)).unwrap();
    let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((line.get("input"), &line["result"]), (None, &true.into()));
}
