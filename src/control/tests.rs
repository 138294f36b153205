//! The API over a real socket, on a door and sessions of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::audit::{self, AuditMetrics, Labels};
use crate::decision::{Cause, Protocol};
use crate::exchange::{Caller as Peer, Exchange, ExchangeId, Kind, Registered, Registry};
use crate::metrics::Metrics;
use crate::{anomaly, session, store};

/// A control API that runs, and what it acts on.
pub(crate) struct Api {
    folder: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) registry: Arc<Registry>,
    sessions: Arc<Sessions<Watch>>,
    audit: Audit,
    writer: std::thread::JoinHandle<()>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    /// What was ordered of the builder, in words.
    ordered: Arc<Mutex<Vec<String>>>,
}

impl Api {
    /// With no operators configured: whoever runs the test may operate.
    pub(crate) fn start() -> Self {
        Self::with(BTreeMap::new())
    }

    fn with(operators: BTreeMap<String, Operator>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("c.sock");
        let roles = Roles { operate: operators.keys().cloned().collect() };
        let config = Config { socket: socket.clone(), operators, roles };
        let registry = Arc::new(Registry::new(1));
        let store = Arc::new(store::Store::open(&store::Config { directory: folder.path().join("state") }).unwrap());
        let door = Arc::new(Door::open(Arc::clone(&registry), store, Arc::new(Metrics::new("test").unwrap())).unwrap());
        let sessions = Arc::new(Sessions::new(session::Config::default()));
        let (audit, writer) = record(folder.path());
        let (orders, mut received) = mpsc::channel(8);
        let ordered = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&ordered);
        tokio::spawn(async move {
            while let Some(order) = received.recv().await {
                noted.lock().unwrap().push(build(order));
            }
        });
        let status = Arc::new(StatusBoard::default());
        status.update(|status| {
            status.version = "1.2.3".to_owned();
            status.policy.generation = 7;
        });
        let (stop, stopped) = watch::channel(false);
        let listener = bind(&config).unwrap();
        let control =
            Control { door, sessions: Arc::clone(&sessions), audit: audit.clone(), status, shadow: Shadow::new(1), orders, config };
        let serving = tokio::spawn(serve(listener, control, stopped));
        Self { folder, socket, registry, sessions, audit, writer, stop, serving, ordered }
    }

    /// An open exchange of this workload.
    pub(crate) fn open(&self, spiffe_id: &str) -> Registered {
        let peer = Peer {
            spiffe_id: spiffe_id.to_owned(),
            trust_domain: "a.org".to_owned(),
            certificate: String::new(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            session: session::id(spiffe_id, None),
        };
        let id = ExchangeId(uuid::Uuid::new_v4());
        let exchange = Exchange::new(id, Kind::Exchange(Protocol::Http2), Arc::new(peer));
        self.registry.register(0, Arc::new(exchange))
    }

    /// Ends an exchange as soon as it is cut, as its worker would.
    pub(crate) fn end_when_cut(exchange: Registered) -> JoinHandle<()> {
        tokio::spawn(async move {
            std::future::poll_fn(|cx| exchange.exchange().cut.poll(crate::exchange::Side::Downstream, cx)).await;
        })
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::builder().method(method).uri(path).header("host", "gate");
        let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(kind == "application/problem+json", status >= 400, "{status} {kind}");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    /// Stops, and returns the calls on the record: call, caller, status, outcome, detail.
    async fn stop(self) -> Vec<Value> {
        self.stop.send(true).unwrap();
        self.serving.await.unwrap();
        assert!(!self.socket.exists(), "a stopped gate leaves its socket");
        self.audit.close().await.unwrap();
        self.writer.join().unwrap();
        let text = std::fs::read_to_string(self.folder.path().join("record.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["portcullis"].clone());
        lines.filter(|line| line["kind"] == "control").collect()
    }
}

fn record(folder: &Path) -> (Audit, std::thread::JoinHandle<()>) {
    let metrics = AuditMetrics {
        written: prometheus::IntCounter::new("written", "w").unwrap(),
        lost: prometheus::IntCounter::new("lost", "l").unwrap(),
        refused: prometheus::IntCounter::new("refused", "r").unwrap(),
        dropped: prometheus::IntCounter::new("dropped", "d").unwrap(),
        lag: prometheus::Gauge::new("lag", "l").unwrap(),
    };
    let labels = Labels { id: "i".to_owned(), version: "1".to_owned(), environment: "test".to_owned(), extra: BTreeMap::new() };
    let config = audit::Config { file: folder.join("record.jsonl"), ..audit::Config::default() };
    let (audit, writer) = Audit::open(&config, &labels, metrics, None).unwrap();
    (audit, std::thread::spawn(move || writer.run()))
}

/// A builder that loads everything but refuses to go back.
fn build(order: Order) -> String {
    match order {
        Order::Activate { dry_run, allow_rollback, reply } => {
            let generation = (!dry_run).then_some(8);
            let revisions = BTreeMap::from([("authz".to_owned(), "r2".to_owned())]);
            reply
                .send(Ok(Activated { generation, open: 5, cut: 2, revisions, older: allow_rollback, notes: Vec::new(), dry_run }))
                .unwrap();
            format!("activate {dry_run}")
        }
        Order::Rollback { dry_run, reply } => {
            reply.send(Err("there is no generation before this one".to_owned())).unwrap();
            format!("rollback {dry_run}")
        }
        Order::Exchanges { reply } => {
            reply.send(Vec::new()).unwrap();
            "exchanges".to_owned()
        }
    }
}

#[tokio::test]
async fn a_kill_is_rehearsed_carried_out_listed_and_lifted() {
    let api = Api::start();
    let open = api.open("spiffe://a.org/x");
    let other = api.open("spiffe://a.org/y");
    let (seen, bystander) = (Arc::clone(open.exchange()), Arc::clone(other.exchange()));
    let mut order = json!({"selector": {"spiffe_id": "spiffe://a.org/x"}, "reason": "leaked key", "ttl": "15m", "dry_run": true});
    let (status, killed) = api.call("POST", "/v1/kills", Some(order.clone())).await;
    assert_eq!((status, &killed["cut"], &killed["id"], &killed["dry_run"]), (200, &json!(1), &Value::Null, &json!(true)));
    assert_eq!(seen.cut.cause(), None, "a rehearsal cuts nobody");

    let worker = Api::end_when_cut(open);
    order["dry_run"] = json!(false);
    let (status, killed) = api.call("POST", "/v1/kills", Some(order)).await;
    assert_eq!((status, &killed["cut"], &killed["pending"], &killed["durable"]), (200, &json!(1), &json!(0), &json!(true)));
    worker.await.unwrap();
    assert_eq!((seen.cut.cause(), bystander.cut.cause()), (Some(Cause::Kill), None));

    let (_, list) = api.call("GET", "/v1/kills", None).await;
    let row = &list["kills"][0];
    assert_eq!((&row["id"], &row["reason"]), (&killed["id"], &json!("leaked key")));
    assert!((890..=900).contains(&row["seconds_left"].as_u64().unwrap()));
    let path = format!("/v1/kills/{}", killed["id"].as_str().unwrap());
    assert_eq!(api.call("DELETE", &path, None).await.0, 200);
    assert_eq!(api.call("DELETE", &path, None).await.0, 404, "it does not stand any more");
    assert_eq!(api.call("GET", "/v1/kills", None).await.1, json!({"kills": []}));

    let calls = api.stop().await;
    assert_eq!(calls.len(), 6);
    let detail = &calls[1]["detail"];
    assert_eq!((&calls[1]["call"], &calls[1]["status"]), (&json!("POST /v1/kills"), &json!(200)));
    assert_eq!((&detail["reason"], &detail["selector"]["spiffe_id"]), (&json!("leaked key"), &json!("spiffe://a.org/x")));
    assert_eq!((&detail["kill"], &calls[3]["detail"]["kill"]), (&killed["id"], &killed["id"]));
    assert_eq!((&calls[3]["call"], &calls[4]["outcome"]), (&json!("DELETE /v1/kills/{id}"), &json!("no_such_kill")));
}

#[tokio::test]
async fn a_caller_without_a_name_views_changes_nothing_and_is_on_the_record() {
    // The kernel never tells this uid: it means `none`.
    let api = Api::with(BTreeMap::from([("alice".to_owned(), Operator { uid: u32::MAX })]));
    let open = api.open("spiffe://a.org/x");
    let (status, you) = api.call("GET", "/v1/status", None).await;
    assert_eq!((status, &you["you"]["may_operate"], &you["you"]["name"]), (200, &json!(false), &Value::Null));
    assert_eq!((&you["exchanges"], &you["generation"]), (&json!(1), &json!(7)));
    let order = json!({"selector": {"spiffe_id": "spiffe://a.org/x"}, "reason": "x"});
    for (method, path, body) in [
        ("POST", "/v1/kills", Some(order)),
        ("DELETE", "/v1/kills/3f2a3f2a-0000-4000-8000-000000000000", None),
        ("POST", "/v1/policy/activate", None),
        ("POST", "/v1/policy/rollback", Some(json!({"dry_run": true}))),
    ] {
        let (status, problem) = api.call(method, path, body).await;
        assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "{path}");
        assert!(problem["hint"].as_str().unwrap().contains("control.operators"));
    }
    assert_eq!(open.exchange().cut.cause(), None);
    assert!(api.registry.standing().is_empty() && api.ordered.lock().unwrap().is_empty());
    let calls = api.stop().await;
    assert_eq!(calls.iter().map(|call| call["status"].as_u64().unwrap()).collect::<Vec<_>>(), [200, 403, 403, 403, 403]);
    assert!(calls.iter().all(|call| call["caller"].is_null() && call["detail"]["uid"].is_u64()), "{calls:?}");
}

#[tokio::test]
async fn policy_is_activated_and_rolled_back_by_the_builder() {
    let api = Api::start();
    let (status, rehearsed) = api.call("POST", "/v1/policy/activate", Some(json!({"dry_run": true}))).await;
    assert_eq!((status, &rehearsed["generation"], &rehearsed["cut"]), (200, &Value::Null, &json!(2)));
    let (_, activated) = api.call("POST", "/v1/policy/activate", None).await;
    assert_eq!((&activated["generation"], &activated["revisions"]["authz"]), (&json!(8), &json!("r2")));
    let (status, problem) = api.call("POST", "/v1/policy/rollback", None).await;
    assert_eq!((status, &problem["report"]), (409, &json!("there is no generation before this one")));
    let (status, problem) = api.call("POST", "/v1/policy/activate", Some(json!({"dryrun": true}))).await;
    assert_eq!((status, &problem["field"]), (422, &json!("dryrun")));
    assert_eq!(*api.ordered.lock().unwrap(), ["activate true", "activate false", "rollback false"]);
}

#[tokio::test]
async fn sessions_are_filtered_and_told_in_detail() {
    let api = Api::start();
    for name in ["spiffe://a.org/x", "spiffe://a.org/y"] {
        let rules = serde_json::json!({"rules": [{"name": "r", "rate": {"requests": 5, "within": "1m"}, "action": "deny"}]});
        let rules = Arc::new(anomaly::Rules::new(&serde_json::from_value(rules).unwrap()).unwrap());
        let peer = crate::spiffe::SpiffeId::new(name).unwrap();
        let watch = || Watch::new(&rules, &peer, Instant::now(), std::hash::RandomState::new());
        api.sessions.enter(&session::id(name, None), &Arc::from(name), Instant::now(), (10, false), watch).unwrap();
    }
    let (_, all) = api.call("GET", "/v1/sessions", None).await;
    assert_eq!(all["sessions"].as_array().unwrap().len(), 2);
    let (_, one) = api.call("GET", "/v1/sessions?spiffe_id=spiffe%3A%2F%2Fa.org%2Fy", None).await;
    assert_eq!(one["sessions"][0]["spiffe_id"], json!("spiffe://a.org/y"));
    let (_, none) = api.call("GET", "/v1/sessions?task=t", None).await;
    assert_eq!(none, json!({"sessions": []}));
    let id = one["sessions"][0]["id"].as_str().unwrap();
    let (_, detail) = api.call("GET", &format!("/v1/sessions/{id}"), None).await;
    assert_eq!((&detail["session"]["requests"], &detail["recent"]), (&json!(1), &json!([])));
    let (_, explained) = api.call("GET", &format!("/v1/sessions/{id}/anomaly"), None).await;
    assert_eq!((&explained["spiffe_id"], &explained["score"]), (&json!("spiffe://a.org/y"), &json!(0.0)));
    assert_eq!(explained["rules"][0]["state"], json!("0 of 5 requests within 1m"));
    assert_eq!(api.call("GET", "/v1/sessions/none/anomaly", None).await.0, 404);
    assert_eq!(api.call("GET", "/v1/sessions/none", None).await.0, 404);
    assert_eq!(api.call("GET", "/v1/sessions?spifeid=x", None).await.0, 400, "a filter nobody knows must not show everybody");
    assert_eq!(api.call("GET", "/v1/exchanges", None).await, (200, json!({"exchanges": []})));
}

#[tokio::test]
async fn what_is_no_call_or_too_large_is_refused_and_on_the_record_without_its_words() {
    let api = Api::start();
    assert_eq!(api.call("GET", "/v2/secret-canary", None).await.0, 404);
    assert_eq!(api.call("CANARY", "/v1/status", None).await.0, 405);
    let large = json!({"selector": {"upstream": "a"}, "reason": "canary".repeat(200_000)});
    assert_eq!(api.call("POST", "/v1/kills", Some(large)).await.0, 413);
    let strange = json!({"selector": {"canary": "a"}, "reason": "x"});
    assert_eq!(api.call("POST", "/v1/kills", Some(strange)).await.1["field"], json!("selector.canary"));
    let calls = api.stop().await;
    let told: Vec<_> = calls.iter().map(|call| (call["call"].as_str().unwrap(), call["status"].as_u64().unwrap())).collect();
    assert_eq!(told, [("GET ?", 404), ("? ?", 405), ("POST /v1/kills", 413), ("POST /v1/kills", 422)]);
    assert!(!format!("{calls:?}").to_lowercase().contains("canary"), "{calls:?}");
}

#[tokio::test]
async fn a_kill_whose_caller_hangs_up_is_carried_out_and_recorded() {
    use tokio::io::AsyncWriteExt as _;
    let api = Api::start();
    let open = api.open("spiffe://a.org/x");
    let body = json!({"selector": {"spiffe_id": "spiffe://a.org/x"}, "reason": "gone"}).to_string();
    let mut stream = UnixStream::connect(&api.socket).await.unwrap();
    let head = format!("POST /v1/kills HTTP/1.1\r\nhost: gate\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let cut = Arc::clone(open.exchange());
    std::future::poll_fn(|cx| cut.cut.poll(crate::exchange::Side::Downstream, cx)).await;
    drop(stream);
    // Long enough for the gate to see that the caller is gone. Only then does the worker say that the cut has happened.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    drop(open);
    let calls = api.stop().await;
    assert_eq!((&calls[0]["call"], &calls[0]["detail"]["reason"]), (&json!("POST /v1/kills"), &json!("gone")));
}
