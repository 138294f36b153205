//! Where requests go: one endpoint a name, pooled HTTP/1.1 connections, and the upstream side of a cut.
//!
//! In: a request and the exchange it belongs to. Out: the response head, and the connection back into the pool once its body was
//! read. While lent, a connection watches the exchange's cut: it is dropped with a reset and writes nothing from then on, so the
//! upstream learns that its client is gone. Nothing is sent twice: only a request of which no byte left is tried on a new connection.

mod switch;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::exchange::{Exchange, Side};
use crate::socket::{Gate, Socket};
use crate::units::Span;

pub use switch::Switch;

/// One of `upstreams`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// http://host:port; a name is resolved again for every new connection.
    pub endpoint: String,
    /// The environment it stands in, when it is not the gate's own.
    #[serde(default)]
    pub environment: Option<String>,
    #[serde(default = "two_seconds")]
    pub connect_timeout: Span,
    /// From the end of the request to the response head.
    #[serde(default = "half_a_minute")]
    pub response_timeout: Span,
    /// Without a byte either way while bodies flow.
    #[serde(default = "five_minutes")]
    pub idle_timeout: Span,
}

fn two_seconds() -> Span {
    Span::seconds(2)
}

fn half_a_minute() -> Span {
    Span::seconds(30)
}

fn five_minutes() -> Span {
    Span::seconds(300)
}

/// `host:port` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// Addresses that were judged; the host is then not looked up.
    pub pinned: Option<Arc<[SocketAddr]>>,
}

/// Why an endpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("`{0}`: only http:// upstreams can be reached yet; write http://host:port")]
    Scheme(String),
    #[error("`{0}` is not an endpoint; write http://host:port, without a path")]
    Form(String),
}

impl Endpoint {
    /// Reads `http://host:port`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| form())?;
        if uri.scheme_str() != Some("http") {
            return Err(EndpointError::Scheme(text.to_owned()));
        }
        let authority = uri.authority().ok_or_else(form)?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(form());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: authority.port_u16().unwrap_or(80), pinned: None })
    }
}

/// One of `upstreams`, ready to be called.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    pub endpoint: Endpoint,
    pub environment: Option<String>,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    pub idle_timeout: Duration,
}

impl Upstream {
    /// An upstream that stands nowhere until each request says where: [`Upstream::at`].
    pub fn anywhere(name: &str, connect: Span, response: Span, idle: Span) -> Self {
        Self {
            name: Arc::from(name),
            endpoint: Endpoint { host: String::new(), port: 0, pinned: Some(Arc::new([])) },
            environment: None,
            connect_timeout: connect.0,
            response_timeout: response.0,
            idle_timeout: idle.0,
        }
    }

    /// The same upstream at addresses that were judged.
    #[must_use]
    pub fn at(&self, host: &str, port: u16, addresses: &Arc<[SocketAddr]>) -> Self {
        Self { endpoint: Endpoint { host: host.to_owned(), port, pinned: Some(Arc::clone(addresses)) }, ..self.clone() }
    }

