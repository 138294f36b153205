//! Kills ordered and lifted by people.
//!
//! In: a selector and a reason. Out: what the door did. The record keeps selector and reason of every kill, also of one refused by
//! the door or only rehearsed.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use serde_json::Value;

use super::answers::{KillRequest, Lifted, Problem};
use super::caller::Caller;
use super::reply::Reply;
use super::{Control, body};
use crate::exchange::KillId;
use crate::kill::{NotStored, Order};

/// `POST /v1/kills`
pub(super) async fn kill(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    received: Result<Bytes, BytesRejection>,
) -> Reply {
    let request = match body::kill(received) {
        Ok(request) => request,
        Err(problem) => return problem.into(),
    };
    let Some(by) = caller.name else {
        return Problem::new(403, "forbidden", "a kill needs a name to stand under").into();
    };
    let asked = serde_json::to_value(&request).unwrap_or_default();
    let KillRequest { selector, reason, ttl, dry_run } = request;
    let order = Order { selector, reason: reason.trim().to_owned(), by, ttl: ttl.map(|ttl| ttl.0) };
    let done = if dry_run { control.door.rehearse(&order) } else { control.door.kill(order).await };
    let reply = match done {
        Ok(killed) => {
            let word = if dry_run { "rehearsed" } else { "killed" };
            let outcome = format!("{word}: {} cut, {} pending, {} closed", killed.cut, killed.pending, killed.connections_closed);
            let reply = Reply::new(&killed, outcome).detail("durable", killed.durable);
            match killed.id {
                Some(id) => reply.detail("kill", id.to_string()),
                None => reply,
            }
        }
        Err(error) => body::wrong("selector", error.to_string()).into(),
    };
    match asked {
        Value::Object(fields) => fields.into_iter().fold(reply, |reply, (name, value)| reply.detail(&name, value)),
        _ => reply,
    }
}

/// `DELETE /v1/kills/{id}`
pub(super) async fn lift(State(control): State<Arc<Control>>, Path(text): Path<String>) -> Reply {
    let Ok(id) = text.parse() else {
        return Problem::new(404, "no_such_kill", "this is not the id of a kill").hint("see GET /v1/kills").into();
    };
    let durable = match control.door.lift(KillId(id)).await {
        Ok(true) => true,
        Ok(false) => {
            let problem = Problem::new(404, "no_such_kill", "no such kill stands; it has ended or was lifted");
            return Reply::from(problem.hint("see GET /v1/kills")).detail("kill", id.to_string());
        }
        Err(NotStored) => false,
    };
    let lifted = Lifted { id: id.to_string(), durable };
    Reply::new(&lifted, "lifted").detail("kill", id.to_string()).detail("durable", durable)
}
