//! The table of what was in force of signed bundles: key → the bytes of one mark.

use redb::TableDefinition;

use super::{Change, Store, StoreError};

const MARKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bundle_marks");

impl Store {
    /// Everything that was kept, in the order of its keys.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn bundle_marks(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.all(MARKS)
    }

    /// Keeps marks in one step; all of it is on the disk when this returns, or none.
    ///
    /// # Errors
    ///
    /// When the state cannot be written.
    pub fn keep_bundle_marks(&self, rows: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<(), StoreError> {
        let changes: Vec<Change> = rows.into_iter().map(|(key, bytes)| Change { key, bytes: Some(bytes) }).collect();
        if changes.is_empty() { Ok(()) } else { self.apply(MARKS, &changes) }
    }
}