    /// # Errors
    /// When the endpoint is not one.
    pub fn new(name: &str, config: &Config) -> Result<Self, EndpointError> {
        Ok(Self {
            name: Arc::from(name),
            endpoint: Endpoint::parse(&config.endpoint)?,
            environment: config.environment.clone(),
            connect_timeout: config.connect_timeout.0,
            response_timeout: config.response_timeout.0,
            idle_timeout: config.idle_timeout.0,
        })
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("resolving the upstream's name: {0}")]
    Resolve(#[source] io::Error),
    #[error("connecting to the upstream: {0}")]
    Connect(#[source] io::Error),
    #[error("the upstream did not accept a connection in time")]
    ConnectTimeout,
    #[error("the upstream did not answer in time")]
    ResponseTimeout,
    #[error("the connection to the upstream broke: {0}")]
    Reset(#[source] hyper::Error),
    #[error("the upstream's answer is not HTTP: {0}")]
    Invalid(#[source] hyper::Error),
    #[error("the request body ended in an error: {0}")]
    Body(#[source] hyper::Error),
    #[error("the upstream switched to a protocol nobody asked for")]
    Switched,
    #[error("the upstream did not agree on a WebSocket: {0}")]
    Unagreed(String),
}

impl UpstreamError {
    fn from_hyper(error: hyper::Error) -> Self {
        if error.is_user() || error.is_body_write_aborted() {
            Self::Body(error)
        } else if error.is_parse() {
            Self::Invalid(error)
        } else {
            Self::Reset(error)
        }
    }
}

/// The exchange a connection is lent to, as its socket and its task see it.
#[derive(Clone, Debug, Default)]
struct Lent(Rc<RefCell<Option<Arc<Exchange>>>>);

impl Lent {
    fn to(&self, exchange: Option<Arc<Exchange>>) {
        self.0.replace(exchange);
    }

    fn is_cut(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|exchange| exchange.cut.cause().is_some())
    }

    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &*self.0.borrow() {
            Some(exchange) => exchange.cut.poll(Side::Upstream, cx).map(|_| ()),
            None => Poll::Pending,
        }
    }
}

/// A connection lent to one exchange. Dropping it closes the connection; [`Pool::give_back`] keeps it.
#[derive(Debug)]
pub struct Lease<B> {
    sender: SendRequest<B>,
    lent: Lent,
    endpoint: Endpoint,
    driver: AbortHandle,
}

/// Without it a request that is still being sent would be sent on, by nobody's leave: hyper lets an upload outlive its response.
impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[derive(Debug)]
struct Idle<B> {
    connection: Lease<B>,
    since: Instant,
}

/// The idle connections of one worker; each worker has its own, so that no lock and no other core is involved.
#[derive(Debug)]
pub struct Pool<B> {
    idle: RefCell<VecDeque<Idle<B>>>,
    /// The last addresses a name resolved to: a name server that fails must not take a running service down.
    resolved: RefCell<Vec<(String, Vec<SocketAddr>)>>,
}

/// Idle connections kept by one worker; more are closed, the longest idle first.
const IDLE_MAX: usize = 256;
/// How long an idle connection is kept. Shorter than what most servers keep theirs, so that few are found dead.
const IDLE_FOR: Duration = Duration::from_secs(50);

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self { idle: RefCell::default(), resolved: RefCell::default() }
    }
}

impl<B> Pool<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request, on an idle connection where there is one, and waits for the response head. How long is the caller's
    /// business: the time counts from the end of the request, which may be a long upload.
    ///
    /// # Errors
    /// Whose fault it was, as the variants say.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection that was used.
    pub async fn send(
        &self,
        upstream: &Upstream,
        exchange: &Arc<Exchange>,
        mut request: Request<B>,
    ) -> Result<(Response<Incoming>, Lease<B>), UpstreamError> {
        while let Some(lease) = self.take_idle(&upstream.endpoint).await {
            match self.send_on(lease, exchange, request).await {
                Sent::Answered(answer) => return Ok(answer),
                Sent::Failed(error) => return Err(error),
                Sent::Unsent(unsent) => request = unsent,
            }
        }
        let lease = self.connect(upstream).await?;
        match self.send_on(lease, exchange, request).await {
            Sent::Answered(answer) => Ok(answer),
            Sent::Failed(error) => Err(error),
            Sent::Unsent(_) => Err(UpstreamError::Connect(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    /// Keeps a connection whose response was read to its end.
    pub fn give_back(&self, lease: Lease<B>) {
        lease.lent.to(None);
        if lease.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        idle.push_back(Idle { connection: lease, since: Instant::now() });
        while idle.len() > IDLE_MAX {
            idle.pop_front();
        }
    }

    /// Closes connections that idled too long.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| !idle.connection.sender.is_closed() && now.duration_since(idle.since) < IDLE_FOR);
    }

    async fn take_idle(&self, endpoint: &Endpoint) -> Option<Lease<B>> {
        loop {
            let mut lease = {
                let mut idle = self.idle.borrow_mut();
                // The most recently used first: it is the least likely to have been closed by the other end.
                let place = idle.iter().rposition(|idle| idle.connection.endpoint == *endpoint)?;
                idle.remove(place)?.connection
            };
            if lease.sender.is_ready() {
                return Some(lease);
            }
            // Not ready: it was closed, or the response before is still being settled by its task and not worth waiting for long.
            if matches!(timeout(Duration::from_millis(50), lease.sender.ready()).await, Ok(Ok(()))) {
                return Some(lease);
            }
        }
    }

    async fn send_on(&self, mut lease: Lease<B>, exchange: &Arc<Exchange>, request: Request<B>) -> Sent<B> {
        lease.lent.to(Some(Arc::clone(exchange)));
        match lease.sender.try_send_request(request).await {
            Ok(response) => Sent::Answered((response, lease)),
            Err(mut unsent) => match unsent.take_message() {
                Some(request) => Sent::Unsent(request),
                None => Sent::Failed(UpstreamError::from_hyper(unsent.into_error())),
            },
        }
    }

    async fn connect(&self, upstream: &Upstream) -> Result<Lease<B>, UpstreamError> {
        let lent = Lent::default();
        let gate = Gate::new({
            let lent = lent.clone();
            move || lent.is_cut()
        });
        let io = TokioIo::new(self.connect_raw(upstream, gate).await?);
        let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(UpstreamError::from_hyper)?;
        let driver = tokio::task::spawn_local(drive(connection, lent.clone())).abort_handle();
        Ok(Lease { sender, lent, endpoint: upstream.endpoint.clone(), driver })
    }

    /// A connection that nothing was sent on.
    async fn connect_raw(&self, upstream: &Upstream, gate: Gate) -> Result<Socket, UpstreamError> {
        let stream = timeout(upstream.connect_timeout, async {
            let mut last = None;
            for address in self.resolve(&upstream.endpoint).await? {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(error),
                }
            }
            Err(UpstreamError::Connect(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
        });
        Ok(Socket::new(stream.await.map_err(|_| UpstreamError::ConnectTimeout)??, gate))
    }

    async fn resolve(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, UpstreamError> {
        if let Some(pinned) = &endpoint.pinned {
            return Ok(pinned.to_vec());
        }
        if let Ok(address) = endpoint.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, endpoint.port)]);
        }
        match tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await {
            Ok(found) => {
                let found: Vec<SocketAddr> = found.collect();
                let mut resolved = self.resolved.borrow_mut();
                resolved.retain(|(name, _)| *name != endpoint.host);
                resolved.push((endpoint.host.clone(), found.clone()));
                Ok(found)
            }
            Err(error) => {
                let resolved = self.resolved.borrow();
                let known = resolved.iter().find(|(name, _)| *name == endpoint.host);
                let port = endpoint.port;
                known
                    .map(|(_, known)| known.iter().map(|a| SocketAddr::new(a.ip(), port)).collect())
                    .ok_or(UpstreamError::Resolve(error))
            }
        }
    }
}

enum Sent<B> {
    Answered((Response<Incoming>, Lease<B>)),
    /// Not a byte of it left; it may be tried on another connection.
    Unsent(Request<B>),
    Failed(UpstreamError),
}

/// Drives one connection until it ends, the exchange it is lent to is cut, or nobody holds it; then it is dropped. A cut one resets.
async fn drive<B>(connection: http1::Connection<TokioIo<Socket>, B>, lent: Lent)
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        if lent.poll_cut(cx).is_ready() {
            return Poll::Ready(());
        }
        // How it ended is told to whoever waits for the response; here nobody is left to tell.
        connection.as_mut().poll(cx).map(|_| ())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::exchange::{Caller, ExchangeId, Kind};

