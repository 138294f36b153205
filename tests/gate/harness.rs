//! A gate for a test: its own CA, its own folder, an upstream that writes down the bytes it got, and raw clients.
//!
//! Nothing here waits by sleeping: every wait is on the thing itself, and [`within`] bounds it so that a hang is a failure.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
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
        let (folder, authority) = self.prepare(upstream);
        Gate::open(folder, authority)
    }

    /// The same with a FIFO named `fifo` that nobody reads.
    pub fn start_on_fifo(self, upstream: SocketAddr) -> Gate {
        let (folder, authority) = self.prepare(upstream);
        assert!(std::process::Command::new("mkfifo").arg(folder.path().join("fifo")).status().unwrap().success());
        Gate::open(folder, authority)
    }

    fn prepare(self, upstream: SocketAddr) -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(&TrustDomain::new("example.org").unwrap()).unwrap();
        std::fs::write(folder.path().join("bundle.pem"), authority.ca_pem()).unwrap();
        let issued = authority.issue(&SpiffeId::new("spiffe://example.org/gate").unwrap(), lifetime(3600)).unwrap();
        std::fs::write(folder.path().join("svid.pem"), &issued.certificate_pem).unwrap();
        std::fs::write(folder.path().join("svid.key"), &issued.key_pem).unwrap();
        std::fs::create_dir(folder.path().join("policy")).unwrap();
        std::fs::write(folder.path().join("policy/policy.rego"), &self.policy).unwrap();
        std::fs::write(folder.path().join("policy/data.json"), &self.data).unwrap();
        std::fs::write(folder.path().join("gate.yaml"), self.yaml(upstream)).unwrap();
        (folder, authority)
    }

    fn yaml(&self, upstream: SocketAddr) -> String {
        let Self { extra, listener, decision, audit, .. } = self;
        format!(
            "environment: test\n\
             identity:\n  trust_domain: example.org\n  source:\n    files: {{certificate: svid.pem, private_key: svid.key, bundles: {{example.org: bundle.pem}}}}\n\
             listeners:\n  - name: front\n    address: 127.0.0.1:0\n{listener}    routes: [{{name: all, upstream: backend}}]\n\
             upstreams:\n  backend: {{endpoint: \"http://{upstream}\"}}\n\
             policy:\n  bundles: {{authz: {{path: policy}}}}\n  decision: {decision}\n  may_kill: [exchange, session, identity]\n  limits: {{time: 200ms}}\n\
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
        gate
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

    /// Every line of the record. The gate is stopped for it.
    pub fn record(&mut self) -> Vec<serde_json::Value> {
        self.stop();
        let text = std::fs::read_to_string(self.path("decisions.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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

pub fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
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
