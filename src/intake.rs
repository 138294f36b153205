//! What changes under us: files (bundles and certificates), in [`agent`] what the SPIFFE agent gives us, in [`bundles`] what services do.
//!
//! In: paths. Out: whether what lies there has changed since it was last looked at, and has settled. Looked at by turns and not by
//! inotify: a Kubernetes volume swaps a symlink above the files, editors rename, network file systems tell nobody; a stat a turn
//! sees all three.

pub mod agent;
pub mod bundles;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What is watched, as it was when it was last taken over.
#[derive(Debug)]
pub struct Watch<T> {
    taken: T,
    seen: Option<T>,
}

impl<T: PartialEq> Watch<T> {
    pub fn new(taken: T) -> Self {
        Self { taken, seen: None }
    }

    /// True when what is there now differs from what was taken over, and is the same as on the turn before: a writer has finished.
    pub fn changed(&mut self, now: T) -> bool {
        if now == self.taken {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            return false;
        }
        self.taken = now;
        self.seen = None;
        true
    }

    /// Takes over what is there now without asking whether it changed.
    pub fn take(&mut self, now: T) {
        self.taken = now;
        self.seen = None;
    }
}

/// A cheap token of a file's content: two reads with the same token read the same bytes, short of somebody forging times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(Vec<(PathBuf, Option<Stamp>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Token {
    /// Of files that need not exist.
    pub fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let token = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some(Stamp { modified: metadata.modified().ok()?, length: metadata.len(), inode: metadata.ino() })
        };
        Self(paths.into_iter().map(|path| (path.to_owned(), token(path))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_and_only_when_it_has_settled() {
        let mut watch = Watch::new(1);
        assert!(!watch.changed(1));
        assert!(!watch.changed(2), "somebody may still be writing");
        assert!(!watch.changed(3), "and was");
        assert!(watch.changed(3));
        assert!(!watch.changed(3));
        assert!(!watch.changed(4));
        assert!(!watch.changed(3), "and back again is no change");
        assert!(!watch.changed(3));
        watch.take(5);
        assert!(!watch.changed(5));
    }

    #[test]
    fn a_token_changes_with_the_file_and_with_its_absence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let absent = Token::of([path.as_path()]);
        std::fs::write(&path, b"1").unwrap();
        let one = Token::of([path.as_path()]);
        std::fs::write(&path, b"22").unwrap();
        let two = Token::of([path.as_path()]);
        assert!(absent != one && one != two && two == Token::of([path.as_path()]));
    }
}
