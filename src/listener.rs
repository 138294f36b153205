//! Accept → TLS → peer → wire → hyper.
//!
//! In: an accepted socket. Out: exchanges handed to `proxy`, and everything that happens before there is one: limits, the handshake,
//! a peer that may not come in, a head that has two readings. What must stay true: nobody is served who was not proven (except a
//! load balancer that asks for health), and a connection looks at the cut of what it carries before it moves a byte.

mod channel;
mod house;
mod http1;
mod http2;
mod line;
mod stream;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::UnixTime;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::decision::Transport;
use crate::exchange::{Caller, Exchange, ExchangeId, Kind, Registered};
use crate::judge::case::{CertificateFacts, ConnectionFacts};
use crate::metrics::{HandshakeError, Open};
use crate::proxy::downstream::{Downstream, Peer};
use crate::proxy::edit::identity::IdentityHeaders;
use crate::proxy::outbound::DestinationConfig;
use crate::proxy::worker::Worker;
use crate::proxy::{EnforcementConfig, RouteConfig};
use crate::session;
use crate::socket::{Gate, Socket};
use crate::tls::{self, Holder, ListenerRules, MinimumVersion};
use crate::units::{Size, Span};
use crate::wire;

use channel::Channel;
pub use house::{House, Room};
pub use line::Lines;
use line::{Close, Line};

/// One of `listeners`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub name: String,
    /// 0.0.0.0:8443; port 0 takes a free one.
    pub address: SocketAddr,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub identity: IdentityFrom,
    /// Whose peers may connect; each is checked against its own bundle. Our own domain when absent.
    #[serde(default)]
    pub trust_domains: Vec<String>,
    /// A certificate that lives longer is refused.
    #[serde(default)]
    pub max_svid_lifetime: Option<Span>,
    #[serde(default)]
    pub minimum_tls: MinimumVersion,
    /// TLS server names we answer to; another one gets 421. Every name when absent.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// For load balancers without an SVID: ready or not, nothing else, never forwarded.
    #[serde(default)]
    pub health: Option<Health>,
    /// A last `event: portcullis` before a cut server-sent event stream ends.
    #[serde(default)]
    pub sse_last_event: bool,
    /// Whether denials by policy block, where a route or destination does not say so itself.
    #[serde(default)]
    pub enforcement: EnforcementConfig,
    /// In front of a service: which upstream takes what.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
    /// Beside an agent: where it may go. The first entry that takes host and port counts; without one the request is denied.
    #[serde(default)]
    pub destinations: Vec<DestinationConfig>,
}

/// Where the listener stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In front of a service.
    #[default]
    Reverse,
    /// Beside an agent, as its HTTP proxy: absolute-form requests and CONNECT.
    Forward,
}

/// Where a listener learns who is calling.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum IdentityFrom {
    /// The peer's X.509-SVID, from mTLS.
    #[default]
    Peer,
    /// Our own SVID stands for the pod we share with the agent. Without TLS, so on a loopback address only.
    #[serde(rename = "self")]
    Own,
}

/// `health`: a path that answers whether the gate is ready, to callers without a certificate as well.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub path: String,
}

/// `limits`: how much of the gate one peer, and all of them, may hold.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// From the first byte of a head to its end, and for a TLS handshake.
    pub header_timeout: Span,
    pub header_bytes: Size,
    pub headers: usize,
    /// Handshakes at a time.
    pub handshakes: usize,
    pub connections: usize,
    /// HTTP/2 streams of one connection.
    pub streams: u32,
    /// How long a connection may idle between requests.
    pub idle_timeout: Span,
    pub per_identity: PerIdentity,
    /// How long open exchanges may go on after SIGTERM.
    pub drain: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Span::seconds(10),
            header_bytes: Size::kib(64),
            headers: 100,
            handshakes: 256,
            connections: 20_000,
            streams: 100,
            idle_timeout: Span::seconds(300),
            per_identity: PerIdentity::default(),
            drain: Span::seconds(30),
        }
    }
}

