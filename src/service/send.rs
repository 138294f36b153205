//! One call of a service: connect, send, read the answer whole.
//!
//! In: what to ask for, and how much may come back. Out: status, headers and a bounded body; whether a status is good is the
//! caller's to say. HTTP/1.1 alone: one request a connection has nothing to multiplex.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Service, Terms, Trust};
use crate::tls::{self, IdentityError, PeerError};
use crate::units::{SecretError, Size};

/// No answer takes longer than this to arrive whole, however steadily it drips.
const WHOLE: Duration = Duration::from_secs(600);

/// What is asked of a service.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub method: Method,
    /// Joined to the service's url; may have a query.
    pub path: &'a str,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The largest body that is taken.
    pub most: Size,
    /// How much longer than usual the head of the answer may take: a long poll's time.
    pub patience: Duration,
}

/// What a service answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer. None of these holds a token.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("`{0}` cannot be joined to the service's url")]
    Path(String),
    #[error("the bearer token: {0}")]
    Token(#[from] SecretError),
    #[error("the bearer token holds what no header can carry; is it the right file?")]
    TokenForm,
    #[error("resolving its name: {0}")]
    Resolve(#[source] io::Error),
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    #[error("it did not accept a connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error("the CAs that vouch for it: {0}")]
    Authorities(#[from] IdentityError),
    #[error("TLS cannot be configured: {0}")]
    Tls(#[from] rustls::Error),
    #[error("it is not who was expected: {0}")]
    Identity(String),
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    #[error("its answer stopped in the middle")]
    Stalled,
    #[error("its answer did not arrive whole within {0:?}")]
    Slow(Duration),
    #[error("its answer is larger than {0}")]
    Large(Size),
    #[error("the connection broke: {0}")]
    Broken(#[source] hyper::Error),
}

/// The task that carries a connection; it goes when its call does.
struct Carried(JoinHandle<()>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Call<'_> {
    /// A GET of a path.
    pub fn get(path: &str, most: Size) -> Call<'_> {
        Call { method: Method::GET, path, headers: HeaderMap::new(), body: Bytes::new(), most, patience: Duration::ZERO }
    }

    /// A POST to a path; its answer's body is of no interest beyond a few words.
    pub fn post(path: &str, kind: HeaderValue, body: Bytes) -> Call<'_> {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, kind)]);
        Call { method: Method::POST, path, headers, body, most: Size::kib(64), patience: Duration::ZERO }
    }
}

impl Service {
    /// Calls the service once; nothing is tried again here, and no redirect followed.
    ///
    /// # Errors
    /// There is no whole answer within its bounds.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, ServiceError> {
        let (most, patience) = (call.most, self.timeout.saturating_add(call.patience));
        let request = self.request(call)?;
        let connecting = timeout(self.timeout, self.tcp());
        let stream = connecting.await.map_err(|_| ServiceError::ConnectTimeout(self.timeout))??;
        let exchange = async {
            match &self.tls {
                None => self.exchange(stream, request, most, patience).await,
                Some(terms) => {
                    let securing = timeout(self.timeout, self.secure(terms, stream));
                    let stream = securing.await.map_err(|_| ServiceError::ConnectTimeout(self.timeout))??;
                    self.exchange(stream, request, most, patience).await
                }
            }
        };
        let whole = WHOLE.saturating_add(patience);
        timeout(whole, exchange).await.map_err(|_| ServiceError::Slow(whole))?
    }

    fn request(&self, call: Call<'_>) -> Result<Request<Full<Bytes>>, ServiceError> {
        let target = format!("{}/{}", self.path, call.path.trim_start_matches('/'));
        let mut request = Request::new(Full::new(call.body));
        *request.method_mut() = call.method;
        *request.uri_mut() = target.parse().map_err(|_| ServiceError::Path(call.path.to_owned()))?;
        let headers = request.headers_mut();
        *headers = call.headers;
        let authority = HeaderValue::try_from(&self.authority).map_err(|_| ServiceError::Path(self.authority.clone()))?;
        let usual: [(HeaderName, HeaderValue); 3] = [
            (HOST, authority),
            (USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")))),
            (CONNECTION, HeaderValue::from_static("close")),
        ];
        headers.extend(usual);
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.read()?)).map_err(|_| ServiceError::TokenForm)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn tcp(&self) -> Result<TcpStream, ServiceError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(ServiceError::Resolve)?;
        let mut last = None;
        for address in found {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(ServiceError::Connect(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
    }

    async fn secure(&self, terms: &Terms, stream: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ServiceError> {
        let presents = terms.presents.then(|| Arc::clone(&self.holder));
        let mut config = match &terms.trust {
            Trust::System => tls::web_client_config(&tls::system_authorities()?, presents)?,
            Trust::Authorities(file) => tls::web_client_config(&tls::authorities(file)?, presents)?,
            Trust::SpiffeIds(ids) => tls::client_config(Arc::clone(&self.holder), Some(ids.clone()))?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let handshake = TlsConnector::from(Arc::new(config)).connect(terms.server_name.clone(), stream);
        handshake.await.map_err(|error| match PeerError::of(&error) {
            Some(refusal) => ServiceError::Identity(refusal.to_string()),
            None if tls::doubts_peer(&error) => ServiceError::Identity(error.to_string()),
            None => ServiceError::Connect(error),
        })
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
        most: Size,
        patience: Duration,
    ) -> Result<Answer, ServiceError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ServiceError::Broken)?;
        // How a connection ends is told by its only request.
        let _carried = Carried(tokio::spawn(async move { drop(connection.await) }));
        let answering = timeout(patience, sender.send_request(request));
        let answer = answering.await.map_err(|_| ServiceError::Timeout(patience))?.map_err(ServiceError::Broken)?;
        let (head, body) = answer.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: self.whole(body, most).await? })
    }

    /// A body within its bounds; what is announced as larger is not waited for.
    async fn whole(&self, mut body: Incoming, most: Size) -> Result<Bytes, ServiceError> {
        if body.size_hint().lower() > most.0 {
            return Err(ServiceError::Large(most));
        }
        let mut held = BytesMut::new();
        while let Some(frame) = timeout(self.timeout, body.frame()).await.map_err(|_| ServiceError::Stalled)? {
            let Ok(data) = frame.map_err(ServiceError::Broken)?.into_data() else { continue };
            if (held.len() as u64).saturating_add(data.len() as u64) > most.0 {
                return Err(ServiceError::Large(most));
            }
            held.extend_from_slice(&data);
        }
        Ok(held.freeze())
    }
}
