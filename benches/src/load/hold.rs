//! Connections and streams that are opened and then held: idle ones, event streams, WebSockets, slow ones.
//!
//! In: how many of which, and orders on stdin: `mark` (count ticks from here), `report` (what became of each), or the end. Out: `ready`
//! once all are open, and the reports. What a stream's end looked like to its client is noted here, by the clock processes share.

use std::cell::{Cell, RefCell};
use std::io::BufRead as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;

use super::{Answers, Target, ask, ask_h2, connect_h2, get, now_us, say};

/// Handshakes at a time: more would only wait in the proxy's backlog.
const AT_ONCE: usize = 32;
/// What a slow client does, it does this often.
const DRIP: Duration = Duration::from_secs(2);

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1, after one request.
    Idle,
    /// HTTP/2, after one request.
    IdleH2,
    Events,
    /// An event stream each on so many streams of one HTTP/2 connection.
    EventsH2(usize),
    WebSocket,
    SlowHead,
    SlowBody,
    SlowReader,
}

impl Kind {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "idle" => Self::Idle,
            "idle-h2" => Self::IdleH2,
            "sse" => Self::Events,
            "ws" => Self::WebSocket,
            "slow-head" => Self::SlowHead,
            "slow-body" => Self::SlowBody,
            "slow-reader" => Self::SlowReader,
            _ => match text.strip_prefix("h2x") {
                Some(streams) => Self::EventsH2(streams.parse()?),
                None => bail!("there is no kind `{text}`"),
            },
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::IdleH2 => "idle-h2",
            Self::Events => "sse",
            Self::EventsH2(_) => "h2",
            Self::WebSocket => "ws",
            Self::SlowHead => "slow-head",
            Self::SlowBody => "slow-body",
            Self::SlowReader => "slow-reader",
        }
    }
}

/// So many of one kind, by one agent: `sse*100@1`.
pub fn parse(text: &str) -> Result<(Kind, usize, usize)> {
    let (kind, rest) = text.split_once('*').context("write KIND*COUNT@AGENT")?;
    let (count, agent) = rest.split_once('@').context("write KIND*COUNT@AGENT")?;
    Ok((Kind::parse(kind)?, count.parse()?, agent.parse()?))
}

/// One stream or connection that is held.
struct Held {
    kind: Kind,
    agent: usize,
    ticks: Cell<u64>,
    last_us: Cell<u64>,
    ended_us: Cell<u64>,
    how: RefCell<String>,
}

impl Held {
    fn ticked(&self) {
        self.ticks.set(self.ticks.get() + 1);
        self.last_us.set(now_us());
    }

    fn ended(&self, how: String) {
        self.ended_us.set(now_us());
        self.how.replace(how);
    }
}

struct Holding {
    target: Target,
    all: RefCell<Vec<Rc<Held>>>,
    turns: Rc<Semaphore>,
    failed: RefCell<Option<anyhow::Error>>,
}

pub async fn run(target: Target, wanted: Vec<(Kind, usize, usize)>) -> Result<()> {
    let holding =
        Rc::new(Holding { target, all: RefCell::default(), turns: Rc::new(Semaphore::new(AT_ONCE)), failed: RefCell::default() });
    let mut opening = tokio::task::JoinSet::new();
    for (kind, count, agent) in wanted {
        let http2 = matches!(kind, Kind::IdleH2 | Kind::EventsH2(_));
        let config = holding.target.config(agent, http2)?;
        for _ in 0..count {
            let turn = Rc::clone(&holding.turns);
            let (holding, config) = (Rc::clone(&holding), Arc::clone(&config));
            opening.spawn_local(async move {
                let turn = turn.acquire().await;
                let opened = holding.open(kind, agent, &config).await;
                drop(turn);
                if let Err(error) = opened {
                    holding.failed.borrow_mut().get_or_insert(error.context(format!("opening {}", kind.name())));
                }
            });
        }
    }
    while let Some(opened) = opening.join_next().await {
        opened?;
        if let Some(error) = holding.failed.borrow_mut().take() {
            return Err(error);
        }
    }
    say(&json!({"event": "ready", "held": holding.all.borrow().len()}));
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.trim() {
            "mark" => {
                holding.all.borrow().iter().for_each(|held| held.ticks.set(0));
                say(&json!({"event": "marked"}));
            }
            "report" => say(&holding.report()),
            _ => break,
        }
    }
    Ok(())
}

fn orders() -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

impl Holding {
    fn report(&self) -> Value {
        let rows: Vec<Value> = self
            .all
            .borrow()
            .iter()
            .map(|held| {
                json!([held.kind.name(), held.agent, held.ticks.get(), held.last_us.get(), held.ended_us.get(), *held.how.borrow()])
            })
            .collect();
        json!({"event": "report", "held": rows})
    }

