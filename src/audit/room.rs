//! The workers' side of the record: room for lines, reserved before an exchange is judged, and lines put into it.
//!
//! In: how many lines an exchange will need, then the lines. Out: a [`Permit`] whose lines always find room, and an [`Ack`] that
//! says when one is as durable as configured.
//! Only [`Audit::reserve`] and [`Ack::recorded`] wait, each at most `wait`; [`Permit::write`] never does, so it may stand in a
//! `Drop`. Calls of the control API have room of their own: agents that fill the record must not hide what operators do.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prometheus::{Gauge, IntCounter};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::chain::Chain;
use super::checkpoint::Signer;
use super::queue::{Queue, Room, Settled};
use super::record::{ControlCall, Labels, Line, Losses, encode_call, encode_line};
use super::seal::Seal;
use super::sink::{AuditError, Sink};
use super::writer::{PATIENCE, Writer};
use super::{Config, Durability, OnFull};
use crate::units::Span;

/// Bytes one unit of room stands for; a longer line takes more units, so that the queue is bounded in memory as well as in lines.
const UNIT: usize = 4096;
/// Below this an exchange could not reserve its two lines beside another's.
const SMALLEST_QUEUE: usize = 8;
/// Lines of the control API that may wait; an operator's script makes tens of calls a second, not thousands.
const CONTROL_ROOM: usize = 1024;

thread_local! {
    /// Where this thread serialises its lines before they are copied into the queue.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The record, as everybody but its writer sees it.
#[derive(Clone, Debug)]
pub struct Audit {
    shared: Arc<Shared>,
}

/// How far the record has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Lines that are as durable as configured.
    pub(super) lines: u64,
    /// The file has taken nothing for so long that nobody waits for it.
    pub(super) broken: bool,
}

/// What the record counts, as handles of whoever keeps the metrics.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    pub written: IntCounter,
    pub lost: IntCounter,
    pub refused: IntCounter,
    pub dropped: IntCounter,
    pub lag: Gauge,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    room: Semaphore,
    control_room: Semaphore,
    pub(super) labels: Box<RawValue>,
    environment: String,
    pub(super) durability: Durability,
    on_full: OnFull,
    wait: Span,
    pub(super) metrics: AuditMetrics,
    /// Writing does not work at the moment.
    pub(super) failing: AtomicBool,
    /// How many lines are durable; ends when the writer does. Cloned by who waits, and by nobody else.
    durable: watch::Receiver<Reached>,
}

/// Room for the lines of one exchange.
#[derive(Debug)]
pub struct Permit {
    audit: Audit,
    kept: u32,
    /// There was no room, and the configuration says to go on without the lines.
    lossy: bool,
}

/// Tells when a line is as durable as configured.
#[derive(Debug)]
#[must_use = "under `written` and `synced` a decision is only recorded once `recorded` returns"]
pub struct Ack {
    /// `None`: nothing to wait for.
    awaited: Option<Awaited>,
}

#[derive(Debug)]
struct Awaited {
    audit: Audit,
    number: u64,
}

/// Why an exchange may not go on: the record does not take its lines, and the configuration says to refuse rather than to lose them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error(
        "the record had no room within {0}: its file does not take lines as fast as they come; see portcullis_audit_lag_seconds"
    )]
    Queue(Span),
    #[error("the record's file did not take the decision within {0}; look at the disk's space and health")]
    File(Span),
    #[error("the record's file takes nothing; look at the disk's space and health")]
    Broken,
    #[error("the record is closed: the gate is shutting down")]
    Closed,
}

/// The gate ended before its record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record's file did not take every line before the gate ended; portcullis_audit_records_total counts what was lost")]
pub struct Unwritten;

