//! Is a record as it was written?
//!
//! In: the files of a record, perhaps the public key of its checkpoints, perhaps checkpoints that were kept elsewhere. Out: what was
//! found to hold, or the first line that does not and why. What must stay true: the bytes of lines are what is checked, whatever JSON
//! says of them; a file is read as a stream; nothing that could not be checked is passed over in silence.
//! Files may be named in any order: each says by its first line where it stands in the chain, and a wrong order would show anyhow.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::chain::{Hash, Link, hash, nothing};
use super::checkpoint::PublicKey;

/// No line is longer: bodies are bounded.
const LONGEST: u64 = 256 * 1024 * 1024;
/// In each line of the writer's own that is looked into.
const OF_ITSELF: [&str; 2] = ["\"kind\":\"checkpoint\"", "\"kind\":\"loss\""];

/// What holds of a record.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Lines of the chain.
    pub records: u64,
    pub first: Option<u64>,
    pub last: Option<u64>,
    /// The hash of the last.
    pub hash: Option<Hash>,
    pub checkpoints: u64,
    /// The last record a checkpoint speaks of.
    pub checkpointed: Option<u64>,
    /// True when a key was given, and each checkpoint is signed by it.
    pub signed: bool,
    /// Lines before the chain begins, which nothing protects.
    pub unchained: u64,
    /// Bytes of a line at the end that is not whole.
    pub torn_bytes: u64,
    /// What the record itself says that it lacks: lines lost, and decisions the policy kept out as the operator lets it.
    pub lost: u64,
    pub dropped: u64,
}

/// The first line that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    pub file: PathBuf,
    /// From 1.
    pub line: u64,
    pub seq: Option<u64>,
    pub decision_id: Option<String>,
    pub why: String,
}

/// Why a record was not found whole.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    #[error("{}:{}: {}", .0.file.display(), .0.line, .0.why)]
    Broken(Box<Broken>),
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
}

/// A checkpoint that was kept elsewhere: the line itself, as it stood in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    seq: u64,
    hash: Hash,
    signature: String,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    decision_id: Option<String>,
    #[serde(default)]
    portcullis: Option<Body>,
}

#[derive(Default, Deserialize)]
struct Body {
    #[serde(default)]
    kind: String,
    seq: Option<u64>,
    hash: Option<String>,
    signature: Option<String>,
    #[serde(default)]
    lost: u64,
    #[serde(default)]
    dropped: u64,
}

impl Expected {
    /// Reads a checkpoint line; `None`: it is none.
    pub fn of(line: &str) -> Option<Self> {
        body(line.trim().as_bytes()).and_then(Self::read)
    }

    fn read(body: Body) -> Option<Self> {
        let body = Some(body).filter(|body| body.kind == "checkpoint")?;
        Some(Self { seq: body.seq?, hash: body.hash?, signature: body.signature? })
    }
}

fn body(line: &[u8]) -> Option<Body> {
    serde_json::from_slice::<Line>(line).ok()?.portcullis
}

/// The gate's part of a line that the record tells of itself. Others, nearly all there are, are not read as JSON for it.
fn of_itself(line: &[u8]) -> Option<Body> {
    let text = std::str::from_utf8(line).ok()?;
    OF_ITSELF.iter().any(|kind| text.contains(kind)).then_some(())?;
    body(line)
}

/// Checks the files of a record.
///
/// # Errors
///
/// The first line that is not as it was written, or a file that cannot be read.
pub fn verify(files: &[PathBuf], key: Option<&PublicKey>, expected: &[Expected]) -> Result<Summary, Unverified> {
    let mut ordered = Vec::new();
    for path in files {
        ordered.push((begins_at(path)?, path));
    }
    ordered.sort_by_key(|(begins, _)| *begins);
    let mut walk = Walk { key, expected, ..Walk::default() };
    if let Some(forged) =
        expected.iter().find(|expected| key.is_some_and(|key| !key.signed(expected.seq, &expected.hash, &expected.signature)))
    {
        return Err(
            walk.broken(None, format!("the checkpoint of record {} that was to be expected is not signed by this key", forged.seq))
        );
    }
    for (place, (_, path)) in ordered.iter().enumerate() {
        walk.file(path, place + 1 == ordered.len())?;
    }
    walk.end()
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok(Box::new(BufReader::with_capacity(1024 * 1024, MultiGzDecoder::new(file))));
    }
    Ok(Box::new(BufReader::with_capacity(1024 * 1024, file)))
}

/// Reads the next line into `buffer`; false at the end.
fn next(reader: &mut dyn BufRead, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.clear();
    Ok(reader.take(LONGEST).read_until(b'\n', buffer)? > 0)
}

/// The number of a file's first line, which orders the files; what is of no chain comes first, an empty file last.
fn begins_at(path: &Path) -> Result<Option<u64>, Unverified> {
    let unreadable = |source| Unverified::Unreadable { path: path.to_owned(), source };
    let mut line = Vec::new();
    if !next(&mut *open(path).map_err(unreadable)?, &mut line).map_err(unreadable)? {
        return Ok(Some(u64::MAX));
    }
    Ok(Link::of(line.strip_suffix(b"\n").unwrap_or(&line)).map(|link| link.seq))
}

#[derive(Default)]
struct Walk<'a> {
    key: Option<&'a PublicKey>,
    expected: &'a [Expected],
    summary: Summary,
    file: PathBuf,
    line: u64,
    /// The hash of the last line that is of no chain.
    before: Option<Hash>,
    /// The number the next line must have.
    next: Option<u64>,
}

