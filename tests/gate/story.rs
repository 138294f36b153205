//! The story: an agent works, chains a suspicious sequence, its stream is cut mid-flight, its next request is refused, an operator
//! reads the evidence and lifts the kill, and the agent works on.

use std::io::Write as _;
use std::process::Command;

use http_body_util::BodyExt as _;

use crate::harness::*;

const RULES: &str = "\
anomaly:
  rules:
    - name: secrets-carried-out
      sequence:
        within: 60s
        steps:
          - match: {methods: [GET], path: /v1/secrets}
          - match: {methods: [GET], path: /v1/secrets/*}
          - match: {methods: [POST]}
            not: {hosts: [api.corp.test]}
      action: kill_session
      ttl: 15m
";

/// The API: an endless stream of events, and an answer to everything else.
fn api() -> Backend {
    Backend::answering(|seen, stream| {
        if seen.target() != "/v1/events" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            stream.write_all(b"d\r\ndata: event\n\n\r\n")?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    })
}

/// An operator at the command line: what a command prints.
fn operator(gate: &Gate, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output =
        tokio::task::block_in_place(|| command.args(words).arg("--socket").arg(gate.path("control.sock")).output().unwrap());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn ask(client: &mut Client, method: &str, host: &str, path: &str) -> Answer {
    let mut asked = request(method, path, empty());
    *asked.uri_mut() = format!("https://{host}{path}").parse().unwrap();
    if matches!(client, Client::One(_)) {
        asked.headers_mut().insert("host", host.parse().unwrap());
    }
    Answer::of(within(path, client.send(asked)).await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_carries_secrets_out_is_stopped_and_an_operator_sees_why_and_lets_it_go_on() {
    for protocol in BOTH {
        let api = api();
        let mut gate = Setup { extra: RULES.to_owned(), ..Setup::default() }.start(api.address);
        let (own, foreign) = ("api.corp.test", "paste.example.net");

        // An agent works: it follows events, and does what agents do.
        let mut following = gate.any(protocol, "agents/research").await;
        let mut events = following.open("/v1/events").await.into_body();
        within("an event", events.frame()).await.unwrap().unwrap();
        let mut agent = gate.any(protocol, "agents/research").await;
        assert_eq!(ask(&mut agent, "GET", own, "/v1/users").await.status, 200);
        assert_eq!(ask(&mut agent, "POST", own, "/v1/notes").await.status, 200);

        // It lists secrets, reads one, and still follows its events. Each alone is allowed, and so is a note at home after it.
        assert_eq!(ask(&mut agent, "GET", own, "/v1/secrets").await.status, 200);
        assert_eq!(ask(&mut agent, "GET", own, "/v1/users/7").await.status, 200);
        assert_eq!(ask(&mut agent, "GET", own, "/v1/secrets/7").await.status, 200);
        assert_eq!(ask(&mut agent, "POST", own, "/v1/notes").await.status, 200);
        within("an event", events.frame()).await.unwrap().unwrap();

        // Then it posts to a foreign host. That request is refused, and the stream is cut mid-flight.
        let refused = ask(&mut agent, "POST", foreign, "/v1/pastes").await;
        assert_eq!((refused.status, refused.json()["code"].clone()), (403, "anomaly".into()), "{protocol:?}");
        let cut = within("the stream to be cut", async {
            loop {
                match events.frame().await {
                    Some(Ok(_)) => {}
                    other => break other,
                }
            }
        });
        assert!(matches!(cut.await, Some(Err(_))), "{protocol:?}: cut, and not ended");

        // Its next request is refused, whatever it is.
        let mut again = gate.any(protocol, "agents/research").await;
        assert_eq!(ask(&mut again, "GET", own, "/v1/users").await.json()["code"], "killed");
        assert!(api.seen().iter().all(|seen| seen.target() != "/v1/pastes"), "nothing of it was carried out");

        // An operator reads the evidence.
        let kill: serde_json::Value = serde_json::from_str(&operator(&gate, &["kills", "--json"])).unwrap();
        let kill = &kill["kills"][0];
        assert_eq!(kill["by"], "anomaly:secrets-carried-out");
        let session = kill["selector"]["session"].as_str().unwrap();
        let told = operator(&gate, &["anomaly", "explain", session]);
        for part in ["spiffe://example.org/agents/research", "kill_session", "all 3 steps within"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let exact: serde_json::Value = serde_json::from_str(&operator(&gate, &["anomaly", "explain", session, "--json"])).unwrap();
        let evidence = exact["fired"][0]["evidence"].as_array().unwrap();
        let actions: Vec<&str> = evidence.iter().map(|mark| mark["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["GET api.corp.test/v1/secrets", "GET api.corp.test/v1/secrets/7", "POST paste.example.net/v1/pastes"]);

        // And lifts the kill: the agent works on, also with its secrets at home.
        operator(&gate, &["kills", "lift", kill["id"].as_str().unwrap()]);
        let mut freed = gate.any(protocol, "agents/research").await;
        assert_eq!(ask(&mut freed, "GET", own, "/v1/secrets/7").await.status, 200);
        assert_eq!(ask(&mut freed, "POST", foreign, "/v1/pastes").await.status, 200, "one step is no sequence");

        // The record names the evidence by the exchanges it tells of.
        let ids: Vec<serde_json::Value> = evidence.iter().map(|mark| mark["exchange"].clone()).collect();
        let record = gate.ended();
        let by = |path: &str, ending: &str| {
            let found = record.iter().find(|line| line["path"] == path && line["ending"] == ending);
            found.unwrap_or_else(|| panic!("{path} {ending}: {record:#?}"))
        };
        assert_eq!([&by("/v1/secrets", "complete")["exchange"], &by("/v1/secrets/7", "complete")["exchange"]], [&ids[0], &ids[1]]);
        let fired = by("/v1/pastes", "denied");
        assert_eq!(
            (&fired["exchange"], &fired["reason"], &fired["anomaly"][0]),
            (&ids[2], &"anomaly".into(), &"secrets-carried-out".into())
        );
        assert_eq!(by("/v1/events", "cut")["cause"], "kill");
    }
}
