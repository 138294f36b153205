//! The tour: a client walks through the gate and shows what it does, step by step, and fails when a step is not exactly as it should be.
//!
//! In: a running gate and the demo API behind it. Out: a transcript, or the name of the first step that went wrong and what was seen
//! instead. What must stay true: nothing is claimed that was not measured. What the client got is read from its connection, what the
//! upstream saw is asked of the upstream, and kills are the commands an operator types.

mod cuts;
mod record;
mod words;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::api::Api;
use super::client::{Answer, Ask, Client, ClientError, PATIENCE, metric};
use super::command::{CommandError, Operator};
use super::stage::{Role, Stage, StageError};
use super::teller::Teller;

pub use record::show as show_record;

/// From one look at the gate's metrics to the next, while something is waited for.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Everything the tour walks through.
pub struct Scene {
    pub stage: Stage,
    pub api: Api,
    pub client: Client,
    pub operator: Operator,
    pub gate: SocketAddr,
    pub admin: SocketAddr,
}

/// The step that went wrong, and what was seen.
#[derive(Debug, thiserror::Error)]
#[error("step `{step}`: {seen}")]
pub struct Failed {
    pub step: &'static str,
    pub seen: Wrong,
}

/// What was seen instead of what should have been.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error("{what}: expected {expected}, saw {saw}")]
    Other { what: &'static str, expected: String, saw: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("the transcript cannot be written: {0}")]
    Out(#[from] io::Error),
}

const USERS: Ask = Ask { method: Method::GET, path: "/v1/users", body: "" };
const DELETE: Ask = Ask { method: Method::DELETE, path: "/v1/users/7", body: "" };
const CREATE: Ask = Ask { method: Method::POST, path: "/v1/users", body: r#"{"name":"eve","role":"admin"}"# };
const EVENTS: Ask = Ask { method: Method::GET, path: "/v1/events", body: "" };
const EXPORT: Ask = Ask { method: Method::GET, path: "/v1/export", body: "" };

/// Plays every step that needs a running gate.
///
/// # Errors
/// The first step that is not as it should be.
pub async fn play<W: Write>(scene: &Scene, teller: &mut Teller<W>) -> Result<(), Failed> {
    let of = |step| move |seen| Failed { step, seen };
    introduce(scene, teller).map_err(of("introduction"))?;
    scene.allow(teller).await.map_err(of("allow"))?;
    scene.deny(teller).await.map_err(of("deny"))?;
    scene.rewrite(teller).await.map_err(of("rewrite"))?;
    scene.cut_by_kill(teller).await.map_err(of("cut by kill"))?;
    scene.cut_by_policy(teller).await.map_err(of("cut by policy"))?;
    scene.cut_in_words(teller).await.map_err(of("cut in words"))
}

fn introduce<W: Write>(scene: &Scene, teller: &mut Teller<W>) -> Result<(), Wrong> {
    teller.line("A tour of Portcullis. All of it happens now, on this machine.")?;
    teller.line("")?;
    teller.fact("the gate", &format!("https://{}", scene.gate))?;
    teller.fact("in front of", &format!("http://{}, a demo admin API", scene.api.address()))?;
    teller.fact("who is calling", Role::Research.spiffe_id())?;
    Ok(teller.fact("the policy", &scene.stage.directory().join("policy").display().to_string())?)
}

impl Scene {
    async fn allow<W: Write>(&self, teller: &mut Teller<W>) -> Result<(), Wrong> {
        teller.step("Allow: the agent may read users")?;
        let before = self.api.count();
        let answer = self.client.ask(&USERS).await?;
        expect("the status", 200, answer.status)?;
        expect("requests that reached the upstream", 1, self.api.count() - before)?;
        teller.fact("GET /v1/users over HTTP/2", &told(&answer))?;
        let seen = self.api.last().and_then(|seen| Some(seen.headers.get("x-spiffe-id")?.to_str().ok()?.to_owned()));
        expect("the caller the upstream was told", Role::Research.spiffe_id(), seen.as_deref().unwrap_or("nothing"))?;
        Ok(teller.fact("the upstream was told", &format!("x-spiffe-id: {}", seen.unwrap_or_default()))?)
    }

    async fn deny<W: Write>(&self, teller: &mut Teller<W>) -> Result<(), Wrong> {
        teller.step("Deny: to delete is for operators")?;
        let before = self.api.count();
        let answer = self.client.ask(&DELETE).await?;
        problem(&answer, "policy")?;
        expect("requests that reached the upstream", 0, self.api.count() - before)?;
        teller.fact("DELETE /v1/users/7", &told(&answer))?;
        Ok(teller.fact("the upstream saw", "nothing")?)
    }

    async fn rewrite<W: Write>(&self, teller: &mut Teller<W>) -> Result<(), Wrong> {
        teller.step("Rewrite: whoever is created starts as a viewer")?;
        let before = self.api.count();
        let answer = self.client.ask(&CREATE).await?;
        expect("the status", 201, answer.status)?;
        expect("requests that reached the upstream", 1, self.api.count() - before)?;
        let seen = self.api.last().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).unwrap_or_default();
        let expected = serde_json::json!({"name": "eve", "role": "viewer"});
        expect("the body the upstream saw", expected, serde_json::from_str::<Value>(&seen).unwrap_or_default())?;
        teller.fact("POST /v1/users, as sent", CREATE.body)?;
        teller.fact("as the upstream saw it", &seen)?;
        Ok(teller.fact("the answer", &told(&answer))?)
    }

    /// Waits until one of the gate's metrics is as it should be.
    ///
    /// Looked at by turns: the metrics page tells nobody when it changes.
    async fn metric_when(&self, series: &'static str, as_it_should: impl Fn(f64) -> bool) -> Result<f64, Wrong> {
        let start = Instant::now();
        loop {
            let value = metric(self.admin, series).await?.unwrap_or_default();
            if as_it_should(value) {
                return Ok(value);
            }
            if start.elapsed() > PATIENCE {
                let expected = format!("a change within {} s", PATIENCE.as_secs());
                return Err(Wrong::Other { what: series, expected, saw: value.to_string() });
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Waits until the upstream sends no stream any more.
    async fn upstream_let_go(&self) -> Result<(), Wrong> {
        let mut streams = self.api.streams();
        let ended = tokio::time::timeout(PATIENCE, streams.wait_for(|open| *open == 0)).await;
        let gone = ended.is_ok_and(|waited| waited.is_ok());
        expect("the upstream's end of the stream", "closed", if gone { "closed" } else { "open" })
    }
}

/// Checks one thing.
fn expect<T: PartialEq + std::fmt::Display>(what: &'static str, expected: T, saw: T) -> Result<(), Wrong> {
    if expected == saw {
        return Ok(());
    }
    Err(Wrong::Other { what, expected: expected.to_string(), saw: saw.to_string() })
}

/// Checks that an answer is a denial of the gate, for this reason.
fn problem(answer: &Answer, code: &str) -> Result<(), Wrong> {
    expect("the status", 403, answer.status)?;
    expect("the content type", "application/problem+json", &answer.content_type)?;
    let document: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    expect("the code", code, document.get("code").and_then(Value::as_str).unwrap_or("none"))
}

fn told(answer: &Answer) -> String {
    format!("{}\n{}", answer.status, answer.body.trim_end())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