impl Walk<'_> {
    fn file(&mut self, path: &Path, last: bool) -> Result<(), Unverified> {
        let unreadable = |source| Unverified::Unreadable { path: path.to_owned(), source };
        path.clone_into(&mut self.file);
        self.line = 0;
        let mut reader = open(path).map_err(unreadable)?;
        let mut buffer = Vec::new();
        while next(&mut *reader, &mut buffer).map_err(unreadable)? {
            self.line += 1;
            match buffer.strip_suffix(b"\n") {
                Some(line) => self.take(line)?,
                // The gate may be writing it, or was stopped while it did; one that starts cuts it off and says so.
                None if last => self.summary.torn_bytes = buffer.len() as u64,
                None => {
                    return Err(self.broken(Some(&buffer), "the file ends inside this line, and another file follows".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Unverified> {
        let Some(link) = Link::of(line) else {
            if self.next.is_some() {
                return Err(
                    self.broken(Some(line), "it is of no chain, and stands inside one: it was changed or inserted".to_owned())
                );
            }
            self.summary.unchained += 1;
            self.before = Some(hash(line));
            return Ok(());
        };
        if !link.is_whole() {
            return Err(self.broken(Some(line), "it was changed: its hash is not the hash of its bytes".to_owned()));
        }
        self.follows(&link).map_err(|why| self.broken(Some(line), why))?;
        let body = of_itself(line);
        let (lost, dropped) = body.as_ref().filter(|body| body.kind == "loss").map_or((0, 0), |body| (body.lost, body.dropped));
        self.checkpoint(body, &link).map_err(|why| self.broken(Some(line), why))?;
        if let Some(expected) = self.expected.iter().find(|expected| expected.seq == link.seq)
            && expected.hash != link.hash
        {
            let why =
                "it is another than the one a checkpoint kept elsewhere speaks of: the record was written anew from here or before";
            return Err(self.broken(Some(line), why.to_owned()));
        }
        let summary = &mut self.summary;
        summary.lost = summary.lost.saturating_add(lost);
        summary.dropped = summary.dropped.saturating_add(dropped);
        summary.records += 1;
        summary.first = summary.first.or(Some(link.seq));
        summary.last = Some(link.seq);
        match &mut summary.hash {
            Some(hash) => link.hash.clone_into(hash),
            none => *none = Some(link.hash.to_owned()),
        }
        self.next = Some(link.seq.saturating_add(1));
        Ok(())
    }

    fn follows(&self, link: &Link<'_>) -> Result<(), String> {
        let Some(next) = self.next else {
            return match &self.before {
                _ if link.seq == 0 && link.prev == self.before.clone().unwrap_or_else(nothing) => Ok(()),
                _ if link.seq == 0 => {
                    Err("the chain begins here, behind another line than the one before: that was changed, cut or added".to_owned())
                }
                None => Ok(()),
                Some(_) => Err(
                    "the chain does not begin here, and the lines before are of none: they were inserted, or records are missing"
                        .to_owned(),
                ),
            };
        };
        match link.seq {
            seq if seq == next && self.summary.hash.as_deref() == Some(link.prev) => Ok(()),
            seq if seq == next => Err(format!(
                "it follows another record {} than the one before it: one of the two was changed and hashed anew",
                next - 1
            )),
            0 => Err(format!(
                "another chain begins here, where record {next} should stand: records are missing, or it is another record"
            )),
            seq if seq == next + 1 => Err(format!("record {next} is missing before it")),
            seq if seq > next => Err(format!("records {next} to {} are missing before it", seq - 1)),
            _ => Err(format!("it stands where record {next} should: it was moved, repeated or inserted")),
        }
    }

    fn checkpoint(&mut self, body: Option<Body>, link: &Link<'_>) -> Result<(), String> {
        let Some(found) = body.and_then(Expected::read) else { return Ok(()) };
        if found.seq.checked_add(1) != Some(link.seq) || found.hash != link.prev {
            return Err("it is a checkpoint of another record than the one before it".to_owned());
        }
        if self.key.is_some_and(|key| !key.signed(found.seq, &found.hash, &found.signature)) {
            return Err("it is a checkpoint that is not signed by this key".to_owned());
        }
        self.summary.checkpoints += 1;
        self.summary.checkpointed = Some(found.seq);
        Ok(())
    }

    fn end(mut self) -> Result<Summary, Unverified> {
        let (first, last) = (self.summary.first, self.summary.last);
        for expected in self.expected {
            if last.is_none_or(|last| expected.seq > last) {
                let why = format!(
                    "the record ends before record {}, of which a checkpoint was kept elsewhere: its tail was cut",
                    expected.seq
                );
                return Err(self.broken(None, why));
            }
            if first.is_none_or(|first| expected.seq < first) {
                let why = format!(
                    "record {}, of which a checkpoint was kept elsewhere, is in none of these files: name the older ones too",
                    expected.seq
                );
                return Err(self.broken(None, why));
            }
        }
        if self.key.is_some() && self.summary.checkpoints == 0 {
            return Err(self.broken(None, "there is no checkpoint in these files: nothing is signed by this key".to_owned()));
        }
        self.summary.signed = self.key.is_some();
        Ok(std::mem::take(&mut self.summary))
    }

    fn broken(&self, line: Option<&[u8]>, why: String) -> Unverified {
        let decision_id = line.and_then(|line| serde_json::from_slice::<Line>(line).ok()?.decision_id);
        let seq = line.and_then(Link::of).map(|link| link.seq);
        Unverified::Broken(Box::new(Broken { file: self.file.clone(), line: self.line, seq, decision_id, why }))
    }
}

#[cfg(test)]
mod tests;
