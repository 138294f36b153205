//! The thread that writes the record.
//!
//! In: batches of the queue. Out: bytes in the file, room given back, and word of what is durable.
//! A line is settled once it is whole in the file (`synced`: on the disk), and only then gives back its room. While writing fails the
//! batch stays in hand and is retried, so the queue fills, `on_full` acts, and everything goes on by itself when the file recovers.
//! Not a task of a worker's runtime: a disk that hangs must hang nobody else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::outbox::Outbox;
use super::queue::{Batch, Pause, Room};
use super::record::{Loss, Losses, encode_own};
use super::room::{Reached, Shared};
use super::seal::Seal;
use super::sink::Sink;
use super::{Durability, Rotate};

/// How long a closing gate tries to write what waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A pipe that is full is looked at again soon: its reader is at work.
const FULL_PIPE: Backoff = Backoff { first: Duration::from_millis(1), last: Duration::from_millis(20) };
/// Two tries a second cost nothing, and a disk that has space again is in use within one.
const ERROR: Backoff = Backoff { first: Duration::from_millis(20), last: Duration::from_millis(500) };
/// A file that has taken nothing for this long is not waited for: who waits is refused at once, until it takes a line again.
const BROKEN_AFTER: Duration = Duration::from_millis(500);

/// The record's side of the queue; give it a thread.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    sink: Sink,
    durable: watch::Sender<Reached>,
    seal: Seal,
    rotate: Option<Rotate>,
    /// Where lines go on from here, once the file has them.
    outbox: Option<Arc<Outbox>>,
    /// What was cut off the file's end and is not told yet.
    torn: Vec<String>,
}

