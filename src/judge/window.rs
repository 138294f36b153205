//! Time windows: hours of the week that policies know by a name.
//!
//! In: `time_windows`. Out: whether one is open. What must stay true: one that cannot be read is closed.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// One row of `time_windows`: the hours of the week in which it is open, in UTC.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeWindow {
    /// Such as [mon, tue, wed, thu, fri].
    pub days: Vec<Day>,
    /// The first minute it is open, as 08:00.
    pub from: String,
    /// The first minute it is closed again, as 18:00.
    pub to: String,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl TimeWindow {
    /// True when the window is open at a time since the Unix epoch, in UTC. A window that cannot be read is closed.
    pub fn open(&self, since_epoch: Duration) -> bool {
        const WEEK: [Day; 7] = [Day::Thu, Day::Fri, Day::Sat, Day::Sun, Day::Mon, Day::Tue, Day::Wed];
        let minutes = since_epoch.as_secs() / 60;
        let (day, minute) = ((minutes / 1440) % 7, minutes % 1440);
        let today = usize::try_from(day).ok().and_then(|day| WEEK.get(day));
        let (Some(from), Some(to)) = (minute_of_day(&self.from), minute_of_day(&self.to)) else { return false };
        today.is_some_and(|today| self.days.contains(today)) && (from..to).contains(&minute)
    }
}

/// `HH:MM` as minutes since midnight; 24:00 is the end of a day.
pub fn minute_of_day(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':').filter(|(hours, minutes)| hours.len() == 2 && minutes.len() == 2)?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= 1440).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_open_on_its_days_between_its_minutes() {
        let window = TimeWindow { days: vec![Day::Mon, Day::Tue], from: "08:00".to_owned(), to: "18:00".to_owned() };
        // 2026-11-23 is a Monday; 20,780 days after the epoch.
        let at = |day: u64, hour: u64, minute: u64| Duration::from_secs(((20_780 + day) * 24 + hour) * 3600 + minute * 60);
        assert!(window.open(at(0, 8, 0)) && window.open(at(1, 17, 59)));
        assert!(!window.open(at(0, 7, 59)) && !window.open(at(0, 18, 0)) && !window.open(at(2, 9, 0)));
        assert!(!TimeWindow { from: "8:00".to_owned(), ..window }.open(at(0, 9, 0)), "an unreadable window is closed");
        assert_eq!((minute_of_day("24:00"), minute_of_day("24:01"), minute_of_day("12:60")), (Some(1440), None, None));
    }
}
