//! Verdicts given before, for questions in which the policy can see no difference.
//!
//! In: an entry point and its input. Out: the key of the question, and what was answered to an equal one. The key holds the values of
//! the footprint's paths and nothing else, byte for byte: two numbers that compare equal but are written differently are two keys, since
//! a policy can print them. A path that is absent is not null. What must stay true: an answer is kept only where the policy can
//! know nothing but its input (no clock, no chance), for one generation, and never when anything went wrong; the map and what is in it are
//! bounded in bytes. A kill or an edit is no part of what is remembered: both are the verdict's, and are carried out at each use.
//!
//! One a worker, like the engine: a map all share would cost a lock for what takes less than a microsecond.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::mem::discriminant;
use std::sync::Arc;

use regorus::Value;

use super::body::size;
use crate::policy::{Footprint, Kind};
use crate::verdict::Verdict;

/// Facts that are never the same twice; a policy that reads one never asks an equal question.
const ONCE: &[&[&str]] = &[&["attributes", "request", "http", "id"], &["attributes", "request", "time"]];

/// How many questions are looked up before it is asked whether that pays.
const TRIED: u32 = 1024;
/// The longest rest, in questions.
const LONGEST_REST: u32 = 64 * TRIED;

/// What an entry of the map takes beside its key and its values.
const OVERHEAD: u64 = 512;

/// See the module.
pub(super) struct Given {
    entries: Vec<Option<Remembered>>,
    map: HashMap<Arc<[u8]>, Kept>,
    /// The keys in the order they are to go: first in, first out, but one that was used since gets another turn.
    order: VecDeque<Arc<[u8]>>,
    /// Bytes held, and how many may be.
    held: u64,
    most: u64,
    /// The key being made; kept for its room.
    key: Text,
}

/// An entry point whose verdicts are reused.
struct Remembered {
    /// What makes its key.
    paths: Vec<Vec<Value>>,
    worth: Worth,
}

/// Whether remembering pays. Where questions seldom repeat it costs a third of a verdict each time, and gives nothing back: a policy that
/// reads `session.requests` never asks the same twice.
#[derive(Default)]
struct Worth {
    asked: u32,
    found: u32,
    /// Questions that are judged without looking, before it is tried again; and how many it was the last time.
    rest: u32,
    pause: u32,
}

/// One answer.
pub(super) struct Kept {
    pub(super) verdict: Verdict,
    pub(super) answer: Option<Value>,
    pub(super) engine: Kind,
    bytes: u64,
    used: bool,
}

/// Why verdicts of an entry point are never reused, whatever the memory; none where they are.
pub fn never(footprint: &Footprint) -> Option<String> {
    if let Some((clock, at)) = footprint.clock() {
        return Some(format!("it asks {clock} ({}:{}), so equal requests may get different verdicts", at.file, at.line));
    }
    let once = ONCE.iter().find(|path| footprint.reads(path))?;
    let at = footprint.reading(once).map(|at| format!(" ({}:{})", at.file, at.line)).unwrap_or_default();
    Some(format!("it may read input.{}{at}, which no two requests share", once.join(".")))
}

