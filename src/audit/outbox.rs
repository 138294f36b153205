//! Lines of the record on their way to a service, held in memory until it has taken them.
//!
//! In: lines, from the writer, once they are in the file. Out: the oldest of them, to whoever sends them; what was given up, counted.
//! What must stay true: it holds no more than its bound; nobody waits here, so a service that is away delays neither a request nor
//! the file; and each line that went in is delivered, given up or still here, never two of these.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use super::queue::Room;
use crate::units::Size;

/// What a line costs beside its bytes.
const OVERHEAD: usize = 32;

/// Which lines are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deliver {
    /// Decision lines, as receivers of OPA's decision logs expect them.
    #[default]
    Decisions,
    /// Every line of the file, so that the chain can be verified where they arrive.
    All,
}

/// What the outbox counts, as handles of whoever keeps the metrics.
#[derive(Clone, Debug)]
pub struct OutboxMetrics {
    pub delivered: IntCounter,
    pub dropped: IntCounter,
    /// Lines that wait.
    pub waiting: IntGauge,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    /// Enough waits to be sent, or nothing more will come.
    stirred: Notify,
    most: usize,
    deliver: Deliver,
    metrics: OutboxMetrics,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Lines that are being sent.
    in_hand: u64,
    /// As many bytes are waited for.
    wanted: Option<usize>,
    /// Given up, and not told in the record yet.
    untold: u64,
    /// Lines were given up for newer ones since some were last taken.
    pressed: bool,
    closed: bool,
}

impl Outbox {
    /// An empty one that holds up to `most`.
    pub fn new(most: Size, deliver: Deliver, metrics: OutboxMetrics) -> Self {
        Self { state: Mutex::default(), stirred: Notify::new(), most: most.bytes(), deliver, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves whole lines and true sums, so a panic elsewhere has not broken the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those of the lines that are to be delivered; the oldest make room for them.
    pub(super) fn put<'l>(&self, lines: impl Iterator<Item = (&'l [u8], Room)>) {
        let mut state = self.state();
        for (line, _) in lines.filter(|(_, room)| self.deliver == Deliver::All || matches!(room, Room::Decision(_))) {
            state.push(line.strip_suffix(b"\n").unwrap_or(line).into());
        }
        let mut dropped = 0;
        while state.bytes > self.most && state.pop().is_some() {
            dropped += 1;
        }
        state.pressed |= dropped > 0;
        self.dropped(&mut state, dropped);
        if state.wanted.is_some_and(|wanted| state.bytes >= wanted) {
            state.wanted = None;
            self.stirred.notify_one();
        }
        self.show(&state);
    }

    /// Waits until lines of so many bytes wait, or none will come any more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes nothing.
    pub async fn holds(&self, bytes: usize) {
        loop {
            let stirred = self.stirred.notified();
            {
                let mut state = self.state();
                if state.closed || state.bytes >= bytes {
                    return;
                }
                state.wanted = Some(bytes);
            }
            stirred.await;
        }
    }

    /// Waits until nothing will come any more.
    pub async fn closed(&self) {
        self.holds(usize::MAX).await;
    }

    /// The oldest lines, of at most `bytes` together, or one that is longer. They are in hand until it is said what became of them.
    pub fn take(&self, bytes: usize) -> Vec<Box<[u8]>> {
        let mut state = self.state();
        let (mut taken, mut size) = (Vec::new(), 0);
        state.pressed = false;
        while let Some(next) = state.waiting.front()
            && (taken.is_empty() || size + cost(next) <= bytes)
        {
            size += cost(next);
            taken.extend(state.pop());
        }
        state.in_hand += taken.len() as u64;
        self.show(&state);
        taken
    }

    /// Takes back lines that were in hand, to be the next again.
    pub fn put_back(&self, lines: Vec<Box<[u8]>>) {
        let mut state = self.state();
        state.in_hand -= (lines.len() as u64).min(state.in_hand);
        for line in lines.into_iter().rev() {
            state.bytes += cost(&line);
            state.waiting.push_front(line);
        }
        self.show(&state);
    }

    /// So many lines that were in hand have been delivered.
    pub fn delivered(&self, lines: u64) {
        self.metrics.delivered.inc_by(lines);
        let mut state = self.state();
        state.in_hand -= lines.min(state.in_hand);
    }

    /// So many lines that were in hand are given up.
    pub fn give_up(&self, lines: u64) {
        let mut state = self.state();
        state.in_hand -= lines.min(state.in_hand);
        self.dropped(&mut state, lines);
    }