impl Audit {
    /// Opens the record; [`Writer::run`] then needs a thread of its own.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened. A FIFO nobody reads is no error: it is opened when somebody does.
    pub fn open(
        config: &Config,
        labels: &Labels,
        metrics: AuditMetrics,
        signer: Option<Signer>,
    ) -> Result<(Self, Writer), AuditError> {
        let sink = Sink::open(&config.file)?;
        let last = sink.last_line().map_err(|source| AuditError::Tail { path: config.file.clone(), source })?;
        let chain = Chain::after(last.as_deref());
        let (durable_sender, durable) = watch::channel(Reached::default());
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            room: Semaphore::new(config.queue.clamp(SMALLEST_QUEUE, Semaphore::MAX_PERMITS)),
            control_room: Semaphore::new(CONTROL_ROOM),
            labels: serde_json::value::to_raw_value(labels).map_err(AuditError::Labels)?,
            environment: labels.environment.clone(),
            durability: config.durability,
            on_full: config.on_full,
            wait: config.wait,
            metrics,
            failing: AtomicBool::new(false),
            durable,
        });
        let writer =
            Writer::new(Arc::clone(&shared), sink, durable_sender, Seal::new(chain, signer, &config.checkpoint), config.rotate);
        Ok((Self { shared }, writer))
    }

    /// Reserves room for `lines` lines of one exchange, before it is judged. Under `on_full: drop` it never waits nor fails for want
    /// of room; the permit then loses its lines, counted.
    ///
    /// # Errors
    ///
    /// When there is no room within `wait`, or the record is closed. The refused exchange is counted to the record.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future reserves nothing; whoever leaves asks for a line at the last.
    pub async fn reserve(&self, lines: u32) -> Result<Permit, Full> {
        let room = &self.shared.room;
        let found = match (room.try_acquire_many(lines), self.shared.on_full) {
            (Ok(found), _) => Ok(found),
            (Err(_), _) if room.is_closed() => Err(Full::Closed),
            (Err(_), OnFull::Drop) => return Ok(Permit { audit: self.clone(), kept: 0, lossy: true }),
            (Err(_), OnFull::Block) => {
                let mut reached = self.shared.durable.clone();
                tokio::select! {
                    biased;
                    found = room.acquire_many(lines) => found.map_err(|_| Full::Closed),
                    Ok(_) = reached.wait_for(|reached| reached.broken) => Err(Full::Broken),
                    () = sleep(self.shared.wait.0) => Err(Full::Queue(self.shared.wait)),
                }
            }
        };
        match found {
            Ok(found) => {
                found.forget();
                Ok(Permit { audit: self.clone(), kept: lines, lossy: false })
            }
            Err(full) => {
                self.shared.refuse();
                Err(full)
            }
        }
    }

    /// Room for one line of an exchange that ended before it had reserved any: what is there now, for nothing may wait in a `Drop`.
    /// Without any the permit loses its line, counted.
    pub fn reserve_at_last(&self) -> Permit {
        match self.shared.room.try_acquire() {
            Ok(found) => {
                found.forget();
                Permit { audit: self.clone(), kept: 1, lossy: false }
            }
            Err(_) => Permit { audit: self.clone(), kept: 0, lossy: true },
        }
    }

    /// True when a decision must be recorded before the first byte goes up.
    pub fn durable_before_forwarding(&self) -> bool {
        self.shared.durability != Durability::Queued
    }

    /// Records a call of the control API; never waits.
    pub fn control(&self, call: &ControlCall<'_>) {
        let Ok(room) = self.shared.control_room.try_acquire() else {
            self.shared.lose(1);
            return;
        };
        let number = with_scratch(|buffer| {
            encode_call(buffer, &self.shared.labels, call).inspect_err(unencoded).ok()?;
            self.shared.queue.push(buffer, Room::Control, false)
        });
        match number {
            Some(_) => room.forget(),
            None => self.shared.lose(1),
        }
    }

    /// Counts a decision that the policy keeps out of the record.
    pub fn dropped(&self) {
        self.shared.metrics.dropped.inc();
        self.shared.queue.lose(Losses { dropped: 1, ..Losses::default() });
    }

    /// Tells in the record that so many of its lines were not delivered to the service that collects them.
    pub fn undelivered(&self, lines: u64) {
        self.shared.queue.lose(Losses { undelivered: lines, ..Losses::default() });
    }

    /// Has the writer open its file anew, after a rotation. The old one stays in use when that fails.
    pub fn reopen(&self) {
        self.shared.queue.reopen();
    }

    /// The age of the oldest line that is not written; also what a scrape shows, even while the writer hangs in a write.
    pub fn lag(&self) -> Duration {
        let lag = self.shared.queue.lag(Instant::now());
        self.shared.metrics.lag.set(lag.as_secs_f64());
        lag
    }

    /// Closes the record: refuses new reservations, writes what waits, and returns when the writer has ended. Lines of exchanges
    /// that are still open are lost from then on, so they come first.
    ///
    /// # Errors
    ///
    /// When the file did not take the lines in time.
    pub async fn close(&self) -> Result<(), Unwritten> {
        self.shared.room.close();
        self.shared.queue.close(Instant::now());
        let mut durable = self.shared.durable.clone();
        let ended = async { while durable.changed().await.is_ok() {} };
        // A second more than the writer's own patience: only one that hangs in a system call is left behind.
        match timeout(PATIENCE + Duration::from_secs(1), ended).await {
            Ok(()) if !self.shared.failing.load(Ordering::Relaxed) => Ok(()),
            _ => Err(Unwritten),
        }
    }
}

