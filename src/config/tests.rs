use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const FULL: &str = include_str!("../../examples/admin-api/gate.yaml");
const SIDECAR: &str = include_str!("../../examples/sidecar/gate.yaml");
const SPIRE: &str = include_str!("../../examples/spire/gate.yaml");
const BUNDLES: &str = include_str!("../../examples/bundles/gate.yaml");
const MINIMAL: &str = include_str!("../../examples/minimal/gate.yaml");

fn nothing(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, Report> {
    Config::parse(text, "gate.yaml", &nothing)
}

/// The one line of the example that holds `old`, with `new` in its place; and its number.
#[track_caller]
fn edited(example: &str, old: &str, new: &str) -> (String, usize) {
    assert_eq!(example.matches(old).count(), 1, "{old:?} must stand in the example once");
    let line = example.split(old).next().unwrap().matches('\n').count() + 1;
    (example.replace(old, new), line)
}

#[test]
fn the_examples_are_right() {
    let full = parse(FULL).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(full.listeners[0].routes.len(), 2);
    assert_eq!(full.workloads[0].spiffe_id.to_string(), "spiffe://example.org/agents/*");
    let spire = parse(SPIRE).unwrap_or_else(|report| panic!("{report}"));
    assert!(matches!(&spire.identity.source, tls::Source::WorkloadApi(agent) if agent.hint.as_deref() == Some("gate")));
    let minimal = parse(MINIMAL).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(minimal.listeners[0].routes[0].path_prefix, "/");
    assert_eq!(minimal.admin.address.port(), 9901);
    let sidecar = parse(SIDECAR).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(sidecar.listeners[0].destinations.len(), 2);
    let bundles = parse(BUNDLES).unwrap_or_else(|report| panic!("{report}"));
    let fetched: Vec<String> =
        bundles.policy.bundles.iter().filter_map(|(name, source)| Some(source.remote()?.resource(name))).collect();
    assert_eq!(fetched, ["bundles/authz.tar.gz", "bundles/lists"]);
}

#[test]
fn the_full_examples_have_every_key() {
    // What a gate or a listener can have only one of stands in an example of its own.
    fn check(schema: &Value, at: &Value, values: &[&Value], path: &str) {
        let at = match at.get("$ref").and_then(Value::as_str) {
            Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
            None => at,
        };
        for (key, child) in at.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let children: Vec<&Value> = values.iter().filter_map(|value| value.get(key)).collect();
            assert!(!children.is_empty(), "{path}/{key} is not in the example");
            check(schema, child, &children, &format!("{path}/{key}"));
        }
        let entries = |value: &&Value| value.as_array().cloned().or_else(|| Some(value.as_object()?.values().cloned().collect()));
        let rows: Vec<Value> = values.iter().filter_map(entries).flatten().collect();
        for child in
            ["items", "additionalProperties"].into_iter().filter_map(|keyword| at.get(keyword)).filter(|child| child.is_object())
        {
            check(schema, child, &rows.iter().collect::<Vec<_>>(), &format!("{path}/*"));
        }
    }
    let schema = Config::schema();
    let examples = [FULL, SIDECAR, SPIRE, BUNDLES].map(|text| yaml::read(text, &nothing).0.unwrap().value());
    check(&schema, &schema, &examples.each_ref(), "");
}

