//! `portcullis policy shadow`: what another policy would have said, and what observing let pass.

use clap::Args;

use super::super::client::Remote;
use super::super::failure::Failure;
use super::super::table::{clean, count, moment, or_dash, table};
use crate::control::answers::{ObservedRow, ShadowAnswer, ShadowGroup};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Shows instead the routes that only observe: the most sensitive first, then those with most would-be denials.
    #[arg(long)]
    by_risk: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments, outer: &Remote) -> Result<(), Failure> {
    let remote = arguments.remote.or(outer);
    let answer = remote.get("/v1/policy/shadow")?;
    remote.show(&answer, |answer| if arguments.by_risk { by_risk(&answer) } else { words(answer) })
}

fn words(answer: ShadowAnswer) -> String {
    let Some(shadow) = answer.shadow else {
        return "there is no shadow policy; name its bundles under policy.shadow".to_owned();
    };
    let mut parts = vec![match shadow.generation {
        0 if shadow.loading => "the shadow policy is loading".to_owned(),
        0 => "no shadow policy could be loaded".to_owned(),
        generation => format!("shadow generation {generation} since {}", moment(shadow.activated_at)),
    }];
    parts.extend(shadow.revisions.iter().map(|(bundle, revision)| format!("bundle {} {}", clean(bundle), clean(revision))));
    let requests = usize::try_from(answer.compared).unwrap_or(usize::MAX);
    let unjudged: Vec<String> = answer.unjudged.iter().map(|(why, count)| format!("{count} {}", clean(why))).collect();
    let left_out = if unjudged.is_empty() { String::new() } else { format!("; not judged: {}", unjudged.join(", ")) };
    parts.push(format!("{} compared, {} judged otherwise{left_out}", count(requests, "request"), answer.disagreed));
    if !answer.groups.is_empty() {
        parts.push(format!("\n{}", table(HEAD, answer.groups.iter().map(row))));
    }
    if answer.ungrouped > 0 {
        parts.push(format!("{} more are in groups that found no room", answer.ungrouped));
    }
    if let Some(error) = shadow.last_error {
        parts.push(format!("\nthe newest bundles of the shadow are not loaded since {}:", moment(error.at)));
        parts.extend(error.report.lines().map(|line| format!("  {}", clean(line))));
    }
    parts.join("\n")
}

const HEAD: [&str; 10] = ["COUNT", "FROM", "TO", "REASON", "WHO", "METHOD", "ACTION", "RESOURCE", "ROUTE", "LAST DECISION"];

fn row(group: &ShadowGroup) -> [String; 10] {
    [
        group.count.to_string(),
        group.from.clone(),
        group.to.clone(),
        or_dash((!group.reason.is_empty()).then(|| group.reason.clone())),
        group.spiffe_id.clone(),
        group.method.clone(),
        group.action.clone(),
        format!("{} ({})", group.resource, group.sensitivity),
        format!("{}/{}", group.listener, group.route),
        format!("{} {}", group.decision_id, moment(group.last)),
    ]
}

fn by_risk(answer: &ShadowAnswer) -> String {
    if answer.observed.is_empty() {
        return "no route only observes; see `enforcement` of listeners and routes".to_owned();
    }
    let head = ["SENSITIVITY", "WOULD DENY", "LISTENER", "ROUTE", "RESOURCE", "EFFECT", "LAST DECISION"];
    let rows = answer.observed.iter().map(|row: &ObservedRow| {
        let last = row.decision_id.as_ref().zip(row.last).map(|(id, at)| format!("{id} {}", moment(at)));
        [
            or_dash(row.sensitivity.clone()),
            row.would_deny.to_string(),
            row.listener.clone(),
            row.route.clone(),
            or_dash(row.resource.clone()),
            or_dash(row.effect.clone()),
            or_dash(last),
        ]
    });
    let mut text = table(head, rows);
    if answer.observed_ungrouped > 0 {
        text = format!("{text}\n{} more are in groups that found no room", answer.observed_ungrouped);
    }
    text
}
