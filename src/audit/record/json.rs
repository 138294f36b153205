//! JSON as lines of the record need it: into a buffer, a member at a time, as it stands.
//!
//! In: strings, numbers, and JSON that others have written. Out: the same bytes `serde_json` writes. What must stay true: no line end
//! ever stands in what is written here.
//! Not the code that serde derives: a decision line has fifty members, and with their keys and `null`s escaped one at a time and
//! flattened into each other they cost a request 2.4 µs instead of 0.6. What is hard to write (a string with something to escape, a
//! float) is still left to `serde_json`.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::ser::Error as _;
use serde_json::Error;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const SECOND: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].");
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
/// 2025-11-24T16:00:00.
const SECOND_LENGTH: usize = 20;

/// A value that can be written.
pub(super) trait Json {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()>;
}

/// Writes members behind others of the same object.
macro_rules! members {
    ($out:ident, $($key:literal: $value:expr),+ $(,)?) => {
        $(
            $out.extend_from_slice(concat!(",\"", $key, "\":").as_bytes());
            $crate::audit::record::json::Json::write($value, $out)?;
        )+
    };
}
pub(super) use members;

impl Json for &str {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        if !is_plain(self.as_bytes()) {
            return serde_json::to_writer(out, self);
        }
        out.push(b'"');
        out.extend_from_slice(self.as_bytes());
        out.push(b'"');
        Ok(())
    }
}

/// True when nothing in a string has to be escaped. Eight bytes at a time, the last eight perhaps twice.
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks();
    match text.last_chunk() {
        Some(last) => !words.iter().any(has_hard) && !has_hard(last),
        None => !rest.iter().any(|byte| matches!(byte, 0..b' ' | b'"' | b'\\')),
    }
}

/// True when one of the bytes has to be escaped.
fn has_hard(bytes: &[u8; 8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let word = u64::from_ne_bytes(*bytes);
    // The highest bit of a byte that is below the bound, and was not set before. A byte that is found lends from the next one, which
    // may then be found as well: that changes no answer.
    let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    (below(word, b' ') | is(b'"') | is(b'\\')) & (EACH << 7) != 0
}

impl<T: Json> Json for Option<T> {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Some(value) => value.write(out),
            None => {
                out.extend_from_slice(b"null");
                Ok(())
            }
        }
    }
}

impl Json for &[String] {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        out.push(b'[');
        for (place, text) in self.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            text.as_str().write(out)?;
        }
        out.push(b']');
        Ok(())
    }
}

impl Json for uuid::Uuid {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let mut text = uuid::Uuid::encode_buffer();
        (&*self.as_hyphenated().encode_lower(&mut text)).write(out)
    }
}

impl Json for u16 {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(out, self)
    }
}

impl Json for u64 {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(out, self)
    }
}

/// In seconds.
impl Json for Duration {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(out, &self.as_secs_f64())
    }
}

impl Json for SocketAddr {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let Self::V4(address) = self else { return serde_json::to_writer(out, self) };
        // As `Display` writes it, without the machinery that could pad it.
        out.push(b'"');
        for (place, octet) in address.ip().octets().into_iter().enumerate() {
            if place > 0 {
                out.push(b'.');
            }
            u64::from(octet).write(out)?;
        }
        out.push(b':');
        address.port().write(out)?;
        out.push(b'"');
        Ok(())
    }
}

/// Raw JSON stands as its owner laid it out, with line ends perhaps. Outside strings they are blanks, and in strings they are escaped.
pub(super) fn blank_line_ends(json: &mut [u8]) {
    for byte in json {
        // Written whether or not it changes: a store on a condition would be made a byte at a time.
        *byte = if matches!(*byte, b'\n' | b'\r') { b' ' } else { *byte };
    }
}

/// In UTC, as OPA writes it (RFC 3339), with all nanoseconds.
impl Json for SystemTime {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let since = match self.duration_since(UNIX_EPOCH) {
            Ok(since) => since,
            Err(before) => return before_the_epoch(before.duration())?.as_str().write(out),
        };
        let second = second(since.as_secs())?;
        let (mut digits, mut rest) = ([b'0'; 9], since.subsec_nanos());
        for digit in digits.iter_mut().rev() {
            *digit += u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        out.push(b'"');
        out.extend_from_slice(&second);
        out.extend_from_slice(&digits);
        out.extend_from_slice(b"Z\"");
        Ok(())
    }
}

/// A clock that was never set.
fn before_the_epoch(by: Duration) -> serde_json::Result<String> {
    let nanos = -i128::try_from(by.as_nanos()).unwrap_or(i128::MAX);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(Error::custom)?.format(TIMESTAMP).map_err(Error::custom)
}

thread_local! {
    /// The second that was written last: a worker writes thousands of lines in each, and the calendar costs more than a line's head.
    static LAST: Cell<(u64, [u8; SECOND_LENGTH])> = const { Cell::new((u64::MAX, [0; SECOND_LENGTH])) };
}

/// A second since the epoch, as text.
fn second(second: u64) -> serde_json::Result<[u8; SECOND_LENGTH]> {
    let (last, text) = LAST.get();
    if last == second {
        return Ok(text);
    }
    let at = i64::try_from(second).map(OffsetDateTime::from_unix_timestamp).map_err(Error::custom)?.map_err(Error::custom)?;
    let text = at.format(SECOND).map_err(Error::custom)?.into_bytes().try_into();
    let text = text.map_err(|_| Error::custom("the clock has passed the year 9999"))?;
    LAST.set((second, text));
    Ok(text)
}
