//! The client the tour plays: a workload with an SVID that speaks HTTP/2 and HTTP/1.1 to the gate.
//!
//! In: requests. Out: whole answers, or streams read piece by piece whose end says how it came about.
//! HTTP/2 is h2 and not hyper: hyper tells RST_STREAM(CANCEL) and the proper end of a body as the same thing, and the tour is there to
//! tell them apart. Every wait has a bound.

mod end;
mod websocket;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::spiffe::{Pattern, SpiffeId};
use crate::tls::{self, Holder, Identity};

pub use end::End;

/// The longest that any one thing may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read whole.
const LARGEST: usize = 1024 * 1024;

/// A workload at the gate's door.
#[derive(Clone)]
pub struct Client {
    gate: SocketAddr,
    http2: TlsConnector,
    http1: TlsConnector,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    pub path: &'static str,
    /// JSON, or nothing.
    pub body: &'static str,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// A connection on which HTTP/2 is spoken.
pub struct Http2 {
    gate: SocketAddr,
    requests: h2::client::SendRequest<Bytes>,
}

/// The body of a response that is still coming.
pub struct Stream {
    pub status: u16,
    body: Body,
}

enum Body {
    Http1(Incoming),
    Http2(h2::RecvStream),
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the client's identity cannot be read: {0}")]
    Identity(String),
    #[error("the gate cannot be reached: {0}")]
    Connect(io::Error),
    #[error("the handshake failed: {0}")]
    Tls(#[from] rustls::Error),
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("HTTP/1.1: {0}")]
    Http1(#[from] hyper::Error),
    #[error("WebSocket: {0}")]
    WebSocket(Box<tokio_tungstenite::tungstenite::Error>),
    #[error("the request cannot be built: {0}")]
    Request(#[from] http::Error),
    #[error("more than {LARGEST} bytes came back")]
    Large,
    #[error("{what} did not happen within {} s", PATIENCE.as_secs())]
    Late { what: &'static str },
}

impl Client {
    /// A client that presents the SVID in `identity` and talks to nobody but `gate_id`.
    ///
    /// # Errors
    /// When the files cannot be read or the provider cannot speak TLS 1.3.
    pub fn new(identity: &tls::Config, gate_id: &SpiffeId, gate: SocketAddr) -> Result<Self, ClientError> {
        let identity = Identity::load(identity, UnixTime::now())
            .map_err(|errors| ClientError::Identity(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let holder = Arc::new(Holder::new(identity));
        let connector = |protocol: &str| {
            let mut config = tls::client_config(Arc::clone(&holder), Some(vec![Pattern::from(gate_id)]))?;
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            Ok::<_, rustls::Error>(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { gate, http2: connector("h2")?, http1: connector("http/1.1")? })
    }

    /// Opens a connection for HTTP/2.
    ///
    /// # Errors
    /// When the gate does not let us in.
    pub async fn http2(&self) -> Result<Http2, ClientError> {
        within("the handshake", async {
            let (requests, connection) = h2::client::handshake(self.connect(&self.http2).await?).await?;
            // Its end is told by the streams it carries.
            tokio::spawn(connection);
            Ok(Http2 { gate: self.gate, requests })
        })
        .await
    }

    /// Asks over HTTP/2 on a connection of its own.
    ///
    /// # Errors
    /// When no whole answer comes back.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, ClientError> {
        self.http2().await?.ask(ask).await
    }

    /// Opens a stream over HTTP/1.1 on a connection of its own.
    ///
    /// # Errors
    /// When no response head comes back.
    pub async fn open_http1(&self, ask: &Ask) -> Result<Stream, ClientError> {
        within("the response", async {
            let tls = self.connect(&self.http1).await?;
            let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
            tokio::spawn(connection);
            let request = Request::builder().method(&ask.method).uri(ask.path).header(HOST, self.gate.to_string());
            let request = request.body(Full::new(Bytes::from_static(ask.body.as_bytes())))?;
            let (head, body) = requests.send_request(request).await?.into_parts();
            Ok(Stream { status: head.status.as_u16(), body: Body::Http1(body) })
        })
        .await
    }

    async fn connect(&self, connector: &TlsConnector) -> Result<TlsStream<TcpStream>, ClientError> {
        let stream = TcpStream::connect(self.gate).await.map_err(ClientError::Connect)?;
        let _ = stream.set_nodelay(true);
        connector.connect(ServerName::IpAddress(self.gate.ip().into()), stream).await.map_err(ClientError::Connect)
    }
}

impl Http2 {
    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, ClientError> {
        let response = self.send(ask).await?;
        let (head, body) = response.into_parts();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let mut stream = Stream { status: head.status.as_u16(), body: Body::Http2(body) };
        let bytes = within("the end of the answer", stream.rest()).await?;
        Ok(Answer { status: stream.status, content_type, body: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Asks, and leaves the body to be read.
    ///
    /// # Errors
    /// When no response head comes back.
    pub async fn open(&mut self, ask: &Ask) -> Result<Stream, ClientError> {
        let (head, body) = self.send(ask).await?.into_parts();
        Ok(Stream { status: head.status.as_u16(), body: Body::Http2(body) })
    }

    /// Opens a gRPC call whose only message is empty.
    ///
    /// # Errors
    /// When no response head comes back.
    pub async fn call(&mut self, path: &'static str) -> Result<Stream, ClientError> {
        let uri = format!("https://{}{path}", self.gate);
        let request = Request::builder().version(Version::HTTP_2).method(Method::POST).uri(uri);
        let request = request.header(CONTENT_TYPE, "application/grpc").header(TE, "trailers").body(())?;
        let response = within("the response", async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, mut upload) = requests.send_request(request, false)?;
            upload.send_data(Bytes::from_static(&[0; 5]), true)?;
            Ok(response.await?)
        });
        let (head, body) = response.await?.into_parts();
        Ok(Stream { status: head.status.as_u16(), body: Body::Http2(body) })
    }

    async fn send(&mut self, ask: &Ask) -> Result<Response<h2::RecvStream>, ClientError> {
        let uri = format!("https://{}{}", self.gate, ask.path);
        let mut request = Request::builder().version(Version::HTTP_2).method(&ask.method).uri(uri);
        if !ask.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(())?;
        within("the response", async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, mut upload) = requests.send_request(request, ask.body.is_empty())?;
            if !ask.body.is_empty() {
                upload.send_data(Bytes::from_static(ask.body.as_bytes()), true)?;
            }
            Ok(response.await?)
        })
        .await
    }
}

impl Stream {
    /// The next piece of the body, or how it ended.
    ///
    /// # Errors
    /// When neither comes in time.
    pub async fn next(&mut self) -> Result<Result<Bytes, End>, ClientError> {
        within("the next piece of the stream", async { Ok(self.piece().await) }).await
    }

    async fn piece(&mut self) -> Result<Bytes, End> {
        match &mut self.body {
            Body::Http1(body) => loop {
                match body.frame().await {
                    None => return Err(End::Complete),
                    Some(Err(error)) => return Err(End::of_http1(&error)),
                    Some(Ok(frame)) => {
                        if let Ok(bytes) = frame.into_data() {
                            return Ok(bytes);
                        }
                    }
                }
            },
            Body::Http2(body) => match poll_fn(|cx| body.poll_data(cx)).await {
                None => Err(match poll_fn(|cx| body.poll_trailers(cx)).await {
                    Ok(trailers) => End::of_trailers(trailers.as_ref()),
                    Err(error) => End::of_http2(&error),
                }),
                Some(Err(error)) => Err(End::of_http2(&error)),
                Some(Ok(bytes)) => {
                    // Fails only on a stream that has ended, which the next piece tells.
                    let _ = body.flow_control().release_capacity(bytes.len());
                    Ok(bytes)
                }
            },
        }
    }

    async fn rest(&mut self) -> Result<Bytes, ClientError> {
        let mut whole = BytesMut::new();
        loop {
            match self.piece().await {
                Ok(bytes) => whole.extend_from_slice(&bytes),
                Err(End::Complete) => return Ok(whole.freeze()),
                Err(end) => return Err(ClientError::Connect(io::Error::other(end.to_string()))),
            }
            if whole.len() > LARGEST {
                return Err(ClientError::Large);
            }
        }
    }
}

/// One of the gate's metrics, as its plain port tells it now; `None` when there is no such series.
///
/// # Errors
/// When the port does not answer.
pub async fn metric(admin: SocketAddr, series: &str) -> Result<Option<f64>, ClientError> {
    let text = within("the metrics page", async {
        let mut stream = TcpStream::connect(admin).await.map_err(ClientError::Connect)?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(ClientError::Connect)?;
        let mut text = Vec::new();
        stream.take(LARGEST as u64).read_to_end(&mut text).await.map_err(ClientError::Connect)?;
        Ok(text)
    })
    .await?;
    let text = String::from_utf8_lossy(&text);
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value.and_then(|value| value.trim().parse().ok()))
}

/// Waits for something, and not longer than [`PATIENCE`].
///
/// # Errors
/// When it takes longer, or fails by itself.
pub async fn within<T>(what: &'static str, future: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or(Err(ClientError::Late { what }))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::demo::stage::{Ports, Role, Stage};
    use crate::tls::{ListenerRules, MinimumVersion};

    const EVENTS: Ask = Ask { method: Method::GET, path: "/events", body: "" };

    /// A client, and the TLS side of a server that stands where the gate would.
    async fn pair(directory: &std::path::Path) -> (Client, TcpListener, TlsAcceptor) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stage = Stage::prepare(directory, Ports { gate: 0, admin: 0 }, address, UnixTime::now().as_secs()).unwrap();
        let holder = Holder::new(Identity::load(&stage.identity(Role::Gate), UnixTime::now()).unwrap());
        let trust_domains = vec![tls::trust_domain("example.org").unwrap()];
        let minimum = MinimumVersion::Tls13;
        let rules = ListenerRules { trust_domains, max_svid_lifetime: None, minimum, require_certificate: true };
        let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(Arc::new(holder), rules).unwrap()));
        let gate_id = SpiffeId::new(Role::Gate.spiffe_id()).unwrap();
        (Client::new(&stage.identity(Role::Research), &gate_id, address).unwrap(), listener, acceptor)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn over_http2_a_cancelled_stream_is_not_one_that_ended() {
        let scratch = tempfile::tempdir().unwrap();
        let (client, listener, acceptor) = pair(scratch.path()).await;
        tokio::spawn(async move {
            let tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let mut connection = h2::server::handshake(tls).await.unwrap();
            for reset in [None, Some(h2::Reason::CANCEL)] {
                let (_, mut respond) = connection.accept().await.unwrap().unwrap();
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"id: 1"), reset.is_none()).unwrap();
                if let Some(reason) = reset {
                    // Sent once the client has read what came before.
                    let (_, _) = connection.accept().await.unwrap().unwrap();
                    body.send_reset(reason);
                }
            }
            while connection.accept().await.is_some() {}
        });
        let mut connection = client.http2().await.unwrap();
        let mut stream = connection.open(&EVENTS).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "id: 1");
        assert_eq!(stream.next().await.unwrap(), Err(End::Complete));
        let mut stream = connection.open(&EVENTS).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "id: 1");
        let (end, _) = tokio::join!(stream.next(), tokio::time::timeout(Duration::from_secs(1), connection.open(&EVENTS)));
        assert_eq!(end.unwrap(), Err(End::StreamReset(h2::Reason::CANCEL)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn over_http1_a_reset_is_not_a_connection_that_was_closed() {
        let scratch = tempfile::tempdir().unwrap();
        let (client, listener, acceptor) = pair(scratch.path()).await;
        let server = tokio::spawn(async move {
            for reset in [true, false] {
                let mut tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let mut head = [0; 1024];
                while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                    assert_ne!(tls.read(&mut head).await.unwrap(), 0);
                }
                tls.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await.unwrap();
                tls.flush().await.unwrap();
                if reset {
                    socket2::SockRef::from(tls.get_ref().0).set_linger(Some(Duration::ZERO)).unwrap();
                } else {
                    tls.shutdown().await.unwrap();
                }
            }
        });
        let mut ends = Vec::new();
        for _ in 0..2 {
            let mut stream = client.open_http1(&EVENTS).await.unwrap();
            loop {
                match stream.next().await.unwrap() {
                    Ok(bytes) => assert_eq!(bytes, "hello"),
                    Err(end) => break ends.push(end),
                }
            }
        }
        server.await.unwrap();
        assert_eq!(ends[0], End::ConnectionReset);
        assert!(matches!(ends[1], End::Other(_)), "{:?}", ends[1]);
    }
}
