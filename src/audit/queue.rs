//! What waits for the writer: the bytes of lines, and whose room each line holds.
//!
//! In: whole lines, from any thread, each a memcpy under a lock. Out: everything that waits, as one [`Batch`], by size or by tick.
//! The writer is woken for the first line, for a full batch and for a line somebody waits for, never for each line: a wake-up is a
//! system call. Whoever pushes has reserved room before; the queue itself is not bounded.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::record::Losses;

/// A batch of this size is written at once: larger ones make no write cheaper.
const FULL_BATCH: usize = 64 * 1024;
/// A line is written at most this long after it was queued.
const TICK: Duration = Duration::from_millis(50);
/// The record tells of losses at most this often.
const LOSSES_EVERY: Duration = Duration::from_secs(1);
/// And of what was dropped on purpose: a line a second about lines nobody wanted would be no fewer lines.
const DROPS_EVERY: Duration = Duration::from_secs(10);
/// A buffer that an outage made larger than this is given back to the system.
const KEPT_BUFFER: usize = 1024 * 1024;

/// Lines on their way to the writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    losses: Losses,
    losses_told: Option<Instant>,
    pushed: u64,
    writer: WriterState,
    /// Since when the writer has had the batch it is writing.
    in_hand: Option<Instant>,
    reopen: bool,
    closing: Option<Instant>,
    closed: bool,
}

/// What the writer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WriterState {
    #[default]
    Busy,
    FirstLine,
    FullBatch,
}

/// Whose room a line holds until it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Decision(u32),
    Closing(u32),
    Control,
    /// The writer's own line.
    Losses,
    /// A line that only the chain needs; the record counts it nowhere.
    Chain,
}

impl Room {
    /// True for a line that came through the queue.
    fn is_pushed(self) -> bool {
        matches!(self, Self::Decision(_) | Self::Closing(_) | Self::Control)
    }
}

/// Lines that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    lines: Vec<(usize, Room)>,
    since: Option<Instant>,
    urgent: bool,
    written: usize,
    settled: usize,
    settled_lines: usize,
}

/// Lines that are in the file, and the room they gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) lines: u64,
    /// Of these, those that were pushed.
    pub(super) pushed: u64,
    pub(super) bytes: u64,
    pub(super) exchange_room: usize,
    pub(super) control_room: usize,
}

/// What the writer does next.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) batch: Batch,
    pub(super) losses: Option<Losses>,
    pub(super) reopen: bool,
}

/// Why a pause of the writer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    Over,
    Reopen,
    /// The gate has been closing for longer than it waits for the record.
    GiveUp,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves a whole line or none, so a panic elsewhere has not broken the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues one line and returns its number; `None` when the writer has ended.
    pub(super) fn push(&self, line: &[u8], room: Room, urgent: bool) -> Option<u64> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.pushed += 1;
        state.waiting.urgent |= urgent;
        state.waiting.append(line, room);
        let wake = match state.writer {
            WriterState::Busy => false,
            WriterState::FirstLine => true,
            WriterState::FullBatch => state.waiting.is_due(),
        };
        if wake {
            state.writer = WriterState::Busy;
            self.ready.notify_one();
        }
        Some(state.pushed)
    }

    /// Counts what the record will lack.
    pub(super) fn lose(&self, losses: Losses) {
        let mut state = self.state();
        let waiting = state.losses.every();
        state.losses.lost += losses.lost;
        state.losses.refused += losses.refused;
        state.losses.torn += losses.torn;
        state.losses.undelivered += losses.undelivered;
        state.losses.dropped += losses.dropped;
        if state.losses.every() != waiting && state.writer == WriterState::FirstLine {
            state.writer = WriterState::Busy;
            self.ready.notify_one();
        }
    }

    /// Asks the writer to open its file anew.
    pub(super) fn reopen(&self) {
        self.state().reopen = true;
        self.ready.notify_one();
    }

    /// Asks the writer to write what waits and end.
    pub(super) fn close(&self, now: Instant) {
        self.state().closing.get_or_insert(now);
        self.ready.notify_one();
    }

    /// The age of the oldest line that is not written.
    pub(super) fn lag(&self, now: Instant) -> Duration {
        let state = self.state();
        state.in_hand.or(state.waiting.since).map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Waits for something to do; `None` once the queue was closed and is empty. `spare` lends its buffers.
    /// It returns at `due` at the latest, then perhaps with nothing.
    pub(super) fn take(&self, spare: Batch, due: Option<Instant>) -> Option<Turn> {
        let mut state = self.state();
        state.in_hand = None;
        loop {
            let now = Instant::now();
            let Some(wait) = state.wait(now, due) else { break };
            state.writer = if state.waiting.since.is_some() { WriterState::FullBatch } else { WriterState::FirstLine };
            state = match wait {
                Some(wait) => self.ready.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.writer = WriterState::Busy;
        }
        let losses = state.losses_to_tell(Instant::now());
        if state.closing.is_some() && state.waiting.lines.is_empty() && losses.is_none() {
            state.closed = true;
            return None;
        }
        let batch = std::mem::replace(&mut state.waiting, spare);
        state.in_hand = batch.since;
        Some(Turn { batch, losses, reopen: std::mem::take(&mut state.reopen) })
    }

    /// Waits before the next try to write, at most `wait`.
    pub(super) fn pause(&self, wait: Duration, patience: Duration) -> Pause {
        let state = self.state();
        let was_closing = state.closing.is_some();
        let (mut state, _) = self
            .ready
            .wait_timeout_while(state, wait, |state| !state.reopen && state.closing.is_some() == was_closing)
            .unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.reopen) {
            return Pause::Reopen;
        }
        match state.closing {
            Some(since) if since.elapsed() >= patience => Pause::GiveUp,
            _ => Pause::Over,
        }
    }

    /// From now on nothing can be queued; what waited is lost, and its lines are counted.
    pub(super) fn abandon(&self) -> u64 {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.waiting).remaining()
    }
}

