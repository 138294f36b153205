//! What anybody who reaches the socket may see.
//!
//! In: state of the rooms below. Out: rows. Nothing here waits for a worker except the list of exchanges, which asks the builder.

use std::cell::Cell;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::answers::{
    AnomalyAnswer, ExchangesAnswer, KillRow, KillsAnswer, ObservedRow, PolicyAnswer, Problem, SessionAnswer, SessionRow,
    SessionsAnswer, ShadowAnswer, ShadowBrief, ShadowGroup, StatusAnswer, You,
};
use super::caller::Caller;
use super::reply::Reply;
use super::{Control, Order, Status, activation};
use crate::exchange::Kind;

/// Which sessions are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    spiffe_id: Option<String>,
    task: Option<String>,
}

/// `GET /v1/status`
pub(super) async fn status(State(control): State<Arc<Control>>, Extension(caller): Extension<Caller>) -> Reply {
    let status = control.status.read();
    let registry = control.door.registry();
    let (connections, exchanges) = (Cell::new(0), Cell::new(0));
    // Counted, and none collected.
    registry.collect(|exchange| {
        let count = if exchange.kind == Kind::Connection { &connections } else { &exchanges };
        count.set(count.get() + 1);
        false
    });
    let Caller { uid, name, may_operate, .. } = caller;
    let answer = StatusAnswer {
        version: status.version,
        environment: status.environment,
        started: status.started,
        ready: status.ready,
        draining: status.draining,
        listeners: status.listeners,
        svid: status.svid,
        identity: status.identity,
        generation: status.policy.generation,
        activated_at: status.policy.activated_at,
        revisions: status.policy.revisions,
        signatures: status.policy.signatures,
        rolled_back: status.policy.rolled_back,
        warnings: status.policy.warnings.len(),
        last_error: status.policy.last_error,
        bundles: status.bundles,
        delivery: status.delivery,
        shadow: status.shadow.map(ShadowBrief::from),
        connections: connections.get(),
        exchanges: exchanges.get(),
        sessions: control.sessions.len(),
        kills: registry.standing().len(),
        you: You { uid, name, may_operate },
    };
    Reply::new(&answer, "shown")
}

/// `GET /v1/policy`
pub(super) async fn policy(State(control): State<Arc<Control>>) -> Reply {
    let Status { policy, shadow, .. } = control.status.read();
    Reply::new(&PolicyAnswer { policy, shadow }, "shown")
}

/// `GET /v1/policy/shadow`
pub(super) async fn shadow(State(control): State<Arc<Control>>) -> Reply {
    let shadow = &control.shadow;
    let counts = shadow.counts();
    let mut seen = shadow.observed.rows();
    // What hurts most if it is denied by mistake, or let pass by mistake.
    seen.sort_by_key(|(row, tally)| Reverse((row.sensitivity, tally.count)));
    let quiet = shadow
        .observing()
        .into_iter()
        .filter(|(listener, route)| !seen.iter().any(|(row, _)| (&row.listener, &row.route) == (listener, route)));
    let quiet = quiet.map(|(listener, route)| ObservedRow {
        listener,
        route,
        resource: None,
        sensitivity: None,
        effect: None,
        would_deny: 0,
        last: None,
        decision_id: None,
    });
    let quiet: Vec<ObservedRow> = quiet.collect();
    let answer = ShadowAnswer {
        shadow: control.status.read().shadow.map(ShadowBrief::from),
        compared: counts.compared,
        disagreed: counts.disagreed,
        unjudged: counts.unjudged.into_iter().map(|(why, count)| (why.to_string(), count)).collect(),
        groups: shadow.disagreements.rows().into_iter().map(ShadowGroup::from).collect(),
        ungrouped: shadow.disagreements.beyond(),
        observed: seen.into_iter().map(ObservedRow::from).chain(quiet).collect(),
        observed_ungrouped: shadow.observed.beyond(),
    };
    let outcome = format!("{} shown", answer.groups.len());
    Reply::new(&answer, outcome)
}

/// `GET /v1/sessions`
pub(super) async fn sessions(State(control): State<Arc<Control>>, wanted: Result<Query<Wanted>, QueryRejection>) -> Reply {
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(rejection) => {
            let problem = Problem::new(400, "query", rejection.body_text()).hint("the query takes spiffe_id and task");
            return problem.into();
        }
    };
    let rows = control.sessions.summaries(Instant::now()).into_iter().filter(|row| {
        wanted.spiffe_id.as_ref().is_none_or(|wanted| row.spiffe_id == *wanted)
            && wanted.task.as_ref().is_none_or(|wanted| row.task.as_ref() == Some(wanted))
    });
    let sessions: Vec<SessionRow> = rows.map(SessionRow::from).collect();
    let outcome = format!("{} shown", sessions.len());
    Reply::new(&SessionsAnswer { sessions }, outcome)
}

/// `GET /v1/sessions/{id}`
pub(super) async fn session(State(control): State<Arc<Control>>, Path(id): Path<String>) -> Reply {
    match control.sessions.detail(&id, Instant::now()) {
        Some(found) => Reply::new(&SessionAnswer::from(found), "shown").detail("session", id),
        None => no_such_session(),
    }
}

/// `GET /v1/sessions/{id}/anomaly`: also of a session that idled out, as long as something is known of it.
pub(super) async fn anomaly(State(control): State<Arc<Control>>, Path(id): Path<String>) -> Reply {
    match control.sessions.kept(&id) {
        Some((spiffe_id, watch)) => {
            let anomaly = watch.explain(Instant::now());
            let answer = AnomalyAnswer { session: id.clone(), spiffe_id: spiffe_id.to_string(), anomaly };
            Reply::new(&answer, "shown").detail("session", id)
        }
        None => no_such_session(),
    }
}

fn no_such_session() -> Reply {
    Problem::new(404, "no_such_session", "there is no such session; it has idled out, or never was")
        .hint("see GET /v1/sessions")
        .into()
}

/// `GET /v1/exchanges`
pub(super) async fn exchanges(State(control): State<Arc<Control>>) -> Reply {
    let (reply, answer) = oneshot::channel();
    match activation::ask(&control, Order::Exchanges { reply }, answer).await {
        Ok(exchanges) => {
            let outcome = format!("{} shown", exchanges.len());
            Reply::new(&ExchangesAnswer { exchanges }, outcome)
        }
        Err(problem) => problem.into(),
    }
}

/// `GET /v1/kills`
pub(super) async fn kills(State(control): State<Arc<Control>>) -> Reply {
    let now = Instant::now();
    let standing = control.door.registry().standing().all();
    let mut kills: Vec<KillRow> = standing
        .iter()
        .map(|kill| KillRow {
            id: kill.id.to_string(),
            selector: kill.selector.clone(),
            reason: kill.reason.clone(),
            by: kill.by.clone(),
            created: kill.created,
            seconds_left: kill.expires.map(|expires| expires.saturating_duration_since(now).as_secs()),
        })
        .collect();
    kills.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    let outcome = format!("{} shown", kills.len());
    Reply::new(&KillsAnswer { kills }, outcome)
}
