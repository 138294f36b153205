//! The record: one decision line an exchange, one closing line where that was written early, written by a thread of its own.
//!
//! In: a [`Record`] and, at most once, a [`Closing`] through a [`Permit`] that was reserved before the exchange was judged. Out:
//! JSON lines in OPA's decision-log schema, each with a `portcullis` object whose fields are there whatever the policy read.
//! What must stay true: a worker never waits for the disk except where [`Audit::reserve`] and [`Ack::recorded`] say so, and then at
//! most `wait`; a permit's lines always find room, so nothing waits in a `Drop`; a line is whole or absent; what is lost is counted
//! to the record itself.
//! Not a channel of lines: a receiver woken for each of them costs more than the line. Workers append bytes to one shared buffer,
//! and the writer takes it by size or by tick.
//!
//! ```text
//! worker    reserve → judge → permit.write → ack          one memcpy under a lock
//! writer    take → seal → write → (sync) → room given back → outbox   back-off on errors, from where it stopped
//! ```

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::{Size, Span};

mod chain;
mod checkpoint;
mod outbox;
mod queue;
mod record;
mod room;
mod seal;
mod secret;
mod sink;
mod verify;
mod writer;

pub use checkpoint::{KeyError, PublicKey, Signer};
pub use outbox::{Deliver, Outbox, OutboxMetrics};
pub use record::{Closing, ControlCall, Core, Document, Labels, Line, Outcome, Record, Resource, ShadowLine, Why};
pub use room::{Ack, Audit, AuditMetrics, Full, Permit, Unwritten};
pub use secret::{hash_secret, is_secret_header, is_secret_parameter, readable_target};
pub use sink::AuditError;
pub use verify::{Broken, Expected, Summary, Unverified, verify};
pub use writer::Writer;

/// `audit`: where decisions are recorded, and what happens when they cannot be.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// JSON lines are appended here; `-` is stdout.
    pub file: PathBuf,
    pub durability: Durability,
    pub on_full: OnFull,
    /// How long an exchange waits for room in the record before it is refused with 503 (`on_full: block`).
    pub wait: Span,
    pub input: InputDetail,
    /// Lets a policy keep decisions out of the record (`data.system.log.drop`); the record tells how many. What was refused, killed or cut
    /// is recorded all the same.
    pub allow_drop: bool,
    /// Lines that may wait for the writer, or be owed by exchanges that are open. A line of many KiB counts as several.
    pub queue: usize,
    pub checkpoint: Checkpoints,
    /// Puts the file aside as `FILE.1` when it is large; without it somebody else rotates the record, or nobody.
    pub rotate: Option<Rotate>,
}

/// `audit.checkpoint`: how often the record signs how far it has come.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// A line has a checkpoint behind it within this time.
    pub every: Span,
    /// And before this many lines more.
    pub lines: u64,
    /// An Ed25519 key (PKCS #8 in PEM), `audit-checkpoint.pem` under `state.directory` where it is not named. Made where there is none,
    /// with its public half beside it.
    pub key: Option<PathBuf>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: Span::seconds(60), lines: 10_000, key: None }
    }
}

/// `audit.rotate`: when a new file is begun, and how many old ones are kept.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    pub size: Size,
    /// Files beside the one that is written; the oldest is removed.
    pub keep: usize,
}

impl Default for Rotate {
    fn default() -> Self {
        Self { size: Size::mib(256), keep: 8 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: PathBuf::from("decisions.jsonl"),
            durability: Durability::Queued,
            on_full: OnFull::Block,
            wait: Span::seconds(2),
            input: InputDetail::Footprint,
            allow_drop: false,
            queue: 65_536,
            checkpoint: Checkpoints::default(),
            rotate: None,
        }
    }
}

/// When a decision counts as recorded.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Its line is in the queue.
    #[default]
    Queued,
    /// Its line is in the file before the first byte goes up.
    Written,
    /// Its line is on the disk before the first byte goes up (group commit).
    Synced,
}

/// What happens when the queue is full.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// Wait for room, then refuse with 503.
    #[default]
    Block,
    /// Let the exchange pass without its lines, and count the loss.
    Drop,
}

/// How much of the policy's input a record holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum InputDetail {
    /// What the policy can read, without bodies.
    #[default]
    Footprint,
    /// The whole request head.
    Head,
    /// The head and the parsed body.
    Full,
}

#[cfg(test)]
mod tests;