impl Losses {
    /// How often they are told; `None` without any.
    fn every(&self) -> Option<Duration> {
        match self {
            Self { lost: 0, refused: 0, torn: 0, undelivered: 0, dropped: 0 } => None,
            Self { lost: 0, refused: 0, torn: 0, undelivered: 0, dropped: _ } => Some(DROPS_EVERY),
            Self { .. } => Some(LOSSES_EVERY),
        }
    }
}

impl State {
    /// How long there is nothing to do: `None` when there is something now, `Some(None)` until woken.
    #[expect(clippy::option_option, reason = "the outer one is whether to wait, the inner one for how long")]
    fn wait(&self, now: Instant, due: Option<Instant>) -> Option<Option<Duration>> {
        if self.closing.is_some() || self.reopen || self.waiting.is_due() {
            return None;
        }
        let tick = self.waiting.since.map(|since| since + TICK);
        let telling = self.losses.every().map(|every| self.losses_told.map_or(now, |told| told + every));
        let Some(due) = [tick, telling, due].into_iter().flatten().min() else { return Some(None) };
        match due.saturating_duration_since(now) {
            Duration::ZERO => None,
            wait => Some(Some(wait)),
        }
    }

    fn losses_to_tell(&mut self, now: Instant) -> Option<Losses> {
        let every = self.losses.every()?;
        let due = self.closing.is_some() || self.losses_told.is_none_or(|told| now.saturating_duration_since(told) >= every);
        if !due {
            return None;
        }
        self.losses_told = Some(now);
        Some(std::mem::take(&mut self.losses))
    }
}

impl Batch {
    fn is_due(&self) -> bool {
        self.urgent || self.bytes.len() >= FULL_BATCH
    }

    pub(super) fn append(&mut self, line: &[u8], room: Room) {
        self.append_with(room, |bytes| bytes.extend_from_slice(line));
    }

    /// Appends the line that `write` adds to the bytes.
    pub(super) fn append_with(&mut self, room: Room, write: impl FnOnce(&mut Vec<u8>)) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
        }
        write(&mut self.bytes);
        self.lines.push((self.bytes.len(), room));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Each line with its room.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&[u8], Room)> {
        let mut begin = 0;
        self.lines.iter().map(move |(end, room)| {
            let line = self.bytes.get(begin..*end).unwrap_or_default();
            begin = *end;
            (line, *room)
        })
    }

    /// The bytes that are not written yet.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Notes that `bytes` more are written.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.written = (self.written + bytes).min(self.bytes.len());
    }

    /// Settles the lines that are written whole: they will not be written again.
    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        let before = self.settled;
        while let Some((end, room)) = self.lines.get(self.settled_lines).copied()
            && end <= self.written
        {
            settled.lines += u64::from(room != Room::Chain);
            match room {
                Room::Decision(units) | Room::Closing(units) => settled.exchange_room += units as usize,
                Room::Control => settled.control_room += 1,
                Room::Losses | Room::Chain => {}
            }
            settled.pushed += u64::from(room.is_pushed());
            self.settled = end;
            self.settled_lines += 1;
        }
        settled.bytes = (self.settled - before) as u64;
        settled
    }

    /// Writes again from the first line that is not settled.
    pub(super) fn rewind(&mut self) {
        self.written = self.settled;
    }

    /// How many lines of others are not settled.
    pub(super) fn remaining(&self) -> u64 {
        self.lines.iter().skip(self.settled_lines).filter(|(_, room)| room.is_pushed()).count() as u64
    }

    /// The same buffers, empty.
    pub(super) fn recycled(mut self) -> Self {
        if self.bytes.capacity() > KEPT_BUFFER {
            return Self::default();
        }
        self.bytes.clear();
        self.lines.clear();
        Self { bytes: self.bytes, lines: self.lines, ..Self::default() }
    }
}
