//! A gate for a test: its own CA, its own folder, an upstream that writes down the bytes it got, and raw clients.
//!
//! Nothing here waits by sleeping: every wait is on the thing itself, and [`within`] bounds it so that a hang is a failure.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::app::{App, Running};
use portcullis::config::Config;
use portcullis::demo::authority::{Authority, Lifetime};
use portcullis::spiffe::{SpiffeId, TrustDomain};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A bound for hangs; nothing is asserted about time otherwise.
pub const HANG: Duration = Duration::from_secs(20);

/// Waits for the thing itself, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.unwrap_or_else(|_| panic!("{what}: nothing happened for {HANG:?}"))
}

/// A policy that allows everything.
pub const ALLOW: &str = "package portcullis\n\ndecision := true\n";

/// What a test says of its gate.
pub struct Setup {
    pub policy: String,
    pub data: String,
    /// More YAML at the top level.
    pub extra: String,
    /// More YAML of the listener, indented by four.
    pub listener: String,
    pub decision: String,
    pub audit: String,
    /// More YAML of the upstream, after its endpoint: `, response_timeout: 1s`.
    pub upstream: String,
    /// A policy that is tried without effect, and more of `policy.shadow`: `, sample: 2`.
    pub shadow: Option<(String, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            policy: ALLOW.to_owned(),
            data: "{}".to_owned(),
            extra: String::new(),
            listener: String::new(),
            decision: "portcullis/decision".to_owned(),
            audit: "  file: decisions.jsonl\n".to_owned(),
            upstream: String::new(),
            shadow: None,
        }
    }
}

/// A gate that stands, and everything around it.
pub struct Gate {
    pub folder: tempfile::TempDir,
    pub authority: Authority,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    running: Option<Running>,
}

impl Setup {
    pub fn policy(policy: &str) -> Self {
        Self { policy: policy.to_owned(), ..Self::default() }
    }

    /// Lets the gate stand in front of `upstream`.
    pub fn start(self, upstream: SocketAddr) -> Gate {
        self.start_with(upstream, |yaml| yaml)
    }

    /// Like [`Setup::start`], with the configuration changed by `edit` before the gate reads it.
    pub fn start_with(self, upstream: SocketAddr, edit: impl Fn(String) -> String) -> Gate {
        self.start_under(Authority::new(&TrustDomain::new("example.org").unwrap()).unwrap(), upstream, edit)
    }

    /// Like [`Setup::start_with`], with an authority that has issued something already.
    pub fn start_under(self, authority: Authority, upstream: SocketAddr, edit: impl Fn(String) -> String) -> Gate {
        let (folder, authority) = self.prepare(authority, upstream, edit);
        Gate::open(folder, authority)
    }

    /// The same with a FIFO named `fifo` that nobody reads.
    pub fn start_on_fifo(self, upstream: SocketAddr) -> Gate {
        let authority = Authority::new(&TrustDomain::new("example.org").unwrap()).unwrap();
        let (folder, authority) = self.prepare(authority, upstream, |yaml| yaml);
        assert!(std::process::Command::new("mkfifo").arg(folder.path().join("fifo")).status().unwrap().success());
        Gate::open(folder, authority)
    }

