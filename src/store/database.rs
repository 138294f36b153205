//! The database file, and the few moves every table is made of.
//!
//! In: a directory. Out: a [`Store`], or an error that names the file and what to do about it.
//! One process owns the file. After a failed write redb refuses everything until the file is opened anew, so a failed move closes
//! the database and the next one opens it again: a disk that was full must not leave the gate without durable kills for good.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::Config;

const FILE: &str = "portcullis.redb";

/// What must survive a restart, in one database file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after a failed move, until the next one has opened the file again.
    database: Mutex<Option<Database>>,
}

/// One entry to keep, or to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// `None` forgets the entry.
    pub bytes: Option<Vec<u8>>,
}

/// Why what must survive a restart cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "cannot create the state directory {path}: {source}; create it for the gate's user with mode 0700, or set state.directory"
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot open the state file {path}: {source}; give it to the gate's user with mode 0600, or set state.directory")]
    File { path: PathBuf, source: io::Error },
    #[error("the state file {path} is in use by another process; stop that one, or give this gate a state.directory of its own")]
    InUse { path: PathBuf },
    #[error(
        "the state file {path} is not readable as a database: {source}; restore it from a backup, or move it away and order the kills it held again"
    )]
    Unreadable { path: PathBuf, source: Box<redb::Error> },
    #[error("the state file {path} did not take a change: {source}; look at the disk's space and health")]
    Write { path: PathBuf, source: Box<redb::Error> },
}

impl Store {
    /// Opens the database of `config`, creating the directory (mode 0700) and the file (mode 0600) where there are none.
    ///
    /// # Errors
    ///
    /// When the file cannot be created, is damaged, or belongs to another process. The gate must not start then: it would admit
    /// what a kill it cannot read forbids.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        let directory = config.directory.as_path();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
        let path = directory.join(FILE);
        // redb creates files readable by all, as the umask lets it.
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::File { path: path.clone(), source })?;
        let database = open_database(&path)?;
        let store = Self { path, database: Mutex::new(Some(database)) };
        store.kills()?;
        Ok(store)
    }

    pub(super) fn all(&self, table: TableDefinition<'_, &str, &[u8]>) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.perform(|database| read_all(database, table))
            .map_err(|source| StoreError::Unreadable { path: self.path.clone(), source: Box::new(source) })
    }

    /// Writes and removes entries in one transaction: all of it is on the disk when this returns, or none.
    pub(super) fn apply(&self, table: TableDefinition<'_, &str, &[u8]>, changes: &[Change]) -> Result<(), StoreError> {
        self.change(|database| {
            let change = database.begin_write()?;
            {
                let mut table = change.open_table(table)?;
                for Change { key, bytes } in changes {
                    match bytes {
                        Some(bytes) => table.insert(key.as_str(), bytes.as_slice())?,
                        None => table.remove(key.as_str())?,
                    };
                }
            }
            Ok(change.commit()?)
        })
    }

    fn change<T>(&self, action: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.perform(action).map_err(|source| StoreError::Write { path: self.path.clone(), source: Box::new(source) })
    }

    fn perform<T>(&self, action: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => Database::open(&self.path)?,
        };
        let result = action(&database);
        if result.is_ok() {
            *slot = Some(database);
        }
        result
    }
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    Database::builder().set_check_integrity_on_open(true).create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        other => StoreError::Unreadable { path: path.to_owned(), source: Box::new(other.into()) },
    })
}

fn read_all(database: &Database, table: TableDefinition<'_, &str, &[u8]>) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let view = database.begin_read()?;
    let table = match view.open_table(table) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    table
        .iter()?
        .map(|entry| {
            let (key, bytes) = entry?;
            Ok((key.value().to_owned(), bytes.value().to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn keep(key: &str, bytes: &[u8]) -> Change {
        Change { key: key.to_owned(), bytes: Some(bytes.to_vec()) }
    }

    fn config(folder: &tempfile::TempDir) -> Config {
        Config { directory: folder.path().join("state") }
    }

    #[test]
    fn directory_and_file_are_for_the_gate_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&config(&folder)).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("state")), 0o700);
        assert_eq!(mode(&store.path), 0o600);
    }

    #[test]
    fn a_file_that_is_in_use_or_damaged_is_an_error_that_names_it_and_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&config(&folder)).unwrap();
        let in_use = Store::open(&config(&folder)).unwrap_err();
        assert!(matches!(in_use, StoreError::InUse { .. }));
        assert!(in_use.to_string().contains("portcullis.redb") && in_use.to_string().contains("state.directory"));

        store.change_kills(&[keep("k", b"stands")]).unwrap();
        let path = store.path.clone();
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        let truncated = whole.get(..whole.len() / 3).unwrap().to_vec();
        for damaged in [b"not a database, but long enough to look at it twice".to_vec(), vec![0; whole.len()], truncated] {
            std::fs::write(&path, damaged).unwrap();
            let error = Store::open(&config(&folder)).unwrap_err();
            assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
            assert!(error.to_string().contains("portcullis.redb") && error.to_string().contains("move it away"), "{error}");
        }
    }

    #[test]
    fn a_damaged_page_is_never_read_as_no_kills() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&config(&folder)).unwrap();
        store.change_kills(&[keep("kill-under-test", b"stands")]).unwrap();
        let path = store.path.clone();
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        let places: Vec<usize> = whole.windows(4).enumerate().filter(|(_, w)| *w == b"kill").map(|(at, _)| at).collect();
        assert!(!places.is_empty());
        let mut damaged = whole;
        for at in places {
            damaged[at] ^= 0xff;
        }
        std::fs::write(&path, damaged).unwrap();
        assert!(Store::open(&config(&folder)).is_err());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("state"), b"a file").unwrap();
        let error = Store::open(&config(&folder)).unwrap_err();
        assert!(matches!(error, StoreError::Directory { .. }) && error.to_string().contains("state"), "{error}");
    }

    #[test]
    fn the_file_is_opened_again_after_a_failed_move() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&config(&folder)).unwrap();
        store.change_kills(&[keep("k", b"stands")]).unwrap();
        let failed: Result<(), redb::Error> = store.perform(|_| Err(redb::Error::PreviousIo));
        assert!(failed.is_err());
        assert_eq!(store.kills().unwrap().len(), 1);
    }
}