/// What one SPIFFE ID may hold at a time.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct PerIdentity {
    pub connections: usize,
    pub exchanges: usize,
}

impl Default for PerIdentity {
    fn default() -> Self {
        Self { connections: 200, exchanges: 1000 }
    }
}

/// One listener, as all its connections and all workers see it.
pub struct Entrance {
    /// Its place in the settings.
    pub place: usize,
    pub name: String,
    pub rules: ListenerRules,
    /// `None` where our own identity stands for whoever connects.
    acceptor: Option<TlsAcceptor>,
    mode: Mode,
    holder: Arc<Holder>,
    limits: Limits,
    house: Arc<House>,
}

/// How long a reply to somebody we are done with may take.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// An accepted connection: a socket of this worker's, or one on its way to another.
pub struct Accepted<Stream> {
    pub stream: Stream,
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub entrance: Arc<Entrance>,
    pub room: Room,
}

impl Entrance {
    /// # Errors
    /// When rustls refuses the combination of versions and suites, which is a fault of ours.
    pub fn new(
        place: usize,
        config: &Config,
        rules: ListenerRules,
        holder: Arc<Holder>,
        limits: &Limits,
        house: Arc<House>,
    ) -> Result<Self, rustls::Error> {
        let acceptor = match config.identity {
            IdentityFrom::Peer => Some(TlsAcceptor::from(Arc::new(tls::server_config(Arc::clone(&holder), rules.clone())?))),
            IdentityFrom::Own => None,
        };
        Ok(Self { place, name: config.name.clone(), rules, acceptor, mode: config.mode, holder, limits: limits.clone(), house })
    }

    fn wire_limits(&self) -> wire::Limits {
        wire::Limits {
            header_bytes: self.limits.header_bytes.bytes(),
            headers: self.limits.headers,
            connect: self.mode == Mode::Forward,
            ..wire::Limits::default()
        }
    }

    /// Room for one more connection.
    pub fn admit(&self) -> Option<Room> {
        self.house.admit()
    }
}

/// Carries one connection from its handshake to its end.
pub async fn carry(worker: Rc<Worker>, lines: Rc<Lines>, accepted: Accepted<TcpStream>) {
    let Accepted { stream, remote, local, entrance, mut room } = accepted;
    let metrics = Arc::clone(&worker.services.metrics);
    let line = Rc::new(Line::new(Arc::clone(&entrance.holder), entrance.rules.clone()));
    let refuse = |error: HandshakeError| metrics.handshake_errors.of(error).inc();
    let gate = Gate::new({
        let line = Rc::clone(&line);
        move || line.is_shut()
    });
    let socket = Socket::new(stream, gate);
    let stream = match &entrance.acceptor {
        Some(acceptor) => match Box::pin(handshake(&worker, &entrance, acceptor, socket)).await {
            Ok(stream) => stream,
            Err(error) => return refuse(HandshakeError::of_code(tls::reason(&error))),
        },
        None => Channel::Plain(socket),
    };
    let proven = match stream.tls().map(|tls| tls::peer(tls)) {
        Some(Ok(proven)) => proven,
        Some(Err(error)) => return refuse(HandshakeError::of_code(error.code())),
        // Once our SVID has expired nobody is proven, and strangers are refused.
        None => entrance.holder.current().as_peer(unix_now()),
    };
    if let Some(peer) = &proven
        && !room.identify(&peer.spiffe_id.to_string())
    {
        return refuse(HandshakeError::PerIdentity);
    }
    let Some(downstream) = downstream(&worker, &entrance, &stream, proven.as_ref(), (remote, local)) else {
        return refuse(HandshakeError::Other);
    };
    let registered = register(&worker, &downstream);
    if worker.services.registry.standing().matching(registered.exchange(), Instant::now()).is_some() {
        if entrance.house.knocks_too_often(Instant::now()) {
            return refuse(HandshakeError::Killed);
        }
        line.close(Close::AfterOne);
    }
    let listener = worker.settings().listener(entrance.place).map(|listener| listener.metrics.clone());
    let _open: Option<Open> = listener.map(|listener| {
        listener.handshakes.inc();
        listener.connection()
    });
    line.identify(proven, Rc::clone(&downstream), registered);
    let _listed = lines.enlist(&line);
    // Boxed, as is whatever seldom happens: a future is as large as the largest of what it may wait for, and most connections idle.
    match downstream.transport {
        Transport::Http1 => Box::pin(http1::carry(worker, entrance, downstream, line, stream)).await,
        Transport::Http2 => Box::pin(http2::carry(worker, entrance, downstream, line, stream)).await,
    }
}

