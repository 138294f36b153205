//! A TCP stream that asks before each write whether it may, and goes down with a reset when it may not.
//!
//! In: a stream and a gate. Out: the same stream, with the promise that once the gate is shut no byte more is handed to the kernel,
//! and that dropping it discards what the kernel had not sent yet (SO_LINGER 0, RFC 9293 section 3.10.5). The gate is a closure and
//! not a flag, because which exchange a connection carries changes with every request.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// True while nothing may be written any more.
#[derive(Clone)]
pub struct Gate(Rc<dyn Fn() -> bool>);

impl Gate {
    pub fn new(shut: impl Fn() -> bool + 'static) -> Self {
        Self(Rc::new(shut))
    }

    /// A gate that never shuts.
    pub fn open() -> Self {
        Self::new(|| false)
    }

    fn is_shut(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.is_shut()).finish()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    gate: Gate,
}

impl Socket {
    pub fn new(stream: TcpStream, gate: Gate) -> Self {
        // Without it small responses wait for the peer's delayed acknowledgement. Failing to set it costs time, nothing else.
        let _ = stream.set_nodelay(true);
        Self { stream, gate }
    }

    fn refuse(&self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, "cut")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.gate.is_shut() {
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gate.is_shut() {
            return Poll::Ready(Err(self.refuse()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.gate.is_shut() {
            return Poll::Ready(Err(self.refuse()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_shut_gate_lets_no_byte_through_and_ends_in_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let shut = Rc::new(Cell::new(false));
        let gate = Gate::new({
            let shut = Rc::clone(&shut);
            move || shut.get()
        });
        let mut socket = Socket::new(listener.accept().await.unwrap().0, gate);
        socket.write_all(b"before").await.unwrap();
        let mut read = [0; 6];
        client.read_exact(&mut read).await.unwrap();
        shut.set(true);
        assert_eq!(socket.write_all(b"after").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(socket);
        let end = client.read(&mut read).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
