//! Where requests go: one endpoint a name, pooled connections, and who is told when an exchange is cut.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::Span;

/// One of `upstreams`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// http://host:port; a name is resolved again for every new connection.
    pub endpoint: String,
    /// The environment it stands in, when it is not the gate's own.
    #[serde(default)]
    pub environment: Option<String>,
    #[serde(default = "two_seconds")]
    pub connect_timeout: Span,
    /// From the end of the request to the response head.
    #[serde(default = "half_a_minute")]
    pub response_timeout: Span,
    /// Without a byte either way while bodies flow.
    #[serde(default = "five_minutes")]
    pub idle_timeout: Span,
}

fn two_seconds() -> Span {
    Span::seconds(2)
}

fn half_a_minute() -> Span {
    Span::seconds(30)
}

fn five_minutes() -> Span {
    Span::seconds(300)
}