    fn hold(&self, kind: Kind, agent: usize) -> Rc<Held> {
        let held = Rc::new(Held {
            kind,
            agent,
            ticks: Cell::new(0),
            last_us: Cell::new(0),
            ended_us: Cell::new(0),
            how: RefCell::default(),
        });
        self.all.borrow_mut().push(Rc::clone(&held));
        held
    }

    async fn open(&self, kind: Kind, agent: usize, config: &Arc<ClientConfig>) -> Result<()> {
        match kind {
            Kind::IdleH2 | Kind::EventsH2(_) => return self.open_h2(kind, agent, config).await,
            Kind::Idle | Kind::Events | Kind::WebSocket | Kind::SlowHead | Kind::SlowBody | Kind::SlowReader => {}
        }
        let mut tls = self.target.connect(config).await?;
        let mut answers = Answers::default();
        match kind {
            Kind::Events | Kind::WebSocket | Kind::SlowReader => {
                tls.write_all(head_of(kind)).await?;
                let end = answers.head(&mut tls).await?;
                let line =
                    String::from_utf8_lossy(&answers.buffer[..end.min(answers.held)]).lines().next().unwrap_or_default().to_owned();
                let wanted = if kind == Kind::WebSocket { "HTTP/1.1 101" } else { "HTTP/1.1 200" };
                ensure!(line.starts_with(wanted), "answered with: {line}");
            }
            Kind::SlowHead | Kind::SlowBody | Kind::Idle | Kind::IdleH2 | Kind::EventsH2(_) => {
                ask(&mut tls, &mut answers).await?;
            }
        }
        let held = self.hold(kind, agent);
        tokio::task::spawn_local(async move {
            let how = match kind {
                Kind::SlowHead | Kind::SlowBody => drip(&mut tls, kind).await,
                Kind::SlowReader => sip(&mut tls, &held).await,
                _ => listen(&mut tls, &held).await,
            };
            held.ended(how.map_or_else(|error| format!("{error:#}"), |()| "end".to_owned()));
        });
        Ok(())
    }

    async fn open_h2(&self, kind: Kind, agent: usize, config: &Arc<ClientConfig>) -> Result<()> {
        let mut sender = connect_h2(&self.target, config).await?;
        let Kind::EventsH2(streams) = kind else {
            ask_h2(&mut sender, get("/v1/users/7")?).await?;
            let held = self.hold(kind, agent);
            tokio::task::spawn_local(async move {
                // Never ready again once the connection has ended; without requests that is all there is to see.
                std::future::pending::<()>().await;
                drop((sender, held));
            });
            return Ok(());
        };
        for _ in 0..streams {
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
            let (response, _) = sender.send_request(get("/v1/reports/ticks")?, true)?;
            let response = response.await?;
            ensure!(response.status() == 200, "answered with: {}", response.status());
            let mut body = response.into_body();
            let held = self.hold(kind, agent);
            let sender = sender.clone();
            tokio::task::spawn_local(async move {
                let how = loop {
                    match body.data().await {
                        None => break "end".to_owned(),
                        Some(Err(error)) => break error.to_string(),
                        Some(Ok(data)) => {
                            held.ticked();
                            let _ = body.flow_control().release_capacity(data.len());
                        }
                    }
                };
                held.ended(how);
                drop(sender);
            });
        }
        Ok(())
    }
}

fn head_of(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::WebSocket => {
            b"GET /v1/reports/ws HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
              sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        }
        Kind::SlowReader => b"GET /v1/reports/big HTTP/1.1\r\nhost: localhost\r\n\r\n",
        _ => b"GET /v1/reports/ticks HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n",
    }
}

async fn listen(tls: &mut TlsStream<TcpStream>, held: &Held) -> Result<()> {
    let mut thrown = [0; 1024];
    while tls.read(&mut thrown).await? > 0 {
        held.ticked();
    }
    Ok(())
}

/// Sends a head or a body a byte at a time.
async fn drip(tls: &mut TlsStream<TcpStream>, kind: Kind) -> Result<()> {
    let start: &[u8] = match kind {
        Kind::SlowBody => {
            b"POST /v1/reports/7 HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 100000\r\n\r\n"
        }
        _ => b"GET /v1/users/7 HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
    };
    tls.write_all(start).await?;
    let mut thrown = [0; 1024];
    loop {
        tokio::select! {
            () = tokio::time::sleep(DRIP) => tls.write_all(b"x").await?,
            read = tls.read(&mut thrown) => {
                let read = read?;
                ensure!(read > 0, "closed");
                bail!("answered: {}", String::from_utf8_lossy(&thrown[..read]).lines().next().unwrap_or_default());
            }
        }
    }
}

/// Reads a little now and then.
async fn sip(tls: &mut TlsStream<TcpStream>, held: &Held) -> Result<()> {
    let mut thrown = [0; 1024];
    loop {
        tokio::time::sleep(DRIP).await;
        ensure!(tls.read(&mut thrown).await? > 0, "closed");
        held.ticked();
    }
}
