//! Bounds of the histograms, in seconds, each set with the reason for its numbers.
//!
//! Few on purpose: every bound is one series for every label, and the questions are few as well.

/// A warm verdict takes about 1 µs, a cold one 4 to 10, a policy over a large input 100 to 1,000; the default deadline is 20 ms.
/// So: fine where verdicts live, one bound at the deadline, one above it to see a deadline that was missed.
pub(super) const DECISION: &[f64] =
    &[0.000_001, 0.000_002_5, 0.000_005, 0.000_01, 0.000_025, 0.000_1, 0.000_5, 0.002, 0.01, 0.02, 0.1];

/// A cut reaches an exchange of this worker in microseconds and a busy worker's in milliseconds; polite endings have one second,
/// and one more bound shows those that overran it.
pub(super) const CUT: &[f64] = &[0.000_1, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.0];

/// From a service in the same pod (under 1 ms) to the default response timeout of 30 s; about half a decade a step.
pub(super) const UPSTREAM: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise() {
        for set in [DECISION, CUT, UPSTREAM] {
            assert!(set.windows(2).all(|pair| pair[0] < pair[1]), "{set:?}");
        }
    }
}
