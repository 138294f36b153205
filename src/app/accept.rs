//! The accept loop of one listener: room first, then the least loaded worker.
//!
//! It runs on a worker, not on a thread of its own: a connection its worker carries itself costs no switch of threads, and that is
//! every one of them where there is one core.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::worker::Command;
use crate::listener::{Accepted, Entrance};
use crate::metrics::{HandshakeError, Metrics};

/// How long accepting pauses when the machine has no descriptor left. Trying at once would spin until one is free.
const PAUSE: Duration = Duration::from_millis(100);

/// A worker, as whoever brings it connections sees it.
#[derive(Clone)]
pub(super) struct Porter {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    /// Connections it carries; the next one goes to the least loaded.
    pub(super) load: Arc<AtomicUsize>,
}

impl Porter {
    /// Hands a connection over; false when the worker has ended.
    fn bring(&self, accepted: Accepted<std::net::TcpStream>) -> bool {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.commands.send(Command::Carry(Box::new(accepted))).is_ok()
    }
}

/// A listener, and who may carry what it accepts.
pub(super) struct Accepting {
    pub(super) listener: std::net::TcpListener,
    pub(super) entrance: Arc<Entrance>,
    pub(super) porters: Arc<[Porter]>,
    /// Which of them accepts.
    pub(super) here: usize,
}

/// Accepts until dropped. What this worker carries itself goes to `carry`, with its load counted already.
pub(super) async fn accept(accepting: Accepting, metrics: Arc<Metrics>, carry: impl Fn(Accepted<TcpStream>)) {
    let Accepting { listener, entrance, porters, here } = accepting;
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(listener = %entrance.name, %error, "cannot accept"),
    };
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            // A client that was gone before it was accepted; the next one waits behind it.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
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
        let Ok(local) = stream.local_addr() else { continue };
        let load = |porter: &Porter| porter.load.load(Ordering::Relaxed);
        // Where all are as busy, the shortest way.
        let least = porters.iter().enumerate().min_by_key(|(place, porter)| (load(porter), *place != here));
        let Some((place, porter)) = least else { return };
        let entrance = Arc::clone(&entrance);
        if place == here {
            porter.load.fetch_add(1, Ordering::Relaxed);
            carry(Accepted { stream, remote, local, entrance, room });
        } else if let Ok(stream) = stream.into_std()
            && !porter.bring(Accepted { stream, remote, local, entrance, room })
        {
            return;
        }
    }
}
