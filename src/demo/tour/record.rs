//! The last step of the tour: what the record says about the others.
//!
//! In: the gate's record, complete since the gate has stopped. Out: a table, one row an exchange. The rows are compared with what the
//! tour did: a record that tells another story than the client saw would be the worst failure of all.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::{Failed, Wrong, expect};
use crate::demo::teller::Teller;

/// What the tour did, as the record should tell it: request, verdict, the gate's reason, how it ended, why it was cut.
const STORY: [[&str; 5]; 11] = [
    ["GET /v1/users", "allow", "-", "complete", "-"],
    ["DELETE /v1/users/7", "deny", "policy", "denied", "-"],
    ["POST /v1/users", "allow", "-", "complete", "-"],
    ["GET /v1/events", "allow", "-", "cut", "kill"],
    ["GET /v1/users", "deny", "killed", "denied", "-"],
    ["GET /v1/users", "allow", "-", "complete", "-"],
    ["GET /v1/export", "allow", "-", "cut", "policy"],
    ["GET /v1/export", "deny", "policy", "denied", "-"],
    ["GET /v1/export", "allow", "-", "client_gone", "-"],
    ["GET /v1/terminal", "allow", "-", "cut", "kill"],
    ["POST /demo.v1.Users/Watch", "allow", "-", "cut", "kill"],
];
/// The last two columns are the policy's own words and the names of what it changed.
const HEADINGS: [&str; COLUMNS] = ["request", "verdict", "reason", "ending", "cause", "policy says", "edits"];
const COLUMNS: usize = 7;

/// Prints the record as a table.
///
/// # Errors
/// When it cannot be read, or does not tell what happened.
pub fn show<W: Write>(decisions: &Path, teller: &mut Teller<W>) -> Result<(), Failed> {
    let failed = |seen| Failed { step: "record", seen };
    let text = std::fs::read_to_string(decisions).map_err(|error| failed(error.into()))?;
    let rows = rows(&text);
    tell(decisions, &rows, teller).map_err(|error| failed(error.into()))?;
    compare(&rows).map_err(failed)
}

fn tell<W: Write>(decisions: &Path, rows: &[[String; COLUMNS]], teller: &mut Teller<W>) -> std::io::Result<()> {
    teller.step("The record: what it says about all this")?;
    teller.fact("one decision a line", &decisions.display().to_string())?;
    teller.line("")?;
    let mut table = vec![HEADINGS.map(str::to_owned)];
    table.extend_from_slice(rows);
    teller.table(&table)
}

fn compare(rows: &[[String; COLUMNS]]) -> Result<(), Wrong> {
    for (index, wanted) in STORY.iter().enumerate() {
        let seen = rows.get(index).map_or_else(Vec::new, |row| row.iter().take(wanted.len()).map(String::as_str).collect());
        expect("a row of the record", wanted.join(", "), seen.join(", "))?;
    }
    expect("rows of the record", STORY.len(), rows.len())
}

/// One row an exchange, in the order they were decided; what a closing line knows stands in the row of its decision.
fn rows(text: &str) -> Vec<[String; COLUMNS]> {
    let mut rows = BTreeMap::new();
    let mut closings = BTreeMap::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let at = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let or_dash = |pointer: &str| at(pointer).unwrap_or_else(|| "-".to_owned());
        let id = at("/decision_id").unwrap_or_default();
        let end = [or_dash("/portcullis/ending"), or_dash("/portcullis/cause")];
        match at("/portcullis/kind").as_deref() {
            Some("decision") => {
                let request = format!("{} {}", or_dash("/portcullis/method"), or_dash("/portcullis/path"));
                let head = [request, or_dash("/portcullis/verdict"), or_dash("/portcullis/reason")];
                let words = [words(&line, "/portcullis/reasons"), words(&line, "/portcullis/edits")];
                rows.insert((at("/timestamp"), id), (head, end, words));
            }
            Some("closing") => {
                closings.insert(id, end);
            }
            _ => {}
        }
    }
    let mut told = Vec::with_capacity(rows.len());
    for ((_, id), (head, end, [reasons, edits])) in rows {
        let ([request, verdict, reason], [ending, cause]) = (head, closings.remove(&id).unwrap_or(end));
        told.push([request, verdict, reason, ending, cause, reasons, edits]);
    }
    told
}

/// A list of words, `-` when it is empty.
fn words(line: &Value, pointer: &str) -> String {
    let words = line.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let words: Vec<&str> = words.filter_map(Value::as_str).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(story: &[[&str; 5]]) -> String {
        let mut text = String::new();
        for (index, [request, verdict, reason, ending, cause]) in story.iter().enumerate() {
            let (method, path) = request.split_once(' ').unwrap();
            let word = |word: &str| if word == "-" { Value::Null } else { json!(word) };
            // As a stream is recorded: decided, still open, and closed by a line of its own.
            let open = *ending == "cut";
            let (end, why) = if open { (Value::Null, Value::Null) } else { (word(ending), word(cause)) };
            let decision = json!({"decision_id": index.to_string(), "timestamp": format!("2026-01-01T00:00:0{index}Z"),
                "portcullis": {"kind": "decision", "method": method, "path": path, "verdict": verdict, "reason": word(reason),
                "reasons": ["not_granted"], "edits": ["rewrite body"], "ending": end, "cause": why}});
            let closing =
                json!({"decision_id": index.to_string(), "portcullis": {"kind": "closing", "ending": ending, "cause": cause}});
            // Later decisions may be written first.
            text = if open { format!("{text}{closing}\n{decision}\n") } else { format!("{decision}\n{text}") };
        }
        text
    }

    #[test]
    fn a_row_is_one_exchange_in_the_order_of_decision() {
        let rows = rows(&record(&STORY));
        compare(&rows).unwrap();
        assert_eq!(rows[1].join("|"), "DELETE /v1/users/7|deny|policy|denied|-|not_granted|rewrite body");
        assert_eq!(rows[3].join("|"), "GET /v1/events|allow|-|cut|kill|not_granted|rewrite body");
    }

    #[test]
    fn a_record_that_tells_another_story_fails() {
        let mut other = STORY;
        other[4][1] = "allow";
        for wrong in [record(&other), record(&STORY[..8]), String::new()] {
            assert!(compare(&rows(&wrong)).is_err(), "{wrong}");
        }
        let mut longer = STORY.to_vec();
        longer.push(STORY[0]);
        assert!(compare(&rows(&record(&longer))).is_err());
    }
}
