//! The step of the tour that shows a cut in each protocol's own words: one kill, a WebSocket and a gRPC call.
//!
//! Both ends of both conversations can tell a cut from a failure, because each protocol has a word for it.

use std::io::Write;
use std::time::Instant;

use serde_json::Value;

use super::cuts::{count, read_to_end, read_until};
use super::{Scene, Wrong, expect, milliseconds};
use crate::demo::client::End;
use crate::demo::stage::Role;
use crate::demo::teller::Teller;

const TERMINAL: &str = "/v1/terminal";
const WATCH: &str = "/demo.v1.Users/Watch";
/// The bytes of a message of the watch with its prefix, while it counts below 128.
const MESSAGE: usize = 7;
const BEFORE: usize = 3;
/// "Policy violation" (RFC 6455 section 7.4.1).
const POLICY_VIOLATION: u16 = 1008;
/// PERMISSION_DENIED (gRPC status codes).
const PERMISSION_DENIED: u32 = 7;

impl Scene {
    pub(super) async fn cut_in_words<W: Write>(&self, teller: &mut Teller<W>) -> Result<(), Wrong> {
        teller.step("Cut in their own words: a WebSocket and a gRPC call, by one kill")?;
        let mut socket = self.client.websocket(TERMINAL).await?;
        let mut lines = 0;
        while lines < BEFORE {
            match socket.next().await? {
                Ok(_) => lines += 1,
                Err(end) => expect("the WebSocket before the cut", "it to go on".to_owned(), end.to_string())?,
            }
        }
        teller.fact("GET /v1/terminal, WebSocket", &format!("{lines} messages so far"))?;
        let mut connection = self.client.http2().await?;
        let mut call = connection.call(WATCH).await?;
        expect("the status", 200, call.status)?;
        let mut bytes = read_until(&mut call, |bytes| bytes.len() >= BEFORE * MESSAGE).await?;
        teller.fact("demo.v1.Users/Watch, gRPC", &format!("{} messages so far", bytes.len() / MESSAGE))?;

        let kill = ["kill", "--spiffe-id", Role::Research.spiffe_id(), "--reason", "tour", "--ttl", "10m"];
        teller.fact("an operator types", &self.operator.line(&kill))?;
        let start = Instant::now();
        let told = async {
            loop {
                match socket.next().await? {
                    Ok(_) => {}
                    Err(end) => break Ok::<_, Wrong>((end, Instant::now())),
                }
            }
        };
        let (outcome, closed, ended) = tokio::join!(self.operator.run(&kill), told, read_to_end(&mut call, &mut bytes));
        let (outcome, (closed, closed_at), (end, ended_at)) = (outcome?, closed?, ended?);
        teller.fact("and is told", &outcome.to_string())?;
        expect("exchanges the kill cut", "2", &count(&outcome, "cut"))?;
        expect("the end of the WebSocket", End::Closed(POLICY_VIOLATION), closed.clone())?;
        expect("the end of the call", End::Status(PERMISSION_DENIED), end.clone())?;
        expect("bytes of a message cut short", 0, bytes.len() % MESSAGE)?;
        teller.fact("the WebSocket ends", &format!("{closed} after {}", milliseconds(closed_at - start)))?;
        teller.fact("the call ends", &format!("{end} after {}", milliseconds(ended_at - start)))?;
        self.upstream_let_go().await?;
        teller.fact("the upstream", "has been told, and has stopped sending")?;
        let id = outcome.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.operator.run(&["kills", "lift", &id]).await.map(drop).map_err(Into::into)
    }
}
