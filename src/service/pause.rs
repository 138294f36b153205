//! How long to wait before a service is asked again: longer after each failure, with chance in it so that a fleet does not come back
//! at once.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// After the first failure; it doubles from there.
const FIRST: Duration = Duration::from_millis(100);

/// A number from 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "32 bits fit a double's 53")]
pub fn chance() -> f64 {
    (RandomState::new().build_hasher().finish() >> 32) as f64 / f64::from(u32::MAX)
}

/// The pause after so many failures in a row, at most `most`; `None` where there was none. `chance` is from 0 to 1.
pub fn after_failures(failures: u32, most: Duration, chance: f64) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?;
    let pause = FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(most);
    Some(pause.div_f64(2.0) + pause.div_f64(2.0).mul_f64(chance))
}

/// A pause between the two, where all is well.
pub fn between(least: Duration, most: Duration, chance: f64) -> Duration {
    least + most.saturating_sub(least).mul_f64(chance)
}
