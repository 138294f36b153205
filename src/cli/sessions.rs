//! `portcullis sessions`: who is known, or what one session did lately.

use clap::Args;

use super::client::{Remote, escape};
use super::failure::Failure;
use super::table::{ago, or_dash, pairs, table};
use crate::control::answers::{SessionAnswer, SessionsAnswer};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// One session, with what it did lately.
    #[arg(value_name = "ID", conflicts_with = "spiffe_id")]
    id: Option<String>,
    /// Only sessions of this workload.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { id, spiffe_id, remote } = arguments;
    if let Some(id) = id {
        let answer = remote.get(&format!("/v1/sessions/{}", escape(id)))?;
        return remote.show(&answer, one);
    }
    let query = spiffe_id.as_ref().map(|id| format!("?spiffe_id={}", escape(id))).unwrap_or_default();
    let answer = remote.get(&format!("/v1/sessions{query}"))?;
    remote.show(&answer, all)
}

fn all(answer: SessionsAnswer) -> String {
    let rows = answer.sessions.into_iter().map(|row| {
        let numbers = [row.open as u64, row.requests, row.denied, row.cut].map(|number| number.to_string());
        let [open, requests, denied, cut] = numbers;
        [row.id, row.spiffe_id, open, requests, denied, cut, ago(row.age_seconds), ago(row.idle_seconds)]
    });
    table(["SESSION", "SPIFFE ID", "OPEN", "REQUESTS", "DENIED", "CUT", "AGE", "IDLE"], rows)
}

fn one(answer: SessionAnswer) -> String {
    let SessionAnswer { session, recent } = answer;
    let head = pairs([
        ("session", session.id),
        ("spiffe id", session.spiffe_id),
        ("task", or_dash(session.task)),
        ("age", ago(session.age_seconds)),
        ("open", session.open.to_string()),
        ("requests", format!("{}, {} denied, {} cut", session.requests, session.denied, session.cut)),
    ]);
    if recent.is_empty() {
        return head;
    }
    let rows = recent.into_iter().map(|past| [ago(past.seconds_ago), past.verdict, past.action, past.host]);
    format!("{head}\n\n{}", table(["AGO", "VERDICT", "ACTION", "HOST"], rows))
}
