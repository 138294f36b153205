//! WebSockets by hand, both ends of them: frames as bytes, so that they can be wrong, late, or cut short.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::harness::*;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame with its first byte as given; a client's are masked.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(bit | u8::try_from(short).unwrap()),
        long @ 126..=0xffff => {
            bytes.push(bit | 126);
            bytes.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
        longer => {
            bytes.push(bit | 127);
            bytes.extend((longer as u64).to_be_bytes());
        }
    }
    if masked {
        let mask = [0x11, 0x22, 0x33, 0x44];
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend(payload);
    }
    bytes
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Frame {
        first: u8,
        masked: bool,
        payload: Vec<u8>,
    },
    /// The connection or stream ended; `within` a frame, or between two.
    End {
        within: bool,
        reset: bool,
    },
}

impl Next {
    /// The code of a Close.
    pub fn code(&self) -> u16 {
        match self {
            Self::Frame { first: CLOSE, payload, .. } => u16::from_be_bytes([payload[0], payload[1]]),
            other => panic!("a Close was to come, not {other:?}"),
        }
    }

    pub fn payload(self) -> Vec<u8> {
        match self {
            Self::Frame { payload, .. } => payload,
            end @ Self::End { .. } => panic!("a frame was to come, not {end:?}"),
        }
    }
}

/// Takes a whole frame off the front.
fn take(bytes: &mut Vec<u8>) -> Option<Next> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()) as usize),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap()),
        short => (2, short as usize),
    };
    let masked = second & 0x80 != 0;
    let start = if masked { start + 4 } else { start };
    if bytes.len() < start + length {
        return None;
    }
    let mask: Vec<u8> = if masked { bytes[start - 4..start].to_vec() } else { vec![0] };
    let payload = bytes[start..start + length].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    bytes.drain(..start + length);
    Some(Next::Frame { first, masked, payload })
}

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A client whose WebSocket is open.
pub struct Caller {
    pub reader: Reader,
    pub writer: WriteHalf<Box<dyn Duplex>>,
    pub headers: http::HeaderMap,
    /// Another request on the same HTTP/2 connection.
    pub sibling: Option<h2::client::SendRequest<bytes::Bytes>>,
    /// Resets the HTTP/2 stream.
    pub abort: Option<tokio::sync::oneshot::Sender<()>>,
}

pub struct Reader {
    half: ReadHalf<Box<dyn Duplex>>,
    read: Vec<u8>,
    /// How its HTTP/2 stream was reset.
    pub reason: Arc<Mutex<Option<h2::Reason>>>,
}

impl Caller {
    pub async fn open(gate: &Gate, protocol: Speaks, path: &str) -> Self {
        Self::open_with(gate, protocol, path, &[]).await
    }

    /// Asks with more fields, and panics unless the WebSocket opens.
    pub async fn open_with(gate: &Gate, protocol: Speaks, path: &str, fields: &[(&str, &str)]) -> Self {
        match protocol {
            Speaks::Http1 => {
                let mut stream = gate.connect("agents/bad", b"http/1.1").await;
                let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                stream.write_all(&ask(path, &fields)).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(within("the answer", stream.read_u8()).await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
                let mut headers = http::HeaderMap::new();
                for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
                    headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
                }
                assert_eq!(headers["sec-websocket-accept"], ACCEPT);
                Self::over(Box::new(stream), headers, Arc::default())
            }
            Speaks::Http2 => open2(gate, path, fields).await,
        }
    }

    fn over(stream: Box<dyn Duplex>, headers: http::HeaderMap, reason: Arc<Mutex<Option<h2::Reason>>>) -> Self {
        let (half, writer) = tokio::io::split(stream);
        Self { reader: Reader { half, read: Vec::new(), reason }, writer, headers, sibling: None, abort: None }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within("what is sent to be taken", async {
            self.writer.write_all(bytes).await.unwrap();
            self.writer.flush().await.unwrap();
        })
        .await;
    }

    pub async fn say(&mut self, payload: &[u8]) {
        self.send(&frame(BINARY, payload, true)).await;
    }

    pub async fn next(&mut self) -> Next {
        self.reader.next().await
    }

    /// Answers a Close, and returns how the connection then ends.
    pub async fn close(&mut self, code: u16) -> Next {
        let _ = self.writer.write_all(&frame(CLOSE, &code.to_be_bytes(), true)).await;
        let _ = self.writer.flush().await;
        self.next().await
    }
}

impl Reader {
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(next) = take(&mut self.read) {
                assert!(!matches!(next, Next::Frame { masked: true, .. }), "a server's frames are not masked: {next:?}");
                return next;
            }
            let mut chunk = [0; 16 * 1024];
            let end = within("a frame", self.half.read(&mut chunk)).await;
            let reset = end.is_err() || self.reason.lock().unwrap().is_some();
            match end {
                Ok(0) | Err(_) => return Next::End { within: !self.read.is_empty(), reset },
                Ok(came) => self.read.extend_from_slice(&chunk[..came]),
            }
        }
    }
}

/// The head of a request for a WebSocket on HTTP/1.1.
pub fn ask(path: &str, fields: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: gate.test\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{fields}\r\n"
    )
    .into_bytes()
}

