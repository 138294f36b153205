//! The demo admin API: what the gate of `dev` stands in front of.
//!
//! In: plain HTTP/1.1 or HTTP/2 on a free port of 127.0.0.1. Out: users as JSON, an endless stream of server-sent events, the same as a
//! gRPC call and as a WebSocket, a long slow download; and, for the tour, what it saw of the last requests and how many streams it is sending, because only the upstream can say what
//! reached the upstream. It lives on a thread of its own: an upstream that shares the gate's runtime would hide its stalls.

mod body;
mod terminal;
mod users;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use body::Content;
use users::Users;

/// Connections served at a time.
const CONNECTIONS: usize = 256;
/// The largest request body.
const LARGEST_BODY: usize = 64 * 1024;
/// Requests remembered.
const REMEMBERED: usize = 32;
/// From an event to the next.
const EVENT_EVERY: Duration = Duration::from_millis(100);
/// From a piece of the export to the next.
const PIECE_EVERY: Duration = Duration::from_millis(50);
/// Ten minutes of them.
const PIECES: u64 = 12_000;
const ROWS_A_PIECE: u64 = 64;

/// The running API; it ends with the process.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    house: Arc<House>,
}

/// One request as it reached the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counts from 1.
    pub number: u64,
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    /// The request line and the fields, as they stood in the message.
    pub fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        head
    }
}

#[derive(Debug)]
struct House {
    users: Mutex<Users>,
    seen: Mutex<(u64, VecDeque<Seen>)>,
    streams: watch::Sender<usize>,
}

