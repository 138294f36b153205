//! CSV that a spreadsheet takes for what it is (RFC 4180).
//!
//! What must stay true: no cell is a formula. A path or a reason is written by strangers, and a spreadsheet computes what begins with
//! `=`, `+`, `-` or `@`, in the full-width forms as well; such a cell gets an apostrophe before it, which spreadsheets do not show.

use crate::cli::table::clean;

/// Rows as text, each ended with CRLF.
pub(super) fn csv<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = String::new();
    for row in std::iter::once(head.map(str::to_owned)).chain(rows) {
        let cells: Vec<String> = row.iter().map(|cell| quoted(&harmless(&clean(cell)))).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

fn harmless(cell: &str) -> String {
    let computes = |c| matches!(c, '=' | '+' | '-' | '@' | '|' | '%' | '＝' | '＋' | '－' | '＠');
    if cell.trim_start().starts_with(computes) { format!("'{cell}") } else { cell.to_owned() }
}

fn quoted(cell: &str) -> String {
    let needs = cell.contains([',', '"', '\r', '\n']) || cell.starts_with(' ') || cell.ends_with(' ');
    if needs { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_every_cell_comes_back() {
        let row = |cell: &str| csv(["a"], [[cell.to_owned()]]).trim_start_matches("a\r\n").trim_end_matches("\r\n").to_owned();
        assert_eq!(row("/v1/users"), "/v1/users");
        assert_eq!(row("=1+1"), "'=1+1");
        assert_eq!(row(" @SUM(A1)"), "\"' @SUM(A1)\"".replace("\"'", "'").trim_matches('"'));
        assert_eq!(row("=HYPERLINK(\"http://x\",\"y\")"), "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\"");
        assert_eq!(row("\t=1"), "\\u{9}=1", "no tab is left to be trimmed");
        assert_eq!(row("a,b"), "\"a,b\"");
        assert_eq!(row("＝1"), "'＝1");
    }
}
