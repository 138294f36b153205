//! `portcullis audit show`: what happened, as one timeline.
//!
//! In: files of the record, and whom or when to look at. Out: an event a paragraph, or with `--json` an object a line, in the order of
//! the record. What must stay true: memory holds the exchanges that are open and the kills that were given, never the log; what the
//! record says it lacks is part of the timeline, whatever is filtered.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::kills::{Kill, Kills, Target};
use crate::cli::failure::Failure;
use crate::cli::log::{self, Body, Call, Core, End, Line};
use crate::cli::period::{Period, amount, lasting, stamp};
use crate::cli::table::clean;
use crate::cli::{data, talk};

/// Exchanges whose closing line is still to come; more are told without it.
const OPEN: usize = 200_000;
/// So much text is written at a time.
const PAGE: usize = 64 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  portcullis audit show --identity spiffe://example.org/agents/research decisions.jsonl
  portcullis audit show --from 2026-11-24T17:00:00Z --to 2026-11-24T18:00:00Z decisions.jsonl decisions.jsonl.1.gz
  portcullis audit show --decision 5bd4ea7b-30d6-4222-86f4-1024f2876c89 decisions.jsonl

Without a filter everything is told. Several files are read in the order of their first lines.")]
pub(super) struct Arguments {
    /// What this SPIFFE ID did.
    #[arg(long, value_name = "SPIFFE_ID")]
    identity: Option<String>,
    /// What was done under this task.
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// What was done in this session.
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Everything about one decision: its input, the policy's answer, its end.
    #[arg(long, value_name = "ID")]
    decision: Option<String>,
    #[command(flatten)]
    period: Period,
    /// Prints an object a line, for programs.
    #[arg(long)]
    json: bool,
    /// Files of the record; .gz as well.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let files = log::in_order(&arguments.files)?;
    let mut kills = Kills::default();
    log::each_holding(&files, b"\"control\"", &mut |line| {
        if let Body::Control(call) = &line.body {
            kills.note(line.at, call);
        }
        Ok(())
    })?;
    if kills.more > 0 {
        talk(&format!("warning: {} kills more than are remembered; who gave those is not told", kills.more));
    }
    let mut show = Show { arguments, kills, open: HashMap::new(), overflowed: 0, told: 0, page: String::new() };
    let met = log::each(&files, |line| show.line(line))?;
    show.flush()?;
    met.tell();
    if show.overflowed > 0 {
        talk(&format!("warning: {} open exchanges more than are remembered; how they ended is not told", show.overflowed));
    }
    match (&arguments.decision, show.told) {
        (Some(id), 0) => {
            Err(Failure::new(format!("no decision {} in these files", clean(id))).hint("give the files rotation left as well"))
        }
        _ => Ok(()),
    }
}

struct Show<'a> {
    arguments: &'a Arguments,
    kills: Kills,
    /// By decision id.
    open: HashMap<String, (Target, String)>,
    overflowed: u64,
    /// Exchanges told.
    told: u64,
    page: String,
}

