//! Bundles of a service: fetched, put in force as a set, kept, and the last good one whatever the service does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use portcullis::demo::authority::Authority;

use crate::harness::*;
use crate::upstreams::{domain, issued, named, server_tls};
use portcullis::policy::bundle::sign::{Contents, Statement};
use portcullis::policy::bundle::signature::Algorithm;

const DENY: &str = "package portcullis\n\ndecision := false\n";
const LONG: &str = "application/vnd.openpolicyagent.bundles";

/// How a shelf answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// The bundle, or 304 where its ETag is known.
    Serve,
    Status(u16),
    /// 200 with bytes that are no bundle.
    Junk,
    /// 200 with a page.
    Html,
    /// 200 with half of the bundle and nothing after it.
    Stall,
    /// 200 with more than anybody takes.
    Huge,
    /// The connection, and no answer.
    Away,
}

/// A bundle server: what it has, and what it was asked.
#[derive(Clone)]
struct Shelf {
    address: SocketAddr,
    stock: Arc<(Mutex<Stock>, Condvar)>,
}

struct Stock {
    archives: Vec<(String, u64, Vec<u8>)>,
    mood: Mood,
    kind: &'static str,
    heads: Vec<String>,
    reports: Vec<serde_json::Value>,
    /// The certificates clients showed.
    shown: Vec<Vec<u8>>,
}

impl Shelf {
    fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (archives, heads, reports, shown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let stock = Stock { archives, mood: Mood::Serve, kind: "application/gzip", heads, reports, shown };
        let shelf = Self { address: listener.local_addr().unwrap(), stock: Arc::new((Mutex::new(stock), Condvar::new())) };
        let serving = shelf.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (shelf, tls) = (serving.clone(), tls.clone());
                std::thread::spawn(move || {
                    let Some(tls) = tls else { return drop(shelf.serve(&mut stream)) };
                    let mut connection = rustls::ServerConnection::new(tls).unwrap();
                    while connection.is_handshaking() {
                        if connection.complete_io(&mut stream).is_err() {
                            return;
                        }
                    }
                    let shown = connection.peer_certificates().unwrap_or_default().first().map(|shown| shown.to_vec());
                    shelf.with(|stock| stock.shown.extend(shown));
                    let mut stream = rustls::StreamOwned::new(connection, stream);
                    let _ = shelf.serve(&mut stream);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        shelf
    }

    fn with<T>(&self, look: impl FnOnce(&mut Stock) -> T) -> T {
        let found = look(&mut self.stock.0.lock().unwrap());
        self.stock.1.notify_all();
        found
    }

    /// Puts another version of a bundle on the shelf.
    fn put(&self, name: &str, archive: Vec<u8>) {
        self.with(|stock| {
            let version = stock.archives.iter().map(|(_, version, _)| version + 1).max().unwrap_or(1);
            stock.archives.retain(|(there, ..)| there != name);
            stock.archives.push((name.to_owned(), version, archive));
        });
    }

    fn mood(&self, mood: Mood) {
        self.with(|stock| stock.mood = mood);
    }

    fn heads(&self) -> Vec<String> {
        self.with(|stock| stock.heads.clone())
    }

    fn reports(&self) -> Vec<serde_json::Value> {
        self.with(|stock| stock.reports.clone())
    }

    fn serve(&self, stream: &mut (impl Read + Write)) -> std::io::Result<()> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        self.with(|stock| stock.heads.push(head.clone()));
        let field = |name: &str| {
            let of = |line: &&str| line.starts_with(&format!("{name}: "));
            head.lines().find(of).map(|line| line[name.len() + 2..].to_owned())
        };
        if head.starts_with("post ") {
            let mut body = vec![0; field("content-length").unwrap().parse().unwrap()];
            stream.read_exact(&mut body)?;
            self.with(|stock| stock.reports.push(serde_json::from_slice(&body).unwrap()));
            return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
        let name = head.split(' ').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        let known = field("if-none-match");
        let held = field("prefer").is_some_and(|prefer| prefer.contains("wait="));
        let mut stock = self.stock.0.lock().unwrap();
        loop {
            let fresh = |stock: &Stock| stock.archives.iter().any(|(n, v, _)| *n == name && Some(format!("\"{v}\"")) != known);
            if !held || stock.kind != LONG || stock.mood != Mood::Serve || fresh(&stock) {
                break;
            }
            stock = self.stock.1.wait_timeout(stock, HANG).unwrap().0;
        }
        let (mood, kind) = (stock.mood, stock.kind);
        let found = stock.archives.iter().find(|(there, ..)| *there == name).cloned();
        drop(stock);
        let (_, version, archive) = match (mood, found) {
            (Mood::Away, _) => return Ok(()),
            (Mood::Status(status), _) => {
                return write!(stream, "HTTP/1.1 {status} no\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n");
            }
            (_, None) => return write!(stream, "HTTP/1.1 404 no\r\ncontent-length: 0\r\n\r\n"),
            (_, Some(found)) => found,
        };
        let ok = |kind: &str, length: usize| {
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\netag: \"{version}\"\r\ncontent-length: {length}\r\n\r\n")
        };
        match mood {
            Mood::Serve if known == Some(format!("\"{version}\"")) => {
                write!(stream, "HTTP/1.1 304 same\r\ncontent-type: {kind}\r\netag: \"{version}\"\r\n\r\n")
            }
            Mood::Junk => write!(stream, "{}not gzip", ok(kind, 8)),
            Mood::Html => write!(stream, "{}<p>", ok("text/html", 3)),
            Mood::Huge => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/gzip\r\n\r\n")?;
                let chunk = [0; 64 * 1024];
                while stream.write_all(&chunk).is_ok() {}
                Ok(())
            }
            Mood::Stall => {
                stream.write_all(ok(kind, archive.len()).as_bytes())?;
                stream.write_all(&archive[..archive.len() / 2])?;
                stream.flush()?;
                // Until whoever asked gives up.
                stream.read_exact(&mut byte)
            }
            _ => {
                stream.write_all(ok(kind, archive.len()).as_bytes())?;
                stream.write_all(&archive)
            }
        }?;
        stream.flush()
    }
}

