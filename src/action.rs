//! What a request is doing: its action, and the resource it does it to.
//!
//! In: method, host and decoded path segments of a normalised request. Out: an [`Action`] and a [`Resource`].
//! A request that no row of `resources` names counts as the most sensitive one: a forgotten row must never read as "harmless".

mod host;
mod resources;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::host::{HostPattern, HostPatternError};
pub use self::resources::{PathPattern, Resources};

/// What a request asks to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Action<'a> {
    pub protocol: &'static str,
    pub name: &'a str,
}

impl<'a> Action<'a> {
    /// The action of opening a tunnel.
    pub const fn tunnel() -> Self {
        Self { protocol: "connect", name: "CONNECT" }
    }

    /// The action of a plain HTTP request: its method, as it was sent.
    pub const fn http(method: &'a str) -> Self {
        Self { protocol: "http", name: method }
    }

    /// The action of a gRPC call: `package.Service/Method`.
    pub const fn grpc(name: &'a str) -> Self {
        Self { protocol: "grpc", name }
    }
}

/// What a request does something to, as the first matching row of `resources` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resource<'a> {
    pub r#type: &'a str,
    pub sensitivity: Sensitivity,
    pub effect: Effect,
}

impl Resource<'_> {
    /// What no row names.
    pub const UNLISTED: Resource<'static> =
        Resource { r#type: "unlisted", sensitivity: Sensitivity::High, effect: Effect::Destroy };
}

/// One row of `resources`: which requests touch which kind of resource. The first matching row counts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceRule {
    pub r#match: ResourceMatch,
    /// A name of your choice: user, invoice, secret.
    pub r#type: String,
    pub sensitivity: Sensitivity,
    pub effect: Effect,
}

/// Which requests a row of `resources` is about; what is absent matches everything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceMatch {
    /// Exact, or `*.example.org` for any one label.
    pub hosts: Vec<String>,
    /// `*` stands for one whole segment, a last `**` for any rest.
    pub path: Option<String>,
    pub methods: Vec<String>,
}

/// How much harm reading or changing a resource can do.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Sensitivity {
    Low,
    Medium,
    High,
}

impl Sensitivity {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What a request does to a resource.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Read,
    Write,
    Destroy,
}

impl Effect {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Destroy => "destroy",
        }
    }
}
