//! The two steps of the tour that take an allow back: by an operator's command, and by an edit of the policy's data.

use std::io::Write;
use std::time::Instant;

use h2::Reason;
use serde_json::Value;

use super::{EVENTS, EXPORT, Scene, USERS, Wrong, expect, milliseconds, problem, told};
use crate::demo::client::{End, PATIENCE, Stream};
use crate::demo::stage::Role;
use crate::demo::teller::Teller;

const GENERATION: &str = "portcullis_policy_generation";
const KILL_CUTS: &str = "portcullis_cut_seconds_count{cause=\"kill\"}";
const KILL_SECONDS: &str = "portcullis_cut_seconds_sum{cause=\"kill\"}";
/// Events that must have come before the stream is cut.
const EVENTS_BEFORE: usize = 5;
/// How much of the export must have come before it is cut.
const BYTES_BEFORE: usize = 32 * 1024;

impl Scene {
    pub(super) async fn cut_by_kill<W: Write>(&self, teller: &mut Teller<W>) -> Result<(), Wrong> {
        teller.step("Cut by an operator: an event stream, while it runs")?;
        let mut connection = self.client.http2().await?;
        let mut stream = connection.open(&EVENTS).await?;
        expect("the status", 200, stream.status)?;
        let mut text = read_until(&mut stream, |text| events(text) >= EVENTS_BEFORE).await?;
        teller.fact("GET /v1/events over HTTP/2", &format!("{}, and {} events so far", stream.status, events(&text)))?;

        let kill = ["kill", "--spiffe-id", Role::Research.spiffe_id(), "--reason", "tour", "--ttl", "10m"];
        teller.fact("an operator types", &self.operator.line(&kill))?;
        let (cuts, seconds) = (self.metric_when(KILL_CUTS, |_| true).await?, self.metric_when(KILL_SECONDS, |_| true).await?);
        let start = Instant::now();
        let (outcome, end) = tokio::join!(self.operator.run(&kill), read_to_end(&mut stream, &mut text));
        let (outcome, (end, ended)) = (outcome?, end?);
        teller.fact("and is told", &outcome.to_string())?;
        let id = outcome.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        expect("whether the kill stands", "yes", if id.is_empty() { "no" } else { "yes" })?;
        expect("exchanges the kill cut", "1", &count(&outcome, "cut"))?;
        expect("exchanges not yet stopped when the kill returned", "0", &count(&outcome, "pending"))?;
        expect("the end of the stream", End::StreamReset(Reason::CANCEL), end.clone())?;
        teller.fact("the stream ends", &format!("{end} after {} events", events(&text)))?;
        teller.fact("from command to last byte", &format!("{}, a new process included", milliseconds(ended - start)))?;
        self.metric_when(KILL_CUTS, |now| now > cuts).await?;
        let inside = std::time::Duration::from_secs_f64((self.metric_when(KILL_SECONDS, |_| true).await? - seconds).max(0.0));
        teller.fact("of it, inside the gate", &format!("{}, from kill to last byte", milliseconds(inside)))?;
        self.upstream_let_go().await?;
        teller.fact("the upstream", "has been told, and has stopped sending")?;
        self.lift(&id, teller).await
    }

    /// What is killed stays out until the kill is lifted.
    async fn lift<W: Write>(&self, id: &str, teller: &mut Teller<W>) -> Result<(), Wrong> {
        let before = self.api.count();
        let answer = self.client.ask(&USERS).await?;
        problem(&answer, "killed")?;
        expect("requests that reached the upstream", 0, self.api.count() - before)?;
        teller.fact("the next request", &told(&answer))?;
        let lift = ["kills", "lift", id];
        teller.fact("the operator types", &self.operator.line(&lift))?;
        self.operator.run(&lift).await?;
        let answer = self.client.ask(&USERS).await?;
        expect("the status after the kill was lifted", 200, answer.status)?;
        Ok(teller.fact("the same request", &answer.status.to_string())?)
    }

    pub(super) async fn cut_by_policy<W: Write>(&self, teller: &mut Teller<W>) -> Result<(), Wrong> {
        teller.step("Cut by the policy: a download, when its data changes")?;
        let mut stream = self.client.open_http1(&EXPORT).await?;
        expect("the status", 200, stream.status)?;
        let mut text = read_until(&mut stream, |text| text.len() >= BYTES_BEFORE).await?;
        teller.fact("GET /v1/export over HTTP/1.1", &format!("{}, and {} KiB so far", stream.status, text.len() / 1024))?;

        let generation = self.metric_when(GENERATION, |_| true).await?;
        teller.fact("somebody edits", &format!("{}: export_open is false", self.stage.policy_data().display()))?;
        let start = Instant::now();
        self.stage.set_export_open(false)?;
        let (end, ended) = read_to_end(&mut stream, &mut text).await?;
        expect("the end of the download", End::ConnectionReset, end.clone())?;
        teller.fact("the download ends", &format!("{end} after {} KiB, without a last chunk", text.len() / 1024))?;
        teller.fact("from edit to last byte", &format!("{}, most of it until the gate looks", milliseconds(ended - start)))?;
        self.upstream_let_go().await?;
        let generation = self.metric_when(GENERATION, |now| now > generation).await?;
        let answer = self.client.ask(&EXPORT).await?;
        problem(&answer, "policy")?;
        teller.fact("the next download", &told(&answer))?;

        self.stage.set_export_open(true)?;
        self.metric_when(GENERATION, |now| now > generation).await?;
        let mut stream = self.client.open_http1(&EXPORT).await?;
        expect("the status after the export was opened again", 200, stream.status)?;
        read_until(&mut stream, |text| !text.is_empty()).await?;
        teller.fact("export_open is true again", &format!("{}, and it is coming", stream.status))?;
        drop(stream);
        self.upstream_let_go().await
    }
}

fn events(text: &[u8]) -> usize {
    text.windows(4).filter(|bytes| bytes == b"id: ").count()
}

pub(super) fn count(outcome: &Value, key: &str) -> String {
    outcome.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string)
}

pub(super) async fn read_until(stream: &mut Stream, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Wrong> {
    let mut text = Vec::new();
    while !enough(&text) {
        match stream.next().await? {
            Ok(bytes) => text.extend_from_slice(&bytes),
            Err(end) => {
                let expected = "it to go on".to_owned();
                return Err(Wrong::Other { what: "the stream before the cut", expected, saw: end.to_string() });
            }
        }
    }
    Ok(text)
}

/// Reads on until the end, and says how and when that came.
pub(super) async fn read_to_end(stream: &mut Stream, text: &mut Vec<u8>) -> Result<(End, Instant), Wrong> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match stream.next().await? {
            Ok(bytes) => text.extend_from_slice(&bytes),
            Err(end) => return Ok((end, Instant::now())),
        }
    }
    let expected = format!("an end within {} s", PATIENCE.as_secs());
    Err(Wrong::Other { what: "the stream", expected, saw: "more of it".to_owned() })
}
