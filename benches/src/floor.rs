//! The floor: a bare hyper + rustls reverse proxy without policy, with the builder settings of the gate and its allocator.
//!
//! What it costs is what no gate on this stack can go below. It checks nothing, strips nothing and writes no record.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::tls;

/// Serves until it is killed.
pub async fn serve(listener: TcpListener, upstream: SocketAddr, folder: &Path) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(folder)?));
    let pool = Rc::new(Pool { upstream, idle: RefCell::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, pool) = (acceptor.clone(), Rc::clone(&pool));
        tokio::task::spawn_local(async move {
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| forward(Rc::clone(&pool), request));
            // How a connection ends is no news here.
            if http2 {
                let _ = hyper::server::conn::http2::Builder::new(Local)
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(100)
                    .initial_stream_window_size(64 * 1024)
                    .initial_connection_window_size(1024 * 1024)
                    .max_send_buf_size(64 * 1024)
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new()
                    .half_close(false)
                    .max_buf_size(64 * 1024)
                    .max_headers(100)
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            }
        });
    }
}

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(stream);
    }
}

struct Pool {
    upstream: SocketAddr,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
}

impl Pool {
    async fn connection(&self) -> Result<SendRequest<Incoming>> {
        loop {
            let Some(mut sender) = self.idle.borrow_mut().pop() else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

async fn forward(pool: Rc<Pool>, mut request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    if let Some(authority) = request.uri().authority().map(|authority| authority.as_str().to_owned()) {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        if let (Ok(host), Ok(uri)) = (authority.try_into(), path.parse()) {
            request.headers_mut().insert(header::HOST, host);
            *request.uri_mut() = uri;
        }
    }
    *request.version_mut() = http::Version::HTTP_11;
    let answered = async {
        let mut sender = pool.connection().await?;
        anyhow::Ok((sender.send_request(request).await?, sender))
    };
    Ok(match answered.await {
        Ok((mut response, sender)) => {
            *response.version_mut() = http::Version::HTTP_11;
            response.map(|body| Answer { body: Some(body), pool, sender: Some(sender) })
        }
        Err(_) => {
            let mut response = Response::new(Answer { body: None, pool, sender: None });
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}

/// The upstream's body; at its end the connection goes back.
struct Answer {
    body: Option<Incoming>,
    pool: Rc<Pool>,
    sender: Option<SendRequest<Incoming>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let next = Pin::new(&mut *body).poll_frame(cx);
        if body.is_end_stream() || matches!(next, Poll::Ready(None)) {
            let sender = self.sender.take();
            self.pool.idle.borrow_mut().extend(sender);
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
