//! What h2 has written and the peer has not been sent: up to one TLS record of it.
//!
//! In: writes and flushes; out: fewer, larger writes. h2 flushes after each DATA frame it has not copied, so that holding bytes until
//! a flush would gather next to nothing. A flush that follows new bytes is therefore put off: the task is woken, and the next flush
//! without new bytes, or the next read (h2 reads first whenever it is polled), sends all. Nothing waits longer than until the task's
//! next turn, and no byte is lost or overtaken.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// The plaintext of one full TLS record (RFC 8446 section 5.1).
pub(super) const CAPACITY: usize = 16 * 1024;

/// Bytes on their way out.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Bytes came after the last flush.
    fresh: bool,
    put_off: bool,
}

impl Outbox {
    /// Takes as much of `slices` as there is room for, having sent what is held first when there is none.
    pub(super) fn poll_write<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= CAPACITY {
            ready!(self.poll_drain(io, cx))?;
        }
        if self.bytes.is_empty() && slices.iter().map(|slice| slice.len()).sum::<usize>() >= CAPACITY {
            return Pin::new(io).poll_write_vectored(cx, slices);
        }
        let mut taken = 0;
        for slice in slices {
            let room = CAPACITY - self.bytes.len();
            let part = slice.get(..room).unwrap_or(slice);
            self.bytes.extend_from_slice(part);
            taken += part.len();
        }
        self.fresh |= taken > 0;
        Poll::Ready(Ok(taken))
    }

    /// Puts a flush after new bytes off, and does any other.
    pub(super) fn poll_flush<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.fresh) {
            if !std::mem::replace(&mut self.put_off, true) {
                cx.waker().wake_by_ref();
            }
            return Poll::Ready(Ok(()));
        }
        self.poll_send(io, cx)
    }

    /// Does the flush that was put off, if one was.
    pub(super) fn poll_put_off<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.put_off { self.poll_send(io, cx) } else { Poll::Ready(Ok(())) }
    }

    /// Sends all that is held and flushes the connection below.
    pub(super) fn poll_send<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(io, cx))?;
        ready!(Pin::new(io).poll_flush(cx))?;
        self.put_off = false;
        Poll::Ready(Ok(()))
    }

    fn poll_drain<IO: AsyncWrite + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unsent @ [_, ..]) = self.bytes.get(self.sent..) {
            match ready!(Pin::new(&mut *io).poll_write(cx, unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.bytes.clear();
        self.sent = 0;
        self.fresh = false;
        Poll::Ready(Ok(()))
    }
}

/// Counts what really leaves, wherever the outbox writes it.
pub(super) struct Sink<'a, IO> {
    io: &'a mut IO,
    sent: usize,
}

impl<'a, IO> Sink<'a, IO> {
    pub(super) const fn new(io: &'a mut IO) -> Self {
        Self { io, sent: 0 }
    }

    /// Bytes the connection below has taken.
    pub(super) const fn sent(&self) -> usize {
        self.sent
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Sink<'_, IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut *self.io).poll_write(cx, bytes))?;
        self.sent += sent;
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut *self.io).poll_write_vectored(cx, slices))?;
        self.sent += sent;
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}