/// The same on HTTP/2.
pub fn ask2(path: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let mut request = http::Request::builder().method("CONNECT").uri(format!("https://gate.test{path}"));
    request = request.header("sec-websocket-version", "13").extension(h2::ext::Protocol::from_static("websocket"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

pub async fn connect2(gate: &Gate, path: &str) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = gate.connect(path, b"h2").await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let sender = within("the settings", sender.ready()).await.unwrap();
    until("the gate to say that it takes extended CONNECT", || sender.is_extended_connect_protocol_enabled()).await;
    sender
}

async fn open2(gate: &Gate, path: &str, fields: &[(&str, &str)]) -> Caller {
    let mut sender = connect2(gate, "agents/bad").await;
    let (answer, mut up) = sender.send_request(ask2(path, fields), false).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let (head, mut down) = answer.into_parts();
    // Small on purpose: a client that does not read is one whose stream has no window soon.
    let (near, far) = tokio::io::duplex(4096);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let reason = Arc::<Mutex<Option<h2::Reason>>>::default();
    let told = Arc::clone(&reason);
    tokio::spawn(async move {
        loop {
            match down.data().await {
                Some(Ok(bytes)) => {
                    if to_near.write_all(&bytes).await.is_err() {
                        return;
                    }
                    let _ = down.flow_control().release_capacity(bytes.len());
                }
                Some(Err(error)) => {
                    *told.lock().unwrap() = Some(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR));
                    return drop(to_near.shutdown().await);
                }
                None => return drop(to_near.shutdown().await),
            }
        }
    });
    let (abort, mut aborted) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut chunk = [0; 4096];
        loop {
            tokio::select! {
                came = from_near.read(&mut chunk) => match came {
                    Ok(0) | Err(_) => return drop(up.send_data(bytes::Bytes::new(), true)),
                    Ok(came) => {
                        up.reserve_capacity(came);
                        while up.capacity() < came {
                            match std::future::poll_fn(|cx| up.poll_capacity(cx)).await {
                                Some(Ok(_)) => {}
                                Some(Err(_)) | None => return,
                            }
                        }
                        if up.send_data(bytes::Bytes::copy_from_slice(&chunk[..came]), false).is_err() {
                            return;
                        }
                    }
                },
                Ok(()) = &mut aborted => return up.send_reset(h2::Reason::CANCEL),
            }
        }
    });
    let mut client = Caller::over(Box::new(near), head.headers, reason);
    (client.sibling, client.abort) = (Some(sender), Some(abort));
    client
}

/// What a key must be answered with.
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// An upstream whose WebSocket is open.
pub struct Server {
    pub stream: std::net::TcpStream,
    pub head: String,
    read: Vec<u8>,
}

impl Server {
    /// Reads a request and agrees.
    pub fn accept(stream: std::net::TcpStream) -> Option<Self> {
        Self::accept_with(stream, "")
    }

    pub fn accept_with(mut stream: std::net::TcpStream, fields: &str) -> Option<Self> {
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_nodelay(true).unwrap();
        let head = read_head(&mut stream)?;
        let key = field(&head, "sec-websocket-key")?;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {}\r\n{fields}\r\n",
            accept(&key)
        );
        stream.write_all(answer.as_bytes()).unwrap();
        Some(Self { stream, head, read: Vec::new() })
    }

    pub fn say(&mut self, payload: &[u8]) -> bool {
        self.stream.write_all(&frame(BINARY, payload, false)).is_ok()
    }

    pub fn next(&mut self) -> Next {
        loop {
            if let Some(next) = take(&mut self.read) {
                assert!(!matches!(next, Next::Frame { masked: false, .. }), "a client's frames are masked: {next:?}");
                return next;
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Next::End { within: !self.read.is_empty(), reset: false },
                Err(_) => return Next::End { within: !self.read.is_empty(), reset: true },
                Ok(came) => self.read.extend_from_slice(&chunk[..came]),
            }
        }
    }

    /// Answers a Close and waits for the end.
    pub fn close(mut self, code: u16) -> Next {
        let _ = self.stream.write_all(&frame(CLOSE, &code.to_be_bytes(), false));
        self.next()
    }

    /// Sends every frame back until a Close, which it answers.
    pub fn echo(mut self) {
        loop {
            match self.next() {
                Next::Frame { first: CLOSE, payload, .. } => {
                    let _ = self.stream.write_all(&frame(CLOSE, &payload, false));
                    return;
                }
                Next::Frame { first, payload, .. } => self.stream.write_all(&frame(first, &payload, false)).unwrap(),
                Next::End { .. } => return,
            }
        }
    }
}

pub fn field(head: &str, name: &str) -> Option<String> {
    let of = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
    head.lines().skip(1).find(of).map(|line| line.split_once(':').unwrap().1.trim().to_owned())
}

/// An upstream that serves each WebSocket on a thread of its own.
pub fn serving(serve: impl Fn(Server) + Send + Sync + 'static) -> SocketAddr {
    upstream(move |stream| {
        if let Some(server) = Server::accept(stream) {
            serve(server);
        }
    })
}

/// An upstream that hands out its ends.
pub fn handing_out() -> (SocketAddr, Arc<Mutex<std::sync::mpsc::Receiver<Server>>>) {
    let (give, take) = std::sync::mpsc::channel();
    let give = Mutex::new(give);
    let address = serving(move |server| drop(give.lock().unwrap().send(server)));
    (address, Arc::new(Mutex::new(take)))
}

/// The next end of an upstream that hands them out.
pub fn taken(ends: &Mutex<std::sync::mpsc::Receiver<Server>>) -> Server {
    ends.lock().unwrap().recv_timeout(HANG).unwrap()
}
