//! The connections of one worker to its upstreams; each worker has its own, so that no lock and no other core is involved.
//!
//! In: a request and the exchange it belongs to. Out: the response head with the lease it came on, and the connection back once its
//! body was read. What must stay true: a request is sent twice only when the first upstream connection said or showed that it never
//! looked at it. Many who need the first HTTP/2 connection wait for one attempt together; a hundred attempts for a hundred requests
//! would be a hundred handshakes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::watch;

use super::config::{Expected, Speaks, Upstream, Way};
use super::connect::{Connector, Stream};
use super::error::UpstreamError;
use super::http1::{self, Lent};
use super::http2::{self, Place, Replay};
use super::response::Answer;
use crate::exchange::Exchange;
use crate::socket::Gate;
use crate::tls::Holder;

/// Idle HTTP/1.1 connections kept by one worker; more are closed, the longest idle first.
const IDLE_MAX: usize = 256;
/// How long an idle connection is kept. Shorter than what most servers keep theirs, so that few are found dead.
const IDLE_FOR: Duration = Duration::from_secs(50);
/// How often a request that was never looked at is tried.
const TRIES: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct Pool<B> {
    connector: Connector,
    idle: RefCell<VecDeque<Idle<B>>>,
    shared: RefCell<Vec<Shared>>,
    opening: RefCell<Vec<Opening>>,
    /// Upstreams that may speak either, and chose HTTP/1.1 when they were last asked.
    chose_http1: RefCell<Vec<Arc<Way>>>,
}

#[derive(Debug)]
struct Idle<B> {
    connection: http1::Lease<Replay<B>>,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    connection: Rc<http2::Connection>,
    idle_since: Option<Instant>,
}

/// An attempt that others wait for; it tells them why it failed.
#[derive(Debug)]
struct Opening {
    way: Arc<Way>,
    told: watch::Receiver<Option<Arc<UpstreamError>>>,
}

/// What a request can be sent on.
enum Found<B> {
    Http1(http1::Lease<Replay<B>>),
    Http2(Place),
}

/// A connection lent to one exchange, or its stream on one. Dropping it ends what it carries; [`Pool::give_back`] keeps it.
#[derive(Debug)]
pub struct Lease<B>(Kind<B>);

#[derive(Debug)]
enum Kind<B> {
    Http1(http1::Lease<Replay<B>>),
    Http2(http2::Lease<B>),
}

impl<B> Pool<B> {
    pub fn new(holder: Arc<Holder>) -> Self {
        Self {
            connector: Connector::new(holder),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: RefCell::default(),
            chose_http1: RefCell::default(),
        }
    }

    /// A connection of its own, for what HTTP cannot carry; it never joins the pool. It writes nothing once `gate` is shut, and then
    /// ends in a reset.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn connect_raw(&self, upstream: &Upstream, gate: Gate) -> Result<Stream, UpstreamError> {
        self.connector.connect(upstream, Speaks::Http1, gate).await
    }

    /// The same to an address that is resolved already, and judged as such: a name asked again could answer otherwise.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect_to(
        &self,
        address: SocketAddr,
        expected: Option<&Expected>,
        within: Duration,
        gate: Gate,
    ) -> Result<Stream, UpstreamError> {
        self.connector.connect_to(address, expected, within, gate).await
    }

    /// The addresses of a name, of this moment.
    ///
    /// # Errors
    /// When the name has none, or nobody can be asked and nobody could before.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UpstreamError> {
        self.connector.addresses(host, port).await
    }

    /// Keeps a connection whose response was read to its end.
    pub fn give_back(&self, lease: Lease<B>) {
        match lease.0 {
            Kind::Http2(lease) => lease.response_ended(),
            Kind::Http1(connection) => {
                if !connection.take_back() {
                    return;
                }
                let mut idle = self.idle.borrow_mut();
                idle.push_back(Idle { connection, since: Instant::now() });
                while idle.len() > IDLE_MAX {
                    idle.pop_front();
                }
            }
        }
    }

    /// Closes connections that idled too long, and asks quiet ones whether they live.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| !idle.connection.is_closed() && now.duration_since(idle.since) < IDLE_FOR);
        self.shared.borrow_mut().retain_mut(|shared| {
            shared.connection.look_after(now);
            let since = *shared.idle_since.get_or_insert(now);
            if !shared.connection.is_idle() {
                shared.idle_since = None;
            }
            shared.connection.is_usable() && now.saturating_duration_since(since) < IDLE_FOR
        });
    }

    /// A place on a connection that is there.
    fn place(&self, way: &Arc<Way>) -> Option<Place> {
        let mut shared = self.shared.borrow_mut();
        // One that takes no more requests lives as long as those it carries.
        shared.retain(|shared| {
            shared.connection.way != *way || (shared.connection.is_usable() && self.connector.still(shared.connection.proven))
        });
        shared.iter_mut().filter(|shared| shared.connection.way == *way).find_map(|shared| {
            shared.idle_since = None;
            shared.connection.take_place()
        })
    }

    fn may_speak_http2(&self, way: &Arc<Way>) -> bool {
        match way.speaks {
            Speaks::Http1 => false,
            Speaks::Http2 => true,
            Speaks::Either => !self.chose_http1.borrow().contains(way),
        }
    }
}