    fn prepare(
        self,
        authority: Authority,
        upstream: SocketAddr,
        edit: impl Fn(String) -> String,
    ) -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bundle.pem"), authority.ca_pem()).unwrap();
        let issued = authority.issue_local(&SpiffeId::new("spiffe://example.org/gate").unwrap(), lifetime(3600)).unwrap();
        std::fs::write(folder.path().join("svid.pem"), &issued.certificate_pem).unwrap();
        std::fs::write(folder.path().join("svid.key"), &issued.key_pem).unwrap();
        std::fs::create_dir(folder.path().join("policy")).unwrap();
        std::fs::write(folder.path().join("policy/policy.rego"), &self.policy).unwrap();
        std::fs::write(folder.path().join("policy/data.json"), &self.data).unwrap();
        if let Some((policy, _)) = &self.shadow {
            std::fs::create_dir(folder.path().join("shadow")).unwrap();
            std::fs::write(folder.path().join("shadow/policy.rego"), policy).unwrap();
        }
        std::fs::write(folder.path().join("gate.yaml"), edit(self.yaml(upstream))).unwrap();
        (folder, authority)
    }

    fn yaml(&self, upstream: SocketAddr) -> String {
        let Self { extra, listener, decision, audit, upstream: timeouts, .. } = self;
        let shadow = self
            .shadow
            .as_ref()
            .map_or_else(String::new, |(_, more)| format!("  shadow: {{bundles: {{next: {{path: shadow}}}}{more}}}\n"));
        format!(
            "environment: test\n\
             identity:\n  trust_domain: example.org\n  source:\n    files: {{certificate: svid.pem, private_key: svid.key, bundles: {{example.org: bundle.pem}}}}\n\
             listeners:\n  - name: front\n    address: 127.0.0.1:0\n{listener}    routes: [{{name: all, upstream: backend}}]\n\
             upstreams:\n  backend: {{endpoint: \"http://{upstream}\"{timeouts}}}\n\
             policy:\n  bundles: {{authz: {{path: policy}}}}\n  decision: {decision}\n  may_kill: [exchange, session, identity]\n  limits: {{time: 200ms}}\n{shadow}\
             admin: {{address: 127.0.0.1:0}}\n\
             audit:\n{audit}\
             control: {{socket: control.sock}}\n{extra}"
        )
    }
}

pub fn lifetime(seconds: u64) -> Lifetime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    Lifetime { not_before: now - 60, not_after: now + seconds }
}

impl Gate {
    pub fn open(folder: tempfile::TempDir, authority: Authority) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gate = Self { folder, authority, address: nowhere, admin: nowhere, running: None };
        gate.open_again();
        // Asking is a line of the record, so who has no shadow is not asked.
        if gate.path("control.sock").exists()
            && std::fs::read_to_string(gate.path("gate.yaml")).is_ok_and(|yaml| yaml.contains("shadow:"))
        {
            gate.shadow_settles();
        }
        gate
    }

    /// Waits until no shadow is being loaded.
    pub fn shadow_settles(&self) {
        let began = std::time::Instant::now();
        while self.control("GET", "/v1/status", "").1["shadow"]["loading"] == true {
            assert!(began.elapsed() < HANG, "the shadow is being loaded for ever");
            std::thread::yield_now();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How many exchanges the registry has woken to be cut.
    pub fn wakes(&self) -> u64 {
        self.running.as_ref().unwrap().registry().wakes()
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Drains and ends the gate, so that its record is whole.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().unwrap();
        }
    }

    /// Tells the gate to drain and end, on a thread of its own.
    pub fn end(&mut self) -> std::thread::JoinHandle<()> {
        let running = self.running.take().unwrap();
        std::thread::spawn(move || running.stop().unwrap())
    }

    /// Ends the gate and starts another on the same folder.
    pub fn restart(&mut self) {
        self.stop();
        self.open_again();
    }

    fn open_again(&mut self) {
        let config = Config::read(&self.path("gate.yaml")).unwrap_or_else(|report| panic!("{report}"));
        let running = App::bind(config).unwrap_or_else(|error| panic!("{error}")).start().unwrap();
        (self.address, self.admin) = (running.addresses().listeners[0].1, running.addresses().admin);
        self.running = Some(running);
    }

    /// Every line of the record but those only its chain needs. The gate is stopped for it.
    pub fn record(&mut self) -> Vec<serde_json::Value> {
        self.stop();
        let text = std::fs::read_to_string(self.path("decisions.jsonl")).unwrap_or_default();
        spoken(text.lines())
    }

    /// The decision lines of the record, in its `portcullis` part.
    pub fn decisions(&mut self) -> Vec<serde_json::Value> {
        self.record().into_iter().map(|line| line["portcullis"].clone()).filter(|line| line["kind"] == "decision").collect()
    }

    /// A client's TLS configuration.
    pub fn client(&self, path: &str, alpn: &[u8]) -> Arc<rustls::ClientConfig> {
        self.client_living(path, alpn, 3600)
    }

    pub fn client_living(&self, path: &str, alpn: &[u8], seconds: u64) -> Arc<rustls::ClientConfig> {
        let id = SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap();
        let issued = self.authority.issue(&id, lifetime(seconds)).unwrap();
        let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    /// A TLS connection as a workload.
    pub async fn connect(&self, path: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
        self.connect_with(self.client(path, alpn)).await.unwrap()
    }

    /// A TLS connection without a server name, as an address has none.
    pub async fn connect_with(&self, config: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        within("the handshake", TlsConnector::from(config).connect(ServerName::from(self.address.ip()), stream)).await
    }

    pub async fn http1(&self, path: &str) -> Http1 {
        let stream = self.connect(path, b"http/1.1").await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Http1(sender)
    }

    pub async fn http2(&self, path: &str) -> Http2 {
        let stream = self.connect(path, b"h2").await;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Http2(sender)
    }

    /// A client of either protocol.
    pub async fn any(&self, protocol: Speaks, path: &str) -> Client {
        match protocol {
            Speaks::Http1 => Client::One(self.http1(path).await),
            Speaks::Http2 => Client::Two(self.http2(path).await),
        }
    }

    /// A call of the control API: status and body.
    pub fn control(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let mut socket = std::os::unix::net::UnixStream::connect(self.path("control.sock")).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-type: application/json\r\n");
        write!(socket, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        parse_answer(&mut socket)
    }

    pub fn kill(&self, selector: &str) -> serde_json::Value {
        let (status, answer) = self.control("POST", "/v1/kills", &format!("{{\"selector\": {selector}, \"reason\": \"test\"}}"));
        assert!(status == 200 || status == 201, "{status} {answer}");
        answer
    }

    /// The value of one series, summed over its labels that contain `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        let text = self.admin("/metrics").1;
        let of = |line: &&str| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "));
        text.lines()
            .filter(of)
            .filter(|line| line.contains(part))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub fn admin(&self, path: &str) -> (u16, String) {
        let mut socket = std::net::TcpStream::connect(self.admin).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Puts other policy and data in force, and returns what the gate said of it.
    pub fn activate(&self, policy: &str, data: &str) -> (u16, serde_json::Value) {
        std::fs::write(self.path("policy/policy.rego"), policy).unwrap();
        std::fs::write(self.path("policy/data.json"), data).unwrap();
        self.control("POST", "/v1/policy/activate", "{}")
    }
}

/// The lines that tell of something, not only of the chain.
pub fn spoken<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<serde_json::Value> {
    let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| !matches!(line["portcullis"]["kind"].as_str(), Some("start" | "checkpoint"))).collect()
}

fn parse_answer(socket: &mut impl Read) -> (u16, serde_json::Value) {
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {text:?}")).parse().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::Null))
}

fn unchunk(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        whole.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    whole
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // A test that fails says why by itself; a gate that cannot end must not hide it.
            let _ = running.stop();
        }
    }
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
}

