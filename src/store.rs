//! What must survive a restart: kills and what was in force of signed bundles, in an embedded database under `state`, and in
//! [`bundles`] the last good ones that were fetched. A database that cannot be read is a start-up error.
//!
//! In: an id and the bytes its owner wrote. Out: the same bytes after a restart. The room does not know what they mean, so that
//! a later table is one more file beside `store/kills.rs`.
//! A call that returned has reached the disk: an agent that can crash the gate must not lift its own kill. Every call may block
//! for a sync of the disk, so callers are not on the data path.
//! Not a file of JSON that is written anew: two writes and a crash between them would lose what stood.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

pub mod bundles;
mod database;
mod kills;
mod marks;

pub use database::{Change, Store, StoreError};

/// `state`: where what must survive a restart is kept.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub directory: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self { directory: PathBuf::from("state") }
    }
}
