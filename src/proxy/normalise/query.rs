//! A query, decoded the way Go's `url.ParseQuery` does, which is what policies written for OPA expect.
//!
//! In: the text after `?`. Out: all pairs in their order, decoded; the text itself is forwarded unchanged.
//! What must stay true: a name the policy looks for cannot hide in a spelling that only the upstream decodes. `;` is refused because
//! half the world reads it as `&`.

use crate::decision::Refusal;

use super::path::{encode, escaped, is_unreserved};

/// Decodes a query into its pairs, in their order.
///
/// # Errors
///
/// [`Refusal::Query`] when it holds `;`, a bad escape, raw non-ASCII or control bytes, or decodes to NUL, CR, LF or invalid UTF-8.
pub(super) fn decode(raw: &str) -> Result<Vec<(String, String)>, Refusal> {
    if !raw.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b';' && byte != b'#') {
        return Err(Refusal::Query);
    }
    raw.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((unescape(name)?, unescape(value)?))
        })
        .collect()
}

/// Writes pairs as a query; everything but unreserved characters is escaped.
pub(in crate::proxy) fn write(pairs: &[(String, String)]) -> Option<String> {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        escape(name, &mut out);
        out.push('=');
        escape(value, &mut out);
    }
    (!pairs.is_empty()).then_some(out)
}

/// True when a decoded name or value may stand in a query.
pub(in crate::proxy) fn is_text(decoded: &str) -> bool {
    !decoded.contains(['\0', '\r', '\n'])
}

fn unescape(text: &str) -> Result<String, Refusal> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => escaped(&mut bytes).ok_or(Refusal::Query)?,
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().filter(|text| is_text(text)).ok_or(Refusal::Query)
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            encode(byte, out);
        }
    }
}
