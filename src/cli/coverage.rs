//! `portcullis policy coverage`: which controls of the published catalogues a policy serves, as far as its tests show it.
//!
//! In: bundles. Out: each control that a rule's annotation names, with the rule and the tests in which that rule held. Exit code 0
//! when each claim is shown, 1 when one is not or a test fails, 64 when the policy is not right. What must stay true: nothing is
//! claimed that no passing test shows, and a policy whose tests fail claims nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::data;
use super::failure::Failure;
use super::judging::deeply;
use super::table::{clean, count};
use crate::policy::Report;
use crate::policy::annotations::{Claim, Scope, claims};
use crate::policy::frameworks::{FRAMEWORKS, Framework};
use crate::policy::suite::{Definition, Outcome, Suite};

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  portcullis policy coverage policies/path-roles
  portcullis policy coverage policies/* --json

A rule claims controls in its annotation:

  # METADATA
  # title: Only what a role grants
  # custom:
  #   controls:
  #     owasp_nhi_2025: [NHI5]
  #     nist_csf_2_0: [PR.AA-05]

Catalogues: owasp_nhi_2025, owasp_agentic_2026, csa_maestro, nist_csf_2_0, nist_ai_rmf_1_0, mitre_atlas. A claim is shown when
the rule held in at least one of the bundle's tests, and all of them pass. That a rule serves a control is its author's word.

Exit code: 0 each claim is shown, 1 one is not or a test fails, 64 the policy is not right.")]
pub(super) struct Arguments {
    /// Bundles (a directory or .tar.gz), each with its tests.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Prints JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// The whole map.
#[derive(Default, Serialize)]
struct Map {
    frameworks: Vec<Served>,
    /// Claims no test shows.
    not_shown: Vec<Rule>,
    /// Tests that do not pass.
    failed: Vec<String>,
}

/// One catalogue, its controls in their order.
#[derive(Serialize)]
struct Served {
    key: &'static str,
    title: &'static str,
    controls: Vec<Control>,
    /// Ids no rule claims.
    not_claimed: Vec<&'static str>,
}

#[derive(Serialize)]
struct Control {
    id: &'static str,
    name: &'static str,
    rules: Vec<Rule>,
}

/// A rule that claims, and the tests that show it.
#[derive(Clone, Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    rule: String,
    title: String,
    file: String,
    line: u32,
    tests: BTreeSet<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let paths = arguments.paths.clone();
    let map = deeply(move || map(&paths))?;
    let map = map.map_err(|report: Report| Failure::misuse(format!("the policy has mistakes\n{report}")))?;
    let text = if arguments.json { serde_json::to_string_pretty(&map).unwrap_or_default() } else { words(&map) };
    data(&text)?;
    if map.failed.is_empty() && map.not_shown.is_empty() { Ok(()) } else { Err(Failure::told()) }
}

fn map(paths: &[PathBuf]) -> Result<Map, Report> {
    let mut map = Map::default();
    let mut shown: BTreeMap<(usize, usize), Vec<Rule>> = BTreeMap::new();
    for path in paths {
        let mut suite = Suite::load(&[path])?;
        let tested = tested(&mut suite, &mut map.failed);
        for claim in claims(suite.sources())? {
            let rule = rule(&claim, &suite.counted(), &tested)?;
            if rule.tests.is_empty() {
                map.not_shown.push(rule);
                continue;
            }
            for (framework, id) in &claim.controls {
                let place = FRAMEWORKS.iter().position(|known| known.key == framework.key).zip(framework.place(id));
                shown.entry(place.unwrap_or_default()).or_default().push(rule.clone());
            }
        }
    }
    // A test that fails shows nothing, and says that the rules beside it may be wrong as well.
    if !map.failed.is_empty() {
        shown.clear();
    }
    map.frameworks = FRAMEWORKS.iter().enumerate().map(|(place, framework)| served(place, framework, &shown)).collect();
    Ok(map)
}

/// Runs every test, and says in which each definition held.
fn tested(suite: &mut Suite, failed: &mut Vec<String>) -> BTreeMap<Definition, BTreeSet<String>> {
    let mut held: BTreeMap<Definition, BTreeSet<String>> = BTreeMap::new();
    for test in suite.tests.clone() {
        let ran = suite.run(&test);
        match ran.outcome {
            Outcome::Pass => {}
            Outcome::Skipped => continue,
            Outcome::Fail | Outcome::Error(_) => failed.push(test.name.clone()),
        }
        for definition in ran.reached {
            held.entry(definition).or_default().insert(test.name.clone());
        }
    }
    held
}

fn rule(claim: &Claim, counted: &BTreeSet<Definition>, held: &BTreeMap<Definition, BTreeSet<String>>) -> Result<Rule, Report> {
    let Some(at) = counted.iter().find(|definition| definition.file == claim.file && definition.line == claim.line) else {
        let finding = crate::policy::Finding {
            file: claim.file.clone(),
            line: claim.line,
            column: 1,
            message: "controls are claimed before something that is no rule a test can reach".to_owned(),
            hint: "put the annotation right before a rule that is no default".to_owned(),
            about: crate::policy::About::Content,
        };
        return Err(Report { findings: vec![finding] });
    };
    let about = |definition: &&Definition| match claim.scope {
        Scope::Document => definition.rule == at.rule,
        Scope::Rule | Scope::Package | Scope::Subpackages => *definition == at,
    };
    let tests = counted.iter().filter(about).filter_map(|definition| held.get(definition)).flatten().cloned().collect();
    Ok(Rule { rule: at.rule.clone(), title: claim.title.clone(), file: at.file.clone(), line: at.line, tests })
}

fn served(place: usize, framework: &'static Framework, shown: &BTreeMap<(usize, usize), Vec<Rule>>) -> Served {
    let (mut controls, mut not_claimed) = (Vec::new(), Vec::new());
    for (at, (id, name)) in framework.controls.iter().enumerate() {
        match shown.get(&(place, at)) {
            Some(rules) => controls.push(Control { id, name, rules: rules.clone() }),
            None => not_claimed.push(*id),
        }
    }
    Served { key: framework.key, title: framework.title, controls, not_claimed }
}

fn words(map: &Map) -> String {
    let mut lines = Vec::new();
    for framework in map.frameworks.iter().filter(|framework| !framework.controls.is_empty()) {
        lines.push(framework.title.to_owned());
        for control in &framework.controls {
            lines.push(format!("  {}  {}", control.id, control.name));
            let rules = control.rules.iter().map(|rule| {
                let by = count(rule.tests.len(), "test");
                format!("    {}:{}  {}  (shown by {by})", clean(&rule.file), rule.line, clean(named(rule)))
            });
            lines.extend(rules);
        }
        lines.push(format!("  not claimed: {}\n", framework.not_claimed.join(", ")));
    }
    lines.extend(map.failed.iter().map(|test| format!("does not pass: {}; nothing is claimed", clean(test))));
    let missing = map.not_shown.iter();
    lines.extend(missing.map(|rule| format!("no test shows {}:{}  {}", clean(&rule.file), rule.line, clean(named(rule)))));
    if lines.is_empty() {
        lines.push("no rule claims a control".to_owned());
    }
    lines.join("\n").trim_end().to_owned()
}

fn named(rule: &Rule) -> &str {
    if rule.title.is_empty() { &rule.rule } else { &rule.title }
}
