//! Which octets may stand where, as one table read once an octet.
//!
//! In: a slice; out: how far its octets belong to a class. The classes are narrower than the grammar on purpose: what some back end
//! reads differently, or what hyper would refuse by itself and without a record, does not belong. A table, because the obvious chain
//! of comparisons costs several branches for each octet of each head.

use crate::decision::Refusal;

/// `tchar` of RFC 9110 section 5.6.2.
pub(super) const TOKEN: u8 = 1;
/// `tchar` without `_`, which a CGI-like back end cannot tell from `-`.
pub(super) const NAME: u8 = 2;
/// What a field value may hold: HTAB, SP and visible ASCII (RFC 9110 section 5.5 without obs-text).
pub(super) const VALUE: u8 = 4;
/// What a request target may hold: visible ASCII without `#` and without the quotes and angle brackets that no URI has.
pub(super) const TARGET: u8 = 8;

const CLASSES: [u8; 256] = classes();

#[expect(clippy::indexing_slicing, reason = "evaluated when compiled; the loop ends at the table's length")]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut octet = 0_u8;
    loop {
        let token = octet.is_ascii_alphanumeric()
            || matches!(octet, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        let mut class = 0;
        if token {
            class |= TOKEN;
        }
        if token && octet != b'_' {
            class |= NAME;
        }
        if matches!(octet, b'\t' | b' '..=b'~') {
            class |= VALUE;
        }
        if octet.is_ascii_graphic() && !matches!(octet, b'#' | b'"' | b'<' | b'>' | b'`') {
            class |= TARGET;
        }
        table[octet as usize] = class;
        if octet == u8::MAX {
            return table;
        }
        octet += 1;
    }
}

/// How many octets at the start of `octets` belong to `class`.
pub(super) fn run(octets: &[u8], class: u8) -> usize {
    let belongs = |octet: &u8| CLASSES.get(usize::from(*octet)).is_some_and(|classes| classes & class != 0);
    octets.iter().position(|octet| !belongs(octet)).unwrap_or(octets.len())
}

/// How many octets at the start of `octets` a field value may hold. Values are most of a head, so that they are skipped sixteen
/// octets at a time, in a form the compiler turns into vector instructions.
pub(super) fn run_value(octets: &[u8]) -> usize {
    let visible = |block: &&[u8]| block.iter().fold(true, |visible, octet| visible & (octet.wrapping_sub(b' ') <= b'~' - b' '));
    let skipped = octets.chunks_exact(16).take_while(visible).count() * 16;
    skipped + run(octets.get(skipped..).unwrap_or_default(), VALUE)
}

/// Whether `rest`, which starts where a line's own octets ended, starts with CRLF; `None` while that cannot be known yet.
///
/// # Errors
///
/// `BareLineEnd` for a bare CR or LF, `otherwise` for any other octet.
pub(super) fn line_end(rest: &[u8], otherwise: Refusal) -> Result<Option<()>, Refusal> {
    match rest {
        [b'\r', b'\n', ..] => Ok(Some(())),
        [] | [b'\r'] => Ok(None),
        [b'\r' | b'\n', ..] => Err(Refusal::BareLineEnd),
        [..] => Err(otherwise),
    }
}

/// `octets` for the record, at most `most` bytes: what is not visible ASCII, and the backslash itself, as `\xNN`.
pub(super) fn escaped(octets: &[u8], most: usize) -> String {
    let mut text = String::new();
    for &octet in octets {
        let piece =
            if octet.is_ascii_graphic() && octet != b'\\' { char::from(octet).to_string() } else { format!("\\x{octet:02x}") };
        if text.len() + piece.len() > most {
            break;
        }
        text.push_str(&piece);
    }
    text
}
