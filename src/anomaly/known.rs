//! Two bounded sets of what a session touched: what it ever touched, and what it touched lately.
//!
//! In: a hash of a name, and the time in milliseconds since the session began. Out: whether it is new, or how many there are. Hashes
//! are of 64 bits with a key nobody outside knows, so a name made to look like another one cannot be found. Both are short lists
//! walked from end to end: at the sizes the configuration allows that is cheaper than a map and smaller by far.

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    seen: u64,
}

/// What a session ever touched, up to a bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Vec<Entry>);

impl Known {
    /// Remembers a name; true when it is new. Where there is no room the one not seen longest is forgotten: it will be new again,
    /// which is the side to be wrong on.
    pub(super) fn see(&mut self, hash: u64, now: u64, most: usize) -> bool {
        !touch(&mut self.0, hash, now, most)
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn heap(&self) -> usize {
        self.0.capacity() * size_of::<Entry>()
    }
}

/// What a session touched within a window, counted exactly up to one more than a bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately(Vec<Entry>);

impl Lately {
    /// Remembers a name, and returns how many different ones there are with it.
    pub(super) fn see(&mut self, hash: u64, now: u64, within: u64, most: usize) -> usize {
        if self.0.len() > most {
            // Only where it matters: looking which are past costs a walk.
            self.0.retain(|entry| now.saturating_sub(entry.seen) < within);
        }
        touch(&mut self.0, hash, now, most + 1);
        self.count(now, within)
    }

    /// How many there are now.
    pub(super) fn count(&self, now: u64, within: u64) -> usize {
        self.0.iter().filter(|entry| now.saturating_sub(entry.seen) < within).count()
    }

    pub(super) fn heap(&self) -> usize {
        self.0.capacity() * size_of::<Entry>()
    }
}

/// Notes when a hash was seen last, in the place of the one not seen longest where there is no room; false when it was not there.
fn touch(entries: &mut Vec<Entry>, hash: u64, now: u64, most: usize) -> bool {
    if let Some(entry) = entries.iter_mut().find(|entry| entry.hash == hash) {
        entry.seen = now;
        return true;
    }
    if entries.len() < most {
        if entries.len() == entries.capacity() {
            // By fours and not by doubling: most sessions stay small, and there are many of them.
            entries.reserve_exact((entries.len() / 2).max(4).min(most - entries.len()));
        }
        entries.push(Entry { hash, seen: now });
    } else if let Some(oldest) = entries.iter_mut().min_by_key(|entry| entry.seen) {
        *oldest = Entry { hash, seen: now };
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_touched_lately_is_counted_exactly_up_to_one_more_than_the_bound(
            events in proptest::collection::vec((0_u64..40, 0_u64..12), 1..120), most in 1_usize..8
        ) {
            let (mut lately, mut last, mut now) = (Lately::default(), HashMap::new(), 0);
            for (gap, name) in events {
                now += gap;
                last.insert(name, now);
                let exact = last.values().filter(|at| now - **at < 100).count();
                let counted = lately.see(name, now, 100, most);
                prop_assert_eq!(counted.min(most + 1), exact.min(most + 1));
                prop_assert!(lately.0.len() <= most + 1, "bounded");
            }
        }
    }

    #[test]
    fn the_one_not_seen_longest_makes_room() {
        let mut known = Known::default();
        assert_eq!([1, 2, 1].map(|name| known.see(name, name, 2)), [true, true, false]);
        assert!(!known.see(1, 5, 2) && known.see(3, 6, 2), "2 goes");
        assert!(!known.see(1, 7, 2) && known.see(2, 8, 2));
        assert_eq!(known.len(), 2);
    }
}
