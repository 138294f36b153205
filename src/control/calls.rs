//! The calls there are: name, role, limits, record.
//!
//! In: a request with its [`Caller`]. Out: an answer and a line in the record. What must stay true: a call runs in a task of its own,
//! so that a caller who hangs up neither stops a kill half-way nor keeps it out of the record; views and changes have separate room,
//! so that no number of views delays a kill.
//! The name of a call is given here and not read from its path, which could say anything.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::BoxError;
use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::value::to_raw_value;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;

use super::answers::Problem;
use super::caller::Caller;
use super::reply::{Reply, Told};
use super::{Control, activation, kills, views};
use crate::audit::ControlCall;

/// How long a call may take. An activation compiles the policy once a worker, a kill waits a second for workers and for the disk.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body of a call.
const BODY: usize = 1024 * 1024;
/// Views, and changes, at a time.
const AT_A_TIME: usize = 32;

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    View,
    Operate,
}

/// Makes the calls of the contract.
struct Calls {
    control: Arc<Control>,
    views: GlobalConcurrencyLimitLayer,
    changes: GlobalConcurrencyLimitLayer,
}

/// Every call there is.
pub(super) fn router(control: Arc<Control>) -> Router {
    let [views, changes] = [(); 2].map(|()| GlobalConcurrencyLimitLayer::new(AT_A_TIME));
    let calls = Calls { control: Arc::clone(&control), views, changes };
    let listed = calls.view("GET /v1/kills", get(views::kills));
    let killed = calls.operate("POST /v1/kills", post(kills::kill));
    Router::new()
        .route("/v1/status", calls.view("GET /v1/status", get(views::status)))
        .route("/v1/policy", calls.view("GET /v1/policy", get(views::policy)))
        .route("/v1/policy/shadow", calls.view("GET /v1/policy/shadow", get(views::shadow)))
        .route("/v1/sessions", calls.view("GET /v1/sessions", get(views::sessions)))
        .route("/v1/sessions/{id}", calls.view("GET /v1/sessions/{id}", get(views::session)))
        .route("/v1/sessions/{id}/anomaly", calls.view("GET /v1/sessions/{id}/anomaly", get(views::anomaly)))
        .route("/v1/exchanges", calls.view("GET /v1/exchanges", get(views::exchanges)))
        .route("/v1/kills", listed.merge(killed))
        .route("/v1/kills/{id}", calls.operate("DELETE /v1/kills/{id}", delete(kills::lift)))
        .route("/v1/policy/activate", calls.operate("POST /v1/policy/activate", post(activation::activate)))
        .route("/v1/policy/rollback", calls.operate("POST /v1/policy/rollback", post(activation::rollback)))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(control)
}

impl Calls {
    fn view(&self, name: &'static str, handler: MethodRouter<Arc<Control>>) -> MethodRouter<Arc<Control>> {
        self.call(name, Role::View, self.views.clone(), handler)
    }

    fn operate(&self, name: &'static str, handler: MethodRouter<Arc<Control>>) -> MethodRouter<Arc<Control>> {
        self.call(name, Role::Operate, self.changes.clone(), handler)
    }

    /// `route_layer` and not `layer`: a method the path does not have is not this call.
    fn call(
        &self,
        name: &'static str,
        role: Role,
        room: GlobalConcurrencyLimitLayer,
        handler: MethodRouter<Arc<Control>>,
    ) -> MethodRouter<Arc<Control>> {
        let limits = ServiceBuilder::new().layer(HandleErrorLayer::new(limited)).load_shed().layer(room).timeout(TIMEOUT);
        let control = Arc::clone(&self.control);
        let front = from_fn(move |caller: Extension<Caller>, request: Request, next: Next| {
            let control = Arc::clone(&control);
            async move {
                let Extension(caller) = caller;
                let refused = role == Role::Operate && !caller.may_operate;
                let refusal = refused.then(|| forbidden(&caller));
                recorded(control, caller, name.to_owned(), async move {
                    match refusal {
                        Some(problem) => Reply::from(problem).into_response(),
                        None => next.run(request).await,
                    }
                })
                .await
            }
        });
        handler.route_layer(limits).route_layer(front)
    }
}

/// Carries a call to its end, whoever still listens, and records it.
async fn recorded(
    control: Arc<Control>,
    caller: Caller,
    name: String,
    call: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let task = tokio::spawn(async move {
        let Caller { uid, name: who, place, .. } = caller;
        // A panic ends this inner task only; the call is recorded all the same.
        let mut response = tokio::spawn(call).await.unwrap_or_else(|_| {
            Reply::from(Problem::new(500, "internal", "the gate failed at this call").hint("see its log")).into_response()
        });
        let mut told: Told = response.extensions_mut().remove().unwrap_or_default();
        told.detail.insert("uid".to_owned(), uid.into());
        let detail = to_raw_value(&told.detail).ok();
        control.audit.control(&ControlCall {
            at: SystemTime::now(),
            caller: who.as_deref(),
            call: &name,
            status: response.status().as_u16(),
            outcome: &told.outcome,
            detail: detail.as_deref(),
        });
        // Only now may the gate stop without losing this call.
        drop(place);
        response
    });
    task.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn forbidden(caller: &Caller) -> Problem {
    let title = match &caller.name {
        Some(name) => format!("`{name}` may view, not operate"),
        None => format!("uid {} has no name here; it may view, not operate", caller.uid),
    };
    Problem::new(403, "forbidden", title)
        .hint("name the caller's uid under control.operators, and that name under control.roles.operate")
}

async fn limited(error: BoxError) -> Reply {
    if error.is::<Elapsed>() {
        let title = format!("the call took longer than {} seconds; what it asked for may have happened", TIMEOUT.as_secs());
        return Problem::new(504, "timeout", title).hint("look at GET /v1/kills and GET /v1/status before asking again").into();
    }
    if error.is::<Overloaded>() {
        return Problem::new(503, "busy", format!("{AT_A_TIME} such calls are under way")).hint("try again").into();
    }
    Problem::new(500, "internal", "the gate failed at this call").hint("see its log").into()
}

async fn unknown(State(control): State<Arc<Control>>, Extension(caller): Extension<Caller>, method: Method) -> Response {
    let problem = Problem::new(404, "no_such_call", "there is no such call").hint("the calls are under /v1; try GET /v1/status");
    answer_unknown(control, caller, &method, problem).await
}

async fn wrong_method(State(control): State<Arc<Control>>, Extension(caller): Extension<Caller>, method: Method) -> Response {
    let problem = Problem::new(405, "no_such_method", "this path has no such method").hint("GET views, POST orders, DELETE lifts");
    answer_unknown(control, caller, &method, problem).await
}

async fn answer_unknown(control: Arc<Control>, caller: Caller, method: &Method, problem: Problem) -> Response {
    // A method may be any token; the record takes those HTTP knows.
    let known = [Method::GET, Method::POST, Method::DELETE, Method::PUT, Method::PATCH, Method::HEAD, Method::OPTIONS];
    let method = if known.contains(method) { method.as_str() } else { "?" };
    recorded(control, caller, format!("{method} ?"), async move { Reply::from(problem).into_response() }).await
}
