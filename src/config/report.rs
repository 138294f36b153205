//! What is wrong with a configuration: every mistake with its place, in the order a reader meets them.
//!
//! In: mistakes from every stage of reading, in any order. Out: one text, sorted by position, each mistake with its hint below it.
//! A mistake never quotes what a variable of the environment held, only the reference to it: reports end up in logs, and what stands
//! in variables is often secret.

use std::fmt;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Such as `listeners[0].routes[1].upstream`; empty for the file as a whole.
    pub path: String,
    pub message: String,
    /// The next step, when one is known.
    pub hint: Option<String>,
}

/// Every mistake of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file, as it was named.
    pub origin: String,
    /// Sorted by position; never empty.
    pub mistakes: Vec<Mistake>,
}

impl Mistake {
    /// One about the file as a whole.
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self { line: 1, column: 1, path: String::new(), message: message.into(), hint: None }
    }
}

impl Report {
    pub(super) fn new(origin: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort();
        mistakes.dedup();
        Self { origin: origin.to_owned(), mistakes }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let Mistake { line, column, path, message, hint } = mistake;
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{line}:{column}: ", self.origin)?;
            if !path.is_empty() {
                write!(f, "{path}: ")?;
            }
            f.write_str(message)?;
            if let Some(hint) = hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// `text` in backticks, without control characters and not longer than a line can bear.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String =
        text.chars().take(SHOWN).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// The one of `known` that `text` was probably meant to be.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (text.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&text.to_lowercase(), &name.to_lowercase()), name))
        .filter(|&(distance, name)| distance <= most && distance < name.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// What to say of a name that is not one of `known`.
pub(super) fn suggestion<'a>(text: &str, known: impl IntoIterator<Item = &'a str> + Clone, kind: &str) -> Option<String> {
    if let Some(name) = nearest(text, known.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let known: Vec<String> = known.into_iter().map(quote).collect();
    (!known.is_empty()).then(|| format!("{kind}: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_top_down_with_hints_below() {
        let later = Mistake {
            line: 12,
            column: 7,
            path: "b".into(),
            message: "unknown key".into(),
            hint: Some("did you mean `c`?".into()),
        };
        let report = Report::new("gate.yaml", vec![later.clone(), Mistake::whole("no good"), later]);
        assert_eq!(report.to_string(), "gate.yaml:1:1: no good\ngate.yaml:12:7: b: unknown key\n  hint: did you mean `c`?");
    }

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("adress", ["name", "address"]), Some("address"));
        assert_eq!(nearest("Mode", ["model", "mode"]), Some("mode"));
        assert_eq!(nearest("x", ["a", "b"]), None);
        assert_eq!(nearest("colour", ["name", "address"]), None);
        assert_eq!(suggestion("x", ["a", "b"], "known keys"), Some("known keys: `a`, `b`".into()));
    }

    #[test]
    fn what_is_quoted_is_short_and_safe_for_terminals() {
        assert_eq!(quote("\u{1b}[2J"), "`\\u{1b}[2J`");
        assert_eq!(quote(&"x".repeat(99)).chars().count(), 63);
    }
}
