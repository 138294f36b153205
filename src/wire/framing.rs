//! The sequence of messages on one HTTP/1.1 connection: head, body, next head.
//!
//! In: bytes from the first that has not gone on; out: how many of them may. It stops at the end of each message, so that the next
//! head is looked at only when hyper asks for more, and after a message that ends the connection nothing goes on at all. A fault in
//! a body is told apart from one in a head: the exchange of the former is already open and owns it.

use super::Limits;
use super::chunked::Chunked;
use super::field::Framing;
use super::head::Head;
use crate::decision::Refusal;

/// What was wrong, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A head that never reaches hyper.
    Head(Refusal),
    /// The body of a head that did.
    Body(Refusal),
}

enum State {
    Head(Head),
    Length(u64),
    Chunked(Chunked),
    /// The peer said this was its last message, so what follows is not a message (RFC 9112 section 9.6).
    Closed,
}

/// Follows the framing of one connection.
pub(super) struct Follower {
    limits: Limits,
    state: State,
    last: bool,
    heads: u64,
}

impl Follower {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head(Head::default()), last: false, heads: 0 }
    }

    /// Follows `bytes`, which start at the first byte that has not gone on, and says how many may go on now.
    ///
    /// # Errors
    ///
    /// The fault at the first byte, once every good byte before it has gone on.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(passed);
            }
            let ended = match &mut self.state {
                State::Closed => return Ok(passed),
                State::Head(head) => match head.check(rest, &self.limits).map_err(Fault::Head)? {
                    None => return Ok(passed),
                    Some(checked) => {
                        passed += checked.length;
                        self.heads += 1;
                        self.last = checked.last;
                        self.enter_body(checked.framing)
                    }
                },
                State::Length(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= most as u64;
                    passed += most;
                    *left == 0
                }
                State::Chunked(chunked) => match chunked.follow(rest, &self.limits) {
                    Err(_) if passed > 0 => return Ok(passed),
                    Err(refusal) => return Err(Fault::Body(refusal)),
                    Ok(0) => return Ok(passed),
                    Ok(length) => {
                        passed += length;
                        matches!(chunked, Chunked::End)
                    }
                },
            };
            if ended {
                self.state = if self.last { State::Closed } else { State::Head(Head::default()) };
                return Ok(passed);
            }
        }
    }

    /// Whether the message ended with its head.
    const fn enter_body(&mut self, framing: Framing) -> bool {
        match framing {
            Framing::Length(0) => return true,
            Framing::Length(left) => self.state = State::Length(left),
            Framing::Chunked => self.state = State::Chunked(Chunked::START),
        }
        false
    }

    /// Heads that have gone on.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a head has been looked at that is not whole; one sent ahead of a message's end is not looked at yet.
    pub(super) const fn in_head(&self) -> bool {
        if let State::Head(head) = &self.state { head.begun() } else { false }
    }

    /// Whether a head has gone on whose body has not ended.
    pub(super) const fn in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    /// Whether nothing that comes will ever go on.
    pub(super) const fn closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// How many of the next bytes are body for certain, and so may be read without holding any.
    pub(super) const fn certain(&self) -> u64 {
        match &self.state {
            State::Length(left) => *left,
            State::Chunked(chunked) => chunked.certain(),
            State::Head(_) | State::Closed => 0,
        }
    }
}