/// A `.tar.gz` of these files.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn policy(revision: &str, rego: &str) -> Vec<u8> {
    archive(&[(".manifest", &format!("{{\"revision\": \"{revision}\"}}")), ("policy.rego", rego)])
}

const POLLING: &str = "polling: {min_delay: 100ms, max_delay: 200ms}, size_limit: 1MiB";

/// A gate whose bundles come from `shelf`.
fn start(shelf: &Shelf, upstream: SocketAddr, bundles: &str, more: &str) -> Gate {
    start_at(&format!("http://{}/v1", shelf.address), domain("example.org"), upstream, bundles, more)
}

fn start_at(url: &str, authority: Authority, upstream: SocketAddr, bundles: &str, more: &str) -> Gate {
    let extra = format!("services: {{acme: {{url: \"{url}\", timeout: 2s{more}}}}}\nstatus: {{service: acme, partition: eu}}\n");
    let setup = Setup { extra, ..Setup::default() };
    setup.start_under(authority, upstream, |yaml| yaml.replace("{authz: {path: policy}}", &format!("{{{bundles}}}")))
}

fn row(gate: &Gate, name: &str) -> serde_json::Value {
    let status = gate.control("GET", "/v1/status", "").1;
    status["bundles"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone()
}

fn revision(gate: &Gate, name: &str) -> String {
    row(gate, name)["active_revision"].as_str().unwrap_or_default().to_owned()
}

async fn ready(gate: &Gate) {
    until("the gate to be ready", || gate.admin("/readyz").0 == 200).await;
}

async fn asks(gate: &Gate) -> u16 {
    gate.http1("agents/a").await.send_get("/x").await
}

impl Http1 {
    async fn send_get(&mut self, path: &str) -> u16 {
        let response = within(path, self.send(request("GET", path, empty()))).await.unwrap();
        Answer::of(response).await.status
    }
}

/// An upstream that answers a part and keeps the rest.
fn endless() -> Backend {
    Backend::answering(|seen, stream| {
        let whole = if seen.target() == "/endless" { 100 } else { 5 };
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {whole}\r\n\r\nhello")?;
        Ok(true)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_is_fetched_confirmed_by_its_etag_and_its_next_version_cuts_what_it_does_not_allow() {
    let (shelf, backend) = (Shelf::start(None), endless());
    shelf.put("authz", policy("one", ALLOW));
    // A token in a file, for a server on this machine.
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "canary-4711\n").unwrap();
    let credentials = format!(", credentials: {{bearer: {{token: \"file:{}\"}}}}", token.display());
    let mut gate = start(&shelf, backend.address, &format!("authz: {{service: acme, {POLLING}}}"), &credentials);
    ready(&gate).await;
    assert_eq!((asks(&gate).await, revision(&gate, "authz")), (200, "one".to_owned()));

    let confirmed = |head: &String| head.contains("if-none-match: \"1\"\r\n");
    until("the bundle to be confirmed", || shelf.heads().iter().filter(|head| confirmed(head)).count() > 2).await;
    let first = shelf.heads().into_iter().find(|head| head.starts_with("get ")).unwrap();
    assert!(first.starts_with("get /v1/bundles/authz http/1.1\r\n") && !first.contains("if-none-match"), "{first}");
    assert!(first.contains("prefer: modes=snapshot\r\n") && first.contains("authorization: bearer canary-4711\r\n"), "{first}");
    let generation = gate.control("GET", "/v1/status", "").1["generation"].clone();
    assert_eq!(generation, 1, "an unchanged bundle is no activation");
    assert!(row(&gate, "authz")["error"].is_null());

    let mut client = gate.http1("agents/a").await;
    let response = within("the head", client.send(request("GET", "/endless", empty()))).await.unwrap();
    shelf.put("authz", policy("two", DENY));
    let cut = tokio::time::timeout(HANG, http_body_util::BodyExt::collect(response.into_body())).await;
    assert!(cut.expect("the stream to be cut").is_err());
    assert_eq!((asks(&gate).await, revision(&gate, "authz")), (403, "two".to_owned()));
    let told = gate.control("GET", "/v1/status", "").1.to_string() + &gate.admin("/metrics").1;
    assert!(!told.contains("canary"), "{told}");
    let record = serde_json::to_string(&gate.record()).unwrap();
    assert!(record.contains("\"revision\":\"two\"") && !record.contains("canary"), "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_service_does_the_last_good_bundle_judges_on() {
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    shelf.put("authz", policy("one", ALLOW));
    let gate = start(&shelf, backend.address, &format!("authz: {{service: acme, {POLLING}}}"), "");
    ready(&gate).await;
    let failures = |code: &str| gate.metric("portcullis_bundle_failures_total", &format!("code=\"{code}\""));
    for (mood, code, said) in [
        (Mood::Status(503), "download", "it answered 503"),
        (Mood::Status(404), "download", "it answered 404"),
        (Mood::Status(302), "download", "no redirect is followed"),
        (Mood::Away, "download", "the connection broke"),
        (Mood::Html, "download", "not a bundle"),
        (Mood::Stall, "download", "stopped in the middle"),
        (Mood::Huge, "download", "larger than 1MiB"),
        (Mood::Junk, "malformed", "not a gzip archive"),
    ] {
        // Another version, so that an ETag that was known does not help.
        shelf.put("authz", policy("one", ALLOW));
        let before = failures(code);
        shelf.mood(mood);
        until(&format!("{mood:?} to be told"), || {
            failures(code) > before && row(&gate, "authz")["error"].to_string().contains(said)
        })
        .await;
        let told = row(&gate, "authz");
        assert_eq!(told["error"]["code"], "bundle_error", "{told}");
        if let Mood::Status(status) = mood {
            assert_eq!(told["error"]["http_code"], status, "{told}");
        }
        assert_eq!((asks(&gate).await, revision(&gate, "authz")), (200, "one".to_owned()), "{mood:?}");
        shelf.mood(Mood::Serve);
        until(&format!("{mood:?} to be over"), || row(&gate, "authz")["error"].is_null()).await;
    }
    // Rego that does not compile, a delta, and files of another place.
    for (files, said) in [
        (vec![("policy.rego", "package portcullis\n\ndecision := {")], "acme:bundles/authz/policy.rego:3:"),
        (vec![("patch.json", "{\"data\": []}")], "a delta bundle"),
        (vec![("policy.rego", "package elsewhere\n\nx := 1\n")], "portcullis/decision"),
    ] {
        shelf.put("authz", archive(&files));
        until(said, || row(&gate, "authz")["error"].to_string().contains(said)).await;
        assert_eq!((asks(&gate).await, revision(&gate, "authz")), (200, "one".to_owned()), "{said}");
        let readied = gate.admin("/readyz").0;
        assert_eq!(readied, 200, "{said}");
    }
    shelf.put("authz", policy("two", DENY));
    until("the mended bundle", || revision(&gate, "authz") == "two").await;
    assert_eq!(asks(&gate).await, 403);
    assert!(gate.control("GET", "/v1/status", "").1["last_error"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gate_starts_from_what_it_kept_and_without_it_denies_until_the_service_is_there() {
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    shelf.put("authz", policy("one", ALLOW));
    let mut gate = start(&shelf, backend.address, &format!("authz: {{service: acme, {POLLING}}}"), "");
    ready(&gate).await;
    shelf.mood(Mood::Away);
    tokio::task::block_in_place(|| gate.restart());
    assert_eq!((gate.admin("/readyz").0, asks(&gate).await), (200, 200), "from the copy, while the service is away");
    assert_eq!(revision(&gate, "authz"), "one");

    let kept = gate.path("state/bundles/authz/bundle.tar.gz");
    std::fs::write(&kept, b"not gzip").unwrap();
    tokio::task::block_in_place(|| gate.restart());
    let (status, said) = gate.admin("/readyz");
    assert!(status == 503 && said.contains("bundle `authz` was not fetched yet"), "{status} {said}");
    assert_eq!(asks(&gate).await, 503, "no policy allows nothing");
    until("a failure to be told", || row(&gate, "authz")["error"]["message"].to_string().contains("service `acme`")).await;
    let (status, said) = gate.control("POST", "/v1/policy/activate", "{}");
    assert!(status != 200 && said.to_string().contains("not fetched from service `acme` yet"), "{status} {said}");
    shelf.mood(Mood::Serve);
    ready(&gate).await;
    assert_eq!(asks(&gate).await, 200);
    assert_ne!(std::fs::read(&kept).unwrap(), b"not gzip", "it is kept anew");
    assert_eq!(gate.control("POST", "/v1/policy/activate", "{}").0, 200, "activated again from what was fetched");
    // With a good copy an ETag is sent from the start.
    shelf.with(|stock| stock.heads.clear());
    tokio::task::block_in_place(|| gate.restart());
    until("the service to be asked", || shelf.heads().iter().any(|head| head.starts_with("get "))).await;
    let first = shelf.heads().into_iter().find(|head| head.starts_with("get ")).unwrap();
    assert!(first.contains("if-none-match: \"1\""), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_bundles_come_into_force_as_a_set() {
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    let rules = |revision: &str, rego: &str| {
        archive(&[(".manifest", &format!("{{\"revision\": \"{revision}\", \"roots\": [\"portcullis\"]}}")), ("policy.rego", rego)])
    };
    let lists = |revision: &str, open: bool| {
        let manifest = format!("{{\"revision\": \"{revision}\", \"roots\": [\"lists\"]}}");
        archive(&[(".manifest", &manifest), ("lists/data.json", &format!("{{\"open\": {open}}}"))])
    };
    shelf.put("authz", rules("a1", "package portcullis\n\ndecision := data.lists.open\n"));
    let bundles = format!("authz: {{service: acme, {POLLING}}}, lists: {{service: acme, resource: other/lists, {POLLING}}}");
    let gate = start(&shelf, backend.address, &bundles, "");
    until("one of two", || row(&gate, "authz")["last_successful_download"] != 0).await;
    let (status, said) = gate.admin("/readyz");
    assert!(status == 503 && said.contains("bundle `lists` was not fetched yet"), "{status} {said}");
    shelf.put("lists", lists("l1", true));
    ready(&gate).await;
    assert_eq!((asks(&gate).await, revision(&gate, "authz"), revision(&gate, "lists")), (200, "a1".to_owned(), "l1".to_owned()));
    assert!(shelf.heads().iter().any(|head| head.starts_with("get /v1/other/lists ")));

    // One that takes the other's root is refused; the other goes on, and takes its next version beside the one in force.
    let manifest = "{\"revision\": \"l2\", \"roots\": [\"lists\", \"portcullis/x\"]}";
    shelf.put("lists", archive(&[(".manifest", manifest), ("lists/data.json", "{\"open\": true}")]));
    until("l2 to be refused", || row(&gate, "lists")["error"].to_string().contains("overlap")).await;
    assert!(gate.metric("portcullis_bundle_failures_total", "bundle=\"lists\",code=\"refused\"") > 0.0);
    shelf.put("authz", rules("a2", "package portcullis\n\ndecision := data.lists.open == false\n"));
    until("a2", || revision(&gate, "authz") == "a2").await;
    assert_eq!((asks(&gate).await, revision(&gate, "lists")), (403, "l1".to_owned()));
    shelf.put("lists", lists("l3", false));
    until("l3", || revision(&gate, "lists") == "l3").await;
    assert_eq!(asks(&gate).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_poll_is_held_by_servers_that_can_and_asked_of_no_other() {
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    shelf.with(|stock| stock.kind = LONG);
    shelf.put("authz", policy("one", ALLOW));
    // Between two turns an hour passes: what comes sooner came by the long poll.
    let polling = "polling: {min_delay: 1h, max_delay: 1h, long_polling: 20s}";
    let gate = start(&shelf, backend.address, &format!("authz: {{service: acme, {polling}}}"), "");
    ready(&gate).await;
    let held = |head: &String| head.contains("prefer: modes=snapshot;wait=20\r\n") && head.contains("if-none-match: \"1\"");
    until("a poll to be held", || shelf.heads().iter().any(held)).await;
    shelf.put("authz", policy("two", DENY));
    until("the next version", || revision(&gate, "authz") == "two").await;
    drop(gate);

    let plain = Shelf::start(None);
    plain.put("authz", policy("one", ALLOW));
    let polling = "polling: {min_delay: 100ms, max_delay: 200ms, long_polling: 20s}";
    let _gate = start(&plain, backend.address, &format!("authz: {{service: acme, {polling}}}"), "");
    let gets = || plain.heads().into_iter().filter(|head| head.starts_with("get ")).collect::<Vec<_>>();
    until("turns", || gets().len() > 3).await;
    assert!(gets()[0].contains(";wait=20") && gets()[1..].iter().all(|head| !head.contains("wait=")), "{:?}", gets());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn over_https_the_server_is_known_by_a_ca_of_ours_and_the_gate_by_its_svid() {
    let backend = Backend::start();
    let authority = domain("example.org");
    let tls = server_tls(&named(&authority, "localhost"), Some(authority.ca_pem()), &[b"http/1.1"]);
    let shelf = Shelf::start(Some(tls));
    shelf.put("authz", policy("one", ALLOW));
    let url = format!("https://localhost:{}", shelf.address.port());
    let bundles = format!("authz: {{service: acme, {POLLING}}}");
    let more = ", tls: {ca: bundle.pem}, credentials: {client_tls: own}";
    let gate = start_at(&url, authority, backend.address, &bundles, more);
    ready(&gate).await;
    assert_eq!(asks(&gate).await, 200);
    let own = rustls::pki_types::pem::PemObject::from_pem_slice(&std::fs::read(gate.path("svid.pem")).unwrap());
    let own: rustls::pki_types::CertificateDer<'_> = own.unwrap();
    assert!(shelf.with(|stock| stock.shown.iter().all(|shown| shown.as_slice() == &*own) && !stock.shown.is_empty()));
    drop(gate);

    // A server the CA does not vouch for, and one that is another workload, are asked for nothing.
    for (certificate, more, said) in [
        (named(&domain("example.org"), "localhost"), ", tls: {ca: bundle.pem}", "not who was expected"),
        (named(&domain("example.org"), "localhost"), "", "not who was expected"),
        (
            issued(&domain("example.org"), "spiffe://example.org/x"),
            ", tls: {spiffe_ids: [\"spiffe://example.org/b\"]}",
            "not who was",
        ),
    ] {
        let shelf = Shelf::start(Some(server_tls(&certificate, None, &[b"http/1.1"])));
        let url = format!("https://localhost:{}", shelf.address.port());
        let gate = start_at(&url, domain("example.org"), backend.address, &bundles, more);
        until(said, || {
            let error = row(&gate, "authz")["error"].to_string();
            error.contains(said) || (more.is_empty() && error.contains("no CA certificates"))
        })
        .await;
        assert!(shelf.heads().is_empty(), "{more}");
        assert_eq!(asks(&gate).await, 503);
    }
    let authority = domain("example.org");
    let tls = server_tls(&issued(&authority, "spiffe://example.org/bundles"), Some(authority.ca_pem()), &[b"http/1.1"]);
    let shelf = Shelf::start(Some(tls));
    shelf.put("authz", policy("one", ALLOW));
    let url = format!("https://localhost:{}", shelf.address.port());
    let more = ", tls: {spiffe_ids: [\"spiffe://example.org/bundles\"]}";
    ready(&start_at(&url, authority, backend.address, &bundles, more)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reports_are_sent_in_the_format_of_opa() {
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    shelf.put("authz", policy("one", ALLOW));
    let mut gate = start(&shelf, backend.address, &format!("authz: {{service: acme, {POLLING}}}"), "");
    ready(&gate).await;
    let of = |report: &serde_json::Value, key: &str| report["bundles"]["authz"][key].clone();
    until("an activation to be reported", || shelf.reports().iter().any(|report| of(report, "active_revision") == "one")).await;
    assert!(shelf.heads().iter().any(|head| head.starts_with("post /v1/status/eu http/1.1")));
    shelf.mood(Mood::Status(500));
    until("a failure to be reported", || shelf.reports().iter().any(|report| of(report, "http_code") == "500")).await;
    let report = shelf.reports().into_iter().find(|report| of(report, "http_code") == "500").unwrap();
    assert_eq!(
        (of(&report, "name"), of(&report, "code"), of(&report, "type")),
        ("authz".into(), "bundle_error".into(), "snapshot".into())
    );
    for key in ["last_request", "last_successful_request", "last_successful_download", "last_successful_activation"] {
        assert!(of(&report, key).as_str().is_some_and(|at| at.ends_with('Z')), "{key}: {report}");
    }
    assert_eq!(report["plugins"]["bundle"]["state"], "OK");
    assert_eq!(asks(&gate).await, 200);
    let line = gate.record().pop().unwrap();
    assert_eq!(report["labels"]["id"], line["labels"]["id"], "one instance, one name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_that_opa_built_is_taken() {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts")).arg("opa").output().unwrap();
    assert!(output.status.success(), "the part `opa` cannot be had");
    let opa = std::path::PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("opa");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policy")).unwrap();
    std::fs::write(folder.path().join("policy/policy.rego"), ALLOW).unwrap();
    let built = Command::new(opa).current_dir(folder.path()).args(["build", "-b", "policy", "-r", "from-opa"]).status().unwrap();
    assert!(built.success());
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    shelf.put("authz.tar.gz", std::fs::read(folder.path().join("bundle.tar.gz")).unwrap());
    let gate = start(&shelf, backend.address, &format!("authz: {{service: acme, resource: authz.tar.gz, {POLLING}}}"), "");
    ready(&gate).await;
    assert_eq!((asks(&gate).await, revision(&gate, "authz")), (200, "from-opa".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_bundle_a_service_gives_is_verified_and_does_not_go_back() {
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("secret"), "of both").unwrap();
    let signed = |revision: &str, rego: &str, issued_at: u64, secret: &str| {
        let plain = keys.path().join("plain.tar.gz");
        std::fs::write(&plain, policy(revision, rego)).unwrap();
        let mut contents = Contents::open(&plain).unwrap();
        let statement = Statement { issued_at: Some(issued_at), ..Statement::default() };
        contents.sign(secret, Algorithm::HS256, &statement).unwrap();
        contents.archive().unwrap()
    };
    shelf.put("authz", signed("one", ALLOW, 100, "of both"));
    let bundles = format!("authz: {{service: acme, signing: {{keyid: release}}, {POLLING}}}");
    let extra = format!(
        "services: {{acme: {{url: \"http://{}/v1\", timeout: 2s}}}}\nkeys: {{release: {{key: \"file:{}/secret\", algorithm: HS256}}}}\n",
        shelf.address,
        keys.path().display()
    );
    let setup = Setup { extra, ..Setup::default() };
    let mut gate = setup.start_under(domain("example.org"), backend.address, |yaml| {
        yaml.replace("{authz: {path: policy}}", &format!("{{{bundles}}}"))
    });
    ready(&gate).await;
    let refused = |part: &'static str| {
        let gate = &gate;
        until(part, move || row(gate, "authz")["error"]["message"].to_string().contains(part))
    };
    shelf.put("authz", signed("two", ALLOW, 200, "of somebody else"));
    refused("does not verify with the key `release`").await;
    shelf.put("authz", policy("two", ALLOW));
    refused("asks for a signature").await;
    assert!(gate.metric("portcullis_bundle_failures_total", "code=\"signature\"") >= 2.0);
    assert_eq!(gate.metric("portcullis_bundle_failures_total", "code=\"malformed\""), 0.0);
    let ahead = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 86_400;
    shelf.put("authz", signed("two", ALLOW, ahead, "of both"));
    refused("ahead of this machine's clock").await;
    shelf.put("authz", signed("two", DENY, 200, "of both"));
    until("the next version", || revision(&gate, "authz") == "two").await;
    assert_eq!(asks(&gate).await, 403);
    shelf.put("authz", signed("one", ALLOW, 100, "of both"));
    refused("revision `one` is older than what was in force").await;
    assert!(gate.metric("portcullis_bundle_failures_total", "code=\"rollback\"") >= 1.0);
    assert_eq!(gate.metric("portcullis_bundle_failures_total", "code=\"refused\""), 0.0);
    let policy = gate.control("GET", "/v1/policy", "").1;
    let by = serde_json::json!({"key": "release", "algorithm": "HS256", "scope": "", "issued_at": 200});
    assert_eq!(policy["signatures"]["authz"], by, "{policy}");
    assert_eq!(gate.control("GET", "/v1/status", "").1["signatures"]["authz"], by);
    let shown = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["status", "--socket"]).arg(gate.path("control.sock")).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.contains("authz two, signed by release (HS256), 1970-01-01T00:03:20Z"), "{shown}");
    assert_eq!((revision(&gate, "authz"), asks(&gate).await), ("two".to_owned(), 403));
    let (status, answer) = gate.control("POST", "/v1/policy/activate", "{\"allow_rollback\": [\"authz\"]}");
    assert_eq!((status, &answer["older"]), (200, &serde_json::json!(["authz"])), "{answer}");
    assert_eq!(asks(&gate).await, 200);
    shelf.mood(Mood::Away);
    tokio::task::block_in_place(|| gate.restart());
    assert_eq!((asks(&gate).await, revision(&gate, "authz")), (200, "one".to_owned()), "from the copy of what was let back");
}

/// A rollback, and what it says.
fn roll_back(gate: &Gate) -> serde_json::Value {
    let (status, answer) = gate.control("POST", "/v1/policy/rollback", "{}");
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollback_stands_after_a_restart_until_the_service_gives_another_or_an_operator_takes_it() {
    let (shelf, backend) = (Shelf::start(None), Backend::start());
    shelf.put("authz", policy("one", ALLOW));
    let mut gate = start(&shelf, backend.address, &format!("authz: {{service: acme, {POLLING}}}"), "");
    ready(&gate).await;
    shelf.put("authz", policy("two", DENY));
    until("the next version", || revision(&gate, "authz") == "two").await;
    let answer = roll_back(&gate);
    assert!(answer["notes"].to_string().contains("is held back, after a restart as well"), "{answer}");
    let told = gate.control("GET", "/v1/status", "").1;
    assert_eq!((&told["rolled_back"], revision(&gate, "authz")), (&true.into(), "one".to_owned()));
    assert!(row(&gate, "authz")["held_since"].is_u64(), "{told}");

    // With the service away, and with the service giving what was left.
    shelf.mood(Mood::Away);
    tokio::task::block_in_place(|| gate.restart());
    assert_eq!((asks(&gate).await, revision(&gate, "authz")), (200, "one".to_owned()), "from the copy");
    shelf.mood(Mood::Serve);
    let asked = shelf.heads().len();
    tokio::task::block_in_place(|| gate.restart());
    until("the version that is held to come, and to be confirmed", || {
        row(&gate, "authz")["last_successful_download"].as_u64() > Some(0) && shelf.heads().len() > asked + 3
    })
    .await;
    assert_eq!((asks(&gate).await, revision(&gate, "authz")), (200, "one".to_owned()));
    assert!(row(&gate, "authz")["held_since"].is_u64() && row(&gate, "authz")["error"].is_null());
    let shown = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["status", "--socket"]).arg(gate.path("control.sock")).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.contains("held: what the service gives was left by a rollback"), "{shown}");

    // A file of the trial, a reload, another look: nothing that is no order takes it.
    let (status, answer) = gate.control("POST", "/v1/policy/activate", "{}");
    assert_eq!((status, &answer["revisions"]["authz"]), (200, &"two".into()), "{answer}");
    assert_eq!((asks(&gate).await, row(&gate, "authz")["held_since"].is_null()), (403, true));
    roll_back(&gate);
    shelf.put("authz", policy("three", ALLOW));
    until("a third version", || revision(&gate, "authz") == "three").await;
    until("nothing to be held any more", || row(&gate, "authz")["held_since"].is_null()).await;
    shelf.mood(Mood::Away);
    tokio::task::block_in_place(|| gate.restart());
    assert_eq!(revision(&gate, "authz"), "three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_nobody_confirms_any_more_denies_everything_and_is_well_again_at_once() {
    let (shelf, backend) = (Shelf::start(None), endless());
    shelf.put("authz", policy("one", ALLOW));
    let bundle = format!("authz: {{service: acme, max_staleness: 1s, {POLLING}}}");
    let mut gate = start(&shelf, backend.address, &bundle, "");
    ready(&gate).await;
    assert_eq!(asks(&gate).await, 200);
    let mut client = gate.http1("agents/a").await;
    let open = within("the head", client.send(request("GET", "/endless", empty()))).await.unwrap();
    shelf.mood(Mood::Status(503));
    until("the policy to be stale", || row(&gate, "authz")["stale"] == true).await;
    let cut = tokio::time::timeout(HANG, http_body_util::BodyExt::collect(open.into_body())).await;
    assert!(cut.expect("the stream to be cut").is_err(), "what is open would not be admitted now");
    let mut client = gate.any(Speaks::Http2, "agents/a").await;
    let answer = client.get("/x").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("policy_stale")));
    let (status, why) = gate.admin("/readyz");
    assert!(status == 503 && why.contains("bundle `authz` was not confirmed"), "{status} {why}");
    assert_eq!(gate.metric("portcullis_bundle_stale", "bundle=\"authz\""), 1.0);
    assert!(gate.metric("portcullis_requests_total", "reason=\"policy_stale\"") >= 1.0);
    // A restart makes it no younger.
    tokio::task::block_in_place(|| gate.restart());
    assert_eq!((asks(&gate).await, revision(&gate, "authz")), (503, "one".to_owned()));
    // Found unchanged is confirmed.
    shelf.mood(Mood::Serve);
    until("the policy to be confirmed", || row(&gate, "authz")["stale"] == false).await;
    assert_eq!((asks(&gate).await, gate.admin("/readyz").0), (200, 200));
    let record = tokio::task::block_in_place(|| gate.record());
    let cut = record.iter().find(|line| line["portcullis"]["cause"] == "policy_stale").unwrap();
    assert!(cut["portcullis"]["kill"].is_null(), "{cut}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stale_policy_disturbs_nothing_on_a_route_that_only_observes_and_without_a_limit_none_is_stale() {
    for (limit, enforcement) in [("max_staleness: 1s, ", "observe"), ("", "enforce")] {
        let (shelf, backend) = (Shelf::start(None), Backend::start());
        shelf.put("authz", policy("one", ALLOW));
        let extra = format!("services: {{acme: {{url: \"http://{}/v1\", timeout: 2s}}}}\n", shelf.address);
        let listener = format!("    enforcement: {enforcement}\n");
        let setup = Setup { extra, listener, ..Setup::default() };
        let bundle = format!("{{authz: {{service: acme, {limit}{POLLING}}}}}");
        let mut gate = setup.start_with(backend.address, |yaml| yaml.replace("{authz: {path: policy}}", &bundle));
        ready(&gate).await;
        shelf.mood(Mood::Away);
        if enforcement == "observe" {
            until("the policy to be stale", || row(&gate, "authz")["stale"] == true).await;
        } else {
            until("many failures", || gate.metric("portcullis_bundle_failures_total", "code=\"download\"") > 8.0).await;
            assert_eq!(row(&gate, "authz")["stale"], false);
        }
        assert_eq!(asks(&gate).await, 200, "{enforcement}");
        let decisions = tokio::task::block_in_place(|| gate.decisions());
        let expected = if enforcement == "observe" { ("observe_deny", "policy_stale") } else { ("allow", "") };
        let told = (decisions[0]["verdict"].as_str().unwrap(), decisions[0]["reason"].as_str().unwrap_or_default());
        assert_eq!(told, expected);
    }
}
