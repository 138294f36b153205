//! An explanation in words: rule by rule, with the place where each definition stopped and what its parts were.
//!
//! In: an [`Explanation`]. Out: text. Values are cut to a line; the whole of them is in `--json`.

use std::path::Path;

use regorus::Value;

use super::judging::as_json;
use super::table::clean;
use crate::policy::explain::{DefinitionStory, Explanation, Kind, Named, Outcome, RuleStory, Run};

/// Characters of a value that are shown.
const WIDTH: usize = 160;

/// All of it.
pub(super) fn text(explanation: &Explanation) -> String {
    let mut lines = Vec::new();
    for story in &explanation.rules {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(rule(story));
    }
    if !explanation.not_asked.is_empty() {
        lines.push(String::new());
        lines.push("not asked".to_owned());
        lines.extend(explanation.not_asked.iter().map(|one| format!("  {}:{}  {}", clean(&one.file), one.line, clean(&one.rule))));
    }
    if let Some(why) = &explanation.not_told {
        lines.push(format!("not told: {}", clean(why)));
    }
    lines.join("\n")
}

fn rule(story: &RuleStory) -> Vec<String> {
    let said = match &story.value {
        _ if story.function => " (a function)".to_owned(),
        Some(value) => format!(" = {}{}", short(value), if story.by_default { ", its default" } else { "" }),
        None if story.evaluated => " is undefined".to_owned(),
        None => String::new(),
    };
    let mut lines = vec![format!("{}{said}", clean(&story.rule))];
    for definition in &story.definitions {
        lines.extend(self::definition(definition));
    }
    lines
}

/// One definition, each of its runs.
pub(super) fn definition(story: &DefinitionStory) -> Vec<String> {
    let place = format!("  {}:{}", clean(&story.file), story.line);
    let what = match story.kind {
        Kind::Rule => "",
        Kind::Else => " else",
        Kind::Every => " every",
    };
    if story.not_told {
        return vec![format!("{place}{what}  not told: the engine cannot look into it")];
    }
    if story.runs.is_empty() {
        return vec![format!("{place}{what}  was not asked")];
    }
    let mut lines = Vec::new();
    for run in &story.runs {
        lines.extend(self::run(&format!("{place}{what}"), &story.file, run));
    }
    if story.more > 0 {
        lines.push(format!("{place}{what}  and {} times more", story.more));
    }
    lines
}

fn run(place: &str, file: &str, run: &Run) -> Vec<String> {
    let given = if run.arguments.is_empty() {
        String::new()
    } else {
        let arguments = run.arguments.iter().map(|named| format!("{} = {}", clean(&named.name), value(named)));
        format!("  for {}", arguments.collect::<Vec<_>>().join(", "))
    };
    match &run.outcome {
        Outcome::Held { gave, times } => {
            let values: Vec<String> =
                gave.iter().map(|solution| solution.iter().map(value).collect::<Vec<_>>().join(": ")).collect();
            let more = times.saturating_sub(gave.len());
            let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
            let said = match values.iter().all(String::is_empty) {
                true => "held".to_owned(),
                false => format!("gave {}{tail}", values.join(", ")),
            };
            vec![format!("{place}  {said}{given}")]
        }
        Outcome::Failed { line, statement, with, times } => {
            let name = Path::new(file).file_name().map_or_else(|| file.to_owned(), |name| name.to_string_lossy().into_owned());
            let mut lines =
                vec![format!("{place}  did not hold{given}"), format!("      {}:{line}  {}", clean(&name), one_line(statement))];
            for (number, solution) in with.iter().enumerate() {
                let many = with.len() > 1;
                if many && !solution.is_empty() {
                    lines.push(format!("        try {} of {times}", number + 1));
                }
                let indent = if many { "          " } else { "        " };
                lines.extend(solution.iter().map(|named| match &named.value {
                    Some(value) => format!("{indent}{} = {}", one_line(&named.name), short(value)),
                    None => format!("{indent}{} is undefined", one_line(&named.name)),
                }));
            }
            lines
        }
    }
}

fn value(named: &Named) -> String {
    named.value.as_ref().map_or_else(|| "undefined".to_owned(), short)
}

/// A value on one line, cut.
fn short(value: &Value) -> String {
    let whole = match value {
        Value::Set(items) => {
            let items: Vec<String> = items.iter_sorted().take(50).map(|item| as_json(item).to_string()).collect();
            if items.is_empty() { "set()".to_owned() } else { format!("{{{}}}", items.join(", ")) }
        }
        other => as_json(other).to_string(),
    };
    cut(&whole)
}

fn cut(text: &str) -> String {
    let mut kept: String = text.chars().take(WIDTH).collect();
    if text.chars().nth(WIDTH).is_some() {
        kept.push('…');
    }
    clean(&kept)
}

/// A statement of several lines on one.
fn one_line(text: &str) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}
