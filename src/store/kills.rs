//! The table of standing kills: id → the bytes of one kill.

use redb::TableDefinition;

use super::{Change, Store, StoreError};

const KILLS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kills");

impl Store {
    /// Every kill that was kept, in the order of their ids.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn kills(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.all(KILLS)
    }

    /// Keeps and forgets kills in one step; all of it is on the disk when this returns, or none.
    ///
    /// # Errors
    ///
    /// When the state cannot be written.
    pub fn change_kills(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.apply(KILLS, changes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Config;

    fn keep(key: &str, bytes: &[u8]) -> Change {
        Change { key: key.to_owned(), bytes: Some(bytes.to_vec()) }
    }

    fn forget(key: &str) -> Change {
        Change { key: key.to_owned(), bytes: None }
    }

    #[test]
    fn kills_survive_a_restart_and_a_lifted_one_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { directory: folder.path().join("deep/state") };
        let store = Store::open(&config).unwrap();
        assert_eq!(store.kills().unwrap(), vec![]);
        store.change_kills(&[keep("b", b"{\"b\":1}"), keep("a", b"old"), keep("c", b"{}")]).unwrap();
        store.change_kills(&[keep("a", b"new"), forget("c"), forget("never")]).unwrap();
        drop(store);

        let again = Store::open(&config).unwrap();
        assert_eq!(again.kills().unwrap(), vec![("a".to_owned(), b"new".to_vec()), ("b".to_owned(), b"{\"b\":1}".to_vec())]);
    }

    #[test]
    fn a_kill_is_on_the_disk_when_put_returns() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Config { directory: folder.path().to_owned() }).unwrap();
        store.change_kills(&[keep("k", b"stands")]).unwrap();
        // What a crash at this moment leaves behind: the file as it is, without the store having been closed.
        let crashed = tempfile::tempdir().unwrap();
        std::fs::copy(folder.path().join("portcullis.redb"), crashed.path().join("portcullis.redb")).unwrap();
        let after = Store::open(&Config { directory: crashed.path().to_owned() }).unwrap();
        assert_eq!(after.kills().unwrap(), vec![("k".to_owned(), b"stands".to_vec())]);
    }

    #[test]
    fn many_threads_keep_their_kills_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&Config { directory: folder.path().to_owned() }).unwrap());
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || {
                    for n in 0..5 {
                        store.change_kills(&[keep(&format!("{thread}-{n}"), b"x")]).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(store.kills().unwrap().len(), 20);
    }
}
