//! The strict reader between TLS and hyper.
//!
//! In: the peer's bytes; out: the same bytes, or for a head that is not strict none of them and a [`Rejection`], which the listener
//! answers and records. hyper alone will not do: it drops Content-Length beside Transfer-Encoding, collapses equal lengths, cuts `#`,
//! takes bare LF, and answers the rest by itself without a record. What must stay true: hyper never sees a byte of a refused head, and
//! after a refusal no further byte is read. On HTTP/2 frames are only counted; what is written is gathered into full TLS records.
//!
//! Bytes are read into hyper's own buffer and judged there, so the usual request is not copied here at all.

mod chunked;
mod field;
mod frames;
mod framing;
mod head;
mod held;
mod monitor;
mod octets;
mod outbox;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::frames::Frames;
use self::framing::{Fault, Follower};
use self::held::Held;
pub use self::monitor::Monitor;
use self::monitor::Progress;
use self::outbox::{Outbox, Sink};
use crate::decision::Refusal;

/// How much is read at a time while what comes may be more than body.
const READ_AHEAD: usize = 16 * 1024;
/// How much of a refused method or target is kept for the record.
const RECORDED: usize = 256;

/// What a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one head, of one trailer section, and of one HTTP/2 header block as compressed.
    pub header_bytes: usize,
    /// Fields of one head or trailer section.
    pub headers: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
    /// HTTP/2 frames a second that carry nothing for a request.
    pub control_frames: u32,
    /// HTTP/2 streams a second the peer may reset.
    pub resets: u32,
    /// CONNECT may ask for a tunnel; what follows it is no request.
    pub connect: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 64 * 1024, headers: 100, target_bytes: 8 * 1024, control_frames: 1000, resets: 200, connect: false }
    }
}

/// A head that was refused before hyper saw it, or an HTTP/2 connection that floods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub refusal: Refusal,
    /// Bytes of this head that were read; on HTTP/2 of the whole connection.
    pub bytes_read: u64,
    /// As far as it could be read, escaped and cut, for the record only.
    pub method: Option<String>,
    /// As far as it could be read, escaped and cut, for the record only.
    pub target: Option<String>,
}

/// A body broke its framing; hyper's body error has this at the end of its sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body breaks its framing ({0}); the connection cannot be used any further")]
pub struct BodyRefused(pub Refusal);

/// A connection whose peer's bytes are checked before hyper sees them.
pub struct Wire<IO> {
    io: IO,
    protocol: Protocol,
    monitor: Monitor,
    stopped: Option<Stopped>,
}

enum Protocol {
    Http1 { follower: Follower, held: Held },
    Http2 { frames: Frames, outbox: Outbox },
}

/// Why nothing is read any more.
#[derive(Clone, Copy)]
enum Stopped {
    Rejected,
    Body(Refusal),
}

impl<IO> Wire<IO> {
    /// Puts a strict HTTP/1.1 reader on a connection.
    pub fn http1(io: IO, limits: Limits) -> (Self, Monitor) {
        let protocol = Protocol::Http1 { follower: Follower::new(limits), held: Held::default() };
        Self::new(io, protocol, Monitor::new(false, Instant::now()))
    }

    /// Puts a frame counter and a gathering writer on an HTTP/2 connection.
    pub fn http2(io: IO, limits: Limits) -> (Self, Monitor) {
        let now = Instant::now();
        let protocol = Protocol::Http2 { frames: Frames::new(&limits, now), outbox: Outbox::default() };
        Self::new(io, protocol, Monitor::new(true, now))
    }

    fn new(io: IO, protocol: Protocol, monitor: Monitor) -> (Self, Monitor) {
        (Self { io, protocol, monitor: monitor.clone(), stopped: None }, monitor)
    }

    /// The connection below; on HTTP/2 shut down or flush first, or gathered bytes are lost.
    pub fn into_inner(self) -> IO {
        self.io
    }

    /// The connection below, and what of an HTTP/1.1 peer's was read and not given to hyper, when what follows is no HTTP any more.
    pub fn into_upgraded(self) -> (IO, Bytes) {
        let held = match self.protocol {
            Protocol::Http1 { held, .. } => held.into_rest(),
            Protocol::Http2 { .. } => Bytes::new(),
        };
        (self.io, held)
    }

    pub const fn io(&self) -> &IO {
        &self.io
    }

    pub const fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, protocol, monitor, stopped } = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match protocol {
            Protocol::Http1 { follower, held } => poll_read_http1(io, follower, held, monitor, stopped, cx, buffer),
            Protocol::Http2 { frames, outbox } => {
                // A peer that does not read must not keep us from reading: it may be about to reset what it does not want.
                if let Poll::Ready(Err(error)) = poll_outbox(io, frames, monitor, |sink| outbox.poll_put_off(sink, cx)) {
                    return Poll::Ready(Err(error));
                }
                poll_read_http2(io, frames, monitor, stopped, cx, buffer)
            }
        }
    }
}