impl Show<'_> {
    fn line(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        match &line.body {
            Body::Decision(core) => self.decision(line, core),
            Body::Closing(closing) => self.closing(line, &closing.end),
            Body::Control(call) => self.control(line.at, call),
            Body::Loss(losses) if self.arguments.period.holds(line.at) && self.arguments.decision.is_none() => {
                let text = format!(
                    "{}  LOSS     the record lacks {} lines; {} requests were refused for want of room; {} lines were torn by an end before",
                    stamp(line.at),
                    losses.lost,
                    losses.refused,
                    losses.torn
                );
                let told = json!({"event": "loss", "lost": losses.lost, "refused": losses.refused, "torn": losses.torn});
                self.say(line.at, text, told)
            }
            Body::Loss(_) | Body::Checkpoint(_) | Body::Other => Ok(()),
        }
    }

    fn decision(&mut self, line: &Line<'_>, core: &Core) -> Result<(), Failure> {
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let asked = self.arguments;
        let wanted = is(&asked.identity, &core.peer)
            && is(&asked.task, &core.task)
            && is(&asked.session, &core.session)
            && is(&asked.decision, &line.envelope.decision_id)
            && asked.period.holds(line.at);
        if !wanted {
            return Ok(());
        }
        self.told += 1;
        let target = target(line, core);
        let what = what(core);
        let killed = match (core.reason.as_deref(), core.end.cause.as_deref()) {
            (Some("killed"), _) => self.kills.refused(&target, line.at),
            (_, Some("kill")) => {
                let lasted = core.end.duration_seconds.and_then(|seconds| Duration::checked_seconds_f64(seconds));
                self.kills.cut(&target, line.at + lasted.unwrap_or_default())
            }
            _ => None,
        };
        let mut text = format!("{}  {:<7}  {what}\n    ", stamp(line.at), verdict(core));
        let mut parts = Vec::new();
        parts.extend(why(core));
        // Without a generation nobody was asked: the route's rule alone is known.
        let asked_rule = line.envelope.path.as_ref().zip(core.generation);
        parts.extend(asked_rule.map(|(rule, generation)| format!("rule {} of generation {generation}", clean(rule))));
        parts.extend((!core.edits.is_empty()).then(|| format!("edits {}", clean(&core.edits.join(", ")))));
        parts.extend(
            [
                ("task", &core.task),
                ("approval", &core.approval),
                ("exception", &core.exception),
                ("break-glass", &core.break_glass),
            ]
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {}", clean(value)))),
        );
        parts.push(end(&core.end, killed));
        parts.extend(line.envelope.decision_id.as_ref().map(|id| format!("decision {}", clean(id))));
        text.push_str(&parts.join("; "));
        let mut told = json!({
            "event": "decision", "decision_id": line.envelope.decision_id, "identity": core.peer, "session": core.session,
            "task": core.task, "owner": core.owner, "protocol": core.protocol, "method": core.method, "host": core.host, "path": core.path,
            "resource": core.resource.as_ref().map(|it| json!({"type": it.r#type, "sensitivity": it.sensitivity, "effect": it.effect})),
            "listener": core.listener, "route": core.route, "upstream": core.upstream, "verdict": core.verdict, "reason": core.reason,
            "reasons": core.reasons, "rule": line.envelope.path, "generation": core.generation, "edits": core.edits,
            "approval": core.approval, "exception": core.exception, "break_glass": core.break_glass, "basis": core.basis,
        });
        add_end(&mut told, &core.end, killed);
        if asked.decision.is_some() {
            text.push_str(&whole(line));
            add_whole(&mut told, line);
        }
        if core.end.ending.is_none()
            && let Some(id) = &line.envelope.decision_id
        {
            if self.open.len() < OPEN {
                self.open.insert(id.clone(), (target, what));
            } else {
                self.overflowed += 1;
            }
        }
        self.say(line.at, text, told)
    }

    fn closing(&mut self, line: &Line<'_>, ended: &End) -> Result<(), Failure> {
        let Some(id) = &line.envelope.decision_id else { return Ok(()) };
        let Some((target, what)) = self.open.remove(id) else { return Ok(()) };
        let killed = (ended.cause.as_deref() == Some("kill")).then(|| self.kills.cut(&target, line.at)).flatten();
        let text = format!("{}  ended    {what}\n    {}; decision {}", stamp(line.at), end(ended, killed), clean(id));
        let mut told = json!({"event": "ended", "decision_id": id, "identity": target.identity, "session": target.session});
        add_end(&mut told, ended, killed);
        self.say(line.at, text, told)
    }

    /// Calls that are about whom is looked at, and those about everybody.
    fn control(&mut self, at: OffsetDateTime, call: &Call) -> Result<(), Failure> {
        let asked = self.arguments;
        if asked.decision.is_some() || !asked.period.holds(at) {
            return Ok(());
        }
        let narrow = asked.identity.is_some() || asked.session.is_some() || asked.task.is_some();
        let looked_at = Target {
            identity: asked.identity.clone(),
            session: asked.session.clone(),
            task: asked.task.clone(),
            ..Target::default()
        };
        let mut this = Kills::default();
        this.note(at, call);
        // A view changes nothing, and a narrow look is about one.
        let changes = !call.call.starts_with("GET ");
        if narrow && !this.cut(&looked_at, at).is_some_and(|kill| kill.names(&looked_at)) {
            return Ok(());
        }
        if !narrow && !changes {
            return Ok(());
        }
        let by = call.caller.as_deref().unwrap_or("nobody known");
        let asked_for = call.detail.get("selector").map(|selector| format!(" {selector}")).unwrap_or_default();
        let reason =
            call.detail.get("reason").and_then(Value::as_str).map(|reason| format!("; reason: {reason}")).unwrap_or_default();
        let text = format!(
            "{}  CONTROL  {}: {} → {} {}{}{}",
            stamp(at),
            clean(by),
            clean(&call.call),
            call.status,
            clean(&call.outcome),
            clean(&asked_for),
            clean(&reason)
        );
        let told = json!({"event": "control", "caller": call.caller, "call": call.call, "status": call.status, "outcome": call.outcome,
            "detail": call.detail});
        self.say(at, text, told)
    }

    fn say(&mut self, at: OffsetDateTime, text: String, mut told: Value) -> Result<(), Failure> {
        if self.arguments.json {
            if let Some(object) = told.as_object_mut() {
                object.insert("time".to_owned(), stamp(at).into());
            }
            self.page.push_str(&told.to_string());
        } else {
            self.page.push_str(&text);
        }
        self.page.push('\n');
        if self.page.len() < PAGE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.page.is_empty() {
            return Ok(());
        }
        data(&std::mem::take(&mut self.page))
    }
}

fn target(line: &Line<'_>, core: &Core) -> Target {
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

fn what(core: &Core) -> String {
    let word = |text: &Option<String>| clean(text.as_deref().unwrap_or("-"));
    let mut said = format!("{}  {} {}{}", word(&core.peer), word(&core.method), word(&core.host), word(&core.path));
    if let Some(resource) = &core.resource {
        said = format!("{said} ({}, {}, {})", clean(&resource.r#type), clean(&resource.sensitivity), clean(&resource.effect));
    }
    said
}

fn verdict(core: &Core) -> String {
    match core.verdict.as_deref() {
        Some("observe_deny") => "observed".to_owned(),
        other => clean(other.unwrap_or("-")),
    }
}

fn why(core: &Core) -> Option<String> {
    let reasons = (!core.reasons.is_empty()).then(|| clean(&core.reasons.join(", ")));
    let observed = (core.verdict.as_deref() == Some("observe_deny")).then(|| " (let through: the route only observes)");
    let said = match (core.reason.as_deref().map(clean), reasons) {
        (Some(reason), Some(reasons)) => format!("{reason}: {reasons}"),
        (reason, reasons) => reason.or(reasons)?,
    };
    Some(format!("{said}{}", observed.unwrap_or_default()))
}

fn end(end: &End, killed: Option<&Kill>) -> String {
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
    } else if end.cause.as_deref() == Some("kill") {
        said.push("no call in these files gave that kill: a policy, an anomaly rule or an older call did".to_owned());
    }
    said.join("; ")
}

fn add_end(told: &mut Value, end: &End, killed: Option<&Kill>) {
    let Some(object) = told.as_object_mut() else { return };
    let killed = killed.map(|kill| json!({"by": kill.by, "reason": kill.reason, "kill": kill.id, "time": stamp(kill.at)}));
    let more = [
        ("status", json!(end.status)),
        ("bytes_in", json!(end.bytes_in)),
        ("bytes_out", json!(end.bytes_out)),
        ("duration_seconds", json!(end.duration_seconds)),
        ("ending", json!(end.ending)),
        ("cause", json!(end.cause)),
        ("anomaly", json!(end.anomaly)),
        ("killed", json!(killed)),
    ];
    object.extend(more.map(|(name, value)| (name.to_owned(), value)));
}

/// All that one line holds beside the timeline.
fn whole(line: &Line<'_>) -> String {
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

fn add_whole(told: &mut Value, line: &Line<'_>) {
    let Some(object) = told.as_object_mut() else { return };
    let value = |raw: Option<&serde_json::value::RawValue>| json!(raw);
    let revisions: std::collections::BTreeMap<_, _> = line.envelope.bundles.iter().map(|(name, it)| (name, &it.revision)).collect();
    object.insert("revisions".to_owned(), json!(revisions));
    object.insert("error".to_owned(), json!(line.envelope.error));
    object.insert("input".to_owned(), value(line.envelope.input));
    object.insert("result".to_owned(), value(line.envelope.result));
}
