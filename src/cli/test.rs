//! `portcullis test`: the `test_` rules of a policy, as `opa test` runs them, and which rules they reach.
//!
//! In: bundles and Rego files. Out: a line for each test that is not fine (`-v`: for each), where and with which values it failed, and
//! how much of the policy the tests reach. Exit code 0 when every test passed, 1 when one did not, 64 when the policy is not right.

use std::io::{IsTerminal as _, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use regex::Regex;
use serde_json::json;

use super::failure::Failure;
use super::judging::{as_json, deeply};
use super::table::{clean, count};
use super::{data, story};
use crate::intake::Watch;
use crate::policy::bundle::{Fingerprint, fingerprint};
use crate::policy::explain::{Explanation, Outcome as Step};
use crate::policy::suite::{Definition, Outcome, Ran, Suite, Test};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  portcullis test policy
  portcullis test policy --run reads -v
  portcullis test policy --coverage-min 90 --watch

A test is a rule whose name begins with test_, in any file; it passes when it is true. todo_test_ is skipped. A rule counts as
covered when some test entered one of its definitions, its whole body held, and its value was defined; `default` and the rules
of files named _test.rego are not counted.

Exit code: 0 all passed, 1 a test failed or too few rules are covered, 64 the policy is not right.")]
pub(super) struct Arguments {
    /// Bundles (a directory or .tar.gz) and Rego files; several are laid over each other.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Runs only tests whose full name (data.package.test_name) matches.
    #[arg(long, value_name = "REGEX")]
    run: Option<Regex>,
    /// Runs again whenever a file changes, until interrupted.
    #[arg(long)]
    watch: bool,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Fails when fewer rules than this are covered, in percent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// Prints tests that passed too, what they printed, and all that a failed one asked.
    #[arg(short, long)]
    verbose: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.watch {
        return once(arguments);
    }
    let mut watch = Watch::new(looked(arguments));
    loop {
        if stdout().is_terminal() {
            data("\u{1b}[2J\u{1b}[H")?;
        }
        match once(arguments) {
            Err(failure) if !failure.is_told() => super::talk(&failure.to_string()),
            Ok(()) | Err(_) => {}
        }
        super::talk("watching; a change of a file runs the tests again");
        while !watch.changed(looked(arguments)) {
            std::thread::sleep(LOOK);
        }
    }
}

fn looked(arguments: &Arguments) -> Vec<Option<Fingerprint>> {
    arguments.paths.iter().map(|path| fingerprint(path).ok()).collect()
}

/// All of one turn.
struct Results {
    ran: Vec<(Test, Ran)>,
    covered: usize,
    counted: usize,
    uncovered: Vec<Definition>,
}

fn once(arguments: &Arguments) -> Result<(), Failure> {
    let (paths, wanted) = (arguments.paths.clone(), arguments.run.clone());
    let results = deeply(move || {
        let mut suite = Suite::load(&paths)?;
        let mut tests = suite.tests.clone();
        tests.retain(|test| wanted.as_ref().is_none_or(|wanted| wanted.is_match(&test.name)));
        let ran = tests.into_iter().map(|test| (test.clone(), suite.run(&test))).collect();
        let (covered, counted, uncovered) = suite.coverage();
        Ok(Results { ran, covered, counted, uncovered })
    })?;
    let results = results.map_err(|report: crate::policy::Report| Failure::misuse(format!("the policy has mistakes\n{report}")))?;
    if results.ran.is_empty() {
        let message = if arguments.run.is_some() { "no test is called so" } else { "there are no tests" };
        return Err(Failure::new(message).hint("a test is a rule whose name begins with test_"));
    }
    let failed = results.ran.iter().any(|(_, ran)| matches!(ran.outcome, Outcome::Fail | Outcome::Error(_)));
    let short = arguments.coverage_min.is_some_and(|least| results.covered * 100 < usize::from(least) * results.counted);
    let text = if arguments.json { as_text(&results) } else { words(&results, arguments) };
    data(&text)?;
    if failed || short { Err(Failure::told()) } else { Ok(()) }
}

fn percent(results: &Results) -> f64 {
    if results.counted == 0 {
        return 100.0;
    }
    // Counts of rules are far below what a double cannot hold.
    let (covered, counted) =
        (u32::try_from(results.covered).unwrap_or(u32::MAX), u32::try_from(results.counted).unwrap_or(u32::MAX));
    f64::from(covered) * 100.0 / f64::from(counted)
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "PASS",
        Outcome::Fail => "FAIL",
        Outcome::Error(_) => "ERROR",
        Outcome::Skipped => "SKIPPED",
    }
}