/// Reads into `buffer`, checks what came where it lies, and takes back out of it what may not go on yet.
fn poll_read_http1<IO: AsyncRead + Unpin>(
    io: &mut IO,
    follower: &mut Follower,
    held: &mut Held,
    monitor: &Monitor,
    stopped: &mut Option<Stopped>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        if held.give(buffer) {
            return Poll::Ready(Ok(()));
        }
        match *stopped {
            Some(Stopped::Rejected) => return Poll::Pending,
            Some(Stopped::Body(refusal)) => return Poll::Ready(Err(body_refused(refusal))),
            None if follower.closed() && !held.unchecked().is_empty() => return Poll::Pending,
            None => {}
        }
        // A message that ended here left the next one's bytes behind.
        if !held.unchecked().is_empty() {
            let passed = follow(follower, held.unchecked(), monitor, stopped);
            held.pass(passed);
            if passed > 0 || stopped.is_some() {
                continue;
            }
        }
        let before = buffer.filled().len();
        ready!(poll_fill(io, follower.certain(), cx, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        if came.is_empty() {
            return Poll::Ready(Ok(()));
        }
        monitor.received(came.len());
        if held.unchecked().is_empty() {
            let passed = follow(follower, came, monitor, stopped);
            held.append(came.get(passed..).unwrap_or_default());
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        } else {
            held.append(came);
            buffer.set_filled(before);
        }
    }
}

/// Reads without limit while only body can come, else little enough that what must be held stays small.
fn poll_fill<IO: AsyncRead + Unpin>(
    io: &mut IO,
    certain: u64,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let most = usize::try_from(certain).unwrap_or(usize::MAX).max(READ_AHEAD);
    if buffer.remaining() <= most {
        return Pin::new(io).poll_read(cx, buffer);
    }
    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
    ready!(Pin::new(io).poll_read(cx, &mut part))?;
    let came = part.filled().len();
    buffer.advance(came);
    Poll::Ready(Ok(()))
}

/// How many of `bytes` may go on; a fault is told to whom it concerns.
fn follow(follower: &mut Follower, bytes: &[u8], monitor: &Monitor, stopped: &mut Option<Stopped>) -> usize {
    let fault = match follower.follow(bytes) {
        Ok(passed) => {
            monitor.progress(&Progress { heads: follower.heads(), in_body: follower.in_body(), in_head: follower.in_head() });
            return passed;
        }
        Err(fault) => fault,
    };
    match fault {
        Fault::Head(refusal) => {
            *stopped = Some(Stopped::Rejected);
            let (method, target) = first_words(bytes);
            monitor.reject(Rejection { refusal, bytes_read: bytes.len() as u64, method, target });
        }
        Fault::Body(refusal) => {
            *stopped = Some(Stopped::Body(refusal));
            monitor.refuse_body(refusal);
        }
    }
    0
}

/// The method and the target of a head that may be anything.
fn first_words(head: &[u8]) -> (Option<String>, Option<String>) {
    let line = head.split(|octet| matches!(octet, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words =
        line.splitn(3, |octet| *octet == b' ').filter(|word| !word.is_empty()).map(|word| octets::escaped(word, RECORDED));
    (words.next(), words.next())
}

fn body_refused(refusal: Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, BodyRefused(refusal))
}

fn poll_read_http2<IO: AsyncRead + Unpin>(
    io: &mut IO,
    frames: &mut Frames,
    monitor: &Monitor,
    stopped: &mut Option<Stopped>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if stopped.is_some() {
        return Poll::Pending;
    }
    let before = buffer.filled().len();
    ready!(Pin::new(io).poll_read(cx, buffer))?;
    let came = buffer.filled().get(before..).unwrap_or_default();
    if came.is_empty() {
        return Poll::Ready(Ok(()));
    }
    monitor.received(came.len());
    if let Err(refusal) = frames.follow(Instant::now(), came) {
        buffer.set_filled(before);
        *stopped = Some(Stopped::Rejected);
        monitor.reject(Rejection { refusal, bytes_read: monitor.bytes_in(), method: None, target: None });
        return Poll::Pending;
    }
    monitor.progress(&Progress { heads: frames.heads(), in_body: false, in_head: frames.in_head() });
    Poll::Ready(Ok(()))
}

/// Lets the outbox write, and counts what it wrote.
fn poll_outbox<IO: AsyncWrite + Unpin, T>(
    io: &mut IO,
    frames: &mut Frames,
    monitor: &Monitor,
    write: impl FnOnce(&mut Sink<'_, IO>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    let mut sink = Sink::new(io);
    let outcome = write(&mut sink);
    monitor.sent(sink.sent());
    frames.wrote(sink.sent() as u64);
    monitor.set_blocked(outcome.is_pending());
    outcome
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { io, protocol, monitor, .. } = self.get_mut();
        match protocol {
            Protocol::Http1 { .. } => Pin::new(io).poll_write(cx, bytes).map_ok(|sent| {
                monitor.sent(sent);
                sent
            }),
            Protocol::Http2 { frames, outbox } => {
                poll_outbox(io, frames, monitor, |sink| outbox.poll_write(sink, cx, &[IoSlice::new(bytes)]))
            }
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self { io, protocol, monitor, .. } = self.get_mut();
        match protocol {
            Protocol::Http1 { .. } => Pin::new(io).poll_write_vectored(cx, slices).map_ok(|sent| {
                monitor.sent(sent);
                sent
            }),
            Protocol::Http2 { frames, outbox } => poll_outbox(io, frames, monitor, |sink| outbox.poll_write(sink, cx, slices)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.protocol {
            Protocol::Http1 { .. } => self.io.is_write_vectored(),
            Protocol::Http2 { .. } => true,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, protocol, monitor, .. } = self.get_mut();
        match protocol {
            Protocol::Http1 { .. } => {
                ready!(Pin::new(io).poll_flush(cx))?;
                monitor.flushed();
                Poll::Ready(Ok(()))
            }
            Protocol::Http2 { frames, outbox } => poll_outbox(io, frames, monitor, |sink| outbox.poll_flush(sink, cx)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, protocol, monitor, .. } = self.get_mut();
        if let Protocol::Http2 { frames, outbox } = protocol {
            ready!(poll_outbox(io, frames, monitor, |sink| outbox.poll_send(sink, cx)))?;
        }
        Pin::new(io).poll_shutdown(cx)
    }
}
