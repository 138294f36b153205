//! The record's lines, delivered to a service as OPA delivers decision logs: gzipped JSON arrays, POSTed.
//!
//! In: an [`Outbox`] the record's writer fills. Out: chunks at the service, and word of each try. What must stay true: a chunk is sent
//! again until the service says 2xx, and the next one only after it, so lines arrive in their order, each at least once (twice where an
//! answer was lost: its `decision_id` is the same); while the service is away memory is bounded, the oldest lines go first, and the
//! record is told how many.
//! Not sent from where they are made: a service that hangs must hang nobody else.
//!
//! Source: OPA `management-decision-logs`, "Decision Log Service API".

mod pack;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use http::header::CONTENT_ENCODING;
use prometheus::IntCounter;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::audit::{Audit, Deliver, Outbox};
use crate::service::pause::{after_failures, between, chance};
use crate::service::{Call, Service};
use crate::units::{Size, Span};

use pack::{Chunk, Packer};

/// How long a gate that ends tries to deliver what waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// `decision_logs`: who gets the record's lines beside the file.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One of `services`.
    pub service: String,
    /// What lines are posted to, joined to the service's url; `logs` when absent.
    #[serde(default = "logs")]
    pub resource: String,
    #[serde(default)]
    pub lines: Lines,
    #[serde(default)]
    pub reporting: Reporting,
}

/// Which lines a service gets.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Lines {
    /// Decisions, in OPA's schema.
    #[default]
    Decisions,
    /// Closings, control calls and the chain's own lines as well: `portcullis audit verify` can check what arrived.
    All,
}

/// `decision_logs.reporting`: when lines are sent, and how many.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Reporting {
    /// Lines that wait are sent after a time at random between the two; a full chunk is sent at once.
    pub min_delay: Span,
    /// Also the longest pause after failures.
    pub max_delay: Span,
    /// Of one chunk, compressed. A line that is larger alone is not delivered.
    pub upload_size_limit: Size,
    /// Lines that wait in memory. When they are more, the oldest are given up, and counted.
    pub buffer_size_limit: Size,
}

impl Default for Reporting {
    fn default() -> Self {
        Self {
            // OPA's own are 300 and 600 s. What an agent did should not lie on the agent's machine alone for minutes.
            min_delay: Span::seconds(1),
            max_delay: Span::seconds(5),
            upload_size_limit: Size::kib(32),
            buffer_size_limit: Size::mib(64),
        }
    }
}

fn logs() -> String {
    "logs".to_owned()
}

impl From<Lines> for Deliver {
    fn from(lines: Lines) -> Self {
        match lines {
            Lines::Decisions => Self::Decisions,
            Lines::All => Self::All,
        }
    }
}

/// What delivers.
#[derive(Debug)]
pub struct Delivery {
    pub service: Arc<Service>,
    pub resource: String,
    pub reporting: Reporting,
    pub outbox: Arc<Outbox>,
    /// Told what was given up.
    pub audit: Audit,
    /// Uploads that failed.
    pub failures: IntCounter,
}

/// What came of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub at: SystemTime,
    /// Why nothing was taken, and what the service answered, where it answered.
    pub failure: Option<(String, Option<u16>)>,
}

impl Delivery {
    /// Delivers until the outbox is closed, and then what is left, for five seconds at most. Tells `tell` of each try.
    pub async fn run(self, tell: impl Fn(Tried)) {
        let ended = async {
            self.outbox.closed().await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::select! {
            () = self.deliver(&tell) => {}
            () = ended => {}
        }
        let left = self.outbox.left();
        if left > 0 {
            self.outbox.abandon();
            tracing::error!(service = %self.service.name, lines = left, "the gate ends, and lines of the record were not delivered; its file has them");
        }
    }

    async fn deliver(&self, tell: &impl Fn(Tried)) {
        let Reporting { upload_size_limit, buffer_size_limit, .. } = self.reporting;
        // A chunk must be full before the buffer is.
        let mut packer = Packer::new(upload_size_limit.bytes(), buffer_size_limit.bytes() / 2);
        let (mut failures, mut in_hand) = (0, None);
        loop {
            self.wait(failures, &packer).await;
            let ending = self.outbox.is_closed();
            let Some(chunk) = in_hand.take().or_else(|| self.next(&mut packer)) else {
                if ending && self.outbox.left() == 0 {
                    return;
                }
                continue;
            };
            let failure = self.send(&chunk).await.err();
            match &failure {
                None => {
                    self.outbox.delivered(chunk.lines);
                    failures = 0;
                    self.tell_the_record();
                }
                Some((problem, _)) => {
                    if failures == 0 {
                        tracing::warn!(service = %self.service.name, resource = %self.resource, %problem, "decisions are not delivered; they wait, and are tried again");
                    }
                    failures += 1;
                    self.failures.inc();
                    // Newer lines were given up for it: the oldest goes first. Else one chunk the service never takes would stop all.
                    if self.outbox.is_pressed() {
                        self.outbox.give_up(chunk.lines);
                    } else {
                        in_hand = Some(chunk);
                    }
                }
            }
            tell(Tried { at: SystemTime::now(), failure });
        }
    }

    /// Until it is time for the next try.
    async fn wait(&self, failures: u32, packer: &Packer) {
        let (least, most) = (self.reporting.min_delay.0, self.reporting.max_delay.0);
        match after_failures(failures, most, chance()) {
            // A gate that ends has a few seconds, and the service may be back in them.
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                let full = self.outbox.holds(packer.target());
                // Over, or full, or closed: each is a reason to look.
                let _ = tokio::time::timeout(between(least, most, chance()), full).await;
            }
        }
    }

    /// The oldest lines as a chunk; none where nothing waits.
    fn next(&self, packer: &mut Packer) -> Option<Chunk> {
        loop {
            let lines = self.outbox.take(packer.target());
            if lines.is_empty() {
                return None;
            }
            let count = lines.len() as u64;
            match packer.pack(lines) {
                Ok(packed) => {
                    self.outbox.put_back(packed.rest);
                    if packed.chunk.is_some() {
                        return packed.chunk;
                    }
                    self.outbox.give_up(1);
                    tracing::error!(service = %self.service.name, limit = %self.reporting.upload_size_limit, "a decision is larger than a chunk may be, and is not delivered; raise decision_logs.reporting.upload_size_limit");
                }
                Err(error) => {
                    self.outbox.give_up(count);
                    tracing::error!(%error, lines = count, "lines of the record cannot be compressed, and are not delivered");
                }
            }
        }
    }

    async fn send(&self, chunk: &Chunk) -> Result<(), (String, Option<u16>)> {
        let mut call = Call::post(&self.resource, HeaderValue::from_static("application/json"), chunk.body.clone());
        call.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        match self.service.send(call).await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err((format!("it answered {}", answer.status), Some(answer.status.as_u16()))),
            Err(error) => Err((error.to_string(), None)),
        }
    }

    /// Once the service takes lines again: told all along, the telling would fill a buffer that is full.
    fn tell_the_record(&self) {
        let lost = self.outbox.untold();
        if lost > 0 {
            self.audit.undelivered(lost);
            tracing::error!(service = %self.service.name, lines = lost, "lines of the record were given up while the service took none; its file has them");
        }
    }
}
