//! `portcullis audit show`: what happened, as one timeline.
//!
//! In: files of the record, and whom or when to look at. Out: an event a paragraph, or with `--json` an object a line, in the order of
//! time. What must stay true: memory holds the exchanges that are open, the kills that were given and a few seconds of events, never the
//! log; what the record says it lacks is part of the timeline, whatever is filtered. A line is written up to a second after what it tells,
//! so events wait a moment for those before them; sorting all of a log would take its size in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::kills::{Kills, Target};
use super::told::{add_end, add_whole, end, lacking, target, verdict, what, whole, why};
use crate::cli::failure::Failure;
use crate::cli::log::{self, Body, Call, Core, End, Line};
use crate::cli::period::{Period, stamp};
use crate::cli::table::clean;
use crate::cli::{data, talk};

/// Exchanges whose closing line is still to come; more are told without it.
const OPEN: usize = 200_000;
/// How late a line may tell what happened before the line that is read, and how many wait for it.
const LATE: Duration = Duration::seconds(5);
const WAITING: usize = 20_000;
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
    let mut show = Show {
        arguments,
        kills,
        open: HashMap::new(),
        overflowed: 0,
        told: 0,
        waiting: BTreeMap::new(),
        seen: 0,
        page: String::new(),
    };
    let met = log::each(&files, |line| show.line(line))?;
    show.write_out(0, None)?;
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
    /// By time, and of one time in the order they came.
    waiting: BTreeMap<(OffsetDateTime, u64), String>,
    seen: u64,
    page: String,
}

impl Show<'_> {
    fn line(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        match &line.body {
            Body::Decision(core) => self.decision(line, core),
            Body::Closing(closing) => self.closing(line, &closing.end),
            Body::Control(call) => self.control(line.at, call),
            Body::Loss(losses) if self.arguments.period.holds(line.at) && self.arguments.decision.is_none() => {
                let told = json!({"event": "loss", "lost": losses.lost, "refused": losses.refused, "torn": losses.torn,
                    "dropped": losses.dropped});
                self.say(line.at, format!("{}  LOSS     {}", stamp(line.at), lacking(losses)), told)
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
        let killed = match (core.end.kill.as_deref(), core.reason.as_deref(), core.end.cause.as_deref()) {
            (Some(id), ..) => self.kills.named(id),
            (_, Some("killed"), _) => self.kills.refused(&target, line.at),
            (_, _, Some("kill")) => {
                let lasted = core.end.duration_seconds.and_then(Duration::checked_seconds_f64);
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
        let killed = match (ended.kill.as_deref(), ended.cause.as_deref()) {
            (Some(id), _) => self.kills.named(id),
            (None, Some("kill")) => self.kills.cut(&target, line.at),
            _ => None,
        };
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
        if narrow && this.cut(&looked_at, at).is_none() {
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
        if let Some(object) = told.as_object_mut() {
            object.insert("time".to_owned(), stamp(at).into());
        }
        self.seen += 1;
        self.waiting.insert((at, self.seen), if self.arguments.json { told.to_string() } else { text });
        self.write_out(WAITING, at.checked_sub(LATE))
    }

    /// Writes what has waited long enough, and what is more than may wait.
    fn write_out(&mut self, may_wait: usize, until: Option<OffsetDateTime>) -> Result<(), Failure> {
        while let Some(first) = self.waiting.first_entry() {
            let early = until.is_some_and(|until| first.key().0 < until);
            if !early && self.waiting.len() <= may_wait {
                break;
            }
            if let Some((_, event)) = self.waiting.pop_first() {
                self.page.push_str(&event);
                self.page.push('\n');
            }
            if self.page.len() >= PAGE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.page.is_empty() {
            return Ok(());
        }
        data(&std::mem::take(&mut self.page))
    }
}
