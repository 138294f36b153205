//! `portcullis anomaly`: what the rules make of a session.

use clap::{Args, Subcommand};

use super::client::{Remote, escape};
use super::failure::Failure;
use super::table::{ago, pairs, table};
use crate::anomaly::{FiringRow, MarkRow, RuleRow};
use crate::control::answers::AnomalyAnswer;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// How every rule stands for a session, what fired on what evidence, and the score it makes.
    Explain {
        /// As `portcullis sessions` lists it.
        session: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Act::Explain { session, remote } = &arguments.act;
    let answer = remote.get(&format!("/v1/sessions/{}/anomaly", escape(session)))?;
    remote.show(&answer, words)
}

fn words(answer: AnomalyAnswer) -> String {
    let AnomalyAnswer { session, spiffe_id, anomaly } = answer;
    let head = pairs([
        ("session", session),
        ("spiffe id", spiffe_id),
        ("score", format!("{:.2}", anomaly.score)),
        ("holding", anomaly.holding.join(", ")),
        ("learning", if anomaly.learning { "yes" } else { "no" }.to_owned()),
    ]);
    if anomaly.rules.is_empty() {
        return format!("{head}\n\nno rules are configured");
    }
    let steps: Vec<[String; 5]> = anomaly
        .rules
        .iter()
        .flat_map(|rule| evidence(&format!("{}, so far", rule.rule), &rule.progress))
        .chain(anomaly.fired.iter().flat_map(|firing| evidence(&firing.rule, &firing.evidence)))
        .collect();
    let rules = table(["RULE", "KIND", "ACTION", "FIRED", "SCORE", "LEARNS FOR", "STATE"], anomaly.rules.into_iter().map(rule));
    let mut text = format!("{head}\n\n{rules}");
    if !anomaly.fired.is_empty() {
        let fired =
            table(["FIRED", "AGO", "DONE", "TIMES", "BY EXCHANGE", "REQUEST", "WHY"], anomaly.fired.into_iter().map(firing));
        text = format!("{text}\n\n{fired}");
    }
    if !steps.is_empty() {
        text = format!("{text}\n\n{}", table(["EVIDENCE FOR", "STEP", "AGO", "EXCHANGE", "REQUEST"], steps));
    }
    text
}

fn rule(row: RuleRow) -> [String; 7] {
    let action = if row.observe { format!("{} (observe)", row.action) } else { row.action };
    let learns = row.learning_seconds.map_or_else(|| "-".to_owned(), ago);
    [row.rule, row.kind, action, row.fired.to_string(), format!("{:.2}", row.score), learns, row.state]
}

fn firing(row: FiringRow) -> [String; 7] {
    let request = row.request.unwrap_or_else(|| "-".to_owned());
    [row.rule, since(row.seconds_ago), row.action, row.times.to_string(), row.exchange, request, row.why]
}

fn evidence(of: &str, marks: &[MarkRow]) -> Vec<[String; 5]> {
    let row = |(place, mark): (usize, &MarkRow)| {
        [of.to_owned(), (place + 1).to_string(), since(mark.seconds_ago), mark.exchange.clone(), mark.action.clone()]
    };
    marks.iter().enumerate().map(row).collect()
}

/// Seconds with a fraction as long as they are few: what chains at machine speed is over within one.
fn since(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.3}s");
    }
    ago(seconds as u64)
}
