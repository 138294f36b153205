//! What goes on, what is refused with which word, and that neither depends on how the bytes were cut into reads.

mod heads;
mod http2;
mod reading;
mod served;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::frames::Frames;
use super::framing::{Fault, Follower};
use super::{BodyRefused, Limits, Monitor, Wire};
use crate::decision::Refusal;

const LIMITS: Limits = Limits { header_bytes: 600, headers: 8, target_bytes: 100, control_frames: 20, resets: 5, connect: false };

/// Feeds `pieces` one after the other and returns what went on, and the fault.
fn follow(pieces: &[&[u8]]) -> (Vec<u8>, Option<Fault>) {
    follow_within(LIMITS, pieces)
}

fn follow_within(limits: Limits, pieces: &[&[u8]]) -> (Vec<u8>, Option<Fault>) {
    let mut follower = Follower::new(limits);
    let (mut released, mut held) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match follower.follow(&held) {
                Ok(0) => break,
                Ok(passed) => released.extend(held.drain(..passed)),
                Err(fault) => return (released, Some(fault)),
            }
        }
    }
    (released, None)
}

/// A connection that yields one piece a read, then ends, and keeps what is written, one entry a write.
#[derive(Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    written: Rc<RefCell<Vec<Vec<u8>>>>,
    /// Takes at most so many bytes a write, and every other write not at all.
    narrow: Option<usize>,
    stuck: bool,
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stuck = !self.stuck;
        if self.narrow.is_some() && self.stuck {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = bytes.len().min(self.narrow.unwrap_or(usize::MAX));
        self.written.borrow_mut().push(bytes[..length].to_vec());
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.poll_write(cx, &bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn scripted(pieces: &[&[u8]]) -> Script {
    Script { pieces: pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect(), ..Script::default() }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// One read with a buffer of `room` bytes; `None` when it is pending.
fn read(wire: &mut Wire<Script>, room: usize) -> Option<io::Result<Vec<u8>>> {
    let mut bytes = vec![0; room];
    let mut buffer = ReadBuf::new(&mut bytes);
    match Pin::new(wire).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
        Poll::Ready(outcome) => Some(outcome.map(|()| buffer.filled().to_vec())),
        Poll::Pending => None,
    }
}

fn rejected(monitor: &Monitor) -> Option<super::Rejection> {
    match monitor.poll_rejected(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(rejection) => Some(rejection),
        Poll::Pending => None,
    }
}

fn flush(wire: &mut Wire<Script>) {
    assert!(Pin::new(wire).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
}
