//! The accept loop of one listener: room first, then the least loaded worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::worker::{Command, Handle};
use crate::listener::{Accepted, Entrance};
use crate::metrics::{HandshakeError, Metrics};

/// How long accepting pauses when the machine has no descriptor left. Trying at once would spin until one is free.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until dropped.
pub(super) async fn accept(
    listener: std::net::TcpListener,
    entrance: Arc<Entrance>,
    workers: Arc<Vec<Handle>>,
    metrics: Arc<Metrics>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(listener = %entrance.name, %error, "cannot accept"),
    };
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(listener = %entrance.name, %error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(room) = entrance.admit() else {
            metrics.handshake_errors.of(HandshakeError::Connections).inc();
            continue;
        };
        let Some(worker) = workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
        let (Ok(local), Ok(stream)) = (stream.local_addr(), stream.into_std()) else { continue };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let accepted = Accepted { stream, remote, local, entrance: Arc::clone(&entrance), room };
        if worker.commands.send(Command::Carry(Box::new(accepted))).is_err() {
            return;
        }
    }
}
