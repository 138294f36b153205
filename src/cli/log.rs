//! The decision log, read back: for `audit show`, `evidence`, `replay` and `explain`.
//!
//! In: files of JSON lines, `.gz` as well. Out: one [`Line`] at a time, in the order of the files. What must stay true: memory holds one
//! line, since a log may be far larger; a line that is torn or no decision log's is counted and told, never a crash and never passed over
//! in silence; a kind this version does not know is another version's and is left alone. Not `serde_json::StreamDeserializer`: it ends at
//! the first torn line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::failure::Failure;
use super::talk;

/// No line of a record is longer: bodies are bounded.
const LINE: u64 = 256 * 1024 * 1024;

/// One line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) at: OffsetDateTime,
    pub(super) envelope: Envelope<'a>,
    pub(super) body: Body,
}

/// What lines of all kinds have in common: OPA's part.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<'a> {
    pub(super) decision_id: Option<String>,
    pub(super) timestamp: String,
    /// The rule that decided.
    pub(super) path: Option<String>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) result: Option<&'a RawValue>,
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) bundles: BTreeMap<String, Revision>,
    pub(super) requested_by: Option<String>,
    /// JSON pointers to what was taken out of the line.
    #[serde(default)]
    pub(super) erased: Vec<String>,
    /// JSON pointers to what stands for something else.
    #[serde(default)]
    pub(super) masked: Vec<String>,
    #[serde(borrow)]
    portcullis: &'a RawValue,
}

#[derive(Debug, Deserialize)]
pub(super) struct Revision {
    pub(super) revision: String,
}

/// Our part, by its kind.
#[derive(Debug)]
pub(super) enum Body {
    Decision(Box<Core>),
    Closing(Box<Closing>),
    Control(Call),
    Loss(Losses),
    /// What later lines can be held against.
    Checkpoint(serde_json::Value),
    /// Of another version.
    Other,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Core {
    pub(super) session: Option<String>,
    pub(super) peer: Option<String>,
    pub(super) task: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) action: Option<String>,
    pub(super) tool: Option<String>,
    pub(super) resource: Option<Resource>,
    pub(super) route: Option<String>,
    pub(super) listener: Option<String>,
    pub(super) upstream: Option<String>,
    pub(super) approval: Option<String>,
    pub(super) exception: Option<String>,
    pub(super) break_glass: Option<String>,
    pub(super) basis: Option<String>,
    pub(super) enforcement: Option<String>,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) reasons: Vec<String>,
    pub(super) generation: Option<u64>,
    pub(super) engine: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) method: Option<String>,
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) edits: Vec<String>,
    #[serde(flatten)]
    pub(super) end: End,
}