fn as_text(results: &Results) -> String {
    let tests = results.ran.iter().map(|(test, ran)| {
        let cases = ran.cases.iter().map(|(keys, held)| json!({"case": keys, "passed": held}));
        let error = match &ran.outcome {
            Outcome::Error(error) => Some(error),
            Outcome::Pass | Outcome::Fail | Outcome::Skipped => None,
        };
        json!({
            "name": test.name, "file": test.file, "line": test.line, "outcome": word(&ran.outcome).to_lowercase(), "error": error,
            "seconds": ran.took.as_secs_f64(), "cases": cases.collect::<Vec<_>>(), "prints": ran.prints,
            "explanation": ran.explanation.as_ref().map(as_json),
        })
    });
    let missing = results.uncovered.iter().map(|one| json!({"rule": one.rule, "file": one.file, "line": one.line}));
    let all = json!({
        "tests": tests.collect::<Vec<_>>(),
        "coverage": {
            "percent": percent(results), "covered": results.covered, "rules": results.counted,
            "not_covered": missing.collect::<Vec<_>>(),
        },
    });
    serde_json::to_string_pretty(&all).unwrap_or_default()
}

fn words(results: &Results, arguments: &Arguments) -> String {
    let mut lines = Vec::new();
    for (test, ran) in &results.ran {
        lines.extend(told(test, ran, arguments.verbose));
    }
    // As `opa test` counts them: of a test with cases, each case.
    let each = |ran: &Ran, wanted: &str| match (ran.cases.is_empty(), &ran.outcome) {
        (false, Outcome::Pass | Outcome::Fail) => ran.cases.iter().filter(|(_, held)| (wanted == "PASS") == *held).count(),
        (_, outcome) => usize::from(word(outcome) == wanted),
    };
    let number = |wanted: &str| {
        let counted = |ran: &Ran| if matches!(wanted, "PASS" | "FAIL") || ran.cases.is_empty() { each(ran, wanted) } else { 0 };
        results.ran.iter().map(|(_, ran)| counted(ran)).sum::<usize>()
    };
    if !lines.is_empty() {
        lines.push("-".repeat(80));
    }
    let total = ["PASS", "FAIL", "ERROR", "SKIPPED"].map(number).iter().sum::<usize>();
    lines.push(format!("PASS: {}/{total}", number("PASS")));
    let others = ["FAIL", "ERROR", "SKIPPED"].into_iter().filter(|word| number(word) > 0);
    lines.extend(
        others.map(|word| format!("{word}: {}/{}", number(word), if word == "SKIPPED" { results.ran.len() } else { total })),
    );
    let of = count(results.counted, "rule");
    lines.push(format!("coverage: {:.1} % ({} of {of})", percent(results), results.covered));
    let shown = if arguments.verbose || arguments.coverage_min.is_some() { usize::MAX } else { 10 };
    lines.extend(
        results
            .uncovered
            .iter()
            .take(shown)
            .map(|one| format!("  not covered: {}:{}  {}", clean(&one.file), one.line, clean(&one.rule))),
    );
    let more = results.uncovered.len().saturating_sub(shown);
    lines.extend((more > 0).then(|| format!("  and {more} more; -v names them all")));
    if let Some(least) = arguments.coverage_min.filter(|least| results.covered * 100 < usize::from(*least) * results.counted) {
        lines.push(format!("coverage is below the {least} % that are asked for"));
    }
    lines.join("\n")
}

fn told(test: &Test, ran: &Ran, verbose: bool) -> Vec<String> {
    if ran.outcome == Outcome::Pass && !verbose {
        return Vec::new();
    }
    let took =
        if ran.outcome == Outcome::Skipped { String::new() } else { format!(" ({:.3} ms)", ran.took.as_secs_f64() * 1000.0) };
    let mut lines = vec![format!("{}:{}: {}: {}{took}", clean(&test.file), test.line, word(&ran.outcome), clean(&test.name))];
    let cases = ran.cases.iter().filter(|(_, held)| verbose || !held);
    lines.extend(cases.map(|(keys, held)| format!("    {}: {}", if *held { "PASS" } else { "FAIL" }, clean(&keys.join("/")))));
    if let Outcome::Error(error) = &ran.outcome {
        lines.push(format!("    {}", clean(error)));
    }
    if let Some(explanation) = &ran.explanation {
        let text = if verbose { story::text(explanation) } else { shortly(explanation) };
        lines.extend(text.lines().map(|line| format!("  {line}")));
    }
    if verbose || ran.outcome != Outcome::Pass {
        lines.extend(ran.prints.iter().map(|print| format!("    printed: {}", clean(print))));
    }
    lines
}

/// Where a test itself stopped; what it asked is told with `-v`.
fn shortly(explanation: &Explanation) -> String {
    let Some(first) = explanation.rules.first().filter(|_| explanation.not_told.is_none()) else { return story::text(explanation) };
    let mut lines = Vec::new();
    for definition in &first.definitions {
        if definition.runs.iter().any(|run| matches!(run.outcome, Step::Failed { .. })) || first.definitions.len() == 1 {
            lines.extend(story::definition(definition));
        }
    }
    lines.join("\n")
}