pub const BOTH: [Speaks; 2] = [Speaks::Http1, Speaks::Http2];

pub struct Http1(hyper::client::conn::http1::SendRequest<http_body_util::combinators::BoxBody<Bytes, std::io::Error>>);
pub struct Http2(hyper::client::conn::http2::SendRequest<http_body_util::combinators::BoxBody<Bytes, std::io::Error>>);

pub enum Client {
    One(Http1),
    Two(Http2),
}

pub type Boxed = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

pub fn empty() -> Boxed {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub fn full(bytes: impl Into<Bytes>) -> Boxed {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

impl Client {
    /// Sends; the authority is the gate's name in these tests.
    pub async fn send(&mut self, request: Request<Boxed>) -> hyper::Result<Response<hyper::body::Incoming>> {
        match self {
            Self::One(client) => client.send(request).await,
            Self::Two(client) => client.send(request).await,
        }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        Answer::of(within(path, self.send(request("GET", path, empty()))).await.unwrap()).await
    }

    pub async fn post(&mut self, path: &str, json: &str) -> Answer {
        let mut request = request("POST", path, full(json.to_owned()));
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        Answer::of(within(path, self.send(request)).await.unwrap()).await
    }

    /// Sends GET and returns the response with its body unread.
    pub async fn open(&mut self, path: &str) -> Response<hyper::body::Incoming> {
        within(path, self.send(request("GET", path, empty()))).await.unwrap()
    }
}

impl Http1 {
    pub async fn send(&mut self, mut request: Request<Boxed>) -> hyper::Result<Response<hyper::body::Incoming>> {
        let path = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
        *request.uri_mut() = path;
        request.headers_mut().entry("host").or_insert("gate.test".parse().unwrap());
        self.0.ready().await?;
        self.0.send_request(request).await
    }
}

impl Http2 {
    pub async fn send(&mut self, request: Request<Boxed>) -> hyper::Result<Response<hyper::body::Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }
}

impl Clone for Http2 {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub fn request(method: &str, path: &str, body: Boxed) -> Request<Boxed> {
    Request::builder().method(method).uri(format!("https://gate.test{path}")).body(body).unwrap()
}

/// A response, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub async fn of(response: Response<hyper::body::Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let bytes = within("the body", body.collect()).await.unwrap().to_bytes();
        Self { status: head.status.as_u16(), headers: head.headers, body: String::from_utf8_lossy(&bytes).into_owned() }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// An upstream that keeps what it was sent, byte by byte, and answers as told.
pub struct Backend {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<AtomicUsize>,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().skip(1).find(of).map(|line| line.split_once(':').unwrap().1.trim())
    }

    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

impl Backend {
    /// Answers 200 with a small body.
    pub fn start() -> Self {
        Self::answering(|_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello")?;
            Ok(true)
        })
    }

    /// Answers each request by `answer`, which says whether the connection goes on.
    pub fn answering(answer: impl Fn(&Seen, &mut std::net::TcpStream) -> std::io::Result<bool> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections, answer) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(AtomicUsize::new(0)), Arc::new(answer));
        let backend = Self { address, seen: Arc::clone(&seen), connections: Arc::clone(&connections) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer, connections) = (Arc::clone(&seen), Arc::clone(&answer), Arc::clone(&connections));
                std::thread::spawn(move || {
                    connections.fetch_add(1, Ordering::SeqCst);
                    let _ = serve(stream, &seen, &*answer);
                    connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        backend
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: std::net::TcpStream,
    seen: &Mutex<Vec<Seen>>,
    answer: &dyn Fn(&Seen, &mut std::net::TcpStream) -> std::io::Result<bool>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer)? else { return Ok(()) };
        seen.lock().unwrap().push(request.clone());
        if !answer(&request, &mut stream)? {
            return Ok(());
        }
    }
}

