//! A connection to an upstream as bytes: TCP, and TLS on it where the upstream is https.
//!
//! In: where to, whom to expect there, and a gate. Out: a [`Stream`] that writes nothing once its gate is shut, or why there is none.
//! What must stay true: our SVID and the bundles are those of this moment, read at each handshake; and the gate stands below TLS, so
//! that what TLS has encrypted and not sent is discarded with it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::{Expected, Proof, Speaks, Upstream};
use super::error::UpstreamError;
use super::resolve::Resolver;
use crate::socket::{Gate, Socket};
use crate::tls::{self, Holder};

/// See the module.
#[derive(Debug)]
pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// Makes connections: knows names, and who we are.
#[derive(Debug)]
pub(super) struct Connector {
    holder: Arc<Holder>,
    names: Resolver,
}

/// Until when what a handshake proved may carry new requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proven {
    /// Of our SVID and the bundles.
    revision: u64,
    /// When the peer's certificate ends, in Unix seconds.
    not_after: u64,
}

impl Connector {
    pub(super) fn new(holder: Arc<Holder>) -> Self {
        Self { holder, names: Resolver::default() }
    }

    /// Connects to one of the upstream's addresses and, where it is https, proves both ends to each other.
    pub(super) async fn connect(&self, upstream: &Upstream, speaks: Speaks, gate: Gate) -> Result<Stream, UpstreamError> {
        let way = &upstream.way;
        let connecting = async {
            let addresses = match &way.pinned {
                Some(pinned) => pinned.to_vec(),
                None => self.addresses(&way.host, way.port).await?,
            };
            self.secure(Socket::new(any_of(&addresses).await?, gate), way.tls.as_ref(), speaks).await
        };
        timeout(upstream.connect_timeout, connecting).await.map_err(|_| UpstreamError::ConnectTimeout)?
    }

    pub(super) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UpstreamError> {
        self.names.addresses(host, port).await.map_err(UpstreamError::Resolve)
    }

    /// Connects to an address somebody else has resolved.
    pub(super) async fn connect_to(
        &self,
        address: SocketAddr,
        expected: Option<&Expected>,
        within: Duration,
        gate: Gate,
    ) -> Result<Stream, UpstreamError> {
        let connecting = async { self.secure(Socket::new(any_of(&[address]).await?, gate), expected, Speaks::Http1).await };
        timeout(within, connecting).await.map_err(|_| UpstreamError::ConnectTimeout)?
    }

    async fn secure(&self, socket: Socket, expected: Option<&Expected>, speaks: Speaks) -> Result<Stream, UpstreamError> {
        let Some(expected) = expected else { return Ok(Stream::Plain(socket)) };
        let config = match &expected.proof {
            Proof::SpiffeIds(ids) => tls::client_config(Arc::clone(&self.holder), Some(ids.clone())),
            Proof::Authorities(file) => {
                let authorities = tls::authorities(file).map_err(|error| UpstreamError::Connect(io::Error::other(error)))?;
                tls::web_client_config(&authorities, None)
            }
        };
        let mut config = config.map_err(|error| UpstreamError::Connect(io::Error::other(error)))?;
        config.alpn_protocols = match speaks {
            Speaks::Http1 => vec![b"http/1.1".to_vec()],
            Speaks::Http2 => vec![b"h2".to_vec()],
            Speaks::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let connecting = TlsConnector::from(Arc::new(config)).connect(expected.server_name.clone(), socket);
        Ok(Stream::Tls(Box::new(connecting.await.map_err(UpstreamError::from_handshake)?)))
    }

    /// What the handshake of a connection proved; nothing where there was none.
    pub(super) fn proven(&self, stream: &Stream) -> Option<Proven> {
        let Stream::Tls(stream) = stream else { return None };
        let peer = tls::peer(stream.get_ref().1).ok().flatten();
        let not_after = peer.map_or(u64::MAX, |peer| peer.not_after);
        Some(Proven { revision: self.holder.current().revision(), not_after })
    }

    /// Whether what was proven once would still be proven now, as far as that can be told without a handshake.
    pub(super) fn still(&self, proven: Option<Proven>) -> bool {
        proven.is_none_or(|proven| {
            proven.revision == self.holder.current().revision() && UnixTime::now().as_secs() <= proven.not_after
        })
    }
}

async fn any_of(addresses: &[SocketAddr]) -> Result<TcpStream, UpstreamError> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(UpstreamError::Connect(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
}

impl Stream {
    /// What the handshake agreed on.
    pub(super) fn agreed_on_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
