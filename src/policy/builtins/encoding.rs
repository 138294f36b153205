//! Base64, PEM and JSON as Go's standard library reads them, which is what OPA hands tokens and certificates to.
//!
//! In: text. Out: bytes, or nothing. What must stay true: what Go refuses is refused here. Both of Go's decoders pass over line
//! breaks and over bits after the last byte, so a stricter crate alone would refuse tokens that OPA takes.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use regorus::Value;

const LOOSE: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::RequireCanonical);

/// One block of PEM.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) struct Block<'t> {
    pub(in crate::policy) label: &'t str,
    pub(in crate::policy) bytes: Vec<u8>,
    /// What follows it.
    pub(in crate::policy) rest: &'t str,
}

fn decoded(alphabet: &Alphabet, text: &str) -> Option<Vec<u8>> {
    let engine = GeneralPurpose::new(alphabet, LOOSE);
    if text.contains(['\r', '\n']) {
        let joined: String = text.chars().filter(|character| !matches!(character, '\r' | '\n')).collect();
        return engine.decode(joined).ok();
    }
    engine.decode(text).ok()
}

/// Base64 with padding.
pub(super) fn standard(text: &str) -> Option<Vec<u8>> {
    decoded(&STANDARD, text)
}

/// Base64url with or without padding, as `base64url.decode` reads it (RFC 7515 appendix C).
pub(in crate::policy) fn url(text: &str) -> Option<Vec<u8>> {
    if text.ends_with('=') {
        return decoded(&URL_SAFE, text);
    }
    match text.len() % 4 {
        0 => decoded(&URL_SAFE, text),
        2 => decoded(&URL_SAFE, &format!("{text}==")),
        3 => decoded(&URL_SAFE, &format!("{text}=")),
        _ => None,
    }
}

/// Base64 in any of its four forms, as key sets hold it.
pub(super) fn any(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let bare = text.trim_end_matches('=');
    let config = LOOSE.with_decode_padding_mode(DecodePaddingMode::RequireNone);
    GeneralPurpose::new(alphabet, config).decode(bare).ok()
}

/// Base64 with padding.
pub(super) fn to_standard(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Lower-case hexadecimal.
pub(in crate::policy) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).map_or('0', |digit| char::from(*digit));
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// JSON of a text that may hold bytes which are no characters.
pub(super) fn json(bytes: &[u8]) -> Option<Value> {
    Value::from_json_str(&String::from_utf8_lossy(bytes)).ok()
}

/// JSON, where it is an object.
pub(super) fn json_object(bytes: &[u8]) -> Option<Value> {
    json(bytes).filter(|value| matches!(value, Value::Object(_)))
}

/// The first block of PEM at the beginning of a line.
pub(in crate::policy) fn pem(text: &str) -> Option<Block<'_>> {
    const BEGIN: &str = "-----BEGIN ";
    let mut rest = text;
    loop {
        let start = if rest.starts_with(BEGIN) { 0 } else { rest.find("\n-----BEGIN ")? + 1 };
        let body = rest.get(start + BEGIN.len()..)?;
        match block(body) {
            Some(block) => return Some(block),
            None => rest = body,
        }
    }
}

/// A block from its label on.
fn block(text: &str) -> Option<Block<'_>> {
    let (line, after) = text.split_once('\n')?;
    let label = line.trim_end_matches(['\r', ' ', '\t']).strip_suffix("-----")?;
    let mut body = after;
    // Headers: `Proc-Type: 4,ENCRYPTED`.
    while let Some((line, after)) = body.split_once('\n')
        && line.contains(':')
        && !line.starts_with("-----")
    {
        body = after;
    }
    let end = if body.starts_with("-----END ") { 0 } else { body.find("\n-----END ")? + 1 };
    let tail = body.get(end + "-----END ".len()..)?.strip_prefix(label)?.strip_prefix("-----")?;
    let (same_line, rest) = tail.split_once('\n').unwrap_or((tail, ""));
    if !same_line.trim_end_matches(['\r', ' ', '\t']).is_empty() {
        return None;
    }
    let encoded: String = body.get(..end)?.chars().filter(|character| !matches!(character, ' ' | '\t')).collect();
    Some(Block { label, bytes: standard(&encoded)?, rest })
}