#[test]
fn every_mistake_stands_in_one_report_with_its_place_and_the_nearest_name() {
    let text = "\
environment: production
identity:
  trust_domain: example.org
  source:
    files: {certificate: svid.pem, bundles: {example.org: bundle.pem}}
listeners:
  - name: gate
    adress: 127.0.0.1:8443
    minimum_tls: 1.3
    max_svid_lifetime: 24
    mode: revers
    health:
    routes:
      - name: all
        upstream: payrol
        enforcement: [observe]
upstreams:
  payroll: {endpoint: \"https://127.0.0.1:9000\"}
policy:
  bundles: {authz: {path: policy}}
  limits: {time: 11s, depth: \"64\"}
speed: fast
";
    let expected = "\
gate.yaml:5:5: identity.source.files.private_key: missing key
  hint: Its private key, PKCS#8 or SEC1.
gate.yaml:8:5: listeners[0].adress: unknown key
  hint: did you mean `address`?
gate.yaml:9:18: listeners[0].minimum_tls: expected one of `1.2`, `1.3`, found the number `1.3`
  hint: write it in quotes: \"1.3\"
gate.yaml:10:24: listeners[0].max_svid_lifetime: expected a duration: a whole number and a unit, such as 500ms, 20s, 15m, 24h, 7d, \
found the number `24`
gate.yaml:11:11: listeners[0].mode: expected one of `reverse`, `forward`, found the text `revers`
  hint: did you mean `reverse`?
gate.yaml:12:5: listeners[0].health: it has no value; write one, or leave the key out
gate.yaml:15:19: listeners[0].routes[0].upstream: there is no upstream `payrol`
  hint: did you mean `payroll`?
gate.yaml:16:22: listeners[0].routes[0].enforcement: expected one of `enforce`, `observe`, found a list
gate.yaml:18:23: upstreams.payroll.endpoint: an https endpoint needs to know whom to expect there
  hint: write `tls: {spiffe_ids: [...]}`, or `tls: {ca: file.pem}` for a server without a SPIFFE ID
gate.yaml:21:18: policy.limits.time: `11s` is out of bounds; write 1ms to 10s
gate.yaml:21:30: policy.limits.depth: expected a whole number, 0 or more, found the text `64`
  hint: leave out the quotes: 64
gate.yaml:22:1: speed: unknown key
  hint: known keys here: `address_lists`, `admin`, `anomaly`, `audit`, `control`, `decision_logs`, `environment`, `exchanges`, `identity`, `keys`, `limits`, `listeners`, \
`policy`, `resources`, `services`, `sessions`, `state`, `status`, `time_windows`, `upstreams`, `workloads`";
    assert_eq!(parse(text).unwrap_err().to_string(), expected);
}

#[test]
fn what_no_schema_can_see_is_told_on_its_line() {
    for (old, new, message) in [
        ("environment: production\n\n", "environment: \" \"\n\n", "` ` is empty"),
        ("trust_domain: example.org", "trust_domain: Example.org", "not a trust domain as certificates write it"),
        ("trust_domain: example.org", "trust_domain: spiffe://example.org", "not a trust domain"),
        ("trust_domains: [example.org]", "trust_domains: [example.com]", "no bundle of the trust domain `example.com`"),
        ("example.org: bundle.pem", "Example.org: bundle.pem", "`Example.org` is not a trust domain"),
        ("certificate: svid.pem", "certificate: \"\"", "`` is empty"),
        ("address: 0.0.0.0:8443", "address: 0.0.0.0", "`0.0.0.0` is not an IP address and a port"),
        ("address: 0.0.0.0:8443", "address: localhost:8443", "is not an IP address and a port"),
        ("address: 127.0.0.1:9901", "address: 0.0.0.0:8443", "taken already, on line"),
        ("address: 127.0.0.1:9901", "address: 127.0.0.1:8443", "taken already, on line"),
        ("server_names: [admin.example.org]", "server_names: [\"*.example.org\"]", "has a star"),
        ("health: {path: /healthz}", "health: {path: healthz}", "does not start with `/`"),
        ("- name: all", "- name: reports", "is the name of another one as well"),
        ("- name: all", "- name: \"\"", "`` is empty"),
        ("hosts: [\"*\"]", "hosts: [\"*.*.org\"]", "has a star where none may stand"),
        ("hosts: [\"*\"]", "hosts: []", "there must be at least one host"),
        ("path_prefix: /reports", "path_prefix: reports", "does not start with `/`"),
        ("path_prefix: /reports", "path_prefix: /reports/*", "has a star"),
        ("upstream: payroll", "upstream: payrol", "there is no upstream `payrol`"),
        ("endpoint: http://127.0.0.1:9000", "endpoint: https://127.0.0.1:9000", "needs to know whom to expect"),
        ("endpoint: http://127.0.0.1:9000", "endpoint: ftp://127.0.0.1:9000", "is not of the form http://host:port"),
        (
            "spiffe_ids: [\"spiffe://example.org/reports/*\"]",
            "spiffe_ids: [\"spiffe://example.org/re*\"]",
            "a star must be a whole",
        ),
        ("tls: {ca: archive-ca.pem}", "tls: {ca: a.pem, spiffe_ids: [\"spiffe://a/b\"]}", "are two ways to know a server"),
        ("protocol: auto", "protocol: h3", "expected one of"),
        ("tls: {ca: archive-ca.pem}", "tls: {ca: \"\"}", "`` is empty"),
        ("server_name: reports.internal", "server_name: reports.internal:80", "leave out the port"),
        ("upstream_host: reports.test ", "upstream_host: reports.test:0 ", "is not a number from 1 to 65535"),
        ("upstream_host: reports.test ", "upstream_host: https://reports.test ", "is not a host name"),
        ("endpoint: http://127.0.0.1:9000", "endpoint: http://127.0.0.1:9000/v1", "has a path, query or fragment"),
        ("endpoint: http://127.0.0.1:9000", "endpoint: http://me@127.0.0.1:9000", "names a user"),
        ("connect_timeout: 2s", "connect_timeout: 0s", "`0s` is out of bounds; write 1ms to 1d"),
        ("connect_timeout: 2s", "connect_timeout: 99999999999999999999d", "is out of bounds"),
        ("decision: portcullis/decision\n", "decision: data.portcullis.decision\n", "is not the path of a rule"),
        ("decision: portcullis/decision #", "decision: /portcullis/decision #", "is not the path of a rule"),
        ("may_kill: [exchange, session]", "may_kill: [exchange, exchange]", "`exchange` is the scope of another one"),
        ("time: 20ms", "time: 11s", "`11s` is out of bounds; write 1ms to 10s"),
        ("time: 10ms", "time: 11s", "`11s` is out of bounds; write 1ms to 10s"),
        ("sample: 1 ", "sample: 0 ", "`0` is out of bounds; write 1 to 10000000"),
        ("depth: 64", "depth: 129", "`129` is out of bounds; write 1 to 128"),
        ("body: 1MiB", "body: 0", "`0` is out of bounds"),
        ("corp: [10.0.0.0/8,", "corp: [10.0.0.0/33,", "`10.0.0.0/33` is not a network"),
        ("corp: [10.0.0.0/8,", "corp: [10.0.0.1,", "`10.0.0.1` is not a network"),
        ("from: \"08:00\"", "from: \"18:00\"", "closes before it opens"),
        ("from: \"08:00\"", "from: \"8:00\"", "is not a time of day"),
        ("days: [mon, tue, wed, thu, fri]", "days: []", "at least one day"),
        ("methods: [DELETE]", "methods: [delete]", "has lower-case letters"),
        ("path: /v1/users/*", "path: /v1/us*", "has a star inside a segment"),
        ("path: /v1/users/*", "path: /**/users", "only the last segment may be `**`"),
        ("hosts: [admin.example.org], path", "hosts: [\"*\"], path", "leave `hosts` out"),
        ("spiffe://example.org/agents/*", "spiffe://example.org/ag*", "a star must be a whole segment"),
        ("rate: {requests: 6000, within: 1m}", "rate: {requests: 0, within: 1m}", "`0` is out of bounds"),
        ("score: 0.3 ", "score: 1.5 ", "`1.5` is out of bounds; write 0 to 1"),
        ("name: new-host", "name: New host", "is not a name for a rule"),
        ("name: new-host", "name: burst", "is the name of another one as well"),
        ("listeners: [admin-api] ", "listeners: [admin-ap] ", "there is no listener `admin-ap`"),
        ("routes: [all] ", "routes: [al] ", "there is no route `al`"),
        (
            "- name: sweeping",
            "- {name: x, rate: {requests: 1, within: 1s}, burst: {requests: 1, every: 1s}, action: deny}\n    - name: sweeping",
            "more than one kind: rate, burst",
        ),
        ("- name: sweeping", "- {name: x, action: deny}\n    - name: sweeping", "the rule has no kind"),
        (
            "- name: sweeping",
            "- {name: x, burst: {requests: 1, every: 1s}, action: score}\n    - name: sweeping",
            "what the rule adds to the score",
        ),
        (
            "- name: sweeping",
            "- {name: x, burst: {requests: 1, every: 1s}, action: deny, score: 1}\n    - name: sweeping",
            "only `action: score` has a score",
        ),
        (
            "- name: sweeping",
            "- {name: x, burst: {requests: 1, every: 1s}, action: deny, ttl: 1m}\n    - name: sweeping",
            "only `action: kill_session` and",
        ),
        (
            "- name: sweeping",
            "- {name: x, sequence: {within: 1s, steps: [{}]}, action: deny}\n    - name: sweeping",
            "2 to 8 steps",
        ),
        ("spiffe://example.org/bots/*", "spiffe://example.org/b*", "a star must be a whole segment"),
        ("path: /v1/secrets/*}", "path: /v1/sec*}", "has a star inside a segment"),
        ("not: {hosts: [\"*.example.org\"]}", "not: {}", "names nothing"),
        ("reassess_every: 30s", "reassess_every: 500ms", "`500ms` is out of bounds; write 1s to 1d"),
        ("max: 100000", "max: 99999999999999999999", "is out of bounds"),
        ("header_bytes: 64KiB", "header_bytes: 1024", "`1024` is out of bounds; write 8KiB to 16MiB"),
        ("streams: 100 ", "streams: 0 ", "`0` is out of bounds"),
        ("handshakes: 256", "handshakes: 0", "`0` is out of bounds"),
        ("wait: 2s", "wait: 2h", "`2h` is out of bounds; write 0s to 1m"),
        ("queue: 65536", "queue: 0", "`0` is out of bounds"),
        ("directory: state", "directory: \"\"", "`` is empty"),
        ("bob: {uid: 1002}", "bob: {uid: 1001}", "`1001` is the uid of another one as well"),
        ("bob: {uid: 1002}", "bob: {uid: 4294967295}", "is out of bounds"),
        ("roles: {operate: [alice, bob]}", "roles: {operate: [alice, bobb]}", "there is no operator `bobb`"),
    ] {
        let (text, line) = edited(FULL, old, new);
        let report = parse(&text).expect_err(new);
        let fits = |mistake: &Mistake| mistake.line == line && mistake.message.contains(message);
        assert!(report.mistakes.iter().any(fits), "{new}: expected line {line}: {message}\n{report}");
    }
}

#[test]
fn a_listener_beside_an_agent_is_held_to_its_own_rules() {
    for (old, new, message) in [
        ("address: 127.0.0.1:3128", "address: 0.0.0.0:3128", "`identity: self` would take every caller for us"),
        ("address: 127.0.0.1:3128", "address: \"[::]:3128\"", "can be reached from outside"),
        ("address: 127.0.0.1:3128", "address: 10.0.0.1:3128", "can be reached from outside"),
        ("mode: forward ", "mode: forward\n    routes: [] ", "has destinations and no routes"),
        ("mode: forward ", "mode: forward\n    server_names: [a.org] ", "asked for other people's names"),
        ("mode: forward ", "mode: reverse ", "has routes and no destinations"),
        ("- name: web ", "- name: api ", "is the name of another one as well"),
        ("hosts: [\"*\"]", "hosts: []", "at least one host"),
        ("hosts: [\"*\"]", "hosts: [\"a:1\"]", "`a:1`"),
        ("ports: [443, 80]", "ports: []", "at least one port"),
        ("ports: [443, 80]", "ports: [0]", "`0` is out of bounds; write 1 to 65535"),
        ("\"::1/128\"]", "\"::1\"]", "`::1` is not a network"),
        ("sni: if_tls", "sni: strict", "expected one of `required`, `if_tls`, `ignore`"),
        ("identity: self ", "identity: own ", "expected one of `peer`, `self`"),
    ] {
        let report = parse(&edited(SIDECAR, old, new).0).expect_err(new);
        assert!(report.mistakes.iter().any(|mistake| mistake.message.contains(message)), "{new}: {report}");
    }
    let own = SIDECAR.replace("mode: forward ", "mode: reverse ");
    assert!(parse(&own).unwrap_err().to_string().contains("not in front of a service"));
    let named = SIDECAR.to_owned() + "upstreams: {web: {endpoint: \"http://127.0.0.1:1\"}}\n";
    assert!(parse(&named).unwrap_err().to_string().contains("`web` is the name of an upstream as well"));
    let (before, after) = (SIDECAR.find("    destinations:").unwrap(), SIDECAR.find("policy:").unwrap());
    let nowhere = format!("{}{}", &SIDECAR[..before], &SIDECAR[after..]);
    assert!(parse(&nowhere).unwrap_err().to_string().contains("it has no `destinations`"));
}

#[test]
fn a_gate_without_listener_route_bundle_or_roots_is_none() {
    for (old, new, message) in [
        ("bundles: {authz: {path: policy}}", "bundles: {}", "at least one bundle"),
        ("routes: [{name: all, upstream: service}]", "routes: []", "at least one route"),
        ("bundles: {example.org: bundle.pem}", "bundles: {}", "at least one bundle of a trust domain"),
        ("trust_domain: example.org", "trust_domain: example.com", "our own trust domain `example.com`, which has no bundle"),
        ("address: 127.0.0.1:8443", "address: 127.0.0.1:9901", "is the admin port's default"),
        ("routes: [{name: all, upstream: service}]", "routes: [{name: all, upstream: x}]", "there is no upstream `x`"),
    ] {
        let report = parse(&edited(MINIMAL, old, new).0).expect_err(new);
        assert!(report.mistakes.len() == 1 && report.mistakes[0].message.contains(message), "{new}: {report}");
    }
    let (before, after) = (MINIMAL.find("listeners:").unwrap(), MINIMAL.find("upstreams:").unwrap());
    let text = format!("{}listeners: []\n{}", &MINIMAL[..before], &MINIMAL[after..]);
    assert!(parse(&text).unwrap_err().to_string().contains("at least one listener"));
}

#[test]
fn http_upstreams_have_no_tls_and_agree_on_nothing() {
    for (more, message) in [
        (", tls: {ca: a.pem}", "the endpoint is http, and speaks no TLS"),
        (", protocol: auto", "it is agreed on in the TLS handshake, and the endpoint is http"),
    ] {
        let report = parse(&MINIMAL.replace(":9000\"}", &format!(":9000\"{more}}}"))).expect_err(more);
        assert!(report.mistakes.len() == 1 && report.mistakes[0].message.contains(message), "{more}: {report}");
    }
    parse(&MINIMAL.replace(":9000\"}", ":9000\", protocol: h2}")).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn port_zero_meets_nobody() {
    let text = MINIMAL.replace("127.0.0.1:8443", "127.0.0.1:0") + "admin: {address: \"127.0.0.1:0\"}\n";
    parse(&text).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn an_identity_has_one_source_and_an_agent_can_be_found() {
    const FILES: &str = "    files: {certificate: svid.pem, private_key: svid.key, bundles: {example.org: bundle.pem}}\n";
    assert!(MINIMAL.contains(FILES));
    let agent = |keys: &str| MINIMAL.replace(FILES, &format!("    workload_api: {keys}\n"));
    for (text, told) in [
        (
            MINIMAL.replace(FILES, &format!("{FILES}    workload_api: {{endpoint: \"unix:///a\"}}\n")),
            "write either `files` or `workload_api`",
        ),
        (MINIMAL.replace("source:\n", "source: {}\n").replace(FILES, ""), "write either `files` or `workload_api`"),
        (agent("{}"), "nobody says where the SPIFFE agent is"),
        (agent("{endpoint: /run/agent.sock}"), "not the endpoint of a SPIFFE agent"),
        (agent("{endpoint: \"tcp://127.0.0.1:8081\"}"), "our private key would be readable"),
        (agent("{endpont: \"unix:///a\"}"), "did you mean `endpoint`?"),
        (agent("{endpoint: \"unix:///a\", spiffe_id: gate}"), "`gate` is not a SPIFFE ID"),
        (agent("{endpoint: \"unix:///a\", spiffe_id: \"spiffe://example.com/gate\"}"), "not of our own trust domain"),
        (agent("{endpoint: \"unix:///a\", hint: \"\"}"), "is empty"),
        (MINIMAL.replace("    files:", "    file:"), "did you mean `files`?"),
    ] {
        let report = parse(&text).expect_err(told).to_string();
        assert!(report.contains(told), "{told}: {report}");
    }
    let endpoint = |environment: &str| {
        let environment = environment.to_owned();
        let read =
            Config::parse(&agent("{}"), "gate.yaml", &|name| (name == "SPIFFE_ENDPOINT_SOCKET").then(|| environment.clone()));
        read.map(|config| match config.identity.source {
            tls::Source::WorkloadApi(agent) => agent.endpoint.unwrap(),
            tls::Source::Files(_) => panic!("files"),
        })
    };
    assert_eq!(endpoint("unix:///run/agent.sock").unwrap(), "unix:///run/agent.sock");
    assert!(endpoint("tcp://10.0.0.1:1").unwrap_err().to_string().contains("the variable SPIFFE_ENDPOINT_SOCKET is tcp"));
}

#[test]
fn variables_are_read_and_never_quoted() {
    let environment = |name: &str| Some(if name == "PORT" { "9443".to_owned() } else { "canary-7f3a".to_owned() });
    let read = |text: &str| Config::parse(text, "gate.yaml", &environment);
    let config = read(&MINIMAL.replace("127.0.0.1:8443", "127.0.0.1:${PORT}").replace("test", "${WHERE}")).unwrap();
    assert_eq!((config.listeners[0].address.port(), config.environment.as_str()), (9443, "canary-7f3a"));
    // One wrong value after the other holds the variable; no report may say what is in it.
    for place in places(&yaml::read(FULL, &nothing).0.unwrap().value()) {
        let mut value = yaml::read(FULL, &nothing).0.unwrap().value();
        *value.pointer_mut(&place).unwrap() = "${SECRET}".into();
        if let Err(report) = read(&serde_json::to_string_pretty(&value).unwrap()) {
            assert!(!format!("{report} {report:?}").contains("canary"), "{place}: {report}");
        }
    }
}

#[test]
fn a_missing_variable_is_one_mistake() {
    let report = parse(&MINIMAL.replace("127.0.0.1:8443", "127.0.0.1:${PORT}")).unwrap_err();
    assert_eq!(report.mistakes.len(), 1, "{report}");
    assert!(report.to_string().contains("no variable `PORT`"), "{report}");
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate.yaml");
    std::fs::write(&file, MINIMAL.replace("svid.key", "/keys/svid.key") + "audit: {file: \"-\"}\n").unwrap();
    let config = Config::read(&file).unwrap_or_else(|report| panic!("{report}"));
    let tls::Source::Files(files) = &config.identity.source else { panic!("the example has files") };
    assert_eq!(files.certificate, directory.path().join("svid.pem"));
    assert_eq!(files.private_key, Path::new("/keys/svid.key"));
    assert_eq!(files.bundles["example.org"], directory.path().join("bundle.pem"));
    assert_eq!(config.policy.bundles["authz"].path().unwrap(), directory.path().join("policy"));
    assert_eq!(config.state.directory, directory.path().join("state"));
    assert_eq!(config.control.socket, directory.path().join("portcullis.sock"));
    assert_eq!(config.audit.file, Path::new("-"));
}

#[test]
fn a_file_that_is_absent_too_large_or_not_text_is_one_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate.yaml");
    assert!(Config::read(&file).unwrap_err().to_string().contains("cannot be read"));
    std::fs::write(&file, b"a: 1\nb: \xc3\xa9\xff\n").unwrap();
    let report = Config::read(&file).unwrap_err();
    assert_eq!((report.mistakes[0].line, report.mistakes[0].column), (2, 5), "{report}");
    std::fs::write(&file, vec![b'#'; 2 * 1024 * 1024]).unwrap();
    assert!(Config::read(&file).unwrap_err().to_string().contains("larger"));
}

/// The JSON pointer of every value below the root.
fn places(value: &Value) -> Vec<String> {
    let token = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, child)| (token(key), child)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect(),
        _ => Vec::new(),
    };
    let below = |(key, child): (String, &Value)| {
        let deeper = places(child).into_iter().map(|rest| format!("/{key}{rest}")).collect::<Vec<_>>();
        std::iter::once(format!("/{key}")).chain(deeper).collect::<Vec<_>>()
    };
    children.into_iter().flat_map(below).collect()
}

/// What the schema says of each place of the value: itself, resolved.
fn schema_at<'s>(schema: &'s Value, pointer: &str) -> &'s Value {
    let resolve = |at: &'s Value| match at.get("$ref").and_then(Value::as_str) {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => at,
    };
    pointer.split('/').skip(1).fold(schema, |at, key| {
        let child = at.get("properties").and_then(|keys| keys.get(key)).or_else(|| at.get("items"));
        resolve(child.or_else(|| at.get("additionalProperties")).unwrap())
    })
}

fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|line| line.contains(needle)).unwrap() + 1
}

#[track_caller]
fn told_on(value: &Value, line: impl Fn(&str) -> usize, what: &str) -> Report {
    let text = serde_json::to_string_pretty(value).unwrap();
    let report = parse(&text).expect_err(what);
    let line = line(&text);
    assert!(!report.to_string().contains("a value is not what it should be"), "only serde saw it: {what}\n{report}");
    assert!(report.mistakes.iter().any(|mistake| mistake.line == line), "{what}: nothing on line {line}\n{report}");
    report
}

fn misspelt(key: &str) -> Vec<String> {
    let letters: Vec<char> = key.chars().collect();
    let middle = letters.len() / 2;
    let without = |index: usize| letters.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, c)| *c).collect::<String>();
    let mut doubled = letters.clone();
    doubled.insert(middle, letters[middle]);
    vec![without(0), without(middle), doubled.into_iter().collect(), format!("{key}q"), key.to_uppercase()]
}

#[test]
fn every_mutation_of_the_example_is_told_on_its_line() {
    let (schema, good) = (Config::schema(), yaml::read(FULL, &nothing).0.unwrap().value());
    parse(&serde_json::to_string_pretty(&good).unwrap()).unwrap_or_else(|report| panic!("{report}"));
    let mut mutations = BTreeMap::from([("misspelt", 0), ("wrong type", 0), ("dropped", 0)]);
    for pointer in places(&good) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let around = schema_at(&schema, parent);
        let mut value = good.clone();
        let sized = schema_at(&schema, &pointer).get("type").is_some_and(Value::is_array);
        let place = value.pointer_mut(&pointer).unwrap();
        *place = if place.is_string() && !sized { 424_242.into() } else { "sentinel".into() };
        let sentinel = place.to_string();
        told_on(&value, |text| line_of(text, &sentinel), &format!("{pointer} = {sentinel}"));
        *mutations.get_mut("wrong type").unwrap() += 1;
        if around.get("properties").is_none() {
            continue;
        }
        for wrong in misspelt(key) {
            let mut value = good.clone();
            let object = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            let child = object.remove(key).unwrap();
            object.insert(wrong.clone(), child);
            let needle = format!("\"{wrong}\":");
            let report = told_on(&value, |text| line_of(text, &needle), &format!("{parent}/{wrong}"));
            let hinted = |mistake: &Mistake| mistake.hint.as_deref() == Some(&format!("did you mean `{key}`?"));
            assert!(key.len() < 4 || report.mistakes.iter().any(hinted), "{wrong}: {report}");
            *mutations.get_mut("misspelt").unwrap() += 1;
        }
        if around.get("required").and_then(Value::as_array).is_some_and(|required| required.contains(&key.into())) {
            let mut value = good.clone();
            value.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
            let begins = |text: &str| {
                let document = yaml::read(text, &nothing).0.unwrap();
                Place::root(&document).at_pointer(parent).mistake_of_key("", None).line
            };
            told_on(&value, begins, &format!("{pointer} dropped"));
            *mutations.get_mut("dropped").unwrap() += 1;
        }
    }
    assert!(mutations.values().sum::<usize>() >= 500 && mutations.values().all(|count| *count > 20), "{mutations:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(text) = decode(&bytes) {
            let _ = parse(text);
        }
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nothing_panics_on_what_looks_like_yaml(text in "[-:?,\\[\\]{}#&*!|>'\"%@`~<a-c0-9.$ \\t\\n\\r\u{feff}\u{85}é]{0,80}") {
        prop_assert!(parse(&text).is_err());
    }

    #[test]
    fn nothing_panics_on_a_damaged_example(at in 0..FULL.len(), length in 0..40_usize, with in "[-:,\\[\\]{}#&*!|>'\"$a-z0-9 \\n]{0,8}") {
        let mut bytes = FULL.as_bytes().to_vec();
        bytes.splice(at..(at + length).min(FULL.len()), with.bytes());
        if let Err(report) = parse(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!report.mistakes.is_empty());
            prop_assert!(!report.to_string().contains("a value is not what it should be"), "only serde saw it: {}", report);
            prop_assert!(report.mistakes.iter().all(|mistake| mistake.line >= 1 && mistake.column >= 1), "{}", report);
        }
    }
}