async fn handshake(worker: &Worker, entrance: &Entrance, acceptor: &TlsAcceptor, socket: Socket) -> std::io::Result<Channel> {
    let within = async {
        let _turn = entrance.house.handshakes.acquire().await;
        let _open = Open::new(&worker.services.metrics.handshakes_open);
        acceptor.accept(socket).await.map(|tls| Channel::Tls(Box::new(tls)))
    };
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    tokio::time::timeout(entrance.limits.header_timeout.0, within).await.map_err(|_| late())?
}

fn register(worker: &Worker, downstream: &Downstream) -> Registered {
    let id = ExchangeId(uuid::Uuid::new_v4());
    let connection = Exchange::new(id, Kind::Connection, Arc::clone(&downstream.caller));
    worker.services.registry.register(worker.index, Arc::new(connection))
}

/// What a connection proves, in the words its exchanges need. `None` when an identity cannot be written down, which no verified one
/// can be, or when our own was withdrawn during the handshake.
fn downstream(
    worker: &Worker,
    entrance: &Entrance,
    stream: &Channel,
    proven: Option<&tls::Peer>,
    (remote, local): (SocketAddr, SocketAddr),
) -> Option<Rc<Downstream>> {
    let tls = stream.tls();
    let http2 = tls.is_some_and(|tls| tls.alpn_protocol() == Some(b"h2"));
    let transport = if http2 { Transport::Http2 } else { Transport::Http1 };
    let server_name = tls.and_then(rustls::ServerConnection::server_name).map(str::to_ascii_lowercase);
    let proof = if tls.is_some() { "mtls" } else { "self" };
    let address = remote.ip().to_canonical();
    let ours = entrance.holder.current();
    let peer = match proven {
        None => None,
        Some(proven) => {
            let certificate = CertificateFacts {
                serial: &proven.serial,
                sha256: &proven.sha256,
                not_after: proven.not_after,
                lifetime_seconds: proven.lifetime_seconds,
            };
            // The handshake needed our SVID; it may have been taken from us since.
            let our_spiffe_id = ours.spiffe_id()?;
            let our_id = our_spiffe_id.to_string();
            let settings = worker.settings();
            let facts = ConnectionFacts::new(
                &proven.spiffe_id,
                certificate,
                (remote, local),
                server_name.as_deref(),
                &our_id,
                proof,
                &settings.networks,
            );
            let headers = IdentityHeaders::new(&proven.spiffe_id, our_spiffe_id, &proven.sha256, address).ok()?;
            let name = Arc::from(proven.spiffe_id.to_string());
            Some(Peer {
                spiffe_id: proven.spiffe_id.clone(),
                name,
                facts,
                headers,
                not_after: Cell::new(proven.not_after),
                own: tls.is_none(),
            })
        }
    };
    let name = proven.map(|proven| proven.spiffe_id.to_string()).unwrap_or_default();
    let caller = Caller {
        session: session::id(&name, None),
        trust_domain: proven.map(|proven| proven.spiffe_id.trust_domain_name().to_owned()).unwrap_or_default(),
        certificate: proven.map(|proven| proven.sha256.clone()).unwrap_or_default(),
        spiffe_id: name,
        address,
    };
    let listener = entrance.place;
    Some(Rc::new(Downstream { listener, transport, remote, server_name, caller: Arc::new(caller), peer, open: Cell::new(0) }))
}

/// Now, as certificates count it.
fn unix_now() -> UnixTime {
    UnixTime::since_unix_epoch(crate::units::since_epoch(SystemTime::now()))
}