impl Given {
    /// An empty memory of at most `most` bytes; none means nothing is ever kept.
    pub(super) fn new<'f>(footprints: impl Iterator<Item = &'f Footprint>, most: u64) -> Self {
        let remembered = |footprint: &Footprint| {
            let path = |path: &Vec<String>| path.iter().map(|key| Value::from(key.as_str())).collect();
            let paths = || Remembered { paths: footprint.paths.keys().map(path).collect(), worth: Worth::default() };
            (most > 0 && never(footprint).is_none()).then(paths)
        };
        Self {
            entries: footprints.map(remembered).collect(),
            map: HashMap::new(),
            order: VecDeque::new(),
            held: 0,
            most,
            key: Text(Vec::new()),
        }
    }

    /// What was answered to an equal question; where nothing was, the question is remembered for [`Given::keep`].
    pub(super) fn find(&mut self, entry: usize, input: &Value) -> Found<'_> {
        let Some(Remembered { paths, worth }) = self.entries.get_mut(entry).and_then(Option::as_mut) else { return Found::Never };
        if !worth.tries() {
            return Found::Resting;
        }
        self.key.0.clear();
        self.key.0.extend_from_slice(&entry.to_le_bytes());
        for path in &*paths {
            self.key.value(path.iter().fold(input, |value, key| &value[key]));
        }
        let Some(kept) = self.map.get_mut(self.key.0.as_slice()) else { return Found::Nothing };
        worth.found += 1;
        kept.used = true;
        Found::Kept(kept)
    }

    /// Keeps the answer to the question that was just not found.
    pub(super) fn keep(&mut self, verdict: &Verdict, answer: Option<&Value>, engine: Kind) {
        // The verdict is made of what the answer holds.
        let bytes = OVERHEAD + self.key.0.len() as u64 + 2 * answer.map_or(0, size);
        // One that is much larger than its share would drive out all others.
        if bytes > self.most / 16 {
            return;
        }
        while self.held + bytes > self.most && self.forget_one() {}
        let key: Arc<[u8]> = Arc::from(self.key.0.as_slice());
        let kept = Kept { verdict: verdict.clone(), answer: answer.cloned(), engine, bytes, used: false };
        self.held += bytes;
        match self.map.insert(Arc::clone(&key), kept) {
            // One that was doubted since it was kept; its place in the order stays.
            Some(old) => self.held -= old.bytes,
            None => self.order.push_back(key),
        }
    }

    /// Forgets the oldest that was not used lately; false when there is nothing left.
    fn forget_one(&mut self) -> bool {
        while let Some(key) = self.order.pop_front() {
            match self.map.get_mut(&key) {
                Some(kept) if kept.used => {
                    kept.used = false;
                    self.order.push_back(key);
                }
                _ => {
                    self.held -= self.map.remove(&key).map_or(0, |kept| kept.bytes);
                    return true;
                }
            }
        }
        false
    }
}

/// What is known of a question.
pub(super) enum Found<'a> {
    Kept(&'a Kept),
    Nothing,
    /// Nobody looked: of late too few questions were asked twice.
    Resting,
    /// The verdicts of this entry point are not reused.
    Never,
}

impl Worth {
    /// Whether this question is to be looked up.
    fn tries(&mut self) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        if self.asked == TRIED {
            self.pause = if self.found < TRIED / 4 { (2 * self.pause).clamp(TRIED, LONGEST_REST) } else { 0 };
            (self.asked, self.found, self.rest) = (0, 0, self.pause);
        }
        self.asked += 1;
        true
    }
}

/// A value written so that only the same value is written the same.
struct Text(Vec<u8>);

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Text {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Undefined => self.0.push(b'-'),
            Value::Null => self.0.push(b'n'),
            Value::Bool(false) => self.0.push(b'f'),
            Value::Bool(true) => self.0.push(b't'),
            Value::Number(number) => {
                // The kind of number is told as well: 1 and 1.0 are equal, and printed differently.
                self.0.push(b'#');
                let _ = write!(self, "{:?}{number:?};", discriminant(number));
            }
            Value::String(text) => {
                self.count(b'"', text.len());
                self.0.extend_from_slice(text.as_bytes());
            }
            Value::Array(items) => {
                self.count(b'[', items.len());
                items.iter().for_each(|item| self.value(item));
            }
            Value::Set(items) => {
                self.count(b'<', items.len());
                items.iter_sorted().for_each(|item| self.value(item));
            }
            Value::Object(object) => {
                self.count(b'{', object.len());
                for (key, value) in object.iter_sorted() {
                    self.value(key);
                    self.value(value);
                }
            }
        }
    }

    fn count(&mut self, kind: u8, count: usize) {
        self.0.push(kind);
        self.0.extend_from_slice(&count.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
