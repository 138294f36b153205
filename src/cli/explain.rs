//! `portcullis explain`: a recorded decision, judged once more by the policy as it stands now.
//!
//! In: a decision id, a configuration, the record. Out: record and now side by side, what the record does not hold, and how the new
//! verdict came about. What must stay true: a path the record lacks is never passed off as absent where it may only be unrecorded;
//! what was hashed is named. The record is read line by line, since it may be far larger than memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use regorus::Value;
use serde_json::json;
use serde_json::value::RawValue;

use super::failure::Failure;
use super::judging::{Court, Wanted, as_json, told};
use super::lacking::{self, Recorded};
use super::log::{self, Body, Core, Revision};
use super::table::{clean, or_dash, table};
use super::{data, story};
use crate::judge::Judgement;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  portcullis explain 3f2a3f2a-0000-4000-8000-000000000000 -c gate.yaml

The id stands in the body of each denial (decision_id) and in each line of the record. A record holds what the policy could
read of the request, without bodies; `audit.input: full` records them too.")]
pub(super) struct Arguments {
    /// The decision's id.
    decision_id: String,
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The record [default: audit.file, then those beside it that rotation left: FILE.1, FILE.2.gz].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// What is read of a decision line.
#[derive(Debug)]
struct Line {
    timestamp: String,
    path: Option<String>,
    input: Option<Box<RawValue>>,
    error: Option<String>,
    bundles: BTreeMap<String, Revision>,
    erased: Vec<String>,
    masked: Vec<String>,
    portcullis: Core,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let log = match &arguments.log {
        Some(log) => vec![log.clone()],
        None => beside(&Court::config(&arguments.config)?.audit.file),
    };
    let line = find(&log, &arguments.decision_id)?;
    let Some((path, input)) = line.path.as_deref().zip(line.input.as_ref()) else {
        return Err(Failure::new(format!("no policy was asked: {}", summary(&line)))
            .hint("the gate itself refused it; `reason` is one of the words of the README"));
    };
    let mut court = Court::open(&arguments.config, Wanted::Rule(path))?;
    let input =
        Value::from_json_str(input.get()).map_err(|error| Failure::new(format!("the record's input is no JSON: {error}")))?;
    let unknown = unknown(&court, &line, &input);
    let hashed = lacking::hashed(&input);
    let hashed: Vec<String> = hashed.iter().map(|path| format!("input.{}", path.join("."))).collect();
    let judgement = court.judge(&input);
    let explanation = court.explain(&input)?;
    let differs = differs(&line, &judgement);
    if arguments.json {
        let all = json!({
            "record": {
                "timestamp": line.timestamp, "verdict": line.portcullis.verdict, "reason": line.portcullis.reason,
                "reasons": line.portcullis.reasons, "generation": line.portcullis.generation, "engine": line.portcullis.engine,
                "revisions": line.bundles.iter().map(|(name, bundle)| (name, &bundle.revision)).collect::<BTreeMap<_, _>>(),
                "error": line.error,
            },
            "now": told(&judgement, path),
            "revisions": court.policy.revisions(),
            "different": differs,
            "unknown": unknown,
            "hashed": hashed,
            "explanation": as_json(&explanation),
        });
        return data(&serde_json::to_string_pretty(&all).unwrap_or_default());
    }
    let mut parts = vec![format!("{}  {}", clean(&line.timestamp), summary(&line)), compared(&line, &court, &judgement, differs)];
    parts.extend((!unknown.is_empty()).then(|| {
        let lines = unknown.iter().map(|path| {
            format!("  the record does not hold {path}: it was not there, or was not recorded; judged as if it was not there")
        });
        format!("not told\n{}", lines.collect::<Vec<_>>().join("\n"))
    }));
    parts.extend((!hashed.is_empty()).then(|| {
        let lines = hashed
            .iter()
            .map(|path| format!("  {path} is a hash in the record; a policy that compares its value judges otherwise"));
        format!("hashed\n{}", lines.collect::<Vec<_>>().join("\n"))
    }));
    parts.push(story::text(&explanation));
    data(&parts.join("\n\n"))
}

fn summary(line: &Line) -> String {
    let core = &line.portcullis;
    let word = |text: &Option<String>| clean(text.as_deref().unwrap_or("-"));
    let reason = core.reason.as_ref().map_or_else(String::new, |reason| format!(" ({})", clean(reason)));
    format!(
        "{} {}{} by {}: {}{reason}",
        word(&core.method),
        word(&core.host),
        word(&core.path),
        word(&core.peer),
        word(&core.verdict)
    )
}

fn differs(line: &Line, now: &Judgement) -> bool {
    let reason = now.verdict.reason.map(|reason| reason.code());
    // What an anomaly rule or a kill denied was no word of the policy's.
    let same_reason = line.portcullis.allowed() || reason == line.portcullis.reason.as_deref();
    line.portcullis.allowed() != now.verdict.allowed || !same_reason || line.portcullis.reasons != now.verdict.reasons
}

fn compared(line: &Line, court: &Court, now: &Judgement, differs: bool) -> String {
    let core = &line.portcullis;
    let list = |all: &[String]| or_dash((!all.is_empty()).then(|| all.join(", ")));
    let row = |name: &str, then: String, now: String| [name.to_owned(), then, now];
    let mut rows = vec![
        row("verdict", or_dash(core.verdict.as_ref()), if now.verdict.allowed { "allow" } else { "deny" }.to_owned()),
        row("reason", or_dash(core.reason.as_ref()), or_dash(now.verdict.reason.map(|reason| reason.code()))),
        row("reasons", list(&core.reasons), list(&now.verdict.reasons)),
        row("edits", list(&core.edits), "see the answer".to_owned()),
        row("engine", or_dash(core.engine.as_ref()), now.engine.code().to_owned()),
        row("generation", or_dash(core.generation), "on disk".to_owned()),
    ];
    if core.edits.is_empty() {
        rows.retain(|[name, ..]| name != "edits");
    }
    let mut changed = Vec::new();
    let names: BTreeSet<&String> = line.bundles.keys().chain(court.policy.revisions().keys()).collect();
    for name in names {
        let (then, now) = (line.bundles.get(name).map(|bundle| &bundle.revision), court.policy.revisions().get(name));
        rows.push(row(&format!("bundle {name}"), or_dash(then), or_dash(now)));
        if then != now {
            changed.push(clean(name));
        }
    }
    rows.extend(
        line.error.iter().chain(&now.fault).next().map(|_| row("fault", or_dash(line.error.as_ref()), or_dash(now.fault.as_ref()))),
    );
    let mut said = vec![table(["", "RECORD", "NOW"], rows)];
    said.push(match (differs, changed.is_empty()) {
        (false, true) => "the same verdict, by bundles of the same revision".to_owned(),
        (false, false) => format!("the same verdict, by another revision of {}", changed.join(", ")),
        (true, true) => "a different verdict, by bundles of the same revision".to_owned(),
        (true, false) => format!("a different verdict, by another revision of {}", changed.join(", ")),
    });
    if core.verdict.as_deref() == Some("observe_deny") || core.enforcement.as_deref() == Some("observe") {
        said.push("the route only observed: the request was let through".to_owned());
    }
    said.join("\n")
}

/// What the policy reads, and the record may only have left out.
///
/// The same revision is no proof that it was the same policy: whoever wrote the manifest may have left the number as it was.
fn unknown(court: &Court, line: &Line, input: &Value) -> Vec<String> {
    let footprint = court.policy.footprint(court.entry);
    let end = &line.portcullis.end;
    let recorded = Recorded { by: None, no_body: end.bytes_in == 0 && end.ending.is_some() };
    let mut missing = lacking::unrecorded(footprint, recorded, input);
    missing.extend(lacking::taken_out(footprint, line.erased.iter().chain(&line.masked)));
    missing.into_iter().collect()
}

/// The record, and the files rotation left beside it, the newest first.
fn beside(log: &Path) -> Vec<PathBuf> {
    let mut files = vec![log.to_owned()];
    let name = log.file_name().map(|name| format!("{}.", name.to_string_lossy())).unwrap_or_default();
    let folder = log.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut rotated: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .filter_map(|entry| Some((entry.metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok()?, entry.path())))
        .collect();
    rotated.sort();
    files.extend(rotated.into_iter().rev().map(|(_, path)| path));
    files
}

fn find(files: &[PathBuf], id: &str) -> Result<Line, Failure> {
    let mut looked = Vec::new();
    for path in files {
        if path == Path::new("-") {
            return Err(Failure::misuse("the record goes to stdout (audit.file is -)").hint("give the file it ended in with --log"));
        }
        match in_file(path, id) {
            Ok(Some(line)) => return Ok(line),
            Ok(None) => looked.push(path.display().to_string()),
            Err(error) => {
                return Err(Failure::misuse(format!("{}: {error}", path.display())).hint("give the record with --log FILE"));
            }
        }
    }
    Err(Failure::new(format!("no decision {} in {}", clean(id), looked.join(", ")))
        .hint("a record that was moved away is read with --log FILE"))
}

/// The decision line of this id. A line that is no JSON is none: a crash may have torn it.
fn in_file(path: &Path, id: &str) -> io::Result<Option<Line>> {
    let mut lines = log::open(path)?;
    let wanted = serde_json::Value::from(id).to_string();
    let mut line = Vec::new();
    while log::next(&mut lines, &mut line)? {
        // Cheaper than reading each line as JSON, and a line that has the id somewhere else is looked at and passed over.
        if !log::holds(&line, wanted.as_bytes()) {
            continue;
        }
        let Ok(log::Line { envelope, body: Body::Decision(core), .. }) = log::read(&line) else { continue };
        if envelope.decision_id.as_deref() == Some(id) {
            return Ok(Some(Line {
                timestamp: envelope.timestamp,
                path: envelope.path,
                input: envelope.input.map(ToOwned::to_owned),
                error: envelope.error,
                bundles: envelope.bundles,
                erased: envelope.erased,
                masked: envelope.masked,
                portcullis: *core,
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_found_among_torn_and_other_lines() {
        let core = r#""portcullis": {"kind": "KIND", "verdict": "deny", "reason": "policy", "bytes_in": 0}"#;
        let line = |id: &str, kind: &str| {
            format!("{{\"decision_id\": \"{id}\", \"timestamp\": \"2026-01-01T00:00:00Z\", {}}}\n", core.replace("KIND", kind))
        };
        let text = ["{\"torn\": \"b", "\n", &line("b", "closing"), &line("a", "decision"), &line("b", "decision")].concat();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jsonl");
        std::fs::write(&file, text).unwrap();
        let found = in_file(&file, "b").unwrap().unwrap();
        assert_eq!((found.portcullis.reason.as_deref(), found.path), (Some("policy"), None));
        assert!(in_file(&file, "c").unwrap().is_none());
    }
}
