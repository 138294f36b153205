//! The file of the record: opened so that nothing hangs, written from where it stopped, cut back where a line was torn.
//!
//! In: a path (a file, a FIFO, a device, or `-` for stdout) and bytes. Out: how many were taken, or an error the writer retries.
//! A line that was written in part is continued in the same file, or, when the file is changed or lost, cut away and written whole in
//! the new one. A FIFO is opened and written without blocking: one that nobody reads is not ready, and costs neither the start nor
//! a worker. It is opened through tokio, because the flag's value differs between platforms and std names none.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio::net::unix::pipe;

/// Why the record cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot create the directory of the record {path}: {source}; create it for the gate's user, or set audit.file")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot open the record {path}: {source}; give it to the gate's user with mode 0600, or set audit.file")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot read the end of the record {path}: {source}; the gate's user must be able to read it, or move it away")]
    Tail { path: PathBuf, source: io::Error },
    #[error("the labels of the record cannot be written as JSON: {0}")]
    Labels(#[source] serde_json::Error),
}

/// Where the lines go.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    open: Option<Opened>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    kind: Kind,
    /// An earlier run ended inside a line.
    torn: Option<Torn>,
    /// Where the last settled line ends, and where the last written byte does.
    settled: u64,
    written: u64,
    /// What lies behind `settled` must go before anything is written.
    cut: bool,
}

/// What is left of a line that was being written when an earlier run ended.
#[derive(Clone, Debug)]
pub(super) struct Torn {
    /// Where the last whole line ends.
    whole: u64,
    /// Its first bytes.
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    Fifo,
    /// Stdout or a device.
    Stream,
}

impl Sink {
    /// Opens the record, creating its directory (mode 0700) and the file (mode 0600) where there are none. A FIFO is left for
    /// [`Sink::begin`].
    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        if path != Path::new("-")
            && let Some(parent) = path.parent()
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|source| AuditError::Directory { path: parent.to_owned(), source })?;
        }
        let mut sink = Self { path: path.to_owned(), open: None };
        if !is_fifo(path) {
            sink.open = Some(open(path).map_err(|source| AuditError::File { path: path.to_owned(), source })?);
        }
        Ok(sink)
    }

    /// The last whole line there is: of the file, or, where that holds none, of the one that was rotated away last.
    pub(super) fn last_line(&self) -> io::Result<Option<Vec<u8>>> {
        if !self.is_regular() {
            return Ok(None);
        }
        match last_line(&self.path)? {
            None if rotated(&self.path, 1).is_file() => last_line(&rotated(&self.path, 1)),
            found => Ok(found),
        }
    }

    fn is_regular(&self) -> bool {
        self.open.as_ref().is_some_and(|opened| opened.kind == Kind::Regular)
    }

    /// True when the file holds `size` bytes or more.
    pub(super) fn holds(&self, size: u64) -> bool {
        self.open.as_ref().is_some_and(|opened| opened.kind == Kind::Regular && opened.settled >= size)
    }

    /// Puts the file aside as `FILE.1`, those before it one further, and begins a new one. Call it between batches.
    pub(super) fn rotate(&mut self, keep: usize) -> io::Result<()> {
        self.sync()?;
        for age in (1..keep).rev() {
            match std::fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, rotated(&self.path, 1))?;
        sync_name(&self.path)?;
        // Opened with the next batch, which is tried again where that fails.
        self.open = None;
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Prepares for a batch, or for the rest of one; a line an earlier run left unfinished is cut off and
    /// returned: nobody was told that it is recorded.
    pub(super) fn begin(&mut self) -> io::Result<Option<Torn>> {
        if self.open.as_ref().is_some_and(Opened::is_unlinked) {
            self.open = None;
        }
        let opened = self.opened()?;
        opened.apply_cut()?;
        if let Some(torn) = &opened.torn
            && opened.file.set_len(torn.whole).is_err()
        {
            // A file that may only grow keeps it as a line that is of no chain.
            opened.file.write_all(b"\n")?;
        }
        let torn = opened.torn.take();
        if opened.kind == Kind::Regular {
            opened.settled = opened.file.metadata()?.len();
            opened.written = opened.settled;
        }
        Ok(torn)
    }

    /// Writes some of `bytes` and returns how many.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let opened = self.opened()?;
        opened.apply_cut()?;
        match opened.file.write(bytes) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                opened.written += taken as u64;
                Ok(taken)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes that `bytes` more are whole lines, which stay.
    pub(super) fn settle(&mut self, bytes: u64) {
        if let Some(opened) = &mut self.open {
            opened.settled += bytes;
        }
    }

    /// Puts what was written on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match &self.open {
            Some(opened) if opened.kind == Kind::Regular => opened.file.sync_data(),
            _ => Ok(()),
        }
    }

    /// Takes back what was written and is not settled: at once where the file allows it, else before the next write. The line of a
    /// file that is left must not stay torn, and after a sync that failed nobody knows what is on the disk: a second sync may
    /// succeed without having written it, because the kernel drops pages it could not write.
    pub(super) fn cut_back(&mut self) {
        if let Some(opened) = &mut self.open {
            opened.cut = opened.kind == Kind::Regular && opened.written > opened.settled;
            // Tried again before the next write.
            let _ = opened.apply_cut();
        }
    }

    /// True when the batch cannot be continued where it stopped: the reader of a FIFO that went away took half a line with it.
    pub(super) fn loses_its_place(&mut self, error: &io::Error) -> bool {
        let lost = error.kind() != io::ErrorKind::WouldBlock && self.open.as_ref().is_some_and(|opened| opened.kind == Kind::Fifo);
        if lost {
            self.open = None;
        }
        lost
    }

    /// Opens the path anew; the old file stays when that fails. Call [`Sink::cut_back`] before.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.open = Some(open(&self.path)?);
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut Opened> {
        let opened = match self.open.take() {
            Some(opened) => opened,
            None => open(&self.path)?,
        };
        Ok(self.open.insert(opened))
    }
}

