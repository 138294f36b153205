//! The walk of one request: allowed, denied, forwarded, recorded, counted, on both protocols.

use crate::harness::*;

#[tokio::test]
async fn an_allowed_request_reaches_the_upstream_with_the_identity_the_gate_proved() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate = Setup::default().start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let answer = client.get("/v1/users?page=2").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{protocol:?}");
        let seen = backend.seen();
        assert_eq!(seen[0].target(), "/v1/users?page=2");
        assert_eq!(seen[0].header("x-spiffe-id"), Some("spiffe://example.org/agents/research"));
        assert_eq!(seen[0].header("host"), Some("gate.test"));
        let decisions = gate.decisions();
        assert_eq!(decisions.len(), 1, "{decisions:?}");
        assert_eq!(decisions[0]["verdict"], "allow");
        assert_eq!(decisions[0]["ending"], "complete");
        assert_eq!(decisions[0]["peer"], "spiffe://example.org/agents/research");
        assert_eq!(decisions[0]["bytes_out"], 5);
    }
}

#[tokio::test]
async fn a_denied_request_reaches_nobody_and_says_why_in_problem_json() {
    for protocol in BOTH {
        let backend = Backend::start();
        let mut gate =
            Setup::policy("package portcullis\n\ndecision := {\"allowed\": false, \"reasons\": [\"no\"]}\n").start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        let answer = client.get("/v1/users").await;
        assert_eq!(answer.status, 403);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.json()["code"], "policy");
        assert!(!answer.body.contains("no\""), "reasons are the record's: {}", answer.body);
        assert!(backend.seen().is_empty());
        assert_eq!(gate.metric("portcullis_requests_total", "reason=\"policy\""), 1.0);
        let decisions = gate.decisions();
        assert_eq!(decisions.len(), 1);
        assert_eq!(decisions[0]["verdict"], "deny");
        assert_eq!(decisions[0]["reasons"], serde_json::json!(["no"]));
        assert_eq!(decisions[0]["ending"], "denied");
        let id = answer.json()["decision_id"].as_str().unwrap().to_owned();
        assert_eq!(decisions[0]["exchange"], id.as_str());
    }
}

#[tokio::test]
async fn many_requests_share_a_connection_each_way() {
    for protocol in BOTH {
        let backend = Backend::start();
        let gate = Setup::default().start(backend.address);
        let mut client = gate.any(protocol, "agents/research").await;
        for number in 0..50 {
            assert_eq!(client.get(&format!("/{number}")).await.status, 200);
        }
        assert_eq!(backend.seen().len(), 50);
        assert_eq!(backend.connections.load(std::sync::atomic::Ordering::SeqCst), 1, "the upstream connection is kept");
    }
}
