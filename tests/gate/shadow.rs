//! Policies that are tried before they count: listeners and routes that only observe, and a shadow beside the policy in force.

use bytes::Bytes;
use serde_json::Value;

use crate::harness::{ALLOW, BOTH, Backend, Gate, Setup, Speaks, by_hand, full, request, until, within};

const DENY: &str = "package portcullis\n\ndecision := {\"allowed\": false, \"reasons\": [\"tomorrow\"]}\n";

fn tried(active: &str, shadow: &str) -> Setup {
    Setup { shadow: Some((shadow.to_owned(), String::new())), ..Setup::policy(active) }
}

impl Gate {
    fn shadow(&self) -> Value {
        let (status, answer) = self.control("GET", "/v1/policy/shadow", "");
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Waits until the shadow has judged this many requests, or given them up.
    async fn compared(&self, requests: u64) -> Value {
        let settled = |answer: &Value| {
            let unjudged = answer["unjudged"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
            answer["compared"].as_u64().unwrap() + unjudged >= requests
        };
        within("the shadow to judge", async {
            loop {
                let answer = self.shadow();
                if settled(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    fn disagreements(&self, from: &str, to: &str) -> f64 {
        self.metric("portcullis_shadow_disagreements_total", &format!("from=\"{from}\",to=\"{to}\""))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_denies_changes_nothing_and_is_counted_listed_and_recorded() {
    for protocol in BOTH {
        let backend = Backend::start();
        let extra = "resources: [{match: {path: \"/v1/users/*\"}, type: user, sensitivity: low, effect: read}]\n".to_owned();
        let shadow = "package portcullis\n\ndecision := true if input.request.path == \"/fine\"\n\
                      else := {\"allowed\": false, \"reasons\": [\"tomorrow\"]}\n";
        let mut gate = Setup { extra, ..tried(ALLOW, shadow) }.start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        for path in ["/v1/users/1", "/v1/users/2", "/fine"] {
            assert_eq!(client.get(path).await.status, 200, "{protocol:?} {path}");
        }
        let answer = gate.compared(3).await;
        assert_eq!(
            (&answer["compared"], &answer["disagreed"], &answer["ungrouped"]),
            (&3.into(), &2.into(), &0.into()),
            "{answer}"
        );
        let groups = answer["groups"].as_array().unwrap();
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        let told = ["listener", "route", "method", "action", "resource", "sensitivity", "spiffe_id", "from", "to", "reason"];
        assert_eq!(
            told.map(|key| group[key].as_str().unwrap()),
            [
                "front",
                "all",
                "GET",
                "/v1/users/*",
                "user",
                "low",
                "spiffe://example.org/agents/research",
                "allow",
                "deny",
                "tomorrow"
            ]
        );
        assert_eq!(group["count"], 2);
        assert_eq!((gate.disagreements("allow", "deny"), gate.metric("portcullis_shadow_compared_total", "")), (2.0, 3.0));
        assert_eq!(gate.metric("portcullis_requests_total", "verdict=\"deny\""), 0.0, "the verdicts in force are counted alone");
        let (status, sessions) = gate.control("GET", "/v1/sessions", "");
        assert_eq!((status, &sessions["sessions"][0]["denied"]), (200, &0.into()));
        let decisions = gate.decisions();
        for (path, differs) in [("/v1/users/1", true), ("/v1/users/2", true), ("/fine", false)] {
            let line = decisions.iter().find(|line| line["path"] == path).unwrap();
            assert_eq!((&line["verdict"], &line["ending"]), (&"allow".into(), &"complete".into()));
            assert_eq!(line["shadow"].is_null(), !differs, "{line}");
            if differs {
                let said = (&line["shadow"]["verdict"], &line["shadow"]["reasons"][0], &line["shadow"]["generation"]);
                assert_eq!(said, (&"deny".into(), &"tomorrow".into(), &1.into()));
                assert!(line["shadow"]["revisions"]["next"].is_string());
            }
        }
        let id = group["decision_id"].as_str().unwrap();
        assert!(decisions.iter().any(|line| line["exchange"] == id && line["path"] == "/v1/users/2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_allows_lets_nothing_pass_and_its_word_is_on_the_line_of_the_denial() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = tried(DENY, ALLOW).start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        assert_eq!(client.get("/").await.status, 403);
        let answer = gate.compared(1).await;
        let group = &answer["groups"][0];
        assert_eq!((&group["from"], &group["to"], &group["reason"]), (&"deny".into(), &"allow".into(), &"tomorrow".into()));
        assert!(backend.seen().is_empty());
        let line = gate.decisions().remove(0);
        assert_eq!((&line["verdict"], &line["shadow"]["verdict"]), (&"deny".into(), &"allow".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_decision_is_written_first_the_closing_line_has_the_shadows_word() {
    for durability in ["written", "synced"] {
        let backend = Backend::start();
        let audit = format!("  file: decisions.jsonl\n  durability: {durability}\n");
        let mut gate = Setup { audit, ..tried(ALLOW, DENY) }.start(backend.address);
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        assert_eq!(client.get("/").await.status, 200);
        gate.compared(1).await;
        let lines: Vec<Value> = gate.record().into_iter().map(|line| line["portcullis"].clone()).collect();
        let of = |kind: &str| lines.iter().find(|line| line["kind"] == kind).unwrap();
        assert!(of("decision")["shadow"].is_null(), "{durability}: nobody waits for a shadow");
        assert_eq!(of("closing")["shadow"]["verdict"], "deny", "{durability}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shadow_asks_for_is_not_done() {
    let backend = Backend::start();
    let shadow = "package portcullis\n\n\
         decision := {\"allowed\": false, \"kill\": {\"scope\": \"identity\"}} if input.request.path == \"/kill\"\n\
         else := {\"allowed\": true, \"headers\": {\"x-shadow\": \"yes\"}, \"rewrite\": {\"path\": \"/elsewhere\"}, \
         \"response_headers_to_add\": {\"x-shadow\": \"yes\"}, \"lease\": {\"max_bytes_out\": 1}}\n";
    let gate = tried(ALLOW, shadow).start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for path in ["/kill", "/edit", "/kill", "/edit"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.headers.get("x-shadow"), answer.body.as_str()), (200, None, "hello"), "{path}");
    }
    let answer = gate.compared(4).await;
    assert_eq!((&answer["compared"], &answer["disagreed"]), (&4.into(), &2.into()), "{answer}");
    for seen in backend.seen() {
        assert!(["/kill", "/edit"].contains(&seen.target()) && seen.header("x-shadow").is_none(), "{}", seen.head);
    }
    assert_eq!(gate.control("GET", "/v1/kills", "").1["kills"], serde_json::json!([]));
    assert_eq!(gate.running().registry().wakes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_without_end_is_an_error_of_its_own() {
    let backend = Backend::start();
    let slow = "package portcullis\n\nmany := numbers.range(1, 2000)\n\n\
                decision := count([1 | some a in many; some b in many; a + b == input.request.port]) == -1\n";
    let gate = Setup { shadow: Some((slow.to_owned(), ", time: 20ms".to_owned())), ..Setup::default() }.start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let answer = gate.compared(50).await;
    let group = &answer["groups"][0];
    assert_eq!((&group["from"], &group["to"], &group["reason"]), (&"allow".into(), &"error".into(), &"policy_timeout".into()));
    assert_eq!(answer["compared"], answer["disagreed"]);
    assert!(answer["compared"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(gate.disagreements("allow", "error"), answer["compared"].as_f64().unwrap());
    assert_eq!(gate.metric("portcullis_decision_errors_total", ""), 0.0, "the policy in force had none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_shadow_touches_nothing_and_is_visible_at_the_start_and_later() {
    let backend = Backend::start();
    let gate = tried(ALLOW, "package portcullis\n\ndecision := (\n").start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    assert_eq!((client.get("/").await.status, gate.admin("/readyz").0), (200, 200));
    let status = |gate: &Gate| gate.control("GET", "/v1/status", "").1;
    let told = status(&gate);
    assert_eq!((&told["generation"], &told["last_error"], &told["shadow"]["generation"]), (&1.into(), &Value::Null, &0.into()));
    assert!(told["shadow"]["last_error"]["report"].as_str().unwrap().contains("policy.rego:"), "{told}");
    assert_eq!(gate.metric("portcullis_shadow_failures_total", ""), 1.0);
    assert_eq!(gate.compared(1).await["unjudged"]["not_loaded"], 1);

    // Mended it judges; broken again the last good one goes on.
    within("the shadow to be taken up", async {
        std::fs::write(gate.path("shadow/policy.rego"), DENY).unwrap();
        while status(&gate)["shadow"]["generation"] != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(status(&gate)["shadow"]["last_error"], Value::Null);
    std::fs::write(gate.path("shadow/policy.rego"), "package elsewhere\n").unwrap();
    assert_eq!(gate.control("POST", "/v1/policy/activate", "{}").0, 200, "the policy in force is activated all the same");
    gate.shadow_settles();
    let told = status(&gate);
    assert_eq!((&told["generation"], &told["shadow"]["generation"]), (&2.into(), &1.into()), "{told}");
    assert!(told["shadow"]["last_error"].is_object() && told["last_error"].is_null(), "{told}");
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(gate.compared(1).await["disagreed"], 1);
    assert_eq!(gate.metric("portcullis_shadow_failures_total", ""), 2.0);
    assert_eq!(gate.metric("portcullis_bundle_failures_total", ""), 0.0, "no bundle in force failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_shadow_is_taken_up_when_its_bundle_changes_and_begins_an_empty_table() {
    let backend = Backend::start();
    let gate = tried(ALLOW, DENY).start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    client.get("/").await;
    assert_eq!(gate.compared(1).await["disagreed"], 1);
    let revision = gate.shadow()["shadow"]["revisions"]["next"].clone();
    std::fs::write(gate.path("shadow/policy.rego"), ALLOW).unwrap();
    within("the shadow to be taken up", async {
        while gate.metric("portcullis_shadow_generation", "") < 2.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = gate.shadow();
    assert_ne!(answer["shadow"]["revisions"]["next"], revision);
    assert_eq!((&answer["compared"], &answer["groups"]), (&0.into(), &serde_json::json!([])));
    client.get("/").await;
    let answer = gate.compared(1).await;
    assert_eq!((&answer["compared"], &answer["disagreed"]), (&1.into(), &0.into()), "{answer}");
    assert_eq!(gate.control("GET", "/v1/policy", "").1["generation"], 1, "the policy in force is the one it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_in_so_many_requests_is_judged_twice_and_no_body_is_read_for_it() {
    let backend = Backend::start();
    let reads = "package portcullis\n\ndecision := input.request.body.fine\n".to_owned();
    let gate = Setup { shadow: Some((reads, ", sample: 3".to_owned())), ..Setup::default() }.start(backend.address);
    let mut clients = Vec::new();
    // Each worker counts by itself, so all of them on one connection.
    clients.push(gate.any(Speaks::Http2, "agents/research").await);
    for _ in 0..9 {
        assert_eq!(clients[0].post("/", "{\"fine\": false}").await.status, 200);
    }
    assert_eq!(gate.compared(3).await["unjudged"], serde_json::json!({"body": 3}));
    assert_eq!(gate.metric("portcullis_shadow_unjudged_total", "reason=\"body\""), 3.0);
    for _ in 0..3 {
        assert_eq!(clients[0].get("/").await.status, 200);
    }
    let answer = gate.compared(4).await;
    assert_eq!((&answer["compared"], &answer["groups"][0]["to"]), (&1.into(), &"undefined".into()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_may_be_asked_another_rule_and_is_judged_on_the_same_facts() {
    let backend = Backend::start();
    let shadow = "package next\n\ndecision := true if {\n\tinput.peer.spiffe_id == \"spiffe://example.org/agents/research\"\n\
                  \tinput.route.name == \"all\"\n\tinput.session.recent[0].action == \"GET /first\"\n}\n";
    let more = ", decision: next/decision".to_owned();
    let gate = Setup { shadow: Some((shadow.to_owned(), more)), ..Setup::default() }.start(backend.address);
    let mut client = gate.any(Speaks::Http1, "agents/research").await;
    client.get("/first").await;
    client.get("/second").await;
    let answer = gate.compared(2).await;
    let group = &answer["groups"][0];
    assert_eq!(
        (&answer["disagreed"], &group["action"], &group["to"]),
        (&1.into(), &"/first".into(), &"undefined".into()),
        "{answer}"
    );
}

/// A configuration with routes of its own and a small limit for bodies.
fn routes(yaml: &str, listener: &str, routes: &str) -> String {
    let own = format!("    enforcement: {listener}\n    routes: {routes}\n");
    let changed = yaml.replace("    routes: [{name: all, upstream: backend}]\n", &own);
    let changed = changed.replace("limits: {time: 200ms}", "limits: {time: 200ms, body: 64B}");
    assert_ne!(changed, yaml);
    changed
}

const BOTH_WAYS: &str = "[{name: open, path_prefix: /open, upstream: backend, enforcement: observe}, \
     {name: shut, path_prefix: /shut, upstream: backend, enforcement: enforce}, {name: all, upstream: backend}]";

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_says_for_its_routes_whether_they_observe_and_a_route_says_otherwise() {
    for (listener, all) in [("observe", 200), ("enforce", 403)] {
        let backend = Backend::start();
        let mut gate = Setup::policy(DENY).start_with(backend.address, |yaml| routes(&yaml, listener, BOTH_WAYS));
        let mut client = gate.any(Speaks::Http2, "agents/research").await;
        for (path, status) in [("/open", 200), ("/shut", 403), ("/other", all)] {
            assert_eq!(client.get(path).await.status, status, "{listener} {path}");
        }
        let observed = 1.0 + f64::from(u8::from(all == 200));
        let count = |verdict: &str, mode: &str| {
            let text = gate.admin("/metrics").1;
            let of = |line: &&str| {
                line.starts_with("portcullis_requests_total{")
                    && line.contains(&format!("verdict=\"{verdict}\""))
                    && line.contains(&format!("mode=\"{mode}\""))
            };
            text.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        };
        assert_eq!((count("observe_deny", "observe"), count("deny", "enforce")), (observed, 3.0 - observed), "{listener}");
        let never = [("allow", "observe"), ("allow", "enforce"), ("deny", "observe"), ("observe_deny", "enforce")];
        assert_eq!(never.map(|(verdict, mode)| count(verdict, mode)), [0.0; 4], "{listener}");
        let answer = gate.shadow();
        let rows = answer["observed"].as_array().unwrap();
        assert_eq!(rows.iter().map(|row| row["would_deny"].as_u64().unwrap()).collect::<Vec<_>>(), vec![1; rows.len()], "{answer}");
        assert_eq!((rows.len(), answer["shadow"].is_null()), (if all == 200 { 2 } else { 1 }, true), "{answer}");
        for line in gate.decisions() {
            let observed = line["enforcement"] == "observe";
            assert_eq!(line["verdict"], if observed { "observe_deny" } else { "deny" }, "{line}");
            assert_eq!(line["ending"], if observed { "complete" } else { "denied" }, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn observed_routes_are_listed_by_the_harm_they_could_do() {
    let backend = Backend::start();
    let extra = "resources: [{match: {path: \"/open/**\"}, type: page, sensitivity: low, effect: read}]\n".to_owned();
    let own = "[{name: open, path_prefix: /open, upstream: backend}, {name: quiet, path_prefix: /quiet, upstream: backend}, \
               {name: all, upstream: backend}]";
    let gate = Setup { extra, ..Setup::policy(DENY) }.start_with(backend.address, |yaml| routes(&yaml, "observe", own));
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for path in ["/open/1", "/open/2", "/open/3", "/x"] {
        client.get(path).await;
    }
    let answer = gate.shadow();
    let told: Vec<_> =
        answer["observed"].as_array().unwrap().iter().map(|row| (&row["route"], &row["sensitivity"], &row["would_deny"])).collect();
    let wanted: [(Value, Value, Value); 3] =
        [("all".into(), "high".into(), 1.into()), ("open".into(), "low".into(), 3.into()), ("quiet".into(), Value::Null, 0.into())];
    assert_eq!(told, wanted.iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_no_policy_can_be_shown_goes_up_whole_where_its_route_observes() {
    let reads = "package portcullis\n\ndecision := input.request.body.fine\n";
    let long = format!("{{\"fine\": true, \"more\": \"{}\"}}", "x".repeat(300));
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup::policy(reads).start_with(backend.address, |yaml| routes(&yaml, "enforce", BOTH_WAYS));
        for (what, text, code, status) in [
            ("long", &long, "body_too_large", 413),
            ("pieces", &long, "body_too_large", 413),
            ("broken", &"{\"fine\": tru".to_owned(), "body_unreadable", 400),
        ] {
            for (route, wanted, verdict) in [("/open", 200, "observe_deny"), ("/shut", status, "deny")] {
                let (pieces, body) = by_hand();
                let body = if what == "pieces" {
                    for piece in text.as_bytes().chunks(40) {
                        pieces.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
                    }
                    body
                } else {
                    full(text.clone())
                };
                drop(pieces);
                let mut asked = request("POST", &format!("{route}/{what}"), body);
                asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
                // One connection each: a body that is left unread ends it on HTTP/1.1.
                let answer = gate.any(protocol, "agents/research").await.send(asked).await.unwrap();
                assert_eq!(answer.status(), wanted, "{protocol:?} {route} {what}: {verdict} {code}");
            }
        }
        let seen = backend.seen();
        let bodies: Vec<_> = seen.iter().map(|seen| (seen.target(), String::from_utf8_lossy(&seen.body))).collect();
        let whole = [
            ("/open/long", long.as_str().into()),
            ("/open/pieces", long.as_str().into()),
            ("/open/broken", "{\"fine\": tru".into()),
        ];
        assert_eq!(bodies, whole, "{protocol:?}: every byte, and only where nothing blocks");
        assert_eq!(gate.metric("portcullis_requests_total", "reason=\"body_too_large\",verdict=\"observe_deny\""), 2.0);
        for line in gate.decisions() {
            let observed = line["route"] == "open";
            assert_eq!(line["verdict"], if observed { "observe_deny" } else { "deny" }, "{line}");
            let code = if line["path"].as_str().unwrap().ends_with("broken") { "body_unreadable" } else { "body_too_large" };
            assert_eq!(line["reason"], code, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_cannot_be_made_lets_the_request_pass_as_it_came_where_its_route_observes() {
    let edits = "package portcullis\n\n\
         decision := {\"allowed\": true, \"headers\": {\"x-team\": \"blue\", \"host\": \"elsewhere\"}} if endswith(input.request.path, \"/edit\")\n\
         else := {\"allowed\": true, \"rewrite\": {\"path\": concat(\"\", [input.request.path, \"x\"])}}\n";
    let backend = Backend::start();
    let mut gate = Setup::policy(edits).start_with(backend.address, |yaml| routes(&yaml, "enforce", BOTH_WAYS));
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    for (path, status) in [("/open/edit", 200), ("/open/move", 200), ("/shut/edit", 403), ("/shut/move", 403)] {
        assert_eq!(client.get(path).await.status, status, "{path}");
    }
    let seen = backend.seen();
    assert_eq!(
        seen.iter().map(|seen| (seen.target(), seen.header("x-team"))).collect::<Vec<_>>(),
        [("/open/edit", None), ("/open/move", None)]
    );
    for line in gate.decisions() {
        let code = if line["path"].as_str().unwrap().ends_with("edit") { "edit_refused" } else { "rewrite_unstable" };
        let verdict = if line["route"] == "open" { "observe_deny" } else { "deny" };
        assert_eq!(
            (&line["verdict"], &line["reason"], &line["edits"]),
            (&verdict.into(), &code.into(), &serde_json::json!([])),
            "{line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_holds_where_a_route_only_observes_and_is_told_as_a_denial() {
    let backend = Backend::start();
    let mut gate = Setup::policy(DENY).start_with(backend.address, |yaml| routes(&yaml, "observe", BOTH_WAYS));
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    assert_eq!(client.get("/open").await.status, 200);
    gate.kill("{\"upstream\": \"backend\"}");
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    assert_eq!(client.get("/open").await.status, 403);
    let last = gate.decisions().pop().unwrap();
    assert_eq!((&last["verdict"], &last["reason"], &last["enforcement"]), (&"deny".into(), &"killed".into(), &"observe".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_rights_away_waits_for_no_shadow_and_neither_does_the_start() {
    let backend = Backend::start();
    let mut gate = tried(ALLOW, DENY).start(backend.address);
    gate.stop();
    // A bundle that cannot be read before somebody writes it, however long that takes.
    let fifo = gate.path("shadow.tar.gz");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let yaml = std::fs::read_to_string(gate.path("gate.yaml")).unwrap();
    std::fs::write(gate.path("gate.yaml"), yaml.replace("{path: shadow}", "{path: shadow.tar.gz}")).unwrap();
    gate.restart();
    let shadow = |gate: &Gate| gate.control("GET", "/v1/status", "").1["shadow"].clone();
    assert_eq!((&shadow(&gate)["loading"], &shadow(&gate)["generation"]), (&true.into(), &0.into()));
    let mut client = gate.any(Speaks::Http2, "agents/research").await;
    assert_eq!(client.get("/").await.status, 200);
    let (status, answer) = gate.activate(DENY, "{}");
    assert_eq!((status, client.get("/").await.status), (200, 403), "{answer}");
    assert_eq!(
        (&shadow(&gate)["loading"], &shadow(&gate)["generation"]),
        (&true.into(), &0.into()),
        "it is not what was waited for"
    );
    let contents = portcullis::policy::bundle::sign::Contents::open(&gate.path("shadow")).unwrap().archive().unwrap();
    // Whoever waits for a writer gets one, and is told that this is no file; then there is one.
    drop(tokio::task::block_in_place(|| std::fs::OpenOptions::new().write(true).open(&fifo)).unwrap());
    until("the fifo to be refused", || shadow(&gate)["last_error"].is_object() && shadow(&gate)["loading"] == false).await;
    std::fs::write(gate.path("beside"), contents).unwrap();
    std::fs::rename(gate.path("beside"), &fifo).unwrap();
    until("the shadow to judge", || shadow(&gate)["generation"].as_u64() > Some(0)).await;
}
