//! HTTP/2 frame headers, counted but never changed.
//!
//! In: the time and the bytes a peer sent, cut anywhere; out: nothing, or the word for a flood. h2 bounds what one frame may cost, not
//! how many cheap frames a second may come: SETTINGS, PING, PRIORITY, empty DATA, frames of unknown types, CONTINUATION without end
//! (RUSTSEC-2024-0332), streams opened only to be reset (CVE-2023-44487). WINDOW_UPDATE and PING follow what a peer is sent, so
//! bytes written buy them: a fixed rate alone would refuse an honest peer on a fast link.

use std::time::Instant;

use super::Limits;
use crate::decision::Refusal;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// CONTINUATION frames one header block may have.
const CONTINUATIONS: u32 = 32;
/// How many times the limit of control frames WINDOW_UPDATE may reach on top of what was bought.
const UPDATE_FACTOR: u32 = 8;
/// Bytes written that buy one WINDOW_UPDATE or PING, and how many may be saved up.
const BYTES_BUY_ONE: u64 = 2048;
const SAVED: u64 = 4 * 1024 * 1024;
const SLOTS: usize = 10;
const SLOT_MILLIS: u128 = 100;

// Frame types and flags (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// How many events the last second saw, in ten slots.
struct Rate {
    limit: u32,
    slots: [u32; SLOTS],
    total: u32,
    slot: u128,
}

impl Rate {
    const fn new(limit: u32) -> Self {
        Self { limit, slots: [0; SLOTS], total: 0, slot: 0 }
    }

    /// Counts one event and says whether the second still holds no more than the limit.
    fn hit(&mut self, slot: u128) -> bool {
        let passed = slot.saturating_sub(self.slot).min(SLOTS as u128);
        for step in 1..=passed {
            if let Some(old) = self.slots.get_mut(((self.slot + step) % SLOTS as u128) as usize) {
                self.total = self.total.saturating_sub(std::mem::take(old));
            }
        }
        self.slot = self.slot.max(slot);
        // A slot that jumped further than the ring is long lands on one of those just emptied.
        if let Some(current) = self.slots.get_mut((self.slot % SLOTS as u128) as usize) {
            *current = current.saturating_add(1);
        }
        self.total = self.total.saturating_add(1);
        self.total <= self.limit
    }
}

/// A header block that has begun: HEADERS and the CONTINUATION frames after it.
struct Block {
    bytes: usize,
    continuations: u32,
    /// The frame that is being read is its last.
    ends: bool,
}

/// Counts the frames of one connection.
pub(super) struct Frames {
    started: Instant,
    header_bytes: usize,
    preface: usize,
    /// The preface was not HTTP/2's; h2 ends the connection.
    foreign: bool,
    header: [u8; 9],
    header_read: usize,
    payload_left: usize,
    block: Option<Block>,
    newest_stream: u32,
    heads: u64,
    saved: u64,
    control: Rate,
    updates: Rate,
    resets: Rate,
}

impl Frames {
    pub(super) const fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            started: now,
            header_bytes: limits.header_bytes,
            preface: 0,
            foreign: false,
            header: [0; 9],
            header_read: 0,
            payload_left: 0,
            block: None,
            newest_stream: 0,
            heads: 0,
            saved: 0,
            control: Rate::new(limits.control_frames),
            updates: Rate::new(limits.control_frames.saturating_mul(UPDATE_FACTOR)),
            resets: Rate::new(limits.resets),
        }
    }

    /// Follows `bytes`, which came at `now` and go on unchanged.
    ///
    /// # Errors
    ///
    /// The word for the limit that the peer is over; then none of `bytes` should go on.
    pub(super) fn follow(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Refusal> {
        let slot = now.saturating_duration_since(self.started).as_millis() / SLOT_MILLIS;
        let mut rest = self.after_preface(bytes);
        while !rest.is_empty() && !self.foreign {
            if self.payload_left > 0 {
                let length = self.payload_left.min(rest.len());
                rest = rest.get(length..).unwrap_or_default();
                self.payload_left -= length;
            } else {
                let (header, after) = rest.split_at((self.header.len() - self.header_read).min(rest.len()));
                for (place, octet) in self.header.iter_mut().skip(self.header_read).zip(header) {
                    *place = *octet;
                }
                self.header_read += header.len();
                rest = after;
                if self.header_read == self.header.len() {
                    self.header_read = 0;
                    self.frame(slot)?;
                }
            }
            if self.payload_left == 0 && self.block.as_ref().is_some_and(|block| block.ends) {
                self.block = None;
            }
        }
        Ok(())
    }

    fn after_preface<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let expected = PREFACE.get(self.preface..).unwrap_or_default();
        let (preface, rest) = bytes.split_at(expected.len().min(bytes.len()));
        self.foreign |= !expected.starts_with(preface);
        self.preface += preface.len();
        rest
    }

    /// Counts the frame whose header has just been read.
    fn frame(&mut self, slot: u128) -> Result<(), Refusal> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        self.payload_left = length;
        let allowed = match kind {
            DATA => length > 0 || flags & END_STREAM != 0 || self.control.hit(slot),
            HEADERS => {
                let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
                if stream > self.newest_stream {
                    self.newest_stream = stream;
                    self.heads += 1;
                }
                return self.block_grows(Block { bytes: length, continuations: 0, ends: flags & END_HEADERS != 0 });
            }
            CONTINUATION => {
                let (bytes, continuations) = self.block.as_ref().map_or((0, 0), |block| (block.bytes, block.continuations));
                let ends = flags & END_HEADERS != 0;
                return self.block_grows(Block { bytes: bytes.saturating_add(length), continuations: continuations + 1, ends });
            }
            RST_STREAM if self.resets.hit(slot) => true,
            RST_STREAM => return Err(Refusal::FloodResets),
            WINDOW_UPDATE => self.bought() || self.updates.hit(slot),
            PING => self.bought() || self.control.hit(slot),
            _ => self.control.hit(slot),
        };
        if allowed { Ok(()) } else { Err(Refusal::FloodControlFrames) }
    }

    fn block_grows(&mut self, block: Block) -> Result<(), Refusal> {
        let Block { bytes, continuations, .. } = *self.block.insert(block);
        if bytes > self.header_bytes {
            return Err(Refusal::HeadersTooLarge);
        }
        if continuations > CONTINUATIONS { Err(Refusal::FloodControlFrames) } else { Ok(()) }
    }

    const fn bought(&mut self) -> bool {
        match self.saved.checked_sub(BYTES_BUY_ONE) {
            Some(left) => self.saved = left,
            None => return false,
        }
        true
    }

    /// Takes note of `bytes` written to the peer.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.saved = self.saved.saturating_add(bytes).min(SAVED);
    }

    /// Streams the peer has opened.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a preface or a header block has begun and not ended.
    pub(super) const fn in_head(&self) -> bool {
        (self.preface > 0 && self.preface < PREFACE.len()) || self.block.is_some()
    }
}
