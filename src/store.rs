//! What must survive a restart: kills. An embedded database under `state`; a state that cannot be read is a start-up error.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

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