impl<B> Pool<B>
where
    B: http_body::Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request in origin form with its `Host`, on a connection that is there or a new one, and waits for the response head.
    /// How long is the caller's business: the time counts from the end of the request, which may be a long upload.
    ///
    /// # Errors
    /// Whose fault it was, as the variants say.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was begun, and nothing else.
    pub async fn send(
        &self,
        upstream: &Upstream,
        exchange: &Arc<Exchange>,
        request: Request<B>,
    ) -> Result<(Response<Answer>, Lease<B>), UpstreamError> {
        let mut request = request.map(Replay::new);
        // Idle connections that turn out dead are no tries: each was closed before the request came.
        while let Some(lease) = self.take_idle(&upstream.way).await {
            match lease.send(exchange, request).await {
                http1::Sent::Answered(response, lease) => return Ok(answered1(response, lease)),
                http1::Sent::Failed(error) => return Err(error),
                http1::Sent::Unsent(unsent) => request = unsent,
            }
        }
        for _ in 0..TRIES {
            match self.find(upstream).await? {
                Found::Http1(lease) => match lease.send(exchange, request).await {
                    http1::Sent::Answered(response, lease) => return Ok(answered1(response, lease)),
                    http1::Sent::Failed(error) => return Err(error),
                    http1::Sent::Unsent(_) => break,
                },
                Found::Http2(place) => match http2::send(place, exchange, request).await {
                    http2::Sent::Answered(response, lease) => {
                        return Ok((response.map(Answer::http2), Lease(Kind::Http2(lease))));
                    }
                    http2::Sent::Failed(error) => return Err(error),
                    http2::Sent::Unsent(unsent) => request = *unsent,
                },
            }
        }
        Err(UpstreamError::Connect(io::ErrorKind::ConnectionAborted.into()))
    }

    async fn take_idle(&self, way: &Arc<Way>) -> Option<http1::Lease<Replay<B>>> {
        loop {
            let mut lease = {
                let mut idle = self.idle.borrow_mut();
                // The most recently used first: it is the least likely to have been closed by the other end.
                let place = idle.iter().rposition(|idle| idle.connection.way == *way)?;
                idle.remove(place)?.connection
            };
            if self.connector.still(lease.proven) && lease.is_ready().await {
                return Some(lease);
            }
        }
    }

    /// A place on a shared connection, or a new connection.
    async fn find(&self, upstream: &Upstream) -> Result<Found<B>, UpstreamError> {
        let way = &upstream.way;
        loop {
            if !self.may_speak_http2(way) {
                return self.open(upstream).await;
            }
            if let Some(place) = self.place(way) {
                return Ok(Found::Http2(place));
            }
            let told = self.opening.borrow().iter().find(|opening| opening.way == *way).map(|opening| opening.told.clone());
            let Some(mut told) = told else { return self.open_for_all(upstream).await };
            // An error here is an attempt that ended without a word: it succeeded, or whoever made it is gone.
            if told.changed().await.is_ok()
                && let Some(error) = &*told.borrow()
            {
                return Err(error.told_again());
            }
        }
    }

    /// Opens a connection that others wait for.
    async fn open_for_all(&self, upstream: &Upstream) -> Result<Found<B>, UpstreamError> {
        let (tell, told) = watch::channel(None);
        self.opening.borrow_mut().push(Opening { way: Arc::clone(&upstream.way), told });
        let _over = Over { opening: &self.opening, way: &upstream.way };
        let found = self.open(upstream).await;
        if let Err(error) = &found {
            let _ = tell.send(Some(Arc::new(error.told_again())));
        }
        found
    }

    async fn open(&self, upstream: &Upstream) -> Result<Found<B>, UpstreamError> {
        let way = &upstream.way;
        let lent = Lent::default();
        let stream = self.connector.connect(upstream, way.speaks, lent.gate()).await?;
        let proven = self.connector.proven(&stream);
        if way.speaks == Speaks::Http2 || stream.agreed_on_http2() {
            self.chose_http1.borrow_mut().retain(|known| known != way);
            let connection = http2::Connection::open(stream, Arc::clone(way), proven).await?;
            let place = connection.take_place();
            self.shared.borrow_mut().push(Shared { connection, idle_since: None });
            return place.map(Found::Http2).ok_or_else(|| UpstreamError::Connect(io::ErrorKind::ConnectionAborted.into()));
        }
        if way.speaks == Speaks::Either && !self.chose_http1.borrow().contains(way) {
            self.chose_http1.borrow_mut().push(Arc::clone(way));
        }
        Ok(Found::Http1(http1::Lease::open(stream, lent, Arc::clone(way), proven).await?))
    }
}

fn answered1<B>(response: Response<hyper::body::Incoming>, lease: http1::Lease<Replay<B>>) -> (Response<Answer>, Lease<B>) {
    (response.map(Answer::http1), Lease(Kind::Http1(lease)))
}

/// Takes an attempt off the list when it is over, however that came.
struct Over<'a> {
    opening: &'a RefCell<Vec<Opening>>,
    way: &'a Arc<Way>,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.opening.borrow_mut().retain(|opening| opening.way != *self.way);
    }
}
