//! `portcullis eval`: the verdict the gate would give on an input document.
//!
//! In: a configuration and a JSON file. Out: the verdict, and with `--explain` how it came about; exit code 0 for an allow, 1 for a
//! denial. The document is judged as it is given: the gate itself would show a policy only what it can read of it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use regorus::Value;

use super::failure::Failure;
use super::judging::{Court, Wanted, as_json, told, words};
use super::{data, story, talk};
use crate::judge::unknown;

/// An input document may be as large as the largest body and more.
const LARGEST: u64 = 256 * 1024 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Example:
  portcullis eval -c gate.yaml -i request.json --explain

request.json holds what a policy reads as `input`, as in
  {\"request\": {\"method\": \"GET\", \"segments\": [\"v1\", \"users\"]}, \"peer\": {\"trust_domain\": \"example.org\"}}

Exit code: 0 allowed, 1 denied, 64 when configuration, policy or input are not right.")]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The input document, as JSON; - is stdin.
    #[arg(short, long, value_name = "INPUT")]
    input: PathBuf,
    /// The rule to ask, as a path [default: policy.decision].
    #[arg(long, value_name = "RULE", conflicts_with = "route")]
    entry: Option<String>,
    /// Asks the rule of this route or destination.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Says which rules fired with which values, and where the others stopped.
    #[arg(long)]
    explain: bool,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wanted = match (&arguments.entry, &arguments.route) {
        (Some(rule), _) => Wanted::Rule(rule),
        (None, Some(route)) => Wanted::Route(route),
        (None, None) => Wanted::Usual,
    };
    let mut court = Court::open(&arguments.config, wanted)?;
    let input = document(&arguments.input)?;
    let strangers = unknown::strangers(&input);
    let judgement = court.judge(&input);
    let explanation = if arguments.explain { Some(court.explain(&input)?) } else { None };
    if arguments.json {
        let mut all = told(&judgement, court.decision());
        if let Some(object) = all.as_object_mut() {
            object.insert("warnings".to_owned(), as_json(&strangers.iter().map(ToString::to_string).collect::<Vec<_>>()));
            if let Some(explanation) = &explanation {
                object.insert("explanation".to_owned(), as_json(explanation));
            }
        }
        data(&serde_json::to_string_pretty(&all).unwrap_or_default())?;
    } else {
        for strange in &strangers {
            talk(&format!("warning: {}: {}", arguments.input.display(), super::table::clean(&strange.to_string())));
        }
        let mut text = words(&judgement, court.decision());
        if let Some(explanation) = &explanation {
            text = format!("{text}\n\n{}", story::text(explanation));
        }
        data(&text)?;
    }
    if judgement.verdict.allowed { Ok(()) } else { Err(Failure::told()) }
}

fn document(path: &Path) -> Result<Value, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::misuse(format!("{}: {why}", path.display()))
            .hint("give the input document as JSON: {\"request\": {\"method\": \"GET\"}}")
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(LARGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
    };
    read.map_err(|error| wrong(&error))?;
    // serde_json tells where a mistake is; regorus reads it once more into values of its own.
    serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| wrong(&error))?;
    let value = Value::from_json_str(&text).map_err(|error| wrong(&error))?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(wrong(&"an input document is an object")),
    }
}
