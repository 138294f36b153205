//! JSON without doubt (RFC 8259, narrowed as RFC 7493 asks).
//!
//! In: text. Out: a value for the policy. What must stay true: each byte is looked at a bounded number of times; recursion ends at
//! [`MAX_DEPTH`], whatever the configuration says; a number is kept exactly or refused.
//!
//! regorus keeps integers of any size, and of a fraction what a double keeps. But no integer beyond 64 bits survives the record or a
//! rewrite, and most upstreams would round it: so it is refused too.

use std::collections::BTreeMap;

use regorus::Value;

use super::BodyError;

/// The deepest nesting there can be: what serde_json takes, and some to spare for the document around it.
pub(super) const MAX_DEPTH: usize = 120;

/// Below it each whole number has a double of its own.
const WHOLE_DOUBLES: f64 = 9_007_199_254_740_992.0;

/// Reads one document and nothing after it.
pub(super) fn read(text: &str, depth: usize) -> Result<Value, BodyError> {
    let mut reader = Reader { text, at: 0 };
    if text.starts_with('\u{feff}') {
        return Err(reader.wrong("a byte order mark"));
    }
    let value = reader.value(depth.min(MAX_DEPTH))?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.wrong("something after the end")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, BodyError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(self.deeper(depth)?),
            Some(b'[') => self.array(self.deeper(depth)?),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(self.wrong("no value")),
            None => Err(self.wrong("an end too early")),
        }
    }

    fn deeper(&self, depth: usize) -> Result<usize, BodyError> {
        depth.checked_sub(1).ok_or_else(|| self.wrong("nested too deep"))
    }

    fn object(&mut self, depth: usize) -> Result<Value, BodyError> {
        let mut fields = BTreeMap::new();
        self.at += 1;
        self.skip_space();
        if self.take(b'}') {
            return Ok(Value::from(fields));
        }
        loop {
            self.skip_space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.wrong("no key"));
            }
            let key = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err(self.wrong("no colon"));
            }
            let value = self.value(depth)?;
            if fields.insert(key, value).is_some() {
                return Err(BodyError::Json { what: "a key that was there before", at: start });
            }
            self.skip_space();
            match self.take(b',') {
                true => continue,
                false if self.take(b'}') => return Ok(Value::from(fields)),
                false => return Err(self.wrong("neither a comma nor the end of an object")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, BodyError> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::from(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.skip_space();
            match self.take(b',') {
                true => continue,
                false if self.take(b']') => return Ok(Value::from(items)),
                false => return Err(self.wrong("neither a comma nor the end of an array")),
            }
        }
    }

    fn string(&mut self) -> Result<Value, BodyError> {
        self.at += 1;
        let plain = self.plain()?;
        if self.take(b'"') {
            return Ok(Value::from(plain));
        }
        let mut whole = plain.to_owned();
        loop {
            whole.push(self.escape()?);
            whole.push_str(self.plain()?);
            if self.take(b'"') {
                return Ok(Value::from(whole));
            }
        }
    }

    /// The text up to the next quote or backslash.
    fn plain(&mut self) -> Result<&'a str, BodyError> {
        let rest = self.rest();
        let end = rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < 0x20).unwrap_or(rest.len());
        self.at += end;
        match self.peek() {
            Some(b'"' | b'\\') => Ok(rest.get(..end).unwrap_or_default()),
            Some(_) => Err(self.wrong("a control byte in a string")),
            None => Err(self.wrong("an end too early")),
        }
    }

    fn escape(&mut self) -> Result<char, BodyError> {
        let letter = self.text.as_bytes().get(self.at + 1).copied();
        self.at += 2;
        Ok(match letter {
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.scalar(),
            _ => return Err(self.wrong("an unknown escape")),
        })
    }

    /// What follows `\u`: one scalar, as one unit or as a pair of surrogates.
    fn scalar(&mut self) -> Result<char, BodyError> {
        let high = self.unit()?;
        let mut units = [high, 0];
        let paired = matches!(high, 0xd800..=0xdbff) && self.take(b'\\') && self.take(b'u');
        if paired {
            units = [high, self.unit()?];
        }
        match char::decode_utf16(units).next() {
            Some(Ok(scalar)) => Ok(scalar),
            _ => Err(self.wrong("a lone surrogate")),
        }
    }

    fn unit(&mut self) -> Result<u16, BodyError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.wrong("no four hexadecimal digits"))?;
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, BodyError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err(self.wrong("no digit"));
        }
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            if self.digits() == 0 {
                return Err(self.wrong("no digit after the point"));
            }
        }
        if self.take(b'e') || self.take(b'E') {
            whole = false;
            let _ = self.take(b'+') || self.take(b'-');
            if self.digits() == 0 {
                return Err(self.wrong("no digit in the exponent"));
            }
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        let value = if whole { integer(text) } else { double(text) };
        value.ok_or(BodyError::Json { what: "a number that 64 bits cannot keep", at: start })
    }

    fn digits(&mut self) -> usize {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += count;
        count
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, BodyError> {
        if !self.rest().starts_with(word) {
            return Err(self.wrong("no value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn skip_space(&mut self) {
        self.at += self.rest().bytes().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, what: &'static str) -> BodyError {
        BodyError::Json { what, at: self.at }
    }
}

fn integer(text: &str) -> Option<Value> {
    text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from)).ok()
}

/// A number with a fraction or an exponent, when its double written to as many digits is that number again; beyond 2^53, where only
/// whole numbers are left, when it is that double exactly.
fn double(text: &str) -> Option<Value> {
    let double: f64 = text.parse().ok().filter(|double: &f64| double.is_finite())?;
    let number = decimal(text)?;
    let count = number.0.len();
    let kept = match count {
        0 => double == 0.0,
        _ if double.abs() >= WHOLE_DOUBLES => number == decimal(&format!("{double:.0}"))?,
        1..=15 if double.is_normal() => true, // what every double keeps
        1..=17 => number == decimal(&format!("{double:.*e}", count - 1))? || halfway(&number, double)?,
        _ => false,
    };
    kept.then(|| Value::from(double))
}

/// True for the two numbers of as many digits between which a double lies exactly in the middle: writers of JSON pick either.
fn halfway((digits, power): &(String, i64), double: f64) -> Option<bool> {
    let (exact, last) = decimal(&format!("{double:.*e}", digits.len() + 40))?;
    let below = exact.strip_suffix('5').filter(|below| below.len() == digits.len() && last + 1 == *power);
    let below: Option<u64> = below.and_then(|below| below.parse().ok());
    let number: u64 = digits.parse().ok()?;
    Some(below.is_some_and(|below| number == below || number == below + 1))
}

/// The digits of a number from the first to the last that is not zero, and the power of ten of that last one.
fn decimal(text: &str) -> Option<(String, i64)> {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    if kept.is_empty() {
        return Some((String::new(), 0));
    }
    let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
    let power = exponent.parse::<i64>().ok()?.checked_add(dropped)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    Some((kept.trim_start_matches('0').to_owned(), power))
}