impl Api {
    /// Binds a free port and serves it on a thread of its own.
    ///
    /// # Errors
    /// When there is no port, thread or runtime to be had.
    pub fn start() -> io::Result<Self> {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let house = Arc::new(House { users: Mutex::new(Users::seeded()), seen: Mutex::default(), streams: watch::Sender::new(0) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&house);
        std::thread::Builder::new().name("demo-api".to_owned()).spawn(move || runtime.block_on(serve(socket, serving)))?;
        Ok(Self { address, house })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have arrived since the start.
    pub fn count(&self) -> u64 {
        lock(&self.house.seen).0
    }

    /// The last request that arrived.
    pub fn last(&self) -> Option<Seen> {
        lock(&self.house.seen).1.back().cloned()
    }

    /// How many streams are being sent, now and whenever that changes.
    pub fn streams(&self) -> watch::Receiver<usize> {
        self.house.streams.subscribe()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(socket: std::net::TcpListener, house: Arc<House>) {
    let Ok(listener) = TcpListener::from_std(socket) else { return };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: another turn of the runtime closes some.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let house = Arc::clone(&house);
        tokio::spawn(async move {
            carry(stream, house).await;
            drop(permit);
        });
    }
}

async fn carry(stream: TcpStream, house: Arc<House>) {
    let service = service_fn(move |request| {
        let house = Arc::clone(&house);
        async move { Ok::<_, Infallible>(house.answer(request).await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    // A client that went away is nobody's concern here: its stream has been dropped and counted.
    let _ = connection.await;
}

impl House {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Content> {
        let upgraded = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let read = Limited::new(body, LARGEST_BODY).collect().await;
        let Ok(body) = read.map(http_body_util::Collected::to_bytes) else {
            return json_answer(StatusCode::BAD_REQUEST, &json!({"error": "the body is too large or broke off"}));
        };
        self.remember(&parts, &body);
        let path = parts.uri.path().to_owned();
        match (path.strip_prefix("/v1/users/"), path.as_str()) {
            (Some(id), _) => self.user(&parts.method, id),
            (None, "/v1/users") => self.users(&parts.method, &body),
            (None, "/v1/events") => self.stream(&parts.method, "text/event-stream", EVENT_EVERY, u64::MAX, event),
            (None, "/v1/export") => self.stream(&parts.method, "text/csv", PIECE_EVERY, PIECES, rows),
            (None, "/v1/terminal") => terminal::open(&parts.headers, upgraded, &self.streams),
            (None, "/demo.v1.Users/Watch") => {
                answer(StatusCode::OK, "application/grpc", Content::paced(EVENT_EVERY, u64::MAX, message, &self.streams))
            }
            (None, _) => json_answer(StatusCode::NOT_FOUND, &json!({"error": "there is no such thing"})),
        }
    }

    fn remember(&self, parts: &Parts, body: &Bytes) {
        let mut seen = lock(&self.seen);
        let (count, requests) = &mut *seen;
        *count = count.saturating_add(1);
        if requests.len() == REMEMBERED {
            requests.pop_front();
        }
        requests.push_back(Seen {
            number: *count,
            method: parts.method.clone(),
            target: parts.uri.to_string(),
            headers: parts.headers.clone(),
            body: body.clone(),
        });
    }

    fn users(&self, method: &Method, body: &[u8]) -> Response<Content> {
        let mut users = lock(&self.users);
        match *method {
            Method::GET => json_answer(StatusCode::OK, &users.all()),
            Method::POST => match users.add(body) {
                Ok(user) => json_answer(StatusCode::CREATED, &user),
                Err(why) => json_answer(StatusCode::BAD_REQUEST, &json!({"error": why})),
            },
            _ => refuse("GET, POST"),
        }
    }

    fn user(&self, method: &Method, id: &str) -> Response<Content> {
        let mut users = lock(&self.users);
        let found = id.parse().ok().and_then(|id| if *method == Method::DELETE { users.remove(id) } else { users.find(id) });
        match (method, found) {
            (&Method::GET, Some(user)) => json_answer(StatusCode::OK, &user),
            (&Method::DELETE, Some(_)) => answer(StatusCode::NO_CONTENT, "application/json", Content::whole(Bytes::new())),
            (&Method::GET | &Method::DELETE, None) => {
                json_answer(StatusCode::NOT_FOUND, &json!({"error": "there is no such user"}))
            }
            _ => refuse("GET, DELETE"),
        }
    }

    fn stream(
        &self,
        method: &Method,
        kind: &'static str,
        every: Duration,
        pieces: u64,
        piece: fn(u64) -> Bytes,
    ) -> Response<Content> {
        match *method {
            Method::GET => answer(StatusCode::OK, kind, Content::paced(every, pieces, piece, &self.streams)),
            _ => refuse("GET"),
        }
    }
}

fn event(number: u64) -> Bytes {
    Bytes::from(format!("id: {number}\ndata: {{\"event\": {number}}}\n\n"))
}

/// `message Event { uint64 number = 1; }`, with the five bytes gRPC puts before each message.
fn message(number: u64) -> Bytes {
    let mut event = vec![0x08];
    let mut rest = number;
    while rest >= 0x80 {
        event.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    event.push((rest & 0x7f) as u8);
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(event.len()).unwrap_or_default().to_be_bytes());
    framed.extend_from_slice(&event);
    Bytes::from(framed)
}

fn rows(piece: u64) -> Bytes {
    let mut text = String::with_capacity(4096);
    if piece == 1 {
        text.push_str("number,name,role,last_seen,note\n");
    }
    let first = (piece - 1) * ROWS_A_PIECE + 1;
    for number in first..first + ROWS_A_PIECE {
        text.push_str(&format!("{number},user-{number},viewer,2026-01-01T00:00:00Z,nothing to say about them\n"));
    }
    Bytes::from(text)
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Content> {
    answer(status, "application/json", Content::whole(Bytes::from(format!("{value}\n"))))
}

fn refuse(allowed: &'static str) -> Response<Content> {
    let mut response = json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "this cannot be done here"}));
    response.headers_mut().insert(ALLOW, http::HeaderValue::from_static(allowed));
    response
}

fn answer(status: StatusCode, kind: &'static str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
