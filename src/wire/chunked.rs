//! A chunked body, followed octet by octet (RFC 9112 section 7.1).
//!
//! In: the body's bytes; out: how many of them may go on. Chunk lines and data pass as they are found good, since nothing acts on half
//! a chunk line; a trailer section is held until it is whole, like a head. Whitespace around a chunk size, which hyper takes, is
//! refused: another reader takes it for something else. Extensions cannot be dropped here, so they are bounded.

use super::Limits;
use super::field::{Field, may_trail};
use super::octets::{VALUE, line_end, run};
use crate::decision::Refusal;

/// 15 hexadecimal digits stay far from any overflow, signed ones included.
const SIZE_DIGITS: u8 = 15;
const EXTENSION_BYTES: u16 = 256;

/// Where the following of one chunked body stands.
#[derive(Clone, Copy)]
pub(super) enum Chunked {
    Size { size: u64, digits: u8 },
    Extension { size: u64, length: u16 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataLineFeed,
    Trailers { searched: usize },
    End,
}

impl Chunked {
    pub(super) const START: Self = Self::Size { size: 0, digits: 0 };

    /// Follows `bytes` and says how many of them may go on; less than all when a trailer section is not whole, or at the end.
    ///
    /// # Errors
    ///
    /// The word for what is wrong, only once every good byte before it has gone on.
    pub(super) fn follow(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            let step = match *self {
                Self::End => return Ok(passed),
                Self::Trailers { searched } => trailers(rest, searched, limits).map(|section| match section {
                    Section::Whole(length) => (Self::End, length),
                    Section::Partial { searched } => (Self::Trailers { searched }, 0),
                }),
                Self::Data { left } => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - length as u64;
                    Ok((if left == 0 { Self::DataReturn } else { Self::Data { left } }, length))
                }
                Self::Size { .. } | Self::Extension { .. } | Self::SizeLineFeed { .. } | Self::DataReturn | Self::DataLineFeed => {
                    rest.first().map_or(Ok((*self, 0)), |&octet| self.next(octet).map(|next| (next, 1)))
                }
            };
            match step {
                Ok((next, length)) => {
                    *self = next;
                    passed += length;
                    if length == 0 {
                        return Ok(passed);
                    }
                }
                Err(_) if passed > 0 => return Ok(passed),
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// The state after one octet of a chunk line, or of the CRLF after data.
    fn next(self, octet: u8) -> Result<Self, Refusal> {
        match (self, octet) {
            (Self::Size { digits: 0, .. }, b';' | b'\r') => Err(Refusal::Chunk),
            (Self::Size { size, .. }, b'\r') => Ok(Self::SizeLineFeed { size }),
            (Self::Size { size, .. }, b';') => Ok(Self::Extension { size, length: 0 }),
            (Self::Size { size, digits }, _) => match char::from(octet).to_digit(16) {
                Some(digit) if digits < SIZE_DIGITS => Ok(Self::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }),
                Some(_) | None => Err(Refusal::Chunk),
            },
            (Self::Extension { size, .. }, b'\r') => Ok(Self::SizeLineFeed { size }),
            (Self::Extension { size, length }, _) if length < EXTENSION_BYTES && run(&[octet], VALUE) == 1 => {
                Ok(Self::Extension { size, length: length + 1 })
            }
            (Self::SizeLineFeed { size: 0 }, b'\n') => Ok(Self::Trailers { searched: 0 }),
            (Self::SizeLineFeed { size }, b'\n') => Ok(Self::Data { left: size }),
            (Self::DataReturn, b'\r') => Ok(Self::DataLineFeed),
            (Self::DataLineFeed, b'\n') => Ok(Self::START),
            _ => Err(Refusal::Chunk),
        }
    }

    /// How many of the next bytes are data for certain.
    pub(super) const fn certain(self) -> u64 {
        if let Self::Data { left } = self { left } else { 0 }
    }
}

enum Section {
    Whole(usize),
    Partial { searched: usize },
}

/// Reads a trailer section from its start each time a line end has come, which its bounds keep cheap; trailers are rare.
fn trailers(bytes: &[u8], searched: usize, limits: &Limits) -> Result<Section, Refusal> {
    let window = bytes.get(..limits.header_bytes).unwrap_or(bytes);
    let partial = Section::Partial { searched: window.len() };
    let full = bytes.len() >= limits.header_bytes;
    if !full && !window.get(searched..).unwrap_or_default().contains(&b'\n') {
        return Ok(partial);
    }
    let mut at = 0;
    for fields in 0.. {
        let rest = window.get(at..).unwrap_or_default();
        if let [] | [b'\r' | b'\n', ..] = rest {
            match line_end(rest, Refusal::Trailer).map_err(|_| Refusal::Trailer)? {
                Some(()) => return Ok(Section::Whole(at + 2)),
                None => break,
            }
        }
        let Some(field) = Field::read(rest).map_err(|_| Refusal::Trailer)? else { break };
        if fields >= limits.headers || !may_trail(field.name) {
            return Err(Refusal::Trailer);
        }
        at += field.length;
    }
    if full { Err(Refusal::Trailer) } else { Ok(partial) }
}
