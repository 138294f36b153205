//! What the writer adds to lines: their place in the chain, the line that begins it, and checkpoints.
//!
//! In: a batch as the workers left it. Out: the batch as it is written. What must stay true: a batch is sealed once and then written
//! again until the file holds it, so the file never holds two lines of one number; a checkpoint follows each line within `every` and
//! before `lines` more, and the last line of a run at its end.

use std::time::Instant;

use serde_json::value::RawValue;

use super::Checkpoints;
use super::chain::Chain;
use super::checkpoint::Signer;
use super::queue::{Batch, Room};
use super::record::{Checkpoint, Start, encode_own};
use crate::units::Span;

/// See the module.
#[derive(Debug)]
pub(super) struct Seal {
    chain: Chain,
    signer: Option<Signer>,
    every: Span,
    /// So many lines have a checkpoint behind them.
    lines: u64,
    /// Lines since the last one.
    unsigned: u64,
    /// When they get one.
    due: Option<Instant>,
    scratch: Vec<u8>,
}

impl Seal {
    pub(super) fn new(chain: Chain, signer: Option<Signer>, config: &Checkpoints) -> Self {
        let (every, lines) = (config.every, config.lines);
        Self { chain, signer, every, lines, unsigned: 0, due: None, scratch: Vec::new() }
    }

    /// When the next checkpoint is to be written.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Adds the lines of `batch` to `sealed`, and a checkpoint where one is due.
    pub(super) fn batch(&mut self, batch: &Batch, sealed: &mut Batch, labels: &RawValue) {
        if self.chain.is_new() && !batch.is_empty() {
            let start = Start { key: self.signer.as_ref().map(Signer::id), public_key: self.signer.as_ref().map(Signer::public) };
            self.own(sealed, labels, "start", &start);
        }
        for (line, room) in batch.lines() {
            sealed.append_with(room, |bytes| self.chain.seal(line, bytes));
            self.unsigned += 1;
            // In the midst of a batch too: one that waited out a full disk may hold any number of lines.
            if self.unsigned >= self.lines {
                self.last(sealed, labels);
            }
        }
        if self.signer.is_some() && self.due.is_none() && self.unsigned > 0 {
            self.due = Instant::now().checked_add(self.every.0);
        }
        if self.due.is_some_and(|due| Instant::now() >= due) {
            self.last(sealed, labels);
        }
    }

    /// Adds a checkpoint where lines have none yet.
    pub(super) fn last(&mut self, sealed: &mut Batch, labels: &RawValue) {
        self.due = None;
        let Some(seq) = self.chain.next().checked_sub(1).filter(|_| std::mem::take(&mut self.unsigned) > 0) else { return };
        let Some(signer) = &self.signer else { return };
        let hash = self.chain.head().to_owned();
        let checkpoint = Checkpoint { seq, hash: &hash, key: signer.id(), signature: signer.sign(seq, &hash) };
        self.own(sealed, labels, "checkpoint", &checkpoint);
    }

    fn own<B: serde::Serialize>(&mut self, sealed: &mut Batch, labels: &RawValue, kind: &'static str, body: &B) {
        let mut line = std::mem::take(&mut self.scratch);
        match encode_own(&mut line, labels, kind, body) {
            Ok(()) => sealed.append_with(Room::Chain, |bytes| self.chain.seal(&line, bytes)),
            Err(error) => tracing::error!(%error, kind, "a line of the record's chain cannot be written as JSON"),
        }
        self.scratch = line;
    }
}
