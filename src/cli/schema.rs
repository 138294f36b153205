//! `portcullis schema`: the JSON Schema of the configuration, for editors.

use super::data;
use super::failure::Failure;
use crate::config::Config;

pub(super) fn run() -> Result<(), Failure> {
    data(&serde_json::to_string_pretty(&Config::schema()).unwrap_or_default())
}
