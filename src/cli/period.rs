//! A stretch of time on the command line, and times and amounts in words.

use clap::Args;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, UtcOffset};

/// From, inclusive, to, exclusive.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Period {
    /// The first moment: 2026-11-01, or 2026-11-01T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) from: Option<OffsetDateTime>,
    /// The first moment after it, in the same form.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) to: Option<OffsetDateTime>,
}

impl Period {
    pub(super) fn holds(&self, at: OffsetDateTime) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    let day = Date::parse(text, format_description!("[year]-[month]-[day]")).map(|day| day.midnight().assume_utc());
    day.or_else(|_| OffsetDateTime::parse(text, &Rfc3339))
        .map_err(|_| "write a day, 2026-11-01, or a time with its offset, 2026-11-01T08:00:00Z".to_owned())
}

/// A time as RFC 3339 in UTC, to the millisecond.
pub(super) fn stamp(at: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    at.to_offset(UtcOffset::UTC).format(form).unwrap_or_else(|_| at.to_string())
}

/// Seconds as people say them: `0.4 ms`, `12 ms`, `3.2 s`, `2m 5s`, `3h 1m`.
pub(super) fn lasting(seconds: f64) -> String {
    if seconds < 0.01 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    super::table::ago(std::time::Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |duration| duration.as_secs()))
}

/// Bytes as people say them: `512 B`, `66.9 KiB`.
pub(super) fn amount(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_amounts_read_well() {
        assert_eq!([0.0004, 0.012, 3.21, 125.0].map(lasting), ["0.4 ms", "12 ms", "3.2 s", "2m 5s"]);
        assert_eq!([0, 512, 68_474, 3 << 40].map(amount), ["0 B", "512 B", "66.9 KiB", "3.0 TiB"]);
        let day = moment("2026-11-01").unwrap();
        assert_eq!(stamp(day), "2026-11-01T00:00:00.000Z");
        assert_eq!(stamp(moment("2026-11-01T01:30:00+02:00").unwrap()), "2026-10-31T23:30:00.000Z");
        assert!(moment("yesterday").is_err());
        let period = Period { from: Some(day), to: Some(moment("2026-11-02").unwrap()) };
        assert!(period.holds(day) && !period.holds(moment("2026-11-02").unwrap()));
    }
}