impl Opened {
    fn new(file: File, kind: Kind) -> Self {
        Self { file, kind, torn: None, settled: 0, written: 0, cut: false }
    }

    fn apply_cut(&mut self) -> io::Result<()> {
        if self.cut {
            // Somebody may have emptied the file; then there is nothing to cut, and a longer length would fill it with zeros.
            if self.file.metadata()?.len() > self.settled {
                self.file.set_len(self.settled)?;
            }
            self.written = self.settled;
            self.cut = false;
        }
        Ok(())
    }

    /// A file somebody removed takes every line and keeps none.
    fn is_unlinked(&self) -> bool {
        self.kind == Kind::Regular && self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

fn is_fifo(path: &Path) -> bool {
    path != Path::new("-") && std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn open(path: &Path) -> io::Result<Opened> {
    if path == Path::new("-") {
        return Ok(Opened::new(File::from(io::stdout().as_fd().try_clone_to_owned()?), Kind::Stream));
    }
    if is_fifo(path) {
        return Ok(Opened::new(open_fifo(path)?, Kind::Fifo));
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Opened::new(file, Kind::Stream));
    }
    if metadata.len() == 0 {
        sync_name(path)?;
    }
    // A file we may write and not read is taken as whole.
    let torn = torn(path).unwrap_or(None);
    Ok(Opened { torn, ..Opened::new(file, Kind::Regular) })
}

/// Puts the name of a new file on the disk: without it a synced line is in a file that no directory holds.
fn sync_name(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(parent) {
        Ok(directory) => directory.sync_all(),
        // A directory we may enter and not read is no reason to refuse the record.
        Err(_) => Ok(()),
    }
}

fn open_fifo(path: &Path) -> io::Result<File> {
    // tokio needs a reactor in reach to open a pipe; this one lives for the call.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    Ok(File::from(pipe::OpenOptions::new().open_sender(path)?.into_nonblocking_fd()?))
}

/// How much of an unfinished line is kept.
const TORN_KEPT: u64 = 64 * 1024;
/// No line is longer: bodies are bounded.
const LONGEST: u64 = 256 * 1024 * 1024;
const CHUNK: u64 = 64 * 1024;

fn torn(path: &Path) -> io::Result<Option<Torn>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let whole = after_last_line_end(&mut file, length)?;
    if whole == length {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(whole))?;
    file.take(TORN_KEPT).read_to_end(&mut text)?;
    Ok(Some(Torn { whole, text: String::from_utf8_lossy(&text).into_owned() }))
}

/// The last whole line of a file, without its line end; read from the file's end, which may be far away from its beginning.
fn last_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let end = after_last_line_end(&mut file, length)?;
    let Some(end) = end.checked_sub(1) else { return Ok(None) };
    let begin = after_last_line_end(&mut file, end)?;
    if end - begin > LONGEST {
        return Err(io::Error::other(format!("its last line is longer than {LONGEST} bytes")));
    }
    let mut line = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    file.take(end - begin).read_to_end(&mut line)?;
    Ok(Some(line))
}

/// Where the line begins that holds the byte before `end`: behind the last line end before it.
fn after_last_line_end(file: &mut File, end: u64) -> io::Result<u64> {
    let mut end = end;
    let mut chunk = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(CHUNK);
        chunk.clear();
        file.seek(SeekFrom::Start(begin))?;
        Read::by_ref(file).take(end - begin).read_to_end(&mut chunk)?;
        if let Some(place) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + place as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// The name a file of the record gets when `age` newer ones were begun.
pub(super) fn rotated(path: &Path, age: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_settled_is_cut_away_and_what_is_settled_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let text = || std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "earlier\n").unwrap();
        let mut sink = Sink::open(&path).unwrap();
        assert!(sink.begin().unwrap().is_none());
        sink.write(b"whole\nhalf a li").unwrap();
        sink.settle("whole\n".len() as u64);
        sink.cut_back();
        assert_eq!(text(), "earlier\nwhole\n");
        sink.reopen().unwrap();
        sink.begin().unwrap();
        sink.write(b"next\n").unwrap();
        sink.settle("next\n".len() as u64);
        sink.cut_back();
        assert_eq!(text(), "earlier\nwhole\nnext\n", "between batches there is nothing to cut");
    }

    #[test]
    fn a_file_that_was_emptied_meanwhile_is_not_filled_with_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        std::fs::write(&path, "earlier\n").unwrap();
        let mut sink = Sink::open(&path).unwrap();
        sink.begin().unwrap();
        sink.write(b"half").unwrap();
        std::fs::write(&path, "").unwrap();
        sink.cut_back();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
