//! The record: one decision line an exchange, written by a thread of its own.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::Span;

/// `audit`: where decisions are recorded, and what happens when they cannot be.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// JSON lines are appended here; `-` is stdout.
    pub file: PathBuf,
    pub durability: Durability,
    pub on_full: OnFull,
    /// How long an exchange waits for room in the record before it is refused with 503 (`on_full: block`).
    pub wait: Span,
    pub input: InputDetail,
    /// Lines that may wait for the writer.
    pub queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: PathBuf::from("decisions.jsonl"),
            durability: Durability::Queued,
            on_full: OnFull::Block,
            wait: Span::seconds(2),
            input: InputDetail::Footprint,
            queue: 65_536,
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
