//! The tokens of a GraphQL text.
//!
//! In: a text. Out: one token after the other. What must stay true: texts are cut and unescaped where gqlparser does it, which differs
//! from the specification in small things: the first line of a block string counts for its indent, more than three quotes end
//! one, and a name may follow a number at once.

use std::borrow::Cow;

use super::Stop;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    End,
    Punctuation(Mark),
    Name,
    Int,
    Float,
    Text,
    Block,
    Comment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Bang,
    Dollar,
    Amp,
    ParenL,
    ParenR,
    Spread,
    Colon,
    Equals,
    At,
    BracketL,
    BracketR,
    BraceL,
    BraceR,
    Pipe,
}

#[derive(Clone, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    /// Empty for punctuation; unescaped for texts; with its `#` for a comment.
    pub(super) value: Cow<'t, str>,
}

pub(super) struct Lexer<'t> {
    rest: &'t str,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text }
    }

    pub(super) fn next(&mut self) -> Result<Token<'t>, Stop> {
        self.rest = self.rest.trim_start_matches(['\t', ' ', ',', '\n', '\r', '\u{feff}']);
        let Some(first) = self.rest.chars().next() else { return Ok(Token { kind: Kind::End, value: Cow::Borrowed("") }) };
        if let Some((mark, length)) = punctuation(first, self.rest) {
            self.take(length);
            return Ok(Token { kind: Kind::Punctuation(mark), value: Cow::Borrowed("") });
        }
        match first {
            '#' => {
                let end = self.rest.find(|one: char| one < ' ' && one != '\t');
                Ok(self.token(Kind::Comment, end.unwrap_or(self.rest.len())))
            }
            '_' | 'a'..='z' | 'A'..='Z' => {
                let end = self.rest.find(|one: char| !(one.is_ascii_alphanumeric() || one == '_'));
                Ok(self.token(Kind::Name, end.unwrap_or(self.rest.len())))
            }
            '-' | '0'..='9' => self.number(),
            '"' if self.rest.starts_with("\"\"\"") => self.block(),
            '"' => self.text(),
            _ => Err(Stop::Invalid),
        }
    }

    fn take(&mut self, length: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn token(&mut self, kind: Kind, length: usize) -> Token<'t> {
        Token { kind, value: Cow::Borrowed(self.take(length)) }
    }

    /// `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`
    fn number(&mut self) -> Result<Token<'t>, Stop> {
        let whole = self.rest;
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let past = |end: usize| whole.get(end..).unwrap_or("");
        let mut end = usize::from(whole.starts_with('-'));
        let count = digits(past(end));
        if count == 0 || (count > 1 && past(end).starts_with('0')) {
            return Err(Stop::Invalid);
        }
        end += count;
        let mut kind = Kind::Int;
        if past(end).starts_with('.') {
            kind = Kind::Float;
            let count = digits(past(end + 1));
            if count == 0 {
                return Err(Stop::Invalid);
            }
            end += 1 + count;
        }
        if past(end).starts_with(['e', 'E']) {
            kind = Kind::Float;
            end += 1;
            end += usize::from(past(end).starts_with(['+', '-']));
            let count = digits(past(end));
            if count == 0 {
                return Err(Stop::Invalid);
            }
            end += count;
        }
        Ok(self.token(kind, end))
    }

    fn text(&mut self) -> Result<Token<'t>, Stop> {
        let body = self.rest.get(1..).unwrap_or("");
        let end = body.find(['"', '\\']).ok_or(Stop::Invalid)?;
        if body.as_bytes().get(end) == Some(&b'"') {
            let plain = body.get(..end).unwrap_or("");
            if plain.contains(|one: char| one < ' ' && one != '\t') {
                return Err(Stop::Invalid);
            }
            self.take(end + 2);
            return Ok(Token { kind: Kind::Text, value: Cow::Borrowed(plain) });
        }
        let mut written = String::new();
        let mut characters = body.chars();
        loop {
            match characters.next().ok_or(Stop::Invalid)? {
                '"' => break,
                '\\' => written.push(escaped(&mut characters)?),
                one if one < ' ' && one != '\t' => return Err(Stop::Invalid),
                one => written.push(one),
            }
        }
        self.rest = characters.as_str();
        Ok(Token { kind: Kind::Text, value: Cow::Owned(written) })
    }

    fn block(&mut self) -> Result<Token<'t>, Stop> {
        let mut raw = String::new();
        let mut rest = self.rest.get(3..).unwrap_or("");
        loop {
            let quotes = rest.bytes().take_while(|one| *one == b'"').count();
            if quotes >= 3 {
                // The last three end it.
                raw.extend(std::iter::repeat_n('"', quotes - 3));
                self.rest = rest.get(quotes..).unwrap_or("");
                return Ok(Token { kind: Kind::Block, value: Cow::Owned(dedented(&raw)) });
            }
            if let Some(after) = rest.strip_prefix("\\\"\"\"") {
                raw.push_str("\"\"\"");
                rest = after;
                continue;
            }
            if let Some(after) = rest.strip_prefix('\r') {
                raw.push('\n');
                rest = after.strip_prefix('\n').unwrap_or(after);
                continue;
            }
            let one = rest.chars().next().ok_or(Stop::Invalid)?;
            if one < ' ' && one != '\t' && one != '\n' {
                return Err(Stop::Invalid);
            }
            raw.push(one);
            rest = rest.get(one.len_utf8()..).unwrap_or("");
        }
    }
}

