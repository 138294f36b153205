//! The thread of one worker: its runtime, its connections, its sweep.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};

use super::accept::{Accepting, Porter, accept};
use crate::judge::{Judge, Seat};
use crate::listener::{self, Accepted, Limits, Lines};
use crate::metrics::HandshakeError;
use crate::proxy::shadow;
use crate::proxy::watched::Row;
use crate::proxy::worker::{Services, Worker};
use crate::reassess::{self, Reassessed};

/// How often a worker looks at everything it carries. A lease, a timer or a certificate is at most this late.
const TICK: Duration = Duration::from_millis(100);

/// What a worker is told.
pub(super) enum Command {
    /// Accepts on a listener until the drain.
    Accept(Box<Accepting>),
    Carry(Box<Accepted<std::net::TcpStream>>),
    Reassess(oneshot::Sender<Reassessed>),
    Rehearse(Box<Judge>, oneshot::Sender<Reassessed>),
    List(oneshot::Sender<Vec<Row>>),
    /// Roots or rules changed: cut what was admitted under those that are gone.
    CheckIdentities,
    Drain,
    Stop,
}

/// A worker, as the other threads see it.
pub(super) struct Handle {
    pub(super) porter: Porter,
    pub(super) thread: Option<JoinHandle<()>>,
}

/// Starts the thread.
pub(super) fn start(services: Arc<Services>, index: usize, seat: Arc<Seat>, limits: Limits) -> std::io::Result<Handle> {
    // Connections are bounded by `limits.connections` before they are sent, everything else is asked for by one thread at a time.
    let (commands, received) = mpsc::unbounded_channel();
    let load = Arc::new(AtomicUsize::new(0));
    let carried = Arc::clone(&load);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let worker = Rc::new(Worker::new(services, index, seat));
        LocalSet::new().block_on(&runtime, work(worker, Rc::new(Lines::new(limits)), received, carried));
    })?;
    Ok(Handle { porter: Porter { commands, load }, thread: Some(thread) })
}

async fn work(worker: Rc<Worker>, lines: Rc<Lines>, mut commands: mpsc::UnboundedReceiver<Command>, load: Arc<AtomicUsize>) {
    tokio::task::spawn_local(tick(Rc::clone(&worker), Rc::clone(&lines)));
    tokio::task::spawn_local(listen(Rc::clone(&worker)));
    tokio::task::spawn_local(shadow::hear(Rc::clone(&worker)));
    let counted = Arc::clone(&load);
    let carry = {
        let (worker, lines) = (Rc::clone(&worker), Rc::clone(&lines));
        move |accepted: Accepted<TcpStream>| {
            let (worker, lines, load) = (Rc::clone(&worker), Rc::clone(&lines), Arc::clone(&load));
            tokio::task::spawn_local(async move {
                let _carried = Carried { load, services: Arc::clone(&worker.services) };
                listener::carry(worker, lines, accepted).await;
            });
        }
    };
    let mut accepting = JoinSet::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Accept(listener) => {
                let metrics = Arc::clone(&worker.services.metrics);
                accepting.spawn_local(accept(*listener, metrics, carry.clone()));
            }
            Command::Carry(accepted) => {
                let Accepted { stream, remote, local, entrance, room } = *accepted;
                match TcpStream::from_std(stream) {
                    Ok(stream) => carry(Accepted { stream, remote, local, entrance, room }),
                    Err(_) => {
                        counted.fetch_sub(1, Ordering::Relaxed);
                        worker.services.metrics.handshake_errors.of(HandshakeError::Other).inc();
                    }
                }
            }
            Command::Reassess(reply) => {
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move { reply.send(reassess::reassess(&worker).await) });
            }
            Command::Rehearse(judge, reply) => {
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move { reply.send(reassess::rehearse(&worker, *judge).await) });
            }
            Command::List(reply) => {
                let _ = reply.send(worker.open().filter_map(|open| open.row()).collect());
            }
            Command::CheckIdentities => reassess::withdraw(&worker, &lines.ended_identities()),
            Command::Drain => {
                accepting.shutdown().await;
                lines.drain();
            }
            Command::Stop => break,
        }
    }
}

/// A connection in the count by which the next one is placed, also when carrying it panics.
struct Carried {
    load: Arc<AtomicUsize>,
    services: Arc<Services>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.services.metrics.panics.inc();
        }
    }
}

/// Judges again at once what belongs to a session of which policies read something else than before; a tick would be too late.
async fn listen(worker: Rc<Worker>) {
    while let Some(stirred) = worker.services.stirred.get(worker.index) {
        let sessions = stirred.next().await;
        reassess::stirred(&worker, &sessions).await;
    }
}

async fn tick(worker: Rc<Worker>, lines: Rc<Lines>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = Instant::now();
        worker.clock.set(now);
        let ended = lines.sweep(now).await;
        reassess::sweep(&worker, now).await;
        // A handshake under the identity before may have ended after that one was withdrawn.
        reassess::withdraw(&worker, &ended);
    }
}
