//! The chain of the record: each line says its number and the hash of the line before it, and holds its own hash.
//!
//! In: encoded lines, in the order they are written. Out: the same lines with `"chain":{"seq":…,"prev":…,"hash":…}` as their last
//! member. What must stay true: `hash` is the SHA-256 of the line's exact bytes before `,"hash":`, so it covers `prev` and through it
//! everything before; a line stays one JSON object of OPA's schema.
//! Made by the writer, never by a worker: the order of lines is known there alone, and a request does not pay for it. Not a Merkle
//! tree: nobody asks for proofs about single lines, and a chain is checked with `sha256sum`. Not a hash over parsed JSON: two readers
//! that normalise otherwise would disagree about a line nobody touched.

use aws_lc_rs::digest::{SHA256, digest};

/// A SHA-256 hash in hexadecimal.
pub(super) type Hash = String;

const SEQ: &[u8] = b",\"chain\":{\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const HASH: &[u8] = b",\"hash\":\"";
const END: &[u8] = b"\"}}";
const HEX: usize = 64;

/// What the first line of a chain follows, when there is nothing before it.
pub(super) fn nothing() -> Hash {
    "0".repeat(HEX)
}

/// The hash of some bytes.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS.get(usize::from(value)).copied().unwrap_or(b'0'));
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The place of a line in its chain, as the line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub(super) seq: u64,
    pub(super) prev: &'a str,
    pub(super) hash: &'a str,
    /// What `hash` is the hash of.
    pub(super) hashed: &'a [u8],
}

impl<'a> Link<'a> {
    /// Reads the end of a line that is given without its line end; `None`: it is of no chain.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        let (rest, hash) = take_hash(line.strip_suffix(END)?)?;
        let hashed = rest.strip_suffix(HASH)?;
        let (rest, prev) = take_hash(hashed.strip_suffix(b"\"")?)?;
        let rest = rest.strip_suffix(PREV)?;
        let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (rest, digits) = rest.split_at_checked(rest.len() - digits)?;
        rest.ends_with(SEQ).then_some(())?;
        let seq = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(Self { seq, prev, hash, hashed })
    }

    /// True when the line's bytes are those its hash was made of.
    pub(super) fn is_whole(&self) -> bool {
        hash(self.hashed) == self.hash
    }
}

fn take_hash(bytes: &[u8]) -> Option<(&[u8], &str)> {
    let (rest, last) = bytes.split_at_checked(bytes.len().checked_sub(HEX)?)?;
    let is_hex = last.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| std::str::from_utf8(last).ok()).flatten().map(|hash| (rest, hash))
}

/// Where a chain stands.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    next: u64,
    head: Hash,
}

impl Chain {
    /// The chain that goes on behind the last whole line of a file: the line's own, or a new one where the line is of none.
    pub(super) fn after(last: Option<&[u8]>) -> Self {
        match last.map(|line| (Link::of(line), line)) {
            Some((Some(link), _)) => Self { next: link.seq.saturating_add(1), head: link.hash.to_owned() },
            Some((None, line)) => Self { next: 0, head: hash(line) },
            None => Self { next: 0, head: nothing() },
        }
    }

    /// True until the first line: it has to be one that says a chain begins.
    pub(super) const fn is_new(&self) -> bool {
        self.next == 0
    }

    /// The number of the next line.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// The hash of the last line.
    pub(super) fn head(&self) -> &str {
        &self.head
    }

    /// Appends `line` (with its line end) to `out` as the next of the chain.
    pub(super) fn seal(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(line.strip_suffix(b"}\n").unwrap_or(line));
        out.extend_from_slice(SEQ);
        out.extend_from_slice(self.next.to_string().as_bytes());
        out.extend_from_slice(PREV);
        out.extend_from_slice(self.head.as_bytes());
        out.push(b'"');
        self.head = hash(out.get(begin..).unwrap_or_default());
        self.next = self.next.saturating_add(1);
        out.extend_from_slice(HASH);
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(END);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_line_is_read_again_and_any_changed_byte_of_it_is_seen() {
        let mut chain = Chain::after(None);
        let mut out = Vec::new();
        chain.seal(b"{\"a\":{\"b\":1}}\n", &mut out);
        let first = out.len();
        chain.seal(b"{\"a\":2}\n", &mut out);
        let (one, two) = (&out[..first - 1], &out[first..out.len() - 1]);
        let (head, link) = (Link::of(one).unwrap(), Link::of(two).unwrap());
        assert_eq!((head.seq, head.prev, link.seq, link.prev), (0, &*nothing(), 1, head.hash));
        assert!(head.is_whole() && link.is_whole());
        assert!(serde_json::from_slice::<serde_json::Value>(two).unwrap()["chain"]["seq"] == 1);
        for place in 0..two.len() {
            let mut changed = two.to_vec();
            changed[place] ^= 1;
            assert!(!Link::of(&changed).is_some_and(|link| link.is_whole()), "{place}");
        }
        let on = Chain::after(Some(two));
        assert_eq!((on.next(), on.head()), (2, link.hash));
        assert!(Chain::after(Some(b"{}")).is_new());
    }
}
