//! The lines of a timeline: their words for people, their fields for programs.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::kills::{Kill, Target};
use crate::cli::log::{Core, End, Line, Losses};
use crate::cli::period::{amount, lasting, stamp};
use crate::cli::table::clean;

pub(super) fn target(line: &Line<'_>, core: &Core) -> Target {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Certificate {
        sha256: Option<String>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Peer {
        certificate: Certificate,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Input {
        peer: Peer,
    }
    let input = line.envelope.input.and_then(|input| serde_json::from_str::<Input>(input.get()).ok());
    let address = line.envelope.requested_by.as_ref().and_then(|address| address.parse::<std::net::SocketAddr>().ok());
    Target {
        exchange: line.envelope.decision_id.clone(),
        identity: core.peer.clone(),
        session: core.session.clone(),
        task: core.task.clone(),
        tool: core.tool.clone(),
        upstream: core.upstream.clone(),
        host: core.host.clone(),
        address: address.map(|address| address.ip().to_canonical().to_string()),
        certificate: input.and_then(|input| input.peer.certificate.sha256),
    }
}

pub(super) fn what(core: &Core) -> String {
    let word = |text: &Option<String>| clean(text.as_deref().unwrap_or("-"));
    let mut said = format!("{}  {} {}{}", word(&core.peer), word(&core.method), word(&core.host), word(&core.path));
    if let Some(resource) = &core.resource {
        said = format!("{said} ({}, {}, {})", clean(&resource.r#type), clean(&resource.sensitivity), clean(&resource.effect));
    }
    said
}

pub(super) fn verdict(core: &Core) -> String {
    match core.verdict.as_deref() {
        Some("observe_deny") => "observed".to_owned(),
        other => clean(other.unwrap_or("-")),
    }
}

pub(super) fn why(core: &Core) -> Option<String> {
    let reasons = (!core.reasons.is_empty()).then(|| clean(&core.reasons.join(", ")));
    let observed = (core.verdict.as_deref() == Some("observe_deny")).then_some(" (let through: the route only observes)");
    let said = match (core.reason.as_deref().map(clean), reasons) {
        (Some(reason), Some(reasons)) => format!("{reason}: {reasons}"),
        (reason, reasons) => reason.or(reasons)?,
    };
    Some(format!("{said}{}", observed.unwrap_or_default()))
}

pub(super) fn end(end: &End, killed: Option<&Kill>) -> String {
    let mut said = Vec::new();
    said.extend(end.status.map(|status| status.to_string()));
    let lasted = end.duration_seconds.map_or_else(String::new, |seconds| format!(" in {}", lasting(seconds)));
    said.push(format!("{} up, {} down{lasted}", amount(end.bytes_in), amount(end.bytes_out)));
    said.extend((!end.anomaly.is_empty()).then(|| format!("anomaly rules fired: {}", clean(&end.anomaly.join(", ")))));
    let cause = end.cause.as_ref().map_or_else(String::new, |cause| format!(": {}", clean(cause)));
    said.push(match &end.ending {
        Some(ending) => format!("{}{cause}", clean(ending).replace('_', " ")),
        None => "open when this was written".to_owned(),
    });
    if let Some(kill) = killed {
        let id = kill.id.as_ref().map_or_else(String::new, |id| format!(", kill {}", clean(id)));
        said.push(format!("killed by {} (\"{}\"{id})", clean(&kill.by), clean(&kill.reason)));
    } else if let Some(id) = &end.kill {
        said.push(format!("kill {}, which no call in these files gave: a policy, an anomaly rule or an older call did", clean(id)));
    } else if end.cause.as_deref() == Some("kill") {
        said.push("no call in these files gave that kill: a policy, an anomaly rule or an older call did".to_owned());
    }
    said.join("; ")
}

/// What a line of losses says.
pub(super) fn lacking(losses: &Losses) -> String {
    let all = [
        (losses.lost, "the record lacks", "lines"),
        (losses.refused, "for want of room were refused", "requests"),
        (losses.torn, "by an end before were torn", "lines"),
        (losses.dropped, "on purpose, by the policy's drop rule, were left out", "decisions"),
    ];
    let said: Vec<String> =
        all.iter().filter(|(count, ..)| *count > 0).map(|(count, said, of)| format!("{said} {count} {of}")).collect();
    said.join("; ")
}

pub(super) fn add_end(told: &mut Value, end: &End, killed: Option<&Kill>) {
    let Some(object) = told.as_object_mut() else { return };
    let killed = killed.map(|kill| json!({"by": kill.by, "reason": kill.reason, "kill": kill.id, "time": stamp(kill.at)}));
    let more = [
        ("status", json!(end.status)),
        ("bytes_in", json!(end.bytes_in)),
        ("bytes_out", json!(end.bytes_out)),
        ("duration_seconds", json!(end.duration_seconds)),
        ("ending", json!(end.ending)),
        ("cause", json!(end.cause)),
        ("kill", json!(end.kill)),
        ("anomaly", json!(end.anomaly)),
        ("killed", json!(killed)),
    ];
    object.extend(more.map(|(name, value)| (name.to_owned(), value)));
}

/// All that one line holds beside the timeline.
pub(super) fn whole(line: &Line<'_>) -> String {
    let mut text = String::new();
    for (name, bundle) in &line.envelope.bundles {
        text.push_str(&format!("\n    bundle {} {}", clean(name), clean(&bundle.revision)));
    }
    text.extend(line.envelope.error.iter().map(|error| format!("\n    fault {}", clean(error))));
    for (name, value) in [("input", line.envelope.input), ("answer", line.envelope.result)] {
        let value = value.and_then(|value| serde_json::from_str::<Value>(value.get()).ok());
        let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| "-".to_owned());
        let indented: Vec<String> = pretty.lines().map(clean).collect();
        text.push_str(&format!("\n    {name} {}", indented.join("\n    ")));
    }
    text
}

pub(super) fn add_whole(told: &mut Value, line: &Line<'_>) {
    let Some(object) = told.as_object_mut() else { return };
    let value = |raw: Option<&serde_json::value::RawValue>| json!(raw);
    let revisions: BTreeMap<_, _> = line.envelope.bundles.iter().map(|(name, it)| (name, &it.revision)).collect();
    object.insert("revisions".to_owned(), json!(revisions));
    object.insert("error".to_owned(), json!(line.envelope.error));
    object.insert("input".to_owned(), value(line.envelope.input));
    object.insert("result".to_owned(), value(line.envelope.result));
}
