//! Promises 1, 2 and 6: nothing before an allow of the active generation, kills and swaps that cost nobody a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis::exchange::{KillId, Selector, StandingKill};

use crate::harness::*;

/// A bundle whose rule and data both say which one it is.
fn bundle(number: u64) -> (String, String) {
    let policy = format!(
        "package portcullis\n\ndecision := {{\"allowed\": true, \"headers\": {{\"x-rule\": \"{number}\", \"x-data\": sprintf(\"%d\", [data.number])}}}}\n"
    );
    (policy, format!("{{\"number\": {number}}}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_swaps_under_load_fail_no_request_and_mix_no_generations() {
    let backend = Backend::start();
    let (policy, data) = bundle(0);
    let gate = Arc::new(Setup { policy, data, ..Setup::default() }.start(backend.address));
    let (activated, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut load = Vec::new();
    for (number, protocol) in [Speaks::Http1, Speaks::Http2, Speaks::Http1, Speaks::Http2].into_iter().enumerate() {
        let (gate, activated, over) = (Arc::clone(&gate), Arc::clone(&activated), Arc::clone(&over));
        load.push(tokio::spawn(async move {
            let mut client = gate.any(protocol, &format!("agents/{number}")).await;
            let mut sent = 0;
            while !over.load(Ordering::SeqCst) {
                // The request's first byte leaves after this activation returned.
                let least = activated.load(Ordering::SeqCst);
                let answer = client.get(&format!("/{least}")).await;
                assert_eq!(answer.status, 200, "{protocol:?}: {}", answer.body);
                sent += 1;
            }
            sent
        }));
    }
    for number in 1..=1000 {
        let (policy, data) = bundle(number);
        let (status, answer) = tokio::task::block_in_place(|| gate.activate(&policy, &data));
        assert_eq!(status, 200, "{answer}");
        activated.store(number, Ordering::SeqCst);
    }
    over.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for load in load {
        sent += within("the load to end", load).await.unwrap();
    }
    let seen = backend.seen();
    assert_eq!(seen.len(), sent);
    assert!(sent > 1000, "{sent} requests are no load");
    for request in seen {
        let number = |name| request.header(name).unwrap().parse::<u64>().unwrap();
        assert_eq!(number("x-rule"), number("x-data"), "rule and data of two generations");
        let least: u64 = request.target()[1..].parse().unwrap();
        assert!(number("x-rule") >= least, "judged by {} after {least} was in force", number("x-rule"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_unrelated_kills_a_second_cost_no_request() {
    let backend = Backend::start();
    let gate = Arc::new(Setup::default().start(backend.address));
    let over = Arc::new(AtomicBool::new(false));
    let killing = {
        let (registry, over) = (Arc::clone(gate.running().registry()), Arc::clone(&over));
        std::thread::spawn(move || {
            let (mut killed, began) = (0u32, std::time::Instant::now());
            while !over.load(Ordering::SeqCst) {
                let selector =
                    Selector { spiffe_id: Some(format!("spiffe://example.org/elsewhere/{killed}")), ..Selector::default() };
                let id = KillId(uuid::Uuid::new_v4());
                let kill = StandingKill {
                    id,
                    selector: selector.clone(),
                    reason: String::new(),
                    by: String::new(),
                    created: 0,
                    expires: None,
                };
                registry.publish(kill);
                assert!(registry.cut_matching(&selector, portcullis::decision::Cause::Kill, Some(id)).cut.is_empty());
                killed += 1;
                // The rate, not a wait for anything: a burst and a pause would test something else.
                let due = began + Duration::from_micros(100) * killed;
                while std::time::Instant::now() < due {
                    std::thread::yield_now();
                }
            }
            killed
        })
    };
    let mut client = gate.any(Speaks::Http2, "agents/good").await;
    let mut other = gate.any(Speaks::Http1, "agents/good").await;
    for number in 0..2000 {
        assert_eq!(client.get("/").await.status, 200, "request {number}");
        assert_eq!(other.get("/").await.status, 200, "request {number}");
    }
    over.store(true, Ordering::SeqCst);
    assert!(killing.join().unwrap() > 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_cuts_what_it_would_not_admit_and_can_be_asked_beforehand() {
    for protocol in BOTH {
        let (backend, _) = crate::cuts::ticking();
        let gate = Setup::policy("package portcullis\n\ndecision := true\n").start(backend.address);
        let mut bad = gate.any(protocol, "agents/bad").await;
        let mut good = gate.any(protocol, "agents/good").await;
        let stopped = bad.open("/ticks").await.into_body();
        let mut going = good.open("/ticks").await.into_body();
        let stricter = "package portcullis\n\ndefault decision := false\n\ndecision if input.peer.segments[1] != \"bad\"\n";
        std::fs::write(gate.path("policy/policy.rego"), stricter).unwrap();
        let (status, rehearsed) =
            tokio::task::block_in_place(|| gate.control("POST", "/v1/policy/activate", "{\"dry_run\": true}"));
        assert_eq!((status, &rehearsed["cut"]), (200, &1.into()), "{rehearsed}");
        let (status, done) = tokio::task::block_in_place(|| gate.control("POST", "/v1/policy/activate", "{}"));
        assert_eq!((status, &done["cut"], &done["open"]), (200, &1.into(), &2.into()), "{done}");
        let end = crate::cuts::drain(stopped).await.1;
        assert!(end.is_err(), "{protocol:?}: a cut stream ended cleanly");
        crate::cuts::some_bytes(&mut going, 64 * 1024).await;
        assert_eq!(gate.any(protocol, "agents/bad").await.get("/").await.status, 403);
        let (_, back) = tokio::task::block_in_place(|| gate.control("POST", "/v1/policy/rollback", "{}"));
        assert!(back["generation"].as_u64().is_some(), "{back}");
        assert_eq!(gate.any(protocol, "agents/bad").await.get("/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_refused_changes_nothing_and_says_where() {
    let backend = Backend::start();
    let gate = Setup::default().start(backend.address);
    let mut client = gate.any(Speaks::Http2, "agents/good").await;
    for (policy, part) in [
        ("package portcullis\n\ndecision := http.send({})\n", "http.send"),
        ("package portcullis\n\ndecision := f(1)\n\nf(x) := f(x)\n", "policy.rego:5"),
        ("package portcullis\n\ndecision = {\n", "policy.rego"),
        ("package portcullis\n\nallow := true\n", "portcullis/decision"),
        ("package portcullis\n\ndecision := no.such(1)\n", "no.such"),
    ] {
        let (status, answer) = tokio::task::block_in_place(|| gate.activate(policy, "{}"));
        assert!((400..500).contains(&status), "{status} {answer}");
        assert!(answer.to_string().contains(part), "{part}: {answer}");
        assert_eq!(client.get("/").await.status, 200, "the last good one judges on");
    }
    assert!(tokio::task::block_in_place(|| gate.metric("portcullis_bundle_failures_total", "authz")) >= 5.0);
    let (_, status) = tokio::task::block_in_place(|| gate.control("GET", "/v1/status", ""));
    assert!(status["last_error"]["report"].to_string().contains("no.such"), "{status}");
    assert_eq!(status["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_open_exchanges_between_which_the_policy_sees_no_difference_one_is_judged_again() {
    let (backend, _) = crate::cuts::slow_ticks();
    let by_path =
        |verdict: &str| format!("package portcullis\n\ndefault decision := false\n\ndecision := true if {{ {verdict} }}\n");
    let gate = Setup::policy(&by_path("startswith(input.request.path, \"/ticks\")")).start(backend.address);
    let client = gate.http2("agents/research").await;
    let mut open = Vec::new();
    for place in 0..20 {
        // Two paths, on one connection and so on one worker.
        let path = format!("/ticks/{}", place % 2);
        let mut body = within("a stream", client.clone().send(request("GET", &path, empty()))).await.unwrap().into_body();
        crate::cuts::some_bytes(&mut body, 1).await;
        open.push(body);
    }
    let judged = || gate.metric("portcullis_decision_seconds_count", "phase=\"reassess\"");
    let before = tokio::task::block_in_place(judged);
    let (status, answer) = tokio::task::block_in_place(|| gate.activate(&by_path("input.request.path == \"/ticks/0\""), "{}"));
    assert_eq!((status, &answer["open"], &answer["cut"]), (200, &20.into(), &10.into()), "{answer}");
    assert!((tokio::task::block_in_place(judged) - before - 2.0).abs() < 0.5, "two questions, two answers");
}