fn read_request(stream: &mut std::net::TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if !fill(stream, buffer)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
    let length = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.map(|line| line.split_once(':').unwrap().1.trim().to_owned())
    };
    let mut body = Vec::new();
    if length("transfer-encoding").is_some() {
        loop {
            while !buffer.windows(2).any(|window| window == b"\r\n") {
                if !fill(stream, buffer)? {
                    return Ok(Some(Seen { head, body }));
                }
            }
            let line = buffer.windows(2).position(|window| window == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..line]).unwrap(), 16).unwrap();
            buffer.drain(..line + 2);
            while buffer.len() < size + 2 {
                if !fill(stream, buffer)? {
                    return Ok(Some(Seen { head, body }));
                }
            }
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length("content-length") {
        let length: usize = length.parse().unwrap();
        while buffer.len() < length {
            if !fill(stream, buffer)? {
                break;
            }
        }
        body.extend(buffer.drain(..length.min(buffer.len())));
    }
    Ok(Some(Seen { head, body }))
}

fn fill(stream: &mut std::net::TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = [0; 16 * 1024];
    let read = stream.read(&mut chunk)?;
    buffer.extend_from_slice(&chunk[..read]);
    Ok(read > 0)
}

/// Waits for a condition on state that tells nobody when it changes.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// The tests' clients believe any server: whom the gate believes is what is tested.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl Gate {
    /// Puts another policy on the disk, whole at once; the gate finds it by itself.
    pub fn write_policy(&self, policy: &str) {
        self.write_bundle("policy.rego", policy);
    }

    pub fn write_bundle(&self, name: &str, text: &str) {
        let beside = self.path("next");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path("policy").join(name)).unwrap();
    }

    /// What the record holds by now; a line that is being written is not there yet.
    pub fn record_now(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path("decisions.jsonl")).unwrap_or_default();
        spoken(text.split_inclusive('\n').filter(|line| line.ends_with('\n')))
    }

    /// Sends bytes on an HTTP/1.1 connection of their own, ends the sending side where `end` says so, and returns what came back.
    pub async fn raw_answer(&self, path: &str, bytes: &[u8], end: bool) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = self.connect(path, b"http/1.1").await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        if end {
            stream.shutdown().await.unwrap();
        }
        let mut answer = Vec::new();
        // How the connection ends is not the question here; what came before it is.
        let _ = within("the connection to end", stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A client on a connection that is there already.
    pub async fn over(protocol: Speaks, stream: TlsStream<TcpStream>) -> Client {
        match protocol {
            Speaks::Http1 => {
                let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                Client::One(Http1(sender))
            }
            Speaks::Http2 => {
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                Client::Two(Http2(sender))
            }
        }
    }
}

