//! The client: mTLS, HTTP/1.1 and HTTP/2, counts that are exact and errors that are never silent.
//!
//! In: where to go, as whom, how much. Out: one JSON object a line on stdout. A request counts only when its status is 200 and its
//! body has the length it must have; the first thing that went wrong is told in words.

pub mod abuse;
pub mod asks;
pub mod exchange;
pub mod handshakes;
pub mod hold;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{self, HOST};
use crate::upstream::ANSWER;

/// A GET with seven fields, as an SDK sends them.
pub const GET: &[u8] = b"GET /v1/users/7 HTTP/1.1\r\nhost: localhost\r\nuser-agent: bench/1.0\r\naccept: application/json\r\n\
    accept-encoding: gzip\r\naccept-language: en\r\ncache-control: no-cache\r\nx-request-id: 4bf92f3577b34da6a3ce929d0e0e4736\r\n\r\n";

/// Whom a client talks to, and as whom.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub folder: PathBuf,
}

impl Target {
    pub fn config(&self, agent: usize, http2: bool) -> Result<Arc<ClientConfig>> {
        let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        Ok(Arc::new(tls::client(&self.folder, &format!("a{agent:05}"), alpn)?))
    }

    pub async fn connect(&self, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(HOST)?, stream).await;
        let tls = tls.context("the TLS handshake")?;
        ensure!(tls.get_ref().1.alpn_protocol() == config.alpn_protocols.first().map(Vec::as_slice), "another protocol was chosen");
        Ok(tls)
    }
}

/// What is read of an HTTP/1.1 answer and not yet used.
pub struct Answers {
    buffer: Vec<u8>,
    held: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self { buffer: vec![0; 4096], held: 0 }
    }
}

impl Answers {
    /// Reads one plain answer to its end; true when the connection may be used again.
    pub async fn plain(&mut self, tls: &mut TlsStream<TcpStream>) -> Result<bool> {
        let end = self.head(tls).await?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "answered with: {}", head.lines().next().unwrap_or_default());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|value| value.trim().parse().ok()).context("an answer without a length")?;
        ensure!(length == ANSWER, "an answer of {length} bytes");
        while self.held < end + length {
            self.more(tls).await?;
        }
        ensure!(self.held == end + length, "bytes after the answer");
        self.held = 0;
        Ok(!head.contains("\nconnection: close"))
    }

    /// Reads until a head is whole; where it ends.
    pub async fn head(&mut self, tls: &mut TlsStream<TcpStream>) -> Result<usize> {
        loop {
            if let Some(end) = self.buffer[..self.held].windows(4).position(|four| four == b"\r\n\r\n") {
                return Ok(end + 4);
            }
            self.more(tls).await?;
        }
    }

    async fn more(&mut self, tls: &mut TlsStream<TcpStream>) -> Result<()> {
        ensure!(self.held < self.buffer.len(), "an answer of more than {} bytes", self.held);
        match tls.read(&mut self.buffer[self.held..]).await? {
            0 => bail!("the connection ended before the answer did"),
            read => self.held += read,
        }
        Ok(())
    }
}

/// One request and its answer on a connection of HTTP/1.1.
pub async fn ask(tls: &mut TlsStream<TcpStream>, answers: &mut Answers) -> Result<bool> {
    tls.write_all(GET).await?;
    answers.plain(tls).await
}

/// The same request for HTTP/2.
pub fn get(path: &str) -> Result<http::Request<()>> {
    Ok(http::Request::builder()
        .uri(format!("https://{HOST}{path}"))
        .header("user-agent", "bench/1.0")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip")
        .header("accept-language", "en")
        .header("cache-control", "no-cache")
        .header("x-request-id", "4bf92f3577b34da6a3ce929d0e0e4736")
        .body(())?)
}

/// One request and its answer on a connection of HTTP/2.
pub async fn ask_h2(sender: &mut h2::client::SendRequest<bytes::Bytes>, request: http::Request<()>) -> Result<()> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let (response, _) = sender.send_request(request, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "answered with: {}", response.status());
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    ensure!(length == ANSWER, "an answer of {length} bytes");
    Ok(())
}

/// A client of HTTP/2 on a new connection; its driver is spawned.
pub async fn connect_h2(target: &Target, config: &Arc<ClientConfig>) -> Result<h2::client::SendRequest<bytes::Bytes>> {
    let tls = target.connect(config).await?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .handshake(tls)
        .await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// What a load counts.
#[derive(Default)]
pub struct Tally {
    latencies: Vec<u32>,
    errors: u64,
    first_error: Option<String>,
    /// Only what ends between these counts.
    window: Option<(Instant, Instant)>,
}

impl Tally {
    fn over(&self, now: Instant) -> bool {
        self.window.is_some_and(|(_, end)| now >= end)
    }

    fn done(&mut self, began: Instant, now: Instant) {
        if self.window.is_some_and(|(start, end)| now >= start && now < end) {
            self.latencies.push(u32::try_from(now.duration_since(began).as_nanos() / 100).unwrap_or(u32::MAX));
        }
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }

    fn told(&mut self, seconds: f64) -> Value {
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let place = (self.latencies.len() as f64 * share) as usize;
            self.latencies.get(place).or(self.latencies.last()).map(|tenths| f64::from(*tenths) / 10.0)
        };
        json!({
            "event": "end", "done": self.latencies.len(), "errors": self.errors, "first_error": self.first_error,
            "seconds": seconds, "p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1.0),
        })
    }
}

/// One line for whoever started this process.
pub fn say(value: &Value) {
    println!("{value}");
}

/// Microseconds since the epoch: the one clock that processes share.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Warms up, opens the window, says so, and closes it again.
async fn window(tally: &std::cell::RefCell<Tally>, warm: Duration, length: Duration) {
    let start = Instant::now() + warm;
    tally.borrow_mut().window = Some((start, start + length));
    tokio::time::sleep_until(start.into()).await;
    say(&json!({"event": "begin"}));
    tokio::time::sleep_until((start + length).into()).await;
    let told = tally.borrow_mut().told(length.as_secs_f64());
    say(&told);
}
