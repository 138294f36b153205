//! An open exchange as those see it who look at all of them: the sweep, and operators.
//!
//! In: a tick, or a question. Out: what is overdue, how often it wants to be judged again, a row. There is no timer an exchange: a
//! tick of its worker is soon enough for everything here.

use std::time::{Duration, Instant};

use super::flow::{Overdue, Stage};
use super::open::Open;
use crate::decision::{Protocol, Scope};
use crate::exchange::Selector;
use crate::kill::Order;
use crate::verdict::KillOrder;

/// An open exchange, for operators.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub spiffe_id: String,
    pub session: String,
    pub listener: String,
    pub protocol: Protocol,
    pub method: String,
    pub host: String,
    pub path: String,
    pub upstream: Option<String>,
    pub status: Option<u16>,
    pub age: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub generation: u64,
}

/// How long what was cut may take to say so.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

impl Open {
    /// How often it is judged again: as the configuration says, or more often where its lease asks for that.
    pub fn reassess_every(&self) -> Duration {
        let configured = self.worker.settings().reassess_every;
        self.flow.lease().reassess_every.map_or(configured, |asked| asked.min(configured))
    }

    /// Tells an exchange whose upstream took too long: for its response once the request is up, or for any byte once it began.
    pub fn look_at_upstream(&self, now: Instant) {
        self.with_target(|target| {
            let idle = self.flow.idle(now);
            match self.flow.stage() {
                Stage::Asking if !self.flow.uploading() && idle > target.upstream.response_timeout => {
                    self.flow.set_overdue(Overdue::Response);
                }
                Stage::Answering if idle > target.upstream.idle_timeout && self.flow.is_overdue() => self.flow.end_stalled(),
                Stage::Asking | Stage::Answering if idle > target.upstream.idle_timeout => self.flow.set_overdue(Overdue::Idle),
                Stage::Asking | Stage::Answering | Stage::Farewell => {}
            }
        });
    }

    /// A last word may take a second, then what was cut is cut hard.
    pub fn end_late_farewell(&self) {
        let late = self.exchange().cut.order().is_some_and(|(since, _)| since > LAST_WORDS_WITHIN);
        if late && self.flow.stage() == Stage::Farewell {
            self.flow.end_farewell();
        }
    }

    /// Carries out a kill the policy asked for with a denial.
    pub fn carry_out(&self, kill: KillOrder) {
        let caller = &self.downstream.caller;
        let selector = match kill.scope {
            // The denial itself ends this exchange, and its id never comes back.
            Scope::Exchange => return,
            Scope::Session => Selector { session: Some(caller.session.clone()), ..Selector::default() },
            Scope::Identity => Selector { spiffe_id: Some(caller.spiffe_id.clone()), ..Selector::default() },
        };
        let reason = format!("asked for by the policy in {}", self.id);
        if let Err(error) = self.worker.services.door.kill_now(Order { selector, reason, by: "policy".to_owned(), ttl: kill.ttl }) {
            tracing::error!(exchange = %self.id, %error, "a kill the policy asked for was refused");
        }
    }

    /// A row for operators; `None` before the request was read.
    pub fn row(&self) -> Option<Row> {
        let story = self.story.borrow();
        let request = story.request.as_deref()?;
        let settings = story.settings.as_deref()?;
        Some(Row {
            id: self.id.clone(),
            spiffe_id: self.downstream.caller.spiffe_id.clone(),
            session: self.downstream.caller.session.clone(),
            listener: settings.listener(self.downstream.listener)?.name.clone(),
            protocol: self.protocol,
            method: request.method.to_string(),
            host: request.host.clone(),
            path: request.path.clone(),
            upstream: self.exchange().upstream().map(|name| name.to_string()),
            status: story.status,
            age: self.began.elapsed(),
            bytes_in: self.flow.bytes_in(),
            bytes_out: self.flow.bytes_out(),
            generation: self.exchange().generation(),
        })
    }
}