impl Speaks {
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// A request body that a test feeds by hand; dropping the sender ends it, an error breaks it off.
pub fn by_hand() -> (tokio::sync::mpsc::Sender<std::io::Result<Bytes>>, Boxed) {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    (sender, http_body_util::StreamBody::new(ByHand(receiver)).boxed())
}

struct ByHand(tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>);

impl futures_core::Stream for ByHand {
    type Item = std::io::Result<hyper::body::Frame<Bytes>>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|next| next.map(|bytes| bytes.map(hyper::body::Frame::data)))
    }
}

/// An upstream that keeps the bytes of its connections as they come, and answers 200 when `last` is among them.
pub fn tap(last: &'static str) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, bytes) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<u8>>>::default());
    let kept = Arc::clone(&bytes);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || {
                let mut own = Vec::new();
                loop {
                    let before = own.len();
                    if !fill(&mut stream, &mut own).unwrap_or(false) {
                        return;
                    }
                    kept.lock().unwrap().extend_from_slice(&own[before..]);
                    if own.windows(last.len()).any(|window| window == last.as_bytes()) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
                        return;
                    }
                }
            });
        }
    });
    (address, bytes)
}

/// A client's TLS configuration: with a certificate of anybody, or with none.
pub fn client_config(issued: Option<&portcullis::demo::authority::Issued>, alpn: &[u8]) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match issued {
        Some(issued) => {
            let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// The hex SHA-256 of a certificate, as the gate tells it to upstreams.
pub fn fingerprint(issued: &portcullis::demo::authority::Issued) -> String {
    use sha2::Digest as _;
    let leaf = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    sha2::Sha256::digest(&leaf).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Gate {
    /// A certificate of the gate's own authority.
    pub fn issue(&self, path: &str, seconds: u64) -> portcullis::demo::authority::Issued {
        self.authority.issue(&SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap(), lifetime(seconds)).unwrap()
    }

    /// A TLS connection that asks for a server name.
    pub async fn connect_named(&self, config: Arc<rustls::ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        within("the handshake", TlsConnector::from(config).connect(name, stream)).await
    }

    /// Sends bytes on an HTTP/1.1 connection of its own and reads until the gate closes it.
    pub async fn raw(&self, bytes: &[u8]) -> Raw {
        let stream = self.connect("agents/research", b"http/1.1").await;
        Raw::of(stream, bytes).await
    }
}

/// What came back on a connection, to its end.
#[derive(Debug)]
pub struct Raw {
    pub bytes: Vec<u8>,
    /// The gate said that this is the end (close_notify), rather than breaking off.
    pub clean: bool,
}

impl Raw {
    pub async fn of(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> Self {
        use tokio::io::AsyncWriteExt as _;
        // The gate may have answered and closed before it was given everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        Self::rest(&mut stream).await
    }

    pub async fn rest(stream: &mut TlsStream<TcpStream>) -> Self {
        use tokio::io::AsyncReadExt as _;
        let mut read = Vec::new();
        let clean = within("the gate to close the connection", stream.read_to_end(&mut read)).await.is_ok();
        Self { bytes: read, clean }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn status(&self) -> u16 {
        let text = self.text();
        text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no answer: {text:?}"))
    }

    /// The problem of the first answer.
    pub fn problem(&self) -> serde_json::Value {
        let text = self.text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        assert!(head.contains("application/problem+json"), "{text}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// HTTP/2 by hand: frames as bytes, so that they can be wrong.
pub struct Frames2 {
    pub stream: TlsStream<TcpStream>,
    read: Vec<u8>,
    /// Does not answer PING.
    pub mute: bool,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame2 {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a stream of [`Frames2`] ended.
#[derive(Debug, Default)]
pub struct Ended2 {
    pub body: Vec<u8>,
    /// The header block of the response as it came; static-table statuses can be read from its first byte.
    pub head: Vec<u8>,
    pub reset: Option<u32>,
    pub go_away: Option<u32>,
    pub closed: bool,
}

pub fn frame2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Reads one frame off an upstream's side of a connection; `None` when it ended.
pub fn read_frame2(stream: &mut std::net::TcpStream) -> Option<Frame2> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    Some(Frame2 { kind: head[3], flags: head[4], stream: u32::from_be_bytes(head[5..9].try_into().unwrap()), payload })
}

/// A header block of literals without indexing and without Huffman coding.
pub fn block2(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |block: &mut Vec<u8>, text: &[u8]| {
        if text.len() < 127 {
            block.push(u8::try_from(text.len()).unwrap());
        } else {
            block.push(127);
            let mut left = text.len() - 127;
            while left >= 128 {
                block.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            block.push(u8::try_from(left).unwrap());
        }
        block.extend(text);
    };
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

impl Frames2 {
    pub async fn open(gate: &Gate, path: &str) -> Self {
        Self::with(gate.connect(path, b"h2").await).await
    }

    pub async fn with(stream: TlsStream<TcpStream>) -> Self {
        let mut frames = Self { stream, read: Vec::new(), mute: false };
        frames.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        frames.send(&frame2(4, 0, 0, &[])).await.unwrap();
        frames
    }

    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        use tokio::io::AsyncWriteExt as _;
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next frame, or `None` when the connection ended.
    pub async fn next(&mut self) -> Option<Frame2> {
        use tokio::io::AsyncReadExt as _;
        loop {
            if self.read.len() >= 9 {
                let length = u32::from_be_bytes([0, self.read[0], self.read[1], self.read[2]]) as usize;
                if self.read.len() >= 9 + length {
                    let frame: Vec<u8> = self.read.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes(frame[5..9].try_into().unwrap());
                    if frame[3] == 6 && frame[4] & 1 == 0 && !self.mute {
                        let _ = self.send(&frame2(6, 1, 0, &frame[9..])).await;
                    }
                    return Some(Frame2 { kind: frame[3], flags: frame[4], stream, payload: frame[9..].to_vec() });
                }
            }
            let mut chunk = [0; 16 * 1024];
            match within("a frame", self.stream.read(&mut chunk)).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.read.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// Reads until this stream ended one way or another.
    pub async fn ended(&mut self, stream: u32) -> Ended2 {
        let mut ended = Ended2::default();
        loop {
            let Some(frame) = self.next().await else {
                ended.closed = true;
                return ended;
            };
            match frame.kind {
                0 if frame.stream == stream => ended.body.extend(&frame.payload),
                1 if frame.stream == stream => ended.head.extend(&frame.payload),
                3 if frame.stream == stream => {
                    ended.reset = Some(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
                    return ended;
                }
                7 => {
                    ended.go_away = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
                    if ended.go_away != Some(0) {
                        return ended;
                    }
                }
                _ => {}
            }
            if matches!(frame.kind, 0 | 1) && frame.stream == stream && frame.flags & 1 != 0 {
                return ended;
            }
        }
    }

    /// Reads until the connection ended; the code of the last GOAWAY, if any came.
    pub async fn closed(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == 7 {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}

impl Ended2 {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An upstream of whatever manners: each connection is `serve`d on a thread of its own.
pub fn upstream(serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads one head, and no more bytes than that; `None` when the connection ended first.
pub fn read_head(stream: &mut std::net::TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

impl Gate {
    /// The decision lines, with how the exchange ended where that was written later.
    pub fn ended(&mut self) -> Vec<serde_json::Value> {
        let record = self.record();
        let parts: Vec<serde_json::Value> = record.into_iter().map(|line| line["portcullis"].clone()).collect();
        let (mut decisions, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(|line| line["kind"] == "decision");
        for line in others.into_iter().filter(|line| line["kind"] == "closing") {
            let of = |decision: &&mut serde_json::Value| decision["exchange"] == line["exchange"];
            let decision = decisions.iter_mut().find(of).expect("a closing line has a decision line");
            assert_eq!(
                decision["ending"],
                serde_json::Value::Null,
                "one closing line, and only where the decision did not say: {line}"
            );
            for key in ["ending", "cause", "status", "bytes_in", "bytes_out", "anomaly"] {
                decision[key] = line[key].clone();
            }
        }
        decisions
    }
}