/// How far an exchange has come, or how it ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct End {
    pub(super) status: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration_seconds: Option<f64>,
    /// `None`: still open.
    pub(super) ending: Option<String>,
    pub(super) cause: Option<String>,
    /// The standing kill that refused or cut it.
    pub(super) kill: Option<String>,
    /// Names of the anomaly rules that fired.
    pub(super) anomaly: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Resource {
    pub(super) r#type: String,
    pub(super) sensitivity: String,
    pub(super) effect: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Closing {
    #[serde(flatten)]
    pub(super) end: End,
}

/// A call of the control API.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Call {
    pub(super) caller: Option<String>,
    pub(super) call: String,
    pub(super) status: u16,
    pub(super) outcome: String,
    pub(super) detail: serde_json::Value,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Losses {
    pub(super) lost: u64,
    pub(super) refused: u64,
    pub(super) torn: u64,
    /// By the policy, as the operator lets it.
    pub(super) dropped: u64,
}

impl Core {
    pub(super) fn allowed(&self) -> bool {
        self.verdict.as_deref() == Some("allow")
    }

    /// Let through: by the policy, or because the route only observes.
    pub(super) fn passed(&self) -> bool {
        matches!(self.verdict.as_deref(), Some("allow" | "observe_deny"))
    }
}

/// What a reading has met.
#[derive(Clone, Debug, Default)]
pub(super) struct Met {
    pub(super) lines: u64,
    /// Lines that are no JSON.
    pub(super) torn: u64,
    /// JSON that is no line of a decision log.
    pub(super) foreign: u64,
    /// Compressed files that end too early.
    pub(super) cut_off: Vec<String>,
}

impl Met {
    /// Says what could not be read, where there is something.
    pub(super) fn tell(&self) {
        let lines = |count: u64| if count == 1 { "1 line is".to_owned() } else { format!("{count} lines are") };
        if self.torn > 0 {
            talk(&format!("warning: {} no JSON and left out; a crash may have torn them", lines(self.torn)));
        }
        if self.foreign > 0 {
            talk(&format!("warning: {} no decision log's and left out", lines(self.foreign)));
        }
        for file in &self.cut_off {
            talk(&format!("warning: {file}; what was read before that counts"));
        }
    }
}

/// Reads every line of the files.
pub(super) fn each(files: &[PathBuf], mut take: impl FnMut(&Line<'_>) -> Result<(), Failure>) -> Result<Met, Failure> {
    each_holding(files, b"", &mut take)
}

/// Reads the lines that hold this text; the others are counted and not looked at.
pub(super) fn each_holding(
    files: &[PathBuf],
    wanted: &[u8],
    take: &mut dyn FnMut(&Line<'_>) -> Result<(), Failure>,
) -> Result<Met, Failure> {
    let mut met = Met::default();
    for path in files {
        let mut lines = open(path).map_err(|error| unreadable(path, &error))?;
        let mut line = Vec::new();
        loop {
            match next(&mut lines, &mut line) {
                Ok(false) => break,
                Ok(true) => {}
                Err(error) if is_packed(path) => {
                    met.cut_off.push(format!("{}: {error}", path.display()));
                    break;
                }
                Err(error) => return Err(unreadable(path, &error)),
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            met.lines += 1;
            if !holds(&line, wanted) {
                continue;
            }
            match read(&line) {
                Ok(line) => take(&line)?,
                Err(Unread::Torn) => met.torn += 1,
                Err(Unread::Foreign) => met.foreign += 1,
            }
        }
    }
    Ok(met)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::misuse(format!("{}: {error}", path.display())).hint("give files of the record: decisions.jsonl, decisions.jsonl.1, …")
}

/// Opens one file for [`next`].
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    Ok(match is_packed(path) {
        true => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
        false => Box::new(BufReader::with_capacity(1 << 20, file)),
    })
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// Puts the next line into `line`; false at the end.
pub(super) fn next(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(lines.by_ref().take(LINE).read_until(b'\n', line)? > 0)
}

/// Cheaper than reading each line as JSON.
pub(super) fn holds(line: &[u8], wanted: &[u8]) -> bool {
    let Some(first) = wanted.first() else { return true };
    let at = |from: usize| line.get(from..).and_then(|rest| rest.iter().position(|byte| byte == first)).map(|at| from + at);
    let mut here = at(0);
    while let Some(start) = here {
        if line.get(start..).is_some_and(|rest| rest.starts_with(wanted)) {
            return true;
        }
        here = at(start + 1);
    }
    false
}

/// Why a line is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Torn,
    Foreign,
}

/// One line, read.
pub(super) fn read(line: &[u8]) -> Result<Line<'_>, Unread> {
    let foreign = |error: serde_json::Error| {
        if error.is_data() { Unread::Foreign } else { Unread::Torn }
    };
    let envelope: Envelope<'_> = serde_json::from_slice(line).map_err(foreign)?;
    let at = OffsetDateTime::parse(&envelope.timestamp, &Rfc3339).map_err(|_| Unread::Foreign)?;
    let ours = envelope.portcullis.get();
    #[derive(Deserialize)]
    struct Kind<'k> {
        #[serde(borrow)]
        kind: Cow<'k, str>,
    }
    let kind: Kind<'_> = serde_json::from_str(ours).map_err(foreign)?;
    let body = match &*kind.kind {
        "decision" => Body::Decision(serde_json::from_str(ours).map_err(foreign)?),
        "closing" => Body::Closing(serde_json::from_str(ours).map_err(foreign)?),
        "control" => Body::Control(serde_json::from_str(ours).map_err(foreign)?),
        "loss" => Body::Loss(serde_json::from_str(ours).map_err(foreign)?),
        "checkpoint" => Body::Checkpoint(serde_json::from_str(ours).map_err(foreign)?),
        _ => Body::Other,
    };
    Ok(Line { at, envelope, body })
}

/// The files in the order of their first lines: rotation counts backwards, and shells sort by name.
pub(super) fn in_order(files: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut dated = Vec::new();
    for path in files {
        let mut lines = open(path).map_err(|error| unreadable(path, &error))?;
        let mut line = Vec::new();
        let mut first = None;
        while first.is_none() && next(&mut lines, &mut line).unwrap_or(false) {
            first = read(&line).ok().map(|line| line.at);
        }
        dated.push((first, path.clone()));
    }
    // Stable: files nobody can date stay where they were named.
    dated.sort_by_key(|(first, _)| *first);
    Ok(dated.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_torn_or_foreign_is_counted_and_another_versions_kind_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jsonl");
        let line = |kind: &str, more: &str| {
            format!("{{\"timestamp\": \"2026-01-01T00:00:00.5Z\", \"portcullis\": {{\"kind\": \"{kind}\"{more}}}}}\n")
        };
        let text = [
            &line("decision", ", \"verdict\": \"deny\", \"reasons\": [\"x\"], \"bytes_in\": 7"),
            "{\"timestamp\": \"2026\n",
            "{\"a\": 1}\n",
            "\n",
            "[1]\n",
            &line("decision", ", \"reasons\": 7"),
            &line("start", ""),
            &line("loss", ", \"lost\": 3"),
            "\u{0}\u{0}\n",
        ];
        std::fs::write(&file, text.concat()).unwrap();
        let mut seen = Vec::new();
        let met = each(std::slice::from_ref(&file), |line| {
            seen.push(match &line.body {
                Body::Decision(core) => format!("{:?} {}", core.reasons, core.end.bytes_in),
                Body::Loss(losses) => format!("lost {}", losses.lost),
                other => format!("{other:?}"),
            });
            Ok(())
        });
        let met = met.unwrap();
        assert_eq!(seen, ["[\"x\"] 7", "Other", "lost 3"]);
        assert_eq!((met.lines, met.torn, met.foreign), (8, 2, 3));
        let missing = each(&[folder.path().join("none")], |_| Ok(())).unwrap_err();
        assert!(missing.to_string().contains("none: ") && missing.code == 64, "{missing}");
    }

    #[test]
    fn a_text_is_found_anywhere_in_a_line() {
        assert!(holds(b"xaab", b"ab") && holds(b"ab", b"ab") && holds(b"x", b"") && !holds(b"aaa", b"ab"));
    }
}
