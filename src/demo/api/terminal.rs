//! A WebSocket of the demo API: it counts aloud, and repeats what it is told.
//!
//! In: the upgrade (RFC 6455 section 4.2). Out: a text message a tick and an echo of each that comes, until either side closes. It
//! is counted among the streams while it lives, so that a cut that reached the upstream can be seen there.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::body::{Content, Counted};
use super::json_answer;

/// From a line to the next.
const LINE_EVERY: Duration = Duration::from_millis(100);

/// Answers an upgrade, and speaks once it is done.
pub(super) fn open(headers: &HeaderMap, upgraded: OnUpgrade, streams: &watch::Sender<usize>) -> Response<Content> {
    let key = headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(accept) = key.and_then(|key| HeaderValue::from_str(&key).ok()) else {
        return json_answer(StatusCode::UPGRADE_REQUIRED, &json!({"error": "this is a WebSocket"}));
    };
    let counted = Counted::new(streams);
    tokio::spawn(async move {
        if let Ok(io) = upgraded.await {
            // However it ends, nobody is left to be told.
            let _ = speak(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await).await;
        }
        drop(counted);
    });
    let mut response = Response::new(Content::Whole(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend([
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ]);
    response
}

async fn speak(mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) -> Result<(), Error> {
    let mut ticks = tokio::time::interval(LINE_EVERY);
    let mut line: u64 = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                line += 1;
                socket.send(Message::text(format!("line {line}"))).await?;
            }
            told = socket.next() => match told {
                Some(Ok(Message::Text(text))) => socket.send(Message::text(format!("you said: {text}"))).await?,
                // Pings are answered and a Close is repeated by the library.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
        }
    }
}
