//! A path, brought to its one form.
//!
//! In: the path of a request target, or one a policy rewrites to. Out: the text that is forwarded and the decoded segments that are
//! judged, both from the same pass, so that they cannot tell two stories (RFC 3986 section 6.2.2).
//! What must stay true: normalising what came out changes nothing, and no back end can find a separator, a dot segment or a control
//! byte in it that the segments do not show. What would allow that is refused, never repaired.
//! Not a URL parser's job: those read `//x` as an authority, and keep or fold the very spellings that attacks are made of.

use std::fmt::Write as _;

use crate::decision::Refusal;

/// A path in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// What is forwarded: percent-encoded, with upper-case hex and unreserved characters decoded.
    pub text: String,
    /// What is judged: decoded once. A trailing slash is an empty last segment, because upstreams tell `/users/` from `/users`.
    pub segments: Vec<String>,
}

/// Brings a path to its one form: decodes unreserved characters, then merges slashes, then removes dot segments.
///
/// # Errors
///
/// The refusal that says what in the path two programs could read differently.
pub fn normalise(text: &str) -> Result<Path, Refusal> {
    if is_canonical(text) {
        return Ok(Path { text: text.to_owned(), segments: split(text) });
    }
    let rest = text.strip_prefix('/').ok_or(Refusal::TargetForm)?;
    let mut kept: Vec<Segment> = Vec::new();
    let mut trailing_slash = false;
    for raw in rest.split('/') {
        let segment = Segment::read(raw)?;
        trailing_slash = matches!(segment.decoded.as_str(), "" | "." | "..");
        match segment.decoded.as_str() {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(Refusal::PathAboveRoot)?;
            }
            _ => kept.push(segment),
        }
    }
    Ok(join(kept, trailing_slash))
}

/// One scan, and no copy but the result: most paths are already in their one form.
fn is_canonical(text: &str) -> bool {
    let mut before = 0;
    for &byte in text.as_bytes() {
        // Any segment that starts with a dot goes the careful way.
        let plain = byte == b'/' || (is_segment_byte(byte) && byte != b';');
        if !plain || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    text.starts_with('/')
}

fn split(canonical: &str) -> Vec<String> {
    match canonical.strip_prefix('/') {
        None | Some("") => Vec::new(),
        Some(rest) => rest.split('/').map(str::to_owned).collect(),
    }
}

fn join(kept: Vec<Segment>, trailing_slash: bool) -> Path {
    let mut text = String::new();
    let mut segments = Vec::with_capacity(kept.len() + 1);
    for segment in kept {
        text.push('/');
        text.push_str(&segment.encoded);
        segments.push(segment.decoded);
    }
    if text.is_empty() {
        text.push('/');
    } else if trailing_slash {
        text.push('/');
        segments.push(String::new());
    }
    Path { text, segments }
}

struct Segment {
    encoded: String,
    decoded: String,
}

impl Segment {
    fn read(raw: &str) -> Result<Self, Refusal> {
        let mut encoded = String::with_capacity(raw.len());
        let mut decoded = Vec::with_capacity(raw.len());
        let mut bytes = raw.bytes();
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b'%' => {
                    let byte = escaped(&mut bytes).ok_or(Refusal::PathEscape)?;
                    match byte {
                        byte if is_unreserved(byte) => encoded.push(char::from(byte)),
                        b'/' | b'\\' => return Err(Refusal::PathSlash),
                        0..=0x1f | 0x7f => return Err(Refusal::PathControl),
                        byte => encode(byte, &mut encoded),
                    }
                    byte
                }
                b'\\' => return Err(Refusal::PathSlash),
                b'#' => return Err(Refusal::Fragment),
                b'?' => return Err(Refusal::TargetForm),
                0..=0x1f | 0x7f => return Err(Refusal::PathControl),
                0x80.. => return Err(Refusal::PathUtf8),
                byte if is_segment_byte(byte) => {
                    encoded.push(char::from(byte));
                    byte
                }
                // Characters RFC 3986 has no place for, such as `{`: their encoded form is their one form.
                byte => {
                    encode(byte, &mut encoded);
                    byte
                }
            };
            decoded.push(byte);
        }
        let decoded = String::from_utf8(decoded).map_err(|_| Refusal::PathUtf8)?;
        if holds_an_escape(&decoded) {
            return Err(Refusal::PathDoubleEncoding);
        }
        // Back ends that cut parameters off before they walk the path would see `..`, `.` or `//` here.
        if decoded.split_once(';').is_some_and(|(name, _)| matches!(name, "" | "." | "..")) {
            return Err(Refusal::PathParameter);
        }
        Ok(Self { encoded, decoded })
    }
}

/// The byte two hex digits stand for, after their percent sign.
pub(super) fn escaped(digits: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(digits.next()?).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit()? * 16 + digit()?)
}

/// Appends the escape of one byte, in upper-case hex.
pub(super) fn encode(byte: u8, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "%{byte:02X}");
}

/// RFC 3986 section 2.3.
pub(super) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 3.3: `pchar`, escapes apart.
const fn is_segment_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

fn holds_an_escape(decoded: &str) -> bool {
    decoded.split('%').skip(1).any(|rest| matches!(rest.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()))
}
