//! How lines are written.
//!
//! In: a line's words. Out: its bytes, with the line end, in a buffer that is emptied first. What must stay true: members keep their
//! order, and a field that is added to a line's words must be written here, or this does not compile.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::value::RawValue;

use super::json::{Json, blank_line_ends, members};
use super::{Closing, ControlCall, Core, Document, Line, Outcome, Record, Resource, ShadowLine, Why};
use crate::decision::{Basis, Cause, Ending, Enforcement, Opinion, Phase, Protocol, Reason};

/// Writes a line of an exchange.
pub(in crate::audit) fn encode_line(
    buffer: &mut Vec<u8>,
    labels: &RawValue,
    environment: &str,
    line: Line<'_>,
) -> serde_json::Result<()> {
    begin(buffer, labels);
    match line {
        Line::Decision(record) => decision(buffer, environment, record)?,
        Line::Closing(closing) => self::closing(buffer, closing)?,
    }
    buffer.extend_from_slice(b"}}\n");
    Ok(())
}

/// Writes the line of a control call.
pub(in crate::audit) fn encode_call(buffer: &mut Vec<u8>, labels: &RawValue, call: &ControlCall<'_>) -> serde_json::Result<()> {
    encode_seldom(buffer, labels, call.at, "control", call)
}

/// Writes a line of the writer's own.
pub(in crate::audit) fn encode_own<B: Serialize>(
    buffer: &mut Vec<u8>,
    labels: &RawValue,
    kind: &str,
    body: &B,
) -> serde_json::Result<()> {
    encode_seldom(buffer, labels, SystemTime::now(), kind, body)
}

/// A line that no request waits for, by the code serde derives.
fn encode_seldom<B: Serialize>(
    buffer: &mut Vec<u8>,
    labels: &RawValue,
    at: SystemTime,
    kind: &str,
    body: &B,
) -> serde_json::Result<()> {
    begin(buffer, labels);
    members!(buffer, "timestamp": &at);
    buffer.extend_from_slice(b",\"portcullis\":{\"kind\":");
    kind.write(buffer)?;
    let begin = buffer.len();
    serde_json::to_writer(&mut *buffer, body)?;
    let body = buffer.get_mut(begin..).unwrap_or_default();
    blank_line_ends(body);
    // It is an object, and its members follow the kind.
    if let Some(brace) = body.first_mut() {
        *brace = b',';
    }
    buffer.extend_from_slice(b"}\n");
    Ok(())
}

fn begin(buffer: &mut Vec<u8>, labels: &RawValue) {
    buffer.clear();
    buffer.extend_from_slice(b"{\"labels\":");
    // Made by serde, once: there is no line end in them.
    buffer.extend_from_slice(labels.get().as_bytes());
}

/// What stands in OPA's envelope where there is something to say.
macro_rules! members_if_any {
    ($out:ident, $($key:literal: $value:expr),+ $(,)?) => {
        $(if let Some(value) = $value {
            members!($out, $key: &value);
        })+
    };
}

fn decision(out: &mut Vec<u8>, environment: &str, record: &Record<'_>) -> serde_json::Result<()> {
    let Record { at, decision_id, requested_by, path, input, result, erased, masked, bundles, evaluation, error, core } = record;
    members!(out, "decision_id": decision_id, "timestamp": at);
    members_if_any!(out, "trace_id": core.trace_id, "path": *path);
    if let Some(bundles) = bundles.filter(|bundles| !bundles.is_empty()) {
        self::bundles(out, bundles)?;
    }
    members_if_any!(out, "requested_by": *requested_by);
    if let Some(taken) = evaluation {
        out.extend_from_slice(b",\"metrics\":{\"timer_rego_query_eval_ns\":");
        u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX).write(out)?;
        out.push(b'}');
    }
    members_if_any!(out, "error": *error);
    document(out, b",\"input\":", *input);
    document(out, b",\"result\":", *result);
    members_if_any!(
        out,
        "erased": Some(*erased).filter(|pointers| !pointers.is_empty()),
        "masked": Some(*masked).filter(|pointers| !pointers.is_empty()),
    );
    out.extend_from_slice(b",\"portcullis\":{\"kind\":\"decision\"");
    self::core(out, environment, core)
}

