//! The task of one HTTP/2 stream, and what follows when it leaves HTTP.
//!
//! In: the stream's future as hyper makes it. Out: the same, polled only while nothing cuts its exchange, and behind an answer that
//! opens a tunnel the tunnel, in the same task. hyper hands the sending half of such a stream to its executor as a future of its own;
//! spawned apart it would outlive a cut, and h2 keeps what it has queued for a stream until the last half is dropped.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::rt::Executor;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http1::TailGuard;
use crate::proxy::flow::Flow;
use crate::proxy::tunnel::Tunnel;

/// One stream, as its future and its task both see it.
pub(super) struct Stream {
    flow: Rc<Flow>,
    /// What hyper left behind that sends for a stream which is no HTTP any more.
    sending: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    tunnel: RefCell<Option<(Tunnel, OnUpgrade, TailGuard)>>,
}

impl Stream {
    pub(super) fn new(flow: Rc<Flow>) -> Rc<Self> {
        Rc::new(Self { flow, sending: RefCell::new(None), tunnel: RefCell::new(None) })
    }

    /// Lets a tunnel follow the answer.
    pub(super) fn open(&self, tunnel: Tunnel, client: OnUpgrade, tail: TailGuard) {
        self.tunnel.replace(Some((tunnel, client, tail)));
    }

    async fn carry<F: Future<Output = ()> + 'static>(self: Rc<Self>, streams: Streams, future: F) {
        let mut future = Box::pin(future);
        poll_fn(|cx| {
            if self.flow.poll_hard_cut(cx).is_ready() {
                return Poll::Ready(());
            }
            streams.polled.replace(Some(Rc::clone(&self)));
            let polled = future.as_mut().poll(cx);
            streams.polled.replace(None);
            polled
        })
        .await;
        // It holds the stream as well, and would keep a cut from resetting it.
        drop(future);
        if let Some((tunnel, client, _tail)) = self.tunnel.take() {
            self.carry_tunnel(tunnel, client).await;
        }
        if self.flow.exchange.cut.cause().is_some() || self.flow.is_stalled() {
            self.flow.empty();
        }
    }

    async fn carry_tunnel(&self, tunnel: Tunnel, client: OnUpgrade) {
        // Declared before what it sends for, and so dropped after it.
        let mut sending = self.sending.take();
        let reset = Rc::new(Cell::new(false));
        let sent = Rc::clone(&reset);
        let carried = async move {
            // An answer that could not be sent opens nothing; dropping the tunnel says so.
            if let Ok(client) = client.await {
                tunnel.carry(Half { io: TokioIo::new(client), reset, shut: false }, Bytes::new()).await;
            }
        };
        let mut carried = pin!(carried);
        poll_fn(|cx| {
            if self.flow.poll_hard_cut(cx).is_ready() {
                return Poll::Ready(());
            }
            if sending.as_mut().is_some_and(|sending| sending.as_mut().poll(cx).is_ready()) {
                // Whoever shuts the stream waits for this to be dropped.
                sending = None;
                sent.set(true);
            }
            carried.as_mut().poll(cx)
        })
        .await;
    }
}

/// Spawns the streams of one connection.
#[derive(Clone, Default)]
pub(super) struct Streams {
    /// The stream whose future comes next.
    next: Rc<RefCell<Option<Rc<Stream>>>>,
    /// The stream whose future is being polled.
    polled: Rc<RefCell<Option<Rc<Stream>>>>,
}

impl Streams {
    /// Names the stream whose future hyper hands over next; `None` for an answer that is no exchange.
    pub(super) fn expect(&self, stream: Option<Rc<Stream>>) {
        self.next.replace(stream);
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        if let Some(stream) = self.next.take() {
            tokio::task::spawn_local(stream.carry(self.clone(), future));
        } else if let Some(stream) = &*self.polled.borrow() {
            stream.sending.replace(Some(Box::pin(future)));
        } else {
            tokio::task::spawn_local(future);
        }
    }
}

/// The client's end of a tunnel on HTTP/2.
struct Half {
    io: TokioIo<Upgraded>,
    /// Nothing is sent any more: it was shut, or the client reset the stream. hyper reads a reset as a clean end.
    reset: Rc<Cell<bool>>,
    shut: bool,
}

impl AsyncRead for Half {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.reset.get() && !self.shut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Half {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
