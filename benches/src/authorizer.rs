//! An external authorizer that allows everything, for Envoy to ask: the least such a call can cost.
//!
//! gRPC is `envoy.service.auth.v3.Authorization/Check`, answered with an empty `google.rpc.Status`, which is OK.

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use tokio::net::{TcpListener, TcpStream};

/// `CheckResponse { status: {} }`, uncompressed, in a gRPC frame.
const ALLOWED: &[u8] = &[0, 0, 0, 0, 2, 0x0a, 0];

/// Serves until it is killed.
pub async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(carry(stream));
    }
}

async fn carry(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::Builder::new().max_concurrent_streams(1024).handshake::<_, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::task::spawn_local(answer(request, respond));
    }
    Ok(())
}

async fn answer(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Result<()> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let head = Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(())?;
    let mut send = respond.send_response(head, false)?;
    send.send_data(Bytes::from_static(ALLOWED), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)?;
    Ok(())
}
