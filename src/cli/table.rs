//! Aligned columns, and the few words that make numbers readable.
//!
//! In: a head and rows of cells. Out: text. What must stay true: a cell never reaches the terminal with a control character in it.
//! Paths and reasons are written by strangers, and a terminal obeys what it reads.

/// Rows under a head, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> =
        std::iter::once(head.map(str::to_owned)).chain(rows.into_iter().map(|row| row.map(|cell| clean(&cell)))).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = rows.iter().map(|row| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Names and values below each other; `-` where there is no value.
pub(super) fn pairs<const N: usize>(pairs: [(&str, String); N]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let lines = pairs.iter().map(|(name, value)| match value.as_str() {
        "" => format!("{name:<width$}  -"),
        value => format!("{name:<width$}  {}", clean(value)),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The text with every control character and every mark that turns the writing direction written out.
pub(super) fn clean(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().flat_map(|c| if c.is_control() || turns(c) { c.escape_unicode().collect() } else { vec![c] }).collect()
}

/// `1 exchange`, `2 exchanges`
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Seconds in their two largest units: `45s`, `3m 5s`, `2h 0m`, `7d 3h`.
pub(super) fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Unix seconds as RFC 3339, in UTC; `-` for never.
pub(super) fn moment(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    match at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()) {
        Some(text) if seconds > 0 => text,
        _ => "-".to_owned(),
    }
}

/// The value, or `-`.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [["ä".to_owned(), "1".to_owned()], ["long name".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "OPEN"], rows), "NAME       OPEN\nä          1\nlong name");
        assert_eq!(table(["NAME"], []), "NAME");
        assert_eq!(pairs([("a", "1".to_owned()), ("long", String::new())]), "a     1\nlong  -");
    }

    #[test]
    fn nothing_a_stranger_wrote_commands_the_terminal() {
        let shown = table(["PATH"], [["/\u{1b}]0;owned\u{7}\n\u{202e}x".to_owned()]]);
        assert_eq!(shown, "PATH\n/\\u{1b}]0;owned\\u{7}\\u{a}\\u{202e}x");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([45, 185, 7200, 615_600].map(ago), ["45s", "3m 5s", "2h 0m", "7d 3h"]);
        assert_eq!(
            [count(0, "exchange"), count(1, "exchange"), count(2, "exchange")],
            ["0 exchanges", "1 exchange", "2 exchanges"]
        );
        assert_eq!([moment(0), moment(1_764_000_000)], ["-", "2025-11-24T16:00:00Z"]);
    }
}
