//! A WebSocket of the tour's client, over HTTP/1.1 (RFC 6455).
//!
//! In: a path. Out: the texts that come, and how the conversation ended: a Close with its code is another end than a connection that
//! was lost.

use futures_util::StreamExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Client, ClientError, End, within};

/// See the module.
pub struct WebSocket {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Client {
    /// Opens a WebSocket on a connection of its own.
    ///
    /// # Errors
    /// When the gate or the upstream does not agree to one.
    pub async fn websocket(&self, path: &'static str) -> Result<WebSocket, ClientError> {
        within("the WebSocket", async {
            let tls = self.connect(&self.http1).await?;
            let (socket, _) = tokio_tungstenite::client_async(format!("wss://{}{path}", self.gate), tls)
                .await
                .map_err(|error| ClientError::WebSocket(Box::new(error)))?;
            Ok(WebSocket { socket })
        })
        .await
    }
}

impl WebSocket {
    /// The next text, or how it ended.
    ///
    /// # Errors
    /// When neither comes in time.
    pub async fn next(&mut self) -> Result<Result<String, End>, ClientError> {
        within("the next message", async { Ok(self.text().await) }).await
    }

    async fn text(&mut self) -> Result<String, End> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Close(frame))) => return Err(End::Closed(frame.map_or(1005, |frame| frame.code.into()))),
                Some(Ok(_)) => {}
                Some(Err(Error::Io(error))) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Err(End::ConnectionReset);
                }
                Some(Err(error)) => return Err(End::Other(error.to_string())),
                None => return Err(End::Other("the connection was lost without a Close".to_owned())),
            }
        }
    }
}
