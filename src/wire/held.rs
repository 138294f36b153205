//! Bytes that were read and that hyper has not been given, because they are not checked yet or came after a message's end.
//!
//! In: what is taken back out of hyper's buffer; out: the same bytes in order, up to where they are checked. Most connections never
//! hold a byte; the memory of one that held many is given back as soon as it holds none.

use bytes::Bytes;
use tokio::io::ReadBuf;

/// A buffer that grew beyond this is given back once it is empty.
const KEPT: usize = 16 * 1024;

/// Bytes read from the peer that hyper has not been given.
#[derive(Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    given: usize,
    /// How far hyper may be given them.
    checked: usize,
}

impl Held {
    /// The bytes that may not go on yet.
    pub(super) fn unchecked(&self) -> &[u8] {
        self.bytes.get(self.checked..).unwrap_or_default()
    }

    /// Gives checked bytes to `buffer` and says whether there were any.
    pub(super) fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let ready = self.bytes.get(self.given..self.checked).unwrap_or_default();
        let part = ready.get(..buffer.remaining()).unwrap_or(ready);
        buffer.put_slice(part);
        self.given += part.len();
        let some = !part.is_empty();
        if self.given == self.bytes.len() {
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            }
            self.bytes.clear();
            self.given = 0;
            self.checked = 0;
        }
        some
    }

    /// All that hyper has not been given.
    pub(super) fn into_rest(self) -> Bytes {
        Bytes::from(self.bytes).slice(self.given..)
    }

    /// Lets the next `length` bytes go on.
    pub(super) const fn pass(&mut self, length: usize) {
        self.checked += length;
    }

    /// Holds `bytes` behind those already held.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.given > 0 {
            self.bytes.drain(..self.given);
            self.checked -= self.given;
            self.given = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }
}
