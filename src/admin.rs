//! Probes and metrics on plain TCP: `/livez`, `/readyz`, `/metrics`; nothing that changes anything.
//!
//! In: GET and HEAD, from anybody who reaches the port. Out: short plain text. What must stay true: nothing here costs more than a
//! scrape, and idle callers cannot keep a probe out: when all places are taken the longest open connection goes. One request a
//! connection, so that a place is held for moments.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// From the connection to a whole head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole connection.
const DEADLINE: Duration = Duration::from_secs(30);

/// `admin`: the plain port for probes and Prometheus.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub address: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9901)) }
    }
}

/// What the port tells, asked anew for every request.
#[derive(Clone)]
pub struct Probes {
    /// Why the gate takes no traffic, if it does not.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The text of a scrape and its content type.
    pub metrics: Arc<dyn Fn() -> (String, String) + Send + Sync>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
}

/// Serves probes and metrics until told to stop.
pub async fn serve(listener: std::net::TcpListener, probes: Probes, mut stop: watch::Receiver<bool>) {
    let listener = match listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin port cannot be served"),
    };
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            biased;
            // Also when nobody is left who could say so.
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= CONNECTIONS
                    && let Some(longest) = open.pop_front()
                {
                    longest.abort();
                }
                open.push_back(tokio::spawn(connection(stream, probes.clone())));
            }
            Err(error) => {
                // Out of descriptors, most likely: without a pause this loop would take a core for itself.
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    open.iter().for_each(JoinHandle::abort);
}

async fn connection(stream: TcpStream, probes: Probes) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let response = answer(request.method(), request.uri().path(), &probes);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(DEADLINE, served).await;
}

fn answer(method: &Method, path: &str, probes: &Probes) -> Response<Full<Bytes>> {
    let known = matches!(path, "/livez" | "/readyz" | "/metrics");
    if known && !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => text(StatusCode::OK, "live\n"),
        "/readyz" => match (probes.ready)() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        "/metrics" => {
            let (metrics, kind) = (probes.metrics)();
            let mut response = text(StatusCode::OK, metrics);
            if let Ok(kind) = HeaderValue::try_from(kind) {
                response.headers_mut().insert(CONTENT_TYPE, kind);
            }
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    const HEADERS: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().extend(HEADERS);
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Port {
        address: SocketAddr,
        ready: Arc<AtomicBool>,
        stop: watch::Sender<bool>,
        serving: JoinHandle<()>,
    }

    fn port() -> Port {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ready = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = watch::channel(false);
        let asked = Arc::clone(&ready);
        let probes = Probes {
            ready: Arc::new(move || if asked.load(Ordering::SeqCst) { Ok(()) } else { Err("no policy".to_owned()) }),
            metrics: Arc::new(|| ("portcullis_build_info 1\n".to_owned(), "text/plain; version=0.0.4".to_owned())),
        };
        Port { address, ready, stop, serving: tokio::spawn(serve(listener, probes, stopped)) }
    }

    async fn ask(port: &Port, line: &str) -> String {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(format!("{line} HTTP/1.1\r\nHost: gate\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_are_told_and_nothing_else_is_there() {
        let port = port();
        for (line, status, says) in [
            ("GET /livez", "200", "live"),
            ("GET /readyz?verbose", "200", "ready"),
            ("GET /metrics", "200", "portcullis_build_info 1"),
            ("POST /metrics", "405", "allow: GET, HEAD"),
            ("GET /", "404", "/livez"),
            ("GET /v1/status", "404", "/livez"),
            ("POST /v1/kills", "404", "/livez"),
            ("GET /metrics/../livez", "404", "/livez"),
        ] {
            let answer = ask(&port, line).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
            assert!(answer.contains(says), "{line}: {answer}");
            assert!(answer.contains("x-content-type-options: nosniff"), "{line}: {answer}");
        }
        let metrics = ask(&port, "GET /metrics").await;
        assert!(metrics.contains("content-type: text/plain; version=0.0.4\r\n"), "{metrics}");
        let head = ask(&port, "HEAD /livez").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn readiness_is_asked_anew_and_says_why_not() {
        let port = port();
        port.ready.store(false, Ordering::SeqCst);
        let answer = ask(&port, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("not ready: no policy"), "{answer}");
        assert!(ask(&port, "GET /livez").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn callers_who_say_nothing_do_not_keep_a_probe_out() {
        let port = port();
        let mut silent = Vec::new();
        for _ in 0..=CONNECTIONS {
            silent.push(TcpStream::connect(port.address).await.unwrap());
        }
        assert!(ask(&port, "GET /livez").await.starts_with("HTTP/1.1 200 "));
        let mut nothing = [0; 1];
        // The first to come is the first to go, long before its own time is over.
        let first = tokio::time::timeout(HEADER_TIMEOUT / 2, silent[0].read(&mut nothing)).await;
        assert!(!matches!(first.expect("the first was let go"), Ok(1)));
    }

    #[tokio::test]
    async fn a_stopped_port_takes_nobody() {
        let port = port();
        port.stop.send(true).unwrap();
        port.serving.await.unwrap();
        assert!(TcpStream::connect(port.address).await.is_err());
    }
}
