//! One way of a tunnel: from where bytes come to where they go.
//!
//! In: a source and a target; out: the bytes, through one buffer that is read into again only when all in it has been written. Where
//! they are frames, what begins behind a fault stays here, and so does a header that is not whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::exchange::Cut;
use crate::proxy::websocket::frame::{self, Fault, Frames};

/// Read at a time.
const CHUNK: usize = 16 * 1024;

/// Who broke a way off.
#[derive(Debug)]
pub(super) enum Broken {
    Source,
    Target,
    Fault(Fault),
}

/// See the module.
pub(super) struct Way {
    buffer: Vec<u8>,
    filled: usize,
    /// How far it may be written.
    passed: usize,
    written: usize,
    frames: Option<Frames>,
    /// Payload that stands at the start of the buffer and belongs to a frame whose header has gone.
    left: u64,
    early: bool,
    unflushed: bool,
    end: bool,
    shut: bool,
}

impl Way {
    /// A way whose first bytes came before it was opened.
    pub(super) fn new(early: &[u8], frames: Option<Frames>) -> Self {
        let mut buffer = early.to_vec();
        buffer.resize(early.len().max(CHUNK), 0);
        Self {
            buffer,
            filled: early.len(),
            passed: 0,
            written: 0,
            frames,
            left: 0,
            early: !early.is_empty(),
            unflushed: false,
            end: false,
            shut: false,
        }
    }

    /// Moves bytes until there are none, the target takes no more, or the exchange is cut; ready when the source has ended and the
    /// target has been told.
    pub(super) fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        source: &mut R,
        target: &mut W,
        cut: &Cut,
        count: impl Fn(usize),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if std::mem::take(&mut self.early) {
            count(self.filled);
            self.follow(cut)?;
        }
        loop {
            if cut.cause().is_some() {
                return Poll::Pending;
            }
            if self.written < self.passed {
                ready!(self.poll_write(target, cx)).map_err(|_| Broken::Target)?;
                continue;
            }
            // What was held back because a fault or another Close stood before it.
            if self.follow(cut)? {
                continue;
            }
            if self.end {
                if !self.shut {
                    ready!(Pin::new(&mut *target).poll_shutdown(cx)).map_err(|_| Broken::Target)?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            match self.poll_read(source, cx) {
                Poll::Ready(Ok(came)) => {
                    count(came);
                    self.end = came == 0;
                    self.follow(cut)?;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Source)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *target).poll_flush(cx)).map_err(|_| Broken::Target)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads on, and lets nothing pass, until a Close or the end has come.
    pub(super) fn poll_close<R: AsyncRead + Unpin>(&mut self, source: &mut R, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // One whose frames cannot be followed is listened to until it ends.
            let broken = self.frames.as_mut().is_some_and(|frames| {
                let unseen = self.buffer.get(self.passed..self.filled).unwrap_or_default();
                frames.follow(unseen).map(|passed| self.passed += passed).is_err()
            });
            if broken {
                self.frames = None;
            }
            if self.closed() || self.end {
                return Poll::Ready(());
            }
            self.written = if self.frames.is_some() { self.passed } else { self.filled };
            match ready!(self.poll_read(source, cx)) {
                Ok(came) => self.end = came == 0,
                Err(_) => self.end = true,
            }
        }
    }

    /// The bytes that end the frame the target is in the middle of, none where it is in none; `None` where they have not all come.
    pub(super) fn rest_of_frame(&self) -> Option<&[u8]> {
        let whole = self.buffer.get(..self.passed)?;
        whole.get(self.written..frame::boundary(whole, self.left, self.written)?)
    }

    /// Whether a Close has gone this way.
    pub(super) const fn closed(&self) -> bool {
        if let Some(frames) = &self.frames { frames.closed() } else { false }
    }

    /// Whether the source has ended.
    pub(super) const fn at_end(&self) -> bool {
        self.end
    }

    /// Lets pass what may, and says whether there is any. What was read when the exchange was cut may not.
    fn follow(&mut self, cut: &Cut) -> Result<bool, Broken> {
        if cut.cause().is_some() {
            return Ok(false);
        }
        let unseen = self.buffer.get(self.passed..self.filled).unwrap_or_default();
        let passed = match &mut self.frames {
            None => unseen.len(),
            Some(frames) => frames.follow(unseen).map_err(Broken::Fault)?,
        };
        self.passed += passed;
        Ok(passed > 0)
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, target: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let bytes = self.buffer.get(self.written..self.passed).unwrap_or_default();
        let written = ready!(Pin::new(target).poll_write(cx, bytes))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.written += written;
        self.unflushed = true;
        Poll::Ready(Ok(()))
    }

    /// Reads behind what is held back, which moves to the front: everything before it has been written.
    fn poll_read<R: AsyncRead + Unpin>(&mut self, source: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.written > 0 {
            self.buffer.copy_within(self.written..self.filled, 0);
            self.filled -= self.written;
            self.passed = self.passed.saturating_sub(self.written);
            self.written = 0;
            self.left = self.frames.as_ref().map_or(0, Frames::left);
        }
        if self.closed() {
            // Nothing goes on behind a Close; it is read so that the end is seen.
            self.filled = 0;
        }
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(source).poll_read(cx, &mut room))?;
        let came = room.filled().len();
        self.filled += came;
        Poll::Ready(Ok(came))
    }
}
