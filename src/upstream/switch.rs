//! A request to leave HTTP, on a connection of its own.
//!
//! In: the request and the gate of its exchange. Out: the connection below HTTP when the upstream agrees, else its answer. Until then the
//! exchange's cut drops the connection; from then on whoever takes it has to. Such a connection never goes into the pool: its gate knows
//! one exchange only.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body::Body;
use hyper::client::conn::http1::{self, Connection};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::config::Upstream;
use super::connect::Stream;
use super::error::UpstreamError;
use super::pool::Pool;
use super::response::Answer;
use crate::exchange::{Exchange, Side};
use crate::socket::Gate;

/// What an upstream says to a request to leave HTTP.
#[derive(Debug)]
pub enum Switch {
    Switched {
        head: response::Parts,
        io: Stream,
        /// What came behind the head.
        early: Bytes,
    },
    /// It stays with HTTP; the connection lives until the body ends or the exchange is cut.
    Answered(Response<Answer>),
}

impl<B> Pool<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request without a body that asks to leave HTTP, on a connection whose socket asks `gate`.
    ///
    /// # Errors
    /// Whose fault it was, as the variants say.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn switch(
        &self,
        upstream: &Upstream,
        exchange: &Arc<Exchange>,
        gate: Gate,
        request: Request<B>,
    ) -> Result<Switch, UpstreamError> {
        let io = TokioIo::new(self.connect_raw(upstream, gate).await?);
        let (mut sender, connection) = http1::Builder::new().handshake(io).await.map_err(UpstreamError::from_http1)?;
        let mut driving = JoinSet::new();
        driving.spawn_local(drive(connection, Arc::clone(exchange)));
        let answer = sender.send_request(request).await.map_err(UpstreamError::from_http1)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            driving.detach_all();
            return Ok(Switch::Answered(answer.map(Answer::http1)));
        }
        let (io, early) = driving.join_next().await.and_then(Result::ok).flatten().ok_or(UpstreamError::Switched)?;
        Ok(Switch::Switched { head: answer.into_parts().0, io, early })
    }
}

/// Drives a connection until it ends or leaves HTTP, and hands over what is below it; nothing where its exchange is cut.
async fn drive<B>(mut connection: Connection<TokioIo<Stream>, B>, exchange: Arc<Exchange>) -> Option<(Stream, Bytes)>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    poll_fn(|cx| {
        if exchange.cut.poll(Side::Upstream, cx).is_ready() {
            return Poll::Ready(None);
        }
        // How it ended is told to whoever waits for the response.
        Pin::new(&mut connection).poll(cx).map(Result::ok)
    })
    .await?;
    let parts = connection.into_parts();
    Some((parts.io.into_inner(), parts.read_buf))
}
