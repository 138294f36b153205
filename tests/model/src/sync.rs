//! loom's mutexes and atomics, the atomics with each access in an order that loom does not skip.
//!
//! In: an access to an atomic. Out: the same access of loom's own atomic, after a step that every access to this atomic conflicts with.
//! loom remembers one last access an object, so a thread that loads before it stores (every compare-and-swap loop does) hides the race
//! between its store and an earlier load of another thread, and loom never runs the other order (tokio-rs/loom issues 166 and 392).
//! The step is a notification of a condition variable nobody waits on: it orders runs, and no memory.

pub use real_loom::sync::{Mutex, MutexGuard};

pub mod atomic {
    use real_loom::sync::Condvar;
    use real_loom::sync::atomic as real;

    pub use real::Ordering;

    macro_rules! atomics {
        ($($name:ident of $value:ty),+) => {$(
            #[derive(Debug)]
            pub struct $name {
                value: real::$name,
                step: Condvar,
            }

            impl $name {
                pub fn new(value: $value) -> Self {
                    Self { value: real::$name::new(value), step: Condvar::new() }
                }

                #[track_caller]
                pub fn load(&self, ordering: Ordering) -> $value {
                    self.step.notify_all();
                    self.value.load(ordering)
                }

                #[track_caller]
                pub fn store(&self, value: $value, ordering: Ordering) {
                    self.step.notify_all();
                    self.value.store(value, ordering);
                }

                #[track_caller]
                pub fn fetch_add(&self, value: $value, ordering: Ordering) -> $value {
                    self.step.notify_all();
                    self.value.fetch_add(value, ordering)
                }

                /// # Errors
                /// The value that was found instead of `current`.
                #[track_caller]
                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.step.notify_all();
                    self.value.compare_exchange(current, new, success, failure)
                }
            }
        )+};
    }

    atomics!(AtomicU32 of u32, AtomicU64 of u64, AtomicUsize of usize);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use real_loom::thread;

    use super::atomic::{AtomicU32, Ordering::SeqCst};
    use crate::stage::every_order;

    #[test]
    fn a_load_runs_before_and_after_the_swap_of_a_thread_that_loads_first() {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let outcomes = Arc::clone(&seen);
        every_order(4, move || {
            let value = Arc::new(AtomicU32::new(0));
            let other = Arc::clone(&value);
            let swapper = thread::spawn(move || {
                let found = other.load(SeqCst);
                other.compare_exchange(found, 1, SeqCst, SeqCst)
            });
            outcomes.lock().unwrap().insert(value.load(SeqCst));
            assert_eq!(swapper.join().unwrap(), Ok(0));
        });
        assert_eq!(*seen.lock().unwrap(), BTreeSet::from([0, 1]));
    }
}
