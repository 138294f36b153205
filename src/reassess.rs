//! Change → the open exchanges it touches → judge again → cut.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::{Size, Span};

/// `exchanges`: how open exchanges are watched.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Every open exchange is judged again at least this often; a lease may ask for more.
    pub reassess_every: Span,
    /// Memory for the bodies of open exchanges whose policy reads bodies; one that finds no room is cut when judged again.
    pub retained: Size,
}

impl Default for Config {
    fn default() -> Self {
        Self { reassess_every: Span::seconds(30), retained: Size::mib(64) }
    }
}
