//! Change → the open exchanges it touches → judge again → cut.
//!
//! In: a tick of the sweep, an activation, an identity that ended, a session of which anomaly rules say something else. Out: how many
//! were open and how many were cut. Runs on the worker that owns the exchanges, in slices between requests. What must stay true: every
//! failing exchange is signalled before any is waited for, and a rehearsal changes nothing.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::decision::Cause;
use crate::judge::Judge;
use crate::proxy::again::Again;
use crate::proxy::downstream::Downstream;
use crate::proxy::open::Open;
use crate::proxy::worker::Worker;
use crate::units::{Size, Span, since_epoch};

/// `exchanges`: how open exchanges are watched.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Every open exchange is judged again at least this often; a lease may ask for more.
    pub reassess_every: Span,
    /// Memory for the bodies of open exchanges whose policy reads bodies; one that finds no room is cut when judged again.
    pub retained: Size,
}

impl Default for Config {
    fn default() -> Self {
        Self { reassess_every: Span::seconds(30), retained: Size::mib(64) }
    }
}

/// How long exchanges are judged between two looks at what else waits. By time and not by number: among ten thousand streams that
/// have something to send, each look costs milliseconds, and what should be cut sends on meanwhile.
const SLICE: Duration = Duration::from_millis(1);
/// The same for those that are only looked at.
const LOOKS: usize = 512;
/// A decision whose exchange is still open is told after this.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// What a reassessment found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reassessed {
    pub open: usize,
    pub cut: usize,
}

/// The time since others had their turn.
struct Slice(Instant);

impl Slice {
    fn new() -> Self {
        Self(Instant::now())
    }

    async fn share(&mut self) {
        if self.0.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

/// One tick: leases, certificates, timers, overdue upstreams, decisions that wait to be told.
pub async fn sweep(worker: &Worker, now: Instant) {
    let wall = since_epoch(SystemTime::now());
    let mut slice = Slice::new();
    for (place, open) in worker.open().enumerate() {
        if place % LOOKS == LOOKS - 1 {
            tokio::task::yield_now().await;
        }
        if now.duration_since(open.began) > TELL_AFTER {
            // Told, not waited for: it is durable already, or its durability was waited for before it was forwarded.
            drop(open.tell_decision());
        }
        open.end_late_farewell();
        if let Some(cause) = ended(&open, now, wall) {
            worker.services.door.cut(open.exchange(), cause);
            continue;
        }
        if !open.exchange().cut.is_admitted() {
            continue;
        }
        open.look_at_upstream(now);
        if now.duration_since(open.judged()) >= open.reassess_every() {
            judge(worker, &open);
            slice.share().await;
        }
    }
    worker.pool.sweep(now);
}

fn ended(open: &Open, now: Instant, wall: Duration) -> Option<Cause> {
    if open.flow.lease().max_age.is_some_and(|most| now.duration_since(open.began) >= most) {
        return Some(Cause::LeaseAge);
    }
    let expired = open.downstream.peer.as_ref().is_some_and(|peer| wall.as_secs() >= peer.not_after.get());
    expired.then_some(Cause::CertificateExpired)
}

/// Judges everything open on this worker by the generation in force.
pub async fn reassess(worker: &Rc<Worker>) -> Reassessed {
    let mut found = Reassessed::default();
    // Taken now, whatever is open: the next request must not be the first to find it.
    let Ok((generation, _)) = worker.generation() else { return found };
    let mut slice = Slice::new();
    for open in worker.open() {
        slice.share().await;
        // What is admitted after the activation was judged by it.
        let judged = open.exchange().generation() == generation.number && !worker.services.stale.load(Ordering::Relaxed);
        if !judged && open.exchange().cut.is_admitted() {
            found.open += 1;
            found.cut += usize::from(judge(worker, &open));
        }
    }
    found
}

/// Judges what is open here of these sessions, where the policy reads what anomaly rules say.
pub async fn stirred(worker: &Worker, sessions: &BTreeSet<String>) {
    let Ok((generation, _)) = worker.generation() else { return };
    let concerned = |open: &Rc<Open>| sessions.contains(&open.downstream.caller.session) && open.reads_anomaly(&generation.plans);
    let mut slice = Slice::new();
    for open in worker.open().filter(concerned) {
        slice.share().await;
        judge(worker, &open);
    }
}

/// Cuts what is open for peers that would not be let in any more.
pub fn withdraw(worker: &Worker, ended: &[Rc<Downstream>]) {
    if ended.is_empty() {
        return;
    }
    for open in worker.open() {
        if ended.iter().any(|downstream| Rc::ptr_eq(downstream, &open.downstream)) {
            worker.services.door.cut(open.exchange(), Cause::IdentityWithdrawn);
        }
    }
}

/// How many of what is open here a generation would cut that is not in force.
pub async fn rehearse(worker: &Rc<Worker>, mut candidate: Judge) -> Reassessed {
    let mut found = Reassessed::default();
    let mut slice = Slice::new();
    for open in worker.open() {
        slice.share().await;
        match open.rehearse(&mut candidate) {
            Again::Goes => found.open += 1,
            Again::Ends(..) => {
                found.open += 1;
                found.cut += 1;
            }
            Again::NotYet => {}
        }
    }
    found
}

fn judge(worker: &Worker, open: &Open) -> bool {
    match open.judge_again() {
        Again::Goes | Again::NotYet => false,
        Again::Ends(cause, kill) => {
            let first = worker.services.door.cut(open.exchange(), cause);
            if let Some(kill) = kill {
                open.carry_out(kill);
            }
            first
        }
    }
}