    #[tokio::test(flavor = "current_thread")]
    async fn an_upstream_that_moved_gets_no_request_at_its_old_place() {
        let request = || Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        let caller = Caller {
            spiffe_id: String::new(),
            trust_domain: String::new(),
            certificate: String::new(),
            address: IpAddr::from([127, 0, 0, 1]),
            session: String::new(),
        };
        let exchange = Arc::new(Exchange::new(ExchangeId(uuid::Uuid::nil()), Kind::Connection, Arc::new(caller)));
        let places = [std::net::TcpListener::bind("127.0.0.1:0").unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap()];
        tokio::task::LocalSet::new()
            .run_until(async {
                let (pool, mut stay_open) = (Pool::default(), Vec::new());
                for place in places {
                    let endpoint = format!("http://{}", place.local_addr().unwrap());
                    let config = format!("{{\"endpoint\": \"{endpoint}\"}}");
                    let upstream = Upstream::new("payroll", &serde_json::from_str(&config).unwrap()).unwrap();
                    let answering = std::thread::spawn(move || {
                        let (mut stream, _) = place.accept().unwrap();
                        let _ = stream.read(&mut [0; 1024]).unwrap();
                        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                        stream
                    });
                    let sent = timeout(Duration::from_secs(5), pool.send(&upstream, &exchange, request())).await;
                    let (_, lease) = sent.expect("its new place was asked").unwrap();
                    stay_open.push(answering.join().unwrap());
                    pool.give_back(lease);
                }
            })
            .await;
    }

    #[test]
    fn endpoints_are_read_or_refused_with_the_form_to_write() {
        let endpoint = |text: &str| Endpoint::parse(text).map(|e| (e.host, e.port));
        assert_eq!(endpoint("http://127.0.0.1:9000").unwrap(), ("127.0.0.1".to_owned(), 9000));
        assert_eq!(endpoint("http://payroll.internal").unwrap(), ("payroll.internal".to_owned(), 80));
        assert_eq!(endpoint("http://[::1]:81/").unwrap(), ("::1".to_owned(), 81));
        assert!(matches!(endpoint("https://a:1"), Err(EndpointError::Scheme(_))));
        for text in ["http://a/path", "http://u@a", "http://a?x", "", "http://"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }
}
