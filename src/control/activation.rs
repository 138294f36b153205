//! Activation and rollback of policy, by order of whoever may operate.
//!
//! In: whether it is a rehearsal. Out: what came into force and what it cut. The work is the builder's; this side asks and waits.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use tokio::sync::oneshot;

use super::answers::{ActivateRequest, Activated, Problem, RollbackRequest};
use super::reply::Reply;
use super::{Control, Order, body};

/// `POST /v1/policy/activate`
pub(super) async fn activate(State(control): State<Arc<Control>>, received: Result<Bytes, BytesRejection>) -> Reply {
    let refused = |report| Problem {
        report: Some(report),
        ..Problem::new(422, "not_activated", "the policy in force stays: the new one has mistakes")
    };
    let ActivateRequest { dry_run, allow_rollback } = match body::switches(received) {
        Ok(request) => request,
        Err(problem) => return problem.into(),
    };
    let named = allow_rollback.clone();
    let reply = order(&control, dry_run, |reply| Order::Activate { dry_run, allow_rollback, reply }, refused).await;
    if named.is_empty() { reply } else { reply.detail("allow_rollback", named) }
}

/// `POST /v1/policy/rollback`
pub(super) async fn rollback(State(control): State<Arc<Control>>, received: Result<Bytes, BytesRejection>) -> Reply {
    let refused = |report| Problem { report: Some(report), ..Problem::new(409, "not_rolled_back", "the policy in force stays") };
    match body::switches::<RollbackRequest>(received) {
        Ok(RollbackRequest { dry_run }) => order(&control, dry_run, |reply| Order::Rollback { dry_run, reply }, refused).await,
        Err(problem) => problem.into(),
    }
}

async fn order(
    control: &Control,
    dry_run: bool,
    order: impl FnOnce(oneshot::Sender<Result<Activated, String>>) -> Order,
    refused: impl FnOnce(String) -> Problem,
) -> Reply {
    let (reply, answer) = oneshot::channel();
    let reply = match ask(control, order(reply), answer).await {
        Err(problem) => problem.into(),
        Ok(Err(report)) => refused(report).into(),
        Ok(Ok(activated)) => {
            let outcome = match activated.generation {
                Some(generation) => format!("generation {generation}: {} of {} open exchanges cut", activated.cut, activated.open),
                None => format!("rehearsed: {} of {} open exchanges would be cut", activated.cut, activated.open),
            };
            let revisions = serde_json::to_value(&activated.revisions).unwrap_or_default();
            let reply = Reply::new(&activated, outcome).detail("revisions", revisions);
            if activated.older.is_empty() { reply } else { reply.detail("older", activated.older) }
        }
    };
    reply.detail("dry_run", dry_run)
}

/// Gives an order to whoever built the gate and waits for the answer; the time limit is the call's.
pub(super) async fn ask<T>(control: &Control, order: Order, answer: oneshot::Receiver<T>) -> Result<T, Problem> {
    let gone = || Problem::new(503, "stopping", "the gate is stopping, or has not started yet").hint("try again when it is ready");
    control.orders.send(order).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}
