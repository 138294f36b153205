//! Bytes in a window against the session's own windows before it.
//!
//! In: bytes while they flow, and the time in milliseconds since the session began. Out: whether this window is beyond what was to be
//! expected: the moving average and so many mean deviations on top (both exponentially weighted, as RFC 6298 section 2 has them for
//! round trips), and never less than a floor. What must stay true: one wild window cannot make itself normal, so what counts into the
//! average is cut at the limit it broke; and windows without a byte teach nothing, or a pause would make the next byte wild.

use super::VolumeConfig;

/// How much of a new window counts: an eighth in the average, a quarter in the deviation.
const AVERAGE: f64 = 0.125;
const DEVIATION: f64 = 0.25;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Volume {
    /// The number of the window the bytes stand in.
    window: u64,
    bytes: u64,
    /// Windows that were counted in.
    learned: u32,
    average: f64,
    deviation: f64,
    /// This window was beyond its limit already.
    pub(super) beyond: bool,
}

impl Volume {
    /// Counts bytes; true when they are the ones that go beyond the limit.
    pub(super) fn count(&mut self, bytes: u64, now: u64, config: &VolumeConfig) -> bool {
        self.turn(now, config);
        self.bytes = self.bytes.saturating_add(bytes);
        let fires = !self.beyond && self.limit(config).is_some_and(|limit| self.bytes > limit);
        self.beyond |= fires;
        fires
    }

    /// True while this window is beyond its limit.
    pub(super) fn is_beyond(&mut self, now: u64, config: &VolumeConfig) -> bool {
        self.turn(now, config);
        self.beyond
    }

    /// What a window may hold; `None` while it is still learned.
    pub(super) fn limit(&self, config: &VolumeConfig) -> Option<u64> {
        (self.learned >= config.warm_up).then(|| self.expected(config))
    }

    /// The bytes of the window now.
    pub(super) fn bytes(&self, now: u64, config: &VolumeConfig) -> u64 {
        if now / length(config) <= self.window { self.bytes } else { 0 }
    }

    pub(super) const fn learned(&self) -> u32 {
        self.learned
    }

    /// Average and deviation, in bytes.
    pub(super) fn baseline(&self) -> (u64, u64) {
        (whole(self.average), whole(self.deviation))
    }

    fn expected(&self, config: &VolumeConfig) -> u64 {
        whole(f64::from(config.deviations).mul_add(self.deviation, self.average)).max(config.least.0)
    }

    fn turn(&mut self, now: u64, config: &VolumeConfig) {
        let window = now / length(config);
        // Workers read their clocks before they come here: one may be behind another.
        if window <= self.window {
            return;
        }
        if self.bytes > 0 {
            let limit = self.limit(config).unwrap_or(u64::MAX);
            self.learn(self.bytes.min(limit));
        }
        (self.window, self.bytes, self.beyond) = (window, 0, false);
    }

    fn learn(&mut self, bytes: u64) {
        let bytes = bytes as f64;
        if self.learned == 0 {
            (self.average, self.deviation) = (bytes, bytes / 2.0);
        } else {
            self.deviation += DEVIATION * ((bytes - self.average).abs() - self.deviation);
            self.average += AVERAGE * (bytes - self.average);
        }
        self.learned = self.learned.saturating_add(1);
    }
}

fn length(config: &VolumeConfig) -> u64 {
    u64::try_from(config.window.0.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn whole(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::super::VolumeOf;
    use super::*;
    use crate::units::{Size, Span};

    const CONFIG: VolumeConfig =
        VolumeConfig { of: VolumeOf::BytesOut, window: Span::seconds(1), deviations: 4, least: Size(1000), warm_up: 3 };

    const NONE: [usize; 0] = [];

    /// The windows in which it fired, of so many bytes each in ten chunks.
    fn fired(volume: &mut Volume, from: u64, windows: &[u64]) -> Vec<usize> {
        let mut fired = Vec::new();
        for (place, bytes) in windows.iter().enumerate() {
            for chunk in 0..10 {
                let now = (from + place as u64) * 1000 + chunk * 100;
                if volume.count(bytes / 10, now, &CONFIG) {
                    fired.push(place);
                }
            }
        }
        fired
    }

    #[test]
    fn what_is_far_beyond_the_windows_before_fires_once_a_window_and_at_the_byte() {
        let mut volume = Volume::default();
        assert_eq!(fired(&mut volume, 0, &[90_000_000, 5_000, 5_000]), NONE, "the first windows teach");
        let mut volume = Volume::default();
        assert_eq!(fired(&mut volume, 0, &[5_000; 40]), NONE);
        let (average, deviation) = volume.baseline();
        assert!((4_900..=5_100).contains(&average) && deviation < 200, "{average} {deviation}");
        assert_eq!(fired(&mut volume, 40, &[9_000, 5_000, 5_000]), [0]);
        let limit = volume.limit(&CONFIG).unwrap();
        let mut within = volume;
        assert!(!within.count(limit, 43_000, &CONFIG) && within.count(1, 43_001, &CONFIG), "the byte after the limit");
        assert!(within.is_beyond(43_500, &CONFIG) && !within.is_beyond(44_000, &CONFIG));
    }

    #[test]
    fn a_little_is_never_wild_and_one_wild_window_does_not_make_itself_normal() {
        let mut volume = Volume::default();
        assert_eq!(fired(&mut volume, 0, &[10, 10, 10, 10, 900]), NONE, "less than the least");
        let mut volume = Volume::default();
        fired(&mut volume, 0, &[5_000; 20]);
        assert_eq!(fired(&mut volume, 20, &[1_000_000_000, 1_000_000_000]), [0, 1]);
        assert!(volume.limit(&CONFIG).unwrap() < 20_000, "{volume:?}");
    }

    #[test]
    fn a_pause_teaches_nothing() {
        let mut volume = Volume::default();
        fired(&mut volume, 0, &[5_000; 20]);
        assert_eq!(fired(&mut volume, 100_000, &[5_000, 5_000]), NONE);
    }
}