fn punctuation(first: char, rest: &str) -> Option<(Mark, usize)> {
    let mark = match first {
        '!' => Mark::Bang,
        '$' => Mark::Dollar,
        '&' => Mark::Amp,
        '(' => Mark::ParenL,
        ')' => Mark::ParenR,
        ':' => Mark::Colon,
        '=' => Mark::Equals,
        '@' => Mark::At,
        '[' => Mark::BracketL,
        ']' => Mark::BracketR,
        '{' => Mark::BraceL,
        '}' => Mark::BraceR,
        '|' => Mark::Pipe,
        '.' if rest.starts_with("...") => return Some((Mark::Spread, 3)),
        _ => return None,
    };
    Some((mark, 1))
}

/// What follows a backslash; half a surrogate pair becomes U+FFFD, each half by itself, as in Go.
fn escaped(rest: &mut std::str::Chars<'_>) -> Result<char, Stop> {
    match rest.next().ok_or(Stop::Invalid)? {
        same @ ('"' | '/' | '\\') => Ok(same),
        'b' => Ok('\u{8}'),
        'f' => Ok('\u{c}'),
        'n' => Ok('\n'),
        'r' => Ok('\r'),
        't' => Ok('\t'),
        'u' => {
            let code = (0..4).try_fold(0, |code, _| {
                let digit = rest.next().and_then(|one| one.to_digit(16)).ok_or(Stop::Invalid)?;
                Ok(code * 16 + digit)
            })?;
            Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
        }
        _ => Err(Stop::Invalid),
    }
}

/// A block string without the indent all its lines share, and without blank lines around it.
fn dedented(raw: &str) -> String {
    let blank = |line: &str| line.bytes().all(|one| one == b' ' || one == b'\t');
    let indent = |line: &str| line.bytes().take_while(|one| *one == b' ' || *one == b'\t').count();
    let lines: Vec<&str> = raw.split('\n').collect();
    let common = lines.iter().filter(|line| !blank(line)).map(|line| indent(line)).min().unwrap_or(0);
    let cut = |(place, line): (usize, &&'_ str)| {
        if place == 0 { (*line).to_owned() } else { line.get(common..).unwrap_or("").to_owned() }
    };
    let lines: Vec<String> = lines.iter().enumerate().map(cut).collect();
    let first = lines.iter().position(|line| !blank(line)).unwrap_or(lines.len());
    let end = lines.iter().rposition(|line| !blank(line)).map_or(first, |last| last + 1);
    lines.get(first..end).unwrap_or(&[]).join("\n")
}
