//! What the demo says, on stdout: numbered steps, aligned facts, a table.
//!
//! Plain text without colours, which reads the same in a terminal, in a file and in a README. A value that can write anywhere and not
//! a macro: what it says is tested like anything else.

use std::io::{self, Write};

/// Where the second column begins.
const COLUMN: usize = 30;

/// See the module.
pub struct Teller<W> {
    out: W,
    step: usize,
}

impl<W: Write> Teller<W> {
    pub fn new(out: W) -> Self {
        Self { out, step: 0 }
    }

    /// A line as it is.
    ///
    /// # Errors
    /// When it cannot be written; so with all that follow.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", text.trim_end())?;
        self.out.flush()
    }

    /// The heading of the next step.
    pub fn step(&mut self, title: &str) -> io::Result<()> {
        self.step += 1;
        self.line("")?;
        self.line(&format!("{}. {title}", self.step))
    }

    /// What was done or asked, and what came of it; the further lines of a value stand below its first.
    pub fn fact(&mut self, what: &str, value: &str) -> io::Result<()> {
        let mut lines = value.trim_end().lines();
        self.line(&format!("   {what:<COLUMN$} {}", lines.next().unwrap_or_default()))?;
        lines.try_for_each(|line| self.line(&format!("   {:<COLUMN$} {line}", "")))
    }

    /// Rows in columns as wide as their longest cell.
    pub fn table<const N: usize>(&mut self, rows: &[[String; N]]) -> io::Result<()> {
        let mut widths = [0; N];
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in rows {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            self.line(&format!("   {}", cells.join("  ")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_count_and_columns_line_up() {
        let mut out = Vec::new();
        let mut teller = Teller::new(&mut out);
        teller.step("allow").unwrap();
        teller.fact("answer", "200\nsecond").unwrap();
        teller.step("deny").unwrap();
        teller.table(&[["a", "b"], ["long", "b"]].map(|row| row.map(str::to_owned))).unwrap();
        let blank = " ".repeat(COLUMN);
        let expected = format!("\n1. allow\n   {:<COLUMN$} 200\n   {blank} second\n\n2. deny\n   a     b\n   long  b\n", "answer");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
