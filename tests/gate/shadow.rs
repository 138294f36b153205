//! Policies that are tried before they count: listeners and routes that only observe, and a shadow beside the policy in force.

use http_body_util::{BodyExt, Full, StreamBody};

use crate::harness::{BOTH, Backend, Setup, request};

const READS_BODIES: &str = "package portcullis\n\ndecision := input.request.body.fine\n";

/// A configuration with routes of its own and a small limit for bodies.
fn routes(yaml: &str, listener: &str, routes: &str) -> String {
    let changed = yaml.replace("    routes: [{name: all, upstream: backend}]\n", &format!("    enforcement: {listener}\n    routes: {routes}\n"));
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
        let deny = "package portcullis\n\ndecision := false\n";
        let mut gate = Setup::policy(deny).start_with(backend.address, |yaml| routes(&yaml, listener, BOTH_WAYS));
        let mut client = gate.any(BOTH[1], "agents/research").await;
        for (path, status) in [("/open", 200), ("/shut", 403), ("/other", all)] {
            assert_eq!(client.get(path).await.status, status, "{listener} {path}");
        }
        let observed = 1.0 + f64::from(u8::from(all == 200));
        let count = |part: &str| gate.metric("portcullis_requests_total", part);
        assert_eq!(count("mode=\"observe\",reason=\"policy\",verdict=\"observe_deny\""), observed, "{listener}");
        assert_eq!(count("mode=\"enforce\",reason=\"policy\",verdict=\"deny\""), 3.0 - observed, "{listener}");
        assert_eq!(count("verdict=\"allow\"") + count("mode=\"observe\",reason=\"policy\",verdict=\"deny\""), 0.0);
        for line in gate.decisions() {
            let observed = line["enforcement"] == "observe";
            assert_eq!(line["verdict"], if observed { "observe_deny" } else { "deny" }, "{line}");
            assert_eq!(line["ending"], if observed { "complete" } else { "denied" }, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_no_policy_can_be_shown_goes_up_whole_where_its_route_observes() {
    let long = format!("{{\"fine\": true, \"more\": \"{}\"}}", "x".repeat(500_000));
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup::policy(READS_BODIES).start_with(backend.address, |yaml| routes(&yaml, "enforce", BOTH_WAYS));
        let mut client = gate.any(protocol, "agents/research").await;
        let mut codes = Vec::new();
        for (what, body, code) in
            [("long", long.as_str(), "body_too_large"), ("chunked", &long, "body_too_large"), ("broken", "{\"fine\": tru", "body_unreadable")]
        {
            for (route, passes) in [("/open", true), ("/shut", false)] {
                let whole = Full::new(bytes::Bytes::from(body.to_owned()));
                let body_sent = if what == "chunked" {
                    let pieces: Vec<_> = body.as_bytes().chunks(50).map(|piece| Ok(http_body::Frame::data(bytes::Bytes::copy_from_slice(piece)))).collect();
                    StreamBody::new(futures_of(pieces)).boxed()
                } else {
                    whole.boxed()
                };
                let mut asked = request("POST", &format!("{route}/{what}"), body_sent);
                asked.headers_mut().insert("content-type", "application/json".parse().unwrap());
                let status = client.send(asked).await.map_or(0, |answer| answer.status().as_u16());
                assert_eq!(status == 200, passes, "{protocol:?} {route} {what}: {status}");
                codes.push((format!("{route}/{what}"), passes, code));
                if !passes && what != "broken" {
                    // HTTP/1.1 ends a connection on which a body is left unread.
                    client = gate.any(protocol, "agents/research").await;
                }
            }
        }
        let seen = backend.seen();
        assert_eq!(seen.len(), 3, "{protocol:?}: what is not judged goes up only where nothing blocks");
        let decisions = gate.decisions();
        for (path, passes, code) in codes {
            let line = decisions.iter().find(|line| line["path"] == path.as_str()).unwrap();
            let verdict = if passes { "observe_deny" } else { "deny" };
            assert_eq!((&line["verdict"], &line["reason"]), (&verdict.into(), &code.into()), "{path}");
        }
    }
}