#[test]
fn what_is_wrong_with_services_and_what_they_give_is_told_on_its_line() {
    for (old, new, message) in [
        ("https://bundles.example.org/v1", "bundles.example.org/v1", "is not of the form"),
        ("token: file:acme.token", "token: s3cret", "a token does not belong into the configuration"),
        ("https://bundles.example.org/v1", "http://bundles.example.org/v1", "everybody on the way would read the token"),
        ("https://bundles.internal:8443", "http://bundles.internal:8443", "the url is http, and speaks no TLS"),
        (
            "tls: {spiffe_ids: [\"spiffe://example.org/bundles\"]}",
            "tls: {spiffe_ids: [\"spiffe://a/b\"], ca: a.pem}",
            "two ways to know",
        ),
        ("client_tls: own", "client_tls: mine", "`own`"),
        ("      service: acme\n", "      service: acm\n", "there is no service `acm`"),
        ("{service: acme, partition", "{service: acm, partition", "there is no service `acm`"),
        ("local: {path: ../../policies/admin-api}", "local: {path: policy, service: acme}", "a bundle comes from one place"),
        ("local: {path: ../../policies/admin-api}", "local: {persist: true}", "a bundle comes from one place"),
        ("local: {path: ../../policies/admin-api}", "local: {}", "a bundle comes from one place"),
        ("local: {path: ../../policies/admin-api}", "local: {path: policy, size_limit: 1MiB}", "for a bundle that a service gives"),
        ("local: {path: ../../policies/admin-api}", "local: {path: policy, pth: x}", "unknown key"),
        ("min_delay: 60s", "min_delay: 121s", "min_delay is 121s and max_delay 2m"),
        (" size_limit: 64MiB", " size_limit: 512MiB", "out of bounds"),
        ("long_polling: 30s", "long_polling: 30", "a duration"),
        ("resource: bundles/authz.tar.gz", "resource: \"\"", "is empty"),
        ("keyid: release ", "keyid: releas ", "there is no key `releas`"),
        ("algorithm: ES256", "algorithm: none", "expected one of"),
        ("exclude_files: [\"notes/*.md\"]", "exclude_files: [\"\"]", "is empty"),
        ("allow_rollback_to: r41", "allow_rollback_to: \"\"", "is empty"),
        ("decision_logs:\n  service: acme\n", "decision_logs:\n  service: acm\n", "there is no service `acm`"),
        ("resource: logs ", "resource: '' ", "is empty"),
        ("lines: decisions", "lines: both", "expected one of"),
        ("min_delay: 1s", "min_delay: 6s", "min_delay is 6s and max_delay 5s"),
        ("upload_size_limit: 32KiB", "upload_size_limit: 100", "out of bounds"),
    ] {
        let (text, line) = edited(BUNDLES, old, new);
        let report = parse(&text).unwrap_err();
        let told = report.mistakes.iter().any(|mistake| mistake.line.abs_diff(line) <= 2 && mistake.message.contains(message));
        assert!(told, "{new}: {report}");
        assert!(!report.to_string().contains("s3cret"), "{report}");
    }
    let secret = BUNDLES.replace("algorithm: ES256", "algorithm: HS256").replace("file:release.pem", "s3cret");
    let report = parse(&secret).unwrap_err().to_string();
    assert!(report.contains("keys.release.key: a secret does not belong") && !report.contains("s3cret"), "{report}");
    let report = parse(&BUNDLES.replace("keys:\n  release:", "x-keys:\n  release:")).unwrap_err().to_string();
    assert!(report.contains("policy.bundles.prices.signing: there is no key to verify signatures with"), "{report}");
    let local = BUNDLES.replace("https://bundles.example.org/v1", "http://127.0.0.1:8181");
    parse(&local).unwrap_or_else(|report| panic!("a token may go over http on this machine: {report}"));
}