impl Permit {
    /// Records one of the permit's lines; never waits.
    pub fn write(&mut self, line: Line<'_>) -> Ack {
        let number = self.take_room().and_then(|()| self.push(line));
        if number.is_none() {
            self.audit.shared.lose(1);
        }
        let awaited = match self.audit.shared.durability {
            Durability::Queued => None,
            Durability::Written | Durability::Synced => number.map(|number| Awaited { audit: self.audit.clone(), number }),
        };
        Ack { awaited }
    }

    /// True when the lines of this permit are lost: there was no room, and the configuration says to go on.
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }

    fn take_room(&mut self) -> Option<()> {
        if self.lossy {
            return None;
        }
        match self.kept.checked_sub(1) {
            Some(kept) => self.kept = kept,
            // More lines than were reserved: a fault, but no reason to lose a line there is room for.
            None => self.audit.shared.room.try_acquire().ok()?.forget(),
        }
        Some(())
    }

    fn push(&self, line: Line<'_>) -> Option<u64> {
        let shared = &*self.audit.shared;
        let number = with_scratch(|buffer| {
            encode_line(buffer, &shared.labels, &shared.environment, line).inspect_err(unencoded).ok()?;
            let more = shared.room.forget_permits(buffer.len() / UNIT);
            let room = 1 + u32::try_from(more).unwrap_or(u32::MAX - 1);
            let held = match line {
                Line::Decision(_) => Room::Decision(room),
                Line::Closing(_) => Room::Closing(room),
            };
            shared.queue.push(buffer, held, shared.durability != Durability::Queued)
        });
        if number.is_none() {
            shared.room.add_permits(1);
        }
        number
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.audit.shared.room.add_permits(self.kept as usize);
    }
}

impl Ack {
    /// Waits until the line is as durable as configured. Under `on_full: drop` a line that takes too long is waited for no more.
    ///
    /// # Errors
    ///
    /// When the line is not durable within `wait` (`on_full: block`). It stays queued, so the exchange it admits must be refused and
    /// its closing line must say so.
    pub async fn recorded(self) -> Result<(), Full> {
        let Some(Awaited { audit, number }) = self.awaited else { return Ok(()) };
        let shared = &audit.shared;
        if shared.on_full == OnFull::Drop && shared.failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut durable = shared.durable.clone();
        let settled = durable.wait_for(|reached| reached.lines >= number || reached.broken);
        let result = match timeout(shared.wait.0, settled).await {
            Ok(Ok(reached)) if reached.lines < number => Err(Full::Broken),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Full::Closed),
            Err(_) => Err(Full::File(shared.wait)),
        };
        match shared.on_full {
            OnFull::Block => result,
            OnFull::Drop => Ok(()),
        }
    }
}

impl Shared {
    /// Gives back the room of lines that are written.
    pub(super) fn settle(&self, settled: Settled) {
        self.metrics.written.inc_by(settled.lines);
        self.control_room.add_permits(settled.control_room);
        self.room.add_permits(settled.exchange_room);
    }

    pub(super) fn lose(&self, lines: u64) {
        self.metrics.lost.inc_by(lines);
        self.queue.lose(Losses { lost: lines, ..Losses::default() });
    }

    fn refuse(&self) {
        self.metrics.refused.inc();
        self.queue.lose(Losses { refused: 1, ..Losses::default() });
    }
}

fn unencoded(error: &serde_json::Error) {
    tracing::error!(%error, "a line of the record cannot be written as JSON; it is counted as lost");
}

fn with_scratch<T>(action: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    // Gone when a thread's last values are dropped, and in use if a line were made inside another: then a buffer of its own.
    let mut buffer = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    let result = action(&mut buffer);
    if buffer.capacity() <= 16 * UNIT {
        let _ = SCRATCH.try_with(|scratch| scratch.replace(buffer));
    }
    result
}