    /// Lines were given up for newer ones since some were last taken: what is in hand is older than those.
    pub fn is_pressed(&self) -> bool {
        self.state().pressed
    }

    /// How many were given up and not told yet; told by whoever asks.
    pub fn untold(&self) -> u64 {
        std::mem::take(&mut self.state().untold)
    }

    /// Lines that wait or are in hand.
    pub fn left(&self) -> u64 {
        let state = self.state();
        state.waiting.len() as u64 + state.in_hand
    }

    /// Gives up whatever is left.
    pub fn abandon(&self) {
        let mut state = self.state();
        let left = state.waiting.len() as u64 + std::mem::take(&mut state.in_hand);
        (state.waiting, state.bytes) = (VecDeque::new(), 0);
        self.dropped(&mut state, left);
        self.show(&state);
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.stirred.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn dropped(&self, state: &mut State, lines: u64) {
        state.untold += lines;
        self.metrics.dropped.inc_by(lines);
    }

    fn show(&self, state: &State) {
        self.metrics.waiting.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
    }
}

impl State {
    fn push(&mut self, line: Box<[u8]>) {
        self.bytes += cost(&line);
        self.waiting.push_back(line);
    }

    fn pop(&mut self) -> Option<Box<[u8]>> {
        let line = self.waiting.pop_front()?;
        self.bytes -= cost(&line);
        Some(line)
    }
}

fn cost(line: &[u8]) -> usize {
    line.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(most: usize, deliver: Deliver) -> Outbox {
        let counter = |name: &str| IntCounter::new(name, "l").unwrap();
        let waiting = IntGauge::new("waiting", "w").unwrap();
        let metrics = OutboxMetrics { delivered: counter("delivered"), dropped: counter("dropped"), waiting };
        Outbox::new(Size(most as u64), deliver, metrics)
    }

    fn put(outbox: &Outbox, lines: impl IntoIterator<Item = u32>) {
        let lines: Vec<String> = lines.into_iter().map(|line| format!("{line:08}\n")).collect();
        outbox.put(lines.iter().map(|line| (line.as_bytes(), Room::Decision(1))));
    }

    fn numbers(lines: &[Box<[u8]>]) -> Vec<u32> {
        lines.iter().map(|line| std::str::from_utf8(line).unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn the_oldest_make_room_and_what_is_in_hand_stays() {
        let outbox = outbox(10 * 40, Deliver::Decisions);
        put(&outbox, 0..10);
        let taken = outbox.take(3 * 40);
        assert_eq!((numbers(&taken), outbox.left(), outbox.is_pressed()), (vec![0, 1, 2], 10, false));
        put(&outbox, 10..15);
        assert!(outbox.is_pressed() && outbox.left() == 13, "3 and 4 went");
        outbox.put_back(taken);
        outbox.delivered(0);
        assert_eq!(numbers(&outbox.take(usize::MAX)), [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert!(!outbox.is_pressed(), "nothing was given up since");
        outbox.delivered(12);
        outbox.give_up(1);
        assert_eq!((outbox.left(), outbox.untold(), outbox.untold()), (0, 3, 0));
        assert_eq!((outbox.metrics.delivered.get(), outbox.metrics.dropped.get()), (12, 3));
    }

    #[test]
    fn decisions_alone_are_delivered_unless_all_is_wanted() {
        let lines = [
            ("d\n", Room::Decision(1)),
            ("c\n", Room::Closing(1)),
            ("k\n", Room::Control),
            ("s\n", Room::Chain),
            ("l\n", Room::Losses),
        ];
        for (deliver, expected) in [(Deliver::Decisions, "d"), (Deliver::All, "dcksl")] {
            let outbox = outbox(1000, deliver);
            outbox.put(lines.iter().map(|(line, room)| (line.as_bytes(), *room)));
            assert_eq!(outbox.take(1000).concat(), expected.as_bytes());
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_enough_lines_and_by_the_end() {
        let outbox = std::sync::Arc::new(outbox(1000, Deliver::Decisions));
        let waiting = tokio::spawn({
            let outbox = std::sync::Arc::clone(&outbox);
            async move {
                outbox.holds(80).await;
                let held = outbox.left();
                outbox.closed().await;
                held
            }
        });
        put(&outbox, [1]);
        put(&outbox, [2]);
        outbox.close();
        assert_eq!(waiting.await.unwrap(), 2);
        put(&outbox, [3]);
        outbox.abandon();
        assert_eq!((outbox.left(), outbox.metrics.dropped.get(), outbox.metrics.waiting.get()), (0, 3, 0));
    }
}
