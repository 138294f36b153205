//! The cut of one exchange: set once by anybody, seen first by whoever carries its bytes, acknowledged when nothing flows any more.
//!
//! States go one way: Open → Admitted → Ended, or from either of the first two to Cut → acknowledged. A cut is terminal: no later
//! allow, end or callback changes it (threat F7). Wakers are kept by side, not in a list, because each side is exactly one task.

#[cfg(loom)]
use loom::sync::{Mutex, atomic::AtomicU32, atomic::Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, atomic::AtomicU32, atomic::Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{KillId, lock};
use crate::decision::Cause;

const OPEN: u32 = 0;
const ADMITTED: u32 = 1;
const ENDED: u32 = 2;
const CUT: u32 = 3;
const ACKNOWLEDGED: u32 = 4;
const PHASE: u32 = 0xff;

/// Who waits for a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The task that carries the exchange's bytes to and from its client.
    Downstream,
    /// The task that drives the upstream connection lent to it.
    Upstream,
}

/// See the module.
#[derive(Debug)]
pub struct Cut {
    state: AtomicU32,
    order: Mutex<Option<(Instant, Option<KillId>)>>,
    waiting: Mutex<[Option<Waker>; 2]>,
    acknowledged: Mutex<Vec<Waker>>,
}

impl Cut {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU32::new(OPEN),
            order: Mutex::new(None),
            waiting: Mutex::new([None, None]),
            acknowledged: Mutex::new(Vec::new()),
        }
    }

    /// Open → Admitted. Admitting twice is no harm: a request judged again after an activation comes by here again.
    ///
    /// # Errors
    /// The cause, when it was cut before.
    pub(super) fn admit(&self) -> Result<(), Cause> {
        match self.state.compare_exchange(OPEN, ADMITTED, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) | Err(ADMITTED) => Ok(()),
            Err(state) => Err(cause_in(state).unwrap_or(Cause::Shutdown)),
        }
    }

    /// Cuts. True for the first to do so while it was open; only the first cause counts.
    pub(super) fn cut(&self, cause: Cause, kill: Option<KillId>) -> bool {
        // The order is written under its lock together with the state, so that whoever sees the cut finds its time and kill.
        let mut order = lock(&self.order);
        let first = self.transition(CUT | (cause as u32) << 8, |phase| phase == OPEN || phase == ADMITTED);
        if first {
            *order = Some((Instant::now(), kill));
            drop(order);
            for waker in lock(&self.waiting).iter_mut().filter_map(Option::take) {
                waker.wake();
            }
        }
        first
    }

    /// Says that nothing of this exchange will cross the gate any more.
    pub fn acknowledge(&self) {
        let cause = self.state.load(Ordering::SeqCst) & !PHASE;
        if self.transition(ACKNOWLEDGED | cause, |phase| phase == CUT) {
            self.wake_acknowledged();
        }
    }

    /// The exchange is over; a cut stays a cut.
    pub(super) fn end(&self) {
        if self.transition(ENDED, |phase| phase == OPEN || phase == ADMITTED) {
            self.wake_acknowledged();
        } else {
            self.acknowledge();
        }
    }

    /// Why it was cut, if it was. Asked before each write.
    pub fn cause(&self) -> Option<Cause> {
        cause_in(self.state.load(Ordering::SeqCst))
    }

    /// The kill that cut it, if it was one, and how long ago.
    pub fn order(&self) -> Option<(Duration, Option<KillId>)> {
        lock(&self.order).map(|(at, kill)| (at.elapsed(), kill))
    }

    /// True once admitted and neither ended nor cut.
    pub fn is_admitted(&self) -> bool {
        self.state.load(Ordering::SeqCst) == ADMITTED
    }

    /// Ready with the cause once cut.
    pub fn poll(&self, side: Side, cx: &mut Context<'_>) -> Poll<Cause> {
        if let Some(cause) = self.cause() {
            return Poll::Ready(cause);
        }
        {
            let mut waiting = lock(&self.waiting);
            let [downstream, upstream] = &mut *waiting;
            let slot = match side {
                Side::Downstream => downstream,
                Side::Upstream => upstream,
            };
            if !slot.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *slot = Some(cx.waker().clone());
            }
        }
        // Looked at once more after the waker is in place: a cut in between has either woken it or is seen here.
        self.cause().map_or(Poll::Pending, Poll::Ready)
    }

    /// Ready once the exchange has ended, or its cut was acknowledged.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        {
            let mut acknowledged = lock(&self.acknowledged);
            if !acknowledged.iter().any(|known| known.will_wake(cx.waker())) {
                acknowledged.push(cx.waker().clone());
            }
        }
        if self.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// True once ended, or cut and acknowledged.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state.load(Ordering::SeqCst) & PHASE, ENDED | ACKNOWLEDGED)
    }

    fn wake_acknowledged(&self) {
        for waker in std::mem::take(&mut *lock(&self.acknowledged)) {
            waker.wake();
        }
    }

    fn transition(&self, to: u32, from: impl Fn(u32) -> bool) -> bool {
        let mut state = self.state.load(Ordering::SeqCst);
        while from(state & PHASE) {
            match self.state.compare_exchange(state, to, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(other) => state = other,
            }
        }
        false
    }
}

fn cause_in(state: u32) -> Option<Cause> {
    match state & PHASE {
        CUT | ACKNOWLEDGED => Cause::ALL.get((state >> 8) as usize).copied(),
        _ => None,
    }
}
