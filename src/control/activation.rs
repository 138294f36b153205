//! Activation and rollback of policy, by order of whoever may operate.
//!
//! In: whether it is a rehearsal. Out: what came into force and what it cut. The work is the builder's; this side asks and waits.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use tokio::sync::oneshot;

use super::answers::{ActivateRequest, Activated, Problem};
use super::reply::Reply;
use super::{Control, Order, body};

/// `POST /v1/policy/activate`
pub(super) async fn activate(State(control): State<Arc<Control>>, received: Result<Bytes, BytesRejection>) -> Reply {
    let refused = |report| Problem {
        report: Some(report),
        ..Problem::new(422, "not_activated", "the policy in force stays: the new one has mistakes")
    };
    order(&control, received, |dry_run, reply| Order::Activate { dry_run, reply }, refused).await
}

/// `POST /v1/policy/rollback`
pub(super) async fn rollback(State(control): State<Arc<Control>>, received: Result<Bytes, BytesRejection>) -> Reply {
    let refused = |report| Problem { report: Some(report), ..Problem::new(409, "not_rolled_back", "the policy in force stays") };
    order(&control, received, |dry_run, reply| Order::Rollback { dry_run, reply }, refused).await
}

async fn order(
    control: &Control,
    received: Result<Bytes, BytesRejection>,
    order: impl FnOnce(bool, oneshot::Sender<Result<Activated, String>>) -> Order,
    refused: impl FnOnce(String) -> Problem,
) -> Reply {
    let dry_run = match body::switches::<ActivateRequest>(received) {
        Ok(request) => request.dry_run,
        Err(problem) => return problem.into(),
    };
    let (reply, answer) = oneshot::channel();
    let reply = match ask(control, order(dry_run, reply), answer).await {
        Err(problem) => problem.into(),
        Ok(Err(report)) => refused(report).into(),
        Ok(Ok(activated)) => {
            let outcome = match activated.generation {
                Some(generation) => format!("generation {generation}: {} of {} open exchanges cut", activated.cut, activated.open),
                None => format!("rehearsed: {} of {} open exchanges would be cut", activated.cut, activated.open),
            };
            let revisions = serde_json::to_value(&activated.revisions).unwrap_or_default();
            Reply::new(&activated, outcome).detail("revisions", revisions)
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
