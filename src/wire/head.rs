//! The head of an HTTP/1.1 request, checked while it arrives.
//!
//! In: all bytes from the head's first on, more of them each time; out: nothing yet, or the head's length and what follows it, or the
//! word for what is wrong. It remembers where it stands, so a head that comes whole is read once, and one that drips in costs time
//! linear in its size: a line that was seen incomplete is read again only when its end has come. The word never depends on how the
//! bytes were cut, because everything is judged from left to right within the same window.

use super::Limits;
use super::field::{Facts, Field, Framing};
use super::octets::{TARGET, TOKEN, line_end, run};
use crate::decision::Refusal;

/// The longest target the `http` crate takes; hyper would refuse a longer one by itself, without a record.
const LONGEST_URI: usize = 65_534;

/// Where the check of one head stands.
#[derive(Default)]
pub(super) struct Head {
    /// Where the line begins that is being read.
    line: usize,
    /// How far an incomplete line has been looked at.
    searched: usize,
    /// How long the request line may become before its target, incomplete when last looked at, is too long.
    target_by: Option<usize>,
    fields: usize,
    facts: Facts,
}

/// A head that is whole and strict.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// Whether the connection ends with this message.
    pub(super) last: bool,
}

enum Line {
    Partial,
    Whole(usize),
    End(usize),
}

impl Head {
    /// Reads on in `bytes`, which start at the head's first byte; `None` while the head is not whole.
    ///
    /// # Errors
    ///
    /// The word for the first thing that is wrong.
    pub(super) fn check(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Checked>, Refusal> {
        let window = bytes.get(..limits.header_bytes).unwrap_or(bytes);
        let full = bytes.len() >= limits.header_bytes;
        let unseen = window.get(self.searched..).unwrap_or_default();
        let too_long = self.target_by.is_some_and(|by| window.len() > by);
        if self.searched > self.line && !full && !too_long && !unseen.contains(&b'\n') {
            self.searched = window.len();
            return Ok(None);
        }
        loop {
            let rest = window.get(self.line..).unwrap_or_default();
            let line = if self.line == 0 { self.request_line(rest, limits)? } else { self.field_line(rest, limits)? };
            match line {
                Line::Partial if full => return Err(Refusal::HeadersTooLarge),
                Line::Partial => {
                    self.searched = window.len();
                    return Ok(None);
                }
                Line::Whole(length) => self.line += length,
                Line::End(length) => {
                    let framing = self.facts.framing()?;
                    return Ok(Some(Checked { length: self.line + length, framing, last: self.facts.last() }));
                }
            }
        }
    }

    /// Whether a byte of the head has been looked at.
    pub(super) const fn begun(&self) -> bool {
        self.searched > 0
    }

    /// `method SP request-target SP HTTP-version CRLF` (RFC 9112 section 3), and nothing looser.
    fn request_line(&mut self, line: &[u8], limits: &Limits) -> Result<Line, Refusal> {
        let (method, rest) = line.split_at(run(line, TOKEN));
        let rest = match rest {
            [] => return Ok(Line::Partial),
            [b'\r' | b'\n', ..] if method.is_empty() => return Err(Refusal::LeadingCrlf),
            [b' ', ..] if method.is_empty() => return Err(Refusal::RequestLine),
            [b' ', rest @ ..] => rest,
            [b'\r' | b'\n', ..] => return cut_short(rest),
            [..] => return Err(Refusal::Method),
        };
        self.facts.tunnel = method == b"CONNECT";
        if method == b"TRACE" || (self.facts.tunnel && !limits.connect) {
            return Err(Refusal::MethodRefused);
        }
        let (target, rest) = rest.split_at(run(rest, TARGET));
        let longest = limits.target_bytes.min(LONGEST_URI);
        if target.len() > longest {
            return Err(Refusal::TargetTooLong);
        }
        self.target_by = rest.is_empty().then_some(method.len() + 1 + longest);
        let rest = match rest {
            [] => return Ok(Line::Partial),
            [b' ', ..] if target.is_empty() => return Err(Refusal::RequestLine),
            [b' ', rest @ ..] => rest,
            [b'#', ..] => return Err(Refusal::Fragment),
            [b'\r' | b'\n', ..] => return cut_short(rest),
            [..] => return Err(Refusal::TargetForm),
        };
        if !target_form(method, target) {
            return Err(Refusal::TargetForm);
        }
        let Some(version) = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n')) else { return Ok(Line::Partial) };
        let (version, end) = rest.split_at(version);
        if line_end(end, Refusal::RequestLine)?.is_none() {
            return Ok(Line::Partial);
        }
        self.facts.old = old_version(version)?;
        Ok(Line::Whole(method.len() + 1 + target.len() + 1 + version.len() + 2))
    }

    fn field_line(&mut self, line: &[u8], limits: &Limits) -> Result<Line, Refusal> {
        if let [] | [b'\r' | b'\n', ..] = line {
            return Ok(line_end(line, Refusal::HeaderName)?.map_or(Line::Partial, |()| Line::End(2)));
        }
        let Some(field) = Field::read(line)? else { return Ok(Line::Partial) };
        self.fields += 1;
        if self.fields > limits.headers {
            return Err(Refusal::HeadersTooMany);
        }
        self.facts.note(&field)?;
        Ok(Line::Whole(field.length))
    }
}

/// A request line that ends before it is complete; HTTP/0.9 looks like this too.
fn cut_short(rest: &[u8]) -> Result<Line, Refusal> {
    line_end(rest, Refusal::RequestLine)?.map_or(Ok(Line::Partial), |()| Err(Refusal::RequestLine))
}

/// Origin-form, absolute-form with a host, or `*` for OPTIONS; authority-form for CONNECT and for nothing else (RFC 9112 section 3.2).
/// hyper would answer any other by itself.
fn target_form(method: &[u8], target: &[u8]) -> bool {
    if method == b"CONNECT" {
        let has_port = |authority: &http::uri::Authority| !authority.host().is_empty() && authority.port_u16().is_some();
        return http::uri::Authority::try_from(target).is_ok_and(|authority| has_port(&authority));
    }
    match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        [..] => http::Uri::try_from(target).is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.host().is_empty())
        }),
    }
}

/// Whether the version is HTTP/1.0 rather than HTTP/1.1.
fn old_version(version: &[u8]) -> Result<bool, Refusal> {
    let is_version = |text: &[u8]| {
        text.strip_prefix(b"HTTP/")
            .is_some_and(|number| !number.is_empty() && number.iter().all(|octet| matches!(octet, b'0'..=b'9' | b'.')))
    };
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [..] if is_version(version) => Err(Refusal::Version),
        // What came before the last space then belongs to the target.
        [..] if version.rsplitn(2, |octet| *octet == b' ').next().is_some_and(is_version) => Err(Refusal::TargetForm),
        [..] => Err(Refusal::RequestLine),
    }
}