struct Backoff {
    first: Duration,
    last: Duration,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        sink: Sink,
        durable: watch::Sender<Reached>,
        seal: Seal,
        rotate: Option<Rotate>,
    ) -> Self {
        Self { shared, sink, durable, seal, rotate, outbox: None, torn: Vec::new() }
    }

    /// Hands what is written on to be delivered, too.
    #[must_use]
    pub fn delivering_to(self, outbox: Arc<Outbox>) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// Writes until [`Audit::close`](super::Audit::close), then what still waits, and returns. The body of a thread.
    pub fn run(mut self) {
        let (mut spare, mut sealed) = (Batch::default(), Batch::default());
        while let Some(turn) = self.shared.queue.take(spare, self.seal.due()) {
            let mut batch = turn.batch;
            if turn.reopen {
                self.reopen();
            }
            if let Some(losses) = turn.losses {
                self.tell(&mut batch, losses);
            }
            self.seal.batch(&batch, &mut sealed, &self.shared.labels);
            if !self.write_out(&mut sealed) {
                let lines = sealed.remaining() + self.shared.queue.abandon();
                self.shared.metrics.lost.inc_by(lines);
                tracing::error!(path = %self.sink.path().display(), lines, "lines of the record are lost: the gate ended before its file took them");
                return;
            }
            self.shared.metrics.lag.set(0.0);
            self.hand_on(&sealed);
            spare = batch.recycled();
            sealed = sealed.recycled();
            self.rotate();
        }
        self.seal.last(&mut sealed, &self.shared.labels);
        if !sealed.is_empty() && !self.write_out(&mut sealed) {
            tracing::warn!(path = %self.sink.path().display(), "the record's last checkpoint is not in it");
        } else {
            self.hand_on(&sealed);
        }
        if let Err(error) = self.sink.sync() {
            tracing::warn!(path = %self.sink.path().display(), %error, "the end of the record may not be on the disk");
        }
    }

    fn hand_on(&self, written: &Batch) {
        if let Some(outbox) = &self.outbox {
            outbox.put(written.lines());
        }
    }

    /// Writes the whole batch; false when the gate is closing and the file does not take it.
    fn write_out(&mut self, batch: &mut Batch) -> bool {
        let mut failures = 0;
        let mut begun = false;
        let mut told = false;
        let mut failing_since = None;
        while let Err(error) = self.write_some(batch, &mut begun, &mut failures) {
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            let full_pipe = error.kind() == io::ErrorKind::WouldBlock;
            let backoff = if full_pipe { FULL_PIPE } else { ERROR };
            self.shared.failing.store(true, Ordering::Relaxed);
            if !full_pipe && !std::mem::replace(&mut told, true) {
                tracing::error!(path = %self.sink.path().display(), %error, "the record cannot be written; it is tried again");
            }
            let since: Instant = *failing_since.get_or_insert_with(Instant::now);
            if !full_pipe && since.elapsed() >= BROKEN_AFTER {
                self.durable.send_if_modified(|reached| !std::mem::replace(&mut reached.broken, true));
            }
            if self.sink.loses_its_place(&error) {
                batch.rewind();
                begun = false;
            }
            self.shared.metrics.lag.set(self.shared.queue.lag(Instant::now()).as_secs_f64());
            match self.shared.queue.pause(backoff.delay(failures), PATIENCE) {
                Pause::Over => {}
                Pause::Reopen => {
                    self.sink.cut_back();
                    batch.rewind();
                    self.reopen();
                    begun = false;
                }
                Pause::GiveUp => {
                    self.sink.cut_back();
                    return false;
                }
            }
            failures += 1;
        }
        self.shared.failing.store(false, Ordering::Relaxed);
        self.durable.send_if_modified(|reached| std::mem::replace(&mut reached.broken, false));
        if told {
            tracing::info!(path = %self.sink.path().display(), "the record is written again");
        }
        true
    }

    fn write_some(&mut self, batch: &mut Batch, begun: &mut bool, failures: &mut u32) -> io::Result<()> {
        if !*begun {
            if let Some(torn) = self.sink.begin()? {
                self.torn.push(torn.text);
                self.shared.queue.lose(Losses { torn: 1, ..Losses::default() });
            }
            *begun = true;
        }
        while !batch.rest().is_empty() {
            let taken = self.sink.write(batch.rest())?;
            batch.advance(taken);
            *failures = 0;
            if self.shared.durability != Durability::Synced {
                self.settle(batch);
            }
        }
        if self.shared.durability == Durability::Synced {
            if let Err(error) = self.sink.sync() {
                self.sink.cut_back();
                batch.rewind();
                return Err(error);
            }
            self.settle(batch);
        }
        Ok(())
    }

    fn settle(&mut self, batch: &mut Batch) {
        let settled = batch.settle();
        self.sink.settle(settled.bytes);
        self.shared.settle(settled);
        if settled.pushed > 0 {
            self.durable.send_modify(|reached| reached.lines += settled.pushed);
        }
    }

    fn rotate(&mut self) {
        let Some(rotate) = self.rotate.filter(|rotate| self.sink.holds(rotate.size.0)) else { return };
        if let Err(error) = self.sink.rotate(rotate.keep) {
            tracing::error!(path = %self.sink.path().display(), %error, "the record was not rotated; it grows in its file, and is tried again");
        }
    }

    fn reopen(&mut self) {
        if let Err(error) = self.sink.reopen() {
            tracing::error!(path = %self.sink.path().display(), %error, "the record was not opened anew; the old file stays in use");
        }
    }

    fn tell(&mut self, batch: &mut Batch, losses: Losses) {
        let mut line = Vec::new();
        let torn_text = std::mem::take(&mut self.torn);
        match encode_own(&mut line, &self.shared.labels, "loss", &Loss { losses, torn_text: &torn_text }) {
            Ok(()) => batch.append(&line, Room::Losses),
            Err(error) => tracing::error!(%error, ?losses, "the losses of the record cannot be written to it"),
        }
    }
}

impl Backoff {
    fn delay(&self, failures: u32) -> Duration {
        self.first.saturating_mul(2u32.saturating_pow(failures)).min(self.last)
    }
}