fn document(out: &mut Vec<u8>, key: &[u8], document: Option<&dyn Document>) {
    let Some(document) = document else { return };
    let before = out.len();
    out.extend_from_slice(key);
    match document.append_to(out) {
        Ok(()) => blank_line_ends(out.get_mut(before..).unwrap_or_default()),
        Err(_) => out.truncate(before),
    }
}

fn bundles(out: &mut Vec<u8>, bundles: &BTreeMap<String, String>) -> serde_json::Result<()> {
    out.extend_from_slice(b",\"bundles\":{");
    for (place, (name, revision)) in bundles.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        name.as_str().write(out)?;
        out.extend_from_slice(b":{\"revision\":");
        revision.as_str().write(out)?;
        out.push(b'}');
    }
    out.push(b'}');
    Ok(())
}

fn core(out: &mut Vec<u8>, gate: &str, core: &Core<'_>) -> serde_json::Result<()> {
    let Core {
        exchange,
        session,
        peer,
        environment,
        task,
        intent,
        owner,
        action,
        tool,
        resource,
        route,
        listener,
        upstream,
        delegation,
        approval,
        exception,
        break_glass,
        credential,
        basis,
        enforcement,
        verdict,
        reason,
        reasons,
        generation,
        trace_id,
        protocol,
        method,
        host,
        path,
        status,
        bytes_in,
        bytes_out,
        bytes_read,
        duration,
        ending,
        cause,
        kill,
        phase,
        edits,
        anomaly,
        engine,
        shadow,
    } = core;
    members!(
        out,
        "exchange": exchange,
        "session": session,
        "peer": peer,
        "environment": &environment.unwrap_or(gate),
        "task": task,
        "intent": intent,
        "owner": owner,
        "action": action,
        "tool": tool,
        "resource": resource,
        "route": route,
        "listener": listener,
        "upstream": upstream,
        "delegation": delegation,
        "approval": approval,
        "exception": exception,
        "break_glass": break_glass,
        "credential": credential,
        "basis": &basis.map(Basis::code),
        "enforcement": &enforcement.map(Enforcement::code),
        "verdict": &Outcome::code(*verdict),
        "reason": &reason.map(Why::code),
        "reasons": reasons,
        "generation": generation,
        "trace_id": trace_id,
        "protocol": &protocol.map(Protocol::code),
        "method": method,
        "host": host,
        "path": path,
        "status": status,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "bytes_read": bytes_read,
        "duration_seconds": duration,
        "ending": &ending.map(Ending::code),
        "cause": &cause.map(Cause::code),
        "kill": kill,
        "phase": &phase.map(Phase::code),
        "edits": edits,
        "anomaly": anomaly,
        "engine": engine,
        "shadow": shadow,
    );
    Ok(())
}

fn closing(out: &mut Vec<u8>, closing: &Closing<'_>) -> serde_json::Result<()> {
    let Closing {
        at,
        decision_id,
        exchange,
        status,
        bytes_in,
        bytes_out,
        duration,
        ending,
        cause,
        kill,
        generation,
        anomaly,
        shadow,
    } = closing;
    members!(out, "decision_id": decision_id, "timestamp": at);
    out.extend_from_slice(b",\"portcullis\":{\"kind\":\"closing\"");
    members!(
        out,
        "decision_id": decision_id,
        "exchange": exchange,
        "status": status,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "duration_seconds": duration,
        "ending": &Ending::code(*ending),
        "cause": &cause.map(Cause::code),
        "kill": kill,
        "generation": generation,
        "anomaly": anomaly,
        "shadow": shadow,
    );
    Ok(())
}

impl Json for Resource<'_> {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let Self { r#type, sensitivity, effect } = self;
        out.extend_from_slice(b"{\"type\":");
        r#type.write(out)?;
        members!(out, "sensitivity": sensitivity, "effect": effect);
        out.push(b'}');
        Ok(())
    }
}

impl Json for ShadowLine<'_> {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let Self { verdict, reason, reasons, generation, revisions } = self;
        out.extend_from_slice(b"{\"verdict\":");
        Opinion::code(*verdict).write(out)?;
        members!(out, "reason": &reason.map(Reason::code), "reasons": reasons, "generation": generation);
        out.extend_from_slice(b",\"revisions\":");
        serde_json::to_writer(&mut *out, revisions)?;
        out.push(b'}');
        Ok(())
    }
}
