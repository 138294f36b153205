//! Connections of the control socket: accept, learn the uid, serve, let go.
//!
//! In: the bound socket. Out: requests with their [`Caller`], to the calls. What must stay true: a caller whose uid the kernel does
//! not tell is let go unheard; a caller who stalls holds a connection no longer than its deadline.
//! Not `axum::serve`: it knows neither a header timeout nor a bound on connections.

use std::convert::Infallible;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use super::caller::{Caller, People};
use super::{Control, calls};

/// Callers at a time; others wait to be accepted.
const CONNECTIONS: u32 = 256;
/// From one request to the whole head of the next.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For all requests of one connection.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long calls that are under way may go on once the gate stops.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Serves the control API until told to stop, then takes the socket away.
pub async fn serve(socket: UnixListener, control: Control, mut stop: watch::Receiver<bool>) {
    let path = control.config.socket.clone();
    let listener = match tokio::net::UnixListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the control socket cannot be served"),
    };
    let own = match UnixStream::pair().and_then(|(stream, _other)| stream.peer_cred()) {
        Ok(own) => own.uid(),
        Err(error) => return tracing::error!(%error, "the gate's own uid is not known; the control socket stays closed"),
    };
    let people = People::new(&control.config, own);
    let router = calls::router(Arc::new(control));
    let room = Arc::new(Semaphore::new(CONNECTIONS as usize));
    loop {
        let arrival = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            arrival = arrival => arrival,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: without a pause this loop would take a core for itself.
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(credentials) = stream.peer_cred() else { continue };
        let caller = Caller { place: permit.ok().map(Arc::new), ..people.caller(credentials.uid()) };
        let connection = connection(stream, caller, router.clone(), stop.clone());
        tokio::spawn(tokio::time::timeout(DEADLINE, connection));
    }
    // A socket nobody accepts on must not look alive. A gate that has died leaves it; the next one replaces it.
    let _ = std::fs::remove_file(path);
    drop(listener);
    let _ = tokio::time::timeout(LAST_CALLS, room.acquire_many(CONNECTIONS)).await;
}

async fn connection(stream: UnixStream, caller: Caller, router: axum::Router, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// Returns when the gate stops, also because nobody is left who could say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
