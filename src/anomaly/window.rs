//! Two ways to count events in time: a sliding window, and a bucket of tokens.
//!
//! In: an event and its time, in milliseconds since the session began. Out: how many there are. The window counts in eight slots, so
//! that it costs the same whatever happens: it never counts an event that is older than the window, and it forgets none that is
//! younger than 7/8 of it. A list of times would be exact, and as long as whoever floods us likes.

use crate::units::Span;

const SLOTS: u64 = 8;

/// Events of the last while.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    slots: [u32; 8],
    /// The number of the newest slot since the session began.
    newest: u64,
}

impl Window {
    /// Counts one event, and returns how many stand in the window with it.
    pub(super) fn count(&mut self, now: u64, within: Span) -> u32 {
        self.turn(now, within);
        let place = self.newest % SLOTS;
        if let Some(slot) = usize::try_from(place).ok().and_then(|place| self.slots.get_mut(place)) {
            *slot = slot.saturating_add(1);
        }
        self.sum()
    }

    /// How many stand in the window now.
    pub(super) fn peek(&self, now: u64, within: Span) -> u32 {
        let mut seen = *self;
        seen.turn(now, within);
        seen.sum()
    }

    fn sum(&self) -> u32 {
        self.slots.iter().fold(0, |sum, slot| sum.saturating_add(*slot))
    }

    fn turn(&mut self, now: u64, within: Span) {
        let length = slot_length(within);
        let slot = now / length;
        for passed in (self.newest + 1..=slot).take(8) {
            if let Some(slot) = usize::try_from(passed % SLOTS).ok().and_then(|place| self.slots.get_mut(place)) {
                *slot = 0;
            }
        }
        if slot >= self.newest + SLOTS {
            self.slots = [0; 8];
        }
        self.newest = self.newest.max(slot);
    }
}

/// Rounded up, so that eight of them are never shorter than 7/8 of the window; one slot is always only partly past.
fn slot_length(within: Span) -> u64 {
    let millis = u64::try_from(within.0.as_millis()).unwrap_or(u64::MAX);
    (millis / SLOTS).max(1)
}

/// Tokens that come back one by one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// When it will be full again, in nanoseconds since the session began. One number is the whole bucket (GCRA, as ATM Forum
    /// TM 4.0 section 4.4.2 has it).
    full_at: u64,
}

impl Bucket {
    /// Takes a token; false when there is none. `now` in nanoseconds.
    pub(super) fn take(&mut self, now: u64, size: u32, every: Span) -> bool {
        let every = nanos(every);
        let base = self.full_at.max(now);
        // Taking one more must not put full-again further away than a whole bucket takes.
        if base - now > every.saturating_mul(u64::from(size).saturating_sub(1)) {
            return false;
        }
        self.full_at = base.saturating_add(every);
        true
    }

    /// How many tokens there are now.
    pub(super) fn left(&self, now: u64, size: u32, every: Span) -> u32 {
        let missing = self.full_at.saturating_sub(now).div_ceil(nanos(every));
        size.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }
}

fn nanos(span: Span) -> u64 {
    u64::try_from(span.0.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_counts_no_event_too_old_and_forgets_none_too_young(
            gaps in proptest::collection::vec(0_u64..400, 1..80), millis in 8_u64..2000
        ) {
            let within = Span::millis(millis);
            let (mut window, mut times, mut now) = (Window::default(), Vec::new(), 0);
            for gap in gaps {
                now += gap;
                times.push(now);
                let counted = window.count(now, within) as usize;
                let since = |age: u64| times.iter().filter(|at| now - **at < age).count();
                prop_assert!(counted <= since(millis), "{counted} of {times:?}");
                // Seven slots, rounded down to whole milliseconds, are there for sure.
                prop_assert!(counted >= since(millis / 8 * 7), "{counted} of {times:?}");
                prop_assert_eq!(window.peek(now, within) as usize, counted);
            }
        }

        #[test]
        fn a_bucket_gives_what_a_naive_one_gives(gaps in proptest::collection::vec(0_u64..300, 1..80), size in 1_u32..6) {
            let every = Span::millis(100);
            let (mut bucket, mut now) = (Bucket::default(), 0_u64);
            // In whole tokens and the time since the last came back.
            let mut full_at = 0_u64;
            for gap in gaps {
                now += gap;
                let missing = full_at.saturating_sub(now).div_ceil(100);
                let left = u64::from(size).saturating_sub(missing);
                prop_assert_eq!(u64::from(bucket.left(now * 1_000_000, size, every)), left);
                let taken = bucket.take(now * 1_000_000, size, every);
                prop_assert_eq!(taken, left > 0);
                if taken {
                    full_at = full_at.max(now) + 100;
                }
            }
        }
    }

    #[test]
    fn a_full_bucket_gives_its_size_at_once_and_then_one_at_a_time() {
        let (mut bucket, every) = (Bucket::default(), Span::millis(100));
        let at = |millis: u64| millis * 1_000_000;
        assert_eq!((0..4).map(|_| bucket.take(at(0), 3, every)).collect::<Vec<_>>(), [true, true, true, false]);
        assert!(!bucket.take(at(99), 3, every) && bucket.take(at(100), 3, every) && !bucket.take(at(100), 3, every));
        assert_eq!(bucket.left(at(10_000), 3, every), 3, "never more than its size");
    }
}
